//! What a durable consumer decides: which event is delivered when, to whom, how often, and what is done.
//!
//! Events are offered in order of arrival. Those of one key are delivered strictly one after the other: a later one
//! waits until the earlier is done, or dead. Other keys pass, and events without a key wait for nobody. What is done is
//! told as a floor (everything at or before it is done) and the places above it that are done already; an event that
//! was skipped, by a filter or as another member's, is no part of what was acknowledged.
//!
//! An acknowledgement takes effect in two steps, so that nothing is told before it is durable: [`Consumer::settle`]
//! begins it, [`Consumer::snapshot`] counts it as done for the write, and [`Consumer::confirm`] ends it after the write,
//! or [`Consumer::revert`] takes it back when the write was refused.

mod lanes;
mod memory;
mod place;
mod snapshot;

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet};

use lanes::Lanes;
use memory::{Early, Memory};
pub use place::{Identity, Key, Place, owner};
pub use snapshot::Snapshot;

use crate::hlc::Hlc;
use crate::ids::Arrival;

/// Identities of events that a consumer remembers, to drop repeats that came through other nodes.
pub const MAX_REMEMBERED: usize = 16_384;
/// Identities of events that another member of a group has done and that have not come by here.
pub const MAX_EARLY: usize = 262_144;
/// Events above the floor that a consumer looks at: while the first of them is not done, it reads no further.
pub const WINDOW: usize = 10_000;

/// How a consumer delivers. All of it can be changed while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Milliseconds after which a delivery that was not answered has failed.
    pub ack_wait_ms: u64,
    /// Failed deliveries after which an event is dead.
    pub max_deliver: u32,
    /// Deliveries that may wait for an answer.
    pub max_in_flight: usize,
    /// Milliseconds between a first failure and the next delivery; twice as long after each further one.
    pub backoff_ms: u64,
    /// The longest of these.
    pub max_backoff_ms: u64,
    /// Events above the floor that are looked at.
    pub window: usize,
}

impl Rules {
    /// How long to wait after so many failures: between half and the whole of the doubled time, by `jitter`, so that
    /// what failed together is not tried together.
    #[must_use]
    pub fn backoff_ms(&self, failures: u32, jitter: u32) -> u64 {
        let doubled = self.backoff_ms.saturating_mul(1 << failures.saturating_sub(1).min(32)).min(self.max_backoff_ms);
        let half = doubled / 2;
        half + ((doubled - half) * u64::from(jitter)).checked_div(u64::from(u32::MAX)).unwrap_or(0)
    }
}

/// An event that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Where it stands.
    pub place: Place,
    /// Its key, if it has one.
    pub key: Option<Key>,
    /// What it is recognised by.
    pub identity: Identity,
}

/// Names an event that is to be delivered: from the log, or from a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Where it stands, or stood.
    pub place: Place,
    /// The number of its dead letter when it was redriven; 0 when it comes from the log.
    pub letter: u64,
}

/// What is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Which event.
    pub slot: Slot,
    /// The how-manieth time.
    pub attempt: u32,
}

/// What became of places that somebody called done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settling {
    /// To be written, and then confirmed or reverted.
    pub begun: Vec<Slot>,
    /// Done already, or on the way to be.
    pub already: Vec<Place>,
    /// Never offered here: beyond what was read, or not for this consumer.
    pub unknown: Vec<Place>,
}

/// What a failed delivery leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It is delivered again, not before this time of the clock that never goes back.
    Again {
        /// In milliseconds.
        until_ms: u64,
    },
    /// It failed too often: write its dead letter, then confirm it, or postpone it.
    Dead,
}

/// A delivery that ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Of which event.
    pub slot: Slot,
    /// What follows.
    pub failure: Failure,
}

/// How far a consumer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Everything at or before this place is done.
    pub floor: Place,
    /// Everything at or before this place was read.
    pub read: Place,
    /// Events that could be delivered, or wait for one of their key, or for their next delivery.
    pub waiting: usize,
    /// Events that were delivered and not answered.
    pub in_flight: usize,
    /// Events that belong to other members.
    pub foreign: usize,
    /// Events that are done above the floor.
    pub done: usize,
    /// The first event that is not done and is this member's.
    pub first: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be delivered, not before a time.
    Open { not_before_ms: u64 },
    /// Delivered to a member, which has until then to answer.
    InFlight { member: u64, until_ms: u64 },
    /// Being written as done; what it was if it had been delivered.
    Settling { delivered: Option<(u64, u64)> },
    /// Done, and above the floor.
    Done,
}

