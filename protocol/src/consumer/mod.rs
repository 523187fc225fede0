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
mod outcomes;
mod place;
mod share;
mod snapshot;
mod types;

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet};

use lanes::Lanes;
use memory::{Early, Memory};
pub use place::{Identity, Key, Place, owner};
pub use share::Share;
pub use snapshot::Snapshot;
pub use types::{Delivery, Expired, Failure, Offer, Progress, Rules, Settling, Slot};

use crate::hlc::Hlc;
use crate::ids::Arrival;

/// Identities of events that a consumer remembers, to drop repeats that came through other nodes.
pub const MAX_REMEMBERED: usize = 16_384;
/// Identities of events that another member of a group has done and that have not come by here.
pub const MAX_EARLY: usize = 262_144;
/// Events above the floor that a consumer looks at: while the first of them is not done, it reads no further.
pub const WINDOW: usize = 10_000;

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
    /// Entries that are done, and above the floor.
    done: usize,
    recent: Memory,
    early: Early,
    /// What a snapshot knew, until it is offered again.
    done_before: BTreeSet<Place>,
    failed_before: BTreeMap<Place, (u32, u64)>,
    share: Option<Share>,
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
            done: 0,
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
        self.done += usize::from(done);
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

    /// Goes on from elsewhere: everything after a place, and not before a time, is delivered, again where need be.
    pub fn seek(&mut self, place: Place, not_before: Hlc) {
        let share = self.share.take();
        let early = std::mem::replace(&mut self.early, Early::new(MAX_EARLY));
        *self = Self::new(self.rules, Snapshot { floor: place, not_before, done: Vec::new() }, BTreeMap::new());
        (self.share, self.early) = (share, early);
    }

    // ---- what is known of it

    /// Everything at or before this place is done.
    #[must_use]
    pub fn floor(&self) -> Place {
        self.floor
    }

    /// Events that were read and are not done.
    #[must_use]
    pub fn undone(&self) -> usize {
        self.entries.len() - self.done
    }

    /// Deliveries that wait for an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether the event at a place is neither done nor on the way to be.
    #[must_use]
    pub fn is_open(&self, place: Place) -> bool {
        self.find(place).is_some()
    }

    /// Whether a place may have been delivered: not beyond what was read, and not skipped above the floor.
    #[must_use]
    pub fn knows(&self, place: Place) -> bool {
        place <= self.floor || self.is_known(place) || self.done_before.contains(&place)
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
}

/// The beginning of a store: before every event.
#[must_use]
pub fn beginning() -> Place {
    Place { arrival: Arrival(0), index: 0 }
}
