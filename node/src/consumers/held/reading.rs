//! How a consumer reads the log: on, back for what it remembers, and past what was pruned.

use std::time::Instant;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::consumer::{Identity, Key, MAX_REMEMBERED, Offer, Place};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;

use super::Held;
use crate::log::LogError;

/// Batches and bytes that one turn reads for a consumer, at most.
const READ_BATCHES: usize = 256;
const READ_BYTES: usize = 1024 * 1024;
/// Batches that are read back for what a consumer remembers of repeats.
const READ_BACK_BATCHES: usize = 4_096;
/// Logs whose last sequence number is remembered.
const MAX_REMEMBERED_LOGS: usize = 65_536;

/// Events that match beyond what was read, as far as they were counted.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Everything up to here was counted.
    upto: Arrival,
    pub(super) events: u64,
}

impl Held {
    /// Reads on, and looks for what was pruned now and then. True when there may be more.
    pub(in crate::consumers) fn go_on(&mut self, wall_ms: u64, look_for_gaps: bool) -> Result<bool, LogError> {
        let mut more = false;
        if let Some(group) = &mut self.group {
            more |= group.read_on(&self.reader, &mut self.core, wall_ms)?;
        }
        if look_for_gaps {
            if self.core.read().arrival < self.reader.last_arrival() {
                self.look_for_gaps()?;
            }
            self.drop_gone_of_others()?;
        }
        Ok(self.read_on()? || more)
    }

    /// Reads on for one turn. True when there may be more.
    fn read_on(&mut self) -> Result<bool, LogError> {
        let last = self.reader.last_arrival();
        let read = self.core.read();
        let after = if read.index == u32::MAX { read.arrival } else { Arrival(read.arrival.0.saturating_sub(1)) };
        let room = self.core.room();
        if after >= last || room == 0 {
            return Ok(false);
        }
        // Each batch has an event at least, so that more would be read in vain.
        let read =
            |wanted: &dyn Fn(&Topic) -> bool| self.reader.scan_topic(wanted, after, READ_BATCHES.min(room), READ_BYTES);
        let scan = self.topics.while_reading(read)?;
        for (arrival, batch) in scan.batches {
            if self.core.room() == 0 {
                return Ok(false);
            }
            self.note_gap(&batch);
            if arrival <= self.ahead.upto {
                self.ahead.events = self.ahead.events.saturating_sub(self.count(&batch));
            }
            let topic = batch.header().topic.as_str();
            for ((_, item), index) in batch.items().zip(0..) {
                if let Item::Event(event) = item
                    && self.takes(&event)
                {
                    self.core.offer(offer(topic, &event, Place { arrival, index }));
                }
            }
            self.core.pass(Place::end_of(arrival));
        }
        self.core.pass(Place::end_of(scan.next));
        Ok(scan.next < last)
    }

    /// Remembers what came last before the floor, so that repeats of it are recognised.
    pub(super) fn read_back(&mut self) -> Result<(), LogError> {
        let floor = self.core.read();
        let mut before = Arrival(floor.arrival.0.saturating_add(1));
        let (mut identities, mut batches) = (Vec::new(), 0);
        while before.0 > 1 && identities.len() < MAX_REMEMBERED && batches < READ_BACK_BATCHES {
            let read =
                |wanted: &dyn Fn(&Topic) -> bool| self.reader.scan_back(wanted, before, READ_BATCHES, READ_BYTES);
            let scan = self.topics.while_reading(read)?;
            before = scan.next;
            // A read that finds nothing has looked at many.
            batches += scan.batches.len().max(1);
            for (arrival, batch) in scan.batches {
                let header = batch.header();
                let seen = self.seen.entry(LogKey { topic: header.topic.clone(), author: header.author }).or_default();
                *seen = header.last_seq().max(*seen);
                let topic = header.topic.as_str();
                let events = batch.items().zip(0..).filter_map(|((_, item), index)| match item {
                    Item::Event(event) if Place { arrival, index } <= floor && self.takes(&event) => {
                        Some(Identity::new(topic, event.source, event.id))
                    }
                    _ => None,
                });
                identities.extend(events.collect::<Vec<_>>().into_iter().rev());
            }
        }
        identities.truncate(MAX_REMEMBERED);
        identities.into_iter().rev().for_each(|identity| self.core.remember(identity));
        Ok(())
    }

