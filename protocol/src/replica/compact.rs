//! Keyed topics: of each key the last event, in the total order, stays, and what it supersedes goes. Batches go whole, once
//! all of their events are superseded, wherever in their log they are; the log's floor rises above them. What is stored
//! below a floor is an *island*: the batch of an event that is still the last of its key. Peers are served islands like
//! all else, and nothing connects them: each was signed.
//!
//! A topic is walked over when it has twice as many events as the last walk left, so each event is looked at a bounded
//! number of times; and sooner where it is at a limit of its rule, or the store at its cap, since what is superseded is to
//! go before what lasts. See [`super::walk`] for what a walk remembers.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::survey::Amount;
use super::walk::Walk;
use super::{Effect, OldBatch, Replica, Room};
use crate::batch::VerifiedBatch;
use crate::event::Item;
use crate::heads::{LogKey, LogRecord};
use crate::hlc::Hlc;
use crate::ids::Arrival;
use crate::limits::MAX_CLOCK_AHEAD_MS;
use crate::sign::Signer;
use crate::topic::{HEARTBEATS_TOPIC, Topic};
use crate::write_set::WriteSet;

/// Time between two looks whether a topic has to be walked over.
const LOOK_MS: u64 = 2_000;
/// The pause between two parts of a walk.
const PART_MS: u64 = 20;
/// A topic is walked over once it has so many events more than the last walk left, and twice as many.
const MIN_NEW_EVENTS: u64 = 100;
/// At a limit, so many parts of what the last walk left are new when the topic is walked over again at once.
const LIMIT_PARTS: u64 = 8;
/// At a limit, a topic that has grown by less is walked over again after so many times what the last walk took.
const LIMIT_PAUSES: u64 = 8;
/// What is missing in a hole counts as pruned when its topic is walked over after so long, or has as much again.
const HOLES_MS: u64 = 600_000;
/// Batches that one write removes.
const GONE_RUN: usize = 4_096;

/// How many new events are much, beside what the last walk left.
fn much_beside(left: u64) -> u64 {
    left.max(MIN_NEW_EVENTS)
}

/// The first 16 bytes of the BLAKE3 of an event's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash([u8; 16]);

impl KeyHash {
    /// The hash of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self::of_bytes(key.as_bytes())
    }

    fn of_bytes(key: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
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
        if batch.header().topic.as_str() == HEARTBEATS_TOPIC {
            // Whatever keys its events have: of each author one stays.
            keys.insert(KeyHash::of_bytes(&batch.header().author.0), batch.header().last_hlc);
            return Self { batch: OldBatch::of(arrival, batch, batch.bytes().len() as u64), keys, keyless };
        }
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
    /// The topic that was walked over last: others have their turn first.
    last: Option<Topic>,
}

/// What the last walk over a topic left.
#[derive(Debug, Default, Clone, Copy)]
struct Walked {
    events: u64,
    /// Superseded own events that no peer has announced yet.
    later: Amount,
    /// Since when something could not go because of a hole below it.
    hindered_since_ms: Option<u64>,
    /// What was still beyond the topic's limits, though nothing else was superseded: the oldest goes.
    excess: Amount,
    /// At a limit, the topic may be walked over again from then on.
    again_at_ms: u64,
}

impl Compaction {
    pub(super) fn is_listing(&self) -> bool {
        self.listing
    }

    /// Whether a walk over the topic is under way.
    pub(super) fn is_walking(&self, topic: &Topic) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.topic == *topic)
    }

    /// How many events the last walk over a topic left.
    pub(super) fn left(&self, topic: &Topic) -> u64 {
        self.topics.get(topic).map_or(0, |walked| walked.events)
    }

    /// What may go of a keyed topic that is beyond its limits: no more than what was too much after a walk.
    pub(super) fn excess_left(&self, topic: &Topic) -> Amount {
        let walked = self.topics.get(topic).filter(|_| !self.is_walking(topic));
        walked.map_or_else(Amount::default, |walked| walked.excess)
    }

    /// Batches of these logs went by another way: what a walk over their topic knows of them is no longer so.
    pub(super) fn give_up<'a>(&mut self, mut logs: impl Iterator<Item = &'a LogKey>) {
        if self.walk.as_ref().is_some_and(|walk| logs.any(|log| log.topic == walk.topic)) {
            self.walk = None;
        }
    }

    /// So much of a topic goes.
    pub(super) fn note_gone(&mut self, topic: &Topic, amount: Amount) {
        if let Some(walked) = self.topics.get_mut(topic) {
            walked.events = walked.events.saturating_sub(amount.events);
            walked.excess = walked.excess.without(amount);
        }
    }

    /// Other rules hold.
    pub(super) fn forget(&mut self) {
        *self = Self { listing: self.listing, ..Self::default() };
    }
}

