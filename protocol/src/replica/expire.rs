//! Letting events go by the rules of their topics: what is too old, and of what is too much the oldest. A walk over the store
//! in order of arrival prunes as the cap does: whole batches, from the bottom of a log up, never own events that no peer has
//! announced, and never the last batch of a log, which proves its head.

use std::collections::BTreeMap;

use super::prune::may_prune;
use super::survey::{Amount, Survey};
use super::{OldBatch, Replica, Room};
use crate::arrival_times::ArrivalTimes;
use crate::heads::{LogKey, LogRecord};
use crate::ids::Arrival;
use crate::rules::{Rule, Rules};
use crate::sign::Signer;
use crate::topic::Topic;
use crate::write_set::WriteSet;

/// The mark that keeps when what is stored arrived, roughly.
pub const ARRIVAL_TIMES_MARK: &[u8] = b"arrivals";
/// Time between two looks whether anything has to go.
const LOOK_MS: u64 = 2_000;
/// It is looked for what is too old this many times within the shortest age of a rule, at least every [`MAX_AGE_LOOK_MS`].
const AGE_PARTS: u64 = 32;
const MAX_AGE_LOOK_MS: u64 = 60_000;
/// The pause between two parts of a walk, so that walks over a large store leave the engine most of its time.
const PART_MS: u64 = 100;
/// The mark is written at most so often. What arrived since counts as later after a crash.
const MARK_MS: u64 = 60_000;

/// Where letting go stands.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    times: ArrivalTimes,
    marked_at_ms: u64,
    unmarked: bool,
    look_at_ms: u64,
    age_at_ms: u64,
    /// A part of the walk was asked for.
    listing: bool,
    /// A walk is under way, and came up to here.
    walk: Option<Arrival>,
    /// What was beyond the rules when the last walk began, and until when no other begins for the same.
    walked_for: BTreeMap<Topic, Amount>,
    walked_until_ms: u64,
    /// Topics with too much, as the walk goes on.
    excess: BTreeMap<Topic, Amount>,
    /// Nothing beyond this has been here for as long as any rule asks.
    aged_upto: Arrival,
}

impl Expiry {
    pub(super) fn new(times: ArrivalTimes) -> Self {
        Self { times, ..Self::default() }
    }

    pub(super) fn is_listing(&self) -> bool {
        self.listing
    }

    /// What could not go may go now.
    pub(super) fn retry(&mut self) {
        self.walked_until_ms = 0;
    }

    /// It is to be looked now whether anything has to go.
    pub(super) fn look(&mut self) {
        self.look_at_ms = 0;
    }

    /// Whether a walk is under way that lets the oldest of a topic go.
    pub(super) fn is_lowering(&self, topic: &Topic) -> bool {
        self.walk.is_some() && self.excess.contains_key(topic)
    }

    /// So much of a topic goes.
    pub(super) fn note_gone(&mut self, topic: &Topic, amount: Amount) {
        // What comes to as much again is no longer the same.
        self.retry();
        if let Some(excess) = self.excess.get_mut(topic) {
            *excess = excess.without(amount);
            if excess.is_nothing() {
                self.excess.remove(topic);
            }
        }
    }
}

