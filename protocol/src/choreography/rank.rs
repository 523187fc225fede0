//! The total order of events.

use crate::hlc::Hlc;
use crate::ids::BatchHash;

/// An event's place in the total order: by stamp, then batch hash, then place in the batch. The same on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rank {
    /// Its stamp.
    pub stamp: Hlc,
    /// The hash of its batch.
    pub batch: BatchHash,
    /// Its index in the batch.
    pub index: u32,
}
