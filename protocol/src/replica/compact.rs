//! Keyed topics: of each key the last event, in the total order, stays, and what it supersedes goes. Batches go whole, once
//! all of their events are superseded, wherever in their log they are; the log's floor rises above them. What is stored
//! below a floor is an *island*: the batch of an event that is still the last of its key. Peers are served islands like
//! all else, and nothing connects them: each was signed.
//!
//! A topic is walked over when it has twice as many events as the last walk left, so each event is looked at a bounded
//! number of times. A walk remembers the last event of each key, and for each batch how many of those it has.

use std::collections::BTreeMap;

use super::prune::note_pruned;
use super::{Effect, OldBatch, Replica, Room};
use crate::batch::VerifiedBatch;
use crate::event::Item;
use crate::heads::{LogKey, LogRecord};
use crate::hlc::Hlc;
use crate::ids::{Arrival, BatchHash};
use crate::limits::MAX_CLOCK_AHEAD_MS;
use crate::planted::{Fault, Planted};
use crate::sign::Signer;
use crate::topic::Topic;
use crate::write_set::WriteSet;

/// Time between two looks whether a topic has to be walked over.
const LOOK_MS: u64 = 2_000;
/// The pause between two parts of a walk.
const PART_MS: u64 = 20;
/// A topic is walked over once it has so many events more than the last walk left, and twice as many.
const MIN_NEW_EVENTS: u64 = 100;
/// Batches that one walk looks at, the first to arrive first. What came later is looked at by the next one.
pub const MAX_WALKED_BATCHES: usize = 262_144;
/// Keys that one walk remembers. Events of further ones stay until it has fewer.
pub const MAX_WALKED_KEYS: usize = 262_144;
/// Batches that one write removes.
const GONE_RUN: usize = 4_096;

/// The first 16 bytes of the BLAKE3 of an event's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash([u8; 16]);

impl KeyHash {
    /// The hash of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
        Self(hash)
    }
}

/// A stored batch with the keys of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedBatch {
    /// The batch.
    pub batch: OldBatch,
    /// The keys of its events, each once, with the stamp of the last event that has it.
    pub keys: BTreeMap<KeyHash, Hlc>,
    /// Whether it has an event without a key, which nothing supersedes.
    pub keyless: bool,
}

impl KeyedBatch {
    /// A batch, with its body, at its place in a store.
    #[must_use]
    pub fn of(arrival: Arrival, batch: &VerifiedBatch) -> Self {
        let (mut keys, mut keyless) = (BTreeMap::new(), false);
        for (_, item) in batch.items() {
            match item {
                // Stamps rise within a batch.
                Item::Event(event) => match event.key {
                    Some(key) => drop(keys.insert(KeyHash::of(key), event.hlc)),
                    None => keyless = true,
                },
                Item::Dropped(_) => {}
            }
        }
        Self { batch: OldBatch::of(arrival, batch, batch.bytes().len() as u64), keys, keyless }
    }
}

/// Where compaction stands.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    look_at_ms: u64,
    /// A part of the walk was asked for.
    listing: bool,
    walk: Option<Walk>,
    topics: BTreeMap<Topic, Walked>,
}

/// What the last walk over a topic left.
#[derive(Debug, Default, Clone, Copy)]
struct Walked {
    events: u64,
    /// Superseded own events that no peer has announced yet.
    held: u64,
    /// Something could not go because of a hole below it: if that is still so at the next walk, it counts as pruned.
    hindered: bool,
}

/// A walk over one topic.
#[derive(Debug)]
struct Walk {
    topic: Topic,
    after: Arrival,
    batches: Vec<Walking>,
    newest: BTreeMap<KeyHash, Newest>,
    /// What goes, the last first, once all was listed.
    gone: Option<Vec<OldBatch>>,
    left: Walked,
}

#[derive(Debug)]
struct Walking {
    batch: OldBatch,
    /// Events that stay: those that are the last of their key, and one for all that have none.
    lasting: u32,
}

/// The last event of a key, as far as is known, and which of the walk's batches has it.
#[derive(Debug)]
struct Newest {
    at: (Hlc, BatchHash),
    place: usize,
}

impl Walk {
    fn new(topic: Topic) -> Self {
        Self {
            topic,
            after: Arrival(0),
            batches: Vec::new(),
            newest: BTreeMap::new(),
            gone: None,
            left: Walked::default(),
        }
    }

