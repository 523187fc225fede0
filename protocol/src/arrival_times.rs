//! When what a store holds arrived there, roughly: for rules by age. Few points of time for many arrivals, close together
//! for what is young and far apart for what is old.

use crate::codec::{CodecError, Reader, Writer};
use crate::ids::Arrival;

/// Two points lie apart by at least this part of their age.
const SPACING: u64 = 16;
/// Points that are kept: enough for a century, at two seconds between the first ones.
const MAX_POINTS: usize = 512;

/// Times by which arrival numbers were reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArrivalTimes {
    /// Milliseconds since 1970, and an arrival that had come by then. Both rise.
    points: Vec<(u64, Arrival)>,
}

impl ArrivalTimes {
    /// Takes note that everything up to `arrival` is here now. Says whether that is news. Where the clock went back, what
    /// it said of later times is forgotten: nothing is taken to have been here for longer than it was.
    pub fn note(&mut self, now_ms: u64, arrival: Arrival) -> bool {
        self.points.retain(|(at_ms, _)| *at_ms <= now_ms);
        if self.points.last().is_some_and(|(at_ms, known)| *known >= arrival || *at_ms == now_ms) {
            return false;
        }
        self.points.push((now_ms, arrival));
        self.thin(now_ms);
        true
    }

    fn thin(&mut self, now_ms: u64) {
        let mut kept: Vec<(u64, Arrival)> = Vec::with_capacity(self.points.len());
        for (index, point) in self.points.iter().enumerate() {
            let next_ms = self.points.get(index + 1).map(|(at_ms, _)| *at_ms);
            let spared = match (kept.last(), next_ms) {
                // Without this one, its neighbours would still be close together for their age.
                (Some((before_ms, _)), Some(next_ms)) => next_ms - before_ms < (now_ms - next_ms) / SPACING,
                _ => false,
            };
            if !spared {
                kept.push(*point);
            }
        }
        let beyond = kept.len().saturating_sub(MAX_POINTS);
        kept.drain(..beyond);
        self.points = kept;
    }

    /// The last arrival that had come by a time, as far as is known: what arrived up to it was here by then.
    #[must_use]
    pub fn arrived_by(&self, time_ms: u64) -> Arrival {
        let upto = self.points.partition_point(|(at_ms, _)| *at_ms <= time_ms);
        upto.checked_sub(1).map_or(Arrival(0), |at| self.points[at].1)
    }

    /// The bytes of a mark.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(2 * self.points.len());
        for (at_ms, arrival) in &self.points {
            writer.uint(*at_ms).uint(arrival.0);
        }
        writer.finish()
    }

    /// Reads a mark's bytes.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let items = reader.list("arrival times", 2 * MAX_POINTS)?;
        let mut points: Vec<(u64, Arrival)> = Vec::new();
        for _ in 0..items / 2 {
            let point = (reader.uint("time")?, Arrival(reader.uint("arrival")?));
            if points.last().is_some_and(|last| last.0 >= point.0 || last.1 >= point.1) {
                return Err(CodecError::OutOfBounds("arrival times"));
            }
            points.push(point);
        }
        reader.end()?;
        Ok(Self { points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_to_be_here_for_longer_than_it_is_nor_for_much_less() {
        let mut times = ArrivalTimes::default();
        let (mut now_ms, mut arrival) = (1_000_000, 0);
        let mut story = Vec::new();
        for round in 0..20_000u64 {
            now_ms += 2_000 + round * 7919 % 60_000;
            arrival += round % 3;
            story.push((now_ms, arrival));
            times.note(now_ms, Arrival(arrival));
        }
        assert!(times.points.len() < MAX_POINTS / 2, "{}", times.points.len());
        assert_eq!(ArrivalTimes::decode(&times.encode()), Ok(times.clone()));
        for age_ms in [0, 60_000, 3_600_000, 86_400_000, 500_000_000] {
            let found = times.arrived_by(now_ms - age_ms).0;
            let by =
                |time_ms| story.iter().take_while(|(at_ms, _)| *at_ms <= time_ms).last().map_or(0, |(_, last)| *last);
            assert!(found <= by(now_ms - age_ms), "{age_ms}");
            assert!(found >= by(now_ms - age_ms - age_ms / 8 - 130_000), "{age_ms}");
        }
        assert_eq!(times.arrived_by(0), Arrival(0));
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_older() {
        let mut times = ArrivalTimes::default();
        for (now_ms, arrival) in [(1_000, 5), (9_000, 7), (2_000, 9)] {
            assert!(times.note(now_ms, Arrival(arrival)));
        }
        assert_eq!((times.arrived_by(1_500), times.arrived_by(9_000)), (Arrival(5), Arrival(9)));
        assert!(!times.note(2_500, Arrival(9)));
    }
}
