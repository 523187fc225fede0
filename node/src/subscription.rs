//! A subscription is a cursor over the log and a wake-up, never a queue: live delivery and replay are one code path.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::{Pattern, Topic};
use tokio::sync::watch;

use crate::log::{LogError, LogReader};

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
    /// With the events whose stamp is at or after this, in order of arrival.
    Time(Hlc),
    /// After this arrival number.
    After(Arrival),
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
    /// The beginning is still to be found: so many events before the end.
    Back(u64),
    /// The first events are known; then the log is followed.
    Primed(VecDeque<Delivery>),
    Following,
}

/// A cursor over the log: each batch that matches is delivered once, in order of arrival.
///
/// An author's events of a topic come in the order in which they were published. The exception is told by the log
/// itself: after a hole was filled, or an author's store restored, earlier sequence numbers may follow later ones.
pub struct Subscription {
    log: LogReader,
    wake: watch::Receiver<Arrival>,
    patterns: Arc<[Pattern]>,
    cursor: Cursor,
    after: Arrival,
    not_before: Hlc,
    /// Which topics match: patterns are compared once for each topic.
    matching: HashMap<Topic, bool>,
}

/// Topics whose match is remembered before the memory is emptied.
const MAX_REMEMBERED_TOPICS: usize = 65_536;

impl Subscription {
    pub(crate) fn new(log: LogReader, patterns: Vec<Pattern>, from: From) -> Self {
        let wake = log.watch();
        let (cursor, after, not_before) = match from {
            From::Start => (Cursor::Following, Arrival(0), Hlc(0)),
            From::End => (Cursor::Following, log.last_arrival(), Hlc(0)),
            From::Last(count) => (Cursor::Back(count), log.last_arrival(), Hlc(0)),
            From::Time(hlc) => (Cursor::Following, Arrival(0), hlc),
            From::After(arrival) => (Cursor::Following, arrival, Hlc(0)),
        };
        Self { log, wake, patterns: patterns.into(), cursor, after, not_before, matching: HashMap::new() }
    }

    /// The next batches, in order of arrival; waits while there are none. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log cannot be read. The subscription stays where it is.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, LogError> {
        loop {
            let found = self.read().await?;
            if !found.is_empty() {
                return Ok(found);
            }
            if !self.is_caught_up() {
                continue;
            }
            let after = self.after;
            if self.wake.wait_for(|last| *last > after).await.is_err() {
                return Err(LogError::Closed);
            }
        }
    }

    /// The next batches that are stored already; none when all were delivered.
    ///
    /// # Errors
    /// When the log cannot be read. The subscription stays where it is.
    pub async fn next_stored(&mut self) -> Result<Vec<Delivery>, LogError> {
        loop {
            let found = self.read().await?;
            if !found.is_empty() || self.is_caught_up() {
                return Ok(found);
            }
        }
    }

    /// Whether everything that is stored now was delivered.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        matches!(self.cursor, Cursor::Following) && self.after >= self.log.last_arrival()
    }

    /// The arrival number up to which everything was delivered or passed over.
    #[must_use]
    pub fn position(&self) -> Arrival {
        self.after
    }

    async fn read(&mut self) -> Result<Vec<Delivery>, LogError> {
        match &mut self.cursor {
            Cursor::Back(count) => {
                let count = *count;
                let found = self.find_last(count)?;
                self.cursor = Cursor::Primed(found);
                Ok(Vec::new())
            }
            Cursor::Primed(first) => {
                let first = first.drain(..).collect();
                self.cursor = Cursor::Following;
                Ok(first)
            }
            Cursor::Following => {
                // A long replay of topics that do not match must not hold the task's thread for ever.
                tokio::task::consume_budget().await;
                self.scan()
            }
        }
    }

    fn scan(&mut self) -> Result<Vec<Delivery>, LogError> {
        let matching = std::cell::RefCell::new(std::mem::take(&mut self.matching));
        let patterns = &self.patterns;
        let wanted = |topic: &Topic| remember(&mut matching.borrow_mut(), patterns, topic);
        let scan = self.log.scan_topic(&wanted, self.after, READ_BATCHES, READ_BYTES);
        self.matching = matching.into_inner();
        let scan = scan?;
        self.after = scan.next;
        let not_before = self.not_before;
        let deliveries = scan.batches.into_iter().filter_map(|(arrival, batch)| {
            let skip = skip_before(&batch, not_before)?;
            Some(Delivery { arrival, batch, skip })
        });
        Ok(deliveries.collect())
    }

    /// Walks back until enough events are found.
    fn find_last(&mut self, count: u64) -> Result<VecDeque<Delivery>, LogError> {
        let mut found = VecDeque::new();
        let mut missing = count;
        let mut before = Arrival(self.after.0 + 1);
        while missing > 0 && before.0 > 1 {
            let matching = std::cell::RefCell::new(std::mem::take(&mut self.matching));
            let patterns = &self.patterns;
            let wanted = |topic: &Topic| remember(&mut matching.borrow_mut(), patterns, topic);
            let scan = self.log.scan_back(&wanted, before, READ_BATCHES, READ_BYTES);
            self.matching = matching.into_inner();
            let scan = scan?;
            before = scan.next;
            for (arrival, batch) in scan.batches {
                let events = batch.header().count;
                let skip = events.saturating_sub(missing);
                missing -= events - skip;
                found.push_front(Delivery { arrival, batch, skip: skip as usize });
                if missing == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }
}

fn remember(matching: &mut HashMap<Topic, bool>, patterns: &[Pattern], topic: &Topic) -> bool {
    if let Some(known) = matching.get(topic) {
        return *known;
    }
    if matching.len() >= MAX_REMEMBERED_TOPICS {
        matching.clear();
    }
    let matches = patterns.iter().any(|pattern| pattern.matches(topic));
    matching.insert(topic.clone(), matches);
    matches
}

/// How many events of the batch are from before a time; `None` when all are. Stamps rise within a batch.
fn skip_before(batch: &VerifiedBatch, not_before: Hlc) -> Option<usize> {
    use roundelay_protocol::event::Item;
    if batch.header().first_hlc >= not_before {
        return Some(0);
    }
    if batch.header().last_hlc < not_before {
        return None;
    }
    let early = |(_, item): &(u64, Item<'_>)| !matches!(item, Item::Event(event) if event.hlc >= not_before);
    Some(batch.items().take_while(early).count())
}
