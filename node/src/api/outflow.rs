//! A stream of events on its way to one reader, as lines of JSON or as server-sent events.

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::ids::{Arrival, Author, StoreEpoch};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::types::HEARTBEAT_MS;
use crate::cloudevents::{Place, write_event};
use crate::cursor::Cursor;
use crate::filter::Filter;
use crate::gaps::{Continuity, Gap};
use crate::log::LogError;
use crate::peer_id::text_of;
use crate::subscription::{Delivery, Subscription};

/// Bytes after which a chunk is sent. A batch is never cut, so that it may have more.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// Authors whose peer ids a stream keeps as text.
const MAX_AUTHORS: usize = 4096;
/// Milliseconds after which a client of server-sent events comes again when its connection ended.
const RETRY_MS: u64 = 1000;

/// How a stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON object a line. A gap is an object whose only member is `gap`, if it is told.
    Lines {
        /// Whether gaps are told.
        with_gaps: bool,
    },
    /// Server-sent events, as the HTML standard defines them.
    ServerSent,
}

/// Why a stream breaks off, so that its reader does not take it for whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the node is stopping")]
    Closing,
    #[error("more batches overlap in time than can be put in order")]
    TooManyOpen,
}

/// Writes events, one after the other.
pub(super) struct Pen {
    form: Form,
    epoch: StoreEpoch,
    authors: HashMap<Author, String>,
    /// Events that may still be written.
    left: u64,
}

impl Pen {
    pub(super) fn new(form: Form, epoch: StoreEpoch, limit: u64) -> Self {
        Self { form, epoch, authors: HashMap::new(), left: limit }
    }

    /// Whether it has written as many events as it was to.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Writes those events of a batch that match, after so many items and up to one.
    pub(super) fn write_batch(&mut self, out: &mut Vec<u8>, delivery: &Delivery, filter: &Filter, upto: Option<u32>) {
        let header = delivery.batch.header();
        if !filter.overlaps(header.first_hlc, header.last_hlc) {
            return;
        }
        for (index, (seq, item)) in (0_u32..).zip(delivery.batch.items()).skip(delivery.skip) {
            if self.left == 0 || upto.is_some_and(|upto| index > upto) {
                return;
            }
            if let Item::Event(event) = item
                && filter.matches(&event)
            {
                self.left -= 1;
                self.write_event(out, delivery, (index, seq), &event);
            }
        }
    }

    /// Writes an event, which stands in the batch at an index and in its log at a sequence number.
    pub(super) fn write_event(
        &mut self,
        out: &mut Vec<u8>,
        delivery: &Delivery,
        (index, seq): (u32, u64),
        event: &EventView<'_>,
    ) {
        let header = delivery.batch.header();
        if self.authors.len() >= MAX_AUTHORS && !self.authors.contains_key(&header.author) {
            self.authors.clear();
        }
        let author = self.authors.entry(header.author).or_insert_with(|| text_of(&header.author));
        if self.form == Form::ServerSent {
            let cursor = Cursor { epoch: self.epoch, arrival: delivery.arrival, index };
            // Writing to memory cannot fail; so it is below.
            let _ = write!(out, "id: {cursor}\nevent: event\ndata: ");
        }
        let place = Place { topic: header.topic.as_str(), author, seq, arrival: delivery.arrival };
        write_event(out, event, &place);
        out.extend_from_slice(if self.form == Form::ServerSent { b"\n\n" } else { b"\n" });
    }

    /// Writes a gap, after which a reader that comes again goes on from an arrival number; without one, from where it would
    /// have gone on before.
    pub(super) fn write_gap(&self, out: &mut Vec<u8>, gap: &Gap, after: Option<Arrival>) {
        let json = serde_json::to_string(gap).unwrap_or_default();
        let id = after.map(|after| format!("id: {}\n", Cursor::after(self.epoch, after))).unwrap_or_default();
        let _ = match self.form {
            Form::Lines { with_gaps: false } => Ok(()),
            Form::Lines { .. } => writeln!(out, "{{\"gap\":{json}}}"),
            Form::ServerSent => write!(out, "{id}event: gap\ndata: {json}\n\n"),
        };
    }

