//! The replica: every decision of a node in one place. It never waits, never reads the disk and knows no clock; see the
//! crate's head. `handle` takes what happened and says what is to be done.
//!
//! Invariants:
//! - Nothing is announced, gossiped as ours, acknowledged or counted in sums before it is durable.
//! - A batch is admitted when its parent is here (written or being written), or above a recorded hole or a floor.
//! - `logs` is what the disk holds; `latest` differs from it only where a write is on its way.

mod admit;
mod beat;
mod clocks;
mod compact;
mod expire;
mod links;
mod memory;
mod probes;
mod prune;
mod publish;
mod pull;
mod report;
mod survey;
mod types;
mod walk;

pub use compact::{KeyHash, KeyedBatch};
pub use expire::ARRIVAL_TIMES_MARK;
pub use links::digest;
pub use memory::MEMORY_MARK;
#[doc(hidden)]
pub use report::Sizes;
pub use types::*;
pub use walk::{MAX_WALKED_BATCHES, MAX_WALKED_KEYS};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::publish::OwnWrite;
use self::survey::Survey;
use crate::ahead::Ahead;
use crate::batch::VerifiedBatch;
use crate::conduct::Conduct;
use crate::frame::{Memory, Position};
use crate::heads::{LogKey, LogRecord};
use crate::hlc::{Clock, Hlc};
use crate::ids::{Author, BatchHash, Incarnation};
use crate::interest::Interest;
use crate::link::Link;
#[cfg(feature = "planted-faults")]
use crate::planted::Fault;
use crate::planted::Planted;
use crate::quota::Census;
use crate::recent::Recent;
use crate::rules::Rules;
use crate::sequencer::Sequencer;
use crate::sign::Signer;
use crate::topic::Topic;
use crate::wants::Wants;
use crate::write_set::WriteSet;

/// Hashes of admitted batches that are remembered, so that repeats need no look-up.
const RECENT_HASHES: usize = 65_536;
/// Logs whose authors were proven to cheat; of further ones it is not told.
const MAX_CHEATS: usize = 1_024;
/// So many wants put the next plan of pulls off by a millisecond.
const WANTS_PER_MS: usize = 1_024;
/// Writes on their way to the disk beyond which nothing more is pulled.
const MAX_WRITES: usize = 256;
/// Batches whose look-up may be under way.
const MAX_LOOKUPS: usize = 4_096;

/// A write on its way to the disk.
struct Write {
    token: u64,
    records: Vec<LogRecord>,
    admitted: Vec<Admitted>,
    own: OwnWrite,
    memories: Vec<(Author, Memory)>,
}

/// A batch on its way to the disk.
struct Admitted {
    log: LogKey,
    place: (u64, BatchHash),
    parent: BatchHash,
    incarnation: Incarnation,
}

impl Admitted {
    fn of(batch: &VerifiedBatch) -> Self {
        let header = batch.header();
        Self {
            log: LogKey { topic: header.topic.clone(), author: header.author },
            place: (header.last_seq(), batch.hash()),
            parent: header.parent,
            incarnation: header.incarnation,
        }
    }
}