    fn takes(&self, event: &EventView<'_>) -> bool {
        let kinds = &self.config.types;
        event.hlc >= self.core.not_before() && (kinds.is_empty() || kinds.iter().any(|kind| kind == event.kind))
    }

    // ---- what was pruned first

    /// Events of a log between what was read last and this batch are lost when the log's floor says so.
    fn note_gap(&mut self, batch: &VerifiedBatch) {
        let header = batch.header();
        let key = LogKey { topic: header.topic.clone(), author: header.author };
        let read = self.seen.get(&key).copied().unwrap_or(0);
        if header.first_seq > read + 1 {
            let floor = self.reader.record(&key).ok().flatten().map_or(0, |record| record.floor);
            self.miss(floor.min(header.first_seq - 1).saturating_sub(read), false);
        }
        if self.seen.len() < MAX_REMEMBERED_LOGS || self.seen.contains_key(&key) {
            self.seen.insert(key, header.last_seq().max(read));
        }
    }

    /// Looks whether logs were pruned beyond what was read of them. What lies before a batch that stays below the floor is
    /// counted when that is read.
    fn look_for_gaps(&mut self) -> Result<(), LogError> {
        let mut lost = 0;
        for (key, read) in &mut self.seen {
            let floor = self.reader.record(key)?.map_or(0, |record| record.floor);
            if floor > *read && self.reader.range(key, *read, floor, 1)?.is_empty() {
                lost += floor - *read;
                *read = floor;
            }
        }
        if lost > 0 {
            // Some of what was counted is not there any more.
            self.ahead = Ahead::default();
        }
        self.miss(lost, false);
        Ok(())
    }

    /// Whether the place to go on from is below everything that is left here.
    pub(super) fn look_below(&mut self) {
        let floor = self.core.read().arrival;
        if floor.0 > 0 && floor < self.reader.floor() {
            self.miss(0, true);
        }
    }

    /// Other members' events that were pruned here while their progress has not come: they would hold up the floor for
    /// ever.
    fn drop_gone_of_others(&mut self) -> Result<(), LogError> {
        let mut gone = 0;
        while let Some(slot) = self.core.first_of_others()
            && !self.is_there(slot.place)?
        {
            let begun = self.core.settle(&[slot.place]).begun;
            self.core.confirm(&begun);
            gone += 1;
        }
        self.miss(gone, false);
        Ok(())
    }

    fn is_there(&self, place: Place) -> Result<bool, LogError> {
        let batch = self.reader.batch(place.arrival)?;
        let item = batch.as_ref().and_then(|batch| batch.items().nth(place.index as usize));
        Ok(matches!(item, Some((_, Item::Event(_)))))
    }

    // ---- what lies ahead

    /// Counts on what matches beyond what was read, with one read at least and until a time. Says whether that was all.
    pub(super) fn count_ahead(&mut self, until: Instant) -> Result<bool, LogError> {
        let read = self.core.read().arrival;
        if self.ahead.upto <= read {
            self.ahead = Ahead { upto: read, events: 0 };
        }
        while self.ahead.upto < self.reader.last_arrival() {
            let after = self.ahead.upto;
            let read =
                |wanted: &dyn Fn(&Topic) -> bool| self.reader.scan_topic(wanted, after, READ_BATCHES, READ_BYTES);
            let scan = self.topics.while_reading(read)?;
            self.ahead.events += scan.batches.iter().map(|(_, batch)| self.count(batch)).sum::<u64>();
            self.ahead.upto = scan.next;
            if Instant::now() >= until {
                break;
            }
        }
        Ok(self.ahead.upto >= self.reader.last_arrival())
    }

    /// How many events of a batch are for this consumer.
    fn count(&self, batch: &VerifiedBatch) -> u64 {
        let header = batch.header();
        if self.config.types.is_empty() && header.first_hlc >= self.core.not_before() {
            return header.count - u64::from(batch.dropped());
        }
        batch.items().filter(|(_, item)| matches!(item, Item::Event(event) if self.takes(event))).count() as u64
    }
}

/// The offer of an event.
fn offer(topic: &str, event: &EventView<'_>, place: Place) -> Offer {
    Offer { place, key: event.key.map(Key::new), identity: Identity::new(topic, event.source, event.id) }
}