    fn is_full(&self) -> bool {
        self.batches.len() >= MAX_WALKED_BATCHES
    }

    /// Takes a batch. What is stamped beyond `upto` lasts and supersedes nothing.
    fn take(&mut self, KeyedBatch { batch, keys, keyless }: KeyedBatch, upto: Hlc, planted: Planted) {
        let place = self.batches.len();
        let mut lasting = u32::from(keyless);
        for (key, hlc) in keys {
            let at = (hlc, batch.hash);
            if hlc > upto {
                lasting += 1;
                continue;
            }
            match self.newest.get_mut(&key) {
                Some(newest) if newest.at < at || planted.is(Fault::SupersedeByArrival) => {
                    self.batches[newest.place].lasting -= 1;
                    *newest = Newest { at, place };
                    lasting += 1;
                }
                Some(_) => {}
                None => {
                    if self.newest.len() < MAX_WALKED_KEYS {
                        self.newest.insert(key, Newest { at, place });
                    }
                    lasting += 1;
                }
            }
        }
        self.batches.push(Walking { batch, lasting });
    }

    /// All was listed: says what goes, lower parts of logs before higher ones.
    fn finish_listing(&mut self) {
        self.newest.clear();
        let batches = std::mem::take(&mut self.batches);
        let mut gone: Vec<_> =
            batches.into_iter().filter(|walking| walking.lasting == 0).map(|walking| walking.batch).collect();
        gone.sort_by(|one, other| (&other.log, other.first_seq).cmp(&(&one.log, one.first_seq)));
        self.gone = Some(gone);
    }
}

impl Compaction {
    pub(super) fn is_listing(&self) -> bool {
        self.listing
    }

    /// Batches of these logs went by another way: what a walk over their topic knows of them is no longer so.
    pub(super) fn give_up<'a>(&mut self, mut logs: impl Iterator<Item = &'a LogKey>) {
        if self.walk.as_ref().is_some_and(|walk| logs.any(|log| log.topic == walk.topic)) {
            self.walk = None;
        }
    }

    /// Other rules hold.
    pub(super) fn forget(&mut self) {
        *self = Self { listing: self.listing, ..Self::default() };
    }

    /// What no peer had before, one may have now.
    pub(super) fn retry(&mut self) {
        for walked in self.topics.values_mut() {
            if walked.held >= MIN_NEW_EVENTS.max(walked.events / 2) {
                walked.events = walked.events.saturating_sub(std::mem::take(&mut walked.held));
            }
        }
    }
}

impl<S: Signer> Replica<S> {
    /// When keyed topics are to be looked at next.
    pub(super) fn compaction_due_ms(&self) -> Option<u64> {
        (self.rules.have_keyed() && !self.compaction.listing).then_some(self.compaction.look_at_ms)
    }

    /// Begins a walk over a keyed topic, or goes on with it.
    pub(super) fn compact_if_due(&mut self) {
        let now_ms = self.now.mono_ms;
        if !self.rules.have_keyed() || self.compaction.listing || now_ms < self.compaction.look_at_ms {
            return;
        }
        self.compaction.look_at_ms = now_ms + PART_MS;
        // Until what was pruned is durable, the store lists it.
        if self.room == Room::None || self.expiry.is_listing() || self.pruning.is_busy(self.written()) {
            return;
        }
        if self.compaction.walk.is_none() {
            match self.grown_topic() {
                Some(topic) => self.compaction.walk = Some(Walk::new(topic)),
                None => self.compaction.look_at_ms = now_ms + LOOK_MS,
            }
        }
        match &self.compaction.walk {
            Some(Walk { gone: Some(_), .. }) => self.let_superseded_go(),
            Some(Walk { topic, after, .. }) => {
                self.compaction.listing = true;
                self.effects.push(Effect::ListKeys { topic: topic.clone(), after: *after });
            }
            None => {}
        }
    }

    /// A keyed topic that has grown enough since it was last walked over.
    fn grown_topic(&self) -> Option<Topic> {
        let mut records = self.logs.values().peekable();
        while let Some(first) = records.next() {
            let topic = &first.key.topic;
            let mut events = first.events;
            while let Some(next) = records.next_if(|next| next.key.topic == *topic) {
                events = events.saturating_add(next.events);
            }
            let left = self.compaction.topics.get(topic).copied().unwrap_or_default().events;
            if events >= left.saturating_add(left.max(MIN_NEW_EVENTS)) && self.is_keyed(topic) {
                return Some(topic.clone());
            }
        }
        None
    }