#[derive(Debug)]
struct Entry {
    key: Option<Key>,
    identity: Identity,
    stage: Stage,
    failures: u32,
    foreign: bool,
}

impl Entry {
    /// By what it is given to one of the members.
    fn share(&self) -> [u8; 16] {
        self.key.map_or(self.identity.0, |key| key.0)
    }
}

/// One durable consumer, or this node's member of a group. Times are of a clock that never goes back.
#[derive(Debug)]
pub struct Consumer {
    rules: Rules,
    floor: Place,
    read: Place,
    not_before: Hlc,
    entries: BTreeMap<Slot, Entry>,
    lanes: Lanes,
    timers: BTreeSet<(u64, Slot)>,
    /// Entries from the log by what they are recognised by.
    identities: BTreeMap<Identity, Slot>,
    in_flight: usize,
    redriven: usize,
    recent: Memory,
    early: Early,
    /// What a snapshot knew, until it is offered again.
    done_before: BTreeSet<Place>,
    failed_before: BTreeMap<Place, (u32, u64)>,
    share: Option<Share>,
}

/// Which keys are this member's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The group.
    pub group: String,
    /// This member.
    pub me: [u8; 32],
    /// All members that are alive, this one among them, rising.
    pub members: Vec<[u8; 32]>,
    /// The members before these, while it may be that not all that they did has come: a key is this member's only when
    /// it was before, too.
    pub before: Option<Vec<[u8; 32]>>,
}

impl Share {
    fn has(&self, key: &[u8; 16]) -> bool {
        let mine = |members: &[[u8; 32]]| owner(&self.group, members, key) == Some(&self.me);
        mine(&self.members) && self.before.as_deref().is_none_or(mine)
    }
}

impl Consumer {
    /// A consumer that goes on from a snapshot. `failures` are events above its floor whose deliveries failed: how
    /// often, and before when they are not delivered again.
    #[must_use]
    pub fn new(rules: Rules, snapshot: Snapshot, failures: BTreeMap<Place, (u32, u64)>) -> Self {
        Self {
            rules,
            floor: snapshot.floor,
            read: snapshot.floor,
            not_before: snapshot.not_before,
            entries: BTreeMap::new(),
            lanes: Lanes::default(),
            timers: BTreeSet::new(),
            identities: BTreeMap::new(),
            in_flight: 0,
            redriven: 0,
            recent: Memory::new(MAX_REMEMBERED),
            early: Early::new(MAX_EARLY),
            done_before: snapshot.done.into_iter().collect(),
            failed_before: failures,
            share: None,
        }
    }

    /// How it delivers.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Delivers by other rules from now on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    // ---- what arrives

    /// Remembers an event from before the floor, to recognise repeats of it. Called in order of arrival, before any
    /// event is offered.
    pub fn remember(&mut self, identity: Identity) {
        self.recent.insert(identity);
    }

    /// Events that may be offered before there is no room.
    #[must_use]
    pub fn room(&self) -> usize {
        self.rules.window.saturating_sub(self.entries.len() - self.redriven)
    }

    /// Events with an earlier stamp are not for this consumer.
    #[must_use]
    pub fn not_before(&self) -> Hlc {
        self.not_before
    }

    /// Where to read on.
    #[must_use]
    pub fn read(&self) -> Place {
        self.read
    }

    /// Takes the next event that matches. False when it is not to be delivered: a repeat, or done before.
    pub fn offer(&mut self, offer: Offer) -> bool {
        let Offer { place, key, identity } = offer;
        if place <= self.read {
            return false;
        }
        self.read = place;
        let slot = Slot { place, letter: 0 };
        let repeat = !self.recent.insert(identity);
        let done = self.done_before.remove(&place);
        let failed = self.failed_before.remove(&place);
        if repeat && !done && failed.is_none() {
            return false;
        }
        let done = self.early.take(&identity) || done;
        let (failures, not_before_ms) = failed.unwrap_or_default();
        let stage = if done { Stage::Done } else { Stage::Open { not_before_ms } };
        let mut entry = Entry { key, identity, stage, failures, foreign: false };
        entry.foreign = self.share.as_ref().is_some_and(|share| !share.has(&entry.share()));
        self.entries.insert(slot, entry);
        if !done {
            self.identities.insert(identity, slot);
            self.lanes.add(slot, key);
            self.look_at(slot, key);
        }
        !done
    }

    /// Everything up to a place was offered, or is not for this consumer.
    pub fn pass(&mut self, upto: Place) {
        self.read = self.read.max(upto);
        // What was pruned since is not offered again.
        self.done_before = self.done_before.split_off(&self.read);
        self.failed_before = self.failed_before.split_off(&self.read);
        self.raise_floor();
    }

