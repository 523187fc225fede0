//! Gives space back to the file system. Sled uses the space of what was removed again and gives none back, so what lives
//! is copied into a fresh store beside, which then takes the place of the old one.
//!
//! It is done by the log's thread, in small steps between two groups of writes. From the start on every write goes to both
//! stores, and a cursor walks over the keys of the old one: what is copied later than it was written is copied twice, and
//! nothing is missed. When the cursor is at the end, and the fresh store is synced, the two folders change their names in
//! one atomic step, and the old one is removed. Readers go on with the fresh store at their next read. A crash at any moment
//! leaves a whole store under the log's name, and beside it at most a leftover, which the next start removes.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use roundelay_protocol::ids::{Arrival, Chain};

use super::disk::{self, panic_text};
use super::error::LogError;
use super::last_run::{self, Durable, Witness};
use super::layout::{STORE_KEY, StoreRow};
use super::writer::Writer;
use super::{sync_parent, with_suffix};

/// A file smaller than this is never rewritten unasked.
const MIN_BYTES: u64 = 64 * 1024 * 1024;
/// A store is rewritten when its file has more than so many bytes for each byte of a batch; two is usual.
const BATCH_FACTOR: u64 = 4;
/// And more than so many times what it had after it was last rewritten, so that one of very small batches, which never
/// comes below [`BATCH_FACTOR`], is left alone.
const LAST_FACTOR: u64 = 2;
/// What a key counts for beside its value.
const KEY_BYTES: usize = 96;
/// The fresh store is synced after so many bytes, so that the last sync is short.
const SYNC_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a rewrite leaves free on the disk: as many as let the node take events of others, and some more.
const SPARE_BYTES: u64 = 192 * 1024 * 1024;
/// How long the change of stores waits for readers, who wait for it meanwhile.
const READERS_PATIENCE: Duration = Duration::from_millis(5);

/// What a rewrite of the store brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteReport {
    /// Bytes of sled's file before.
    pub bytes_before: u64,
    /// Bytes of sled's file after.
    pub bytes_after: u64,
}

/// What a step of a rewrite led to.
#[derive(Debug)]
pub enum RewriteStep {
    /// There is more to copy.
    Copied,
    /// All is copied. The change of stores waits for readers or a backup to let go.
    Waiting,
    /// The fresh store is in use.
    Done(RewriteReport),
    /// The store goes on as it was; says why.
    GivenUp(String),
}

/// A fresh store that is being filled.
pub(super) struct Rewrite {
    path: PathBuf,
    db: sled::Db,
    file: File,
    /// Keys from here on are to be copied.
    next: Vec<u8>,
    /// Rows beyond this were written to both stores.
    last: Arrival,
    /// Bytes since the last sync.
    unsynced: usize,
    bytes_before: u64,
    /// Why it cannot go on.
    failed: Option<String>,
}

impl Rewrite {
    fn start(dir: &Path, last: Arrival, bytes_before: u64, cache_bytes: u64) -> Result<Self, LogError> {
        let path = leftover_path(dir);
        remove_leftover(&path).map_err(LogError::folder(&path))?;
        let (db, file) = disk::open_sled(&path, cache_bytes)?;
        Ok(Self { path, db, file, next: Vec::new(), last, unsynced: 0, bytes_before, failed: None })
    }

    /// Takes a write that the old store got, too.
    pub(super) fn mirror(&mut self, batch: sled::Batch, bytes: usize) {
        if self.failed.is_some() {
            return;
        }
        let applied = guard(|| self.db.apply_batch(batch).map_err(|error| error.to_string()));
        self.failed = applied.err();
        self.unsynced += bytes;
    }

