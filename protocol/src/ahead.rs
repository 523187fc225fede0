//! Batches that arrived before the batch they follow. A small bounded set: gossip may outrun a gap, and once the gap is
//! filled they need not be fetched again. Whatever does not fit is dropped; its head is known from its peers and it is
//! pulled later.

use std::collections::BTreeMap;

use crate::batch::VerifiedBatch;
use crate::heads::LogKey;
use crate::ids::BatchHash;

/// Bytes of batches that may wait, of all logs together.
pub const MAX_AHEAD_BYTES: usize = 16 * 1024 * 1024;

/// The waiting batches.
#[derive(Debug, Default)]
pub struct Ahead {
    bytes: usize,
    logs: BTreeMap<LogKey, BTreeMap<(u64, BatchHash), VerifiedBatch>>,
}

fn key_of(batch: &VerifiedBatch) -> LogKey {
    let header = batch.header();
    LogKey { topic: header.topic.clone(), author: header.author }
}

impl Ahead {
    /// Keeps a batch. `false` when there is no room for it.
    pub fn insert(&mut self, batch: VerifiedBatch) -> bool {
        let key = key_of(&batch);
        let (place, size) = ((batch.header().first_seq, batch.hash()), batch.bytes().len());
        let log = self.logs.entry(key.clone()).or_default();
        if log.contains_key(&place) {
            return true;
        }
        log.insert(place, batch);
        self.bytes += size;
        while self.bytes > MAX_AHEAD_BYTES {
            self.make_room();
        }
        self.logs.get(&key).is_some_and(|log| log.contains_key(&place))
    }

    /// The log that takes the most room loses what lies furthest ahead.
    fn make_room(&mut self) {
        let bytes = |log: &BTreeMap<_, VerifiedBatch>| log.values().map(|batch| batch.bytes().len()).sum::<usize>();
        let Some((key, log)) = self.logs.iter_mut().max_by_key(|(_, log)| bytes(log)) else { return };
        if let Some((_, last)) = log.pop_last() {
            self.bytes -= last.bytes().len();
        }
        let key = key.clone();
        self.drop_if_empty(&key);
    }

    fn drop_if_empty(&mut self, key: &LogKey) {
        if self.logs.get(key).is_some_and(BTreeMap::is_empty) {
            self.logs.remove(key);
        }
    }

    fn take(&mut self, key: &LogKey, places: Vec<(u64, BatchHash)>) -> Vec<VerifiedBatch> {
        let Some(log) = self.logs.get_mut(key) else { return Vec::new() };
        let taken: Vec<_> = places.iter().filter_map(|place| log.remove(place)).collect();
        self.bytes -= taken.iter().map(|batch| batch.bytes().len()).sum::<usize>();
        self.drop_if_empty(key);
        taken
    }

    /// Takes out the batches that follow the one of this hash, which ends at `seq`.
    pub fn take_children(&mut self, key: &LogKey, seq: u64, parent: &BatchHash) -> Vec<VerifiedBatch> {
        let Some(log) = self.logs.get(key) else { return Vec::new() };
        let first = (seq + 1, BatchHash::NONE)..=(seq + 1, BatchHash([0xff; 32]));
        let places =
            log.range(first).filter(|(_, batch)| batch.header().parent == *parent).map(|(at, _)| *at).collect();
        self.take(key, places)
    }

    /// Takes out the batch of this hash.
    pub fn take_hash(&mut self, key: &LogKey, hash: &BatchHash) -> Option<VerifiedBatch> {
        let place = *self.logs.get(key)?.keys().find(|(_, found)| found == hash)?;
        self.take(key, vec![place]).pop()
    }

    /// Whether the batch that ends at this place waits.
    #[must_use]
    pub fn contains_parent(&self, key: &LogKey, place: &(u64, BatchHash)) -> bool {
        self.logs.get(key).is_some_and(|log| {
            let below = log.range(..=(place.0, BatchHash([0xff; 32]))).rev();
            below.take(16).any(|((_, hash), _)| *hash == place.1)
        })
    }

    /// The lowest waiting batch of a log.
    #[must_use]
    pub fn lowest(&self, key: &LogKey) -> Option<&VerifiedBatch> {
        self.logs.get(key)?.values().next()
    }

    /// Drops all that waits of a log.
    pub fn forget(&mut self, key: &LogKey) {
        if let Some(log) = self.logs.remove(key) {
            self.bytes -= log.values().map(|batch| batch.bytes().len()).sum::<usize>();
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
