//! A consistent copy of a running store in one file, and back into a folder.
//!
//! ```text
//! "roundelay log backup 1\n"
//! any number of:  kind u8 (1 put, 0 remove) | key length u32 | value length u32 | key | value
//! the end:        kind u8 = 2 | BLAKE3 of all bytes before the hash, 32 bytes
//! ```
//!
//! Keys and values are those of the store, see [`super`]; numbers are big-endian; later entries replace earlier ones.
//! Batches are copied while the store runs. At the end the writer is held for a moment, in which the rest is copied:
//! the last batches, what was pruned meanwhile, records and marks.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::ids::Arrival;

use super::disk;
use super::error::LogError;
use super::gate::Gate;
use super::layout::{self, STORE_KEY};
use super::reader::LogReader;
use super::{sync_parent, with_suffix};

const MAGIC: &[u8] = b"roundelay log backup 1\n";
const REMOVE: u8 = 0;
const PUT: u8 = 1;
const END: u8 = 2;
/// The writer is held when so few arrivals are left to copy, or after so many rounds.
const FEW: u64 = 64;
const MAX_ROUNDS: usize = 8;
/// No key or value of a store is larger.
const MAX_PART_BYTES: usize = 16 * 1024 * 1024;
/// Bytes that a restore gives to sled at once.
const RESTORE_BYTES: usize = 1024 * 1024;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupReport {
    /// The last arrival in it.
    pub last_arrival: Arrival,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Copies a store that may be in use into one file, which replaces an earlier one when it is whole and durable.
/// Blocks; writing is held up only at the end, for a moment.
///
/// # Errors
/// When the file cannot be written, the store cannot be read, the log is closed, another backup runs, or pruning
/// overtakes the copy. The store is unchanged, and an earlier file too.
pub fn backup(reader: &LogReader, file: &Path) -> Result<BackupReport, LogError> {
    let gate = &reader.shared.gate;
    if !gate.hold().ok_or(LogError::Closed)?.start_logging() {
        return Err(LogError::BackupRunning);
    }
    let _logging = Logging(gate);
    let partial = with_suffix(file, ".partial");
    let report = copy(reader, &partial)?;
    fs::rename(&partial, file).map_err(LogError::file(file))?;
    sync_parent(file).map_err(LogError::file(file))?;
    Ok(report)
}

/// Stops the logging of pruned keys when it is dropped.
struct Logging<'a>(&'a Gate);

impl Drop for Logging<'_> {
    fn drop(&mut self) {
        self.0.stop_logging();
    }
}

fn copy(reader: &LogReader, path: &Path) -> Result<BackupReport, LogError> {
    let mut sink = Sink::create(path)?;
    let mut next = reader.shared.floor();
    for _ in 0..MAX_ROUNDS {
        let last = reader.last_arrival();
        copy_rows(reader, next, last, &mut sink)?;
        next = Arrival(last.0 + 1);
        if reader.last_arrival().0 - last.0 <= FEW {
            break;
        }
    }
    let held = reader.shared.gate.hold().ok_or(LogError::Closed)?;
    let last = reader.last_arrival();
    copy_rows(reader, next, last, &mut sink)?;
    let pruned = held.take_logged().ok_or(LogError::BackupOvertaken)?;
    reader.shared.read(|db| {
        let reading = LogError::reading(&reader.shared.dir);
        for key in pruned {
            match db.get(&key).map_err(&reading)? {
                Some(value) => sink.put(&key, &value)?,
                None => sink.entry(REMOVE, &key, &[])?,
            }
        }
        for entry in db.scan_prefix(b"l").chain(db.scan_prefix(b"m")) {
            let (key, value) = entry.map_err(&reading)?;
            sink.put(&key, &value)?;
        }
        match db.get(STORE_KEY).map_err(&reading)? {
            Some(value) => sink.put(STORE_KEY, &value),
            None => Err(reader.shared.damaged("the value that describes the store is missing")),
        }
    })?;
    drop(held);
    Ok(BackupReport { last_arrival: last, bytes: sink.finish()? })
}

/// Copies rows, their chunks and index entries. What is pruned meanwhile is put right at the end.
fn copy_rows(reader: &LogReader, from: Arrival, to: Arrival, sink: &mut Sink) -> Result<(), LogError> {
    reader.shared.read(|db| {
        let reading = LogError::reading(&reader.shared.dir);
        for entry in db.range(layout::row_key(from)..=layout::row_key(to)) {
            let (arrival, value) = reader.entry(entry)?;
            sink.put(&layout::row_key(arrival), &value)?;
            let Some(batch) = reader.row(arrival, &value)?.batch else { continue };
            let head = VerifiedBatch::from_store(Bytes::copy_from_slice(batch.head));
            let head = head.map_err(|error| reader.shared.damaged(format!("batch {}: {error}", arrival.0)))?;
            let index = layout::index_key(batch.log, head.header().last_seq(), &head.hash());
            if let Some(entry) = db.get(index).map_err(&reading)? {
                sink.put(&index, &entry)?;
            }
            for chunk in db.range(layout::chunk_key(arrival, 0)..layout::chunk_key(arrival, batch.chunks())) {
                let (key, part) = chunk.map_err(&reading)?;
                sink.put(&key, &part)?;
            }
        }
        Ok(())
    })
}

/// A backup that is being written.
struct Sink {
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    path: PathBuf,
}

