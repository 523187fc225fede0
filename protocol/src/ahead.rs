//! Batches that arrived before the batch they follow. A small bounded set: gossip may outrun a gap, and once the gap is
//! filled they need not be fetched again. Whatever does not fit is dropped; its head is known from its peers and it is
//! pulled later.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::VerifiedBatch;
use crate::heads::LogKey;
use crate::ids::BatchHash;
use crate::limits::MAX_TIPS;

/// Bytes of batches that may wait, of all logs together.
pub const MAX_AHEAD_BYTES: usize = 16 * 1024 * 1024;

/// The waiting batches.
#[derive(Debug, Default)]
pub struct Ahead {
    bytes: usize,
    logs: BTreeMap<LogKey, Log>,
    /// The logs by the room that they take, so that the one to lose something is found without a look at each.
    sizes: BTreeSet<(usize, LogKey)>,
}

/// What waits of one log.
#[derive(Debug, Default)]
struct Log {
    bytes: usize,
    batches: BTreeMap<(u64, BatchHash), VerifiedBatch>,
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
        if self.contains(&key, &place) {
            return true;
        }
        self.change(&key, |log| {
            log.bytes += size;
            log.batches.insert(place, batch);
        });
        while self.bytes > MAX_AHEAD_BYTES {
            self.make_room();
        }
        self.contains(&key, &place)
    }

    fn contains(&self, key: &LogKey, place: &(u64, BatchHash)) -> bool {
        self.logs.get(key).is_some_and(|log| log.batches.contains_key(place))
    }

    /// Changes what waits of a log, and accounts for it.
    fn change<T>(&mut self, key: &LogKey, change: impl FnOnce(&mut Log) -> T) -> T {
        let log = self.logs.entry(key.clone()).or_default();
        let before = log.bytes;
        let changed = change(log);
        let after = log.bytes;
        if log.batches.is_empty() {
            self.logs.remove(key);
        }
        self.bytes = self.bytes - before + after;
        self.sizes.remove(&(before, key.clone()));
        if after > 0 {
            self.sizes.insert((after, key.clone()));
        }
        changed
    }

    /// The log that takes the most room loses what lies furthest ahead.
    fn make_room(&mut self) {
        let Some((_, key)) = self.sizes.last().cloned() else { return };
        self.change(&key, |log| {
            if let Some((_, last)) = log.batches.pop_last() {
                log.bytes -= last.bytes().len();
            }
        });
    }

    fn take(&mut self, key: &LogKey, places: Vec<(u64, BatchHash)>) -> Vec<VerifiedBatch> {
        self.change(key, |log| {
            let taken: Vec<_> = places.iter().filter_map(|place| log.batches.remove(place)).collect();
            log.bytes -= taken.iter().map(|batch| batch.bytes().len()).sum::<usize>();
            taken
        })
    }

    /// Takes out the batches that follow the one of this hash, which ends at `seq`.
    pub fn take_children(&mut self, key: &LogKey, seq: u64, parent: &BatchHash) -> Vec<VerifiedBatch> {
        let Some(log) = self.logs.get(key) else { return Vec::new() };
        let first = (seq + 1, BatchHash::NONE)..=(seq + 1, BatchHash([0xff; 32]));
        let places =
            log.batches.range(first).filter(|(_, batch)| batch.header().parent == *parent).map(|(at, _)| *at).collect();
        self.take(key, places)
    }

    /// Takes out the batches of a log that a condition holds for, in rising order.
    pub fn take_where(&mut self, key: &LogKey, holds: impl Fn(&VerifiedBatch) -> bool) -> Vec<VerifiedBatch> {
        let Some(log) = self.logs.get(key) else { return Vec::new() };
        let places = log.batches.iter().filter(|(_, batch)| holds(batch)).map(|(at, _)| *at).collect();
        self.take(key, places)
    }

    /// Takes out the batch of this hash.
    pub fn take_hash(&mut self, key: &LogKey, hash: &BatchHash) -> Option<VerifiedBatch> {
        let place = *self.logs.get(key)?.batches.keys().find(|(_, found)| found == hash)?;
        self.take(key, vec![place]).pop()
    }

    /// Whether the batch that ends at this place waits.
    #[must_use]
    pub fn contains_parent(&self, key: &LogKey, place: &(u64, BatchHash)) -> bool {
        self.logs.get(key).is_some_and(|log| {
            let below = log.batches.range(..=(place.0, BatchHash([0xff; 32]))).rev();
            below.take(MAX_TIPS).any(|((_, hash), _)| *hash == place.1)
        })
    }

    /// What the batch at this place waits for in the end: the first of its ancestors that does not wait itself, or the place
    /// itself when nothing waits there.
    #[must_use]
    pub fn gap_below(&self, key: &LogKey, mut place: (u64, BatchHash)) -> (u64, BatchHash) {
        let Some(log) = self.logs.get(key) else { return place };
        let waiting = |place: &(u64, BatchHash)| {
            let below = log.batches.range(..=(place.0, BatchHash([0xff; 32]))).rev();
            below.take(MAX_TIPS).find(|((_, hash), _)| *hash == place.1).map(|(_, batch)| batch.header())
        };
        while let Some(header) = waiting(&place) {
            place = (header.first_seq - 1, header.parent);
        }
        place
    }

    /// The lowest batch of a log beyond a place (first sequence number and hash) that waits for one that does not wait
    /// itself, among those that begin at `upto` or below.
    #[must_use]
    pub fn next_root(&self, key: &LogKey, beyond: (u64, BatchHash), upto: u64) -> Option<&VerifiedBatch> {
        let within = self.logs.get(key)?.batches.range(beyond..).take_while(|((first, _), _)| *first <= upto);
        let root = |(place, batch): &(&(u64, BatchHash), &VerifiedBatch)| {
            let header = batch.header();
            **place != beyond && !self.contains_parent(key, &(header.first_seq - 1, header.parent))
        };
        within.into_iter().find(root).map(|(_, batch)| batch)
    }

    /// Drops all that waits of a log.
    pub fn forget(&mut self, key: &LogKey) {
        if self.logs.contains_key(key) {
            self.change(key, |log| *log = Log::default());
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{self, Link};
    use crate::event::Event;
    use crate::hlc::Hlc;
    use crate::ids::{Author, Incarnation};
    use crate::sign::{Signature, Signer};
    use crate::topic::Topic;

    struct Unchecked(u8);

    impl Signer for Unchecked {
        fn author(&self) -> Author {
            Author([self.0; 32])
        }

        fn sign(&self, _: &[u8]) -> Signature {
            Signature([0; 64])
        }
    }

    fn batch(author: u8, seq: u64, bytes: usize) -> VerifiedBatch {
        let event = Event { kind: "t".into(), id: "i".into(), source: "s".into(), ..Event::default() };
        let event = Event { data: vec![0; bytes].into(), ..event };
        let link = Link { seq, parent: BatchHash([author; 32]) };
        let topic = Topic::new("a").unwrap();
        batch::seal(&Unchecked(author), &topic, Incarnation(1), link, Hlc(1 << 40), &[event.encode().unwrap()])
    }

    /// Everything that waits, counted anew.
    fn counted(ahead: &Ahead) -> (usize, BTreeSet<(usize, LogKey)>) {
        let of_log = |(key, log): (&LogKey, &Log)| {
            let bytes = log.batches.values().map(|batch| batch.bytes().len()).sum::<usize>();
            (bytes, key.clone())
        };
        let sizes: BTreeSet<_> = ahead.logs.iter().map(of_log).collect();
        (sizes.iter().map(|(bytes, _)| bytes).sum(), sizes)
    }

    fn assert_accounts(ahead: &Ahead) {
        assert_eq!((ahead.bytes, ahead.sizes.clone()), counted(ahead));
        assert!(ahead.bytes <= MAX_AHEAD_BYTES);
        assert!(ahead.logs.values().all(|log| log.bytes > 0), "a log of which nothing waits is not kept");
    }

    #[test]
    fn the_largest_log_loses_what_lies_furthest_ahead_and_every_byte_is_accounted_for() {
        let mut ahead = Ahead::default();
        let small = batch(1, 7, 100);
        let key = key_of(&small);
        assert!(ahead.insert(small.clone()) && ahead.insert(small.clone()));
        let size = 60_000;
        let fits = (MAX_AHEAD_BYTES / size) as u64;
        for seq in 0..fits + 10 {
            assert_eq!(ahead.insert(batch(2, 3 * seq, size)), seq + 1 < fits, "{seq}");
            assert_accounts(&ahead);
        }
        assert!(ahead.insert(batch(2, 1, size)), "what lies nearer takes the place of what lies further");
        assert!(ahead.insert(batch(3, 900, size)), "and so does what comes of a smaller log");
        assert_accounts(&ahead);
        assert_eq!(ahead.next_root(&key, (0, BatchHash::NONE), u64::MAX).map(VerifiedBatch::hash), Some(small.hash()));

        assert_eq!(ahead.take_hash(&key, &small.hash()).map(|batch| batch.hash()), Some(small.hash()));
        assert_accounts(&ahead);
        let large = LogKey { author: Author([2; 32]), ..key };
        assert_eq!(ahead.take_children(&large, 3, &BatchHash([2; 32])).len(), 1);
        assert_accounts(&ahead);
        ahead.forget(&large);
        ahead.forget(&large);
        assert_accounts(&ahead);
        assert_eq!(ahead.logs.len(), 1);
    }
}
