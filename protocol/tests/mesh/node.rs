//! A replica with a disk in memory, that syncs when it is told to.

use std::collections::{BTreeMap, BTreeSet};

use roundelay_protocol::arrival_times::ArrivalTimes;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::event::{Event, Item};
use roundelay_protocol::frame::{Frame, Memory, Position};
use roundelay_protocol::heads::{LogKey, LogRecord, Tip};
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::replica::{
    ARRIVAL_TIMES_MARK, Config, Effect, Input, KeyedBatch, Now, OldBatch, Replica, Source, digest,
};
use roundelay_protocol::rules::Rules;
use roundelay_protocol::sign::{Ed25519Signer, Signature, Signer, Verifier};
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::write_set::WriteSet;

/// Signatures that cost nothing.
#[derive(Clone)]
pub(crate) struct Stamp(Author);

impl Stamp {
    /// The author of this number.
    pub(crate) fn of(number: u8) -> Self {
        Self(Ed25519Signer::from_secret(&[number; 32]).author())
    }
}

impl Signer for Stamp {
    fn author(&self) -> Author {
        self.0
    }
    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(blake3::hash(message).as_bytes());
        signature[32..].copy_from_slice(&self.0.0);
        Signature(signature)
    }
}

pub(crate) struct StampVerifier;

impl Verifier for StampVerifier {
    fn verify(&self, author: &Author, message: &[u8], signature: &Signature) -> bool {
        Stamp(*author).sign(message) == *signature
    }
}

