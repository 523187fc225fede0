//! The way of a publication through the engine: what of it is new goes to the replica, and when that is durable, whoever
//! published hears where each event is.

use std::collections::{BTreeMap, VecDeque};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::ids::{Arrival, Incarnation};
use roundelay_protocol::replica::{Input, Places, Refusal, Span};
use roundelay_protocol::sequencer::Part;
use roundelay_protocol::topic::Topic;
use smallvec::SmallVec;

use super::Engine;
use super::calls::Publish;
use super::dedup::{Identity, Plan, Slot};
use super::waiting::Waiting;
use crate::node::{CallError, Committed, EventPlace, PartPlace, Transaction};

/// A publication that was taken.
pub(super) struct Plotted {
    /// Topics of its parts, and how many events each has.
    parts: SmallVec<[(Topic, usize); 1]>,
    /// What becomes of its events, over all parts.
    slots: SmallVec<[Slot; 1]>,
    /// Those of its new events.
    new: SmallVec<[Option<Identity>; 1]>,
}

/// Publications that wait for what becomes of another, because one of their events is on its way in that.
#[derive(Default)]
pub(super) struct Parked {
    behind: BTreeMap<u64, Vec<Publish>>,
    /// Those whose wait is over.
    pub(super) ready: Vec<Publish>,
    bytes: usize,
}

impl Parked {
    fn park(&mut self, behind: u64, publish: Publish) {
        self.bytes += publish.bytes();
        self.behind.entry(behind).or_default().push(publish);
    }

    fn take(&mut self, behind: u64) -> Vec<Publish> {
        let parked = self.behind.remove(&behind).unwrap_or_default();
        self.bytes -= parked.iter().map(Publish::bytes).sum::<usize>();
        parked
    }

    /// Bytes of the events that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take_all(self) -> impl Iterator<Item = Publish> {
        self.behind.into_values().flatten().chain(self.ready)
    }
}

/// Own batches on their way to the disk: the token of their write, the place in it, the topic and what is in them.
#[derive(Default)]
pub(super) struct OwnWrites(VecDeque<(u64, Vec<OwnBatch>)>);

struct OwnBatch {
    offset: u64,
    topic: Topic,
    first_seq: u64,
    count: u64,
}

/// Where own batches went that have just become durable.
#[derive(Default)]
pub(super) struct Arrived(BTreeMap<Topic, Vec<(u64, u64, Arrival)>>);

impl OwnWrites {
    /// Own batches of earlier lives, which peers bring back, are no publications of this one.
    pub(super) fn note(&mut self, token: u64, batches: &[VerifiedBatch], incarnation: Incarnation) {
        let own = (0..).zip(batches).filter(|(_, batch)| batch.header().incarnation == incarnation);
        let own = own.map(|(offset, batch)| {
            let header = batch.header();
            OwnBatch { offset, topic: header.topic.clone(), first_seq: header.first_seq, count: header.count }
        });
        let own: Vec<OwnBatch> = own.collect();
        if !own.is_empty() {
            self.0.push_back((token, own));
        }
    }

    pub(super) fn arrived(&mut self, token: u64, first_arrival: Arrival) -> Arrived {
        let mut arrived = Arrived::default();
        while self.0.front().is_some_and(|(written, _)| *written <= token) {
            for batch in self.0.pop_front().map(|(_, batches)| batches).unwrap_or_default() {
                let arrival = Arrival(first_arrival.0 + batch.offset);
                arrived.0.entry(batch.topic).or_default().push((batch.first_seq, batch.count, arrival));
            }
        }
        arrived
    }
}

impl Arrived {
    fn place(&self, topic: &Topic, seq: u64) -> EventPlace {
        let batches = self.0.get(topic).map(Vec::as_slice).unwrap_or_default();
        let at = batches.partition_point(|(first, _, _)| *first <= seq).checked_sub(1);
        let found = at.map(|at| batches[at]).filter(|(first, count, _)| seq - first < *count);
        debug_assert!(found.is_some(), "{topic} {seq} is in no batch that was written");
        let (first, _, arrival) = found.unwrap_or((seq, 1, Arrival(0)));
        EventPlace { seq, arrival, index: (seq - first) as u32, duplicate: false }
    }
}

impl Plotted {
    /// Where each event is, by part, now that the new ones are where `places` say.
    pub(super) fn settle(&self, places: &Places, arrived: &Arrived) -> (Vec<PartPlace>, Vec<EventPlace>) {
        let (mut new_places, mut slots, mut places) = (Vec::new(), self.slots.iter(), places.iter());
        let mut all = Vec::with_capacity(self.parts.len());
        for (topic, count) in &self.parts {
            let slots = slots.by_ref().take(*count);
            let mut next_seq = None;
            let part = slots.map(|slot| match slot {
                Slot::Stored(place) => *place,
                Slot::Like(ordinal) => {
                    let place: Option<&EventPlace> = new_places.get(*ordinal);
                    EventPlace { duplicate: true, ..place.copied().unwrap_or_default() }
                }
                Slot::New => {
                    // Parts without new events have no place.
                    let seq = next_seq.or_else(|| places.next().map(|place| place.first_seq)).unwrap_or_default();
                    next_seq = Some(seq + 1);
                    let place = arrived.place(topic, seq);
                    new_places.push(place);
                    place
                }
            });
            let events: Vec<EventPlace> = part.collect();
            all.push(PartPlace { first_seq: events.first().map_or(0, |event| event.seq), events });
        }
        (all, new_places)
    }

