//! The log in memory: the same contract as the sled log, and a disk that forgets what was not synced.

use std::collections::BTreeMap;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{LogKey, LogRecord, Tip};
use roundelay_protocol::ids::{Arrival, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::replica::OldBatch;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::WriteSet;

use super::error::LogError;
use super::store::{Appended, Collect, Mark, Scan, Snapshot, Store};

/// A store in memory, for the simulator and for tests. Grows without a bound.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    epoch: StoreEpoch,
    durable: Durable,
    /// Appended since the last sync.
    pending: Vec<WriteSet>,
    last: Arrival,
    chain: Chain,
    /// Bytes of the batches, those in `pending` too.
    batch_bytes: u64,
}

#[derive(Debug, Clone, Default)]
struct Durable {
    /// All rows above the floor; `None` for pruned ones.
    rows: BTreeMap<Arrival, (Chain, Option<VerifiedBatch>)>,
    /// Rows before this were pruned and are gone; its own is still there.
    floor: Arrival,
    last: Arrival,
    chain: Chain,
    batch_bytes: u64,
    index: BTreeMap<(LogKey, u64, BatchHash), Arrival>,
    records: BTreeMap<LogKey, LogRecord>,
    marks: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Durable {
    fn apply(&mut self, set: WriteSet) {
        for arrival in set.pruned {
            self.prune(arrival);
        }
        let mut written = BTreeMap::new();
        for batch in set.batches {
            self.last.0 += 1;
            self.chain = self.chain.extend(&batch.hash());
            self.batch_bytes += batch.bytes().len() as u64;
            let key = LogKey { topic: batch.header().topic.clone(), author: batch.header().author };
            self.index.insert((key.clone(), batch.header().last_seq(), batch.hash()), self.last);
            written.insert(key, self.last);
            self.rows.insert(self.last, (self.chain, Some(batch)));
        }
        for mut record in set.logs {
            let before = self.records.get(&record.key).map_or(Arrival(0), |record| record.last_arrival);
            record.last_arrival = written.remove(&record.key).unwrap_or(before);
            self.records.insert(record.key.clone(), record);
        }
        for (key, arrival) in written {
            self.records.entry(key.clone()).or_insert_with(|| LogRecord::new(key)).last_arrival = arrival;
        }
        for (name, value) in set.marks {
            match value {
                Some(value) => self.marks.insert(name, value),
                None => self.marks.remove(&name),
            };
        }
    }

    fn prune(&mut self, arrival: Arrival) {
        let Some(batch) = self.rows.get_mut(&arrival).and_then(|(_, batch)| batch.take()) else { return };
        self.batch_bytes -= batch.bytes().len() as u64;
        let key = LogKey { topic: batch.header().topic.clone(), author: batch.header().author };
        self.index.remove(&(key, batch.header().last_seq(), batch.hash()));
        while let Some((_, None)) = self.rows.get(&Arrival(self.floor.0 + 1)) {
            self.rows.remove(&self.floor);
            self.floor.0 += 1;
        }
    }

    fn batches(&self) -> impl DoubleEndedIterator<Item = (Arrival, &VerifiedBatch)> {
        self.beyond(Arrival(0))
    }

    fn beyond(&self, after: Arrival) -> impl DoubleEndedIterator<Item = (Arrival, &VerifiedBatch)> {
        let rows = self.rows.range(Arrival(after.0.saturating_add(1))..);
        rows.filter_map(|(arrival, (_, batch))| batch.as_ref().map(|batch| (*arrival, batch)))
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(epoch: StoreEpoch) -> Self {
        let (durable, pending) = (Durable::default(), Vec::new());
        Self { epoch, durable, pending, last: Arrival(0), chain: Chain::default(), batch_bytes: 0 }
    }

    /// Makes the first `sets` of what was appended durable: what a crash may leave of it.
    pub fn sync_some(&mut self, sets: usize) {
        self.pending.drain(..sets.min(self.pending.len())).for_each(|set| self.durable.apply(set));
    }

    /// Forgets what was not synced, as a power cut does.
    pub fn crash(&mut self) {
        self.pending.clear();
        (self.last, self.chain) = (self.durable.last, self.durable.chain);
        self.batch_bytes = self.durable.batch_bytes;
    }

    /// The store's random number.
    #[must_use]
    pub fn epoch(&self) -> StoreEpoch {
        self.epoch
    }

    /// What the store holds. All of it is durable.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            epoch: self.epoch,
            last_arrival: self.durable.last,
            chain: self.durable.chain,
            records: self.durable.records.values().cloned().collect(),
            batch_bytes: self.durable.batch_bytes,
        }
    }

    /// Bytes that a set prunes, given what the sets before it prune.
    fn pruned_bytes(&self, set: &WriteSet) -> u64 {
        let mut arrivals = set.pruned.clone();
        arrivals.sort_unstable();
        arrivals.dedup();
        let earlier = |arrival| self.pending.iter().any(|set| set.pruned.contains(&arrival));
        let gone = arrivals.into_iter().filter(|arrival| !earlier(*arrival));
        gone.filter_map(|arrival| self.pending_batch(arrival)).map(|batch| batch.bytes().len() as u64).sum()
    }

    fn pending_batch(&self, arrival: Arrival) -> Option<&VerifiedBatch> {
        match arrival.0.checked_sub(self.durable.last.0 + 1) {
            Some(at) => self.pending.iter().flat_map(|set| &set.batches).nth(usize::try_from(at).ok()?),
            None => self.durable.rows.get(&arrival)?.1.as_ref(),
        }
    }

