//! What becomes of deliveries: done, failed, or not answered.

use super::place::Place;
use super::{Consumer, Entry, Expired, Failure, Rules, Settling, Slot, Stage};

impl Consumer {
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
                None if self.knows(*place) => settling.already.push(*place),
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
                self.done += 1;
                self.identities.remove(&identity);
                self.early.take(&identity);
            } else {
                self.entries.remove(slot);
                self.redriven -= 1;
            }
            self.look_at(*slot, key);
        }
        self.raise_floor();
    }

    /// What was begun was refused: it is as it was before, unless another member did it meanwhile.
    pub fn revert(&mut self, slots: &[Slot]) {
        let mut elsewhere = Vec::new();
        for slot in slots {
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            let key = entry.key;
            if matches!(entry.stage, Stage::Settling { .. }) && self.take_done_elsewhere(*slot) {
                elsewhere.push(*slot);
                continue;
            }
            let Some(entry) = self.entries.get_mut(slot) else { continue };
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
        self.confirm(&elsewhere);
    }

    /// A delivery failed: the event waits for so long, or is dead. `None` when it is not in flight.
    pub fn fail(&mut self, now_ms: u64, place: Place, delay_ms: u64) -> Option<(Slot, Failure)> {
        let slot = self.find(place)?;
        let entry = self.entries.get(&slot)?;
        matches!(entry.stage, Stage::InFlight { .. }).then(|| (slot, self.fail_slot(now_ms, slot, delay_ms)))
    }

    /// A delivery failed for good: the event is dead, however few attempts it had. `None` when it is not in flight.
    pub fn give_up(&mut self, now_ms: u64, place: Place) -> Option<(Slot, Failure)> {
        let (slot, last) = (self.find(place)?, self.rules.max_deliver.saturating_sub(1));
        let entry = self.entries.get_mut(&slot)?;
        entry.failures = entry.failures.max(last);
        self.fail(now_ms, place, 0)
    }

    /// How often the delivery of an event failed that is not done.
    #[must_use]
    pub fn failures(&self, place: Place) -> u32 {
        self.find(place).and_then(|slot| self.entries.get(&slot)).map_or(0, |entry| entry.failures)
    }

    /// There is no room for a dead letter: its event is delivered again later all the same.
    pub fn postpone(&mut self, slot: Slot, until_ms: u64) {
        if self.take_done_elsewhere(slot) {
            self.confirm(&[slot]);
        } else if self.entries.contains_key(&slot) {
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
}
