//! Exponential back-off with jitter, in fake or real time alike.

/// The first delay after a failure.
const FIRST_MS: u64 = 1_000;
/// The longest delay.
pub(crate) const LONGEST_MS: u64 = 60_000;

/// A small generator for jitter and for choices that nobody can gain from guessing.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Next of a splitmix64 sequence.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between half of `ms` and `ms`.
    pub(crate) fn jitter(&mut self, ms: u64) -> u64 {
        ms / 2 + self.roll() % (ms / 2 + 1)
    }
}

/// When the next attempt may be made, and how many failed in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    due_ms: u64,
}

impl Backoff {
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// An attempt failed. Returns how long the next one waits; never less than was said before.
    pub(crate) fn fail(&mut self, now_ms: u64, dice: &mut Dice) -> u64 {
        let full_ms = (FIRST_MS << self.failures.min(6)).min(LONGEST_MS);
        self.failures = self.failures.saturating_add(1);
        self.delay_at_least(now_ms, dice.jitter(full_ms));
        self.due_ms - now_ms
    }

    /// It went well for long: start from the beginning, after a moment.
    pub(crate) fn reset(&mut self, now_ms: u64, dice: &mut Dice) {
        self.failures = 0;
        self.delay(now_ms, dice.jitter(FIRST_MS / 2));
    }

    /// Nothing before `delay_ms` from now.
    pub(crate) fn delay(&mut self, now_ms: u64, delay_ms: u64) {
        self.due_ms = now_ms.saturating_add(delay_ms);
    }

    /// Nothing before `delay_ms` from now, if it isn't later already.
    pub(crate) fn delay_at_least(&mut self, now_ms: u64, delay_ms: u64) {
        self.due_ms = self.due_ms.max(now_ms.saturating_add(delay_ms));
    }

    /// Try at once.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
