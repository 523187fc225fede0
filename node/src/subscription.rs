//! A subscription is a cursor over the log and a wake-up, never a queue: live delivery and replay are one code path.

use std::cell::RefCell;
use std::collections::HashMap;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::event::Item;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::{Pattern, Topic};
use tokio::sync::watch;

use crate::filter::Filter;
use crate::log::{LogError, LogReader};
use crate::metrics::{DeliveryMeters, Open};

/// Batches that one read of the log brings, at most.
const READ_BATCHES: usize = 256;
/// Bytes that one read of the log brings, at most (or one batch).
const READ_BYTES: usize = 1024 * 1024;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the first event that is stored.
    Start,
    /// After the last.
    End,
    /// So many matching events before the end.
    Last(u64),
    /// After this arrival number.
    After(Arrival),
    /// After the event at this place of the batch with this arrival number; the whole batch when it has fewer events.
    AfterEvent(Arrival, u32),
}

/// What a subscription brings.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The arrival number of the batch.
    pub arrival: Arrival,
    /// The batch.
    pub batch: VerifiedBatch,
    /// Events at the beginning of the batch that are not part of the delivery.
    pub skip: usize,
}

/// Where the cursor stands.
enum Cursor {
    /// The beginning is still to be found: so many events back from before an arrival number.
    Back {
        missing: u64,
        before: Arrival,
    },
    Following,
}

/// A cursor over the log: each batch that matches is delivered once, in order of arrival.
///
/// An author's events of a topic come in the order in which they were published. The exception is told by the log
/// itself: after a hole was filled, or an author's store restored, earlier sequence numbers may follow later ones.
pub struct Subscription {
    log: LogReader,
    wake: watch::Receiver<Arrival>,
    topics: TopicMemory,
    cursor: Cursor,
    after: Arrival,
    /// Events at the beginning of one batch that come before the place to begin at.
    skip: (Arrival, usize),
    /// Which events count when the last ones are looked for.
    counted: Filter,
    meters: DeliveryMeters,
    _open: Open,
    /// It had everything once, so that from then on it waits for what comes.
    is_live: bool,
}

impl Subscription {
    pub(crate) fn new(log: LogReader, meters: DeliveryMeters, patterns: Vec<Pattern>, from: From) -> Self {
        let wake = log.watch();
        let last = log.last_arrival();
        let (mut cursor, mut skip) = (Cursor::Following, (Arrival(0), 0));
        let after = match from {
            From::Start => Arrival(0),
            From::End => last,
            From::Last(missing) => {
                cursor = Cursor::Back { missing, before: Arrival(last.0 + 1) };
                last
            }
            From::After(arrival) => arrival,
            From::AfterEvent(arrival, index) => {
                skip = (arrival, (index as usize).saturating_add(1));
                Arrival(arrival.0.saturating_sub(1))
            }
        };
        let (topics, open) = (TopicMemory::new(patterns), meters.open());
        let counted = Filter::default();
        Self { log, wake, topics, cursor, after, skip, counted, meters, _open: open, is_live: false }
    }

    /// Has only events that match counted by [`From::Last`]. What is delivered is not filtered.
    #[must_use]
    pub fn counting(mut self, counted: Filter) -> Self {
        self.counted = counted;
        self
    }

    /// What it subscribes to.
    pub(crate) fn topics(&mut self) -> &mut TopicMemory {
        &mut self.topics
    }

