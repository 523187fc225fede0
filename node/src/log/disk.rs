//! Opens sled, and keeps what the writer and the readers of one store share.

use std::fs::{self, File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::{Arrival, Chain, StoreEpoch};
use tokio::sync::watch;

use super::directory::Directory;
use super::error::LogError;
use super::gate::Gate;
use super::last_run;
use super::layout::{self, FORMAT, Row, STORE_KEY, StoreRow};
use super::mask::Mask;
use super::moments::Moments;
use super::rewrite;
use super::tail::Tail;
use super::{LogOptions, Snapshot};
use crate::metrics::LogMeters;

/// Sled's unit of writing and reuse. With [`layout::CHUNK_BYTES`] it was chosen by measurement: a quarter of it is the
/// most that a leaf may take before it becomes a blob file.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// A store that was just closed in this process may be held a moment longer by sled's own threads.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What the writer and the readers of one store share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    /// `None` once the log was closed, so that the folder can be opened again while readers are still around.
    db: RwLock<Option<sled::Db>>,
    pub(super) directory: RwLock<Directory>,
    pub(super) mask: Mask,
    pub(super) tail: RwLock<Tail>,
    /// Arrival numbers up to here have no rows.
    pub(super) floor: AtomicU64,
    pub(super) thinned: AtomicU64,
    /// The last durable arrival.
    pub(super) durable: watch::Sender<Arrival>,
    /// Lets a backup look between two groups of writes.
    pub(super) gate: Gate,
    /// What was found damaged first.
    pub(super) damage: watch::Sender<Option<String>>,
    pub(super) meters: LogMeters,
    /// When arrivals became durable.
    pub(super) moments: Mutex<Moments>,
}

impl Shared {
    /// Runs a read on sled, whose panics mean damage.
    pub(super) fn read<T>(&self, read: impl FnOnce(&sled::Db) -> Result<T, LogError>) -> Result<T, LogError> {
        let guard = self.db.read();
        let db = guard.as_ref().ok_or(LogError::Closed)?;
        let outcome = catch_unwind(AssertUnwindSafe(|| read(db)))
            .unwrap_or_else(|panic| Err(LogError::damaged(&self.dir, panic_text(&*panic))));
        if let Err(LogError::Damaged { detail, .. }) = &outcome {
            self.report_damage(detail);
        }
        outcome
    }

    /// Leaves word for the next start, and tells whoever follows [`Self::damage`].
    fn report_damage(&self, detail: &str) {
        self.damage.send_if_modified(|known| {
            let is_new = known.is_none();
            if is_new {
                last_run::note_failure(&self.dir, detail);
                *known = Some(detail.to_owned());
            }
            is_new
        });
    }

    pub(super) fn last(&self) -> Arrival {
        *self.durable.borrow()
    }

    pub(super) fn floor(&self) -> Arrival {
        Arrival(self.floor.load(Ordering::Acquire))
    }

    /// From here on every arrival number has a row.
    pub(super) fn first_row(&self) -> Arrival {
        let (floor, thinned) = (self.floor(), self.thinned.load(Ordering::Acquire));
        if thinned >= floor.0 { Arrival(thinned + 1) } else { floor }
    }

    pub(super) fn damaged(&self, what: impl std::fmt::Display) -> LogError {
        LogError::damaged(&self.dir, what.to_string())
    }

    /// Holds readers off, to give them another store. `None` when they do not let go in time.
    pub(super) fn try_replace(&self, patience: Duration) -> Option<RwLockWriteGuard<'_, Option<sled::Db>>> {
        self.db.try_write_for(patience)
    }

    /// Lets go of sled. Readers get [`LogError::Closed`] from here on.
    pub(super) fn close(&self) {
        drop(self.db.write().take());
        *self.tail.write() = Tail::new(Arrival(u64::MAX), 0);
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the storage engine panicked: {}", text.unwrap_or("no reason given"))
}

/// A store that was just opened.
pub(super) struct Disk {
    pub(super) shared: std::sync::Arc<Shared>,
    pub(super) db: sled::Db,
    /// A second handle to sled's file, for the sync that sled leaves out.
    pub(super) file: File,
    pub(super) store: StoreRow,
    pub(super) total_bytes: u64,
    pub(super) snapshot: Snapshot,
}

/// Opens the store in a folder, or creates it, and makes durable what is found.
pub(super) fn open(dir: &Path, options: &LogOptions) -> Result<Disk, LogError> {
    catch_unwind(AssertUnwindSafe(|| open_unguarded(dir, options)))
        .unwrap_or_else(|panic| Err(LogError::damaged(dir, panic_text(&*panic))))
}

