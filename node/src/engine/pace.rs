//! The engine's time is shared: frames that are cheap to send may be dear to answer, so a link that takes more than its
//! share of the engine waits before its next frame is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The engine's time that a link may take at once.
const BURST: Duration = Duration::from_secs(2);
/// One part in so many of the engine's time is a link's, in the long run.
const SHARE: u32 = 4;
/// Frames of a link that may wait for the engine.
const MAX_WAITING: usize = 8;

/// What one link has taken of the engine's time.
pub(super) struct Pace {
    taken: Mutex<Taken>,
    waiting: Arc<Semaphore>,
}

struct Taken {
    time: Duration,
    at: Instant,
}

/// A frame that waits for the engine.
pub(super) struct Turn {
    pace: Arc<Pace>,
    _place: OwnedSemaphorePermit,
}

impl Pace {
    pub(super) fn new() -> Arc<Self> {
        let taken = Mutex::new(Taken { time: Duration::ZERO, at: Instant::now() });
        Arc::new(Self { taken, waiting: Arc::new(Semaphore::new(MAX_WAITING)) })
    }

    /// Waits until the link may give the engine one more frame.
    pub(super) async fn turn(self: &Arc<Self>) -> Option<Turn> {
        let place = self.waiting.clone().acquire_owned().await.ok()?;
        let owed = self.owed(Instant::now());
        if !owed.is_zero() {
            tokio::time::sleep(owed).await;
        }
        Some(Turn { pace: self.clone(), _place: place })
    }

    /// How long the link has to wait until its share covers what it took.
    fn owed(&self, now: Instant) -> Duration {
        let mut taken = self.taken.lock();
        taken.time = taken.time.saturating_sub(now.saturating_duration_since(taken.at) / SHARE);
        taken.at = now;
        taken.time.saturating_sub(BURST) * SHARE
    }
}

impl Turn {
    /// The engine has dealt with the frame, and it took so long.
    pub(super) fn took(self, time: Duration) {
        self.pace.taken.lock().time += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_the_engine_s_time_waits_for_it() {
        let pace = Pace::new();
        let now = Instant::now();
        pace.turn().await.unwrap().took(BURST);
        assert_eq!(pace.owed(now), Duration::ZERO, "a burst is free");
        pace.turn().await.unwrap().took(Duration::from_secs(1));
        let owed = pace.owed(now);
        assert!(Duration::from_secs(3) < owed && owed <= Duration::from_secs(4), "{owed:?}");
        assert_eq!(pace.owed(now + owed), Duration::ZERO);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.owed(later), Duration::ZERO);
        pace.turn().await.unwrap().took(BURST + Duration::from_secs(1));
        let turn = tokio::time::timeout(Duration::from_millis(100), pace.turn()).await;
        assert!(turn.is_err(), "the next frame waits");
    }
}
