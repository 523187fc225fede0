//! Knows what this node published lately, so that an event that comes again is acknowledged again and stored once.
//!
//! An event is told by its topic, source and id. Nothing is stored for it: after a start the table is read back from the
//! node's own logs.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use hashbrown::HashTable;
use roundelay_protocol::event::{EncodedEvent, Item};
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::topic::Topic;
use smallvec::SmallVec;

use crate::log::{LogError, LogReader};
use crate::node::EventPlace;
use crate::traces::{TRACEPARENT, TRACESTATE};

/// Events that are known at most; the oldest go first.
const MAX_EVENTS: usize = 1_000_000;
/// Bytes of batches that a start reads to know them again.
const MAX_READ_BYTES: usize = 1 << 30;

/// What tells an event from others, and its content from other contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    key: u128,
    content: u64,
}

/// Makes identities. Contents are hashed with a secret of this process, so that nobody can make two that are taken for
/// one.
#[derive(Debug, Clone)]
pub(crate) struct Identifier(Option<RandomState>);

impl Identifier {
    /// Without a window there is nothing to tell apart.
    pub(crate) fn new(window: Duration) -> Self {
        Self((!window.is_zero()).then(RandomState::new))
    }

    /// None for events of the system's topics, each of which is published once.
    pub(crate) fn identify(&self, topic: &Topic, event: &EncodedEvent) -> Option<Identity> {
        let secret = self.0.as_ref().filter(|_| !topic.is_system())?;
        let (source, id) = event.source_and_id();
        let mut name: SmallVec<[u8; 256]> = SmallVec::new();
        for text in [topic.as_str(), source, id] {
            name.extend_from_slice(&(text.len() as u32).to_le_bytes());
            name.extend_from_slice(text.as_bytes());
        }
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(&name).as_bytes()[..16]);
        Some(Identity { key: u128::from_le_bytes(key), content: content_of(secret, event) })
    }
}

/// A service that tries again may do so within another span of its trace, which makes no other event of it.
fn content_of(secret: &RandomState, event: &EncodedEvent) -> u64 {
    let plain = event.has_extension(TRACEPARENT).then(|| {
        let mut plain = event.decode().ok()?;
        plain.extensions.retain(|(name, _)| name != TRACEPARENT && name != TRACESTATE);
        plain.encode().ok()
    });
    secret.hash_one(plain.flatten().as_ref().unwrap_or(event).as_bytes())
}

/// An event that is durable here.
struct Entry {
    identity: Identity,
    seq: u64,
    arrival: Arrival,
    /// When it was published, in milliseconds of the clock that the engine's timers go by.
    at_ms: i64,
    index: u32,
}

impl Entry {
    fn place(&self) -> EventPlace {
        EventPlace { seq: self.seq, arrival: self.arrival, index: self.index, duplicate: true }
    }
}

/// An event on its way to the disk.
#[derive(Clone, Copy)]
struct Underway {
    publication: u64,
    content: u64,
    /// Its number among the new events of its publication.
    ordinal: usize,
}

/// What becomes of one event of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// It is stored.
    New,
    /// It was stored before.
    Stored(EventPlace),
    /// It is there twice: the other is the new event with this number.
    Like(usize),
}

/// What becomes of a publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It goes ahead; what happens to each event.
    Go(SmallVec<[Slot; 1]>),
    /// One of its events is on its way in this publication: what becomes of that has to be seen first.
    After(u64),
    /// The event with this number has other content than the one that was published under its name before.
    Conflict(usize),
}

/// The table of what was published lately. Without a window it is empty, and everything is new.
pub(crate) struct Dedup {
    window_ms: i64,
    max_events: usize,
    /// In the order of their publication.
    entries: VecDeque<Entry>,
    /// The number of the first entry, counted from the first one ever, modulo 2^32.
    first: u32,
    numbers: HashTable<u32>,
    underway: HashMap<u128, Underway>,
}