fn open_unguarded(dir: &Path, options: &LogOptions) -> Result<Disk, LogError> {
    let (db, file) = open_sled(dir, options.sled_cache_bytes)?;
    let store = match db.get(STORE_KEY).map_err(LogError::reading(dir))? {
        Some(value) => match StoreRow::decode(&value) {
            Some(Ok(store)) => store,
            Some(Err(found)) => return Err(LogError::Format { dir: dir.to_owned(), found, known: FORMAT }),
            None => return Err(LogError::damaged(dir, "the value that describes the store is malformed")),
        },
        None if db.iter().next().is_none() => create(dir, &db)?,
        None => return Err(LogError::damaged(dir, "the value that describes the store is missing")),
    };
    // What a killed process left in the page cache is found again, so it must be durable before anybody is told of it.
    file.sync_all().map_err(LogError::folder(dir))?;
    let (last_arrival, chain, total_bytes) = last_row(dir, &db)?;
    let records = records(dir, &db)?;
    let mut directory = Directory::default();
    for (id, record) in (0..).zip(&records) {
        directory.insert(id, record.key.clone(), record.last_arrival);
    }
    let shared = Shared {
        dir: dir.to_owned(),
        db: RwLock::new(Some(db.clone())),
        directory: RwLock::new(directory),
        mask: Mask::default(),
        tail: RwLock::new(Tail::new(last_arrival, options.tail_cache_bytes)),
        floor: AtomicU64::new(store.floor.0),
        thinned: AtomicU64::new(store.thinned.0),
        durable: watch::Sender::new(last_arrival),
        gate: Gate::default(),
        damage: watch::Sender::new(None),
        meters: LogMeters::default(),
        moments: Mutex::new(Moments::new(last_arrival)),
    };
    let leftover = rewrite::leftover_path(dir);
    if let Err(error) = rewrite::remove_leftover(&leftover) {
        tracing::warn!(%error, path = %leftover.display(), "cannot remove what a rewrite of the log left");
    }
    let batch_bytes = total_bytes.saturating_sub(store.pruned_bytes);
    let snapshot = Snapshot { epoch: store.epoch, last_arrival, chain, records, batch_bytes };
    Ok(Disk { shared: shared.into(), db, file, store, total_bytes, snapshot })
}

/// Opens sled and a second handle to its file.
pub(super) fn open_sled(dir: &Path, cache_bytes: u64) -> Result<(sled::Db, File), LogError> {
    fs::create_dir_all(dir).map_err(LogError::folder(dir))?;
    // Sled's own flusher stays off: every flush here is followed by a sync.
    let config =
        sled::Config::new().path(dir).cache_capacity(cache_bytes).segment_size(SEGMENT_BYTES).flush_every_ms(None);
    let started = Instant::now();
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if started.elapsed() > LOCK_PATIENCE {
                    return Err(LogError::InUse { dir: dir.to_owned() });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(sled::Error::Io(source)) => return Err(LogError::Folder { dir: dir.to_owned(), source }),
            Err(other) => return Err(LogError::damaged(dir, other.to_string())),
        }
    };
    let file = OpenOptions::new().write(true).open(dir.join("db")).map_err(LogError::folder(dir))?;
    Ok((db, file))
}

fn create(dir: &Path, db: &sled::Db) -> Result<StoreRow, LogError> {
    let store = StoreRow { epoch: StoreEpoch(rand::random()), floor: Arrival(0), pruned_bytes: 0, thinned: Arrival(0) };
    db.insert(STORE_KEY, &store.encode()[..]).map_err(|error| LogError::write(dir, error))?;
    db.flush().map_err(|error| LogError::write(dir, error))?;
    sync_folder(dir).map_err(LogError::folder(dir))?;
    Ok(store)
}

/// Makes a new store's files and their names durable.
pub(super) fn sync_folder(dir: &Path) -> std::io::Result<()> {
    for name in ["db", "conf"] {
        File::open(dir.join(name))?.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

pub(super) fn last_row(dir: &Path, db: &sled::Db) -> Result<(Arrival, Chain, u64), LogError> {
    let Some(last) = db.scan_prefix(b"a").next_back() else { return Ok((Arrival(0), Chain::default(), 0)) };
    let (key, value) = last.map_err(LogError::reading(dir))?;
    match (layout::row_arrival(&key), Row::decode(&value)) {
        (Some(arrival), Some(row)) => Ok((arrival, row.chain, row.total_bytes)),
        _ => Err(LogError::damaged(dir, "the last row is malformed")),
    }
}

fn records(dir: &Path, db: &sled::Db) -> Result<Vec<LogRecord>, LogError> {
    let mut records = Vec::new();
    for entry in db.scan_prefix(b"l") {
        let (key, value) = entry.map_err(LogError::reading(dir))?;
        if layout::record_id(&key).map(|id| id as usize) != Some(records.len()) {
            return Err(LogError::damaged(dir, format!("the record of log {} is missing", records.len())));
        }
        let record = layout::decode_record(&value);
        records.push(record.map_err(|error| LogError::damaged(dir, format!("the record of a log: {error}")))?);
    }
    Ok(records)
}