    /// The next batches, in order of arrival; waits while there are none. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log cannot be read. The subscription stays where it is.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, LogError> {
        loop {
            let found = self.read().await?;
            if !found.is_empty() {
                self.count(&found);
                return Ok(found);
            }
            if !self.is_caught_up() {
                continue;
            }
            self.changed().await?;
        }
    }

    /// Waits until something is stored beyond what was delivered or passed over. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log was closed.
    pub async fn changed(&mut self) -> Result<(), LogError> {
        self.is_live = true;
        let after = self.after;
        self.wake.wait_for(|last| *last > after).await.map(drop).map_err(|_| LogError::Closed)
    }

    /// The next batches that are stored already; none when all were delivered.
    ///
    /// # Errors
    /// When the log cannot be read. The subscription stays where it is.
    pub async fn next_stored(&mut self) -> Result<Vec<Delivery>, LogError> {
        loop {
            let found = self.read().await?;
            if !found.is_empty() || self.is_caught_up() {
                self.count(&found);
                return Ok(found);
            }
        }
    }

    /// Whether everything that is stored now was delivered.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        matches!(self.cursor, Cursor::Following) && self.after >= self.log.last_arrival()
    }

    /// Whether the place to begin at is found: before, [`Self::position`] says nothing.
    #[must_use]
    pub fn is_found(&self) -> bool {
        matches!(self.cursor, Cursor::Following)
    }

    /// The arrival number up to which everything was delivered or passed over.
    #[must_use]
    pub fn position(&self) -> Arrival {
        self.after
    }

    fn count(&self, found: &[Delivery]) {
        for Delivery { batch, skip, .. } in found {
            self.meters.delivered(batch, *skip);
        }
        let first = found.first().filter(|_| self.is_live);
        if let Some(since) = first.and_then(|delivery| self.log.durable_since(delivery.arrival)) {
            self.meters.took(since.elapsed());
        }
    }

    async fn read(&mut self) -> Result<Vec<Delivery>, LogError> {
        // A long replay of topics that do not match must not hold the task's thread for ever.
        tokio::task::consume_budget().await;
        match self.cursor {
            Cursor::Back { missing, before } => self.step_back(missing, before).map(|()| Vec::new()),
            Cursor::Following => self.scan(),
        }
    }

    fn scan(&mut self) -> Result<Vec<Delivery>, LogError> {
        let Self { log, topics, after, .. } = self;
        let scan = topics.while_reading(|wanted| log.scan_topic(wanted, *after, READ_BATCHES, READ_BYTES))?;
        self.after = scan.next;
        let (skipped, count) = self.skip;
        let deliveries = scan.batches.into_iter().map(|(arrival, batch)| {
            let skip = if arrival == skipped { count.min(batch.header().count as usize) } else { 0 };
            Delivery { arrival, batch, skip }
        });
        Ok(deliveries.collect())
    }

    /// Walks back by one read. Keeps no batch, however many events are asked for: they are read again on the way forward.
    fn step_back(&mut self, mut missing: u64, before: Arrival) -> Result<(), LogError> {
        if missing == 0 {
            self.cursor = Cursor::Following;
            return Ok(());
        }
        let Self { log, topics, .. } = self;
        let scan = topics.while_reading(|wanted| log.scan_back(wanted, before, READ_BATCHES, READ_BYTES))?;
        for (arrival, batch) in &scan.batches {
            let counted = count(batch, &self.counted);
            if counted >= missing {
                self.after = Arrival(arrival.0 - 1);
                self.skip = (*arrival, skip_counted(batch, &self.counted, counted - missing));
                self.cursor = Cursor::Following;
                return Ok(());
            }
            missing -= counted;
        }
        if scan.next.0 <= 1 {
            self.after = Arrival(0);
            self.cursor = Cursor::Following;
        } else {
            self.cursor = Cursor::Back { missing, before: scan.next };
        }
        Ok(())
    }
}

/// How many events of a batch match.
fn count(batch: &VerifiedBatch, filter: &Filter) -> u64 {
    if *filter == Filter::default() {
        return batch.header().count;
    }
    batch.items().filter(|(_, item)| matches!(item, Item::Event(event) if filter.matches(event))).count() as u64
}

/// How many items to skip, so that this many events that match are left out.
fn skip_counted(batch: &VerifiedBatch, filter: &Filter, left_out: u64) -> usize {
    if *filter == Filter::default() {
        return left_out as usize;
    }
    let mut matching =
        batch.items().enumerate().filter(|(_, (_, item))| matches!(item, Item::Event(event) if filter.matches(event)));
    matching.nth(left_out as usize).map_or(0, |(index, _)| index)
}

/// Topics whose match is remembered before the memory is emptied.
const MAX_REMEMBERED_TOPICS: usize = 65_536;

/// Which topics match one of some patterns: patterns are compared once for each topic, and not for each batch.
#[derive(Debug)]
pub(crate) struct TopicMemory {
    patterns: Vec<Pattern>,
    known: HashMap<Topic, bool>,
}

impl TopicMemory {
    pub(crate) fn new(patterns: Vec<Pattern>) -> Self {
        Self { patterns, known: HashMap::new() }
    }

    /// Whether one of the patterns matches.
    pub(crate) fn matches(&mut self, topic: &Topic) -> bool {
        if let Some(known) = self.known.get(topic) {
            return *known;
        }
        if self.known.len() >= MAX_REMEMBERED_TOPICS {
            self.known.clear();
        }
        let matches = self.patterns.iter().any(|pattern| pattern.matches(topic));
        self.known.insert(topic.clone(), matches);
        matches
    }

    /// Reads something of the log, which asks what matches.
    pub(crate) fn while_reading<R>(&mut self, read: impl FnOnce(&dyn Fn(&Topic) -> bool) -> R) -> R {
        let this = RefCell::new(self);
        read(&|topic| this.borrow_mut().matches(topic))
    }
}
