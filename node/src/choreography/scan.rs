//! Traces, causes and flows, out of the log as it is when they are asked for.
//!
//! The log has no index of ids: it is read from its end, for so long at most, and what is told says whether that was
//! all of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::choreography::trace::{MAX_TRACE_EVENTS, Trace};
use roundelay_protocol::choreography::{Observed, Rank};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Pattern;

use super::reading::{READ_BATCHES, READ_BYTES};
use super::reports::ScanInfo;
use crate::log::{LogError, LogReader};
use crate::subscription::TopicMemory;

/// Readings of the log for traces and flows at once, at most.
pub(crate) const MAX_SCANS: usize = 2;
/// For how long the log is read for one answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// Passes over the log in search of causes, of which some arrived after their effects.
const MAX_PASSES: usize = 4;
/// Events of a flow, the last to arrive, and bytes of their batches.
const MAX_FLOW_EVENTS: usize = 262_144;
const MAX_FLOW_BYTES: usize = 128 * 1024 * 1024;
/// Batches that may have events of a flow.
const MAX_LISTED_BATCHES: usize = 1_000_000;

/// A reading of the log for one answer.
pub(crate) struct Scan {
    log: LogReader,
    topics: TopicMemory,
    until: Instant,
    info: ScanInfo,
}

/// What was found of an event or a correlation id.
pub(crate) struct Found {
    /// The events.
    pub(crate) trace: Trace,
    /// The correlation id that they share, if it is by that that they were found.
    pub(crate) correlation: Option<String>,
}

impl Scan {
    /// Reads the topics that match.
    pub(crate) fn new(log: LogReader, patterns: Vec<Pattern>) -> Self {
        let until = Instant::now() + TIME_LIMIT;
        Self { log, topics: TopicMemory::new(patterns), until, info: ScanInfo { batches: 0, is_whole: true } }
    }

    /// How much was read.
    pub(crate) fn info(&self) -> ScanInfo {
        self.info
    }

    /// Shows batches, the last to arrive first, until the beginning or until `visit` has enough.
    fn back(&mut self, mut visit: impl FnMut(&VerifiedBatch) -> ControlFlow<()>) -> Result<(), LogError> {
        let mut before = Arrival(u64::MAX);
        loop {
            if self.is_late() {
                return Ok(());
            }
            let Self { log, topics, .. } = self;
            let scan = topics.while_reading(|wanted| log.scan_back(wanted, before, READ_BATCHES, READ_BYTES))?;
            for (_, batch) in &scan.batches {
                self.info.batches += 1;
                if visit(batch).is_break() {
                    return Ok(());
                }
            }
            before = scan.next;
            if before.0 <= 1 {
                return Ok(());
            }
        }
    }

    fn is_late(&mut self) -> bool {
        let is_late = Instant::now() >= self.until;
        self.info.is_whole &= !is_late;
        is_late
    }

    /// The trace of a correlation id, or of the one that the event with this id has, or else of what caused that event
    /// and came of it. `None` when nothing of the kind was found.
    pub(crate) fn trace_of(&mut self, id: &str) -> Result<Option<Found>, LogError> {
        let (mut correlated, mut named) = (Kept::default(), Kept::default());
        self.back(|batch| {
            each(batch, |event, observe| {
                if event.correlation == Some(id) {
                    correlated.keep(observe());
                } else if event.id == id {
                    named.keep(observe());
                }
            });
            ControlFlow::Continue(())
        })?;
        let of = |correlation: &str, kept: Kept| Found {
            trace: Trace::of(correlation, kept.events()),
            correlation: Some(correlation.to_owned()),
        };
        if !correlated.is_empty() {
            return Ok(Some(of(id, correlated)));
        }
        let Some(event) = named.first() else { return Ok(None) };
        if let Some(correlation) = event.correlation.clone() {
            let mut kept = Kept::default();
            self.back(|batch| {
                each(batch, |event, observe| {
                    if event.correlation == Some(&correlation) {
                        kept.keep(observe());
                    }
                });
                ControlFlow::Continue(())
            })?;
            return Ok(Some(of(&correlation, kept)));
        }
        let mut kept = self.causes_of(id)?;
        self.add_effects(id, &mut kept)?;
        Ok(Some(Found { trace: Trace::new(kept.events()), correlation: None }))
    }

    /// The event with an id and everything that led to it. `None` when there is no such event.
    pub(crate) fn why(&mut self, id: &str) -> Result<Option<Trace>, LogError> {
        let kept = self.causes_of(id)?;
        Ok((!kept.is_empty()).then(|| Trace::new(kept.events())))
    }