    /// Copies about so many bytes. Says whether that was all.
    fn copy(&mut self, old: &disk::Shared, max_bytes: usize) -> Result<bool, String> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let (mut batch, mut bytes) = (sled::Batch::default(), 0);
        let all = old.read(|db| {
            while bytes < max_bytes {
                let Some(entry) = db.range(self.next.as_slice()..).next() else { return Ok(true) };
                let (first, _) = entry.map_err(LogError::reading(&old.dir))?;
                if let Some(section) = self.section_after(&first) {
                    self.next = section;
                    continue;
                }
                for entry in db.range(first..) {
                    let (key, value) = entry.map_err(LogError::reading(&old.dir))?;
                    if bytes >= max_bytes || self.section_after(&key).is_some() {
                        self.next = key.to_vec();
                        break;
                    }
                    bytes += KEY_BYTES + value.len();
                    self.next = [&key, &[0][..]].concat();
                    batch.insert(key, value);
                }
            }
            Ok(false)
        });
        let all = all.map_err(|error| error.to_string())?;
        guard(|| {
            self.db.apply_batch(batch).map_err(|error| error.to_string())?;
            self.db.flush().map_err(|error| error.to_string())
        })?;
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES {
            self.sync().map_err(|error| error.to_string())?;
            if fs4::available_space(&self.path).is_ok_and(|free| free < SPARE_BYTES) {
                return Err("the disk has too little room left".into());
            }
        }
        Ok(all)
    }

    /// Where to go on when a row or chunk was written to both stores: such keys are the last of their kind.
    fn section_after(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (kind @ (b'a' | b'b'), rest) = key.split_first()? else { return None };
        (rest.first_chunk()? > &self.last.0.to_be_bytes()).then(|| vec![kind + 1])
    }

    fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.file.sync_data()
    }

    /// Makes the fresh store durable, with its folder.
    fn settle(&mut self, durable: &Durable) -> Result<u64, String> {
        guard(|| self.db.flush().map_err(|error| error.to_string()))?;
        let settle = || -> io::Result<u64> {
            self.file.sync_data()?;
            Witness::open(&self.path).write(durable);
            let bytes = self.file.metadata()?.len();
            last_run::note_rewritten(&self.path, bytes)?;
            disk::sync_folder(&self.path)?;
            Ok(bytes)
        };
        settle().map_err(|error| error.to_string())
    }

    /// Looks whether the fresh store says of itself what the old one does.
    fn is_whole(&self, store: &StoreRow, last: Arrival, chain: Chain) -> bool {
        let same = guard(|| {
            let row = self.db.get(STORE_KEY).map_err(|error| error.to_string())?;
            let found = disk::last_row(&self.path, &self.db).map_err(|error| error.to_string())?;
            Ok(row.is_some_and(|row| *row == store.encode()[..]) && (found.0, found.1) == (last, chain))
        });
        same == Ok(true)
    }
}

/// Runs work on the fresh store, whose failures are no failures of the log.
fn guard<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// Where a fresh store is made, and an old one waits to be removed.
pub(super) fn leftover_path(dir: &Path) -> PathBuf {
    with_suffix(dir, ".rewriting")
}

/// Removes what a rewrite left that was broken off. The store in use must be open, so that nobody else is at it.
pub(super) fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether a rewrite gives much space back.
pub(super) fn is_bloated(bytes_on_disk: u64, batch_bytes: u64, bytes_after_last: u64) -> bool {
    let usual = batch_bytes.saturating_mul(BATCH_FACTOR).max(bytes_after_last.saturating_mul(LAST_FACTOR));
    bytes_on_disk > usual.max(MIN_BYTES)
}

/// The old store of a rewrite, or the fresh one of one that was given up, on its way out.
#[derive(Default)]
pub(super) struct Remover(Option<JoinHandle<()>>);

impl Remover {
    /// Closes a store and removes its folder, on a thread of its own: both may take a while.
    fn remove(&mut self, db: sled::Db, path: PathBuf) {
        self.wait();
        let remove = move || {
            // Sled may panic on the way out of a store that failed.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
            if let Err(error) = remove_leftover(&path) {
                tracing::warn!(%error, path = %path.display(), "cannot remove what a rewrite of the log left; the next start tries again");
            }
        };
        match std::thread::Builder::new().name("log remover".into()).spawn(remove) {
            Ok(thread) => self.0 = Some(thread),
            Err(error) => tracing::warn!(%error, "what a rewrite of the log left is removed at the next start"),
        }
    }

    /// Waits until nothing is left to remove.
    pub(super) fn wait(&mut self) {
        if let Some(thread) = self.0.take() {
            // It catches its panics.
            let _ = thread.join();
        }
    }

