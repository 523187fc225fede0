//! The node's own events: sealing what has queued up, and counting which peers hold it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Effect, Refusal, Replica, Room};
use crate::batch::{self, VerifiedBatch};
use crate::event::EncodedEvent;
use crate::frame::{Frame, Head};
use crate::heads::{LogKey, LogRecord};
use crate::hlc::{Clock, Hlc};
use crate::ids::{Author, BatchHash};
use crate::limits::MAX_BATCH_EVENTS;
use crate::link::HURRY_MS;
use crate::planted::Fault;
use crate::sequencer::{self, Publication};
use crate::sign::Signer;
use crate::topic::Topic;
use crate::write_set::WriteSet;

/// Own writes under way: one on the disk, one that gathers behind it.
const MAX_OWN_WRITES: usize = 2;
/// A publication that finds the store full waits so long for peers to announce what is in it.
const FULL_WAIT_MS: u64 = 10_000;
/// Own batches of a topic whose hashes are remembered, to tell how much of it a peer's head covers.
const MAX_REMEMBERED: usize = 16_384;

/// Where a publication went.
pub(super) struct Placed {
    id: u64,
    acks: u32,
    first_seq: u64,
    last_seq: u64,
    first_hlc: Hlc,
}

/// What one write holds of a topic of ours.
pub(super) struct Sealed {
    topic: Topic,
    batches: Vec<VerifiedBatch>,
    placed: Vec<Placed>,
}

/// The line of a topic that this process goes on with.
struct Line {
    link: batch::Link,
    hlc: Hlc,
    recent: VecDeque<(u64, BatchHash)>,
    /// Some peer announced to hold the line up to here.
    announced: u64,
    /// What of that is on the disk.
    announced_stored: u64,
}

impl Line {
    fn ending_before(header: &batch::Header) -> Self {
        let link = batch::Link { seq: header.first_seq - 1, parent: header.parent };
        Self { link, hlc: Hlc(0), recent: VecDeque::new(), announced: 0, announced_stored: 0 }
    }

    fn go_on(&mut self, batch: &VerifiedBatch) {
        let tip = batch.tip();
        self.link = batch::Link { seq: tip.seq, parent: tip.hash };
        self.hlc = tip.hlc;
        self.recent.push_back((tip.seq, tip.hash));
        if self.recent.len() > MAX_REMEMBERED {
            self.recent.pop_front();
        }
    }
}

struct AckWait {
    id: u64,
    topic: Topic,
    first_seq: u64,
    last_seq: u64,
    needed: u32,
    peers: BTreeSet<Author>,
}

/// The node's own lines and those who wait for them to spread.
pub(super) struct Own {
    lines: BTreeMap<Topic, Line>,
    waits: Vec<AckWait>,
}

impl Own {
    pub(super) fn new<'a>(me: &Author, logs: impl Iterator<Item = &'a LogRecord>) -> Self {
        let mut lines = BTreeMap::new();
        for record in logs.filter(|record| record.key.author == *me) {
            // After a restore there may be several tips; any will do, and the youngest is what a reader expects.
            if let Some(tip) = record.tips.iter().max_by_key(|tip| tip.hlc) {
                let line = Line {
                    link: batch::Link { seq: tip.seq, parent: tip.hash },
                    hlc: tip.hlc,
                    recent: VecDeque::from([(tip.seq, tip.hash)]),
                    announced: record.announced,
                    announced_stored: record.announced,
                };
                lines.insert(record.key.topic.clone(), line);
            }
        }
        Self { lines, waits: Vec::new() }
    }

    pub(super) fn cancel(&mut self, id: u64) {
        self.waits.retain(|wait| wait.id != id);
    }

    /// A batch of an earlier life of this node turned up: where it goes on from the line's end, so does this process.
    pub(super) fn follow(&mut self, batch: &VerifiedBatch) {
        let header = batch.header();
        let line = self.lines.entry(header.topic.clone()).or_insert_with(|| Line::ending_before(header));
        if line.link.parent == header.parent {
            line.go_on(batch);
        }
    }

    /// Topics of which a peer may hold more than it has told.
    pub(super) fn unannounced(&self) -> impl Iterator<Item = &Topic> {
        self.lines.iter().filter(|(_, line)| line.announced < line.link.seq).map(|(topic, _)| topic)
    }

    pub(super) fn announced(&self, topic: &Topic) -> u64 {
        self.lines.get(topic).map_or(0, |line| line.announced)
    }

    /// Topics whose announced place moved since it was written.
    pub(super) fn take_announced(&mut self) -> Vec<Topic> {
        let mut moved = Vec::new();
        for (topic, line) in &mut self.lines {
            if line.announced > line.announced_stored {
                line.announced_stored = line.announced;
                moved.push(topic.clone());
            }
        }
        moved
    }
}

