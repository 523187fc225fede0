//! Signatures. Two traits, so that a simulated mesh can use cheap stand-ins; a node uses [`Ed25519Signer`] and
//! [`Ed25519Verifier`].

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::ids::Author;

/// A signature over a domain prefix and a batch's header bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; Self::BYTES]);

impl Signature {
    /// Bytes of a signature.
    pub const BYTES: usize = 64;
}

/// Signs for one author.
pub trait Signer {
    /// Whom the signatures are of.
    fn author(&self) -> Author;
    /// Signs a message.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Checks signatures of any author.
pub trait Verifier {
    /// Whether the author signed the message.
    fn verify(&self, author: &Author, message: &[u8], signature: &Signature) -> bool;
}

/// Signs with an ed25519 key (RFC 8032).
#[derive(Clone)]
pub struct Ed25519Signer(SigningKey);

impl Ed25519Signer {
    /// A signer from the 32 secret bytes of a key.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }
}

impl Signer for Ed25519Signer {
    fn author(&self) -> Author {
        Author(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

/// Checks ed25519 signatures strictly, so that every node judges a signature alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ed25519Verifier;

impl Verifier for Ed25519Verifier {
    fn verify(&self, author: &Author, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        VerifyingKey::from_bytes(&author.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}
