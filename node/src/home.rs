//! A node's home: the folder with its identity, its config, its store and its API's socket. One daemon at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that the path of a Unix socket may have; the system keeps one more for the end.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Bytes of the longest process id that is read from a lock file.
const MAX_PID_BYTES: u64 = 20;

/// Why a home cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither a home was named nor can one be derived.
    #[error(
        "no home folder is known, as neither XDG_DATA_HOME nor HOME is set: name one with --home or ROUNDELAY_HOME"
    )]
    Unknown,
    /// The folder, or a file of it, cannot be created or opened.
    #[error("cannot use {path}: {source}; check that it exists and that you may write there, or choose another --home")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon holds the lock.
    #[error(
        "another daemon runs on the home {home}{}: stop it first, or choose another --home",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The home.
        home: PathBuf,
        /// The other's process id, if it could be read.
        pid: Option<u32>,
    },
    /// A Unix socket in this folder would have a path that the system does not take.
    #[error(
        "the home's path is too long: its socket {socket} would have {bytes} bytes, the system takes {MAX_SOCKET_PATH_BYTES}; choose a shorter --home"
    )]
    PathTooLong {
        /// Where the socket would be.
        socket: PathBuf,
        /// The length of its path in bytes.
        bytes: usize,
    },
}

/// Where a node lives. Only names the folder; [`Home::create`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// The home at a path, which need not exist.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The home at a path, or else the user's: `$XDG_DATA_HOME/roundelay` or `~/.local/share/roundelay`.
    ///
    /// # Errors
    /// When no path is given and the environment names none.
    pub fn resolve(path: Option<PathBuf>) -> Result<Self, HomeError> {
        // The XDG specification says to ignore relative paths.
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data_home = || absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        path.or_else(|| data_home().map(|folder| folder.join("roundelay"))).map(Self::at).ok_or(HomeError::Unknown)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The config file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The identity.
    #[must_use]
    pub fn identity_path(&self) -> PathBuf {
        self.path.join("identity.key")
    }

    /// The socket on which the daemon answers.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// The token of the API over TCP.
    #[must_use]
    pub fn token_path(&self) -> PathBuf {
        self.path.join("api.token")
    }

    /// The folder of the store.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Makes the folder, for its owner only, if it does not exist.
    ///
    /// # Errors
    /// When it cannot be made, or its path is too long for a socket in it.
    pub fn create(&self) -> Result<(), HomeError> {
        let socket = self.socket_path();
        let bytes = socket.as_os_str().as_bytes().len();
        if bytes > MAX_SOCKET_PATH_BYTES {
            return Err(HomeError::PathTooLong { socket, bytes });
        }
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(|source| HomeError::Io { path: parent.to_owned(), source })?;
        }
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.path.is_dir() => Ok(()),
            other => other.map_err(|source| HomeError::Io { path: self.path.clone(), source }),
        }
    }

    /// Takes the lock of an existing home, so that no other daemon, restore or verification works on it meanwhile.
    ///
    /// # Errors
    /// When somebody else holds it, or the lock file cannot be opened.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.lock_path();
        let io_error = |source| HomeError::Io { path: path.clone(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options.map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HomeError::Locked { home: self.path.clone(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(io_error(source)),
        }
        // Only for people: a lock whose holder cannot be named still is one.
        let named = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        if let Err(error) = named {
            tracing::debug!(%error, "cannot write the process id into the lock file");
        }
        Ok(HomeLock { _file: file })
    }

    /// The process id of the daemon that holds the lock, if one does.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.lock_path()).ok()?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => read_pid(&mut file),
            _ => None,
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(MAX_PID_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The lock of a home. The system releases it when this is dropped or the process dies.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_home_is_private_and_has_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("a/b"));
        home.create().unwrap();
        home.create().unwrap();
        assert_eq!(fs::metadata(home.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(home.holder(), None);
        let lock = home.lock().unwrap();
        let Err(HomeError::Locked { pid, .. }) = home.lock() else { panic!("locked twice") };
        assert_eq!((pid, home.holder()), (Some(std::process::id()), Some(std::process::id())));
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let home = Home::at(Path::new("/tmp").join("x".repeat(120)));
        assert!(matches!(home.create(), Err(HomeError::PathTooLong { bytes: 134, .. })));
    }
}