    fn is_busy(&self) -> bool {
        self.0.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Writer {
    /// Whether the store should be rewritten.
    pub(super) fn is_bloated(&self) -> bool {
        self.rewrite.is_none()
            && !self.remover.is_busy()
            && self.file.metadata().is_ok_and(|file| is_bloated(file.len(), self.batch_bytes(), self.bytes_after_last))
    }

    pub(super) fn is_rewriting(&self) -> bool {
        self.rewrite.is_some()
    }

    /// Begins to rewrite the store. Everything that was appended must be synced.
    ///
    /// # Errors
    /// Says why not. The store is unchanged then.
    pub(super) fn start_rewrite(&mut self) -> Result<(), String> {
        if self.rewrite.is_some() {
            return Ok(());
        }
        self.remover.wait();
        let bytes_before = self.file.metadata().map_err(|error| error.to_string())?.len();
        let needed = bytes_before.min(self.batch_bytes().saturating_mul(BATCH_FACTOR)).saturating_add(SPARE_BYTES);
        let free = fs4::available_space(&self.shared.dir).unwrap_or(u64::MAX);
        if free < needed {
            return Err(format!("the copy needs {needed} free bytes on the disk, and {free} are free"));
        }
        let started = guard(|| {
            Rewrite::start(&self.shared.dir, self.last, bytes_before, self.cache_bytes)
                .map_err(|error| error.to_string())
        });
        self.rewrite = Some(started?);
        self.mirror_writes(true);
        Ok(())
    }

    /// Does a part of a rewrite that was begun: copies about so many bytes, or changes the stores when all is copied.
    ///
    /// # Errors
    /// When it is unknown which of the two stores a crash would leave: the log cannot go on.
    pub(super) fn step_rewrite(&mut self, copy_bytes: usize) -> Result<RewriteStep, LogError> {
        let may_change = self.is_clean() && !self.shared.gate.is_logging();
        let Some(rewrite) = &mut self.rewrite else { return Ok(RewriteStep::GivenUp("none was begun".into())) };
        match rewrite.copy(&self.shared, copy_bytes) {
            Ok(false) => return Ok(RewriteStep::Copied),
            Ok(true) if may_change => {}
            Ok(true) => return Ok(RewriteStep::Waiting),
            Err(why) => return Ok(self.give_up(why)),
        }
        let durable = Durable { epoch: self.store.epoch, arrival: self.last, chain: self.chain };
        let bytes_before = rewrite.bytes_before;
        let bytes_after = match rewrite.settle(&durable) {
            Ok(_) if !rewrite.is_whole(&self.store, self.last, self.chain) => {
                return Ok(self.give_up("the copy is not what was copied".into()));
            }
            Ok(bytes) => bytes,
            Err(why) => return Ok(self.give_up(why)),
        };
        Ok(match self.change_stores(bytes_after)? {
            Some(step) => step,
            None => RewriteStep::Done(RewriteReport { bytes_before, bytes_after }),
        })
    }

    /// Puts the fresh store in the place of the old one, unless readers are busy.
    fn change_stores(&mut self, bytes_after: u64) -> Result<Option<RewriteStep>, LogError> {
        let shared = self.shared.clone();
        let Some(mut current) = shared.try_replace(READERS_PATIENCE) else { return Ok(Some(RewriteStep::Waiting)) };
        if shared.damage.borrow().is_some() {
            // The word of it lies in the old folder, and what was copied may be damaged, too.
            return Ok(Some(self.give_up("the store was found to be damaged".into())));
        }
        let Some(rewrite) = self.rewrite.take() else { return Ok(Some(RewriteStep::Waiting)) };
        self.mirror_writes(false);
        if let Err(error) = exchange(&rewrite.path, &shared.dir) {
            self.remover.remove(rewrite.db, rewrite.path);
            // It would fail again: the copy is not made once more unasked.
            self.bytes_after_last = u64::MAX;
            return Ok(Some(RewriteStep::GivenUp(format!("the two folders cannot change their names: {error}"))));
        }
        // What is written from here on is in the fresh store alone, so it must be the one that is found.
        sync_parent(&shared.dir).map_err(|error| LogError::write(&shared.dir, error))?;
        let old = std::mem::replace(&mut self.db, rewrite.db.clone());
        *current = Some(rewrite.db);
        drop(current);
        self.file = rewrite.file;
        self.witness = Witness::open(&shared.dir);
        self.bytes_after_last = bytes_after;
        self.remover.remove(old, rewrite.path);
        Ok(None)
    }

    /// Leaves the store as it is.
    pub(super) fn give_up(&mut self, why: String) -> RewriteStep {
        self.mirror_writes(false);
        if let Some(Rewrite { db, path, .. }) = self.rewrite.take() {
            self.remover.remove(db, path);
        }
        RewriteStep::GivenUp(why)
    }
}

/// Lets two folders change their names, at once.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_bloated_when_it_is_large_for_its_batches_and_for_what_it_was_after_the_last_rewrite() {
        const MIB: u64 = 1024 * 1024;
        assert!(!is_bloated(64 * MIB, 0, 0));
        assert!(is_bloated(65 * MIB, 0, 0));
        assert!(!is_bloated(400 * MIB, 100 * MIB, 0));
        assert!(is_bloated(401 * MIB, 100 * MIB, 0));
        assert!(!is_bloated(401 * MIB, 10 * MIB, 201 * MIB));
        assert!(!is_bloated(u64::MAX, u64::MAX / 2, 0));
    }
}
