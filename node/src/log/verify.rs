//! Checks everything that is stored.

use std::ops::ControlFlow;

use roundelay_protocol::batch::{BatchError, Header, ParsedBatch, VerifiedBatch};
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::ids::{Arrival, BatchHash, Chain};
use roundelay_protocol::sign::Ed25519Verifier;

use super::error::LogError;
use super::layout::{self, IndexEntry, RowBatch};
use super::reader::LogReader;

/// Problems that are kept; more are counted.
const MAX_PROBLEMS: usize = 1000;
/// Arrivals between two calls of the progress callback.
const PROGRESS_STEP: u64 = 256;
/// Times that a log is looked at again when it was written meanwhile.
const MAX_TRIES: usize = 5;

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Batches that were checked.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Logs that were checked.
    pub logs: u64,
    /// What is wrong: the first thousand.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl VerifyReport {
    fn add(&mut self, problem: Problem) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Something in a store that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing is left of an arrival number.
    #[error("nothing is left of arrival {}", .0.0)]
    RowMissing(Arrival),
    /// A row or its chunks cannot be read.
    #[error("arrival {} cannot be read: {detail}", .arrival.0)]
    Unreadable {
        /// Its place.
        arrival: Arrival,
        /// What is wrong with it.
        detail: String,
    },
    /// A batch is not what its author signed.
    #[error("the batch of arrival {}: {error}", .arrival.0)]
    Batch {
        /// Its place.
        arrival: Arrival,
        /// What is wrong with it.
        error: BatchError,
    },
    /// The chain up to here is not that of the batches.
    #[error("the chain at arrival {} does not follow from the batches", .0.0)]
    Chain(Arrival),
    /// A batch is not in the index, or elsewhere there.
    #[error("the index does not lead to arrival {}", .0.0)]
    Index(Arrival),
    /// A batch's parent is not stored, and neither pruned nor recorded as a hole.
    #[error("the parent of arrival {} is missing and nothing says why", .0.0)]
    Parent(Arrival),
    /// A batch is not later than its parent.
    #[error("the batch of arrival {} is not later than its parent", .0.0)]
    Time(Arrival),
    /// The index leads to a batch that is not there.
    #[error("the index of {key:?} leads to arrival {}, where no such batch is", .arrival.0)]
    Dangling {
        /// The log.
        key: LogKey,
        /// Where it leads.
        arrival: Arrival,
    },
    /// A tip is neither stored nor pruned.
    #[error("{key:?} has a tip at {seq} that is not stored")]
    Tip {
        /// The log.
        key: LogKey,
        /// The tip's sequence number.
        seq: u64,
    },
    /// The record counts other events or bytes than are stored.
    #[error("the record of {key:?} says {recorded} {what}, stored are {found}")]
    Count {
        /// The log.
        key: LogKey,
        /// Events or bytes.
        what: &'static str,
        /// What the record says.
        recorded: u64,
        /// What is there.
        found: u64,
    },
}

/// Checks every stored batch: its form, its body, its signature, its link to its parent, its place in the index, the
/// chain, and what the records say. The log may be in use; what arrives meanwhile is not looked at. Calls `progress`
/// with arrivals done and in all. Blocks.
///
/// # Errors
/// When the store cannot be read at all. Whatever is wrong with single batches is in the report.
pub fn verify(reader: &LogReader, mut progress: impl FnMut(u64, u64)) -> Result<VerifyReport, LogError> {
    let last = reader.last_arrival();
    let floor = reader.shared.floor();
    let total = last.0 - floor.0.min(last.0);
    let mut report = VerifyReport::default();
    let mut chain = (floor == Arrival(0)).then(Chain::default);
    let mut from = if floor == Arrival(0) { Arrival(1) } else { floor };
    while from <= last {
        let to = last.min(Arrival(from.0 + PROGRESS_STEP - 1));
        verify_rows(reader, from, to, &mut chain, &mut report)?;
        progress(to.0 - floor.0, total);
        from = Arrival(to.0 + 1);
    }
    let logs: Vec<LogKey> = reader.shared.directory.read().keys().cloned().collect();
    for key in logs {
        verify_log(reader, &key, last, &mut report)?;
    }
    Ok(report)
}