impl Sink {
    fn create(path: &Path) -> Result<Self, LogError> {
        let out = BufWriter::with_capacity(1 << 18, create_private(path).map_err(LogError::file(path))?);
        let mut sink = Self { out, hasher: blake3::Hasher::new(), bytes: 0, path: path.to_owned() };
        sink.write(MAGIC)?;
        Ok(sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(LogError::file(&self.path))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), LogError> {
        self.entry(PUT, key, value)
    }

    fn entry(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<(), LogError> {
        let mut head = [kind; 9];
        head[1..5].copy_from_slice(&(key.len() as u32).to_be_bytes());
        head[5..].copy_from_slice(&(value.len() as u32).to_be_bytes());
        self.write(&head)?;
        self.write(key)?;
        self.write(value)
    }

    fn finish(mut self) -> Result<u64, LogError> {
        self.write(&[END])?;
        let hash = self.hasher.finalize();
        self.write(hash.as_bytes())?;
        self.out.flush().map_err(LogError::file(&self.path))?;
        self.out.get_ref().sync_all().map_err(LogError::file(&self.path))?;
        Ok(self.bytes)
    }
}

/// Makes a store out of a backup, in a folder that does not exist or is empty. The result is a copy: it has the epoch
/// and the content of the store that was backed up. It appears under its name when it is whole and durable.
///
/// # Errors
/// When the folder is in use, or the file is not a whole backup. Nothing was restored then; what was begun is in a
/// folder beside, with `.restoring` at the end of its name, which the next restore replaces.
pub fn restore(file: &Path, dir: &Path) -> Result<(), LogError> {
    check_hash(file)?;
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => return Err(LogError::NotEmpty { dir: dir.to_owned() }),
            None => fs::remove_dir(dir).map_err(LogError::folder(dir))?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(LogError::Folder { dir: dir.to_owned(), source: error }),
    }
    let partial = with_suffix(dir, ".restoring");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(LogError::folder(&partial))?;
    }
    let (db, handle) = disk::open_sled(&partial, RESTORE_BYTES as u64)?;
    fill(file, &partial, &db)?;
    db.flush().map_err(|error| LogError::write(&partial, error))?;
    handle.sync_all().map_err(LogError::folder(&partial))?;
    drop(db);
    disk::sync_folder(&partial).map_err(LogError::folder(&partial))?;
    fs::rename(&partial, dir).map_err(LogError::folder(dir))?;
    sync_parent(dir).map_err(LogError::folder(dir))
}

fn fill(file: &Path, dir: &Path, db: &sled::Db) -> Result<(), LogError> {
    let mut input = BufReader::with_capacity(1 << 18, File::open(file).map_err(LogError::file(file))?);
    read_part(&mut input, file, MAGIC.len())?;
    let (mut batch, mut bytes) = (sled::Batch::default(), 0);
    while let Some((key, value)) = read_entry(&mut input, file)? {
        bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        match value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
        if bytes >= RESTORE_BYTES {
            db.apply_batch(std::mem::take(&mut batch)).map_err(|error| LogError::write(dir, error))?;
            bytes = 0;
        }
    }
    db.apply_batch(batch).map_err(|error| LogError::write(dir, error))
}

/// A key, and its value unless it is to be removed.
pub(super) type Entry = (Vec<u8>, Option<Vec<u8>>);

/// The next entry; none at the end.
pub(super) fn read_entry(input: &mut impl Read, file: &Path) -> Result<Option<Entry>, LogError> {
    let kind = read_part(input, file, 1)?[0];
    if kind == END {
        return Ok(None);
    }
    let lengths = read_part(input, file, 8)?;
    let (key_len, value_len) = lengths.split_at(4);
    let length = |bytes: &[u8]| bytes.iter().fold(0, |length: usize, byte| length << 8 | usize::from(*byte));
    let key = read_part(input, file, length(key_len))?;
    let value = read_part(input, file, length(value_len))?;
    match kind {
        PUT => Ok(Some((key, Some(value)))),
        REMOVE => Ok(Some((key, None))),
        _ => Err(not_whole(file, "an entry of an unknown kind")),
    }
}

fn read_part(input: &mut impl Read, file: &Path, len: usize) -> Result<Vec<u8>, LogError> {
    if len > MAX_PART_BYTES {
        return Err(not_whole(file, "an entry that is too long"));
    }
    // Memory follows what is there, not what is announced.
    let mut part = Vec::new();
    input.take(len as u64).read_to_end(&mut part).map_err(LogError::file(file))?;
    if part.len() == len { Ok(part) } else { Err(not_whole(file, "it ends too early")) }
}

fn check_hash(file: &Path) -> Result<(), LogError> {
    const HASH_BYTES: usize = 32;
    let input = File::open(file).map_err(LogError::file(file))?;
    let len = input.metadata().map_err(LogError::file(file))?.len();
    let Some(hashed) = len.checked_sub(HASH_BYTES as u64).filter(|hashed| *hashed > MAGIC.len() as u64) else {
        return Err(not_whole(file, "it is too short"));
    };
    let mut hasher = blake3::Hasher::new();
    let mut input = BufReader::with_capacity(1 << 18, input);
    let magic = read_part(&mut input, file, MAGIC.len())?;
    if magic != MAGIC {
        return Err(not_whole(file, "it does not begin like one"));
    }
    hasher.update(&magic);
    let mut body = (&mut input).take(hashed - MAGIC.len() as u64);
    io::copy(&mut body, &mut hasher).map_err(LogError::file(file))?;
    if read_part(&mut input, file, HASH_BYTES)? != hasher.finalize().as_bytes() {
        return Err(not_whole(file, "its hash is not that of its content"));
    }
    Ok(())
}

fn not_whole(file: &Path, detail: &str) -> LogError {
    LogError::BackupDamaged { file: file.to_owned(), detail: detail.to_owned() }
}

/// A backup holds every event, so it is for its owner's eyes, like the store.
fn create_private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