    fn collect<'a>(
        batches: impl Iterator<Item = (Arrival, &'a VerifiedBatch)>,
        topics: &dyn Fn(&Topic) -> bool,
        found: &mut Collect,
    ) -> Option<Arrival> {
        for (arrival, batch) in batches.filter(|(_, batch)| topics(&batch.header().topic)) {
            if !found.fits(batch.bytes().len()) {
                return Some(arrival);
            }
            found.push(arrival, batch.clone());
        }
        None
    }
}

impl Store for MemoryStore {
    fn append(&mut self, mut set: WriteSet) -> Result<Appended, LogError> {
        set.pruned.retain(|arrival| *arrival <= self.last);
        let first_arrival = Arrival(self.last.0 + 1);
        self.last.0 += set.batches.len() as u64;
        self.chain = set.batches.iter().fold(self.chain, |chain, batch| chain.extend(&batch.hash()));
        self.batch_bytes += set.batch_bytes() as u64;
        self.batch_bytes -= self.pruned_bytes(&set);
        self.pending.push(set);
        Ok(Appended { first_arrival, last_arrival: self.last, chain: self.chain, batch_bytes: self.batch_bytes })
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.sync_some(usize::MAX);
        Ok(())
    }

    fn last_arrival(&self) -> Arrival {
        self.durable.last
    }

    fn scan(&self, after: Arrival, batches: usize, bytes: usize) -> Result<Vec<(Arrival, VerifiedBatch)>, LogError> {
        Ok(self.scan_topic(&|_| true, after, batches, bytes)?.batches)
    }

    fn scan_topic(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        after: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        let mut found = Collect::new(max_batches, max_bytes);
        let beyond = self.durable.beyond(after);
        let stopped = Self::collect(beyond, topics, &mut found);
        let next = stopped.map_or(self.durable.last.max(after), |arrival| Arrival(arrival.0 - 1));
        Ok(Scan { batches: found.batches, next })
    }

    fn scan_back(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        before: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        let mut found = Collect::new(max_batches, max_bytes);
        let earlier = self.durable.batches().rev().filter(|(arrival, _)| *arrival < before);
        let stopped = Self::collect(earlier, topics, &mut found);
        Ok(Scan { batches: found.batches, next: stopped.map_or(Arrival(0), |arrival| Arrival(arrival.0 + 1)) })
    }

    fn range(&self, key: &LogKey, after: u64, upto: u64, max_bytes: usize) -> Result<Vec<VerifiedBatch>, LogError> {
        let mut found = Collect::new(usize::MAX, max_bytes);
        let from = (key.clone(), after.saturating_add(1), BatchHash::NONE);
        for (_, arrival) in self.durable.index.range(from..).take_while(|((of, ..), _)| of == key) {
            let Some((_, Some(batch))) = self.durable.rows.get(arrival) else { continue };
            if batch.header().first_seq > upto {
                continue;
            }
            if !found.fits(batch.bytes().len()) {
                break;
            }
            found.push(*arrival, batch.clone());
        }
        Ok(found.batches.into_iter().map(|(_, batch)| batch).collect())
    }

    fn find(&self, key: &LogKey, last_seq: u64, hash: &BatchHash) -> Result<Option<Tip>, LogError> {
        let arrival = self.durable.index.get(&(key.clone(), last_seq, *hash));
        let row = arrival.and_then(|arrival| self.durable.rows.get(arrival));
        Ok(row.and_then(|(_, batch)| batch.as_ref()).map(VerifiedBatch::tip))
    }

    fn children(&self, key: &LogKey, parent: (u64, BatchHash)) -> Result<Vec<(BatchHash, Incarnation)>, LogError> {
        let from = (key.clone(), parent.0, BatchHash::NONE);
        let of_log = self.durable.index.range(from..).take_while(|((of, ..), _)| of == key);
        let batches = of_log.filter_map(|(_, arrival)| self.durable.rows.get(arrival)?.1.as_ref());
        let follows = |batch: &&VerifiedBatch| {
            let header = batch.header();
            header.first_seq == parent.0 + 1 && header.parent == parent.1
        };
        Ok(batches.filter(follows).map(|batch| (batch.hash(), batch.header().incarnation)).collect())
    }

    fn chain_at(&self, arrival: Arrival) -> Result<Option<Chain>, LogError> {
        if arrival == Arrival(0) {
            return Ok((self.durable.floor == Arrival(0)).then(Chain::default));
        }
        Ok(self.durable.rows.get(&arrival).map(|(chain, _)| *chain))
    }

    fn oldest(&self, after: Arrival, max: usize) -> Result<Vec<OldBatch>, LogError> {
        let beyond = self.durable.beyond(after).take(max);
        Ok(beyond.map(|(arrival, batch)| OldBatch::of(arrival, batch, batch.bytes().len() as u64)).collect())
    }

    fn mark(&self, name: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.durable.marks.get(name).cloned())
    }

    fn marks(&self, prefix: &[u8]) -> Result<Vec<Mark>, LogError> {
        let from = self.durable.marks.range(prefix.to_vec()..).take_while(|(name, _)| name.starts_with(prefix));
        Ok(from.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn record(&self, key: &LogKey) -> Result<Option<LogRecord>, LogError> {
        Ok(self.durable.records.get(key).cloned())
    }
}
