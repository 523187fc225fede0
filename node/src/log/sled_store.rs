//! The sled log without its thread: for tools, and for the tests of the contract.

use std::path::Path;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{LogKey, LogRecord, Tip};
use roundelay_protocol::ids::{Arrival, BatchHash, Chain, Incarnation};
use roundelay_protocol::replica::OldBatch;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::WriteSet;

use super::LogOptions;
use super::disk;
use super::error::LogError;
use super::reader::LogReader;
use super::rewrite::RewriteStep;
use super::store::{Appended, Mark, Scan, Snapshot, Store};
use super::writer::Writer;

/// A store on disk, used from one thread.
pub struct SledStore {
    writer: Writer,
    reader: LogReader,
}

impl SledStore {
    /// Opens the store in a folder, or creates it.
    ///
    /// # Errors
    /// As [`super::Log::open`].
    pub fn open(dir: &Path, options: &LogOptions) -> Result<(Self, Snapshot), LogError> {
        let disk = disk::open(dir, options)?;
        let snapshot = disk.snapshot.clone();
        let reader = LogReader { shared: disk.shared.clone() };
        Ok((Self { writer: Writer::new(disk, options), reader }, snapshot))
    }

    /// Does a part of a rewrite of the store into a fresh one: copies about so many bytes, or changes the stores when all
    /// is copied. Syncs, and begins a rewrite, where none is under way. Call it until it is done or given up; the store may
    /// be used in between.
    ///
    /// # Errors
    /// When the store cannot go on: the outcome is unknown, reopen it.
    pub fn rewrite_step(&mut self, copy_bytes: usize) -> Result<RewriteStep, LogError> {
        if !self.writer.is_rewriting() {
            self.writer.sync()?;
            if let Err(why) = self.writer.start_rewrite() {
                return Ok(RewriteStep::GivenUp(why));
            }
        }
        let step = self.writer.step_rewrite(copy_bytes)?;
        self.writer.remover.wait();
        Ok(step)
    }

    /// A reader of this store.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.reader.shared.close();
    }
}

impl Store for SledStore {
    fn append(&mut self, set: WriteSet) -> Result<Appended, LogError> {
        self.writer.append(set)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.writer.sync()
    }

    fn last_arrival(&self) -> Arrival {
        self.reader.last_arrival()
    }

    fn scan(&self, after: Arrival, batches: usize, bytes: usize) -> Result<Vec<(Arrival, VerifiedBatch)>, LogError> {
        self.reader.scan(after, batches, bytes)
    }

    fn scan_topic(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        after: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        self.reader.scan_topic(topics, after, max_batches, max_bytes)
    }

    fn scan_back(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        before: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        self.reader.scan_back(topics, before, max_batches, max_bytes)
    }

    fn range(&self, key: &LogKey, after: u64, upto: u64, max_bytes: usize) -> Result<Vec<VerifiedBatch>, LogError> {
        self.reader.range(key, after, upto, max_bytes)
    }

    fn find(&self, key: &LogKey, last_seq: u64, hash: &BatchHash) -> Result<Option<Tip>, LogError> {
        self.reader.find(key, last_seq, hash)
    }

    fn children(&self, key: &LogKey, parent: (u64, BatchHash)) -> Result<Vec<(BatchHash, Incarnation)>, LogError> {
        self.reader.children(key, parent)
    }

    fn chain_at(&self, arrival: Arrival) -> Result<Option<Chain>, LogError> {
        self.reader.chain_at(arrival)
    }

    fn oldest(&self, after: Arrival, max: usize) -> Result<Vec<OldBatch>, LogError> {
        self.reader.oldest(after, max)
    }

    fn mark(&self, name: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.reader.mark(name)
    }

    fn marks(&self, prefix: &[u8]) -> Result<Vec<Mark>, LogError> {
        self.reader.marks(prefix)
    }

    fn record(&self, key: &LogKey) -> Result<Option<LogRecord>, LogError> {
        self.reader.record(key)
    }
}