    fn causes_of(&mut self, id: &str) -> Result<Kept, LogError> {
        let mut kept = Kept::default();
        let mut missing = BTreeSet::from([id.to_owned()]);
        let mut named = missing.clone();
        // Causes arrive before their effects, but for those that were late.
        for _ in 0..MAX_PASSES {
            let before = kept.len();
            self.back(|batch| {
                // The last event of a batch first, as it may name the others.
                let mut events = Vec::new();
                each(batch, |event, observe| events.push((event.id.to_owned(), observe())));
                for (id, event) in events.into_iter().rev() {
                    if named.contains(&id) {
                        missing.remove(&id);
                        for cause in &event.causes {
                            if named.insert(cause.clone()) {
                                missing.insert(cause.clone());
                            }
                        }
                        kept.keep(event);
                    }
                }
                if missing.is_empty() || kept.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if missing.is_empty() || kept.is_full() || kept.len() == before {
                break;
            }
        }
        Ok(kept)
    }

    /// Adds what came of an event, and what came of that.
    fn add_effects(&mut self, id: &str, kept: &mut Kept) -> Result<(), LogError> {
        let mut ids = BTreeSet::from([id.to_owned()]);
        for _ in 0..MAX_PASSES {
            let before = kept.len();
            self.back(|batch| {
                each(batch, |event, observe| {
                    if event.causes.iter().any(|cause| ids.contains(*cause)) {
                        ids.insert(event.id.to_owned());
                        kept.keep(observe());
                    }
                });
                if kept.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if kept.is_full() || kept.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// The events of a flow: those stamped at or after a time, of these types where they are given.
    pub(crate) fn since(&mut self, since: Hlc, kinds: Option<&BTreeSet<String>>) -> Result<Vec<Observed>, LogError> {
        let listed = self.list_since(since)?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        for arrival in listed.into_iter().rev() {
            if self.is_late() {
                break;
            }
            let Some(batch) = self.log.batch(arrival)? else { continue };
            self.info.batches += 1;
            bytes += batch.bytes().len();
            each(&batch, |event, observe| {
                if event.hlc >= since && kinds.is_none_or(|kinds| kinds.contains(event.kind)) {
                    events.push(observe());
                }
            });
            if events.len() >= MAX_FLOW_EVENTS || bytes >= MAX_FLOW_BYTES {
                self.info.is_whole = false;
                break;
            }
        }
        Ok(events)
    }

    /// Batches that may have events stamped since then, in order of arrival.
    fn list_since(&mut self, since: Hlc) -> Result<VecDeque<Arrival>, LogError> {
        let mut listed = VecDeque::new();
        let (mut after, last) = (Arrival(0), self.log.last_arrival());
        while after < last && !self.is_late() {
            let Self { log, topics, .. } = self;
            let (found, next) = topics.while_reading(|wanted| log.stamps(wanted, after, last))?;
            after = next;
            listed.extend(found.into_iter().filter(|(_, _, last)| *last >= since).map(|(arrival, ..)| arrival));
            if listed.len() > MAX_LISTED_BATCHES {
                self.info.is_whole = false;
                listed.drain(..listed.len() - MAX_LISTED_BATCHES);
            }
        }
        Ok(listed)
    }
}

/// Shows the events of a batch. What is made of one costs something, so it is made only of those that are wanted.
fn each(batch: &VerifiedBatch, mut visit: impl FnMut(&EventView<'_>, &dyn Fn() -> Observed)) {
    let (header, hash) = (batch.header(), batch.hash());
    for (index, (_, item)) in (0_u32..).zip(batch.items()) {
        let Item::Event(event) = item else { continue };
        let rank = Rank { stamp: event.hlc, batch: hash, index };
        visit(&event, &|| Observed::new(rank, &header.topic, header.author, &event));
    }
}

/// Events that were found, the first in total order, and twice as many as a trace has: what is beyond is only counted there.
#[derive(Default)]
struct Kept {
    events: BTreeMap<Rank, Observed>,
}

impl Kept {
    fn keep(&mut self, event: Observed) {
        self.events.insert(event.rank, event);
        if self.events.len() > 2 * MAX_TRACE_EVENTS {
            self.events.pop_last();
        }
    }

    fn is_full(&self) -> bool {
        self.events.len() > MAX_TRACE_EVENTS
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn len(&self) -> usize {
        self.events.len()
    }

    fn first(&self) -> Option<&Observed> {
        self.events.first_key_value().map(|(_, event)| event)
    }

    fn events(self) -> impl Iterator<Item = Observed> {
        self.events.into_values()
    }
}
