//! Reads a damaged store for what can still be read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use roundelay_protocol::batch::{ParsedBatch, VerifiedBatch};
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::limits::MAX_BATCH_WIRE_BYTES;
use roundelay_protocol::sign::Ed25519Verifier;

use super::disk;
use super::last_run::Durable;
use super::layout::{self, INLINE_BYTES, Row, STORE_KEY, StoreRow};
use super::store::Mark;

/// Bytes of sled's cache while a damaged store is read.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Logs that may be missing in a row before the last one is taken to be reached.
const MAX_MISSING_LOGS: u32 = 1024;
/// Bytes of sled's file that are looked through at once.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of batches that are kept of what is found there.
const MAX_FOUND_BYTES: usize = 128 * 1024 * 1024;
/// How every batch of this format begins: eleven items, version 1, 32 bytes of author.
const BATCH_START: [u8; 4] = [0x8b, 0x01, 0x58, 0x20];

/// A damaged store. Whatever cannot be read is passed over.
pub(super) struct Source {
    dir: PathBuf,
    /// `None` when sled refuses it in every way.
    db: Option<sled::Db>,
}

impl Source {
    /// Opens it without what sled can make anew, where it refuses: first its snapshot, which it makes of its log, then
    /// the file with its settings, which are always ours.
    pub(super) fn open(dir: &Path) -> Self {
        let mut db = open_quietly(dir);
        for part in ["snap.", "conf"] {
            if db.is_none() {
                put_away(dir, part);
                db = open_quietly(dir);
            }
        }
        Self { dir: dir.to_owned(), db }
    }

    /// Reads, where sled's panics and errors mean that there is nothing.
    fn try_read<T>(&self, read: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Option<T> {
        let db = self.db.as_ref()?;
        catch_unwind(AssertUnwindSafe(|| read(db))).ok()?.ok()
    }

    fn get(&self, key: &[u8]) -> Option<sled::IVec> {
        self.try_read(|db| db.get(key)).flatten()
    }

    /// The records that can be read, unless none can.
    pub(super) fn records(&self) -> Option<Vec<LogRecord>> {
        let (mut records, mut missing) = (Vec::new(), 0);
        for id in 0.. {
            match self.get(&layout::record_key(id)).and_then(|value| layout::decode_record(&value).ok()) {
                Some(record) => {
                    records.push(record);
                    missing = 0;
                }
                None => missing += 1,
            }
            if missing > MAX_MISSING_LOGS {
                break;
            }
        }
        (!records.is_empty()).then_some(records)
    }

    /// The marks that can be read.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let mut marks = Vec::new();
        // What was read before an error stays.
        self.try_read(|db| {
            for entry in db.scan_prefix(b"m") {
                let (key, value) = entry?;
                marks.push((key[1..].to_vec(), value.to_vec()));
            }
            Ok(())
        });
        marks
    }

    fn last_row(&self) -> Arrival {
        let last = self.try_read(|db| db.scan_prefix(b"a").next_back().transpose()).flatten();
        last.and_then(|(key, _)| layout::row_arrival(&key)).unwrap_or(Arrival(0))
    }

    /// Whether it ends before it was durable, so that its records are those of an earlier time.
    pub(super) fn is_rolled_back(&self) -> bool {
        Durable::read(&self.dir).is_some_and(|durable| durable.arrival > self.last_row())
    }

    /// All arrival numbers that may have a batch.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = Arrival> + use<> {
        let floor = self.get(STORE_KEY).and_then(|value| StoreRow::decode(&value)?.ok()).map_or(0, |row| row.floor.0);
        let last = Durable::read(&self.dir).map_or(0, |durable| durable.arrival.0).max(self.last_row().0);
        let last = if self.db.is_some() { last } else { 0 };
        (floor.max(1)..=last).map(Arrival)
    }

    /// A batch, if all of it is there and it verifies.
    pub(super) fn batch(&self, arrival: Arrival) -> Option<VerifiedBatch> {
        let value = self.get(&layout::row_key(arrival))?;
        let row = Row::decode(&value)?.batch?;
        if row.len as usize > MAX_BATCH_WIRE_BYTES {
            return None;
        }
        let mut bytes = row.head.to_vec();
        for chunk in 0..row.chunks() {
            bytes.extend_from_slice(&self.get(&layout::chunk_key(arrival, chunk))?);
        }
        verified(bytes.into())
    }
}

/// Looks for whole batches in the file of a damaged store, whatever sled makes of it. To be done before sled opens it once
/// more: what sled takes for torn it overwrites. Returns each once, up to [`MAX_FOUND_BYTES`].
pub(super) fn find_in_file(dir: &Path) -> Vec<Bytes> {
    let (mut found, mut known, mut found_bytes) = (Vec::new(), BTreeSet::new(), 0);
    let Ok(file) = File::open(dir.join("db")) else { return found };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut window = vec![0; WINDOW_BYTES + INLINE_BYTES];
    for offset in (0..length).step_by(WINDOW_BYTES) {
        let Some(bytes) = read_window(&file, offset, &mut window) else { continue };
        for at in starts(bytes).filter(|at| (4..WINDOW_BYTES + 4).contains(at)) {
            // Its length stands before it in its row.
            let length = u32::from_be_bytes([bytes[at - 4], bytes[at - 3], bytes[at - 2], bytes[at - 1]]) as usize;
            let Some(batch) = bytes.get(at..at + length).filter(|_| length <= INLINE_BYTES) else { continue };
            let batch = Bytes::copy_from_slice(batch);
            let Ok(parsed) = ParsedBatch::parse(batch.clone()) else { continue };
            if found_bytes < MAX_FOUND_BYTES && known.insert(parsed.hash()) {
                found_bytes += batch.len();
                found.push(batch);
            }
        }
    }
    found
}

/// A batch that verifies.
pub(super) fn verified(bytes: Bytes) -> Option<VerifiedBatch> {
    ParsedBatch::parse(bytes).and_then(|batch| batch.verify(&Ed25519Verifier)).ok()
}

/// What can be read of a window; a bad block costs the whole of it.
fn read_window<'a>(file: &File, offset: u64, window: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut length = 0;
    while length < window.len() {
        match file.read_at(&mut window[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(&window[..length])
}

fn starts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.windows(BATCH_START.len()).enumerate().filter(|(_, part)| *part == BATCH_START).map(|(at, _)| at)
}

fn open_quietly(dir: &Path) -> Option<sled::Db> {
    let opened = catch_unwind(AssertUnwindSafe(|| disk::open_sled(dir, CACHE_BYTES)));
    match opened {
        Ok(Ok((db, _))) => Some(db),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the storage engine refuses the damaged log");
            None
        }
        Err(_) => None,
    }
}

/// Renames files so that sled does not see them any more. They stay with the damaged store.
fn put_away(dir: &Path, prefix: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let away = dir.join(format!("refused-{}", entry.file_name().to_string_lossy()));
            if let Err(error) = fs::rename(entry.path(), away) {
                tracing::warn!(%error, "cannot put a refused file away");
            }
        }
    }
}
