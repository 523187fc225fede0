//! The new store of a salvage: a replica decides what goes in, as it does while a node runs.

use std::collections::VecDeque;
use std::path::Path;

use bytes::Bytes;
use roundelay_protocol::batch::{ParsedBatch, VerifiedBatch};
use roundelay_protocol::frame::Position;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::ids::{Author, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::replica::{Config, Effect, Input, Now, Replica, Source};
use roundelay_protocol::sign::{Signature, Signer};
use roundelay_protocol::topic::Pattern;
use roundelay_protocol::write_set::WriteSet;

use super::LogOptions;
use super::error::LogError;
use super::salvage::emptied;
use super::salvage_source::verified;
use super::sled_store::SledStore;
use super::store::{Appended, Mark, Store};

/// Writes, and bytes of batches in them, that become durable together.
const GROUP_WRITES: usize = 512;
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Records of logs in one of the last writes.
const GROUP_RECORDS: usize = 1024;

/// Names an author and signs nothing: a salvage seals no batch.
struct Nobody(Author);

impl Signer for Nobody {
    fn author(&self) -> Author {
        self.0
    }

    fn sign(&self, _message: &[u8]) -> Signature {
        Signature([0; Signature::BYTES])
    }
}

/// A store that is being filled.
pub(super) struct Sink {
    me: Author,
    store: SledStore,
    epoch: StoreEpoch,
    replica: Replica<Nobody>,
    now: Now,
    /// Appended, and the replica does not know yet that it is durable.
    appended: Vec<(u64, Appended)>,
    bytes: usize,
    events: u64,
}

impl Sink {
    /// Makes an empty store in a folder. `records` are those of the damaged one, as far as they can be read.
    pub(super) fn create(
        dir: &Path,
        options: &LogOptions,
        me: Author,
        records: Vec<LogRecord>,
        wall_ms: u64,
    ) -> Result<Self, LogError> {
        let (store, snapshot) = SledStore::open(dir, options)?;
        let now = Now { mono_ms: 0, wall_ms };
        let config = Config {
            incarnation: Incarnation(rand::random()),
            position: Position { epoch: snapshot.epoch, arrival: snapshot.last_arrival, chain: snapshot.chain },
            batch_bytes: 0,
            // The node prunes when it runs.
            cap_bytes: u64::MAX,
            // What was taken once stays taken.
            log_limits: LogLimits { total: usize::MAX, per_author: usize::MAX, per_topic: usize::MAX },
            max_gossip_bytes: 0,
            interest: Interest::new(vec![Pattern::all()], Vec::new()),
            rules: roundelay_protocol::rules::Rules::default(),
            arrival_times: roundelay_protocol::arrival_times::ArrivalTimes::default(),
            seed: rand::random(),
        };
        let records = records.iter().map(emptied).collect();
        let replica = Replica::new(Nobody(me), config, records, now);
        let epoch = snapshot.epoch;
        Ok(Self { me, store, epoch, replica, now, appended: Vec::new(), bytes: 0, events: 0 })
    }

    /// Events that were taken.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Takes a batch that the damaged store leads to.
    pub(super) fn take(&mut self, batch: VerifiedBatch) -> Result<(), LogError> {
        self.take_from(batch, Source::Salvage { stored: true })
    }

    fn take_from(&mut self, batch: VerifiedBatch, source: Source) -> Result<(), LogError> {
        self.feed(Input::Batch { batch, source })?;
        if self.appended.len() >= GROUP_WRITES || self.bytes >= GROUP_BYTES { self.sync() } else { Ok(()) }
    }

    /// Takes bytes that may be a batch, unless it is here.
    pub(super) fn take_found(&mut self, bytes: Bytes) -> Result<(), LogError> {
        let Ok(batch) = ParsedBatch::parse(bytes.clone()) else { return Ok(()) };
        let header = batch.header();
        let key = LogKey { topic: header.topic.clone(), author: header.author };
        if self.store.find(&key, header.last_seq(), &batch.hash())?.is_some() {
            return Ok(());
        }
        match verified(bytes) {
            Some(batch) => self.take_from(batch, Source::Salvage { stored: false }),
            None => Ok(()),
        }
    }

    fn feed(&mut self, input: Input) -> Result<(), LogError> {
        let mut todo = VecDeque::from(self.replica.handle(self.now, input));
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::Append { token, set } => {
                    self.bytes += set.batch_bytes();
                    self.events += set.batches.iter().map(|batch| batch.header().count).sum::<u64>();
                    self.appended.push((token, self.store.append(set)?));
                }
                Effect::Find { log, place, parent } => {
                    // The store only shows what is durable.
                    self.store.sync()?;
                    let known = self.store.find(&log, place.0, &place.1)?.is_some();
                    let parent = self.store.find(&log, parent.0, &parent.1)?;
                    // Cheats were told of when they came.
                    let answer = Input::Found { hash: place.1, known, parent, siblings: Vec::new() };
                    // Behind what is still to be done: write sets build on each other.
                    todo.extend(self.replica.handle(self.now, answer));
                }
                // There is nobody to tell.
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes durable what was taken, and tells the replica.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        self.store.sync()?;
        self.bytes = 0;
        for (token, appended) in std::mem::take(&mut self.appended) {
            let Appended { last_arrival, chain, batch_bytes, .. } = appended;
            let position = Position { epoch: self.epoch, arrival: last_arrival, chain };
            self.feed(Input::Stored { token, position, batch_bytes })?;
        }
        Ok(())
    }

    /// Writes the records of all logs, those of which nothing was salvaged too, and marks.
    pub(super) fn finish(mut self, marks: Vec<Mark>) -> Result<(), LogError> {
        while !self.appended.is_empty() {
            self.sync()?;
        }
        let me = self.me;
        let records = self.replica.logs().filter(|record| !record.tips.is_empty() || record.floor > 0).map(|record| {
            let mut record = record.clone();
            if record.key.author == me {
                // What is published from here on uses numbers anew that peers announced for what was lost.
                record.announced = record.announced.min(record.last_seq());
            }
            record
        });
        let records: Vec<LogRecord> = records.collect();
        for logs in records.chunks(GROUP_RECORDS) {
            self.store.append(WriteSet { logs: logs.to_vec(), ..WriteSet::default() })?;
        }
        let marks = marks.into_iter().map(|(name, value)| (name, Some(value))).collect();
        self.store.append(WriteSet { marks, ..WriteSet::default() })?;
        self.store.sync()
    }
}
