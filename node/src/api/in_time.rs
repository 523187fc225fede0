//! A replay in the total order of events: by stamp, then batch hash, then place in the batch. The same on every node
//! that holds the same events.
//!
//! The store has batches in order of arrival, so the replay lists batches by their first stamps: the earliest of those
//! that it has not given yet, in passes over the store, each as many as [`MAX_LISTED`]. It opens a batch when its first
//! stamp is due. A batch spans few stamps, so few batches are open at once; more than [`MAX_OPEN_BYTES`] of them, which
//! only stamps made to that end can bring about, break the replay off.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, stream};
use roundelay_protocol::event::Item;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, BatchHash};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::events::{Asked, streaming};
use super::outflow::{Broken, CHUNK_BYTES, Form, Pen};
use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, From};
use crate::filter::Filter;
use crate::gaps::{Gap, Reason};
use crate::log::{LogError, LogReader};
use crate::subscription::{Delivery, TopicMemory};

/// Batches that are listed in one pass over the store, at most: 16 bytes each.
const MAX_LISTED: usize = 1_000_000;
/// Bytes of open batches, written out, at most.
const MAX_OPEN_BYTES: usize = 64 * 1024 * 1024;

/// Streams what was asked for in order of time.
pub(super) fn respond(api: &Api, asked: &Asked, form: Form) -> Result<Response, ApiError> {
    let refuse = |detail| {
        let hint = "leave out order=time for that: a late event has its place in order of arrival only";
        Err(ApiError::new(Code::BadRequest, detail).with_hint(hint))
    };
    if form == Form::ServerSent || asked.follow == Some(true) {
        return refuse("order=time replays what is stored, as application/x-ndjson, and cannot follow");
    }
    if !matches!(asked.from, From::Start | From::TimeMs(_))
        || !matches!(asked.to, None | Some(From::End | From::TimeMs(_)))
    {
        return refuse("order=time begins at the start or at a time, and ends at a time or at the end");
    }
    let permits = (api.stream_permit()?, api.replay_permit()?);
    let log = api.node.log();
    let replay = Replay {
        last: log.last_arrival(),
        log,
        topics: TopicMemory::new(asked.patterns.clone()),
        filter: asked.filter.clone(),
        pen: Pen::new(form, api.node.epoch(), u64::MAX),
        left: asked.limit,
        listed: VecDeque::new(),
        listed_upto: None,
        all_listed: false,
        open: BTreeMap::new(),
        open_bytes: 0,
        closing: api.closing.clone(),
    };
    Ok(streaming(form, Body::from_stream(replay.into_stream(permits))))
}

/// The rights to stream events and to replay in order of time.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);
/// A batch in the order in which batches are opened.
type Listed = (Hlc, Arrival);
/// An event's place in the total order.
type Place = (Hlc, BatchHash, u32);

/// A batch whose events that match are written out.
struct Open {
    hash: BatchHash,
    text: Vec<u8>,
    /// Stamp and index of each event, and where its line ends in the text.
    lines: VecDeque<(Hlc, u32, usize)>,
    /// Where the next line begins.
    at: usize,
}

impl Open {
    fn next_place(&self) -> Option<Place> {
        self.lines.front().map(|(hlc, index, _)| (*hlc, self.hash, *index))
    }
}

struct Replay {
    log: LogReader,
    /// What arrives later is no part of the replay.
    last: Arrival,
    topics: TopicMemory,
    filter: Filter,
    pen: Pen,
    /// Events that may still be written.
    left: u64,
    /// The next batches to be opened, in order.
    listed: VecDeque<Listed>,
    /// The last batch that was ever listed.
    listed_upto: Option<Listed>,
    all_listed: bool,
    /// By the place of the next event of each.
    open: BTreeMap<Place, Open>,
    open_bytes: usize,
    closing: CancellationToken,
}

