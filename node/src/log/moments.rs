//! When what is stored became durable, for those who measure how long they took to take it.

use std::collections::VecDeque;
use std::time::Instant;

use roundelay_protocol::ids::Arrival;

/// Moments that are kept: the last ones.
const MAX_MOMENTS: usize = 1024;

/// When the last groups of write sets became durable.
#[derive(Default)]
pub(super) struct Moments(VecDeque<(Arrival, Instant)>);

impl Moments {
    /// All up to an arrival number, which rises, is durable by now.
    pub(super) fn push(&mut self, upto: Arrival) {
        if self.0.len() >= MAX_MOMENTS {
            self.0.pop_front();
        }
        self.0.push_back((upto, Instant::now()));
    }

    /// When an arrival became durable; `None` when that is too long ago.
    pub(super) fn of(&self, arrival: Arrival) -> Option<Instant> {
        let at = self.0.partition_point(|(upto, _)| *upto < arrival);
        // What comes before the first is not known.
        (at > 0 || self.0.len() < MAX_MOMENTS).then(|| self.0.get(at).map(|(_, moment)| *moment)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_moments_are_known() {
        let mut moments = Moments::default();
        assert_eq!(moments.of(Arrival(1)), None);
        moments.push(Arrival(3));
        moments.push(Arrival(5));
        assert_eq!(moments.of(Arrival(4)), moments.of(Arrival(5)));
        assert!(moments.of(Arrival(3)) <= moments.of(Arrival(4)));
        assert_eq!(moments.of(Arrival(6)), None);
        for upto in 6..2000 {
            moments.push(Arrival(upto));
        }
        assert_eq!(moments.of(Arrival(5)), None);
        assert!(moments.of(Arrival(1999)).is_some());
    }
}
