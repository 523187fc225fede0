//! Does for the replica what the node's engine does, and checks what the replica asks for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roundelay_protocol::ahead::MAX_AHEAD_BYTES;
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::frame::{Frame, MAX_PAGE, MAX_RANGES, Position};
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Incarnation};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::limits::MAX_FRAME_BYTES;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::replica::{Config, Effect, Input, Now, Replica};
use roundelay_protocol::rules::Rules;
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::wants::{MAX_PULLS_PER_PEER, MAX_WANTS};

use super::disk::{Disk, log_of};
use super::{ME, Stamp};

/// When every story begins.
pub(super) const START_MS: u64 = 1_700_000_000_000;
/// Batches that the driver sends in answer to one pull.
const SERVED: usize = 8;
/// Stored batches that one look for prunable ones brings.
const OLDEST: usize = 16;

/// A publication on its way.
#[derive(Default)]
struct Publication {
    acks: u32,
    published: bool,
    acked: u32,
}

pub(super) struct Driver {
    replica: Replica<Stamp>,
    disk: Disk,
    now: Now,
    life: u64,
    last_link: u64,
    cap_bytes: u64,
    interest: Interest,
    rules: Rules,
    links: BTreeMap<Author, u64>,
    greeted: BTreeSet<Author>,
    serving: Vec<Author>,
    publications: BTreeMap<u64, Publication>,
    probes: BTreeSet<u64>,
    /// Own batches of this and earlier lives, by topic and first number, so that none is used twice in a life.
    own: BTreeMap<(u64, Topic, u64), BatchHash>,
    /// Peers whose links are to be ended once the input is dealt with.
    breaches: Vec<Author>,
    /// Pulls that were asked for and not answered, by peer.
    pulls: BTreeMap<Author, BTreeSet<u64>>,
}

impl Driver {
    pub(super) fn new(cap_bytes: u64, interest: Interest, rules: Rules) -> Self {
        let (disk, now) = (Disk::default(), Now { mono_ms: 1, wall_ms: START_MS });
        let replica = open(&disk, now, 1, cap_bytes, interest.clone(), rules.clone());
        Self {
            replica,
            disk,
            now,
            life: 1,
            last_link: 0,
            cap_bytes,
            interest,
            rules,
            links: BTreeMap::new(),
            greeted: BTreeSet::new(),
            serving: Vec::new(),
            publications: BTreeMap::new(),
            probes: BTreeSet::new(),
            own: BTreeMap::new(),
            breaches: Vec::new(),
            pulls: BTreeMap::new(),
        }
    }

    pub(super) fn position(&self) -> Position {
        self.disk.position()
    }

    pub(super) fn common(&self, pattern: &Pattern) -> [u8; 8] {
        self.interest.fingerprint(&Interest::new(vec![pattern.clone()], vec![]))
    }

