//! A bounded memory of hashes: the newest are kept, the oldest forgotten.

use std::collections::{BTreeSet, VecDeque};

use crate::ids::BatchHash;

/// The last so many hashes that were put in.
#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    order: VecDeque<BatchHash>,
    known: BTreeSet<BatchHash>,
}

impl Recent {
    /// A memory of `capacity` hashes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), known: BTreeSet::new() }
    }

    /// Whether the hash is among those remembered.
    #[must_use]
    pub fn contains(&self, hash: &BatchHash) -> bool {
        self.known.contains(hash)
    }

    /// Remembers a hash and forgets the oldest when there is no room.
    pub fn insert(&mut self, hash: BatchHash) {
        if !self.known.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
