//! Which logs there are, their short numbers, and where each was last written.

use std::collections::{BTreeSet, HashMap};

use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;

use super::layout::LogId;

/// The logs of a store. Grows with the logs, which are never removed.
#[derive(Default)]
pub(super) struct Directory {
    ids: HashMap<LogKey, LogId>,
    logs: Vec<Option<(LogKey, Arrival)>>,
    /// Logs by the arrival of their last durable batch.
    recent: BTreeSet<(Arrival, LogId)>,
}

impl Directory {
    /// Adds a log that the store has.
    pub(super) fn insert(&mut self, id: LogId, key: LogKey, last_arrival: Arrival) {
        let at = id as usize;
        if self.logs.len() <= at {
            self.logs.resize(at + 1, None);
        }
        self.ids.insert(key.clone(), id);
        self.recent.insert((last_arrival, id));
        self.logs[at] = Some((key, last_arrival));
    }

    pub(super) fn id(&self, key: &LogKey) -> Option<LogId> {
        self.ids.get(key).copied()
    }

    pub(super) fn key(&self, id: LogId) -> Option<&LogKey> {
        self.logs.get(id as usize)?.as_ref().map(|(key, _)| key)
    }

    /// All logs, by number.
    pub(super) fn keys(&self) -> impl Iterator<Item = &LogKey> {
        self.logs.iter().flatten().map(|(key, _)| key)
    }

    /// Where a log was last durably written; 0 when it never was.
    pub(super) fn last_arrival(&self, id: LogId) -> Option<Arrival> {
        self.logs.get(id as usize)?.as_ref().map(|(_, last)| *last)
    }

    /// The number for the next new log.
    pub(super) fn next_id(&self) -> LogId {
        self.logs.len() as LogId
    }

    /// Takes note of a log's last durable batch.
    pub(super) fn advance(&mut self, id: LogId, arrival: Arrival) {
        if let Some(Some((_, last))) = self.logs.get_mut(id as usize) {
            self.recent.remove(&(*last, id));
            self.recent.insert((arrival, id));
            *last = arrival;
        }
    }

    /// The last arrival of any log whose topic is wanted, looking only at logs that were written beyond `after`.
    pub(super) fn last_beyond(&self, after: Arrival, topics: &dyn Fn(&Topic) -> bool) -> Option<Arrival> {
        let beyond = self.recent.range((Arrival(after.0.saturating_add(1)), 0)..).rev();
        beyond.filter(|(_, id)| self.key(*id).is_some_and(|key| topics(&key.topic))).map(|(last, _)| *last).next()
    }

    /// The wanted logs whose last durable batch arrived between two numbers, the second included.
    pub(super) fn last_between(
        &self,
        after: Arrival,
        upto: Arrival,
        topics: &dyn Fn(&Topic) -> bool,
    ) -> Vec<(LogKey, Arrival)> {
        if after >= upto {
            return Vec::new();
        }
        let between = self.recent.range((Arrival(after.0 + 1), 0)..=(upto, LogId::MAX));
        let logs = between.filter_map(|(last, id)| Some((self.key(*id)?, *last)));
        logs.filter(|(key, _)| topics(&key.topic)).map(|(key, last)| (key.clone(), last)).collect()
    }
}
