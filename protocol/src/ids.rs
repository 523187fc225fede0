//! Names of nodes, batches and stores: fixed-size values with one textual form each.

use std::fmt;

/// Declares a 32-byte value that shows itself as lower-case hexadecimal.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(")")
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
    };
}

bytes32! {
    /// The node that published an event: its ed25519 public key.
    Author
}

/// What an ed25519 key's peer id has before the key: an identity multihash (code 0, length) of the key as protobuf (type
/// ed25519, length), as the specification of peer ids has it.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl Author {
    /// The author with a peer id, in base58. None for what is no peer id of an ed25519 key.
    #[must_use]
    pub fn from_peer_id(text: &str) -> Option<Self> {
        let mut bytes = [0; PEER_ID_PREFIX.len() + 32];
        let len = bs58::decode(text).onto(&mut bytes).ok()?;
        Self::from_peer_id_bytes(bytes.get(..len)?)
    }

    /// The author with a peer id, in bytes. None for what is no peer id of an ed25519 key.
    #[must_use]
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.strip_prefix(&PEER_ID_PREFIX)?.try_into().ok()?))
    }

    /// Its peer id, in base58.
    #[must_use]
    pub fn peer_id(&self) -> String {
        bs58::encode([&PEER_ID_PREFIX[..], &self.0].concat()).into_string()
    }
}

bytes32! {
    /// The BLAKE3 hash of a batch's header bytes. All zero means "no batch": the parent of a log's first batch.
    BatchHash
}

impl BatchHash {
    /// The parent that the first batch of a log names.
    pub const NONE: Self = Self([0; 32]);
}

/// A random number in every header, new at each start of a node's process: two batches of one author with the same
/// incarnation and the same parent prove that the author cheats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation(pub u64);

/// A random number that a store is given when it is created. With an arrival number it names a place in a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StoreEpoch(pub u64);

/// The place of a batch in one node's order of arrival, over all topics: 1 is the first; 0 is before all.
/// Local to a store, kept for good, never compared between nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Arrival(pub u64);

/// A running hash over a store's batches in order of arrival. Equal chains at an arrival number mean equal stores up
/// to there, so that a store which was rolled back and went on differently is recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// The chain after one more batch.
    #[must_use]
    pub fn extend(self, batch: &BatchHash) -> Self {
        let mut input = [0; 48];
        input[..16].copy_from_slice(&self.0);
        input[16..].copy_from_slice(&batch.0);
        let mut next = [0; 16];
        next.copy_from_slice(&blake3::hash(&input).as_bytes()[..16]);
        Self(next)
    }
}
