//! The secret that whoever uses the API over TCP has to show: a file in the home, for its owner only.

use std::io;
use std::path::Path;

use crate::identity::{self, KeyError};

/// Bytes of randomness in a new token.
const TOKEN_BYTES: usize = 32;
/// Characters that a token has at least.
const MIN_TOKEN_CHARS: usize = 32;
const WHAT: &str = "API token";

/// A token, of which only a hash is kept.
#[derive(Clone)]
pub(super) struct Token(blake3::Hash);

impl Token {
    /// Reads the token, or makes a new one if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or written, holds no token, or others can read it.
    pub(super) fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match identity::read_secret(path, WHAT) {
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(error),
            Ok(text) => Self::of(text.trim()).ok_or_else(|| KeyError::Content {
                what: WHAT,
                path: path.to_owned(),
                remedy: "it needs a line of at least 32 printable characters; remove the file to have one made",
            }),
        }
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let bytes: [u8; TOKEN_BYTES] = rand::random();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        identity::write_new(path, format!("{text}\n").as_bytes())
            .map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
        Ok(Self(blake3::hash(text.as_bytes())))
    }

    fn of(text: &str) -> Option<Self> {
        let sound = text.len() >= MIN_TOKEN_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then(|| Self(blake3::hash(text.as_bytes())))
    }

    /// Whether this is the token. Takes the same time whatever part of it is right: hashes are compared, which nobody can
    /// choose, and `blake3` compares them in constant time.
    pub(super) fn is(&self, text: &str) -> bool {
        self.0 == blake3::hash(text.as_bytes())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(...)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.token");
        let token = Token::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(token.is(text.trim()) && text.trim().len() == 64);
        assert!(!token.is("") && !token.is(&text) && !token.is(&text.trim()[1..]) && !token.is(&text.to_uppercase()));
        assert!(Token::load_or_create(&path).unwrap().is(text.trim()));

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Token::load_or_create(&path), Err(KeyError::Permissions { mode: 0o640, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "short", "with spaces in it, which a header cannot carry well"] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(Token::load_or_create(&path), Err(KeyError::Content { .. })), "{bad}");
        }
    }
}
