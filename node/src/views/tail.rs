//! Where a view has read the log up to, and whether anything was pruned before it could read it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;

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
    /// Of logs that were not written beyond this, all that is pruned had been read or was noticed.
    checked: Arrival,
    /// The last sequence number that was read of each log.
    seen: HashMap<LogKey, u64>,
    is_partial: bool,
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
        self.note_pruned(log, topics)?;
        loop {
            let last = log.last_arrival();
            let scan = log.scan_topic(topics, self.after, READ_BATCHES, READ_BYTES)?;
            for (arrival, batch) in &scan.batches {
                self.note_read(log, batch)?;
                take(*arrival, batch);
            }
            self.after = scan.next;
            self.is_up_to_date = self.after >= last;
            if self.is_up_to_date || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    fn note_pruned(&mut self, log: &LogReader, topics: &dyn Fn(&Topic) -> bool) -> Result<(), LogError> {
        for (key, _) in log.last_written(self.checked, Arrival(u64::MAX), topics) {
            self.is_partial |= floor(log, &key)? > self.seen.get(&key).copied().unwrap_or(0);
        }
        // What is read from here on can be pruned before its turn comes, and is looked at the next time.
        self.checked = self.after;
        Ok(())
    }

    fn note_read(&mut self, log: &LogReader, batch: &VerifiedBatch) -> Result<(), LogError> {
        let header = batch.header();
        let seen = self.seen.entry(LogKey { author: header.author, topic: header.topic.clone() }).or_default();
        // Where it goes on later than expected, what is missing may have been pruned since that was looked at.
        if header.first_seq > *seen + 1 {
            let key = LogKey { author: header.author, topic: header.topic.clone() };
            self.is_partial |= floor(log, &key)? > *seen;
        }
        *seen = (*seen).max(header.last_seq());
        Ok(())
    }

    /// Up to where the log was read.
    pub(super) fn after(&self) -> Arrival {
        self.after
    }

    pub(super) fn is_partial(&self) -> bool {
        self.is_partial
    }

    pub(super) fn is_up_to_date(&self) -> bool {
        self.is_up_to_date
    }
}

/// The last sequence number of a log that was pruned.
fn floor(log: &LogReader, key: &LogKey) -> Result<u64, LogError> {
    Ok(log.record(key)?.map_or(0, |record| record.floor))
}