    pub(super) fn new_events(&self) -> &[Option<Identity>] {
        &self.new
    }
}

impl Engine {
    pub(super) async fn take_publishes(&mut self, run: &mut Vec<Publish>) {
        let mut inputs = Vec::with_capacity(run.len());
        for publish in run.drain(..) {
            inputs.extend(self.take_publish(publish));
        }
        self.feed_all(inputs).await;
    }

    /// Those whose wait ended with the last thing that happened.
    pub(super) async fn take_ready(&mut self) {
        while !self.parked.ready.is_empty() {
            let mut ready = std::mem::take(&mut self.parked.ready);
            self.take_publishes(&mut ready).await;
        }
    }

    fn take_publish(&mut self, publish: Publish) -> Option<Input> {
        self.last_id += 1;
        let id = self.last_id;
        let now_ms = self.started.elapsed().as_millis() as u64;
        let slots = match self.dedup.plan(id, &publish.identities, now_ms) {
            Plan::Go(slots) => slots,
            Plan::After(other) => {
                self.parked.park(other, publish);
                return None;
            }
            Plan::Conflict(number) => {
                let conflict = publish.name(number);
                let _ = publish.reply.send(Err(conflict));
                return None;
            }
        };
        let Publish { transaction: Transaction { parts, marks, acks, wait }, identities, reply, since, stages } =
            publish;
        let counts = parts.iter().map(|(topic, events)| (topic.clone(), events.len())).collect();
        let is_new = |slot: &Slot| *slot == Slot::New;
        let new = identities.iter().zip(&slots).filter(|(_, slot)| is_new(slot)).map(|(identity, _)| *identity);
        let plotted = Plotted { parts: counts, new: new.collect(), slots };
        let mut slots = plotted.slots.iter();
        let parts = parts.into_iter().filter_map(|(topic, events)| {
            let new = events.into_iter().zip(slots.by_ref()).filter(|(_, slot)| is_new(slot));
            let events: Vec<_> = new.map(|(event, _)| event).collect();
            (!events.is_empty()).then_some(Part { topic, events })
        });
        let parts: SmallVec<[Part; 1]> = parts.collect();
        let mut waiting = Waiting { acks, reply, stored: None, until: None, wait, plotted, since, stages };
        debug_assert!(acks == 0 || marks.is_empty(), "repeats beside marks would not be waited for");
        if !parts.is_empty() || !marks.is_empty() {
            // Marks are on this node alone, so that there are no peers to wait for.
            waiting.acks = if parts.is_empty() { 0 } else { acks };
            self.waiting.insert(id, waiting);
            return Some(Input::Publish { id, parts, marks, acks });
        }
        // All of it is durable already.
        let (places, _) = waiting.plotted.settle(&Places::new(), &Arrived::default());
        let arrivals = places.iter().flat_map(|part| &part.events).map(|place| place.arrival);
        let arrival = arrivals.max().unwrap_or_default();
        let spans = waiting.plotted.parts.iter().zip(&places).filter_map(|((topic, _), part)| {
            let seqs = part.events.iter().map(|place| place.seq);
            Some(Span { topic: topic.clone(), first_seq: seqs.clone().min()?, last_seq: seqs.max()? })
        });
        let spans = spans.collect();
        waiting.stored = Some(Committed { places, arrival, peers: 0, links: self.links.len() as u32 });
        self.wait_for_acks(id, waiting);
        (acks > 0).then_some(Input::CountAcks { id, spans, acks })
    }

    /// What was new of a publication is durable.
    pub(super) fn published(&mut self, id: u64, places: &Places, arrival: Arrival) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let ready = self.parked.take(id);
        self.parked.ready.extend(ready);
        self.beat.was_published(id);
        let Some(mut waiting) = self.waiting.remove(&id) else { return };
        let (places, new_places) = waiting.plotted.settle(places, &self.arrived);
        for (identity, place) in waiting.plotted.new.iter().zip(new_places) {
            if let Some(identity) = identity {
                self.dedup.stored(*identity, place, now_ms);
            }
        }
        waiting.stored = Some(Committed { places, arrival, peers: 0, links: self.links.len() as u32 });
        self.wait_for_acks(id, waiting);
    }

    /// A publication was refused, and with it those that wait for it, where it is for their reason too.
    pub(super) fn refused(&mut self, id: u64, refusal: &Refusal) {
        self.meters.refused(refusal);
        let parked = self.parked.take(id);
        if matches!(refusal, Refusal::NotWriter(_)) {
            // That may be about a topic which these do not name.
            self.parked.ready.extend(parked);
        } else {
            for parked in parked {
                let _ = parked.reply.send(Err(CallError::Refused(refusal.clone())));
            }
        }
        match self.waiting.remove(&id) {
            Some(waiting) => {
                self.dedup.forget(id, waiting.plotted.new_events());
                let _ = waiting.reply.send(Err(CallError::Refused(refusal.clone())));
            }
            None if self.beat.was_refused(id) => {}
            // Nothing else but this node's record is published with nobody waiting for it.
            None => self.peers.record_refused(),
        }
    }
}
