//! A store in memory that checks what it is given: the promises of a write set, not of the replica's inner workings.

use std::collections::{BTreeMap, BTreeSet};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::{Memory, Position, Range};
use roundelay_protocol::heads::{LogKey, LogRecord, MAX_HOLES, Tip};
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::limits::MAX_TIPS;
use roundelay_protocol::replica::{KeyedBatch, MEMORY_MARK, OldBatch};
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::WriteSet;

const EPOCH: StoreEpoch = StoreEpoch(77);

pub(super) fn log_of(batch: &VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

/// What is durable, and what is on its way.
#[derive(Default)]
pub(super) struct Disk {
    stored: BTreeMap<u64, VerifiedBatch>,
    arrivals: BTreeMap<BatchHash, u64>,
    pruned: BTreeSet<BatchHash>,
    chains: Vec<Chain>,
    pub(super) records: BTreeMap<LogKey, LogRecord>,
    marks: BTreeMap<Vec<u8>, Vec<u8>>,
    queue: Vec<(u64, WriteSet)>,
    /// Logs as they are when all of the queue is written.
    latest: BTreeMap<LogKey, LogRecord>,
    /// Batches in the queue.
    coming: BTreeSet<BatchHash>,
}

impl Disk {
    /// Takes a write set, and insists that it keeps the store sound.
    pub(super) fn append(&mut self, token: u64, set: WriteSet) {
        assert!(self.queue.last().is_none_or(|(last, _)| *last < token), "tokens rise");
        for batch in &set.batches {
            let hash = batch.hash();
            assert!(!self.arrivals.contains_key(&hash), "a batch that is stored is appended again");
            assert!(!self.pruned.contains(&hash), "a batch that was pruned is appended again");
            assert!(self.coming.insert(hash), "a batch that is on its way is appended again");
            assert!(set.logs.iter().any(|record| record.key == log_of(batch)), "a batch comes with its log's record");
        }
        for record in &set.logs {
            self.latest.insert(record.key.clone(), record.clone());
        }
        self.queue.push((token, set));
        let (_, set) = &self.queue[self.queue.len() - 1];
        set.logs.iter().for_each(|record| self.check_record(record));
        for batch in &set.batches {
            self.check_place(batch);
        }
    }

    /// A batch lies on its parent, at the beginning, above what was pruned, or above a recorded hole.
    fn check_place(&self, batch: &VerifiedBatch) {
        let (header, record) = (batch.header(), &self.latest[&log_of(batch)]);
        let parent = header.parent;
        let on_parent = self.arrivals.contains_key(&parent) || self.coming.contains(&parent);
        let above_hole = record.holes.iter().any(|hole| hole.anchor == parent);
        let above_floor = self.pruned.contains(&parent) || header.first_seq <= record.floor + 1;
        assert!(header.first_seq == 1 || on_parent || above_hole || above_floor, "a batch hangs in the air");
    }

    fn check_record(&self, record: &LogRecord) {
        assert!(record.tips.len() <= MAX_TIPS, "tips are bounded");
        assert!(record.tips.is_sorted_by(|one, next| one < next), "tips are sorted, each once");
        assert!(record.holes.len() <= MAX_HOLES, "holes are bounded");
        assert!(record.holes.is_sorted(), "holes are sorted");
        for hole in &record.holes {
            assert!(1 <= hole.from && hole.from <= hole.to, "a hole is a range");
            assert!(hole.to > record.floor, "holes lie above the floor");
        }
        for tip in &record.tips {
            let known = self.arrivals.contains_key(&tip.hash) || self.coming.contains(&tip.hash);
            assert!(known || self.pruned.contains(&tip.hash), "a tip is a batch that is or was here");
        }
    }

    /// Makes the first `count` write sets durable. Returns the last one's token.
    pub(super) fn sync(&mut self, count: usize) -> Option<u64> {
        let mut last = None;
        for (token, set) in self.queue.drain(..count.min(self.queue.len())) {
            let mut arrivals = BTreeMap::new();
            for batch in set.batches {
                let chain = self.chains.last().copied().unwrap_or_default().extend(&batch.hash());
                self.chains.push(chain);
                let arrival = self.chains.len() as u64;
                self.coming.remove(&batch.hash());
                self.arrivals.insert(batch.hash(), arrival);
                arrivals.insert(log_of(&batch), Arrival(arrival));
                self.stored.insert(arrival, batch);
            }
            for mut record in set.logs {
                let old = self.records.get(&record.key).map(|old| old.last_arrival).unwrap_or_default();
                record.last_arrival = arrivals.get(&record.key).copied().unwrap_or(old);
                self.records.insert(record.key.clone(), record);
            }
            for arrival in set.pruned {
                let batch = self.stored.remove(&arrival.0).expect("only what is stored is pruned, once");
                self.arrivals.remove(&batch.hash());
                self.pruned.insert(batch.hash());
            }
            for (name, value) in set.marks {
                match value {
                    Some(value) => drop(self.marks.insert(name, value)),
                    None => drop(self.marks.remove(&name)),
                }
            }
            last = Some(token);
        }
        last
    }

    /// The power fails: what was not synced is gone.
    pub(super) fn lose_queue(&mut self) {
        self.queue.clear();
        self.coming.clear();
        self.latest = self.records.clone();
    }

    /// The counters of every log are those of what is stored.
    pub(super) fn check_counters(&self) {
        let mut found: BTreeMap<LogKey, (u64, u64)> = BTreeMap::new();
        for batch in self.stored.values() {
            let (events, bytes) = found.entry(log_of(batch)).or_default();
            *events += batch.header().count;
            *bytes += batch.bytes().len() as u64;
        }
        for (log, record) in &self.records {
            let expected = found.remove(log).unwrap_or_default();
            assert_eq!((record.events, record.bytes), expected, "events and bytes of {log:?} are counted right");
        }
        assert!(found.is_empty(), "every stored batch has a record of its log");
    }

    pub(super) fn bytes(&self) -> u64 {
        self.stored.values().map(|batch| batch.bytes().len() as u64).sum()
    }

    pub(super) fn position(&self) -> Position {
        let chain = self.chains.last().copied().unwrap_or_default();
        Position { epoch: EPOCH, arrival: Arrival(self.chains.len() as u64), chain }
    }

    pub(super) fn chain_at(&self, arrival: Arrival) -> Option<Chain> {
        self.chains.get(usize::try_from(arrival.0.checked_sub(1)?).ok()?).copied()
    }

    pub(super) fn memory_of(&self, peer: &Author) -> Option<Memory> {
        let mark = self.marks.get(&[MEMORY_MARK, &peer.0].concat())?;
        Some(Memory::decode(mark).expect("what is remembered of a peer was encoded by the replica"))
    }

    pub(super) fn has(&self, hash: &BatchHash) -> bool {
        self.arrivals.contains_key(hash) || self.pruned.contains(hash)
    }

    pub(super) fn find(&self, log: &LogKey, place: &(u64, BatchHash)) -> Option<Tip> {
        let batch = &self.stored[self.arrivals.get(&place.1)?];
        (log_of(batch) == *log && batch.header().last_seq() == place.0).then(|| batch.tip())
    }

    /// The batches that follow another, and the incarnations that sealed them.
    pub(super) fn children(&self, log: &LogKey, parent: &(u64, BatchHash)) -> Vec<(BatchHash, Incarnation)> {
        let follows = |batch: &&VerifiedBatch| {
            let header = batch.header();
            log_of(batch) == *log && (header.first_seq - 1, header.parent) == *parent
        };
        let children = self.stored.values().filter(follows);
        children.map(|batch| (batch.hash(), batch.header().incarnation)).collect()
    }

    pub(super) fn oldest(&self, after: Arrival, limit: usize) -> (Vec<OldBatch>, bool) {
        let old = |(arrival, batch): (&u64, &VerifiedBatch)| {
            OldBatch::of(Arrival(*arrival), batch, batch.bytes().len() as u64)
        };
        let batches: Vec<_> = self.stored.range(after.0 + 1..).take(limit).map(old).collect();
        let end = batches.len() < limit;
        (batches, end)
    }

    pub(super) fn keys(&self, topic: &Topic, before: Arrival, limit: usize) -> (Vec<KeyedBatch>, Arrival, bool) {
        let of_topic = |(_, batch): &(&u64, &VerifiedBatch)| batch.header().topic == *topic;
        let found = self.stored.range(..before.0).rev().filter(of_topic).take(limit);
        let batches: Vec<_> = found.map(|(arrival, batch)| KeyedBatch::of(Arrival(*arrival), batch)).collect();
        let next = batches.last().map_or(before, |last| last.batch.arrival);
        let end = batches.len() < limit;
        (batches, next, end)
    }

    pub(super) fn in_range(&self, range: &Range) -> Vec<VerifiedBatch> {
        let inside = |batch: &&VerifiedBatch| {
            log_of(batch) == range.log
                && batch.header().last_seq() > range.after
                && batch.header().first_seq <= range.upto
        };
        self.stored.values().filter(inside).cloned().collect()
    }
}
