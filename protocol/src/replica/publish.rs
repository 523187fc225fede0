//! The node's own events: sealing what has queued up, and counting which peers hold it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::SmallVec;

use super::{Effect, Place, Refusal, Replica, Room, Span};
use crate::batch::{self, VerifiedBatch};
use crate::event::EncodedEvent;
use crate::frame::{Frame, Head};
use crate::heads::{LogKey, LogRecord};
use crate::hlc::{Clock, Hlc};
use crate::ids::{Arrival, Author, BatchHash};
use crate::link::HURRY_MS;
use crate::planted::Fault;
use crate::sequencer::{self, Part, Publication};
use crate::sign::Signer;
use crate::topic::Topic;
use crate::write_set::{Mark, WriteSet};

/// Own writes under way: one on the disk, one that gathers behind it.
const MAX_OWN_WRITES: usize = 2;
/// A publication that finds the store full waits so long for peers to announce what is in it.
const FULL_WAIT_MS: u64 = 10_000;
/// Own batches of a topic whose hashes are remembered, to tell how much of it a peer's head covers.
const MAX_REMEMBERED: usize = 16_384;

/// Where one part of a publication went.
struct PlacedPart {
    topic: Topic,
    last_seq: u64,
    place: Place,
}

/// Where a publication went.
struct Placed {
    id: u64,
    acks: u32,
    parts: SmallVec<[PlacedPart; 1]>,
}

impl Placed {
    fn published(&self, arrival: Arrival) -> Effect {
        Effect::Published { id: self.id, places: self.parts.iter().map(|part| part.place).collect(), arrival }
    }
}

/// What of a write is ours.
#[derive(Default)]
pub(super) struct OwnWrite {
    batches: Vec<VerifiedBatch>,
    placed: Vec<Placed>,
}

impl OwnWrite {
    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }
}

/// The line of a topic that this process goes on with.
#[derive(Default)]
struct Line {
    link: batch::Link,
    hlc: Hlc,
    recent: VecDeque<(u64, BatchHash)>,
    /// Some peer announced to hold the line up to here.
    announced: u64,
    /// What of that is on the disk.
    announced_stored: u64,
    /// Its last batch came from elsewhere, so that somebody has it.
    is_followed: bool,
}