impl Replay {
    /// Chunks as long as somebody takes them. Gives the permits back at its end.
    fn into_stream(self, permits: Permits) -> impl Stream<Item = Result<Bytes, Broken>> + Send + 'static {
        stream::try_unfold((self, permits), |(mut replay, permits)| async move {
            let chunk = replay.next_chunk().await?;
            Ok(chunk.map(|chunk| (chunk, (replay, permits))))
        })
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 2);
        while out.len() < CHUNK_BYTES && self.left > 0 {
            tokio::task::consume_budget().await;
            if self.closing.is_cancelled() {
                return Err(Broken::Closing);
            }
            if self.listed.is_empty() && !self.all_listed {
                self.list().await?;
            }
            let due = self.open.first_key_value().map(|(place, _)| place.0);
            match self.listed.front().copied() {
                Some((first, arrival)) if due.is_none_or(|due| first <= due) => {
                    self.listed.pop_front();
                    self.open(&mut out, arrival)?;
                }
                next => {
                    // All that is listed later begins later.
                    let before = next.map(|(first, _)| first);
                    if !self.write_run(&mut out, before) {
                        break;
                    }
                }
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// Lists the earliest batches beyond those that were listed before.
    async fn list(&mut self) -> Result<(), LogError> {
        let mut earliest: BinaryHeap<Listed> = BinaryHeap::new();
        let (mut after, mut left_out) = (Arrival(0), false);
        while after < self.last {
            tokio::task::consume_budget().await;
            let Self { log, topics, last, .. } = self;
            let (found, next) = topics.while_reading(|wanted| log.stamps(wanted, after, *last))?;
            after = next;
            for (arrival, first, last) in found {
                let listed = (first, arrival);
                if !self.filter.overlaps(first, last) || self.listed_upto.is_some_and(|upto| listed <= upto) {
                    continue;
                }
                if earliest.len() >= MAX_LISTED {
                    left_out = true;
                    if earliest.peek().is_some_and(|latest| listed >= *latest) {
                        continue;
                    }
                    earliest.pop();
                }
                earliest.push(listed);
            }
        }
        self.listed = earliest.into_sorted_vec().into();
        self.listed_upto = self.listed.back().copied().or(self.listed_upto);
        self.all_listed = !left_out;
        Ok(())
    }

    fn open(&mut self, out: &mut Vec<u8>, arrival: Arrival) -> Result<(), Broken> {
        let Some(batch) = self.log.batch(arrival)? else {
            let detail = format!("batch {} was removed here while the replay was under way", arrival.0);
            self.pen.write_gap(out, &Gap::of_store(Reason::Pruned, detail), Some(arrival));
            return Ok(());
        };
        let delivery = Delivery { arrival, batch, skip: 0 };
        let mut open = Open { hash: delivery.batch.hash(), text: Vec::new(), lines: VecDeque::new(), at: 0 };
        for (index, (seq, item)) in (0_u32..).zip(delivery.batch.items()) {
            if let Item::Event(event) = item
                && self.filter.matches(&event)
            {
                self.pen.write_event(&mut open.text, &delivery, (index, seq), &event);
                open.lines.push_back((event.hlc, index, open.text.len()));
            }
        }
        self.open_bytes += open.text.len();
        if self.open_bytes > MAX_OPEN_BYTES && !self.open.is_empty() {
            return Err(Broken::TooManyOpen);
        }
        if let Some(place) = open.next_place() {
            self.open.insert(place, open);
        }
        Ok(())
    }

    /// Writes what comes next from one batch, up to where another one goes on. False when there is nothing.
    fn write_run(&mut self, out: &mut Vec<u8>, before: Option<Hlc>) -> bool {
        let Some((_, mut open)) = self.open.pop_first() else { return false };
        let other = self.open.first_key_value().map(|(place, _)| *place);
        let is_due =
            |place: &Place| other.is_none_or(|other| *place < other) && before.is_none_or(|before| place.0 < before);
        while let Some(place) = open.next_place()
            && self.left > 0
            && is_due(&place)
            && let Some((_, _, end)) = open.lines.pop_front()
        {
            out.extend_from_slice(&open.text[open.at..end]);
            open.at = end;
            self.left -= 1;
        }
        match open.next_place() {
            Some(place) => drop(self.open.insert(place, open)),
            None => self.open_bytes -= open.text.len(),
        }
        true
    }
}