/// A node's mind.
pub struct Replica<S> {
    me: Author,
    signer: S,
    incarnation: Incarnation,
    /// What was in the store when this process began, of its own whatever the clock said, and when that was: later, only it
    /// publishes for this node.
    greatest_at_start: Hlc,
    started: Now,
    interest: Interest,
    clock: Clock,
    now: Now,
    seed: u64,
    position: Position,
    batch_bytes: u64,
    cap_bytes: u64,
    max_gossip_bytes: usize,
    logs: BTreeMap<LogKey, LogRecord>,
    census: Census,
    latest: BTreeMap<LogKey, Latest>,
    writes: VecDeque<Write>,
    last_token: u64,
    recent: Recent,
    ahead: Ahead,
    lookups: BTreeMap<BatchHash, (VerifiedBatch, Source)>,
    wants: Wants,
    sequencer: Sequencer,
    own: publish::Own,
    links: BTreeMap<Author, Link>,
    conduct: Conduct,
    memories: BTreeMap<Author, Memory>,
    memories_at_ms: u64,
    topics_seen: BTreeSet<Topic>,
    pruning: prune::Pruning,
    rules: Rules,
    expiry: expire::Expiry,
    compaction: compact::Compaction,
    survey: Survey,
    room: Room,
    probes: BTreeMap<u64, BTreeMap<Author, probes::Progress>>,
    twin: Option<Incarnation>,
    /// Audits of peers that found both sides equal, and that found a difference.
    audits: [u64; 2],
    /// Logs whose authors were proven to cheat.
    cheats: BTreeSet<LogKey>,
    clock_offset_ms: i64,
    plan_pending: bool,
    /// No plan before then.
    plan_at_ms: u64,
    /// When anything that is wanted needs attention, as of the last plan.
    next_due_ms: Option<u64>,
    effects: Vec<Effect>,
    planted: Planted,
}

impl<S: Signer> Replica<S> {
    /// A replica over what the store holds.
    pub fn new(signer: S, config: Config, records: Vec<LogRecord>, now: Now) -> Self {
        let me = signer.author();
        let clock = beat::clock_of(&me, records.iter(), now.wall_ms);
        let own_tips = records.iter().filter(|record| record.key.author == me).flat_map(|record| &record.tips);
        let greatest_at_start = own_tips.map(|tip| tip.hlc).fold(clock.greatest(), Hlc::max);
        let logs: BTreeMap<_, _> = records.into_iter().map(|record| (record.key.clone(), record)).collect();
        let topics_seen = logs.keys().map(|key| key.topic.clone()).collect();
        let own = publish::Own::new(&me, logs.values());
        let survey = Survey::of(logs.keys().map(|key| key.topic.clone()));
        let census = Census::new(me, config.log_limits, logs.keys());
        Self {
            me,
            signer,
            incarnation: config.incarnation,
            greatest_at_start,
            started: now,
            interest: Interest { writers: config.rules.writers(), ..config.interest },
            clock,
            now,
            seed: config.seed,
            position: config.position,
            batch_bytes: config.batch_bytes,
            cap_bytes: config.cap_bytes,
            max_gossip_bytes: config.max_gossip_bytes,
            logs,
            census,
            latest: BTreeMap::new(),
            writes: VecDeque::new(),
            last_token: 0,
            recent: Recent::new(RECENT_HASHES),
            ahead: Ahead::default(),
            lookups: BTreeMap::new(),
            wants: Wants::default(),
            sequencer: Sequencer::default(),
            own,
            links: BTreeMap::new(),
            conduct: Conduct::default(),
            memories: BTreeMap::new(),
            memories_at_ms: 0,
            topics_seen,
            pruning: prune::Pruning::default(),
            rules: config.rules,
            expiry: expire::Expiry::new(config.arrival_times),
            compaction: compact::Compaction::default(),
            survey,
            room: Room::Ample,
            probes: BTreeMap::new(),
            twin: None,
            audits: [0; 2],
            cheats: BTreeSet::new(),
            clock_offset_ms: 0,
            plan_pending: false,
            plan_at_ms: 0,
            next_due_ms: None,
            effects: Vec::new(),
            planted: Planted::default(),
        }
    }