    fn write_caught_up(&self, out: &mut Vec<u8>, position: Arrival) {
        if self.form == Form::ServerSent {
            let cursor = Cursor::after(self.epoch, position);
            let _ = write!(out, "id: {cursor}\nevent: caught-up\ndata: {{\"arrival\":\"{}\"}}\n\n", position.0);
        }
    }

    /// A sign of life.
    fn write_heartbeat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.form == Form::ServerSent { b":\n\n" } else { b"\n" });
    }
}

/// What is to be written next.
enum Step {
    Batch(Delivery),
    /// With the arrival number up to which the reader has everything else.
    Gap(Gap, Arrival),
    /// All between two arrival numbers was written.
    Passed(Arrival, Arrival),
}

pub(super) struct Outflow {
    subscription: Subscription,
    continuity: Continuity,
    pen: Pen,
    filter: Filter,
    /// Read and not yet written: one read of the log at most.
    pending: VecDeque<Step>,
    /// Where it ends, if it does not follow.
    last: Option<Arrival>,
    /// The last event of one batch to be written.
    stop: Option<(Arrival, u32)>,
    begun: bool,
    told_caught_up: bool,
    closing: CancellationToken,
}

impl Outflow {
    pub(super) fn new(subscription: Subscription, continuity: Continuity, epoch: StoreEpoch, form: Form) -> Self {
        Self {
            subscription,
            continuity,
            pen: Pen::new(form, epoch, u64::MAX),
            filter: Filter::default(),
            pending: VecDeque::new(),
            last: None,
            stop: None,
            begun: false,
            told_caught_up: false,
            closing: CancellationToken::new(),
        }
    }

    /// Tells these first.
    pub(super) fn with_gaps(mut self, gaps: Vec<Gap>) -> Self {
        // Whoever comes again after them begins where this stream does.
        let after = self.subscription.position();
        self.pending.extend(gaps.into_iter().map(|gap| Step::Gap(gap, after)));
        self
    }

    pub(super) fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Ends after an arrival number; follows without one. `stop` is the last event of the batch there.
    pub(super) fn until(mut self, last: Option<Arrival>, stop: Option<(Arrival, u32)>) -> Self {
        (self.last, self.stop) = (last, stop);
        self
    }

    pub(super) fn limited(mut self, limit: u64) -> Self {
        self.pen.left = limit;
        self
    }

    /// Ends when this is cancelled.
    pub(super) fn closed_by(mut self, closing: CancellationToken) -> Self {
        self.closing = closing;
        self
    }

    /// Chunks as long as somebody takes them. Gives the permit back at its end.
    pub(super) fn into_stream(
        self,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<Bytes, Broken>> + Send + 'static {
        stream::try_unfold((self, permit), |(mut outflow, permit)| async move {
            let chunk = outflow.next_chunk().await?;
            Ok(chunk.map(|chunk| (chunk, (outflow, permit))))
        })
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        if !std::mem::replace(&mut self.begun, true) && self.pen.form == Form::ServerSent {
            return Ok(Some(format!("retry: {RETRY_MS}\n\n").into()));
        }
        while !self.pen.is_done() {
            let chunk = match self.write_chunk() {
                // What was not written comes when the reader comes again, so nothing may be said here that goes beyond it.
                Err(LogError::Closed) if self.last.is_none() => {
                    self.rest().await;
                    return Ok(None);
                }
                chunk => chunk?,
            };
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
            if self.pending.is_empty() && !self.read().await? {
                return match self.last {
                    None if !self.closing.is_cancelled() => Ok(Some(self.sign_of_life())),
                    _ => Ok(self.farewell()),
                };
            }
        }
        Ok(None)
    }

    /// What is sent when there is nothing to read: that it has caught up, or that it lives.
    fn sign_of_life(&mut self) -> Bytes {
        let mut out = Vec::new();
        if std::mem::replace(&mut self.told_caught_up, true) || self.pen.form != Form::ServerSent {
            self.pen.write_heartbeat(&mut out);
        } else {
            self.pen.write_caught_up(&mut out, self.subscription.position());
        }
        out.into()
    }

