//! The contract of a log: what the sled log and the one in memory do alike.

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{LogKey, LogRecord, Tip};
use roundelay_protocol::ids::{Arrival, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::replica::OldBatch;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::WriteSet;

use super::error::LogError;

/// What a store holds when it is opened. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The random number of the store, given when it was created.
    pub epoch: StoreEpoch,
    /// The last arrival number that was given out; 0 in a new store.
    pub last_arrival: Arrival,
    /// The chain after that arrival.
    pub chain: Chain,
    /// The records of all logs.
    pub records: Vec<LogRecord>,
    /// Bytes of the batches in the store.
    pub batch_bytes: u64,
}

/// Where an appended write set ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The arrival number of its first batch; the others follow by one. Without batches: what the next one will get.
    pub first_arrival: Arrival,
    /// The last arrival number given out after it.
    pub last_arrival: Arrival,
    /// The chain after it.
    pub chain: Chain,
    /// Bytes of the batches in the store after it.
    pub batch_bytes: u64,
}

/// A part of a walk over the batches of some topics.
#[derive(Debug, Clone)]
pub struct Scan {
    /// What was found, in the order of the walk.
    pub batches: Vec<(Arrival, VerifiedBatch)>,
    /// Where to go on: everything up to here (down to here, when walking back) was looked at. Walking forwards it is
    /// the `after` of the next call, walking back the `before`.
    pub next: Arrival,
}

/// Durable batches, records of logs and marks. Reads show what is durable, and nothing else; only prunes may show
/// before they are.
pub trait Store {
    /// Adds a write set to what the next [`Store::sync`] makes durable. Batches must be new to the store. Records get
    /// the arrival of their log's last batch; logs without a record get one. Pruning comes first, and what is not there
    /// is passed over.
    ///
    /// # Errors
    /// When the store cannot go on: the outcome is unknown, reopen it.
    fn append(&mut self, set: WriteSet) -> Result<Appended, LogError>;

    /// Makes everything durable that was appended. Each write set is found whole or not at all after a crash, and
    /// never without those before it.
    ///
    /// # Errors
    /// When the store cannot go on: the outcome is unknown, reopen it.
    fn sync(&mut self) -> Result<(), LogError>;

    /// The last durable arrival.
    fn last_arrival(&self) -> Arrival;

    /// Batches beyond an arrival, ascending: at most `max_batches`, and not beyond `max_bytes` unless it is the first.
    /// An empty answer means that nothing beyond `after` was stored when it was asked for.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged. So it is with all reads.
    fn scan(
        &self,
        after: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Arrival, VerifiedBatch)>, LogError>;

    /// Like [`Store::scan`], for topics that are wanted. Bodies of others are not read. Looks at a bounded number of
    /// batches; [`Scan::next`] says how far it came.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn scan_topic(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        after: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError>;

    /// Like [`Store::scan_topic`], descending from before an arrival; `Arrival(u64::MAX)` is the end. When
    /// [`Scan::next`] is 1 or less the beginning was reached.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn scan_back(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        before: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError>;

    /// Batches on all lines of a log that end beyond `after` and start at `upto` or before, ascending by last sequence
    /// number and hash, not beyond `max_bytes` unless it is the first.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn range(&self, key: &LogKey, after: u64, upto: u64, max_bytes: usize) -> Result<Vec<VerifiedBatch>, LogError>;

    /// A batch of a log, as the tip of its line, if it is stored.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn find(&self, key: &LogKey, last_seq: u64, hash: &BatchHash) -> Result<Option<Tip>, LogError>;

    /// The batches of a log that follow another directly, by hash, with the incarnations that sealed them.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn children(&self, key: &LogKey, parent: (u64, BatchHash)) -> Result<Vec<(BatchHash, Incarnation)>, LogError>;

    /// The chain after an arrival. `None` when it is not reached yet, or so old that everything up to it and beyond was
    /// pruned.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn chain_at(&self, arrival: Arrival) -> Result<Option<Chain>, LogError>;

    /// The heads of up to `max` batches beyond an arrival, ascending.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn oldest(&self, after: Arrival, max: usize) -> Result<Vec<OldBatch>, LogError>;

    /// A mark's value.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn mark(&self, name: &[u8]) -> Result<Option<Vec<u8>>, LogError>;

    /// The marks whose names have a prefix, ascending by name.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn marks(&self, prefix: &[u8]) -> Result<Vec<Mark>, LogError>;

    /// What the store keeps about a log.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    fn record(&self, key: &LogKey) -> Result<Option<LogRecord>, LogError>;
}

/// A mark's name and value.
pub type Mark = (Vec<u8>, Vec<u8>);

/// Collects batches within two bounds.
pub(super) struct Collect {
    pub(super) batches: Vec<(Arrival, VerifiedBatch)>,
    max_batches: usize,
    bytes_left: usize,
}

impl Collect {
    pub(super) fn new(max_batches: usize, max_bytes: usize) -> Self {
        Self { batches: Vec::new(), max_batches, bytes_left: max_bytes }
    }

    /// Whether a batch of so many bytes still fits.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.batches.len() < self.max_batches && (self.batches.is_empty() || bytes <= self.bytes_left)
    }

    pub(super) fn push(&mut self, arrival: Arrival, batch: VerifiedBatch) {
        self.bytes_left = self.bytes_left.saturating_sub(batch.bytes().len());
        self.batches.push((arrival, batch));
    }
}
