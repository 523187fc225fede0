//! What is written to a store at once, all or nothing.

use crate::batch::VerifiedBatch;
use crate::heads::LogRecord;
use crate::ids::Arrival;

/// A small value by name; `None` removes it.
pub type Mark = (Vec<u8>, Option<Vec<u8>>);

/// Any number of changes that a store makes together or not at all.
#[derive(Debug, Clone, Default)]
pub struct WriteSet {
    /// Batches to store. The store gives each the next arrival number, in this order.
    pub batches: Vec<VerifiedBatch>,
    /// Records of logs as they are after this write set. The store itself fills in `last_arrival` of those that
    /// `batches` belong to.
    pub logs: Vec<LogRecord>,
    /// Batches to remove. Their arrival numbers stay used, and stay part of the chain.
    pub pruned: Vec<Arrival>,
    /// Small values by name: cursors, timers, what is remembered of a peer.
    pub marks: Vec<Mark>,
}

impl WriteSet {
    /// Whether nothing would be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.logs.is_empty() && self.pruned.is_empty() && self.marks.is_empty()
    }

    /// Bytes that the batches take.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes().len()).sum()
    }
}