#[derive(Clone, Default)]
pub(crate) struct Disk {
    batches: BTreeMap<u64, VerifiedBatch>,
    chains: Vec<Chain>,
    records: BTreeMap<LogKey, LogRecord>,
    marks: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Disk {
    fn write(&mut self, set: WriteSet) {
        let mut last = BTreeMap::new();
        for batch in set.batches {
            let arrival = self.chains.len() as u64 + 1;
            let chain = self.chains.last().copied().unwrap_or_default().extend(&batch.hash());
            self.chains.push(chain);
            last.insert(key_of(&batch), Arrival(arrival));
            self.batches.insert(arrival, batch);
        }
        for mut record in set.logs {
            let old = self.records.get(&record.key).map(|old| old.last_arrival).unwrap_or_default();
            record.last_arrival = last.get(&record.key).copied().unwrap_or(old);
            self.records.insert(record.key.clone(), record);
        }
        for arrival in set.pruned {
            self.batches.remove(&arrival.0);
        }
        for (name, value) in set.marks {
            match value {
                Some(value) => self.marks.insert(name, value),
                None => self.marks.remove(&name),
            };
        }
    }

    fn bytes(&self) -> u64 {
        self.batches.values().map(|batch| batch.bytes().len() as u64).sum()
    }

    fn position(&self, epoch: StoreEpoch) -> Position {
        Position {
            epoch,
            arrival: Arrival(self.chains.len() as u64),
            chain: self.chains.last().copied().unwrap_or_default(),
        }
    }

    fn find(&self, log: &LogKey, place: &(u64, BatchHash)) -> Option<Tip> {
        self.batches.values().find(|batch| batch.hash() == place.1 && key_of(batch) == *log).map(VerifiedBatch::tip)
    }
}

fn key_of(batch: &VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

pub(crate) struct SimNode {
    number: u8,
    pub(crate) replica: Replica<Stamp>,
    disk: Disk,
    queue: Vec<(u64, WriteSet)>,
    pub(crate) cap_bytes: u64,
    life: u64,
    next_id: u64,
    pub(crate) link_ids: BTreeMap<Author, u64>,
    pub(crate) served_bytes: usize,
    pub(crate) refused: usize,
    interest: Interest,
    log_limits: LogLimits,
    pub(crate) rules: Rules,
}

impl SimNode {
    pub(crate) fn new(number: u8, cap_bytes: u64) -> Self {
        Self::limited(number, cap_bytes, LogLimits::default())
    }

    /// One that takes so many logs of others.
    pub(crate) fn limited(number: u8, cap_bytes: u64, log_limits: LogLimits) -> Self {
        let interest = Interest::new(vec![Pattern::all()], vec![]);
        let replica = make(number, 1, cap_bytes, &Disk::default(), interest.clone(), log_limits, Rules::default());
        Self {
            number,
            replica,
            disk: Disk::default(),
            queue: Vec::new(),
            cap_bytes,
            life: 1,
            next_id: 0,
            link_ids: BTreeMap::new(),
            served_bytes: 0,
            refused: 0,
            interest,
            log_limits,
            rules: Rules::default(),
        }
    }

    pub(crate) fn author(&self) -> Author {
        self.replica.author()
    }

    pub(crate) fn memory_of(&self, peer: &Author) -> Option<Memory> {
        let mark = self.disk.marks.get(&[b"peer/", &peer.0[..]].concat())?;
        Some(Memory::decode(mark).unwrap())
    }

    pub(crate) fn copy_disk(&self) -> Disk {
        self.disk.clone()
    }

    pub(crate) fn restore(&mut self, disk: Disk) {
        self.life += 1;
        self.queue.clear();
        self.disk = disk;
        let (interest, rules) = (self.interest.clone(), self.rules.clone());
        self.replica = make(self.number, self.life, self.cap_bytes, &self.disk, interest, self.log_limits, rules);
    }

    pub(crate) fn subscribe(&mut self, now: Now, patterns: &[&str]) -> Vec<Effect> {
        self.interest = Interest::new(patterns.iter().map(|text| Pattern::new(text).unwrap()).collect(), vec![]);
        let interest = self.interest.clone();
        self.handle(now, Input::SetInterest(interest))
    }

    pub(crate) fn publish(&mut self, now: Now, topic: &str, count: usize) -> Vec<Effect> {
        self.next_id += 1;
        let id = self.next_id;
        let event = |index| Event {
            kind: "t".into(),
            id: format!("{}-{}-{id}-{index}", self.number, self.life),
            source: "s".into(),
            ..Event::default()
        };
        let events = (0..count).map(|index| event(index).encode().unwrap()).collect();
        self.handle(now, Input::publish(id, Topic::new(topic).unwrap(), events, 0))
    }

    /// Publishes one event for each key, as one publication.
    pub(crate) fn publish_keys(&mut self, now: Now, topic: &str, keys: &[Option<String>]) -> Vec<Effect> {
        self.next_id += 1;
        let id = self.next_id;
        let event = |(index, key): (usize, &Option<String>)| Event {
            kind: "t".into(),
            id: format!("{}-{}-{id}-{index}", self.number, self.life),
            source: "s".into(),
            key: key.clone(),
            ..Event::default()
        };
        let events = keys.iter().enumerate().map(|event_of| event(event_of).encode().unwrap()).collect();
        self.handle(now, Input::publish(id, Topic::new(topic).unwrap(), events, 0))
    }

    /// The last event of each key of a topic that is stored, by its id, and how many events are stored of it.
    pub(crate) fn last_of_keys(&self, topic: &str) -> (BTreeMap<String, String>, usize) {
        let (mut last, mut count) = (BTreeMap::new(), 0);
        for batch in self.disk.batches.values().filter(|batch| batch.header().topic.as_str() == topic) {
            for (_, item) in batch.items() {
                let Item::Event(event) = item else { continue };
                count += 1;
                if let Some(key) = event.key {
                    let place = (event.hlc, batch.hash(), event.id.to_owned());
                    let entry = last.entry(key.to_owned()).or_insert_with(|| place.clone());
                    *entry = place.max(entry.clone());
                }
            }
        }
        (last.into_iter().map(|(key, (_, _, id))| (key, id)).collect(), count)
    }

    pub(crate) fn frame(&mut self, now: Now, peer: Author, frame: Frame) -> Vec<Effect> {
        let link = self.link_ids[&peer];
        let mut effects = Vec::new();
        if let Frame::Batches { id, batches } = &frame {
            let source = Source::Pull { peer, id: *id };
            let inputs = batches.iter().map(|bytes| {
                let parsed = roundelay_protocol::batch::ParsedBatch::parse(bytes.clone()).unwrap();
                Input::Batch { batch: parsed.verify(&StampVerifier).unwrap(), source }
            });
            effects.extend(self.handle_all(now, inputs));
        }
        let chain = match &frame {
            Frame::Hello(hello) => hello.memory.and_then(|memory| {
                let at = memory.position.arrival.0.checked_sub(1)?;
                self.disk.chains.get(at as usize).copied()
            }),
            _ => None,
        };
        effects.extend(self.handle(now, Input::Frame { peer, link, frame, chain }));
        effects
    }

    /// What was handed to the disk and is not durable yet.
    pub(crate) fn underway(&self) -> impl Iterator<Item = &WriteSet> {
        self.queue.iter().map(|(_, set)| set)
    }

    pub(crate) fn mark(&self, name: &[u8]) -> Option<&Vec<u8>> {
        self.disk.marks.get(name)
    }

    /// Makes all writes durable.
    pub(crate) fn sync(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (token, set) in std::mem::take(&mut self.queue) {
            self.disk.write(set);
            let position = self.disk.position(StoreEpoch(u64::from(self.number)));
            let batch_bytes = self.disk.bytes();
            effects.extend(self.handle(now, Input::Stored { token, position, batch_bytes }));
        }
        effects
    }

    pub(crate) fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.handle_all(now, [input])
    }

    fn handle_all(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut todo: std::collections::VecDeque<Effect> = self.replica.handle_all(now, inputs).into();
        while let Some(effect) = todo.pop_front() {
            let answer = match effect {
                Effect::Append { token, set } => {
                    assert!(self.queue.last().is_none_or(|(last, _)| *last < token), "writes come in order");
                    self.queue.push((token, set));
                    continue;
                }
                Effect::Find { log, place, parent } => {
                    let known = self.disk.find(&log, &place).is_some();
                    let follows = |batch: &&VerifiedBatch| {
                        let header = batch.header();
                        key_of(batch) == log && (header.first_seq - 1, header.parent) == parent
                    };
                    let siblings = self.disk.batches.values().filter(follows);
                    let siblings = siblings.map(|batch| (batch.hash(), batch.header().incarnation)).collect();
                    Input::Found { hash: place.1, known, parent: self.disk.find(&log, &parent), siblings }
                }
                Effect::Check(check) => {
                    let known = check.places.iter().filter_map(|place| self.disk.find(&check.log, place)).collect();
                    Input::Checked { check, known }
                }
                Effect::ListOldest { after } => {
                    let batches = self.disk.batches.range(after.0 + 1..).take(64);
                    let batches: Vec<_> = batches
                        .map(|(arrival, batch)| OldBatch::of(Arrival(*arrival), batch, batch.bytes().len() as u64))
                        .collect();
                    let end = batches.len() < 64;
                    Input::Oldest { batches, end }
                }
                Effect::ListKeys { topic, before } => {
                    let of_topic = |(_, batch): &(&u64, &VerifiedBatch)| batch.header().topic == topic;
                    let found = self.disk.batches.range(..before.0).rev().filter(of_topic).take(16);
                    let batches: Vec<_> = found.map(|(at, batch)| KeyedBatch::of(Arrival(*at), batch)).collect();
                    let end = batches.len() < 16;
                    let next = batches.last().map_or(before, |last| last.batch.arrival);
                    Input::Keys { batches, next, end }
                }
                Effect::Serve { peer, id, ranges, max_bytes, missing } => {
                    out.extend(self.serve(peer, id, &ranges, max_bytes, missing));
                    Input::Served { peer }
                }
                Effect::Refused { .. } => {
                    self.refused += 1;
                    continue;
                }
                other => {
                    out.push(other);
                    continue;
                }
            };
            // Answers come before any other input, and what follows from them behind what is still to be done.
            todo.extend(self.replica.handle(now, answer));
        }
        out
    }

    fn serve(
        &mut self,
        peer: Author,
        id: u64,
        ranges: &[roundelay_protocol::frame::Range],
        max_bytes: u64,
        missing: Vec<roundelay_protocol::frame::Missing>,
    ) -> Vec<Effect> {
        let mut frames = Vec::new();
        let (mut sent, mut served) = (0, 0);
        'ranges: for range in ranges {
            let mut found: Vec<_> = self.disk.batches.values().filter(|batch| key_of(batch) == range.log).collect();
            found.retain(|batch| batch.header().last_seq() > range.after && batch.header().first_seq <= range.upto);
            found.sort_by_key(|batch| (batch.header().last_seq(), batch.hash()));
            for batch in found {
                if sent > 0 && sent + batch.bytes().len() as u64 > max_bytes.min(4_000) {
                    break 'ranges;
                }
                sent += batch.bytes().len() as u64;
                frames.push(Frame::Batches { id, batches: vec![batch.bytes().clone()] });
            }
            served += 1;
        }
        frames.push(Frame::PullEnd { id, served, missing });
        self.served_bytes += sent as usize;
        frames.into_iter().map(|frame| Effect::Send { peer, frame }).collect()
    }

