//! Which events may be delivered next: of each key only the first that is not done.

use std::collections::{BTreeMap, BTreeSet};

use super::Slot;
use super::place::Key;

/// The events that are not done, by key, and those of them that can be delivered now.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    keys: BTreeMap<Key, Lane>,
    ready: BTreeSet<Slot>,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: BTreeSet<Slot>,
    /// The one whose turn it is: the first, unless another was delivered already.
    turn: Option<Slot>,
    /// Whether it was delivered and is not answered.
    held: bool,
}

impl Lanes {
    pub(super) fn add(&mut self, slot: Slot, key: Option<Key>) {
        if let Some(key) = key {
            self.keys.entry(key).or_default().waiting.insert(slot);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, key: Option<Key>) {
        self.ready.remove(&slot);
        let Some(key) = key else { return };
        let Some(lane) = self.keys.get_mut(&key) else { return };
        lane.waiting.remove(&slot);
        if lane.turn == Some(slot) {
            (lane.turn, lane.held) = (None, false);
        }
        if lane.waiting.is_empty() {
            self.keys.remove(&key);
        }
    }

    /// The event of a key whose turn it is; without a key, the event itself.
    pub(super) fn candidate(&mut self, slot: Slot, key: Option<Key>) -> Option<Slot> {
        let Some(key) = key else { return Some(slot) };
        let lane = self.keys.get_mut(&key)?;
        let first = lane.waiting.first().copied();
        if lane.turn != first && !lane.held {
            if let Some(before) = lane.turn {
                self.ready.remove(&before);
            }
            lane.turn = first;
        }
        lane.turn
    }

    /// Says whether an event whose turn it is can be delivered.
    pub(super) fn set_ready(&mut self, slot: Slot, ready: bool) {
        if ready {
            self.ready.insert(slot);
        } else {
            self.ready.remove(&slot);
        }
    }

    /// An event was delivered: no other of its key is, before it is answered.
    pub(super) fn hold(&mut self, slot: Slot, key: Option<Key>) {
        self.ready.remove(&slot);
        if let Some(lane) = key.and_then(|key| self.keys.get_mut(&key)) {
            (lane.turn, lane.held) = (Some(slot), true);
        }
    }

    /// An event that was delivered waits again.
    pub(super) fn let_go(&mut self, slot: Slot, key: Option<Key>) {
        if let Some(lane) = key.and_then(|key| self.keys.get_mut(&key))
            && lane.turn == Some(slot)
        {
            lane.held = false;
        }
    }

    /// The first so many that can be delivered.
    pub(super) fn ready(&self, max: usize) -> Vec<Slot> {
        self.ready.iter().take(max).copied().collect()
    }
}
