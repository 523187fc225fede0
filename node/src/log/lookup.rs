//! Reads what is durable of one log, by its index.

use std::ops::ControlFlow;

use bytes::Bytes;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{LogKey, Tip};
use roundelay_protocol::ids::{Arrival, BatchHash, Incarnation};
use roundelay_protocol::limits::MAX_BATCH_EVENTS;

use super::error::LogError;
use super::layout::{self, IndexEntry};
use super::reader::LogReader;
use super::store::{Collect, Scan};

impl LogReader {
    /// See [`super::Store::range`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn range(&self, key: &LogKey, after: u64, upto: u64, max_bytes: usize) -> Result<Vec<VerifiedBatch>, LogError> {
        let mut found = Collect::new(usize::MAX, max_bytes);
        let last = self.last_arrival();
        self.index(key, after.saturating_add(1), u64::MAX, |db, last_seq, _, entry| {
            // No batch that ends so late can start early enough.
            if last_seq - (MAX_BATCH_EVENTS as u64 - 1).min(last_seq) > upto {
                return Ok(ControlFlow::Break(()));
            }
            if entry.first_seq > upto || entry.arrival > last {
                return Ok(ControlFlow::Continue(()));
            }
            if !found.fits(entry.len as usize) {
                return Ok(ControlFlow::Break(()));
            }
            if let Some(batch) = self.batch_at(db, entry.arrival)? {
                found.push(entry.arrival, batch);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found.batches.into_iter().map(|(_, batch)| batch).collect())
    }

    /// Like [`LogReader::scan_back`], of logs that are given: by their indexes, of which each call looks at all. So its cost
    /// follows what is stored of these logs, and not what is stored beside them.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn scan_logs_back<'a>(
        &self,
        logs: impl Iterator<Item = &'a LogKey>,
        before: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        let before = before.min(Arrival(self.last_arrival().0 + 1));
        let mut entries = Vec::new();
        for key in logs {
            self.index(key, 0, u64::MAX, |_, _, _, entry| {
                if entry.arrival < before {
                    entries.push((entry.arrival, entry.len));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        entries.sort_unstable_by(|one, other| other.cmp(one));
        let mut found = Collect::new(max_batches, max_bytes);
        for (arrival, len) in entries {
            if !found.fits(len as usize) {
                return Ok(Scan { batches: found.batches, next: Arrival(arrival.0 + 1) });
            }
            if let Some(batch) = self.shared.read(|db| self.batch_at(db, arrival))? {
                found.push(arrival, batch);
            }
        }
        Ok(Scan { batches: found.batches, next: Arrival(0) })
    }

    /// Walks a log's index entries whose last sequence numbers are in a range.
    pub(super) fn index(
        &self,
        key: &LogKey,
        from: u64,
        to: u64,
        mut visit: impl FnMut(&sled::Db, u64, BatchHash, IndexEntry) -> Result<ControlFlow<()>, LogError>,
    ) -> Result<(), LogError> {
        let Some(log) = self.shared.directory.read().id(key) else { return Ok(()) };
        let (lowest, highest) = (BatchHash::NONE, BatchHash([u8::MAX; 32]));
        if from > to {
            return Ok(());
        }
        self.shared.read(|db| {
            for entry in db.range(layout::index_key(log, from, &lowest)..=layout::index_key(log, to, &highest)) {
                let (key, value) = entry.map_err(LogError::reading(&self.shared.dir))?;
                let (Some((_, last_seq, hash)), Some(entry)) = (layout::index_parts(&key), IndexEntry::decode(&value))
                else {
                    return Err(self.shared.damaged(format!("an index entry of {log} is malformed")));
                };
                if visit(db, last_seq, hash, entry)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The first sequence number of the first batch of a log that arrived beyond a number. Where batches of the log arrived
    /// in another order than that of their numbers, it may be a later one.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn first_beyond(&self, key: &LogKey, after: Arrival) -> Result<Option<u64>, LogError> {
        let top = self.record(key)?.map_or(0, |record| record.last_seq());
        let (mut low, mut high, mut first) = (1, top.saturating_add(1), None);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut found = None;
            self.index(key, middle, u64::MAX, |_, last_seq, _, entry| {
                found = Some((last_seq, entry));
                Ok(ControlFlow::Break(()))
            })?;
            match found {
                Some((last_seq, entry)) if entry.arrival <= after => low = last_seq.saturating_add(1),
                found => {
                    high = middle;
                    first = found.map(|(_, entry)| entry.first_seq).or(first);
                }
            }
        }
        Ok(first)
    }

    /// See [`super::Store::find`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn find(&self, key: &LogKey, last_seq: u64, hash: &BatchHash) -> Result<Option<Tip>, LogError> {
        let Some(log) = self.shared.directory.read().id(key) else { return Ok(None) };
        let last = self.last_arrival();
        self.shared.read(|db| {
            let value = db.get(layout::index_key(log, last_seq, hash)).map_err(LogError::reading(&self.shared.dir))?;
            let Some(value) = value else { return Ok(None) };
            let entry = IndexEntry::decode(&value);
            let entry = entry.ok_or_else(|| self.shared.damaged("an index entry is malformed"))?;
            Ok((entry.arrival <= last).then_some(Tip { seq: last_seq, hash: *hash, hlc: entry.last_hlc }))
        })
    }

    /// See [`super::Store::children`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn children(&self, key: &LogKey, parent: (u64, BatchHash)) -> Result<Vec<(BatchHash, Incarnation)>, LogError> {
        let mut found = Vec::new();
        let (first, last) = (parent.0.saturating_add(1), self.last_arrival());
        self.index(key, first, first.saturating_add(MAX_BATCH_EVENTS as u64 - 1), |db, _, hash, entry| {
            if entry.first_seq == first && entry.arrival <= last {
                let value = db.get(layout::row_key(entry.arrival)).map_err(LogError::reading(&self.shared.dir))?;
                let row = value.as_ref().map(|value| self.row(entry.arrival, value)).transpose()?;
                if let Some(batch) = row.and_then(|row| row.batch) {
                    let head = self.parse(entry.arrival, Bytes::copy_from_slice(batch.head))?;
                    if head.header().parent == parent.1 {
                        found.push((hash, head.header().incarnation));
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// The arrival numbers of a log's last batches, the last first, down to the first that ended before a time.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn last_arrivals(&self, key: &LogKey, since_ms: u64, max: usize) -> Result<Vec<Arrival>, LogError> {
        let Some(log) = self.shared.directory.read().id(key) else { return Ok(Vec::new()) };
        let (lowest, highest) = (BatchHash::NONE, BatchHash([u8::MAX; 32]));
        let last = self.last_arrival();
        self.shared.read(|db| {
            let mut found = Vec::new();
            let entries = db.range(layout::index_key(log, 0, &lowest)..=layout::index_key(log, u64::MAX, &highest));
            for entry in entries.rev() {
                let (_, value) = entry.map_err(LogError::reading(&self.shared.dir))?;
                let entry = IndexEntry::decode(&value);
                let entry = entry.ok_or_else(|| self.shared.damaged("an index entry is malformed"))?;
                if entry.last_hlc.as_ms() < since_ms || found.len() >= max {
                    break;
                }
                if entry.arrival <= last {
                    found.push(entry.arrival);
                }
            }
            Ok(found)
        })
    }
}
