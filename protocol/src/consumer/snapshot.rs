//! What of a consumer survives its node's process.

use super::place::Place;
use crate::codec::{CodecError, Reader, Writer};
use crate::hlc::Hlc;
use crate::ids::Arrival;

/// The version of the form below.
const VERSION: u64 = 1;
/// Places above the floor that a snapshot may have: more than any window.
const MAX_DONE: usize = 1 << 20;

/// Which events are done: everything at or before the floor, and some places above it.
///
/// ```text
/// [version uint = 1, floor arrival, floor index, not before HLC, [arrival less that of the place before, index, ...]]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Everything at or before this place is done, or not for this consumer.
    pub floor: Place,
    /// Events with a stamp before this are not for this consumer.
    pub not_before: Hlc,
    /// What is done above the floor, rising.
    pub done: Vec<Place>,
}

impl Snapshot {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(5).uint(VERSION).uint(self.floor.arrival.0).uint(u64::from(self.floor.index));
        writer.uint(self.not_before.0).array(self.done.len() * 2);
        let mut last = self.floor.arrival.0;
        for place in &self.done {
            writer.uint(place.arrival.0.saturating_sub(last)).uint(u64::from(place.index));
            last = place.arrival.0;
        }
        writer.finish()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        reader.tuple("consumer", 5)?;
        if reader.uint("version")? != VERSION {
            return Err(CodecError::OutOfBounds("version"));
        }
        let arrival = Arrival(reader.uint("floor")?);
        let floor = Place { arrival, index: index(reader.uint("floor")?)? };
        let not_before = Hlc(reader.uint("not before")?);
        let count = reader.list("done", MAX_DONE * 2)?;
        if !count.is_multiple_of(2) {
            return Err(CodecError::Malformed("done"));
        }
        let mut last = floor.arrival.0;
        let mut done = Vec::new();
        for _ in 0..count / 2 {
            last = last.checked_add(reader.uint("done")?).ok_or(CodecError::OutOfBounds("done"))?;
            done.push(Place { arrival: Arrival(last), index: index(reader.uint("done")?)? });
        }
        reader.end()?;
        Ok(Self { floor, not_before, done })
    }
}

fn index(value: u64) -> Result<u32, CodecError> {
    u32::try_from(value).map_err(|_| CodecError::OutOfBounds("index"))
}
