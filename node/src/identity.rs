//! A node's identity, and the key of its mesh: the two secrets that it reads from files.
//!
//! ```text
//! identity.key      any number of lines that begin with '#', then 64 hexadecimal digits: an ed25519 secret key
//! a mesh key        the same, or libp2p's form:  /key/swarm/psk/1.0.0/  |  /base16/  |  64 hexadecimal digits
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;

const KEY_BYTES: usize = 32;
/// Bytes of the largest key file that is read.
const MAX_FILE_BYTES: u64 = 4096;
const COMMENT: &str =
    "# The identity of a Roundelay node: its ed25519 secret key. Whoever has it can publish in this node's name.\n";
/// What others may not have at an identity: anything.
const IDENTITY_FORBIDDEN: u32 = 0o077;
/// What others may not have at a mesh key: a group may read it, as several services of a machine may share it.
const MESH_KEY_FORBIDDEN: u32 = 0o037;

/// Why a key file cannot be used. It was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the {what} {path}: {source}; check the path and its permissions")]
    Read {
        /// Which key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new key cannot be written. There is none then.
    #[error("cannot write the key {path}: {source}; check that the folder is writable and has space")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or change the file.
    #[error(
        "the {what} {path} has mode {mode:04o}, so others can use it: run `chmod 0600 {path}`, if nobody has copied it"
    )]
    Permissions {
        /// Which key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{path} holds no {what}: {remedy}")]
    Content {
        /// Which key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
}

/// Reads the identity from a file, or makes a new one there if there is no file.
///
/// # Errors
/// When the file cannot be read, makes no sense, or others can read it; or when a new one cannot be written.
pub fn load_or_create(path: &Path) -> Result<Keypair, KeyError> {
    match read(path, "identity key", IDENTITY_FORBIDDEN) {
        Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(error),
        Ok(text) => {
            let remedy = "put the right file back, or move it away to have a new identity made";
            let wrong = || KeyError::Content { what: "identity key", path: path.to_owned(), remedy };
            let secret = parse_hex(&text).ok_or_else(wrong)?;
            Keypair::ed25519_from_bytes(secret).map_err(|_| wrong())
        }
    }
}

fn create(path: &Path) -> Result<Keypair, KeyError> {
    let keypair = Keypair::generate_ed25519();
    let mut text = COMMENT.to_owned();
    if let Ok(pair) = keypair.clone().try_into_ed25519() {
        for byte in pair.secret().as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
    }
    text.push('\n');
    write_new(path, text.as_bytes()).map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
    Ok(keypair)
}

/// Writes a file that does not exist, for its owner only, whole or not at all, and durably.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Reads a file that is for its owner only.
pub(crate) fn read_secret(path: &Path, what: &'static str) -> Result<String, KeyError> {
    read(path, what, IDENTITY_FORBIDDEN)
}

/// Reads the pre-shared key of a mesh.
///
/// # Errors
/// When the file cannot be read, makes no sense, or others can read it.
pub fn read_mesh_key(path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let text = read(path, "mesh key", MESH_KEY_FORBIDDEN)?;
    let digits = text
        .trim_start()
        .strip_prefix("/key/swarm/psk/1.0.0/")
        .map_or(Some(text.as_str()), |rest| rest.trim_start().strip_prefix("/base16/"));
    digits.and_then(parse_hex).ok_or_else(|| KeyError::Content {
        what: "mesh key",
        path: path.to_owned(),
        remedy: "it needs a line of 64 hexadecimal digits; make one with `openssl rand -hex 32`",
    })
}

fn read(path: &Path, what: &'static str, forbidden: u32) -> Result<String, KeyError> {
    let read_error = |source| KeyError::Read { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    if !metadata.is_file() {
        return Err(KeyError::Content { what, path: path.to_owned(), remedy: "name a regular file" });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(KeyError::Permissions { what, path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(read_error)?;
    // What is no text is no key either, which is what the caller will find.
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

/// The one line of 64 hexadecimal digits, besides comments and empty lines.
fn parse_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    if line.len() != 2 * KEY_BYTES || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&line[at..at + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let made = load_or_create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Permissions { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in ["", "no key", &text[..text.len() - 3], &text.replace('\n', "x\n")] {
            fs::write(&path, wrong).unwrap();
            assert!(matches!(load_or_create(&path), Err(KeyError::Content { .. })), "{wrong}");
            assert_eq!(fs::read_to_string(&path).unwrap(), wrong, "it is not replaced");
        }
    }

    #[test]
    fn a_mesh_key_has_two_forms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.key");
        assert!(matches!(read_mesh_key(&path), Err(KeyError::Read { .. })));
        let digits = "0a".repeat(32);
        for text in
            [digits.clone(), format!("# ours\n{digits}\n"), format!("/key/swarm/psk/1.0.0/\n/base16/\n{digits}\n")]
        {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(read_mesh_key(&path).unwrap(), [0x0a; 32]);
        }
        for wrong in [format!("/key/swarm/psk/1.0.0/\n/base64/\n{digits}"), digits[1..].to_owned(), "ä".repeat(32)] {
            fs::write(&path, &wrong).unwrap();
            assert!(matches!(read_mesh_key(&path), Err(KeyError::Content { .. })), "{wrong}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_mesh_key(&path), Err(KeyError::Permissions { .. })));
    }
}
