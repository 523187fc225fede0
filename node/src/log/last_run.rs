//! What a run of the log leaves for the next one, in small files beside sled's.
//!
//! ```text
//! durable    epoch u64 | arrival u64 | chain 16 | BLAKE3 of these, its first 16 bytes
//! failed     what went wrong, in words
//! rewritten  bytes of sled's file after the store was last rewritten, in decimal
//! ```
//!
//! - `durable` says up to where the store was durable. It is written after each sync and not synced itself, so it never
//!   runs ahead of the store: a store that ends before it has lost something. Sled itself takes damage at its end for a
//!   write that a crash tore, and goes on before it without a word.
//! - `failed` is there when the log ended by a failure, or found damage. After a failed sync the system may show pages
//!   that never reached the disk, so the next start checks everything before it is used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use roundelay_protocol::ids::{Arrival, Chain, StoreEpoch};

const DURABLE_FILE: &str = "durable";
const FAILED_FILE: &str = "failed";
const REWRITTEN_FILE: &str = "rewritten";
/// Bytes of a reason that are read back.
const MAX_REASON_BYTES: usize = 4096;
const SAID_BYTES: usize = 32;
const SUM_BYTES: usize = 16;

/// Up to where a store was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    pub(super) epoch: StoreEpoch,
    pub(super) arrival: Arrival,
    pub(super) chain: Chain,
}

impl Durable {
    fn encode(&self) -> [u8; SAID_BYTES + SUM_BYTES] {
        let mut bytes = [0; SAID_BYTES + SUM_BYTES];
        bytes[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.arrival.0.to_be_bytes());
        bytes[16..SAID_BYTES].copy_from_slice(&self.chain.0);
        let sum = blake3::hash(&bytes[..SAID_BYTES]);
        bytes[SAID_BYTES..].copy_from_slice(&sum.as_bytes()[..SUM_BYTES]);
        bytes
    }

    /// What the last run wrote. `None` when there is nothing, or a crash tore it: it is only a witness more.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let bytes = fs::read(dir.join(DURABLE_FILE)).ok()?;
        let (epoch, rest) = bytes.split_first_chunk()?;
        let (arrival, rest) = rest.split_first_chunk()?;
        let (chain, _) = rest.split_first_chunk()?;
        let (epoch, arrival) = (StoreEpoch(u64::from_be_bytes(*epoch)), Arrival(u64::from_be_bytes(*arrival)));
        let read = Self { epoch, arrival, chain: Chain(*chain) };
        (read.encode()[..] == bytes[..]).then_some(read)
    }
}

/// Writes `durable`. Where that fails there is one witness less, and nothing else.
pub(super) struct Witness(Option<File>);

impl Witness {
    pub(super) fn open(dir: &Path) -> Self {
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join(DURABLE_FILE));
        Self(options.ok())
    }

    pub(super) fn write(&self, durable: &Durable) {
        if let Some(file) = &self.0
            && let Err(error) = file.write_all_at(&durable.encode(), 0)
        {
            tracing::debug!(%error, "cannot write down up to where the log is durable");
        }
    }
}

/// Leaves word that the log failed. A disk that takes nothing any more does not take this either.
pub(super) fn note_failure(dir: &Path, reason: &str) {
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(FAILED_FILE))?;
        file.write_all(reason.as_bytes())?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "cannot leave word of the failure for the next start");
    }
}

/// How the last run failed, if it did.
pub(super) fn failure(dir: &Path) -> Option<String> {
    let mut bytes = fs::read(dir.join(FAILED_FILE)).ok()?;
    bytes.truncate(MAX_REASON_BYTES);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The failure is dealt with.
pub(super) fn forget_failure(dir: &Path) {
    match fs::remove_file(dir.join(FAILED_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove the word of an earlier failure: the log is checked again at the next start");
        }
        _ => {}
    }
}

/// Leaves word of how large sled's file is after a rewrite.
pub(super) fn note_rewritten(dir: &Path, bytes: u64) -> io::Result<()> {
    fs::write(dir.join(REWRITTEN_FILE), bytes.to_string())
}

/// Bytes of sled's file after the last rewrite; 0 when there was none, or that is not known.
pub(super) fn rewritten(dir: &Path) -> u64 {
    fs::read_to_string(dir.join(REWRITTEN_FILE)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Has the system read the store from the disk anew. What it keeps in memory after a failed sync is not what is there.
pub(super) fn drop_cached_pages(dir: &Path) {
    let dropped = File::open(dir.join("db"))
        .and_then(|file| Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?));
    if let Err(error) = dropped {
        tracing::debug!(%error, "cannot drop what the system keeps in memory of the log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_witness_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Durable::read(dir.path()), None);
        let durable = Durable { epoch: StoreEpoch(7), arrival: Arrival(9), chain: Chain([3; 16]) };
        Witness::open(dir.path()).write(&durable);
        assert_eq!(Durable::read(dir.path()), Some(durable));
        let path = dir.path().join(DURABLE_FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[12] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(Durable::read(dir.path()), None);
    }

    #[test]
    fn a_failure_is_remembered_until_it_is_dealt_with() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(failure(dir.path()), None);
        note_failure(dir.path(), "the sync failed");
        assert_eq!(failure(dir.path()).as_deref(), Some("the sync failed"));
        forget_failure(dir.path());
        forget_failure(dir.path());
        assert_eq!(failure(dir.path()), None);
    }
}