    // ---- deliveries

    /// The next deliveries for a member, in order of arrival where nothing hinders.
    pub fn fetch(&mut self, now_ms: u64, member: u64, max: usize) -> Vec<Delivery> {
        let max = max.min(self.rules.max_in_flight.saturating_sub(self.in_flight));
        let slots = self.lanes.ready(max);
        let until_ms = now_ms.saturating_add(self.rules.ack_wait_ms);
        let mut deliveries = Vec::with_capacity(slots.len());
        for slot in slots {
            let Some(entry) = self.entries.get_mut(&slot) else { continue };
            entry.stage = Stage::InFlight { member, until_ms };
            let (attempt, key) = (entry.failures + 1, entry.key);
            self.in_flight += 1;
            self.timers.insert((until_ms, slot));
            self.lanes.hold(slot, key);
            deliveries.push(Delivery { slot, attempt });
        }
        deliveries
    }

    /// Whether a fetch would bring anything.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.in_flight < self.rules.max_in_flight && !self.lanes.ready(1).is_empty()
    }

    /// Gives deliveries that are not answered yet more time. Says how many.
    pub fn extend(&mut self, now_ms: u64, places: &[Place]) -> usize {
        let later_ms = now_ms.saturating_add(self.rules.ack_wait_ms);
        let mut extended = 0;
        for place in places {
            let Some(slot) = self.find(*place) else { continue };
            let Some(Entry { stage: Stage::InFlight { until_ms, .. }, .. }) = self.entries.get_mut(&slot) else {
                continue;
            };
            self.timers.remove(&(*until_ms, slot));
            *until_ms = later_ms;
            self.timers.insert((later_ms, slot));
            extended += 1;
        }
        extended
    }

    /// Deliveries that never reached anybody: they do not count.
    pub fn take_back(&mut self, slots: &[Slot]) {
        for slot in slots {
            if self.entries.get(slot).is_some_and(|entry| matches!(entry.stage, Stage::InFlight { .. })) {
                self.open(*slot, 0);
            }
        }
    }

    // ---- what becomes of them

    /// Places of events that were delivered and not answered, at or before a place.
    #[must_use]
    pub fn delivered_upto(&self, upto: Place) -> Vec<Place> {
        let upto = Slot { place: upto, letter: u64::MAX };
        let delivered =
            |(slot, entry): (&Slot, &Entry)| matches!(entry.stage, Stage::InFlight { .. }).then_some(slot.place);
        self.entries.range(..=upto).filter_map(delivered).collect()
    }

    /// How many events a member has that are not answered.
    #[must_use]
    pub fn delivered_to(&self, member: u64) -> usize {
        let has = |entry: &&Entry| matches!(entry.stage, Stage::InFlight { member: by, .. } if by == member);
        self.entries.values().filter(has).count()
    }

    /// Begins to call events done, whoever has them. They count as not done until [`Self::confirm`].
    pub fn settle(&mut self, places: &[Place]) -> Settling {
        let mut settling = Settling::default();
        for place in places {
            match self.find(*place) {
                Some(slot) => {
                    self.begin(slot);
                    settling.begun.push(slot);
                }
                None if *place <= self.floor || self.is_known(*place) || self.done_before.contains(place) => {
                    settling.already.push(*place);
                }
                None => settling.unknown.push(*place),
            }
        }
        settling
    }

    /// What was begun is durable.
    pub fn confirm(&mut self, slots: &[Slot]) {
        for slot in slots {
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            if entry.stage == Stage::Done {
                continue;
            }
            let stage = std::mem::replace(&mut entry.stage, Stage::Done);
            let (key, identity) = (entry.key, entry.identity);
            self.leave(*slot, stage);
            self.lanes.remove(*slot, key);
            if slot.letter == 0 {
                self.identities.remove(&identity);
            } else {
                self.entries.remove(slot);
                self.redriven -= 1;
            }
            self.look_at(*slot, key);
        }
        self.raise_floor();
    }

    /// What was begun was refused: it is as it was before.
    pub fn revert(&mut self, slots: &[Slot]) {
        for slot in slots {
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            let key = entry.key;
            match entry.stage {
                Stage::Settling { delivered: Some((member, until_ms)) } => {
                    entry.stage = Stage::InFlight { member, until_ms };
                    self.timers.insert((until_ms, *slot));
                }
                Stage::Settling { delivered: None } => {
                    entry.stage = Stage::Open { not_before_ms: 0 };
                    self.look_at(*slot, key);
                }
                _ => {}
            }
        }
    }

    /// A delivery failed: the event waits for so long, or is dead. `None` when it is not in flight.
    pub fn fail(&mut self, now_ms: u64, place: Place, delay_ms: u64) -> Option<(Slot, Failure)> {
        let slot = self.find(place)?;
        let entry = self.entries.get(&slot)?;
        matches!(entry.stage, Stage::InFlight { .. }).then(|| (slot, self.fail_slot(now_ms, slot, delay_ms)))
    }

    /// How often the delivery of an event failed that is not done.
    #[must_use]
    pub fn failures(&self, place: Place) -> u32 {
        self.find(place).and_then(|slot| self.entries.get(&slot)).map_or(0, |entry| entry.failures)
    }

    /// There is no room for a dead letter: its event is delivered again later all the same.
    pub fn postpone(&mut self, slot: Slot, until_ms: u64) {
        if self.entries.contains_key(&slot) {
            self.open(slot, until_ms);
        }
    }

    /// Deliveries whose time is up, and events whose time has come.
    pub fn tick(&mut self, now_ms: u64, delay_ms: impl Fn(&Rules, u32) -> u64) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some(&(at_ms, slot)) = self.timers.first()
            && at_ms <= now_ms
        {
            self.timers.pop_first();
            let Some(entry) = self.entries.get(&slot) else { continue };
            match entry.stage {
                Stage::InFlight { until_ms, .. } if until_ms <= now_ms => {
                    let delay_ms = delay_ms(&self.rules, entry.failures + 1);
                    expired.push(Expired { slot, failure: self.fail_slot(now_ms, slot, delay_ms) });
                }
                Stage::Open { not_before_ms } if not_before_ms <= now_ms => self.open(slot, 0),
                _ => {}
            }
        }
        expired
    }

    /// A member is gone: what it had has failed, and can be delivered to another at once.
    pub fn release(&mut self, now_ms: u64, member: u64) -> Vec<Expired> {
        let had = |(slot, entry): (&Slot, &Entry)| match entry.stage {
            Stage::InFlight { member: by, .. } if by == member => Some(*slot),
            _ => None,
        };
        let slots: Vec<Slot> = self.entries.iter().filter_map(had).collect();
        slots.into_iter().map(|slot| Expired { slot, failure: self.fail_slot(now_ms, slot, 0) }).collect()
    }

    /// When to tick next.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        self.timers.first().map(|(at_ms, _)| *at_ms)
    }

    /// Delivers a dead letter's event again. False when it is being delivered already.
    pub fn redrive(&mut self, letter: u64, offer: Offer) -> bool {
        let slot = Slot { place: offer.place, letter };
        if letter == 0 || self.entries.contains_key(&slot) || self.find(offer.place).is_some() {
            return false;
        }
        let Offer { key, identity, .. } = offer;
        // Whoever has the letter delivers it, whoever has the key.
        let entry = Entry { key, identity, stage: Stage::Open { not_before_ms: 0 }, failures: 0, foreign: false };
        self.entries.insert(slot, entry);
        self.redriven += 1;
        self.lanes.add(slot, key);
        self.look_at(slot, key);
        true
    }

    /// A dead letter was removed: its event is not delivered again.
    pub fn withdraw(&mut self, slot: Slot) {
        if slot.letter > 0 && self.entries.contains_key(&slot) {
            self.confirm(&[slot]);
        }
    }

    /// Goes on from elsewhere: everything after a place, and not before a time, is delivered, again where need be.
    pub fn seek(&mut self, place: Place, not_before: Hlc) {
        let share = self.share.take();
        let early = std::mem::replace(&mut self.early, Early::new(MAX_EARLY));
        *self = Self::new(self.rules, Snapshot { floor: place, not_before, done: Vec::new() }, BTreeMap::new());
        (self.share, self.early) = (share, early);
    }

    // ---- groups

    /// Another member did an event, which is known by its identity. Says whether it was one of those that are here.
    pub fn done_elsewhere(&mut self, identity: Identity) -> bool {
        let Some(slot) = self.identities.get(&identity).copied() else {
            self.early.insert(identity);
            return false;
        };
        let settling = self.entries.get(&slot).is_some_and(|entry| matches!(entry.stage, Stage::Settling { .. }));
        if !settling {
            self.confirm(&[slot]);
        }
        true
    }

    /// What an event here is recognised by.
    #[must_use]
    pub fn identity(&self, slot: &Slot) -> Option<Identity> {
        self.entries.get(slot).map(|entry| entry.identity)
    }

    /// The members, or this one's share, changed: events of keys that are not its own are not delivered, and are not
    /// done either.
    pub fn set_share(&mut self, share: Option<Share>) {
        if self.share == share {
            return;
        }
        self.share = share;
        let slots: Vec<(Slot, Option<Key>)> = self.entries.iter().map(|(slot, entry)| (*slot, entry.key)).collect();
        for (slot, entry) in &mut self.entries {
            let foreign = self.share.as_ref().is_some_and(|share| !share.has(&entry.share()));
            entry.foreign = foreign && slot.letter == 0;
        }
        for (slot, key) in slots {
            self.look_at(slot, key);
        }
    }

    // ---- what is known of it

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
        let floor = self.limit(first.map_or(self.read, Place::before)).max(self.floor);
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

    // ---- underneath

    /// The slot that a place means: the one there that is not done. There is one at most.
    fn find(&self, place: Place) -> Option<Slot> {
        let slots = Slot { place, letter: 0 }..=Slot { place, letter: u64::MAX };
        let open = |entry: &Entry| matches!(entry.stage, Stage::Open { .. } | Stage::InFlight { .. });
        self.entries.range(slots).find(|(_, entry)| open(entry)).map(|(slot, _)| *slot)
    }

    fn is_known(&self, place: Place) -> bool {
        self.entries.range(Slot { place, letter: 0 }..=Slot { place, letter: u64::MAX }).next().is_some()
    }

    fn begin(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        let (stage, key) = (entry.stage, entry.key);
        match stage {
            Stage::InFlight { member, until_ms } => {
                entry.stage = Stage::Settling { delivered: Some((member, until_ms)) };
                self.timers.remove(&(until_ms, slot));
            }
            Stage::Open { not_before_ms } => {
                entry.stage = Stage::Settling { delivered: None };
                self.timers.remove(&(not_before_ms, slot));
            }
            Stage::Settling { .. } | Stage::Done => {}
        }
        self.look_at(slot, key);
    }

    fn fail_slot(&mut self, now_ms: u64, slot: Slot, delay_ms: u64) -> Failure {
        let Some(entry) = self.entries.get_mut(&slot) else { return Failure::Again { until_ms: now_ms } };
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures >= self.rules.max_deliver {
            self.begin(slot);
            return Failure::Dead;
        }
        let until_ms = now_ms.saturating_add(delay_ms);
        self.open(slot, if delay_ms == 0 { 0 } else { until_ms });
        Failure::Again { until_ms }
    }

    /// Lets an event wait for its next delivery.
    fn open(&mut self, slot: Slot, not_before_ms: u64) {
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        let stage = std::mem::replace(&mut entry.stage, Stage::Open { not_before_ms });
        let key = entry.key;
        self.leave(slot, stage);
        self.lanes.let_go(slot, key);
        self.look_at(slot, key);
    }

    /// Undoes what a stage holds.
    fn leave(&mut self, slot: Slot, stage: Stage) {
        match stage {
            Stage::InFlight { until_ms, .. } | Stage::Settling { delivered: Some((_, until_ms)) } => {
                self.timers.remove(&(until_ms, slot));
                self.in_flight -= 1;
            }
            Stage::Open { not_before_ms } => {
                self.timers.remove(&(not_before_ms, slot));
            }
            Stage::Settling { delivered: None } | Stage::Done => {}
        }
    }

    /// Looks anew which event of a key can be delivered.
    fn look_at(&mut self, slot: Slot, key: Option<Key>) {
        let candidate = self.lanes.candidate(slot, key);
        let Some(candidate) = candidate else { return };
        let Some(entry) = self.entries.get(&candidate) else { return };
        let ready = match entry.stage {
            Stage::Open { not_before_ms: 0 } => !entry.foreign,
            Stage::Open { not_before_ms } => {
                self.timers.insert((not_before_ms, candidate));
                false
            }
            _ => false,
        };
        self.lanes.set_ready(candidate, ready);
    }

    /// Where a floor may not go beyond: what a snapshot knew and was not offered again yet.
    fn limit(&self, floor: Place) -> Place {
        floor.min(self.read)
    }

    /// Forgets what is done at the bottom.
    fn raise_floor(&mut self) {
        let mut first = None;
        let mut gone = Vec::new();
        for (slot, entry) in self.entries.iter().filter(|(slot, _)| slot.letter == 0) {
            if entry.stage != Stage::Done {
                first = Some(slot.place);
                break;
            }
            gone.push(*slot);
        }
        for slot in gone {
            self.entries.remove(&slot);
        }
        self.floor = self.limit(first.map_or(self.read, Place::before)).max(self.floor);
    }
}

/// The beginning of a store: before every event.
#[must_use]
pub fn beginning() -> Place {
    Place { arrival: Arrival(0), index: 0 }
}
