//! Reads what is durable.

use std::collections::HashMap;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Chain};
use roundelay_protocol::limits::MAX_BATCH_WIRE_BYTES;
use roundelay_protocol::replica::OldBatch;
use roundelay_protocol::topic::Topic;
use tokio::sync::watch;

use super::disk::Shared;
use super::error::LogError;
use super::layout::{self, CHUNK_BYTES, LogId, Row, RowBatch};
use super::salvage::{SALVAGED_MARK, Salvaged};
use super::store::{Collect, Mark, Scan};
use crate::metrics::LogMeters;

/// Rows that one call looks at, so that it ends in bounded time.
const MAX_LOOKED: usize = 8192;

/// A batch's arrival number, and the stamps of its first and last event.
pub type Stamped = (Arrival, Hlc, Hlc);

/// Reads a log from any thread. Only ever shows what is durable. Cheap to clone. The methods block while they read
/// from disk; what comes from the tail of the log comes from memory.
#[derive(Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

impl LogReader {
    /// The last durable arrival; 0 in an empty store.
    #[must_use]
    pub fn last_arrival(&self) -> Arrival {
        self.shared.last()
    }

    /// Everything that arrived up to here was pruned.
    #[must_use]
    pub fn floor(&self) -> Arrival {
        self.shared.floor()
    }

