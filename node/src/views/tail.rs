//! Where a view has read the log up to.

use std::time::{Duration, Instant};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;

use super::coverage::Coverage;
use crate::log::{LogError, LogReader};

/// For how long the log is read for one answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Batches, and bytes of them, that one read of the log brings.
const READ_BATCHES: usize = 256;
const READ_BYTES: usize = 1024 * 1024;

/// How far the log was read.
#[derive(Debug, Default)]
pub(super) struct Tail {
    after: Arrival,
    coverage: Coverage,
    is_up_to_date: bool,
}

impl Tail {
    /// Gives what is new in some topics, as far as there is time.
    pub(super) fn read(
        &mut self,
        log: &LogReader,
        topics: &dyn Fn(&Topic) -> bool,
        mut take: impl FnMut(Arrival, &VerifiedBatch),
    ) -> Result<(), LogError> {
        let until = Instant::now() + TIME_LIMIT;
        while self.read_next(log, topics, READ_BATCHES, &mut take)? && Instant::now() < until {}
        Ok(())
    }

    /// Gives so many batches at most. Says whether there are more.
    fn read_next(
        &mut self,
        log: &LogReader,
        topics: &dyn Fn(&Topic) -> bool,
        max_batches: usize,
        mut take: impl FnMut(Arrival, &VerifiedBatch),
    ) -> Result<bool, LogError> {
        let last = log.last_arrival();
        let scan = log.scan_topic(topics, self.after, max_batches, READ_BYTES)?;
        for (arrival, batch) in &scan.batches {
            let header = batch.header();
            let key = LogKey { author: header.author, topic: header.topic.clone() };
            self.coverage.read(key, (header.first_seq, header.last_seq()));
            take(*arrival, batch);
        }
        self.after = scan.next;
        self.is_up_to_date = self.after >= last;
        self.coverage.look(log, topics, self.after)?;
        Ok(!self.is_up_to_date)
    }

    /// Up to where the log was read.
    pub(super) fn after(&self) -> Arrival {
        self.after
    }

    /// Whether anything was pruned before it could be read.
    pub(super) fn is_partial(&self) -> bool {
        self.coverage.is_partial()
    }

    /// Whether everything was read that was stored when that was last looked at.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.is_up_to_date
    }
}

#[cfg(test)]
mod tests;
