//! Which events of the logs that a view follows were read, and whether the rest can still be.

use std::collections::{BTreeMap, HashMap};

use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;

use crate::log::{LogError, LogReader};

/// A range of sequence numbers, both ends included.
type Range = (u64, u64);

/// Knows by their sequence numbers which events were read. Lines of a forked log are not told apart.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Up to where each log was read.
    upto: HashMap<LogKey, u64>,
    /// What was not read below that: it is missing here, arrives later, or was pruned. About as many ranges as a log may
    /// have holes.
    unread: BTreeMap<LogKey, Vec<Range>>,
    /// Of logs that were not written beyond this, all was read that could be.
    passed: Arrival,
    is_partial: bool,
}

impl Coverage {
    /// Whether events were pruned, or given up, before they were read.
    pub(super) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Takes note of a batch that was read.
    pub(super) fn read(&mut self, log: LogKey, (first, last): Range) {
        if self.is_partial {
            return;
        }
        let upto = self.upto.get(&log).copied().unwrap_or(0);
        if first <= upto
            && let Some(unread) = self.unread.get_mut(&log)
        {
            *unread = unread.iter().flat_map(|range| without(*range, (first, last))).collect();
            if unread.is_empty() {
                self.unread.remove(&log);
            }
        } else if first > upto.saturating_add(1) {
            self.unread.entry(log.clone()).or_default().push((upto + 1, first - 1));
        }
        self.upto.insert(log, last.max(upto));
    }

    /// Looks for what cannot be read any more, once all was read of some topics that is stored up to an arrival number. A floor
    /// passes what is pruned when that is durable, so what goes just now may be noticed with the next look only.
    pub(super) fn look(
        &mut self,
        log: &LogReader,
        topics: &dyn Fn(&Topic) -> bool,
        upto: Arrival,
    ) -> Result<(), LogError> {
        if self.is_partial {
            return Ok(());
        }
        for (key, _) in log.last_written(self.passed, upto, topics) {
            // A log's tips outlive its events: nothing up to them comes beyond what was passed, unless it is missing.
            let last_seq = log.record(&key)?.map_or(0, |record| record.last_seq());
            let read = self.upto.entry(key.clone()).or_default();
            if last_seq > *read {
                self.unread.entry(key).or_default().push((*read + 1, last_seq));
                *read = last_seq;
            }
        }
        self.passed = upto;
        if self.is_any_gone(log)? {
            *self = Self { is_partial: true, ..Self::default() };
        }
        Ok(())
    }

    /// Whether a floor has passed what was not read, and nothing of that is stored: an island below the floor is still to come.
    /// A floor rises also where nothing is written to its log.
    fn is_any_gone(&self, log: &LogReader) -> Result<bool, LogError> {
        for (key, unread) in &self.unread {
            let floor = log.record(key)?.map_or(0, |record| record.floor);
            for (from, to) in unread.iter().filter(|(from, _)| *from <= floor) {
                if log.range(key, from - 1, floor.min(*to), 1)?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// What is left of a range when another is taken out of it.
fn without((from, to): Range, (first, last): Range) -> impl Iterator<Item = Range> {
    let below = (from, to.min(first.saturating_sub(1)));
    let above = (from.max(last.saturating_add(1)), to);
    // Where the other does not touch it, both would be the whole of it.
    let parts = if last < from || first > to { [(from, to), (1, 0)] } else { [below, above] };
    parts.into_iter().filter(|(from, to)| from <= to)
}