impl<S: Signer> Replica<S> {
    pub(super) fn publish(&mut self, id: u64, topic: Topic, events: Vec<EncodedEvent>, acks: u32) {
        self.sequencer.push(topic, Publication { id, events, acks, since_ms: self.now.mono_ms });
    }

    /// Bytes of publications that wait to be sealed.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.sequencer.bytes()
    }

    /// While the store is full publishers wait, as long as a peer may still take what keeps it full.
    fn wait_for_room(&mut self) {
        let oldest_ms = self.sequencer.oldest_ms().unwrap_or(self.now.mono_ms);
        let hopeful = self.links.values().any(|link| link.is_live()) && oldest_ms + FULL_WAIT_MS > self.now.mono_ms;
        if !hopeful {
            self.refuse_queued(&Refusal::StoreFull);
        }
    }

    fn refuse_queued(&mut self, refusal: &Refusal) {
        let refuse = |p: Publication| Effect::Refused { id: p.id, refusal: refusal.clone() };
        self.effects.extend(self.sequencer.drain().into_iter().map(refuse));
    }

    pub(super) fn seal_queued(&mut self) {
        if self.room == Room::None {
            return self.refuse_queued(&Refusal::DiskFull);
        }
        if self.store_is_full() {
            return self.wait_for_room();
        }
        while !self.sequencer.is_empty()
            && self.writes.iter().filter(|write| !write.own.is_empty()).count() < MAX_OWN_WRITES
        {
            let mut set = WriteSet::default();
            let mut own = Vec::new();
            for (topic, publications) in self.sequencer.take() {
                match self.seal(&topic, &publications) {
                    Some((sealed, record)) => {
                        set.batches.extend(sealed.batches.iter().cloned());
                        set.logs.push(record);
                        own.push(sealed);
                    }
                    None => self
                        .effects
                        .extend(publications.iter().map(|p| Effect::Refused { id: p.id, refusal: Refusal::Clock })),
                }
            }
            if !set.is_empty() {
                self.write(set, own, Vec::new());
            }
        }
    }

    /// Seals publications of one topic. `None` when the clock is at its end.
    fn seal(&mut self, topic: &Topic, publications: &[Publication]) -> Option<(Sealed, LogRecord)> {
        let key = LogKey { topic: topic.clone(), author: self.me };
        let mut record = self.latest_or_new(&key);
        let events: Vec<EncodedEvent> = publications.iter().flat_map(|p| p.events.iter().cloned()).collect();
        let wall_ms = self.wall_ms();
        let line = self.own.lines.entry(topic.clone()).or_insert_with(|| Line {
            link: batch::Link::default(),
            hlc: Hlc(0),
            recent: VecDeque::new(),
            announced: 0,
            announced_stored: 0,
        });
        let first_seq = line.link.seq + 1;
        let mut stamps = Vec::new();
        let mut batches = Vec::new();
        for run in sequencer::cut(&events) {
            let count = run.len().min(MAX_BATCH_EVENTS) as u64;
            // A line that once ran ahead of the clock must still rise.
            let first = match self.clock.stamp(wall_ms, count)? {
                hlc if hlc > line.hlc => hlc,
                _ => Clock::new(line.hlc).stamp(0, count)?,
            };
            let batch = batch::seal(&self.signer, topic, self.incarnation, line.link, first, run);
            stamps.extend((0..count).map(|offset| Hlc(first.0 + offset)));
            line.go_on(&batch);
            self.recent.insert(batch.hash());
            super::admit::advance(&mut record, &batch);
            batches.push(batch);
        }
        let mut placed = Vec::with_capacity(publications.len());
        let mut at = 0;
        for publication in publications {
            let count = publication.events.len();
            placed.push(Placed {
                id: publication.id,
                acks: publication.acks,
                first_seq: first_seq + at as u64,
                last_seq: first_seq + (at + count) as u64 - 1,
                first_hlc: stamps[at],
            });
            at += count;
        }
        Some((Sealed { topic: topic.clone(), batches, placed }, record))
    }

    /// For those who check the checkers: tells what is not durable yet.
    pub(super) fn plant_haste(&mut self, own: &[Sealed]) {
        let arrival = self.position.arrival;
        for sealed in own {
            if self.planted.is(Fault::AckBeforeSync) {
                let published = |placed: &Placed| {
                    let Placed { id, first_seq, first_hlc, .. } = *placed;
                    Effect::Published { id, first_seq, first_hlc, arrival }
                };
                self.effects.extend(sealed.placed.iter().map(published));
            }
            if self.planted.is(Fault::GossipBeforeSync) {
                self.effects.extend(sealed.batches.iter().cloned().map(Effect::Gossip));
            }
        }
    }

    /// Own batches became durable: tell those who published them, and everybody else.
    pub(super) fn report_stored(&mut self, own: Vec<Sealed>) {
        let arrival = self.position.arrival;
        let mut hurry = false;
        for sealed in own {
            for placed in sealed.placed {
                let Placed { id, acks, first_seq, last_seq, first_hlc } = placed;
                self.effects.push(Effect::Published { id, first_seq, first_hlc, arrival });
                if acks > 0 {
                    hurry = true;
                    let topic = sealed.topic.clone();
                    let peers = BTreeSet::new();
                    self.own.waits.push(AckWait { id, topic, first_seq, last_seq, needed: acks, peers });
                }
            }
            for batch in sealed.batches {
                if batch.bytes().len() <= self.max_gossip_bytes {
                    self.effects.push(Effect::Gossip(batch));
                } else {
                    // Too large to gossip: its head is announced at once, and it is pulled.
                    for link in self.links.values_mut() {
                        link.announce_at_ms = link.announce_at_ms.map(|_| self.now.mono_ms);
                    }
                }
            }
        }
        if hurry {
            self.hurry_peers();
        }
    }

    fn hurry_peers(&mut self) {
        let now_ms = self.now.mono_ms;
        for (peer, link) in &mut self.links {
            if link.hurry_sent_ms + HURRY_MS / 2 <= now_ms || link.hurry_sent_ms == 0 {
                link.hurry_sent_ms = now_ms;
                self.effects.push(Effect::Send { peer: *peer, frame: Frame::Hurry });
            }
        }
    }

    /// A peer told its tips of a log of ours. It has what leads up to them, but for what it pruned and for its holes.
    pub(super) fn note_announced(&mut self, peer: Author, head: &Head) {
        let Head { log: LogKey { topic, .. }, floor, holes_to, tips } = head;
        let Some(line) = self.own.lines.get_mut(topic) else { return };
        let heard = |place: &&(u64, BatchHash)| tips.contains(place) || self.planted.is(Fault::CountAcksTooHigh);
        let covered = line.recent.iter().rev().find(heard).map(|place| place.0);
        let Some(covered) = covered else { return };
        // What a peer never had is not announced, but what it pruned it had.
        if *holes_to <= line.announced {
            line.announced = line.announced.max(covered);
        }
        let lacking = *floor.max(holes_to);
        self.pruning.retry();
        let mut complete = Vec::new();
        for wait in &mut self.own.waits {
            let has = lacking < wait.first_seq && wait.last_seq <= covered;
            if wait.topic == *topic && has && wait.peers.insert(peer) {
                let peers = wait.peers.len() as u32;
                complete.push(Effect::Acked { id: wait.id, peers, complete: peers >= wait.needed });
            }
        }
        self.own.waits.retain(|wait| (wait.peers.len() as u32) < wait.needed);
        self.effects.append(&mut complete);
    }
}