impl Dedup {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX),
            max_events: MAX_EVENTS,
            entries: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
            underway: HashMap::new(),
        }
    }

    /// Looks at the events of a publication in their order. Those that are new count as being on their way from now on,
    /// if it goes ahead.
    pub(super) fn plan(&mut self, publication: u64, identities: &[Option<Identity>], now_ms: u64) -> Plan {
        self.expire(now_ms);
        let (mut slots, mut ordinal) = (SmallVec::with_capacity(identities.len()), 0);
        for (number, identity) in identities.iter().enumerate() {
            let known = identity.map(|identity| (identity, self.find(identity.key), self.underway.get(&identity.key)));
            let slot = match known {
                Some((identity, Some(entry), _)) if entry.identity == identity => Slot::Stored(entry.place()),
                Some((identity, None, Some(other))) if other.content == identity.content => match other.publication {
                    same if same == publication => Slot::Like(other.ordinal),
                    other => {
                        self.forget(publication, &identities[..number]);
                        return Plan::After(other);
                    }
                },
                None | Some((_, None, None)) => {
                    if let Some(identity) = identity.filter(|_| self.window_ms > 0) {
                        let underway = Underway { publication, content: identity.content, ordinal };
                        self.underway.insert(identity.key, underway);
                    }
                    ordinal += 1;
                    Slot::New
                }
                _ => {
                    self.forget(publication, &identities[..number]);
                    return Plan::Conflict(number);
                }
            };
            slots.push(slot);
        }
        Plan::Go(slots)
    }

    /// These events of a publication are not on their way any more.
    pub(super) fn forget(&mut self, publication: u64, identities: &[Option<Identity>]) {
        for identity in identities.iter().flatten() {
            if self.underway.get(&identity.key).is_some_and(|underway| underway.publication == publication) {
                self.underway.remove(&identity.key);
            }
        }
    }

    /// A new event has become durable.
    pub(super) fn stored(&mut self, identity: Identity, place: EventPlace, now_ms: u64) {
        self.underway.remove(&identity.key);
        self.insert(identity, place, now_ms as i64);
    }

    fn insert(&mut self, identity: Identity, place: EventPlace, at_ms: i64) {
        if self.window_ms == 0 || self.find(identity.key).is_some() {
            return;
        }
        let number = self.first.wrapping_add(self.entries.len() as u32);
        let EventPlace { seq, arrival, index, .. } = place;
        self.entries.push_back(Entry { identity, seq, arrival, at_ms, index });
        let Self { entries, first, numbers, .. } = self;
        let hash = |number: &u32| hash(entries[number.wrapping_sub(*first) as usize].identity.key);
        numbers.insert_unique(hash(&number), number, hash);
        while self.entries.len() > self.max_events {
            self.drop_first();
        }
    }

    fn find(&self, key: u128) -> Option<&Entry> {
        let entry = |number: &u32| &self.entries[number.wrapping_sub(self.first) as usize];
        self.numbers.find(hash(key), |number| entry(number).identity.key == key).map(entry)
    }

    fn expire(&mut self, now_ms: u64) {
        let oldest = (now_ms as i64).saturating_sub(self.window_ms);
        while self.entries.front().is_some_and(|entry| entry.at_ms < oldest) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        let number = self.first;
        self.first = self.first.wrapping_add(1);
        if let Ok(found) = self.numbers.find_entry(hash(entry.identity.key), |other| *other == number) {
            found.remove();
        }
    }

    /// Reads back what was published within the window before a start, at which `wall_ms` is the time and the engine's
    /// clock begins.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn read_back(
        &mut self,
        reader: &LogReader,
        records: &[LogRecord],
        me: &Author,
        identifier: &Identifier,
        wall_ms: u64,
    ) -> Result<(), LogError> {
        let oldest_ms = wall_ms.saturating_sub(self.window_ms.unsigned_abs());
        let is_recent = |record: &&LogRecord| record.tips.iter().any(|tip| tip.hlc.as_ms() >= oldest_ms);
        let own = records.iter().filter(|record| record.key.author == *me && !record.key.topic.is_system());
        let mut arrivals = Vec::new();
        for record in own.filter(is_recent) {
            arrivals.extend(reader.last_arrivals(&record.key, oldest_ms, self.max_events)?);
        }
        // The last first, as events within a batch are below: what does not fit is the oldest.
        arrivals.sort_unstable_by(|one, other| other.cmp(one));
        let (mut found, mut read_bytes) = (Vec::new(), 0);
        for arrival in arrivals {
            if found.len() >= self.max_events || read_bytes >= MAX_READ_BYTES {
                break;
            }
            let Some(batch) = reader.batch(arrival)? else { continue };
            read_bytes += batch.bytes().len();
            let events = batch.items().collect::<Vec<_>>().into_iter().enumerate().rev();
            for (index, (seq, item)) in events {
                let Item::Event(view) = item else { continue };
                let Ok(event) = view.to_event().encode() else { continue };
                let place = EventPlace { seq, arrival, index: index as u32, duplicate: false };
                let at_ms = view.hlc.as_ms().min(wall_ms) as i64 - wall_ms as i64;
                let identity = identifier.identify(&batch.header().topic, &event);
                found.extend(identity.map(|identity| (identity, place, at_ms)));
            }
        }
        found.truncate(self.max_events);
        found.into_iter().rev().for_each(|(identity, place, at_ms)| self.insert(identity, place, at_ms));
        Ok(())
    }
}

