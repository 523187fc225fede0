//! Where a choreography has read the log up to, and what it could not read.

use std::collections::{BTreeSet, HashMap};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::choreography::{Observed, Rank};
use roundelay_protocol::event::Item;
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Pattern;

use crate::log::{LogError, LogReader};
use crate::subscription::TopicMemory;

/// Batches that one read of the log brings, at most.
pub(super) const READ_BATCHES: usize = 256;
/// Bytes that one read of the log brings, at most, or one batch.
pub(super) const READ_BYTES: usize = 1024 * 1024;
/// Logs of which it is remembered how far they were read. Beyond it all are forgotten, and looked at as if they were new.
const MAX_LOGS: usize = 65_536;

/// A cursor over the events that can belong to instances of one choreography.
pub(super) struct Reading {
    topics: TopicMemory,
    kinds: BTreeSet<String>,
    after: Arrival,
    /// The last sequence number that was read of each log.
    seen: HashMap<LogKey, u64>,
    pruned_upto: Option<Hlc>,
}

impl Reading {
    /// Begins at the first event that is stored.
    pub(super) fn new(log: &LogReader, patterns: Vec<Pattern>, kinds: BTreeSet<String>) -> Result<Self, LogError> {
        let topics = TopicMemory::new(patterns);
        let mut reading = Self { topics, kinds, after: Arrival(0), seen: HashMap::new(), pruned_upto: None };
        // Of some logs nothing may be left that would tell.
        for key in reading.logs(log) {
            reading.note_floor(log, &key, 0)?;
        }
        Ok(reading)
    }

    /// The next events, in order of arrival; perhaps none, although there are more: see [`Self::is_caught_up`].
    pub(super) fn next(&mut self, log: &LogReader) -> Result<Vec<Observed>, LogError> {
        let Self { topics, after, .. } = self;
        let scan = topics.while_reading(|wanted| log.scan_topic(wanted, *after, READ_BATCHES, READ_BYTES))?;
        let mut events = Vec::new();
        for (_, batch) in &scan.batches {
            self.note_gap(log, batch)?;
            let wanted = |event: &Observed| event.correlation.is_some() && self.kinds.contains(&event.kind);
            events.extend(observe(batch).filter(wanted));
        }
        self.after = scan.next;
        Ok(events)
    }

    /// Whether everything that is stored now was read.
    pub(super) fn is_caught_up(&self, log: &LogReader) -> bool {
        self.after >= log.last_arrival()
    }

    /// Everything up to here was read or passed over.
    pub(super) fn position(&self) -> Arrival {
        self.after
    }

    /// The greatest stamp of what was pruned here before it was read.
    pub(super) fn pruned_upto(&self) -> Option<Hlc> {
        self.pruned_upto
    }

    fn logs(&mut self, log: &LogReader) -> Vec<LogKey> {
        let found = self.topics.while_reading(|wanted| log.last_written(Arrival(0), Arrival(u64::MAX), wanted));
        found.into_iter().map(|(key, _)| key).collect()
    }

    fn note_gap(&mut self, log: &LogReader, batch: &VerifiedBatch) -> Result<(), LogError> {
        let header = batch.header();
        let key = LogKey { topic: header.topic.clone(), author: header.author };
        let seen = self.seen.get(&key).copied().unwrap_or(0);
        if header.first_seq > seen + 1 {
            self.note_floor(log, &key, seen)?;
        }
        if self.seen.len() >= MAX_LOGS && !self.seen.contains_key(&key) {
            self.seen.clear();
        }
        self.seen.insert(key, seen.max(header.last_seq()));
        Ok(())
    }

    /// Notes what was pruned of a log beyond what was read of it.
    fn note_floor(&mut self, log: &LogReader, key: &LogKey, seen: u64) -> Result<(), LogError> {
        if let Some(record) = log.record(key)?.filter(|record| record.floor > seen) {
            self.pruned_upto = self.pruned_upto.max(Some(record.floor_hlc));
        }
        Ok(())
    }
}

/// The events of a batch, as they are looked at.
pub(super) fn observe(batch: &VerifiedBatch) -> impl Iterator<Item = Observed> + '_ {
    let header = batch.header();
    (0_u32..).zip(batch.items()).filter_map(move |(index, (_, item))| match item {
        Item::Event(event) => {
            let rank = Rank { stamp: event.hlc, batch: batch.hash(), index };
            Some(Observed::new(rank, &header.topic, header.author, &event))
        }
        Item::Dropped(_) => None,
    })
}

/// Events of these topics that are known and not here: holes, which peers may fill.
pub(super) fn missing_events(log: &LogReader, patterns: Vec<Pattern>) -> Result<u64, LogError> {
    let mut topics = TopicMemory::new(patterns);
    let logs = topics.while_reading(|wanted| log.last_written(Arrival(0), Arrival(u64::MAX), wanted));
    let mut missing = 0u64;
    for (key, _) in logs {
        let holes = log.record(&key)?.map(|record| record.holes).unwrap_or_default();
        let of_log = holes.iter().map(|hole| hole.to.saturating_sub(hole.from).saturating_add(1));
        missing = of_log.fold(missing, u64::saturating_add);
    }
    Ok(missing)
}
