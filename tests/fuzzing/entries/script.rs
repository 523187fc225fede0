//! Turns a fuzzer's bytes into choices: small numbers mostly, and now and then one from the edges.

use roundelay_protocol::limits::MAX_SEQ;

/// The bytes that are left. When none are, every choice is the first one.
pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is at most 256.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    pub(super) fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(super) fn choose<'c, T>(&mut self, from: &'c [T]) -> &'c T {
        &from[self.below(from.len())]
    }

    /// Mostly a small number; sometimes one where sums and limits end.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => u64::from(small),
            byte @ 200..=223 => u64::from(byte - 200) * 64,
            byte @ 224..=239 => MAX_SEQ.saturating_sub(1032).saturating_add(u64::from(byte - 224) * 128),
            byte @ 240..=247 => u64::MAX - u64::from(byte - 240),
            byte => 1 << (u32::from(byte - 248) * 8 + 7),
        }
    }
}
