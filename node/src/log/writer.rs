//! Puts write sets on disk. There is one writer per store, on one thread.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::ids::{Arrival, Chain};
use roundelay_protocol::write_set::WriteSet;

use super::LogOptions;
use super::disk::{Disk, Shared};
use super::error::LogError;
use super::last_run::{self, Durable, Witness};
use super::layout::{
    self, CHUNK_BYTES, HEAD_BYTES, INLINE_BYTES, IndexEntry, LogId, Row, RowBatch, STORE_KEY, StoreRow,
};
use super::rewrite::{Remover, Rewrite};
use super::store::Appended;
use crate::metrics::LogMeters;

/// Rows that one write set looks at, to clear away those of pruned batches, beyond as many as it prunes.
const SPARE_SWEEP: usize = 1024;

/// The writing half of a store.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) db: sled::Db,
    pub(super) file: File,
    pub(super) store: StoreRow,
    pub(super) last: Arrival,
    pub(super) chain: Chain,
    total_bytes: u64,
    pending: Pending,
    pub(super) witness: Witness,
    pub(super) cache_bytes: u64,
    /// A fresh store that is being filled.
    pub(super) rewrite: Option<Rewrite>,
    pub(super) remover: Remover,
    /// Bytes of sled's file after the last rewrite; 0 when there was none.
    pub(super) bytes_after_last: u64,
    pruned_rows: u64,
    syncs: u64,
    fail_after_syncs: Option<u64>,
}

/// What was appended since the last sync.
#[derive(Default)]
struct Pending {
    /// Not given to sled yet.
    batch: sled::Batch,
    /// The same for the fresh store of a rewrite, while there is one.
    mirror: Option<sled::Batch>,
    /// Bytes in `batch`.
    bytes: usize,
    dirty: bool,
    /// Keys in `batch` whose durable values readers may ask for.
    covered: Vec<Vec<u8>>,
    /// Batches that readers may see after the sync.
    stored: Vec<(Arrival, VerifiedBatch)>,
    pruned: Vec<Arrival>,
    last_of_logs: HashMap<LogId, Arrival>,
    /// Rows, chunks and index entries that prunes touched.
    pruned_keys: Vec<Vec<u8>>,
}

impl Pending {
    fn insert(&mut self, key: &[u8], value: impl Into<sled::IVec>) {
        let value = value.into();
        self.bytes += key.len() + value.len();
        if let Some(mirror) = &mut self.mirror {
            mirror.insert(key, value.clone());
        }
        self.batch.insert(key, value);
        self.dirty = true;
    }

    fn remove(&mut self, key: &[u8]) {
        self.bytes += key.len();
        if let Some(mirror) = &mut self.mirror {
            mirror.remove(key);
        }
        self.batch.remove(key);
        self.dirty = true;
    }

    fn prune(&mut self, key: &[u8]) {
        self.remove(key);
        self.pruned_keys.push(key.to_vec());
    }
}

impl Writer {
    /// Takes over a store that was just opened.
    pub(super) fn new(disk: Disk, options: &LogOptions) -> Self {
        let witness = Witness::open(&disk.shared.dir);
        Self {
            cache_bytes: options.sled_cache_bytes,
            rewrite: None,
            remover: Remover::default(),
            bytes_after_last: last_run::rewritten(&disk.shared.dir),
            last: disk.snapshot.last_arrival,
            chain: disk.snapshot.chain,
            total_bytes: disk.total_bytes,
            shared: disk.shared,
            db: disk.db,
            file: disk.file,
            store: disk.store,
            pending: Pending::default(),
            witness,
            syncs: 0,
            pruned_rows: options.pruned_rows,
            fail_after_syncs: options.fail_after_syncs,
        }
    }

    pub(super) fn meters(&self) -> &LogMeters {
        &self.shared.meters
    }

    /// The store's folder.
    pub(super) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Adds a write set to what the next [`Self::sync`] writes. After an error the writer must not be used again.
    pub(super) fn append(&mut self, set: WriteSet) -> Result<Appended, LogError> {
        let reads = !set.pruned.is_empty() || set.batches.iter().any(|batch| !has_record(&set, &log_of(batch)));
        if reads {
            self.apply()?;
        }
        self.prune(&set.pruned)?;
        let first_arrival = Arrival(self.last.0 + 1);
        let mut written = BTreeSet::new();
        for batch in set.batches {
            written.insert(self.append_batch(batch));
        }
        for record in set.logs {
            let id = self.id_of(&record.key);
            written.remove(&id);
            self.append_record(id, record);
        }
        for id in written {
            let record = self.stored_record(id)?;
            self.append_record(id, record);
        }
        for (name, value) in set.marks {
            let key = layout::mark_key(&name);
            match value {
                Some(value) => self.pending.insert(&key, value),
                None => self.pending.remove(&key),
            }
            self.pending.covered.push(key);
        }
        Ok(Appended { first_arrival, last_arrival: self.last, chain: self.chain, batch_bytes: self.batch_bytes() })
    }