    /// Plants a fault, before the first input: see [`crate::planted`].
    #[cfg(feature = "planted-faults")]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
        if planted.is(Fault::ReuseSequenceNumber) {
            self.own = publish::Own::new(&self.me, std::iter::empty());
        }
        if planted.is(Fault::ForgetPromise) {
            self.clock = Clock::default();
            for tip in self.logs.values().flat_map(|record| &record.tips) {
                self.clock.observe(tip.hlc, self.now.wall_ms);
            }
        }
    }

    /// Takes what happened and returns what is to be done, in order.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.handle_all(now, [input])
    }

    /// Takes several things that happened together, which costs less than one by one.
    pub fn handle_all(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        self.now = Now { mono_ms: now.mono_ms.max(self.now.mono_ms), wall_ms: now.wall_ms };
        for input in inputs {
            self.take(input);
        }
        self.settle();
        std::mem::take(&mut self.effects)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Publish { id, parts, marks, acks } => self.publish(id, parts, marks, acks),
            Input::CountAcks { id, spans, acks } => self.count_acks(id, spans, acks),
            Input::Cancel { id } => {
                self.own.cancel(id);
                self.probes.remove(&id);
            }
            Input::Batch { batch, source } => self.take_batch(batch, source),
            Input::Found { hash, known, parent, siblings } => self.found(&hash, known, parent, &siblings),
            Input::Checked { check, known } => self.checked(check, &known),
            Input::Stored { token, position, batch_bytes } => self.stored(token, position, batch_bytes),
            Input::LinkUp { peer, link, nonce, memory } => self.link_up(peer, link, nonce, memory),
            Input::LinkDown { peer, link } => self.link_down(&peer, link),
            Input::Frame { peer, link, frame, chain } => self.take_frame(peer, link, frame, chain),
            Input::Drained { peer } => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.writable = true;
                }
            }
            Input::Served { peer } => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.serving = link.serving.saturating_sub(1);
                }
            }
            Input::Oldest { batches, end } if self.expiry.is_listing() => self.expire(batches, end),
            Input::Oldest { batches, end } => self.prune(batches, end),
            Input::Keys { batches, next, end } => self.take_keys(batches, next, end),
            Input::Breach { peer, reason } => self.breach(peer, &reason),
            Input::Slip { peer, reason } => self.slip(peer, &reason),
            Input::Pardon { peer } => self.conduct.pardon(&peer),
            Input::SetInterest(interest) => self.set_interest(interest),
            Input::SetRules(rules) => self.set_rules(rules),
            Input::Probe { id } => self.probe(id),
            Input::SetMarks(marks) => {
                self.write(WriteSet { marks, ..WriteSet::default() }, OwnWrite::default(), Vec::new())
            }
            Input::Room(room) => {
                self.room = room;
                self.plan_pending = true;
            }
            Input::Tick => {
                self.expire_wants();
                self.plan_pending = true;
            }
        }
    }

    /// What follows from any input: sealing, announcing, pulling, pruning.
    fn settle(&mut self) {
        self.seal_queued();
        self.ask_for_own_heads();
        self.announce_due();
        self.audit_due();
        self.answer_probes();
        if self.plan_pending && self.plan_at_ms <= self.now.mono_ms {
            self.plan_pending = false;
            self.pull_due();
            // Each plan looks at all that is wanted: with much of it, plans are rare, or nothing else would be done.
            self.plan_at_ms = self.now.mono_ms + (self.wants.len() / WANTS_PER_MS) as u64;
            self.next_due_ms = self.wants.next_due_ms(self.now.mono_ms);
        }
        self.remember_peers();
        self.prune_if_full();
        self.expire_if_due();
        self.compact_if_due();
    }

    /// When [`Input::Tick`] should come, on the monotonic clock, if nothing else comes before.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        let now_ms = self.now.mono_ms;
        let links = self.links.values().flat_map(|link| {
            let announce = link.announce_at_ms.filter(|_| link.writable);
            [announce, Some(link.audit_at_ms)].into_iter().flatten()
        });
        let plan = if self.plan_pending { Some(self.plan_at_ms) } else { self.next_due_ms };
        let prune = self.pruning.due_ms().filter(|at_ms| *at_ms > now_ms);
        let expiry = self.expiry_due_ms();
        let compaction = self.compaction_due_ms();
        let own = [plan, prune, expiry, compaction, Some(now_ms + 5_000)].into_iter().flatten();
        links.chain(own).min().unwrap_or(now_ms + 5_000).max(now_ms + 1)
    }

    /// The record of a log as it will be when all writes on their way are done.
    fn latest(&self, key: &LogKey) -> Option<&LogRecord> {
        self.latest.get(key).map(|latest| &latest.record).or_else(|| self.logs.get(key))
    }

    fn latest_or_new(&self, key: &LogKey) -> LogRecord {
        self.latest(key).cloned().unwrap_or_else(|| LogRecord::new(key.clone()))
    }

    /// Puts a write on its way. `records` are the logs as they are after it.
    fn write(&mut self, mut set: WriteSet, own: OwnWrite, memories: Vec<(Author, Memory)>) {
        self.last_token += 1;
        for record in &mut set.logs {
            if record.key.author == self.me {
                record.announced = record.announced.max(self.own.announced(&record.key.topic));
            }
            if !self.logs.contains_key(&record.key) && !self.latest.contains_key(&record.key) {
                self.census.add(&record.key);
            }
            let entry = self.latest.entry(record.key.clone());
            let latest = entry.or_insert_with(|| Latest { record: record.clone(), writes: 0 });
            latest.record = record.clone();
            latest.writes += 1;
        }
        self.plant_haste(&own);
        let admitted = set.batches.iter().map(Admitted::of).collect();
        self.writes.push_back(Write { token: self.last_token, records: set.logs.clone(), admitted, own, memories });
        self.effects.push(Effect::Append { token: self.last_token, set });
    }

    fn stored(&mut self, token: u64, position: Position, batch_bytes: u64) {
        self.position = position;
        self.batch_bytes = batch_bytes;
        // What is to be pulled may have waited for this.
        self.plan_pending |= self.writes.len() > MAX_WRITES;
        while self.writes.front().is_some_and(|write| write.token <= token) {
            let Some(write) = self.writes.pop_front() else { break };
            for mut record in write.records {
                if let Some(latest) = self.latest.get_mut(&record.key) {
                    latest.writes -= 1;
                    if latest.writes == 0 {
                        self.latest.remove(&record.key);
                    }
                }
                // The store sets this in what it writes; the copy here follows.
                if write.admitted.iter().any(|admitted| admitted.log == record.key) {
                    record.last_arrival = position.arrival;
                } else if let Some(old) = self.logs.get(&record.key) {
                    record.last_arrival = old.last_arrival;
                }
                self.install(record);
            }
            for Admitted { log: key, place, .. } in &write.admitted {
                self.wants.settle(key, place);
                // A fork that came while its parent was on its way.
                for child in self.ahead.take_children(key, place.0, &place.1) {
                    self.take_batch(child, Source::Import);
                }
            }
            for (peer, memory) in write.memories {
                self.memories.insert(peer, memory);
            }
            self.report_stored(write.own);
        }
    }

    /// A log's durable state changed.
    fn install(&mut self, record: LogRecord) {
        let key = record.key.clone();
        if self.rules.expire() || self.has_keyed() {
            self.survey.note_change(&key.topic);
        }
        let old = self.logs.insert(key.clone(), record);
        let new = &self.logs[&key];
        if old.as_ref().map(|old| old.tips_above(0)).unwrap_or_default() != new.tips_above(0) {
            for (peer, link) in &mut self.links {
                if link.shares(&self.me, &self.interest, peer, &key) {
                    link.note_change(old.as_ref(), new, self.now.mono_ms);
                }
            }
        }
        self.see_topic(&key.topic);
    }

    fn see_topic(&mut self, topic: &Topic) {
        if !self.topics_seen.contains(topic) && self.interest.covers(topic) {
            self.topics_seen.insert(topic.clone());
            self.effects.push(Effect::TopicSeen(topic.clone()));
        }
    }

    /// A number between 0 and `below`, from the seed.
    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    /// This machine's wall clock, corrected where most peers say that it is far off.
    fn wall_ms(&self) -> u64 {
        self.now.wall_ms.saturating_add_signed(self.clock_offset_ms)
    }

    fn send(&mut self, peer: Author, frame: crate::frame::Frame) {
        self.effects.push(Effect::Send { peer, frame });
    }
}
