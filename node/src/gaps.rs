//! Notices what a reader of the log does not get: what retention removed before it came by, and what is not here.
//!
//! Every log counts its events, so a reader that has seen one up to a number knows whether the next batch goes on from
//! there. Of a log that it has not seen yet it asks the store for what stands before the first batch.

use std::collections::HashMap;

use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;
use serde::Serialize;

use crate::log::{LogError, LogReader};
use crate::peer_id::text_of;
use crate::subscription::Delivery;

/// Logs of which a reading saw nothing that are looked at when it stops before the store does.
const MAX_UNSEEN: usize = 1_024;
/// Logs that a reader keeps apart. Beyond it all are forgotten, and looked at as if they were new.
const MAX_LOGS: usize = 65_536;

/// Why something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The place to go on from is in another store: this node's was set up anew, or it is another node.
    OtherStore,
    /// The place to go on from is beyond the end of this store, which an older copy has taken the place of.
    StoreWentBack,
    /// Removed here, to keep to what the store or a topic may take, before it was read.
    Pruned,
    /// A hole: not on this node. It comes, later and out of order, if some peer has it.
    Missing,
    /// On this node, but it arrived later: it comes further on.
    ComesLater,
}

/// Something that a reader does not get, or not in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Why.
    pub reason: Reason,
    /// The same for people.
    pub detail: String,
    /// The topic, when it is one log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The peer id of the log's author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The first sequence number that is missing, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// The last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// False when it cannot be told whether the reader had them before they were removed.
    pub certain: bool,
}

impl Gap {
    /// A gap of the whole store.
    #[must_use]
    pub fn of_store(reason: Reason, detail: String) -> Self {
        Self { reason, detail, topic: None, author: None, from_seq: None, to_seq: None, certain: true }
    }

    /// Of several logs.
    fn of_logs() -> Self {
        let detail =
            "events of several authors or topics were removed here, some of them perhaps before they were read";
        Self { certain: false, ..Self::of_store(Reason::Pruned, detail.into()) }
    }

    fn of_log(reason: Reason, log: &LogKey, from: Option<u64>, to: u64) -> Self {
        let what = match reason {
            Reason::Missing => "are not on this node; they come later, and out of order, if some peer has them",
            Reason::ComesLater => "arrived later than what follows, and come further on",
            _ if from.is_none() => "were removed here, and some of them perhaps before they were read",
            _ => "were removed here before they were read",
        };
        let range = from.map_or_else(|| format!("up to {to}"), |from| format!("{from} to {to}"));
        Self {
            reason,
            detail: format!("events {range} of one author of {} {what}", log.topic),
            topic: Some(log.topic.to_string()),
            author: Some(text_of(&log.author)),
            from_seq: from,
            to_seq: Some(to),
            certain: from.is_some(),
        }
    }
}

/// Up to where a reader has seen a log.
#[derive(Clone, Copy)]
struct Seen {
    seq: u64,
    arrival: Arrival,
}

/// Follows what a reader gets, log by log.
pub struct Continuity {
    log: LogReader,
    seen: HashMap<LogKey, Seen>,
    /// What was removed beyond this is missed, also in logs of which nothing was seen. Without it a reader takes what
    /// there is.
    since: Option<Arrival>,
}

impl Continuity {
    /// For a reader that goes on after an arrival number; `None` for one that begins with whatever is stored.
    #[must_use]
    pub fn new(log: LogReader, since: Option<Arrival>) -> Self {
        Self { log, seen: HashMap::new(), since }
    }