impl<S: Signer> Replica<S> {
    /// When keyed topics are to be looked at next.
    pub(super) fn compaction_due_ms(&self) -> Option<u64> {
        (self.has_keyed() && !self.compaction.listing).then_some(self.compaction.look_at_ms)
    }

    /// Own events of a topic that no peer had before, one may have now.
    pub(super) fn retry_held(&mut self, topic: &Topic) {
        let Some(walked) = self.compaction.topics.get_mut(topic) else { return };
        let is_much = walked.later.events >= MIN_NEW_EVENTS.max(walked.events / 2);
        if is_much || (walked.later.events > 0 && self.survey.excess.contains_key(topic)) {
            walked.events = walked.events.saturating_sub(std::mem::take(&mut walked.later).events);
            self.survey.note_change(topic);
        }
    }

    /// Begins a walk over a keyed topic, or goes on with it.
    pub(super) fn compact_if_due(&mut self) {
        let now_ms = self.now.mono_ms;
        if !self.has_keyed() || self.compaction.listing || now_ms < self.compaction.look_at_ms {
            return;
        }
        // Nothing can be written, so nothing can go.
        if self.room == Room::None {
            self.compaction.look_at_ms = now_ms + LOOK_MS;
            return;
        }
        self.compaction.look_at_ms = now_ms + PART_MS;
        // Until what was pruned is durable, the store lists it.
        if self.expiry.is_listing() || self.pruning.is_busy(self.written()) {
            return;
        }
        if !self.walks() {
            self.compaction.look_at_ms = now_ms + LOOK_MS;
        }
        match &self.compaction.walk {
            Some(Walk { gone: Some(_), .. }) => self.let_superseded_go(),
            Some(Walk { topic, before, .. }) => {
                self.compaction.listing = true;
                self.effects.push(Effect::ListKeys { topic: topic.clone(), before: *before });
            }
            None => {}
        }
    }

    /// The store is beyond its cap: whether superseded events of keyed topics are to go before any others do.
    pub(super) fn walks_before_pruning(&mut self) -> bool {
        let begins = self.compaction.walk.is_none();
        let walks = self.has_keyed() && self.walks();
        if walks && begins {
            self.compaction.look_at_ms = self.now.mono_ms;
        }
        walks
    }

    /// Whether a walk is under way, after having begun one if there is reason to.
    fn walks(&mut self) -> bool {
        if self.compaction.walk.is_some() {
            return true;
        }
        self.look_over_changed();
        let Some(topic) = self.grown_topic() else { return false };
        let last = self.logs_of(&topic).map(|record| record.last_arrival).max().unwrap_or_default();
        self.compaction.last = Some(topic.clone());
        let passes_holes = self.passes_holes(&topic);
        let before = Arrival(last.0.saturating_add(1));
        self.compaction.walk = Some(Walk::new(topic, before, self.now.mono_ms, passes_holes));
        true
    }