    pub(super) fn is_keyed(&self, topic: &Topic) -> bool {
        self.rules.of(topic).is_some_and(|(_, rule)| rule.keyed)
    }

    /// A part of the walk came: batches of its topic, and up to where the store was looked at.
    pub(super) fn take_keys(&mut self, batches: Vec<KeyedBatch>, upto: Arrival, end: bool) {
        self.compaction.listing = false;
        // A clock that is far ahead, or an author that says so, must not take a key away for good.
        let wall_ms = self.wall_ms();
        let Some(walk) = &mut self.compaction.walk else { return };
        walk.after = upto;
        for batch in batches {
            // What is left out here is served to nobody, and supersedes nothing that is.
            let counts = self.interest.holds(&self.me, &batch.batch.log);
            let far = if counts { Hlc::from_ms(wall_ms.saturating_add(MAX_CLOCK_AHEAD_MS)) } else { Hlc(0) };
            walk.take(batch, far, self.planted);
        }
        if end || walk.is_full() {
            walk.finish_listing();
        }
    }

    /// Removes a part of what is superseded, and ends the walk when nothing is left. The last batch of a log stays, as it
    /// proves the head; and what is missing in a hole is given some time to come, since the floor rises above it.
    fn let_superseded_go(&mut self) {
        let Some(mut walk) = self.compaction.walk.take() else { return };
        let mut records: BTreeMap<LogKey, LogRecord> = BTreeMap::new();
        let mut set = WriteSet::default();
        let gone = walk.gone.get_or_insert_default();
        let passes_holes = self.compaction.topics.get(&walk.topic).is_some_and(|walked| walked.hindered);
        while let Some(batch) = gone.pop() {
            let record = records.entry(batch.log.clone()).or_insert_with(|| self.latest_or_new(&batch.log));
            if self.is_own_unannounced(&batch) {
                walk.left.held += batch.last_seq - batch.first_seq + 1;
            } else if !passes_holes && record.holes.iter().any(|hole| hole.from < batch.first_seq) {
                walk.left.hindered = true;
            } else if batch.last_seq < record.last_seq() && !self.ends_own_line(&batch.log, batch.last_seq) {
                note_pruned(record, &batch, self.planted);
                set.pruned.push(batch.arrival);
                if set.pruned.len() >= GONE_RUN {
                    break;
                }
            }
        }
        let done = gone.is_empty();
        if !set.pruned.is_empty() {
            self.write_pruned(set, records);
        }
        if done {
            let records = self.logs.range(LogKey { topic: walk.topic.clone(), author: crate::ids::Author([0; 32]) }..);
            let of_topic = records.take_while(|(log, _)| log.topic == walk.topic);
            walk.left.events = of_topic.map(|(log, record)| self.latest(log).unwrap_or(record).events).sum();
            self.compaction.topics.insert(walk.topic, walk.left);
        } else {
            self.compaction.walk = Some(walk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Author;

    fn batch(arrival: u64, keys: &[(&str, u64)]) -> KeyedBatch {
        let log = LogKey { topic: Topic::new("a").unwrap(), author: Author([1; 32]) };
        let (seq, hash) = (arrival, BatchHash([arrival as u8; 32]));
        let last_hlc = Hlc(keys.iter().map(|(_, hlc)| *hlc).max().unwrap());
        let arrival = Arrival(arrival);
        let batch = OldBatch { arrival, log, first_seq: seq, last_seq: seq, hash, last_hlc, bytes: 1 };
        let keys = keys.iter().map(|(key, hlc)| (KeyHash::of(key), Hlc(*hlc))).collect();
        KeyedBatch { batch, keys, keyless: false }
    }

    #[test]
    fn what_is_stamped_far_ahead_lasts_and_supersedes_nothing() {
        let mut walk = Walk::new(Topic::new("a").unwrap());
        let batches =
            [(1, vec![("k", 10)]), (2, vec![("k", 900)]), (3, vec![("k", 20), ("l", 21)]), (4, vec![("k", 30)])];
        for (arrival, keys) in batches {
            walk.take(batch(arrival, &keys), Hlc(100), Planted::default());
        }
        walk.finish_listing();
        let gone: Vec<u64> = walk.gone.unwrap().iter().map(|batch| batch.arrival.0).collect();
        assert_eq!(gone, [1]);
    }
}