impl<S: Signer> Replica<S> {
    /// The rules of this node's topics.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Has other rules from now on.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        self.expiry.look_at_ms = 0;
        self.expiry.age_at_ms = 0;
        self.expiry.walk = None;
        self.expiry.retry();
        self.compaction.forget();
        self.survey = Survey::of(self.logs.keys().map(|log| log.topic.clone()));
        let interest = self.interest.clone();
        self.set_interest(interest);
    }

    /// When there is something to be let go, if that is to be looked for.
    pub(super) fn expiry_due_ms(&self) -> Option<u64> {
        (self.rules.expire() && !self.expiry.listing).then_some(self.expiry.look_at_ms)
    }

    /// Begins a walk over the store, or goes on with it.
    pub(super) fn expire_if_due(&mut self) {
        let now_ms = self.now.mono_ms;
        if !self.rules.expire() || self.expiry.listing || now_ms < self.expiry.look_at_ms {
            return;
        }
        // Pruning writes, too; and while it is under way, the store lists what is being pruned.
        if self.room == Room::None || self.compaction.is_listing() || self.pruning.is_busy(self.written()) {
            self.expiry.look_at_ms = now_ms + PART_MS;
            return;
        }
        if self.expiry.walk.is_none() && !self.begin_walk() {
            self.expiry.look_at_ms = now_ms + LOOK_MS;
            return;
        }
        let after = self.expiry.walk.unwrap_or_default();
        self.expiry.listing = true;
        self.effects.push(super::Effect::ListOldest { after });
    }

    /// Looks what has to go. Says whether there may be anything.
    fn begin_walk(&mut self) -> bool {
        let wall_ms = self.wall_ms();
        self.note_arrivals(wall_ms);
        let age_ms = self.rules.iter().filter_map(|(_, rule)| rule.max_age_ms).min();
        self.expiry.aged_upto = match age_ms.filter(|_| self.expiry.age_at_ms <= self.now.mono_ms) {
            Some(age_ms) => {
                self.expiry.age_at_ms = self.now.mono_ms + (age_ms / AGE_PARTS).clamp(LOOK_MS, MAX_AGE_LOOK_MS);
                self.expiry.times.arrived_by(wall_ms.saturating_sub(age_ms))
            }
            None => Arrival(0),
        };
        self.expiry.excess = self.excess();
        // A walk that changed nothing would not do so now: what is left may not go, until a peer has it.
        let in_vain = self.expiry.walked_for == self.expiry.excess && self.now.mono_ms < self.expiry.walked_until_ms;
        if in_vain {
            self.expiry.excess.clear();
        } else {
            self.expiry.walked_for = self.expiry.excess.clone();
            self.expiry.walked_until_ms = self.now.mono_ms + MAX_AGE_LOOK_MS;
        }
        let any = !self.expiry.excess.is_empty() || self.expiry.aged_upto > Arrival(0);
        self.expiry.walk = any.then_some(Arrival(0));
        any
    }

    /// Remembers when what is here came, where a rule asks for it.
    fn note_arrivals(&mut self, wall_ms: u64) {
        if self.rules.iter().all(|(_, rule)| rule.max_age_ms.is_none()) {
            return;
        }
        self.expiry.unmarked |= self.expiry.times.note(wall_ms, self.position.arrival);
        if self.expiry.unmarked && self.expiry.marked_at_ms <= self.now.mono_ms {
            self.expiry.unmarked = false;
            self.expiry.marked_at_ms = self.now.mono_ms + MARK_MS;
            let marks = vec![(ARRIVAL_TIMES_MARK.to_vec(), Some(self.expiry.times.encode()))];
            self.write(WriteSet { marks, ..WriteSet::default() }, super::publish::OwnWrite::default(), Vec::new());
        }
    }

    /// What each topic has beyond its rule. Of a keyed topic only what is left of that after a walk: superseded events go
    /// first.
    fn excess(&mut self) -> BTreeMap<Topic, Amount> {
        self.look_over_changed();
        let may_go = |(topic, excess): (&Topic, &Amount)| {
            let keyed = self.is_keyed(topic);
            let excess = if keyed { excess.within(self.compaction.excess_left(topic)) } else { *excess };
            (!excess.is_nothing()).then(|| (topic.clone(), excess))
        };
        self.survey.excess.iter().filter_map(may_go).collect()
    }

    /// A part of the walk came.
    pub(super) fn expire(&mut self, batches: Vec<OldBatch>, end: bool) {
        self.expiry.listing = false;
        let Some(mut after) = self.expiry.walk else { return };
        let wall_ms = self.wall_ms();
        let mut records: BTreeMap<LogKey, LogRecord> = BTreeMap::new();
        let mut set = WriteSet::default();
        let mut done = end;
        for old in batches {
            if self.expiry.excess.is_empty() && old.arrival > self.expiry.aged_upto {
                done = true;
                break;
            }
            after = old.arrival;
            if !self.should_go(&old, wall_ms) {
                continue;
            }
            let record = records.entry(old.log.clone()).or_insert_with(|| self.latest_or_new(&old.log));
            if !may_prune(&old, record, self.is_own_unannounced(&old), true) {
                continue;
            }
            self.let_go(&old, record, &mut set);
        }
        if !set.pruned.is_empty() {
            self.write_pruned(set, records);
        }
        self.expiry.walk = (!done).then_some(after);
        let pause_ms = if done { LOOK_MS } else { PART_MS };
        self.expiry.look_at_ms = self.now.mono_ms + pause_ms;
    }

    fn should_go(&self, old: &OldBatch, wall_ms: u64) -> bool {
        // What a walk by key knows of its topic must stay so.
        if self.compaction.is_walking(&old.log.topic) {
            return false;
        }
        if self.expiry.excess.contains_key(&old.log.topic) {
            return true;
        }
        let Some((_, Rule { max_age_ms: Some(age_ms), .. })) = self.rules.of(&old.log.topic) else { return false };
        let before_ms = wall_ms.saturating_sub(*age_ms);
        old.last_hlc.as_ms() <= before_ms && old.arrival <= self.expiry.times.arrived_by(before_ms)
    }
}