/// Checks the batches beyond an arrival, and that the tips of all logs are stored.
pub(super) fn verify_end(reader: &LogReader, after: Arrival) -> Result<VerifyReport, LogError> {
    let mut report = VerifyReport::default();
    let (after, last) = (after.max(reader.shared.floor()), reader.last_arrival());
    if after < last {
        let mut chain = reader.chain_at(after)?;
        verify_rows(reader, Arrival(after.0 + 1), last, &mut chain, &mut report)?;
    }
    let logs: Vec<LogKey> = reader.shared.directory.read().keys().cloned().collect();
    for key in logs {
        let Some(record) = reader.record(&key)? else { continue };
        for tip in record.tips.iter().filter(|tip| tip.seq > record.floor) {
            if reader.find(&key, tip.seq, &tip.hash)?.is_none() {
                report.add(Problem::Tip { key: key.clone(), seq: tip.seq });
            }
        }
    }
    Ok(report)
}

fn verify_rows(
    reader: &LogReader,
    from: Arrival,
    to: Arrival,
    chain: &mut Option<Chain>,
    report: &mut VerifyReport,
) -> Result<(), LogError> {
    let mut expected = from;
    let mut rows = reader.shared.read(|db| {
        let range = db.range(layout::row_key(from)..=layout::row_key(to));
        range.map(|entry| reader.entry(entry)).collect::<Result<Vec<_>, _>>()
    })?;
    rows.push((Arrival(to.0 + 1), sled::IVec::default()));
    for (arrival, value) in rows {
        while expected < arrival {
            // Rows may go while this runs; while the writer is held, the store says up to where.
            if expected >= reader.shared.first_row() {
                let _held = reader.shared.gate.hold();
                if expected >= reader.shared.first_row() {
                    report.add(Problem::RowMissing(expected));
                }
            }
            *chain = None;
            expected.0 += 1;
        }
        if arrival > to {
            break;
        }
        expected.0 += 1;
        match reader.row(arrival, &value) {
            Ok(row) => {
                let hash = row.batch.map(|batch| verify_batch(reader, arrival, &batch, report)).transpose()?.flatten();
                if let (Some(before), Some(hash)) = (*chain, hash)
                    && before.extend(&hash) != row.chain
                {
                    report.add(Problem::Chain(arrival));
                }
                *chain = Some(row.chain);
            }
            Err(error) => {
                report.add(Problem::Unreadable { arrival, detail: error.to_string() });
                *chain = None;
            }
        }
    }
    Ok(())
}

/// Returns the hash of a batch that could be read.
fn verify_batch(
    reader: &LogReader,
    arrival: Arrival,
    row: &RowBatch<'_>,
    report: &mut VerifyReport,
) -> Result<Option<BatchHash>, LogError> {
    let bytes = match reader.shared.read(|db| reader.whole_bytes(db, arrival, row)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(LogError::Closed) => return Err(LogError::Closed),
        Err(error) => {
            report.add(Problem::Unreadable { arrival, detail: error.to_string() });
            return Ok(None);
        }
    };
    let len = bytes.len() as u64;
    let batch = match ParsedBatch::parse(bytes).and_then(|batch| batch.verify(&Ed25519Verifier)) {
        Ok(batch) => batch,
        Err(error) => {
            report.add(Problem::Batch { arrival, error });
            return Ok(None);
        }
    };
    report.batches += 1;
    report.events += batch.header().count;
    report.bytes += len;
    if let Some(problem) = find_problem(reader, arrival, row, &batch)? {
        // Pruning may have come between; while the writer is held it cannot.
        let _held = reader.shared.gate.hold();
        let again = reader.chain_at(arrival)?.is_some() && is_stored(reader, arrival)?;
        if again && find_problem(reader, arrival, row, &batch)?.is_some() {
            report.add(problem);
        }
    }
    Ok(Some(batch.hash()))
}