/// A part of a hash is as good as another.
fn hash(key: u128) -> u64 {
    key as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW_MS: u64 = 1_000;

    fn dedup() -> Dedup {
        Dedup { max_events: 50, ..Dedup::new(Duration::from_millis(WINDOW_MS)) }
    }

    fn identity(name: u8, content: u8) -> Option<Identity> {
        Some(Identity { key: u128::from(name), content: u64::from(content) })
    }

    fn place(seq: u64) -> EventPlace {
        EventPlace { seq, arrival: Arrival(seq * 2), index: 3, duplicate: false }
    }

    #[test]
    fn an_event_is_new_then_underway_then_stored_and_new_again_after_the_window() {
        let mut dedup = dedup();
        let (one, other) = (identity(1, 1), identity(1, 2));
        assert_eq!(dedup.plan(1, &[one], 0), Plan::Go(SmallVec::from_elem(Slot::New, 1)));
        assert_eq!(dedup.plan(2, &[identity(2, 2), one], 0), Plan::After(1));
        assert_eq!(dedup.plan(3, &[other], 0), Plan::Conflict(0));
        dedup.stored(one.unwrap(), place(7), 10);
        let Plan::Go(slots) = dedup.plan(2, &[identity(2, 2), one, identity(2, 2)], 500) else { panic!() };
        let known = EventPlace { duplicate: true, ..place(7) };
        assert_eq!(slots.as_slice(), [Slot::New, Slot::Stored(known), Slot::Like(0)]);
        assert_eq!(dedup.plan(3, &[identity(3, 3), other], 500), Plan::Conflict(1));
        assert_eq!(dedup.plan(4, &[identity(3, 3)], 500), Plan::Go(SmallVec::from_elem(Slot::New, 1)), "left no trace");
        assert_eq!(dedup.plan(5, &[other], 10 + WINDOW_MS + 1), Plan::Go(SmallVec::from_elem(Slot::New, 1)));
    }

    #[test]
    fn without_a_window_everything_is_new() {
        let mut dedup = Dedup::new(Duration::ZERO);
        for publication in 0..3 {
            let same = [identity(1, 1), identity(1, 1)];
            assert_eq!(dedup.plan(publication, &same, 0), Plan::Go(SmallVec::from_elem(Slot::New, 2)));
            dedup.stored(same[0].unwrap(), place(1), 0);
        }
        assert!(dedup.entries.is_empty() && dedup.underway.is_empty());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list(names in prop::collection::vec((any::<u8>(), 0u64..40), 1..400)) {
            let mut dedup = dedup();
            dedup.first = u32::MAX - 100;
            let (mut list, mut now_ms): (VecDeque<(u8, u64)>, u64) = (VecDeque::new(), 0);
            for (seq, (name, step_ms)) in names.into_iter().enumerate() {
                now_ms += step_ms;
                list.retain(|(_, at_ms)| at_ms + WINDOW_MS >= now_ms);
                let is_known = list.iter().any(|(known, _)| *known == name);
                let Plan::Go(slots) = dedup.plan(seq as u64, &[identity(name, 0)], now_ms) else { panic!() };
                prop_assert_eq!(matches!(slots[0], Slot::Stored(_)), is_known);
                if !is_known {
                    dedup.stored(identity(name, 0).unwrap(), place(seq as u64), now_ms);
                    list.push_back((name, now_ms));
                    if list.len() > dedup.max_events {
                        list.pop_front();
                    }
                }
                prop_assert_eq!(dedup.entries.len(), list.len());
                prop_assert_eq!(dedup.numbers.len(), list.len());
                prop_assert!(dedup.underway.is_empty());
            }
        }
    }
}
