//! When what is stored became durable, for those who measure how long they took to take it.

use std::collections::VecDeque;
use std::time::Instant;

use roundelay_protocol::ids::Arrival;

/// Moments that are kept: the last ones.
const MAX_MOMENTS: usize = 1024;

/// When the last groups of write sets became durable.
pub(super) struct Moments {
    /// What was durable already when the log was opened.
    opened_at: Arrival,
    last: VecDeque<(Arrival, Instant)>,
}

impl Moments {
    pub(super) fn new(opened_at: Arrival) -> Self {
        Self { opened_at, last: VecDeque::new() }
    }

    /// All up to an arrival number, which rises, is durable by now.
    pub(super) fn push(&mut self, upto: Arrival) {
        if self.last.len() >= MAX_MOMENTS {
            self.last.pop_front();
        }
        self.last.push_back((upto, Instant::now()));
    }

    /// When an arrival became durable; `None` when that is too long ago.
    pub(super) fn of(&self, arrival: Arrival) -> Option<Instant> {
        if arrival <= self.opened_at {
            return None;
        }
        let at = self.last.partition_point(|(upto, _)| *upto < arrival);
        // What comes before the first is not known.
        (at > 0 || self.last.len() < MAX_MOMENTS).then(|| self.last.get(at).map(|(_, moment)| *moment)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_moments_are_known() {
        let mut moments = Moments::new(Arrival(1));
        assert_eq!(moments.of(Arrival(2)), None);
        moments.push(Arrival(3));
        moments.push(Arrival(5));
        assert_eq!(moments.of(Arrival(4)), moments.of(Arrival(5)));
        assert!(moments.of(Arrival(3)) <= moments.of(Arrival(4)));
        assert_eq!(moments.of(Arrival(6)), None);
        assert_eq!(moments.of(Arrival(1)), None, "it was there before");
        for upto in 6..2000 {
            moments.push(Arrival(upto));
        }
        assert_eq!(moments.of(Arrival(5)), None);
        assert!(moments.of(Arrival(1999)).is_some());
    }
}
