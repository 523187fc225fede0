//! Chance that can be repeated.

use std::time::{Duration, SystemTime};

/// Random numbers from a seed (SplitMix64, by Steele, Lea and Flood).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From the seed in `ROUNDELAY_SEED`, or from one of this moment; prints it. Threads and processes run as they like,
    /// so that a seed repeats what is done and when, and not all that comes of it.
    pub(crate) fn thrown() -> Self {
        let given = std::env::var("ROUNDELAY_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            now.as_micros() as u64 % 1_000_000
        });
        println!("ROUNDELAY_SEED={seed}");
        Self(seed)
    }

    /// Dice of their own, for a thread.
    pub(crate) fn another(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Between two times.
    pub(crate) fn time(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.next() % (to_ms - from_ms))
    }
}
