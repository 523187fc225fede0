//! Hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): 48 bits of milliseconds since 1970 and 16
//! of counter in a `u64`. It rises with every event and stays close to the wall clock as long as wall clocks are sane.

use crate::limits::{HLC_CEILING_MS, MAX_CLOCK_AHEAD_MS};

/// A time stamp. Ordered as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The greatest stamp that a valid batch may carry.
    pub const CEILING: Self = Self(HLC_CEILING_MS << 16);

    /// The stamp at the start of a millisecond. Milliseconds beyond the ceiling are cut to it.
    #[must_use]
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.min(HLC_CEILING_MS) << 16)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn as_ms(self) -> u64 {
        self.0 >> 16
    }

    /// Whether it is the start of a millisecond, as what [`Clock::stamp`] takes from the wall clock is. What follows
    /// another stamp, since that was not below the wall clock, is so once in 65,536 times only.
    #[must_use]
    pub fn is_of_wall_clock(self) -> bool {
        self.0 & 0xffff == 0
    }
}

/// The greatest stamp seen, from which the next is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    greatest: Hlc,
}

impl Clock {
    /// A clock that never goes below `greatest`.
    #[must_use]
    pub fn new(greatest: Hlc) -> Self {
        Self { greatest }
    }

    /// The stamp for `count` consecutive events at wall time `now_ms`: the first of them; the others follow by one.
    /// `None` when the ceiling is reached, which only a corrupted clock can bring about.
    pub fn stamp(&mut self, now_ms: u64, count: u64) -> Option<Hlc> {
        let first = Hlc::from_ms(now_ms).0.max(self.greatest.0 + 1);
        let last = first.checked_add(count.saturating_sub(1))?;
        if last > Hlc::CEILING.0 {
            return None;
        }
        self.greatest = Hlc(last);
        Some(Hlc(first))
    }

    /// Takes note of a stamp from elsewhere. Those more than [`MAX_CLOCK_AHEAD_MS`] ahead of the wall clock are not
    /// merged, so that nobody can drag the mesh away. Says whether it was merged.
    pub fn observe(&mut self, seen: Hlc, now_ms: u64) -> bool {
        let near = seen.as_ms() <= now_ms.saturating_add(MAX_CLOCK_AHEAD_MS);
        if near {
            self.greatest = self.greatest.max(seen);
        }
        near
    }

    /// Keeps a promise that what is stamped from now on is greater, whatever the wall clock says.
    pub fn keep(&mut self, promised: Hlc) {
        self.greatest = self.greatest.max(promised.min(Hlc::CEILING));
    }

    /// The greatest stamp given out or merged.
    #[must_use]
    pub fn greatest(&self) -> Hlc {
        self.greatest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stamps_rise_whatever_the_wall_clock_does(steps in prop::collection::vec((0u64..4_000_000_000_000, 1u64..2000, any::<u64>()), 1..50)) {
            let mut clock = Clock::default();
            let mut last = Hlc(0);
            for (now_ms, count, seen) in steps {
                let merged = clock.observe(Hlc(seen), now_ms);
                prop_assert_eq!(merged, seen >> 16 <= now_ms + MAX_CLOCK_AHEAD_MS);
                let first = clock.stamp(now_ms, count).unwrap();
                prop_assert!(first > last);
                prop_assert!(!merged || first.0 > seen);
                last = Hlc(first.0 + count - 1);
                prop_assert_eq!(clock.greatest(), last);
            }
        }
    }

    #[test]
    fn the_ceiling_is_not_passed() {
        let mut clock = Clock::new(Hlc(Hlc::CEILING.0 - 1));
        assert_eq!(clock.stamp(0, 1), Some(Hlc::CEILING));
        assert_eq!(clock.stamp(0, 1), None);
        assert_eq!(Clock::default().stamp(u64::MAX, 1), Some(Hlc::CEILING));
    }
}