    pub(super) fn take(&mut self, input: Input) {
        if let Input::Probe { id } = input {
            self.probes.insert(id);
        }
        if let Input::Cancel { id } = input {
            self.probes.remove(&id);
        }
        let mut todo: VecDeque<Effect> = self.replica.handle(self.now, input).into();
        while let Some(effect) = todo.pop_front() {
            let Some(answer) = self.carry_out(effect) else { continue };
            // Answers come before any other input, and what follows from them behind what is still to be done.
            todo.extend(self.replica.handle(self.now, answer));
        }
        for peer in std::mem::take(&mut self.breaches) {
            self.link_down(peer);
        }
        self.check_bounds();
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Append { token, set } => {
                for batch in &set.batches {
                    assert!(
                        self.interest.holds(&Author([ME; 32]), &log_of(batch)) || batch.header().author.0 == [ME; 32]
                    );
                    self.note_own(batch);
                }
                self.disk.append(token, set);
            }
            Effect::Find { log, place, parent } => {
                let known = self.disk.find(&log, &place).is_some();
                let siblings = self.disk.children(&log, &parent);
                return Some(Input::Found { hash: place.1, known, parent: self.disk.find(&log, &parent), siblings });
            }
            Effect::Check(check) => {
                let known = check.places.iter().filter_map(|place| self.disk.find(&check.log, place)).collect();
                return Some(Input::Checked { check, known });
            }
            Effect::ListOldest { after } => {
                let (batches, end) = self.disk.oldest(after, OLDEST);
                return Some(Input::Oldest { batches, end });
            }
            Effect::ListKeys { topic, before } => {
                let (batches, next, end) = self.disk.keys(&topic, before, OLDEST);
                return Some(Input::Keys { batches, next, end });
            }
            Effect::Serve { peer, id, ranges, missing, .. } => {
                assert!(self.links.contains_key(&peer) && ranges.len() <= MAX_RANGES);
                self.serving.push(peer);
                let found = ranges.iter().flat_map(|range| self.disk.in_range(range)).take(SERVED);
                let frames = [
                    Frame::Batches { id, batches: found.map(|batch| batch.bytes().clone()).collect() },
                    Frame::PullEnd { id, served: ranges.len() as u64, missing },
                ];
                frames.iter().for_each(check_frame);
            }
            Effect::Send { peer, frame } => self.sent(peer, &frame),
            Effect::Gossip(batch) => {
                assert!(batch.header().author.0 == [ME; 32], "only own batches are gossiped");
                assert!(self.disk.has(&batch.hash()), "what is gossiped is durable");
            }
            Effect::Published { id, .. } => {
                let publication = self.publications.get_mut(&id).expect("a publication that was made");
                assert!(!std::mem::replace(&mut publication.published, true), "published once");
            }
            Effect::Acked { id, peers, complete } => {
                let publication = self.publications.get_mut(&id).expect("a publication that was made");
                assert!(publication.published && publication.acked < peers, "acknowledgements rise");
                assert_eq!(complete, peers >= publication.acks);
                publication.acked = peers;
            }
            Effect::Refused { id, .. } => {
                let publication = self.publications.remove(&id).expect("a publication that was made");
                assert!(!publication.published, "what is stored is not refused");
            }
            Effect::Disconnect { peer, .. } => self.breaches.push(peer),
            Effect::Probed { id, .. } => assert!(self.probes.remove(&id), "a probe is answered once"),
            Effect::TopicSeen(_) | Effect::Notice(_) => {}
        }
        None
    }

    /// No number of a log is used for two things in one life.
    fn note_own(&mut self, batch: &roundelay_protocol::batch::VerifiedBatch) {
        let header = batch.header();
        if header.author.0 == [ME; 32] && header.incarnation == incarnation(self.life) {
            let place = (self.life, header.topic.clone(), header.first_seq);
            let first = *self.own.entry(place).or_insert(batch.hash());
            assert_eq!(first, batch.hash(), "a sequence number is used for two things");
        }
    }

    fn sent(&mut self, peer: Author, frame: &Frame) {
        assert!(self.links.contains_key(&peer), "frames go to peers with a link");
        match frame {
            Frame::Hello(_) => assert!(self.greeted.insert(peer), "hello is said once, and first"),
            Frame::Heads { heads, .. } => {
                assert!(heads.len() <= MAX_PAGE);
                let tips = heads.iter().flat_map(|head| &head.tips);
                assert!(tips.into_iter().all(|(_, hash)| self.disk.has(hash)), "only durable heads are announced");
            }
            Frame::Pull { id, ranges, .. } => {
                assert!(!ranges.is_empty() && ranges.len() <= MAX_RANGES);
                let pulls = self.pulls.entry(peer).or_default();
                assert!(pulls.insert(*id), "every pull has a number of its own");
            }
            _ => {}
        }
        assert!(self.greeted.contains(&peer), "hello is said first");
        check_frame(frame);
    }

    fn check_bounds(&mut self) {
        let replica = &self.replica;
        assert!(replica.ahead_bytes() <= MAX_AHEAD_BYTES);
        assert!(replica.deadline_ms() > self.now.mono_ms, "the next tick lies ahead");
        let sizes = replica.sizes();
        assert!(sizes.pulls <= MAX_PULLS_PER_PEER * self.links.len().max(1), "pulls are bounded");
        assert!(sizes.lookups == 0, "look-ups that were answered are forgotten");
        assert!(sizes.peer_probes <= 64 * self.links.len(), "probes of peers are bounded");
        // Peers announce up to 16 tips of a log each, and further gaps are bounded.
        assert!(sizes.wants <= 1_024 + 16 * 3 && sizes.wanted_logs <= MAX_WANTS, "wants are bounded");
        // Whatever people ask is answered.
        let (links, missing) = (replica.links(), replica.missing());
        assert_eq!(links.len(), self.links.len());
        assert!(missing.iter().all(|range| 1 <= range.from && range.from <= range.to), "what is missing is a range");
    }

    pub(super) fn link_up(&mut self, peer: Author) {
        self.last_link += 1;
        self.links.insert(peer, self.last_link);
        self.greeted.remove(&peer);
        self.pulls.remove(&peer);
        let memory = self.disk.memory_of(&peer);
        self.take(Input::LinkUp { peer, link: self.last_link, nonce: self.last_link, memory });
    }

    pub(super) fn link_down(&mut self, peer: Author) {
        if let Some(link) = self.links.remove(&peer) {
            self.greeted.remove(&peer);
            self.pulls.remove(&peer);
            self.take(Input::LinkDown { peer, link });
        }
    }

    /// What a peer says comes as bytes. What is no frame never reaches the replica.
    pub(super) fn frame(&mut self, peer: Author, current: bool, frame: &Frame) {
        let link = self.links.get(&peer).copied().unwrap_or(0);
        let Ok(frame) = Frame::decode(&frame.encode()) else { return };
        if let Frame::PullEnd { id, .. } = &frame {
            self.pulls.entry(peer).or_default().remove(id);
        }
        let chain = match &frame {
            Frame::Hello(hello) => hello.memory.and_then(|memory| self.disk.chain_at(memory.position.arrival)),
            _ => None,
        };
        self.take(Input::Frame { peer, link: if current { link } else { link.wrapping_sub(1) }, frame, chain });
    }

    pub(super) fn publish(&mut self, id: u64, topic: Topic, events: Vec<EncodedEvent>, acks: u32) {
        self.publications.insert(id, Publication { acks, ..Publication::default() });
        self.take(Input::publish(id, topic, events, acks));
    }

    pub(super) fn sync(&mut self, count: usize) {
        let Some(token) = self.disk.sync(count) else { return };
        let (position, batch_bytes) = (self.disk.position(), self.disk.bytes());
        self.disk.check_counters();
        self.take(Input::Stored { token, position, batch_bytes });
    }

    pub(super) fn served(&mut self) {
        if let Some(peer) = self.serving.pop() {
            self.take(Input::Served { peer });
        }
    }

    /// Time passes; the wall clock may jump.
    pub(super) fn pass(&mut self, mono_ms: u64, wall_ms: u64) {
        self.now.mono_ms += mono_ms;
        self.now.wall_ms = START_MS.wrapping_add(self.now.mono_ms).wrapping_add(wall_ms);
        self.take(Input::Tick);
    }

    pub(super) fn set_interest(&mut self, interest: Interest, rules: Rules) {
        (self.interest, self.rules) = (interest.clone(), rules.clone());
        self.take(Input::SetRules(rules));
        self.take(Input::SetInterest(interest));
    }

    /// The power fails, and the node starts again.
    pub(super) fn restart(&mut self) {
        self.disk.lose_queue();
        self.life += 1;
        self.links.clear();
        self.greeted.clear();
        self.serving.clear();
        self.publications.clear();
        self.probes.clear();
        self.pulls.clear();
        self.replica = open(&self.disk, self.now, self.life, self.cap_bytes, self.interest.clone(), self.rules.clone());
        self.check_bounds();
    }

    /// Everything is written: the replica and the disk agree, and nothing goes on by itself without end.
    pub(super) fn finish(mut self) {
        for _ in 0..1_000 {
            self.sync(usize::MAX);
            if self.replica.writes_in_flight() == 0 {
                break;
            }
        }
        assert_eq!(self.replica.writes_in_flight(), 0, "writes come to an end");
        let plain = |record: &LogRecord| LogRecord { last_arrival: Arrival(0), ..record.clone() };
        let here: Vec<_> = self.replica.logs().map(plain).collect();
        assert_eq!(here, self.disk.records.values().map(plain).collect::<Vec<_>>(), "the replica knows what is stored");
        assert_eq!(self.replica.position(), self.disk.position());
        let waiting = self.publications.values().filter(|publication| !publication.published).count();
        assert!(waiting == 0 || self.replica.is_full(), "what was published is stored");
    }
}

fn incarnation(life: u64) -> Incarnation {
    Incarnation(1_000 + life)
}

fn open(disk: &Disk, now: Now, life: u64, cap_bytes: u64, interest: Interest, rules: Rules) -> Replica<Stamp> {
    let config = Config {
        incarnation: incarnation(life),
        position: disk.position(),
        batch_bytes: disk.bytes(),
        cap_bytes,
        log_limits: LogLimits::default(),
        max_gossip_bytes: 700,
        interest,
        rules,
        arrival_times: roundelay_protocol::arrival_times::ArrivalTimes::default(),
        seed: life,
    };
    Replica::new(Stamp::of(ME), config, disk.records.values().cloned().collect(), now)
}

/// A frame that is sent is one that a peer of the same version takes.
fn check_frame(frame: &Frame) {
    let bytes = frame.encode();
    assert!(bytes.len() <= MAX_FRAME_BYTES);
    assert_eq!(Frame::decode(&bytes).as_ref(), Ok(frame), "a peer reads what was said");
}