    /// Bytes of the batches in the store.
    pub(super) fn batch_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.store.pruned_bytes)
    }

    /// Whether everything that was appended is synced.
    pub(super) fn is_clean(&self) -> bool {
        !self.pending.dirty && self.pending.stored.is_empty() && self.pending.pruned_keys.is_empty()
    }

    /// Whether what is appended from here on shall go to the fresh store of a rewrite, too.
    pub(super) fn mirror_writes(&mut self, mirror: bool) {
        self.pending.mirror = mirror.then(sled::Batch::default);
    }

    fn append_batch(&mut self, batch: VerifiedBatch) -> LogId {
        let header = batch.header();
        let log = self.id_of(&log_of(&batch));
        let bytes = batch.bytes();
        self.last.0 += 1;
        self.chain = self.chain.extend(&batch.hash());
        self.total_bytes += bytes.len() as u64;
        let (head, body) = bytes.split_at(if bytes.len() <= INLINE_BYTES { bytes.len() } else { HEAD_BYTES });
        // A batch is at most about a mebibyte.
        let len = bytes.len() as u32;
        let row = Row { chain: self.chain, total_bytes: self.total_bytes, batch: Some(RowBatch { log, len, head }) };
        let entry = IndexEntry { arrival: self.last, first_seq: header.first_seq, last_hlc: header.last_hlc, len };
        self.pending.insert(&layout::row_key(self.last), row.encode());
        for (chunk, part) in (0..).zip(body.chunks(CHUNK_BYTES)) {
            self.pending.insert(&layout::chunk_key(self.last, chunk), part);
        }
        self.pending.insert(&layout::index_key(log, header.last_seq(), &batch.hash()), &entry.encode());
        self.pending.last_of_logs.insert(log, self.last);
        self.pending.stored.push((self.last, batch));
        log
    }

    fn append_record(&mut self, id: LogId, mut record: LogRecord) {
        // Callers may not have heard yet of the last batch that they appended, so this is always the store's.
        let pending = self.pending.last_of_logs.get(&id).copied();
        record.last_arrival = pending.or_else(|| self.shared.directory.read().last_arrival(id)).unwrap_or(Arrival(0));
        let key = layout::record_key(id);
        self.pending.insert(&key, layout::encode_record(&record));
        self.pending.covered.push(key.to_vec());
    }

    fn id_of(&mut self, key: &LogKey) -> LogId {
        if let Some(id) = self.shared.directory.read().id(key) {
            return id;
        }
        let mut directory = self.shared.directory.write();
        let id = directory.next_id();
        directory.insert(id, key.clone(), Arrival(0));
        id
    }

    fn stored_record(&self, id: LogId) -> Result<LogRecord, LogError> {
        match self.db.get(layout::record_key(id)).map_err(LogError::reading(&self.shared.dir))? {
            Some(value) => layout::decode_record(&value).map_err(|error| self.shared.damaged(error)),
            None => {
                let directory = self.shared.directory.read();
                directory.key(id).cloned().map(LogRecord::new).ok_or_else(|| self.shared.damaged("a log has no name"))
            }
        }
    }

    /// Removes batches, and rows from the beginning on that have none any more.
    fn prune(&mut self, arrivals: &[Arrival]) -> Result<(), LogError> {
        if arrivals.is_empty() {
            return Ok(());
        }
        let mut gone = BTreeSet::new();
        // What is named twice is removed once: sled does not show the removal before it is applied.
        for arrival in arrivals.iter().copied().collect::<BTreeSet<_>>() {
            if self.prune_batch(arrival)? {
                gone.insert(arrival);
            }
        }
        for _ in 0..gone.len() + SPARE_SWEEP {
            let next = Arrival(self.store.floor.0 + 1);
            let has_none = |row: Option<Row<'_>>| row.map_or(next <= self.store.thinned, |row| row.batch.is_none());
            let pruned = next <= self.last && (gone.contains(&next) || self.with_row(next, has_none)?);
            if !pruned {
                break;
            }
            if self.store.floor.0 > 0 {
                self.pending.prune(&layout::row_key(self.store.floor));
            }
            self.store.floor = next;
        }
        self.thin_out(gone.len() + SPARE_SWEEP, &gone)?;
        self.pending.pruned.extend(gone);
        self.pending.insert(STORE_KEY, &self.store.encode()[..]);
        Ok(())
    }

    /// Removes rows of batches that were pruned long ago. Between batches that stay for long, such as the last ones of quiet
    /// logs, they would pile up for ever.
    fn thin_out(&mut self, max_looked: usize, gone: &BTreeSet<Arrival>) -> Result<(), LogError> {
        let upto = Arrival(self.last.0.saturating_sub(self.pruned_rows.max(1)));
        self.store.thinned = self.store.thinned.max(self.store.floor.min(upto));
        if self.store.thinned >= upto {
            return Ok(());
        }
        let first = layout::row_key(Arrival(self.store.thinned.0 + 1));
        let (mut looked, mut thinned) = (0, upto);
        for entry in self.db.range(first..=layout::row_key(upto)) {
            let (key, value) = entry.map_err(LogError::reading(&self.shared.dir))?;
            let arrival = layout::row_arrival(&key).ok_or_else(|| self.shared.damaged("a row has a malformed key"))?;
            if looked == max_looked {
                thinned = Arrival(arrival.0 - 1);
                break;
            }
            looked += 1;
            let is_pruned = Row::decode(&value).is_some_and(|row| row.batch.is_none()) || gone.contains(&arrival);
            if is_pruned && arrival != self.store.floor {
                self.pending.prune(&key);
            }
        }
        self.store.thinned = thinned;
        Ok(())
    }

    /// Says whether there was a batch to remove.
    fn prune_batch(&mut self, arrival: Arrival) -> Result<bool, LogError> {
        let shared = self.shared.clone();
        let found = self.with_row(arrival, |row| {
            let row = row?;
            let batch = row.batch?;
            let head = VerifiedBatch::from_store(bytes::Bytes::copy_from_slice(batch.head));
            let gone = Row { batch: None, ..row };
            Some((batch.log, batch.len, batch.chunks(), gone.encode(), head))
        })?;
        let Some((log, len, chunks, gone, head)) = found else { return Ok(false) };
        let head = head.map_err(|error| shared.damaged(format!("batch {}: {error}", arrival.0)))?;
        for chunk in 0..chunks {
            self.pending.prune(&layout::chunk_key(arrival, chunk));
        }
        self.pending.prune(&layout::index_key(log, head.header().last_seq(), &head.hash()));
        self.pending.prune(&layout::row_key(arrival));
        if arrival > self.store.thinned {
            self.pending.insert(&layout::row_key(arrival), gone);
        }
        self.store.pruned_bytes += u64::from(len);
        Ok(true)
    }

    fn with_row<T>(&self, arrival: Arrival, look: impl FnOnce(Option<Row<'_>>) -> T) -> Result<T, LogError> {
        let value = self.db.get(layout::row_key(arrival)).map_err(LogError::reading(&self.shared.dir))?;
        let row = match &value {
            Some(value) => {
                Some(Row::decode(value).ok_or_else(|| self.shared.damaged(format!("row {} is malformed", arrival.0)))?)
            }
            None => None,
        };
        Ok(look(row))
    }

    /// Gives sled what it has not got yet: whole write sets, at once.
    fn apply(&mut self) -> Result<(), LogError> {
        if !self.pending.dirty {
            return Ok(());
        }
        self.shared.gate.start_writing();
        let dir = &self.shared.dir;
        self.shared.mask.cover(&self.db, self.pending.covered.drain(..)).map_err(LogError::reading(dir))?;
        let batch = std::mem::take(&mut self.pending.batch);
        let bytes = std::mem::take(&mut self.pending.bytes);
        self.pending.dirty = false;
        self.db.apply_batch(batch).map_err(|error| LogError::write(dir, error))?;
        if let (Some(mirror), Some(rewrite)) = (&mut self.pending.mirror, &mut self.rewrite) {
            rewrite.mirror(std::mem::take(mirror), bytes);
        }
        Ok(())
    }

    /// Makes durable and visible what was appended. After an error the outcome is unknown and the writer must not be
    /// used again.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        let shared = self.shared.clone();
        self.apply()?;
        self.db.flush().map_err(|error| LogError::write(&shared.dir, error))?;
        if self.fail_after_syncs.is_some_and(|limit| self.syncs >= limit) {
            return Err(LogError::write(&shared.dir, "a failure that a test asked for"));
        }
        self.file.sync_data().map_err(|error| LogError::write(&shared.dir, error))?;
        self.syncs += 1;
        if shared.last() != self.last {
            let (epoch, arrival, chain) = (self.store.epoch, self.last, self.chain);
            self.witness.write(&Durable { epoch, arrival, chain });
        }
        self.publish();
        shared.gate.end_writing(self.pending.pruned_keys.drain(..));
        Ok(())
    }

    fn publish(&mut self) {
        let shared = &self.shared;
        shared.mask.clear();
        shared.floor.store(self.store.floor.0, Ordering::Release);
        shared.thinned.store(self.store.thinned.0, Ordering::Release);
        let mut tail = shared.tail.write();
        for (arrival, batch) in self.pending.stored.drain(..) {
            tail.push(arrival, batch);
        }
        self.pending.pruned.drain(..).for_each(|arrival| tail.remove(arrival));
        drop(tail);
        let mut directory = shared.directory.write();
        self.pending.last_of_logs.drain().for_each(|(id, arrival)| directory.advance(id, arrival));
        drop(directory);
        if shared.last() != self.last {
            shared.moments.lock().push(self.last);
            shared.durable.send_replace(self.last);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.gate.close();
        self.give_up(String::new());
        self.remover.wait();
    }
}

fn log_of(batch: &VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

fn has_record(set: &WriteSet, key: &LogKey) -> bool {
    set.logs.iter().any(|record| record.key == *key)
}
