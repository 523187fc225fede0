//! What of a consumer survives its node's process.

use std::collections::BTreeSet;

use super::place::Place;
use super::{Consumer, Entry, Progress, Slot, Stage};
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

impl Consumer {
    /// What is to be written: what is being settled with that write counts as done.
    #[must_use]
    pub fn snapshot(&self, settled: &BTreeSet<Slot>) -> Snapshot {
        let from_log = || self.entries.iter().filter(|(slot, _)| slot.letter == 0);
        let is_done = |slot: &Slot, entry: &Entry| match entry.stage {
            Stage::Done => true,
            Stage::Settling { .. } => settled.contains(slot),
            Stage::Open { .. } | Stage::InFlight { .. } => false,
        };
        let first = from_log().find(|(slot, entry)| !is_done(slot, entry)).map(|(slot, _)| slot.place);
        let floor = first.map_or(self.read, Place::before).max(self.floor);
        let above = from_log().filter(|(slot, entry)| slot.place > floor && is_done(slot, entry));
        let mut done: BTreeSet<Place> = above.map(|(slot, _)| slot.place).collect();
        done.extend(self.done_before.range(floor..).filter(|place| **place > floor));
        Snapshot { floor, not_before: self.not_before, done: done.into_iter().collect() }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut progress = Progress { floor: self.floor, read: self.read, ..Progress::default() };
        for (slot, entry) in &self.entries {
            match entry.stage {
                Stage::Done => progress.done += 1,
                Stage::InFlight { .. } | Stage::Settling { .. } => progress.in_flight += 1,
                Stage::Open { .. } if entry.foreign => progress.foreign += 1,
                Stage::Open { .. } => progress.waiting += 1,
            }
            if !entry.foreign && entry.stage != Stage::Done && slot.letter == 0 {
                progress.first = progress.first.or(Some(slot.place));
            }
        }
        progress
    }

    /// Forgets what is done at the bottom.
    pub(super) fn raise_floor(&mut self) {
        let mut first = None;
        let mut gone = Vec::new();
        for (slot, entry) in self.entries.iter().filter(|(slot, _)| slot.letter == 0) {
            if entry.stage != Stage::Done {
                first = Some(slot.place);
                break;
            }
            gone.push(*slot);
        }
        self.done -= gone.len();
        for slot in gone {
            self.entries.remove(&slot);
        }
        self.floor = first.map_or(self.read, Place::before).max(self.floor);
    }
}

fn index(value: u64) -> Result<u32, CodecError> {
    u32::try_from(value).map_err(|_| CodecError::OutOfBounds("index"))
}
