//! A bounded memory of identities: the newest are kept, the oldest forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::place::Identity;

/// The last so many identities that were put in.
#[derive(Debug)]
pub(super) struct Memory {
    capacity: usize,
    order: VecDeque<Identity>,
    known: BTreeSet<Identity>,
}

impl Memory {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), known: BTreeSet::new() }
    }

    /// Puts one in; false when it was known.
    pub(super) fn insert(&mut self, identity: Identity) -> bool {
        if !self.known.insert(identity) {
            return false;
        }
        self.order.push_back(identity);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Identities that others have done and that have not come by here; each is taken once.
#[derive(Debug)]
pub(super) struct Early {
    capacity: usize,
    order: BTreeMap<u64, Identity>,
    known: BTreeMap<Identity, u64>,
    next: u64,
}

impl Early {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, order: BTreeMap::new(), known: BTreeMap::new(), next: 0 }
    }

    pub(super) fn insert(&mut self, identity: Identity) {
        if self.known.contains_key(&identity) {
            return;
        }
        self.known.insert(identity, self.next);
        self.order.insert(self.next, identity);
        self.next += 1;
        if self.order.len() > self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn take(&mut self, identity: &Identity) -> bool {
        let Some(number) = self.known.remove(identity) else { return false };
        self.order.remove(&number);
        true
    }
}