    /// A keyed topic that has grown enough since it was last walked over.
    fn grown_topic(&self) -> Option<Topic> {
        let grown = &self.survey.grown;
        let last = self.compaction.last.as_ref();
        let behind = grown.range::<Topic, _>((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let before = last.into_iter().flat_map(|last| grown.range::<Topic, _>(..=last));
        behind.chain(before).find(|(topic, events)| self.has_grown(topic, **events)).map(|(topic, _)| topic.clone())
    }

    fn has_grown(&self, topic: &Topic, events: u64) -> bool {
        let Walked { events: left, again_at_ms, .. } = self.compaction.topics.get(topic).copied().unwrap_or_default();
        let new = events.saturating_sub(left);
        if self.expiry.is_lowering(topic) {
            return false;
        }
        if new >= much_beside(left) {
            return true;
        }
        let is_part = new > 0 && new >= left / LIMIT_PARTS;
        let is_at_limit = self.survey.excess.contains_key(topic);
        let may_again = new > 0 && again_at_ms <= self.now.mono_ms;
        (is_at_limit && (is_part || may_again)) || (self.pruning.is_begun() && is_part)
    }

    /// Whether what is missing in holes of a topic has had its time to come, and counts as pruned from now on.
    fn passes_holes(&self, topic: &Topic) -> bool {
        let Some(walked) = self.compaction.topics.get(topic) else { return false };
        let events = self.survey.grown.get(topic).copied().unwrap_or_default();
        let has_doubled = events.saturating_sub(walked.events) >= much_beside(walked.events);
        walked.hindered_since_ms.is_some_and(|since_ms| has_doubled || since_ms + HOLES_MS <= self.now.mono_ms)
    }

    /// Whether of each key of the topic the last event stays: by its rule, or since it is that of heartbeats.
    pub(super) fn is_keyed(&self, topic: &Topic) -> bool {
        topic.as_str() == HEARTBEATS_TOPIC || self.rules.of(topic).is_some_and(|(_, rule)| rule.keyed)
    }

    /// Whether any topic may be keyed.
    pub(super) fn has_keyed(&self) -> bool {
        self.rules.have_keyed() || self.topics_seen.contains(HEARTBEATS_TOPIC)
    }

    /// A part of the walk came: batches of its topic, and what is to be looked at next is what arrived before `next`.
    pub(super) fn take_keys(&mut self, batches: Vec<KeyedBatch>, next: Arrival, end: bool) {
        self.compaction.listing = false;
        // A clock that is far ahead, or an author that says so, must not take a key away for good.
        let wall_ms = self.wall_ms();
        let Some(walk) = &mut self.compaction.walk else { return };
        (walk.before, walk.ended) = (next, end);
        // Of heartbeats each author supersedes its own alone, however far ahead they are stamped.
        let is_of_authors = walk.topic.as_str() == HEARTBEATS_TOPIC;
        for batch in batches {
            // What is left out here is served to nobody, and supersedes nothing that is.
            let counts = self.interest.holds(&self.me, &batch.batch.log);
            let far = match counts {
                true if is_of_authors => Hlc(u64::MAX),
                true => Hlc::from_ms(wall_ms.saturating_add(MAX_CLOCK_AHEAD_MS)),
                false => Hlc(0),
            };
            walk.take(batch, far, self.planted);
        }
        if end || walk.is_full() {
            walk.finish_listing();
        }
    }

    /// Removes a part of what is superseded; the walk goes on when nothing is left of that, or ends. The last batch of a log
    /// stays, as it proves the head; and what is missing in a hole is given some time to come, since the floor rises above it.
    fn let_superseded_go(&mut self) {
        let Some(mut walk) = self.compaction.walk.take() else { return };
        let mut records: BTreeMap<LogKey, LogRecord> = BTreeMap::new();
        let mut set = WriteSet::default();
        let mut gone = walk.gone.take().unwrap_or_default();
        while let Some(batch) = gone.pop() {
            let record = records.entry(batch.log.clone()).or_insert_with(|| self.latest_or_new(&batch.log));
            let amount = Amount::of(&batch);
            if self.is_own_unannounced(&batch) {
                walk.later = walk.later.and(amount);
            } else if !walk.passes_holes && record.holes.iter().any(|hole| hole.from < batch.first_seq) {
                walk.hindered = true;
            } else if batch.last_seq < record.last_seq() && !self.ends_own_line(&batch.log, batch.last_seq) {
                walk.events = walk.events.saturating_sub(amount.events);
                self.let_go(&batch, record, &mut set);
                if set.pruned.len() >= GONE_RUN {
                    break;
                }
            }
        }
        if !set.pruned.is_empty() {
            self.write_pruned(set, records);
        }
        if !gone.is_empty() {
            walk.gone = Some(gone);
        } else if walk.ended {
            return self.end_walk(walk);
        }
        self.compaction.walk = Some(walk);
    }

    fn end_walk(&mut self, Walk { topic, begun_ms, events, later, hindered, .. }: Walk) {
        let now_ms = self.now.mono_ms;
        let excess = self.excess_of(&topic).without(later);
        let before = self.compaction.topics.get(&topic).and_then(|walked| walked.hindered_since_ms);
        let hindered_since_ms = hindered.then(|| before.unwrap_or(now_ms));
        let again_at_ms = now_ms + LIMIT_PAUSES * (now_ms - begun_ms);
        self.survey.note_change(&topic);
        if !excess.is_nothing() {
            self.expiry.look();
            self.compaction.look_at_ms = now_ms + LOOK_MS;
        }
        self.compaction.topics.insert(topic, Walked { events, later, hindered_since_ms, excess, again_at_ms });
    }
}
