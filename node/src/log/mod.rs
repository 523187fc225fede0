//! The durable log of a node: batches, records of logs and marks, in sled. The only module that knows sled.
//!
//! A write set goes through [`Log::submit`] to the log's own thread, which takes all that is queued, gives it to sled,
//! flushes, syncs sled's file, and only then reports [`LogEvent::Stored`] and shows it to [`LogReader`]s. What arrives
//! during a sync is the next group. After a failure nothing more is accepted, because its outcome is unknown.
//!
//! Sled's own flush does not sync, so acknowledged data would die with the power; hence the second handle to its `db`
//! file. A leaf of more than a quarter of a segment would become a blob file, which nothing syncs; hence the chunks.
//!
//! # Layout
//!
//! One sled tree, because sled writes atomically only within one. Numbers are big-endian, so that keys sort by them.
//!
//! ```text
//! key                                        value
//! 'f'                                        format u8 = 2 | epoch u64 | floor u64 | bytes pruned so far u64 | thinned up to u64
//! 'a' | arrival u64                          chain 16 | bytes stored so far u64                     a pruned batch
//! 'a' | arrival u64                          chain 16 | bytes stored so far u64 | log u32 | length u32 | head
//! 'b' | arrival u64 | chunk u16              up to 16384 bytes of a batch, after its head
//! 'i' | log u32 | last seq u64 | hash 32     arrival u64 | first seq u64 | last HLC u64 | length u32
//! 'l' | log u32                              CBOR: [topic, author, [[seq, hash, HLC]…], floor, floor HLC, [[from, to, anchor]…],
//!                                                   announced, last arrival, events, bytes]
//! 'm' | name                                 the mark's value
//! ```
//!
//! - A batch of up to 2,048 bytes is its own head; a larger one has its first 576 bytes there, which hold every header
//!   and signature, and the rest in chunks. So rows can be walked without reading bodies.
//! - *chain* is the running hash up to this batch; *bytes stored so far* counts all batches up to this one, pruned ones
//!   too. The bytes in a store are those of the last row less those pruned.
//! - A pruned batch leaves the first 24 bytes of its row. When all rows up to one have been pruned, that one is the
//!   *floor*: the rows before it are removed. The last row always stays, as its arrival number and chain go on.
//! - Logs are numbered from 0 as they first appear, without gaps; a log's record is never removed.

mod backup;
mod directory;
mod disk;
mod error;
mod gate;
mod last_run;
mod layout;
mod lookup;
mod mask;
mod memory;
mod moments;
mod reader;
mod recovery;
mod rewrite;
mod salvage;
mod salvage_sink;
mod salvage_source;
mod service;
mod sled_store;
mod store;
mod tail;
mod verify;
mod writer;

pub use backup::{BackupReport, backup, restore};
pub use error::LogError;
pub use memory::MemoryStore;
pub use reader::{LogReader, Stamped};
pub use recovery::open_or_salvage;
pub use rewrite::{RewriteReport, RewriteStep};
pub use salvage::Salvaged;
pub use service::{Log, Opened, SubmitError};
pub use sled_store::SledStore;
pub use store::{Appended, Mark, Scan, Snapshot, Store};
pub use verify::{Problem, VerifyReport, verify};

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::{Arrival, Chain};

/// How much memory a log may take.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of sled's page cache. Sled keeps somewhat more than this.
    pub sled_cache_bytes: u64,
    /// Bytes of recent batches that are kept for readers.
    pub tail_cache_bytes: usize,
    /// Bytes of write sets that may wait or be underway; beyond it [`Log::submit`] waits. At most 4 GiB.
    pub queue_bytes: usize,
    /// Arrival numbers, the last ones, among which a pruned batch leaves its row, so that a peer's place there is known
    /// again. Each such row takes 33 bytes.
    pub pruned_rows: u64,
    /// For tests: the sync after so many fails.
    #[doc(hidden)]
    pub fail_after_syncs: Option<u64>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            sled_cache_bytes: 16 * 1024 * 1024,
            tail_cache_bytes: 32 * 1024 * 1024,
            queue_bytes: 16 * 1024 * 1024,
            pruned_rows: 262_144,
            fail_after_syncs: None,
        }
    }
}

/// What the log reports.
#[derive(Debug)]
pub enum LogEvent {
    /// A write set is durable. In the order in which they were submitted.
    Stored {
        /// What it was submitted with.
        token: u64,
        /// The arrival number of its first batch; the others follow by one. Without batches: what the next one gets.
        first_arrival: Arrival,
        /// The last arrival number given out after it.
        last_arrival: Arrival,
        /// The chain after it.
        chain: Chain,
        /// Bytes of the batches in the store after it.
        batch_bytes: u64,
    },
    /// The outcome of this write set and all after it is unknown, and nothing more is accepted: close the log, open it
    /// again, and go on from what is found.
    Failed {
        /// What happened.
        error: LogError,
    },
}

/// For [`crate::fuzzing`]: decodes an entry of the store and encodes it again.
pub(crate) fn recode_entry(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    layout::recode(key, value)
}

/// For [`crate::fuzzing`]: the record of a log from its bytes.
pub(crate) fn decode_record(value: &[u8]) -> Option<LogRecord> {
    layout::decode_record(value).ok()
}

/// For [`crate::fuzzing`]: the entries of a backup after its first line, whose hash was checked.
pub(crate) fn backup_entries(mut bytes: &[u8]) -> Result<Vec<backup::Entry>, LogError> {
    let mut entries = Vec::new();
    while let Some(entry) = backup::read_entry(&mut bytes, std::path::Path::new("backup"))? {
        entries.push(entry);
    }
    Ok(entries)
}

/// A path beside another one.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the name of a file or folder durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
