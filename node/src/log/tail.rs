//! The most recent batches, kept in memory so that what live subscribers read does not come back from disk.

use std::collections::VecDeque;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::ids::Arrival;

/// Bytes that an entry costs beside the batch.
const ENTRY_BYTES: usize = 512;

/// All batches that are stored beyond an arrival number, within a bound in bytes.
pub(super) struct Tail {
    entries: VecDeque<(Arrival, VerifiedBatch)>,
    /// Everything stored beyond this is here.
    start: Arrival,
    bytes: usize,
    max_bytes: usize,
}

impl Tail {
    pub(super) fn new(start: Arrival, max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), start, bytes: 0, max_bytes }
    }

    pub(super) fn start(&self) -> Arrival {
        self.start
    }

    /// Adds the batch that arrived last.
    pub(super) fn push(&mut self, arrival: Arrival, batch: VerifiedBatch) {
        self.bytes += batch.bytes().len() + ENTRY_BYTES;
        self.entries.push_back((arrival, batch));
        while self.bytes > self.max_bytes {
            let Some((arrival, batch)) = self.entries.pop_front() else { break };
            self.bytes -= batch.bytes().len() + ENTRY_BYTES;
            self.start = arrival;
        }
    }

    pub(super) fn remove(&mut self, arrival: Arrival) {
        if let Ok(at) = self.position(arrival)
            && let Some((_, batch)) = self.entries.remove(at)
        {
            self.bytes -= batch.bytes().len() + ENTRY_BYTES;
        }
    }

    pub(super) fn get(&self, arrival: Arrival) -> Option<&VerifiedBatch> {
        self.position(arrival).ok().and_then(|at| self.entries.get(at)).map(|(_, batch)| batch)
    }

    /// The batches beyond an arrival number, ascending; `None` when some of them are no longer here.
    pub(super) fn after(&self, after: Arrival) -> Option<impl DoubleEndedIterator<Item = &(Arrival, VerifiedBatch)>> {
        (after >= self.start)
            .then(|| self.entries.range(self.position(Arrival(after.0.saturating_add(1))).unwrap_or_else(|at| at)..))
    }

    /// The batches here before an arrival number, descending.
    pub(super) fn before(&self, before: Arrival) -> impl Iterator<Item = &(Arrival, VerifiedBatch)> {
        self.entries.range(..self.position(before).unwrap_or_else(|at| at)).rev()
    }

    fn position(&self, arrival: Arrival) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&arrival, |(arrival, _)| *arrival)
    }
}