fn is_stored(reader: &LogReader, arrival: Arrival) -> Result<bool, LogError> {
    Ok(reader.oldest(Arrival(arrival.0 - 1), 1)?.first().is_some_and(|stored| stored.arrival == arrival))
}

/// Looks at how a batch fits in with the others.
fn find_problem(
    reader: &LogReader,
    arrival: Arrival,
    row: &RowBatch<'_>,
    batch: &VerifiedBatch,
) -> Result<Option<Problem>, LogError> {
    let header = batch.header();
    let key = LogKey { topic: header.topic.clone(), author: header.author };
    let index = layout::index_key(row.log, header.last_seq(), &batch.hash());
    let named = reader.shared.directory.read().key(row.log) == Some(&key);
    let entry = reader.shared.read(|db| db.get(index).map_err(LogError::reading(&reader.shared.dir)))?;
    let expected = IndexEntry { arrival, first_seq: header.first_seq, last_hlc: header.last_hlc, len: row.len };
    if !named || entry.as_deref().and_then(IndexEntry::decode) != Some(expected) {
        return Ok(Some(Problem::Index(arrival)));
    }
    if header.parent == BatchHash::NONE {
        return Ok(None);
    }
    match reader.find(&key, header.first_seq - 1, &header.parent)? {
        Some(parent) if parent.hlc < header.first_hlc => Ok(None),
        Some(_) => Ok(Some(Problem::Time(arrival))),
        None => {
            let explained = reader.record(&key)?.is_some_and(|record| explains(&record, header));
            Ok((!explained).then_some(Problem::Parent(arrival)))
        }
    }
}

/// Whether a record says why a batch's parent is missing.
fn explains(record: &LogRecord, header: &Header) -> bool {
    let before = header.first_seq - 1;
    record.floor >= before || record.holes.iter().any(|hole| hole.to == before && hole.anchor == header.parent)
}

/// Checks a log's index and record against each other, again if they were written meanwhile.
fn verify_log(reader: &LogReader, key: &LogKey, last: Arrival, report: &mut VerifyReport) -> Result<(), LogError> {
    report.logs += 1;
    for attempt in 1..=MAX_TRIES {
        let record = reader.record(key)?;
        let mut problems = verify_index(reader, key, last, record.as_ref())?;
        if problems.is_empty() {
            return Ok(());
        }
        if attempt == MAX_TRIES {
            let _held = reader.shared.gate.hold();
            problems = verify_index(reader, key, last, reader.record(key)?.as_ref())?;
            problems.into_iter().for_each(|problem| report.add(problem));
        }
    }
    Ok(())
}

fn verify_index(
    reader: &LogReader,
    key: &LogKey,
    last: Arrival,
    record: Option<&LogRecord>,
) -> Result<Vec<Problem>, LogError> {
    let (mut events, mut bytes, mut problems) = (0, 0, Vec::new());
    reader.index(key, 0, u64::MAX, |db, last_seq, hash, entry| {
        events += last_seq + 1 - entry.first_seq.min(last_seq);
        bytes += u64::from(entry.len);
        let row = db.get(layout::row_key(entry.arrival)).map_err(LogError::reading(&reader.shared.dir))?;
        let batch = row.as_deref().and_then(|row| layout::Row::decode(row)?.batch);
        let head = batch.map(|batch| VerifiedBatch::from_store(bytes::Bytes::copy_from_slice(batch.head)));
        let same = head.is_some_and(|head| head.is_ok_and(|head| head.hash() == hash));
        if !same && entry.arrival <= last && problems.len() < MAX_PROBLEMS {
            problems.push(Problem::Dangling { key: key.clone(), arrival: entry.arrival });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let Some(record) = record else { return Ok(problems) };
    for tip in &record.tips {
        if tip.seq > record.floor && reader.find(key, tip.seq, &tip.hash)?.is_none() {
            problems.push(Problem::Tip { key: key.clone(), seq: tip.seq });
        }
    }
    for (what, recorded, found) in [("events", record.events, events), ("bytes", record.bytes, bytes)] {
        if recorded != found {
            problems.push(Problem::Count { key: key.clone(), what, recorded, found });
        }
    }
    Ok(problems)
}