    /// What is sent last, once, by a stream that has an end.
    fn farewell(&mut self) -> Option<Bytes> {
        let is_due = self.last.is_some() && self.pen.form == Form::ServerSent && !self.told_caught_up;
        self.told_caught_up = true;
        is_due.then(|| {
            let mut out = Vec::new();
            let end = self.last.unwrap_or_default().min(self.subscription.position());
            self.pen.write_caught_up(&mut out, end);
            out.into()
        })
    }

    /// Reads on. False: the end, it has caught up, or a heartbeat is due.
    async fn read(&mut self) -> Result<bool, Broken> {
        if self.last.is_some() && self.closing.is_cancelled() {
            return Err(Broken::Closing);
        }
        match self.read_stored().await {
            // The store closes before the server when the node fails.
            Err(LogError::Closed) if self.last.is_none() => return Ok(self.rest().await),
            read => read?,
        }
        if !self.pending.is_empty() || self.last.is_some() {
            return Ok(!self.pending.is_empty());
        }
        if !self.told_caught_up && self.pen.form == Form::ServerSent {
            return Ok(false);
        }
        tokio::select! {
            biased;
            () = self.closing.cancelled() => return Ok(false),
            changed = self.subscription.changed() => if changed.is_ok() { return Ok(true) },
            () = tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)) => return Ok(false),
        }
        Ok(self.rest().await)
    }

    /// Nothing more comes: waits for the end, or until a heartbeat is due.
    async fn rest(&self) -> bool {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)) => {}
        }
        false
    }

    /// Takes what is stored.
    async fn read_stored(&mut self) -> Result<(), LogError> {
        let before = self.subscription.position();
        if self.last.is_some_and(|last| before >= last && self.subscription.is_found()) {
            return Ok(());
        }
        let found = self.subscription.next_stored().await?;
        let upto = self.subscription.position().min(self.last.unwrap_or(Arrival(u64::MAX)));
        let found = found.into_iter().take_while(|delivery| delivery.arrival <= upto);
        self.pending.extend(found.map(Step::Batch));
        if upto > before || !self.pending.is_empty() {
            self.pending.push_back(Step::Passed(before, upto));
        }
        Ok(())
    }

    /// What is missing behind what was written, between two arrival numbers, and beyond that where it ends.
    fn gaps_behind(&mut self, after: Arrival, upto: Arrival, ends: bool) -> Result<Vec<Gap>, LogError> {
        let Self { subscription, continuity, .. } = self;
        subscription.topics().while_reading(|wanted| {
            let mut gaps = continuity.between(after, upto, wanted)?;
            if ends {
                gaps.extend(continuity.at_end(upto, wanted)?);
            }
            Ok(gaps)
        })
    }

    fn write_chunk(&mut self) -> Result<Vec<u8>, LogError> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES && !self.pen.is_done() {
            let Some(step) = self.pending.pop_front() else { break };
            if out.is_empty() {
                out.reserve(CHUNK_BYTES + CHUNK_BYTES / 2);
            }
            match step {
                Step::Gap(gap, after) => self.pen.write_gap(&mut out, &gap, Some(after)),
                Step::Batch(delivery) => self.write_batch(&mut out, &delivery)?,
                Step::Passed(after, upto) => {
                    for gap in self.gaps_behind(after, upto, self.last == Some(upto))? {
                        self.pen.write_gap(&mut out, &gap, Some(upto));
                    }
                }
            }
        }
        Ok(out)
    }

    /// Writes a batch, with what is missing before it, and also behind it if it is the last.
    fn write_batch(&mut self, out: &mut Vec<u8>, delivery: &Delivery) -> Result<(), LogError> {
        let arrival = delivery.arrival;
        for gap in self.continuity.before(delivery)? {
            self.pen.write_gap(out, &gap, Some(Arrival(arrival.0 - 1)));
        }
        let upto = self.stop.filter(|(stop, _)| *stop == arrival).map(|(_, index)| index);
        self.pen.write_batch(out, delivery, &self.filter, upto);
        if self.pen.is_done() {
            let after = self.pending.iter().find_map(|step| match step {
                Step::Passed(after, _) => Some(*after),
                _ => None,
            });
            // More of the batch may follow for who goes on.
            for gap in self.gaps_behind(after.unwrap_or(arrival), arrival, true)? {
                self.pen.write_gap(out, &gap, None);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "outflow_tests.rs"]
mod tests;