    /// Follows [`Self::last_arrival`]: the wake-up of subscriptions.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arrival> {
        self.shared.durable.subscribe()
    }

    /// The store's folder.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.shared.dir
    }

    /// Bytes that the store takes in the file system. Pruned space is used again and not given back.
    #[must_use]
    pub fn size_on_disk(&self) -> u64 {
        std::fs::metadata(self.shared.dir.join("db")).map_or(0, |metadata| metadata.len())
    }

    /// Follows whether a read found the store damaged, and what. The next start looks at all of it then, and salvages.
    #[must_use]
    pub fn damage(&self) -> watch::Receiver<Option<String>> {
        self.shared.damage.subscribe()
    }

    /// What became of the store that was here before and was damaged, if one was.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn salvaged(&self) -> Result<Option<Salvaged>, LogError> {
        Ok(self.mark(SALVAGED_MARK)?.and_then(|value| serde_json::from_slice(&value).ok()))
    }

    /// What the log's thread measures.
    #[must_use]
    pub fn meters(&self) -> LogMeters {
        self.shared.meters.clone()
    }

    /// When what arrived with this number became durable; `None` when that is too long ago to be known.
    #[must_use]
    pub fn durable_since(&self, arrival: Arrival) -> Option<Instant> {
        self.shared.moments.lock().of(arrival)
    }

    /// Bytes that are free in the file system that holds the store; `None` when the system does not say.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        fs4::available_space(&self.shared.dir).ok()
    }

    /// See [`super::Store::scan`]. Read [`Self::last_arrival`] before: when the answer is empty, nothing is stored from
    /// `after` up to there.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn scan(
        &self,
        after: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Arrival, VerifiedBatch)>, LogError> {
        let last = self.last_arrival();
        let mut found = Collect::new(max_batches, max_bytes);
        if after >= last || max_batches == 0 {
            return Ok(found.batches);
        }
        if let Some(batches) = self.shared.tail.read().after(after) {
            for (arrival, batch) in batches {
                if !found.fits(batch.bytes().len()) {
                    break;
                }
                found.push(*arrival, batch.clone());
            }
            return Ok(found.batches);
        }
        self.shared.read(|db| {
            let mut expected = Arrival(after.max(self.shared.floor()).0 + 1);
            for entry in db.range(layout::row_key(expected)..=layout::row_key(last)) {
                let (arrival, value) = self.entry(entry)?;
                self.check_gone(db, expected, arrival)?;
                expected = Arrival(arrival.0 + 1);
                let Some(batch) = self.row(arrival, &value)?.batch else { continue };
                if !found.fits(batch.len as usize) {
                    return Ok(());
                }
                if let Some(batch) = self.whole(db, arrival, &batch)? {
                    found.push(arrival, batch);
                }
            }
            self.check_gone(db, expected, Arrival(last.0 + 1))
        })?;
        Ok(found.batches)
    }

    /// See [`super::Store::scan_topic`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn scan_topic(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        after: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        let last = self.last_arrival();
        // Nothing that is wanted lies beyond this, so nobody has to look there.
        let wanted = self.shared.directory.read().last_beyond(after, topics).map(|wanted| wanted.min(last));
        let Some(wanted) = wanted else { return Ok(Scan { batches: Vec::new(), next: last.max(after) }) };
        let mut found = Collect::new(max_batches, max_bytes);
        if let Some(batches) = self.shared.tail.read().after(after) {
            let mut next = after;
            for (arrival, batch) in batches.take_while(|(arrival, _)| *arrival <= wanted) {
                if topics(&batch.header().topic) {
                    if !found.fits(batch.bytes().len()) {
                        return Ok(Scan { batches: found.batches, next });
                    }
                    found.push(*arrival, batch.clone());
                }
                next = *arrival;
            }
            return Ok(Scan { batches: found.batches, next: last });
        }
        let first = Arrival(after.max(self.shared.floor()).0 + 1);
        let range = layout::row_key(first)..=layout::row_key(wanted);
        let stopped = self.walk(range, false, topics, &mut found)?;
        Ok(Scan { batches: found.batches, next: stopped.map_or(last, |arrival| Arrival(arrival.0 - 1)) })
    }

    /// See [`super::Store::scan_back`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn scan_back(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        before: Arrival,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<Scan, LogError> {
        let mut before = before.min(Arrival(self.last_arrival().0 + 1));
        let mut found = Collect::new(max_batches, max_bytes);
        let tail = self.shared.tail.read();
        for (arrival, batch) in tail.before(before) {
            if topics(&batch.header().topic) {
                if !found.fits(batch.bytes().len()) {
                    return Ok(Scan { batches: found.batches, next: before });
                }
                found.push(*arrival, batch.clone());
            }
            before = *arrival;
        }
        let before = before.min(Arrival(tail.start().0 + 1));
        drop(tail);
        let range = layout::row_key(self.shared.floor())..layout::row_key(before);
        let stopped = self.walk(range, true, topics, &mut found)?;
        Ok(Scan { batches: found.batches, next: stopped.map_or(Arrival(0), |arrival| Arrival(arrival.0 + 1)) })
    }

    /// Collects wanted batches. Returns where it stopped before the end, without having taken that one.
    fn walk(
        &self,
        range: impl RangeBounds<[u8; 9]>,
        back: bool,
        topics: &dyn Fn(&Topic) -> bool,
        found: &mut Collect,
    ) -> Result<Option<Arrival>, LogError> {
        let mut wanted: HashMap<LogId, bool> = HashMap::new();
        self.shared.read(|db| {
            let mut rows = db.range(range);
            let (mut looked, mut before) = (0, None);
            while let Some(entry) = if back { rows.next_back() } else { rows.next() } {
                let (arrival, value) = self.entry(entry)?;
                if let Some(Arrival(before)) = before.replace(arrival) {
                    self.check_gone(db, Arrival(before.min(arrival.0) + 1), Arrival(before.max(arrival.0)))?;
                }
                looked += 1;
                if looked > MAX_LOOKED {
                    return Ok(Some(arrival));
                }
                let Some(batch) = self.row(arrival, &value)?.batch else { continue };
                let matches = *wanted.entry(batch.log).or_insert_with(|| {
                    self.shared.directory.read().key(batch.log).is_some_and(|key| topics(&key.topic))
                });
                if !matches {
                    continue;
                }
                if !found.fits(batch.len as usize) {
                    return Ok(Some(arrival));
                }
                if let Some(batch) = self.whole(db, arrival, &batch)? {
                    found.push(arrival, batch);
                }
            }
            Ok(None)
        })
    }

    /// The wanted logs whose last batch arrived between two numbers, the second included, with its arrival number.
    #[must_use]
    pub fn last_written(
        &self,
        after: Arrival,
        upto: Arrival,
        topics: &dyn Fn(&Topic) -> bool,
    ) -> Vec<(LogKey, Arrival)> {
        self.shared.directory.read().last_between(after, upto, topics)
    }

    /// Whether any batch that arrived between two numbers was removed. True also when there are too many to look at.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn has_pruned(&self, after: Arrival, before: Arrival) -> Result<bool, LogError> {
        let count = before.0.saturating_sub(after.0).saturating_sub(1);
        if count == 0 {
            return Ok(false);
        }
        if after < self.shared.floor() || count > MAX_LOOKED as u64 {
            return Ok(true);
        }
        self.shared.read(|db| {
            let mut held = 0;
            for entry in db.range(layout::row_key(Arrival(after.0 + 1))..layout::row_key(before)) {
                let (arrival, value) = self.entry(entry)?;
                held += u64::from(self.row(arrival, &value)?.batch.is_some());
            }
            Ok(held < count)
        })
    }

    /// The last arrival number up to one whose batch was removed; 0 when none was. Looks at a bounded number of rows: where
    /// it comes to its bound, it takes what lies before for removed.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn last_pruned(&self, upto: Arrival) -> Result<Arrival, LogError> {
        let upto = upto.min(self.last_arrival());
        self.shared.read(|db| {
            let mut next = upto;
            for entry in db.range(layout::row_key(self.shared.floor())..=layout::row_key(upto)).rev().take(MAX_LOOKED) {
                let (arrival, value) = self.entry(entry)?;
                if arrival < next || self.row(arrival, &value)?.batch.is_none() {
                    break;
                }
                next = Arrival(arrival.0.saturating_sub(1));
            }
            Ok(next)
        })
    }

    /// The batch with an arrival number; `None` when it was pruned, or never was.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn batch(&self, arrival: Arrival) -> Result<Option<VerifiedBatch>, LogError> {
        if arrival == Arrival(0) || arrival > self.last_arrival() {
            return Ok(None);
        }
        self.shared.read(|db| self.batch_at(db, arrival))
    }

    /// The heads of wanted batches beyond an arrival number, up to one: arrival numbers, first and last stamps. Looks at
    /// a bounded number of batches; the second part of the answer says how far it came.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn stamps(
        &self,
        topics: &dyn Fn(&Topic) -> bool,
        after: Arrival,
        upto: Arrival,
    ) -> Result<(Vec<Stamped>, Arrival), LogError> {
        let (mut found, upto) = (Vec::new(), upto.min(self.last_arrival()));
        if after >= upto {
            return Ok((found, upto));
        }
        let stopped = self.shared.read(|db| {
            let rows = db.range(layout::row_key(Arrival(after.0 + 1))..=layout::row_key(upto));
            for (entry, looked) in rows.zip(1..) {
                let (arrival, value) = self.entry(entry)?;
                if let Some(batch) = self.row(arrival, &value)?.batch {
                    let key = self.shared.directory.read().key(batch.log).is_some_and(|key| topics(&key.topic));
                    if key {
                        let head = self.parse(arrival, Bytes::copy_from_slice(batch.head))?;
                        found.push((arrival, head.header().first_hlc, head.header().last_hlc));
                    }
                }
                if looked >= MAX_LOOKED {
                    return Ok(Some(arrival));
                }
            }
            Ok(None)
        })?;
        Ok((found, stopped.unwrap_or(upto)))
    }

    /// See [`super::Store::chain_at`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn chain_at(&self, arrival: Arrival) -> Result<Option<Chain>, LogError> {
        if arrival == Arrival(0) {
            return Ok((self.shared.floor() == Arrival(0)).then(Chain::default));
        }
        if arrival > self.last_arrival() {
            return Ok(None);
        }
        self.shared.read(|db| match db.get(layout::row_key(arrival)).map_err(LogError::reading(&self.shared.dir))? {
            Some(value) => Ok(Some(self.row(arrival, &value)?.chain)),
            None => Ok(None),
        })
    }

    /// See [`super::Store::oldest`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn oldest(&self, after: Arrival, max: usize) -> Result<Vec<OldBatch>, LogError> {
        let mut found = Vec::new();
        let last = self.last_arrival();
        if after >= last {
            return Ok(found);
        }
        self.shared.read(|db| {
            let first = Arrival(after.max(self.shared.floor()).0 + 1);
            for entry in db.range(layout::row_key(first)..=layout::row_key(last)) {
                if found.len() >= max {
                    break;
                }
                let (arrival, value) = self.entry(entry)?;
                if let Some(batch) = self.row(arrival, &value)?.batch {
                    let head = self.parse(arrival, Bytes::copy_from_slice(batch.head))?;
                    found.push(OldBatch::of(arrival, &head, u64::from(batch.len)));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// See [`super::Store::mark`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn mark(&self, name: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.masked(&layout::mark_key(name)).map(|value| value.map(|value| value.to_vec()))
    }

    /// See [`super::Store::marks`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn marks(&self, prefix: &[u8]) -> Result<Vec<Mark>, LogError> {
        let found = self.shared.read(|db| {
            self.shared.mask.scan(db, &layout::mark_key(prefix)).map_err(LogError::reading(&self.shared.dir))
        })?;
        Ok(found.into_iter().map(|(key, value)| (key[1..].to_vec(), value.to_vec())).collect())
    }

    /// See [`super::Store::record`].
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn record(&self, key: &LogKey) -> Result<Option<LogRecord>, LogError> {
        let Some(id) = self.shared.directory.read().id(key) else { return Ok(None) };
        let value = self.masked(&layout::record_key(id))?;
        value.map(|value| layout::decode_record(&value).map_err(|error| self.shared.damaged(error))).transpose()
    }

    /// Fails when there should be rows between two arrivals, the first of which is meant and the second not: rows go
    /// only from the beginning on.
    fn check_gone(&self, db: &sled::Db, from: Arrival, to: Arrival) -> Result<(), LogError> {
        // Rows only ever go, so what has none now needs no look.
        let from = from.max(self.shared.first_row());
        if from >= to {
            return Ok(());
        }
        // Prunes remove rows before the floor tells; while the writer is held it does. Without one there is no telling.
        let Some(_held) = self.shared.gate.hold() else { return Ok(()) };
        let from = from.max(self.shared.first_row());
        if from < to && db.get(layout::row_key(from)).map_err(LogError::reading(&self.shared.dir))?.is_none() {
            return Err(self.shared.damaged(format!("nothing is left of arrival {}", from.0)));
        }
        Ok(())
    }

    fn masked(&self, key: &[u8]) -> Result<Option<sled::IVec>, LogError> {
        self.shared.read(|db| self.shared.mask.get(db, key).map_err(LogError::reading(&self.shared.dir)))
    }

    pub(super) fn entry(
        &self,
        entry: sled::Result<(sled::IVec, sled::IVec)>,
    ) -> Result<(Arrival, sled::IVec), LogError> {
        let (key, value) = entry.map_err(LogError::reading(&self.shared.dir))?;
        let arrival = layout::row_arrival(&key).ok_or_else(|| self.shared.damaged("a row has a malformed key"))?;
        Ok((arrival, value))
    }

    pub(super) fn row<'a>(&self, arrival: Arrival, value: &'a [u8]) -> Result<Row<'a>, LogError> {
        Row::decode(value).ok_or_else(|| self.shared.damaged(format!("row {} is malformed", arrival.0)))
    }

    pub(super) fn parse(&self, arrival: Arrival, bytes: Bytes) -> Result<VerifiedBatch, LogError> {
        VerifiedBatch::from_store(bytes)
            .map_err(|error| self.shared.damaged(format!("batch {} does not parse: {error}", arrival.0)))
    }

    /// A batch by its arrival, from memory or disk; `None` when it was pruned.
    pub(super) fn batch_at(&self, db: &sled::Db, arrival: Arrival) -> Result<Option<VerifiedBatch>, LogError> {
        if let Some(batch) = self.shared.tail.read().get(arrival) {
            return Ok(Some(batch.clone()));
        }
        let value = db.get(layout::row_key(arrival)).map_err(LogError::reading(&self.shared.dir))?;
        let Some(value) = value else {
            return self.check_gone(db, arrival, Arrival(arrival.0 + 1)).map(|()| None);
        };
        match self.row(arrival, &value)?.batch {
            Some(batch) => self.whole(db, arrival, &batch),
            None => Ok(None),
        }
    }

    /// Puts a batch together; `None` when it was pruned meanwhile.
    fn whole(&self, db: &sled::Db, arrival: Arrival, row: &RowBatch<'_>) -> Result<Option<VerifiedBatch>, LogError> {
        match self.whole_bytes(db, arrival, row)? {
            Some(bytes) => VerifiedBatch::from_store_whole(bytes)
                .map(Some)
                .map_err(|error| self.shared.damaged(format!("batch {} is not what was stored: {error}", arrival.0))),
            None => Ok(None),
        }
    }

    /// The bytes of a batch; `None` when it was pruned meanwhile.
    pub(super) fn whole_bytes(
        &self,
        db: &sled::Db,
        arrival: Arrival,
        row: &RowBatch<'_>,
    ) -> Result<Option<Bytes>, LogError> {
        let len = row.len as usize;
        if len > MAX_BATCH_WIRE_BYTES {
            return Err(self.shared.damaged(format!("batch {} is said to have {len} bytes", arrival.0)));
        }
        let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
        bytes.extend_from_slice(row.head);
        let chunks = row.chunks();
        if chunks > 0 {
            let range = layout::chunk_key(arrival, 0)..layout::chunk_key(arrival, chunks);
            for chunk in db.range(range) {
                let (_, part) = chunk.map_err(LogError::reading(&self.shared.dir))?;
                if part.len() > CHUNK_BYTES {
                    return Err(self.shared.damaged(format!("a chunk of batch {} is too long", arrival.0)));
                }
                bytes.extend_from_slice(&part);
            }
        }
        if bytes.len() == len {
            return Ok(Some(bytes.into()));
        }
        let again = db.get(layout::row_key(arrival)).map_err(LogError::reading(&self.shared.dir))?;
        let pruned = match again {
            Some(value) => self.row(arrival, &value)?.batch.is_none(),
            None => true,
        };
        if pruned { Ok(None) } else { Err(self.shared.damaged(format!("chunks of batch {} are missing", arrival.0))) }
    }
}