impl Line {
    fn ending_before(header: &batch::Header) -> Self {
        Self { link: batch::Link { seq: header.first_seq - 1, parent: header.parent }, ..Self::default() }
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

/// Events of one topic that are sealed into one batch.
struct Run {
    first: Hlc,
    count: usize,
}

/// The stamp of the event with this index.
fn stamp_at(runs: &[Run], index: usize) -> Hlc {
    let mut before = 0;
    for run in runs {
        if index < before + run.count {
            return Hlc(run.first.0 + (index - before) as u64);
        }
        before += run.count;
    }
    Hlc(0)
}

/// A part of a publication, and the peers that hold it.
struct AwaitedPart {
    topic: Topic,
    first_seq: u64,
    last_seq: u64,
    peers: BTreeSet<Author>,
}

struct AckWait {
    id: u64,
    needed: u32,
    parts: SmallVec<[AwaitedPart; 1]>,
    /// So many peers hold every part.
    peers: u32,
}

impl AckWait {
    fn of(placed: Placed) -> Self {
        let parts = placed.parts.into_iter().map(|part| AwaitedPart {
            topic: part.topic,
            first_seq: part.place.first_seq,
            last_seq: part.last_seq,
            peers: BTreeSet::new(),
        });
        Self { id: placed.id, needed: placed.acks, parts: parts.collect(), peers: 0 }
    }

    fn count_peers(&self) -> u32 {
        let Some((first, rest)) = self.parts.split_first() else { return 0 };
        let all = first.peers.iter().filter(|peer| rest.iter().all(|part| part.peers.contains(peer)));
        all.count() as u32
    }
}

/// The node's own lines and those who wait for them to spread.
pub(super) struct Own {
    lines: BTreeMap<Topic, Line>,
    waits: Vec<AckWait>,
    /// Topics whose heads peers are to tell again.
    to_ask: BTreeSet<Topic>,
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
                    is_followed: false,
                };
                lines.insert(record.key.topic.clone(), line);
            }
        }
        Self { lines, waits: Vec::new(), to_ask: BTreeSet::new() }
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
            line.is_followed = true;
        }
    }

    /// The last batch of this node's line of a topic.
    pub(super) fn end_of(&self, topic: &Topic) -> Option<(u64, BatchHash)> {
        self.lines.get(topic).map(|line| (line.link.seq, line.link.parent))
    }

    /// Whether somebody has this node's line of a topic to its end, if it has one.
    pub(super) fn is_spread(&self, topic: &Topic) -> bool {
        self.lines.get(topic).is_none_or(|line| line.is_followed || line.announced >= line.link.seq)
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
    pub(super) fn publish(&mut self, id: u64, parts: SmallVec<[Part; 1]>, marks: Vec<Mark>, acks: u32) {
        let forbidden = parts.iter().find(|part| !self.interest.writers.allow(&part.topic, &self.me));
        if let Some(part) = forbidden {
            let refusal = Refusal::NotWriter(part.topic.clone());
            return self.effects.push(Effect::Refused { id, refusal });
        }
        self.sequencer.push(Publication { id, parts, marks, acks, since_ms: self.now.mono_ms });
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
        let full = self.store_is_full();
        while !self.sequencer.is_empty()
            && self.writes.iter().filter(|write| !write.own.is_empty()).count() < MAX_OWN_WRITES
        {
            let publications = if full { self.sequencer.take_without_events() } else { self.sequencer.take() };
            if publications.is_empty() {
                break;
            }
            self.write_publications(publications);
        }
        if full && !self.sequencer.is_empty() {
            self.wait_for_room();
        }
    }

    /// Seals what one write takes, topic by topic.
    fn write_publications(&mut self, publications: Vec<Publication>) {
        let mut set = WriteSet::default();
        let mut own = OwnWrite::default();
        let mut by_topic: BTreeMap<Topic, Vec<EncodedEvent>> = BTreeMap::new();
        // Where each part begins among the events of its topic, and how many it has.
        let mut spans = Vec::with_capacity(publications.len());
        for publication in publications {
            set.marks.extend(publication.marks);
            let mut parts: SmallVec<[(Topic, usize, usize); 1]> = SmallVec::new();
            for Part { topic, events } in publication.parts {
                let gathered = by_topic.entry(topic.clone()).or_default();
                parts.push((topic, gathered.len(), events.len()));
                gathered.extend(events);
            }
            spans.push((publication.id, publication.acks, parts));
        }
        by_topic.keys().for_each(|topic| self.leave_line_below_floor(topic));
        let Some(stamps) = self.stamp(&by_topic) else {
            let refuse = |(id, _, _): &(u64, u32, _)| Effect::Refused { id: *id, refusal: Refusal::Clock };
            self.effects.extend(spans.iter().map(refuse));
            return;
        };
        let mut first_seqs = BTreeMap::new();
        for (topic, events) in &by_topic {
            let line = self.own.lines.entry(topic.clone()).or_default();
            first_seqs.insert(topic.clone(), line.link.seq + 1);
            let (batches, record) = self.seal(topic, events, &stamps[topic]);
            set.batches.extend(batches.iter().cloned());
            set.logs.push(record);
            own.batches.extend(batches);
        }
        for (id, acks, parts) in spans {
            let place = |(topic, at, count): (Topic, usize, usize)| {
                let first_seq = first_seqs[&topic] + at as u64;
                let place = Place { first_seq, first_hlc: stamp_at(&stamps[&topic], at) };
                PlacedPart { last_seq: first_seq + count as u64 - 1, place, topic }
            };
            own.placed.push(Placed { id, acks, parts: parts.into_iter().map(place).collect() });
        }
        self.write(set, own, Vec::new());
    }

    /// A line that ends at its log's floor or below it is not gone on with, where another one goes on above: what is below a
    /// floor is announced to nobody.
    fn leave_line_below_floor(&mut self, topic: &Topic) {
        let Some(record) = self.latest(&LogKey { topic: topic.clone(), author: self.me }) else { return };
        let tip = record.tips_above(0).into_iter().max_by_key(|tip| tip.seq);
        let (Some(tip), floor) = (tip, record.floor) else { return };
        let Some(line) = self.own.lines.get_mut(topic).filter(|line| line.link.seq <= floor) else { return };
        line.link = batch::Link { seq: tip.seq, parent: tip.hash };
        line.hlc = line.hlc.max(tip.hlc);
        line.recent = VecDeque::from([(tip.seq, tip.hash)]);
        self.own.to_ask.insert(topic.clone());
    }

    /// The first stamp of each batch, by topic: for all, or for none when the clock is at its end.
    fn stamp(&mut self, by_topic: &BTreeMap<Topic, Vec<EncodedEvent>>) -> Option<BTreeMap<Topic, Vec<Run>>> {
        let wall_ms = self.wall_ms();
        let mut clock = self.clock;
        let mut stamps = BTreeMap::new();
        for (topic, events) in by_topic {
            let mut last = self.own.lines.get(topic).map_or(Hlc(0), |line| line.hlc);
            let mut runs = Vec::new();
            for events in sequencer::cut(events) {
                let count = events.len() as u64;
                // A line that once ran ahead of the clock must still rise.
                let first = match clock.stamp(wall_ms, count)? {
                    hlc if hlc > last => hlc,
                    _ => Clock::new(last).stamp(0, count)?,
                };
                last = Hlc(first.0 + count - 1);
                runs.push(Run { first, count: events.len() });
            }
            stamps.insert(topic.clone(), runs);
        }
        self.clock = clock;
        Some(stamps)
    }

    /// Seals the events of one topic, cut into the runs that were stamped.
    fn seal(&mut self, topic: &Topic, mut events: &[EncodedEvent], runs: &[Run]) -> (Vec<VerifiedBatch>, LogRecord) {
        let key = LogKey { topic: topic.clone(), author: self.me };
        let mut record = self.latest_or_new(&key);
        let line = self.own.lines.entry(topic.clone()).or_default();
        let mut batches = Vec::with_capacity(runs.len());
        for run in runs {
            let (now, later) = events.split_at(run.count);
            events = later;
            let batch = batch::seal(&self.signer, topic, self.incarnation, line.link, run.first, now);
            line.go_on(&batch);
            line.is_followed = false;
            self.recent.insert(batch.hash());
            super::admit::advance(&mut record, &batch);
            batches.push(batch);
        }
        (batches, record)
    }

    /// For those who check the checkers: tells what is not durable yet.
    pub(super) fn plant_haste(&mut self, own: &OwnWrite) {
        let arrival = self.position.arrival;
        if self.planted.is(Fault::AckBeforeSync) {
            self.effects.extend(own.placed.iter().map(|placed| placed.published(arrival)));
        }
        if self.planted.is(Fault::GossipBeforeSync) {
            self.effects.extend(own.batches.iter().cloned().map(Effect::Gossip));
        }
    }

    /// Own publications became durable: tell those who made them, and everybody else.
    pub(super) fn report_stored(&mut self, own: OwnWrite) {
        let arrival = self.position.arrival;
        let mut hurry = false;
        for placed in own.placed {
            self.effects.push(placed.published(arrival));
            if placed.acks > 0 && !placed.parts.is_empty() {
                hurry = true;
                self.own.waits.push(AckWait::of(placed));
            }
        }
        for batch in own.batches {
            if batch.bytes().len() <= self.max_gossip_bytes {
                self.effects.push(Effect::Gossip(batch));
            } else {
                // Too large to gossip: its head is announced at once, and it is pulled.
                for link in self.links.values_mut() {
                    link.announce_at_ms = link.announce_at_ms.map(|_| self.now.mono_ms);
                }
            }
        }
        if hurry {
            self.hurry_peers();
        }
    }

    /// Peers tell a head once, so those that told it before are asked to tell it again.
    pub(super) fn count_acks(&mut self, id: u64, spans: SmallVec<[Span; 1]>, needed: u32) {
        let topics: Vec<Topic> = spans.iter().map(|span| span.topic.clone()).collect();
        let parts = spans.into_iter().map(|Span { topic, first_seq, last_seq }| AwaitedPart {
            topic,
            first_seq,
            last_seq,
            peers: BTreeSet::new(),
        });
        self.own.waits.push(AckWait { id, needed, parts: parts.collect(), peers: 0 });
        self.own.to_ask.extend(topics);
        self.hurry_peers();
    }

    /// Asks once a turn, whatever the number of publications that came again.
    pub(super) fn ask_for_own_heads(&mut self) {
        let topics: Vec<Topic> = std::mem::take(&mut self.own.to_ask).into_iter().collect();
        if topics.is_empty() {
            return;
        }
        let peers: Vec<Author> = self.links.iter().filter(|(_, link)| link.is_live()).map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.ask_own_heads(peer, &topics);
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
        // A line rises, so a batch of it is found without a look at each.
        let heard = tips.iter().filter(|place| line.recent.binary_search(place).is_ok()).map(|place| place.0).max();
        let all = line.recent.back().filter(|_| self.planted.is(Fault::CountAcksTooHigh)).map(|place| place.0);
        let Some(covered) = all.or(heard) else { return };
        // What a peer never had is not announced, but what it pruned it had.
        let before = line.announced;
        if *holes_to <= line.announced {
            line.announced = line.announced.max(covered);
        }
        let moved = line.announced > before;
        let lacking = *floor.max(holes_to);
        self.pruning.retry();
        self.expiry.retry();
        if moved {
            self.retry_held(topic);
        }
        let mut complete = Vec::new();
        for wait in &mut self.own.waits {
            let mut more = false;
            for part in wait.parts.iter_mut().filter(|part| part.topic == *topic) {
                let has = lacking < part.first_seq && part.last_seq <= covered;
                more |= has && part.peers.insert(peer);
            }
            let peers = if more { wait.count_peers() } else { wait.peers };
            if peers > wait.peers {
                wait.peers = peers;
                complete.push(Effect::Acked { id: wait.id, peers, complete: peers >= wait.needed });
            }
        }
        self.own.waits.retain(|wait| wait.peers < wait.needed);
        self.effects.append(&mut complete);
    }
}
