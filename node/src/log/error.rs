use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a log. Every variant says what state it left and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder cannot be created, read or synced. Nothing was changed in the store.
    #[error("cannot use the log folder {dir}: {source}; check that it exists, is writable and has free space")]
    Folder {
        /// The store's folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another log in this one, has the store open. Nothing was changed.
    #[error("the log in {dir} is open elsewhere: stop the other process first")]
    InUse {
        /// The store's folder.
        dir: PathBuf,
    },
    /// The store has a format that this program does not know. Nothing was changed.
    #[error("the log in {dir} has format {found}, this program knows {known}: use the program that wrote it")]
    Format {
        /// The store's folder.
        dir: PathBuf,
        /// The format of the store.
        found: u8,
        /// The format that this program reads and writes.
        known: u8,
    },
    /// What is on disk is not what was written. Nothing was removed: [`super::open_or_salvage`] sets the folder aside and
    /// salvages from it, and peers bring back the rest.
    #[error("the log in {dir} is damaged: {detail}; start the node: it sets the log aside and salvages what verifies")]
    Damaged {
        /// The store's folder.
        dir: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A write or sync failed. Whether the write sets since the last [`super::LogEvent::Stored`] are on disk is
    /// unknown, and nothing more is accepted: close the log, open it again and go on from what is found.
    #[error("writing the log in {dir} failed: {detail}; what was not acknowledged may be lost: reopen the log")]
    Write {
        /// The store's folder.
        dir: PathBuf,
        /// What failed.
        detail: String,
    },
    /// Something was read while the system refused. The store is unchanged; try again, or reopen.
    #[error("reading the log in {dir} failed: {detail}; check the disk")]
    Read {
        /// The store's folder.
        dir: PathBuf,
        /// What failed.
        detail: String,
    },
    /// The log was closed or failed before. Nothing has happened: reopen it.
    #[error("the log is closed")]
    Closed,
    /// A backup file cannot be written or read. The store is unchanged; a file that was being written is incomplete
    /// and will be refused by a restore.
    #[error("cannot use the backup file {file}: {source}")]
    BackupFile {
        /// The backup.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no backup, or not a whole one. Nothing was restored.
    #[error("{file} is not a whole backup of a log: {detail}; use another copy")]
    BackupDamaged {
        /// The backup.
        file: PathBuf,
        /// What was found.
        detail: String,
    },
    /// So much was pruned while the backup ran that it could not be kept consistent. The store is unchanged; the file
    /// is incomplete: try again.
    #[error("too much was pruned while the backup ran: try again")]
    BackupOvertaken,
    /// Another backup of the same log is running. Nothing was written: wait for it.
    #[error("another backup is running: wait for it to end")]
    BackupRunning,
    /// The store was not rewritten: it is as it was, and goes on.
    #[error("the log in {dir} was not rewritten: {detail}; nothing was changed")]
    NotRewritten {
        /// The store's folder.
        dir: PathBuf,
        /// Why not, and what would help.
        detail: String,
    },
    /// A restore needs a folder that does not exist or is empty. Nothing was restored.
    #[error("{dir} is not empty: restore into a new folder")]
    NotEmpty {
        /// The folder that was named.
        dir: PathBuf,
    },
}

impl LogError {
    pub(super) fn folder(dir: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Folder { dir: dir.to_owned(), source }
    }

    pub(super) fn damaged(dir: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { dir: dir.to_owned(), detail: detail.into() }
    }

    pub(super) fn write(dir: &Path, detail: impl ToString) -> Self {
        Self::Write { dir: dir.to_owned(), detail: detail.to_string() }
    }

    /// What an error of sled's means while reading.
    pub(super) fn reading(dir: &Path) -> impl Fn(sled::Error) -> Self + '_ {
        |error| match error {
            sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => Self::damaged(dir, error.to_string()),
            other => Self::Read { dir: dir.to_owned(), detail: other.to_string() },
        }
    }

    pub(super) fn file(file: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |source| Self::BackupFile { file: file.to_owned(), source }
    }
}