    /// What is missing right before a batch.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn before(&mut self, delivery: &Delivery) -> Result<Vec<Gap>, LogError> {
        let header = delivery.batch.header();
        let log = LogKey { topic: header.topic.clone(), author: header.author };
        let (first, last) = (header.first_seq, header.last_seq());
        if self.seen.len() >= MAX_LOGS && !self.seen.contains_key(&log) {
            self.seen.clear();
            self.since = None;
        }
        let now = Seen { seq: last, arrival: delivery.arrival };
        let gaps = match self.seen.get(&log).copied() {
            // The reader has begun this batch before.
            _ if delivery.skip > 0 => Vec::new(),
            Some(seen) if first <= seen.seq.saturating_add(1) => Vec::new(),
            Some(seen) => self.explain(&log, seen.seq + 1, first - 1)?,
            None if first > 1 => self.explain_beginning(&log, first - 1, delivery.arrival)?,
            None => Vec::new(),
        };
        let seen = self.seen.entry(log).or_insert(now);
        *seen = Seen { seq: seen.seq.max(last), arrival: now.arrival };
        Ok(gaps)
    }

    /// What is missing at the end of logs that were written between two arrival numbers, all of which was read.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn between(
        &mut self,
        after: Arrival,
        upto: Arrival,
        wanted: &dyn Fn(&Topic) -> bool,
    ) -> Result<Vec<Gap>, LogError> {
        let mut gaps = Vec::new();
        for (log, last) in self.log.last_written(after, upto, wanted) {
            let seen = self.seen.get(&log).copied();
            let is_missed = seen.map_or(self.since.is_some_and(|since| last > since), |seen| seen.arrival < last);
            if !is_missed {
                continue;
            }
            let Some(record) = self.log.record(&log)? else { continue };
            let to = record.last_seq();
            if seen.is_none_or(|seen| seen.seq < to) {
                gaps.push(Gap::of_log(Reason::Pruned, &log, seen.map(|seen| seen.seq + 1), to));
            }
            self.seen.insert(log, Seen { seq: to, arrival: last });
        }
        Ok(gaps)
    }

    /// What may be missing behind the end of a reading that stops before the store does: of logs that go on beyond
    /// `upto`, what was removed between what was seen and what comes next. Where exactly it had arrived is not known any
    /// more. Of logs of which nothing was seen one gap tells, unless it is one log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn at_end(&mut self, upto: Arrival, wanted: &dyn Fn(&Topic) -> bool) -> Result<Vec<Gap>, LogError> {
        let pruned = self.log.last_pruned(upto)?;
        let (mut gaps, mut unseen, mut looked, mut more) = (Vec::new(), Vec::new(), 0, false);
        for (log, _) in self.log.last_written(upto, Arrival(u64::MAX), wanted) {
            match self.seen.get(&log).copied() {
                Some(seen) if seen.arrival < pruned => gaps.extend(self.behind(&log, seen, upto)?),
                Some(_) => {}
                None if unseen.len() > 1 || self.since.is_none_or(|since| pruned <= since) => {}
                None if looked >= MAX_UNSEEN => more = true,
                None => {
                    looked += 1;
                    unseen.extend(self.behind_nothing(&log, upto)?);
                }
            }
        }
        gaps.extend(if more || unseen.len() > 1 { vec![Gap::of_logs()] } else { unseen });
        Ok(gaps)
    }

    /// What was removed of a log behind what was seen of it, as far as it may have arrived up to a number.
    fn behind(&mut self, log: &LogKey, seen: Seen, upto: Arrival) -> Result<Vec<Gap>, LogError> {
        let next = self.log.range(log, seen.seq, u64::MAX, 1)?;
        let Some(first) = next.first().map(|batch| batch.header().first_seq) else { return Ok(Vec::new()) };
        if first <= seen.seq + 1 {
            return Ok(Vec::new());
        }
        let gaps = self.explain(log, seen.seq + 1, first - 1)?;
        self.seen.insert(log.clone(), Seen { seq: first - 1, arrival: upto });
        let pruned = gaps.into_iter().filter(|gap| gap.reason == Reason::Pruned);
        Ok(pruned.map(|gap| Gap { certain: false, ..gap }).collect())
    }

    /// The same of a log of which nothing was seen.
    fn behind_nothing(&self, log: &LogKey, upto: Arrival) -> Result<Option<Gap>, LogError> {
        let Some(record) = self.log.record(log)?.filter(|record| record.floor > 0) else { return Ok(None) };
        let Some(before) = self.log.first_beyond(log, upto)?.map(|first| first - 1).filter(|seq| *seq > 0) else {
            return Ok(None);
        };
        let is_hole = record.holes.iter().any(|hole| (hole.from..=hole.to).contains(&before));
        let is_here = !self.log.range(log, before - 1, before, 1)?.is_empty();
        Ok((!is_hole && !is_here).then(|| Gap::of_log(Reason::Pruned, log, None, before)))
    }

    fn explain(&self, log: &LogKey, from: u64, to: u64) -> Result<Vec<Gap>, LogError> {
        let holes = self.log.record(log)?.map(|record| record.holes).unwrap_or_default();
        let open = holes.iter().filter(|hole| hole.from <= to && hole.to >= from);
        let gaps: Vec<_> =
            open.map(|hole| Gap::of_log(Reason::Missing, log, Some(hole.from.max(from)), hole.to.min(to))).collect();
        if !gaps.is_empty() {
            return Ok(gaps);
        }
        let is_here = !self.log.range(log, from - 1, to, 1)?.is_empty();
        Ok(vec![Gap::of_log(if is_here { Reason::ComesLater } else { Reason::Pruned }, log, Some(from), to)])
    }

    /// The first batch of a log that the reader sees, and not the log's first: what is before it?
    fn explain_beginning(&self, log: &LogKey, before: u64, arrival: Arrival) -> Result<Vec<Gap>, LogError> {
        let record = self.log.record(log)?;
        let hole = record.iter().flat_map(|record| &record.holes).find(|hole| hole.from <= before && before <= hole.to);
        if let Some(hole) = hole {
            return Ok(vec![Gap::of_log(Reason::Missing, log, Some(hole.from), before)]);
        }
        let Some(since) = self.since else { return Ok(Vec::new()) };
        let is_here = !self.log.range(log, before - 1, before, 1)?.is_empty();
        if is_here || !self.log.has_pruned(since, arrival)? {
            return Ok(Vec::new());
        }
        Ok(vec![Gap::of_log(Reason::Pruned, log, None, before)])
    }
}