    /// All events here, by author, topic, sequence number, batch and id.
    pub(crate) fn contents(&self) -> BTreeSet<(Author, String, u64, BatchHash, String)> {
        let mut all = BTreeSet::new();
        for batch in self.disk.batches.values() {
            for (seq, item) in batch.items() {
                if let Item::Event(event) = item {
                    let header = batch.header();
                    all.insert((header.author, header.topic.to_string(), seq, batch.hash(), event.id.to_owned()));
                }
            }
        }
        all
    }

    pub(crate) fn batches(&self) -> Vec<VerifiedBatch> {
        self.disk.batches.values().cloned().collect()
    }

    pub(crate) fn digests(&self) -> u128 {
        digest(self.replica.logs()).0
    }
}

fn make(
    number: u8,
    life: u64,
    cap_bytes: u64,
    disk: &Disk,
    interest: Interest,
    log_limits: LogLimits,
    rules: Rules,
) -> Replica<Stamp> {
    let arrival_times = disk.marks.get(ARRIVAL_TIMES_MARK).map(|mark| ArrivalTimes::decode(mark).unwrap());
    let arrival_times = arrival_times.unwrap_or_default();
    let config = Config {
        incarnation: Incarnation(u64::from(number) << 32 | life),
        position: disk.position(StoreEpoch(u64::from(number))),
        batch_bytes: disk.bytes(),
        cap_bytes,
        log_limits,
        max_gossip_bytes: 65_536,
        interest,
        rules,
        arrival_times,
        seed: u64::from(number),
    };
    let records = disk.records.values().cloned().collect();
    Replica::new(Stamp::of(number), config, records, Now { mono_ms: 0, wall_ms: 1_700_000_000_000 })
}
