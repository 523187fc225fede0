//! Virtual time: a queue of events, the driver of each replica, and what the plan says happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use roundelay::log::{MemoryStore, Store};
use roundelay_protocol::batch::{ParsedBatch, VerifiedBatch};
use roundelay_protocol::event::Event as Published;
use roundelay_protocol::frame::{Frame, Missing, Position, Range as LogRange};
use roundelay_protocol::ids::{Arrival, Author, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::planted::{Fault, Planted};
use roundelay_protocol::replica::{Effect, Input, KeyedBatch, Room, Source};
use roundelay_protocol::rules::Rule;
use roundelay_protocol::topic::{Pattern, Topic};

use super::checker::{Checker, Promise, Violation};
use super::machine::{Machine, Publication, SimSigner, SimVerifier};
use super::network::{Network, Packet, Way};
use super::plan::{Action, Plan, RuleChange, TOPICS};

/// How long a mesh may take to converge once everything is mended, in virtual time.
const CONVERGENCE_MS: u64 = 240_000;
/// How often it is looked whether it has.
const LOOK_MS: u64 = 500;
/// Events of virtual time in one run. Ten thousand are usual.
const MAX_HAPPENINGS: u64 = 1_000_000;
/// Batches that one look for prunable ones brings.
const OLDEST_RUN: usize = 16;
/// The same for batches of a keyed topic.
const KEYS_RUN: usize = 8;
/// Bytes of batches in one frame of an answer to a pull.
const FRAME_BYTES: u64 = 4_000;

/// How to run a plan.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// A fault that is planted in every replica.
    pub(crate) fault: Option<Fault>,
    /// Hash everything that happens.
    pub(crate) traced: bool,
    /// Tell what is sent and written.
    pub(crate) narrated: bool,
}

/// What a run was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Events of virtual time: frames, gossip, syncs, ticks.
    pub(crate) happenings: u64,
    pub(crate) events_acknowledged: u64,
    pub(crate) batches_lost_with_disks: u64,
    /// Logs that were taken for received further than before, by a heartbeat.
    pub(crate) became_stable: u64,
    /// How long it took to converge after everything was mended, in milliseconds.
    pub(crate) converged_in_ms: u64,
    /// A hash over all that happened, if it was asked for.
    pub(crate) trace: [u8; 32],
}

impl Report {
    /// Adds up runs; of the times it keeps the longest.
    #[allow(dead_code)] // not by all who run it
    pub(crate) fn add(&mut self, other: &Self) {
        self.happenings += other.happenings;
        self.events_acknowledged += other.events_acknowledged;
        self.batches_lost_with_disks += other.batches_lost_with_disks;
        self.became_stable += other.became_stable;
        self.converged_in_ms = self.converged_in_ms.max(other.converged_in_ms);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { happenings, events_acknowledged, batches_lost_with_disks, became_stable, converged_in_ms, .. } =
            self;
        write!(
            f,
            "{events_acknowledged} events acknowledged, {batches_lost_with_disks} batches lost with the only disk that \
             had them, more stable {became_stable} times by heartbeats, {happenings} happenings, longest convergence {:.1} s of virtual time",
            *converged_in_ms as f64 / 1_000.0
        )
    }
}

/// Runs a plan to its end.
pub(crate) fn run(plan: &Plan, options: Options) -> Result<Report, Violation> {
    let mut world = World::new(plan, options);
    world.run();
    let World { checker, mut report, trace, .. } = world;
    report.trace = *trace.finalize().as_bytes();
    report.batches_lost_with_disks = checker.excused.len() as u64;
    checker.violation.map_or(Ok(report), Err)
}

/// Something that happens at a moment of virtual time.
pub(super) enum Event {
    Step(usize),
    Heal,
    Look,
    Tick { machine: usize, incarnation: Incarnation },
    Sync { machine: usize, incarnation: Incarnation },
    Dial(usize, usize),
    LinkDown { machine: usize, peer: Author, link: u64 },
    GiveUp { from: usize, to: usize, link: u64 },
    Frame { from: usize, to: usize, link: u64, packet: Packet },
    Drained { from: usize, to: usize },
    Gossip { from: usize, to: usize, batch: VerifiedBatch },
    Serve { machine: usize, incarnation: Incarnation, order: Order },
    Beat { machine: usize, incarnation: Incarnation },
}

/// A pull to be answered.
pub(super) struct Order {
    peer: Author,
    id: u64,
    ranges: Vec<LogRange>,
    max_bytes: u64,
    missing: Vec<Missing>,
}

/// A mesh, its network and its time.
pub(super) struct World<'a> {
    pub(super) plan: &'a Plan,
    pub(super) options: Options,
    rng: Pcg64Mcg,
    pub(super) now_ms: u64,
    /// What is to come, by time and then by the order in which it was planned.
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    last_event: u64,
    pub(super) machines: Vec<Machine>,
    /// Twins by the machine that they are copies of.
    twins: BTreeMap<usize, usize>,
    pub(super) network: Network,
    pub(super) checker: Checker,
    pub(super) report: Report,
    trace: blake3::Hasher,
    last_incarnation: u64,
    last_epoch: u64,
    pub(super) healed: bool,
    done: bool,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, options: Options) -> Self {
        let machine = |number| {
            let store = MemoryStore::new(StoreEpoch(number as u64 + 1));
            Machine::new(SimSigner::new(number, plan.real_signatures), store)
        };
        let mut world = Self {
            plan,
            options,
            rng: Pcg64Mcg::seed_from_u64(!plan.seed),
            now_ms: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            last_event: 0,
            machines: (0..plan.machines).map(machine).collect(),
            twins: BTreeMap::new(),
            network: Network::default(),
            checker: Checker::default(),
            report: Report::default(),
            trace: blake3::Hasher::new(),
            last_incarnation: 0,
            last_epoch: plan.machines as u64,
            healed: false,
            done: false,
        };
        world.network.pairs = plan.links.iter().copied().collect();
        for machine in 0..plan.machines {
            world.start(machine);
        }
        for (a, b) in &plan.links {
            world.dial_later(*a, *b, 0, 500);
        }
        for (index, step) in plan.steps.iter().enumerate() {
            world.at(step.at_ms, Event::Step(index));
        }
        world.at(plan.healed_at_ms, Event::Heal);
        world
    }

    fn run(&mut self) {
        while let Some(Reverse((at_ms, serial))) = self.queue.pop() {
            self.now_ms = at_ms;
            let Some(event) = self.events.remove(&serial) else { continue };
            self.report.happenings += 1;
            if self.report.happenings > MAX_HAPPENINGS {
                self.fail(Promise::Bounded, format!("{MAX_HAPPENINGS} things have happened, and it goes on"));
            }
            self.happen(event);
            if self.done || self.checker.violation.is_some() {
                return;
            }
        }
    }

    pub(super) fn at(&mut self, at_ms: u64, event: Event) {
        self.last_event += 1;
        self.queue.push(Reverse((at_ms.max(self.now_ms), self.last_event)));
        self.events.insert(self.last_event, event);
    }

    pub(super) fn random(&mut self) -> u64 {
        self.rng.random()
    }

    pub(super) fn between(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.rng.random_range(range) }
    }

    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub(super) fn fail(&mut self, promise: Promise, text: String) {
        let at_ms = self.now_ms;
        self.checker.violation.get_or_insert(Violation { promise, at_ms, text });
    }

    fn narrate(&self, text: impl FnOnce() -> String) {
        if self.options.narrated {
            eprintln!("{:>7.3} s  {}", self.now_ms as f64 / 1_000.0, text());
        }
    }

    fn note(&mut self, parts: &[&[u8]]) {
        if self.options.traced {
            self.trace.update(&self.now_ms.to_be_bytes());
            for part in parts {
                self.trace.update(part);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(index) => self.take_step(&self.plan.steps[index].action),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
            Event::Tick { machine, incarnation } => {
                if self.is_alive(machine, incarnation) && self.is_tick_due(machine) {
                    self.feed(machine, Input::Tick);
                }
            }
            Event::Sync { machine, incarnation } => {
                if self.is_alive(machine, incarnation) {
                    self.sync(machine);
                }
            }
            Event::Dial(a, b) => self.dial(a, b),
            Event::LinkDown { machine, peer, link } => {
                let Some(process) = &mut self.machines[machine].process else { return };
                if process.links.get(&peer).is_some_and(|(id, _)| *id == link) {
                    process.links.remove(&peer);
                }
                self.feed(machine, Input::LinkDown { peer, link });
            }
            Event::GiveUp { from, to, link } => self.give_up(from, to, link),
            Event::Frame { from, to, link, packet } => self.receive(from, to, link, packet),
            Event::Drained { from, to } => {
                let peer = self.machines[to].author();
                self.feed(from, Input::Drained { peer });
            }
            Event::Gossip { from, to, batch } => self.gossip(from, to, batch),
            Event::Serve { machine, incarnation, order } => {
                if self.is_alive(machine, incarnation) {
                    self.serve(machine, order);
                }
            }
            Event::Beat { machine, incarnation } => {
                if self.is_alive(machine, incarnation) {
                    self.beat(machine);
                }
            }
        }
    }

    fn is_alive(&self, machine: usize, incarnation: Incarnation) -> bool {
        self.machines[machine].process.as_ref().is_some_and(|process| process.incarnation == incarnation)
    }

    fn is_tick_due(&mut self, machine: usize) -> bool {
        let now_ms = self.now_ms;
        let Some(process) = &mut self.machines[machine].process else { return false };
        let due = process.tick_at_ms <= now_ms;
        if due {
            process.tick_at_ms = u64::MAX;
        }
        due
    }

    // ---- processes and disks

    pub(super) fn start(&mut self, machine: usize) {
        if self.machines[machine].is_running() || self.machines[machine].gone {
            return;
        }
        self.last_incarnation += 1;
        let incarnation = Incarnation(self.last_incarnation);
        self.machines[machine].start(incarnation, self.now_ms, self.plan.weather.max_gossip_bytes);
        if let (Some(fault), Some(process)) = (self.options.fault, &mut self.machines[machine].process) {
            process.replica.plant(Planted::one(fault));
        }
        self.deliver(machine);
        self.feed(machine, Input::Room(self.machines[machine].room));
        self.beat_later(machine, incarnation);
    }

    /// That of the process that starts next.
    pub(super) fn next_incarnation(&self) -> Incarnation {
        Incarnation(self.last_incarnation + 1)
    }

    /// The process dies. Of what was not synced, the first `survives` percent is found on the disk.
    pub(super) fn crash(&mut self, machine: usize, survives: u32) {
        let Some(process) = self.machines[machine].process.take() else { return };
        let sets = process.writing.len() * survives as usize / 100;
        self.machines[machine].store.sync_some(sets);
        self.machines[machine].store.crash();
        self.break_all_links(machine);
    }

    fn replace_disk(&mut self, machine: usize, store: MemoryStore) {
        self.crash(machine, 0);
        let old = std::mem::replace(&mut self.machines[machine].store, store);
        self.machines[machine].reader = Default::default();
        self.machines[machine].stable.clear();
        self.lose_disk(&old, self.machines[machine].author());
    }

    fn sync_later(&mut self, machine: usize) {
        let stalled_until_ms = self.machines[machine].stalled_until_ms;
        let at_ms = (self.now_ms + self.between(self.plan.weather.sync_ms.clone())).max(stalled_until_ms);
        let Some(process) = &mut self.machines[machine].process else { return };
        if !process.syncing {
            process.syncing = true;
            let incarnation = process.incarnation;
            self.at(at_ms, Event::Sync { machine, incarnation });
        }
    }

    fn sync(&mut self, machine: usize) {
        let Some(process) = &mut self.machines[machine].process else { return };
        process.syncing = false;
        if let Some(survives) = process.sync_fails {
            return self.crash(machine, survives);
        }
        let writing = std::mem::take(&mut process.writing);
        let mut stored = Vec::with_capacity(writing.len());
        for (token, appended) in writing {
            self.machines[machine].store.sync_some(1);
            self.deliver(machine);
            let epoch = self.machines[machine].store.epoch();
            let position = Position { epoch, arrival: appended.last_arrival, chain: appended.chain };
            stored.push(Input::Stored { token, position, batch_bytes: appended.batch_bytes });
        }
        for input in stored {
            self.feed(machine, input);
        }
        self.note_stable(machine);
    }

    // ---- the driver

    pub(super) fn feed(&mut self, machine: usize, input: Input) {
        self.feed_all(machine, vec![input]);
    }

    fn feed_all(&mut self, machine: usize, inputs: Vec<Input>) {
        let now = self.machines[machine].now(self.now_ms);
        let Some(process) = &mut self.machines[machine].process else { return };
        let mut todo: VecDeque<Effect> = process.replica.handle_all(now, inputs).into();
        while let Some(effect) = todo.pop_front() {
            if let Some(answer) = self.carry_out(machine, effect) {
                let Some(process) = &mut self.machines[machine].process else { return };
                // Answers come before any other input, and what follows from them behind what is still to be done.
                todo.extend(process.replica.handle(now, answer));
            }
        }
        let Some(process) = &mut self.machines[machine].process else { return };
        let (at_ms, incarnation) = (process.replica.deadline_ms(), process.incarnation);
        if at_ms < process.tick_at_ms {
            process.tick_at_ms = at_ms;
            self.at(at_ms, Event::Tick { machine, incarnation });
        }
    }

    /// Does what a replica says. Questions to the store are answered at once.
    fn carry_out(&mut self, machine: usize, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Append { token, set } => {
                set.batches.iter().for_each(|batch| self.note(&[b"append", &batch.hash().0]));
                self.narrate(|| {
                    let batches: Vec<_> =
                        set.batches.iter().map(|batch| (batch.header().first_seq, batch.tip())).collect();
                    format!("{machine} writes {token}: {batches:?} {:?} and prunes {:?}", set.logs, set.pruned)
                });
                let at = &mut self.machines[machine];
                if let Some(process) = &mut at.process {
                    set.batches.iter().for_each(|batch| process.beat.note(batch));
                }
                let last = at.process.as_ref().and_then(|process| process.writing.back()).map_or(0, |(last, _)| *last);
                match (at.store.append(set), &mut at.process) {
                    (Ok(appended), Some(process)) if last < token => process.writing.push_back((token, appended)),
                    (outcome, _) => self.fail(Promise::Bounded, format!("an append went wrong: {outcome:?}")),
                }
                self.sync_later(machine);
            }
            Effect::Gossip(batch) => {
                self.note(&[b"gossip", &batch.hash().0]);
                self.check_gossip(machine, &batch);
                self.spread(machine, &batch);
            }
            Effect::Send { peer, frame } => {
                let linked = self.machines[machine].process.as_ref().and_then(|process| process.links.get(&peer));
                let (link, to) = linked.copied()?;
                if self.options.traced {
                    self.note(&[b"send", &frame.encode()]);
                }
                self.narrate(|| format!("{machine} to {to}: {frame:?}").chars().take(400).collect());
                self.check_sent(machine, &frame);
                if self.network.is_linked(machine, to, link) {
                    let told = matches!(frame, Frame::Audit { .. }).then(|| self.common_logs(machine, to));
                    self.send(machine, to, Packet { frame, told });
                }
            }
            Effect::Find { log, place, parent } => return Some(self.machines[machine].found(&log, place, parent)),
            Effect::Check(check) => {
                let store = &self.machines[machine].store;
                let find = |place: &(u64, _)| store.find(&check.log, place.0, &place.1).ok().flatten();
                let known = check.places.iter().filter_map(find).collect();
                return Some(Input::Checked { check, known });
            }
            Effect::Serve { peer, id, ranges, max_bytes, missing } => {
                let at_ms = self.now_ms + self.between(0..20);
                let incarnation = self.machines[machine].process.as_ref()?.incarnation;
                let order = Order { peer, id, ranges, max_bytes, missing };
                self.at(at_ms, Event::Serve { machine, incarnation, order });
            }
            Effect::ListOldest { after } => {
                let batches = self.machines[machine].store.oldest(after, OLDEST_RUN).unwrap_or_default();
                let end = batches.len() < OLDEST_RUN;
                return Some(Input::Oldest { batches, end });
            }
            Effect::ListKeys { topic, before } => {
                let store = &self.machines[machine].store;
                let scan = store.scan_back(&|other| *other == topic, before, KEYS_RUN, usize::MAX);
                let (batches, next) = scan.map(|scan| (scan.batches, scan.next)).unwrap_or_default();
                let batches = batches.iter().map(|(arrival, batch)| KeyedBatch::of(*arrival, batch)).collect();
                return Some(Input::Keys { batches, next, end: next <= Arrival(1) });
            }
            Effect::Published { id, places, .. } => {
                self.end_beat(machine, id, true);
                self.check_published(machine, id, places[0].first_seq);
            }
            Effect::Acked { id, peers, .. } => self.check_acked(machine, id, peers),
            Effect::Probed { id, .. } => self.check_probed(machine, id),
            Effect::Notice(notice) => self.check_notice(machine, &notice),
            Effect::Disconnect { reason, .. } => {
                self.fail(Promise::HonestNotAccused, format!("machine {machine} said that a peer {reason}"));
            }
            Effect::Refused { id, .. } => self.end_beat(machine, id, false),
            Effect::TopicSeen(_) => {}
        }
        None
    }

    fn receive(&mut self, from: usize, to: usize, link: u64, packet: Packet) {
        let peer = self.machines[from].author();
        let known = self.machines[to].process.as_ref().and_then(|process| process.links.get(&peer));
        if known != Some(&(link, from)) || !self.network.is_linked(from, to, link) {
            return;
        }
        let Packet { mut frame, told } = packet;
        if self.plan.seed.is_multiple_of(4) {
            match Frame::decode(&frame.encode()) {
                Ok(decoded) if decoded == frame => frame = decoded,
                other => return self.fail(Promise::HonestNotAccused, format!("{frame:?} is read as {other:?}")),
            }
        }
        if let Frame::Batches { id, batches } = frame {
            let source = Source::Pull { peer, id };
            let verifier = SimVerifier { real: self.plan.real_signatures };
            let verify = |bytes| ParsedBatch::parse(bytes).and_then(|batch| batch.verify(&verifier));
            let verified: Result<Vec<_>, _> = batches.into_iter().map(verify).collect();
            return match verified {
                Ok(batches) => {
                    let inputs = batches.into_iter().map(|batch| Input::Batch { batch, source });
                    self.feed_all(to, inputs.collect());
                }
                Err(error) => self.fail(Promise::HonestNotAccused, format!("a batch that was served: {error}")),
            };
        }
        let chain = match &frame {
            Frame::Hello(hello) => {
                hello.memory.and_then(|memory| self.machines[to].store.chain_at(memory.position.arrival).ok().flatten())
            }
            _ => None,
        };
        self.feed(to, Input::Frame { peer, link, frame, chain });
        self.check_in_sync(to, from, told);
    }

    fn serve(&mut self, machine: usize, order: Order) {
        let Order { peer, id, ranges, max_bytes, missing } = order;
        let max_bytes = max_bytes.min(self.plan.weather.pull_bytes);
        let (mut sent, mut served, mut reached, mut frames) = (0, 0, 0, Vec::new());
        let (mut batches, mut bytes) = (Vec::new(), 0);
        'ranges: for range in &ranges {
            let found = self.machines[machine].store.range(&range.log, range.after, range.upto, usize::MAX);
            for batch in found.unwrap_or_default() {
                let size = batch.bytes().len() as u64;
                // All lines' batches that end in one place go together.
                if sent > 0 && sent + size > max_bytes && batch.header().last_seq() != reached {
                    break 'ranges;
                }
                reached = batch.header().last_seq();
                if bytes > 0 && bytes + size > FRAME_BYTES {
                    frames.push(Frame::Batches { id, batches: std::mem::take(&mut batches) });
                    bytes = 0;
                }
                (sent, bytes) = (sent + size, bytes + size);
                batches.push(batch.bytes().clone());
            }
            (served, reached) = (served + 1, 0);
        }
        if !batches.is_empty() {
            frames.push(Frame::Batches { id, batches });
        }
        frames.push(Frame::PullEnd { id, served, missing });
        for frame in frames {
            self.carry_out(machine, Effect::Send { peer, frame });
        }
        self.feed(machine, Input::Served { peer });
    }

    // ---- what the plan says

    fn take_step(&mut self, action: &Action) {
        match *action {
            Action::Publish { machine, topic, events, bytes, acks } => {
                self.publish(machine, topic, events, bytes, acks);
                if let Some(twin) = self.twins.get(&machine).copied() {
                    self.publish(twin, topic, events, bytes, acks);
                }
            }
            Action::Crash { machine, survives } => self.crash(machine, survives),
            Action::Start { machine } => self.start(machine),
            Action::FailSync { machine, survives } => {
                if let Some(process) = &mut self.machines[machine].process {
                    process.sync_fails = Some(survives);
                }
            }
            Action::Stall { machine, for_ms } => self.machines[machine].stalled_until_ms = self.now_ms + for_ms,
            Action::Damage { machine, lost } => self.damage(machine, lost),
            Action::Room { machine, room } => self.set_room(machine, room),
            Action::Copy { machine } => {
                let mut copy = self.machines[machine].store.clone();
                copy.crash();
                self.machines[machine].copy = Some(copy);
            }
            Action::Restore { machine } => {
                if let Some(copy) = self.machines[machine].copy.take() {
                    self.replace_disk(machine, copy);
                    self.start(machine);
                }
            }
            Action::Twin { machine } => self.start_twin(machine),
            Action::EndTwin { machine, keep_twin } => self.end_twin(machine, keep_twin),
            Action::Clock { machine, ahead_ms, drift_ppm } => {
                self.machines[machine].ahead_ms = ahead_ms;
                self.machines[machine].drift_ppm = drift_ppm;
            }
            Action::Subscribe { machine, patterns } => {
                let patterns = patterns.iter().filter_map(|text| Pattern::new(text).ok()).collect();
                let excluded = self.machines[machine].interest.excluded.clone();
                self.set_interest(machine, Interest::new(patterns, excluded));
            }
            Action::Block { machine, other } => {
                let patterns = self.machines[machine].interest.patterns.clone();
                let author = self.machines[other].author();
                self.break_link(machine, other);
                self.set_interest(machine, Interest::new(patterns, vec![author]));
            }
            Action::Unblock { machine } => {
                let patterns = self.machines[machine].interest.patterns.clone();
                self.set_interest(machine, Interest::new(patterns, Vec::new()));
            }
            Action::Cap { machine, bytes } => {
                self.crash(machine, 100);
                self.machines[machine].cap_bytes = bytes;
                self.start(machine);
            }
            Action::Rule { machine, topic, ref rule } => self.set_rule(machine, topic, rule),
            Action::Partition { ref groups } => self.partition(groups),
            Action::OneWay { from, to } => self.set_way(from, to, Way::Stuck),
            Action::Flap { a, b } => {
                self.break_link(a, b);
                if let Some(twin) = self.twins.get(&a).copied() {
                    self.break_link(twin, b);
                }
            }
            Action::Mend => self.mend(),
            Action::Probe { machine } => self.probe(machine),
        }
    }

    fn publish(&mut self, machine: usize, topic: usize, events: usize, bytes: usize, acks: u32) {
        let Some(process) = &mut self.machines[machine].process else { return };
        let Ok(topic) = Topic::new(TOPICS[topic]) else { return };
        process.last_id += 1;
        let id = process.last_id;
        let ids: Vec<String> = (0..events).map(|nth| format!("{}-{id}-{nth}", process.incarnation.0)).collect();
        // Few hot keys and many cold ones; now and then none.
        let key = |nth: usize| match (id as usize * 31 + nth * 7) % 11 {
            0 => None,
            1 | 2 => Some(format!("cold-{machine}-{id}-{nth}")),
            hot => Some(format!("hot-{hot}")),
        };
        let keyed = self.plan.has_keyed();
        let event = |(nth, id): (usize, &String)| Published {
            kind: "simulated".into(),
            id: id.clone(),
            source: "/".into(),
            key: key(nth).filter(|_| keyed),
            data: vec![0; bytes].into(),
            ..Published::default()
        };
        let encoded = ids.iter().enumerate().filter_map(|event_of| event(event_of).encode().ok()).collect();
        process.publications.insert(id, Publication { topic: topic.clone(), ids, batches: Vec::new() });
        self.feed(machine, Input::publish(id, topic, encoded, acks));
    }

    fn set_room(&mut self, machine: usize, room: Room) {
        self.machines[machine].room = room;
        self.feed(machine, Input::Room(room));
    }

    fn set_rule(&mut self, machine: usize, topic: usize, rule: &RuleChange) {
        let Ok(pattern) = Pattern::new(TOPICS[topic]) else { return };
        let author = |machine: &usize| self.machines[*machine].author();
        let rule = match rule {
            RuleChange::None => None,
            RuleChange::Keyed => Some(Rule { keyed: true, ..Rule::default() }),
            RuleChange::MaxEvents(max) => Some(Rule { max_events: Some(*max), ..Rule::default() }),
            RuleChange::MaxAge { age_ms } => Some(Rule { max_age_ms: Some(*age_ms), ..Rule::default() }),
            RuleChange::Writers(numbers) => {
                Some(Rule { writers: Some(numbers.iter().map(author).collect()), ..Rule::default() })
            }
        };
        let rules = &mut self.machines[machine].rules;
        let taken = match rule {
            Some(rule) => rules.set(pattern, rule).is_ok(),
            None => rules.unset(&pattern),
        };
        if taken {
            let (rules, interest) = (rules.clone(), self.machines[machine].interest.clone());
            self.note_interest(machine, interest);
            self.feed(machine, Input::SetRules(rules));
        }
    }

    fn set_interest(&mut self, machine: usize, interest: Interest) {
        let interest = self.note_interest(machine, interest);
        self.feed(machine, Input::SetInterest(interest));
    }

    /// A machine takes part in something else, as its rules have it, before its process hears of that: what it says then,
    /// as to those who wait, is said of what it takes part in from now on.
    fn note_interest(&mut self, machine: usize, interest: Interest) -> Interest {
        let interest = Interest { writers: self.machines[machine].rules.writers(), ..interest };
        self.machines[machine].interest = interest.clone();
        self.machines[machine].interest_at_ms = self.now_ms;
        self.forget_probes();
        interest
    }

    fn partition(&mut self, groups: &[u8]) {
        for a in 0..self.plan.machines {
            for b in (0..self.plan.machines).filter(|b| groups[*b] != groups[a]) {
                self.set_way(a, b, Way::Cut);
            }
        }
    }

    /// The store is set aside, and what is still readable goes through the one door into a new one.
    fn damage(&mut self, machine: usize, lost: u32) {
        self.crash(machine, 100);
        self.last_epoch += 1;
        let (now_ms, number) = (self.now_ms, self.last_incarnation + 1);
        self.last_incarnation = number;
        let old = self.machines[machine].store.scan(Default::default(), usize::MAX, usize::MAX).unwrap_or_default();
        let mut salvaged =
            Machine::new(self.machines[machine].signer.clone(), MemoryStore::new(StoreEpoch(self.last_epoch)));
        salvaged.interest = self.machines[machine].interest.clone();
        let now = self.machines[machine].now(now_ms);
        let mut replica = salvaged.replica(Incarnation(number), now_ms, self.plan.weather.max_gossip_bytes);
        for (_, batch) in old {
            if self.percent(lost) {
                continue;
            }
            let mut todo: VecDeque<Effect> =
                replica.handle(now, Input::Batch { batch, source: Source::Salvage { stored: true } }).into();
            while let Some(effect) = todo.pop_front() {
                let answer = match effect {
                    Effect::Append { token, set } => {
                        let store = &mut salvaged.store;
                        let Ok(appended) = store.append(set) else { continue };
                        store.sync_some(1);
                        let epoch = store.epoch();
                        let position = Position { epoch, arrival: appended.last_arrival, chain: appended.chain };
                        Input::Stored { token, position, batch_bytes: appended.batch_bytes }
                    }
                    Effect::Find { log, place, parent } => salvaged.found(&log, place, parent),
                    _ => continue,
                };
                todo.extend(replica.handle(now, answer));
            }
        }
        self.replace_disk(machine, salvaged.store);
        self.start(machine);
    }

    fn start_twin(&mut self, machine: usize) {
        if self.twins.contains_key(&machine) {
            return;
        }
        self.note_twin(self.machines[machine].author());
        let mut store = self.machines[machine].store.clone();
        store.crash();
        let mut twin = Machine::new(self.machines[machine].signer.clone(), store);
        twin.interest = self.machines[machine].interest.clone();
        twin.rules = self.machines[machine].rules.clone();
        twin.cap_bytes = self.machines[machine].cap_bytes;
        let number = self.machines.len();
        self.machines.push(twin);
        self.twins.insert(machine, number);
        self.start(number);
        let pairs = self.network.pairs.clone();
        for (a, b) in pairs.into_iter().filter(|(a, b)| *a == machine || *b == machine) {
            let other = if a == machine { b } else { a };
            self.network.pairs.insert((other, number));
            self.dial_later(other, number, 0, 2_000);
        }
    }

    fn end_twin(&mut self, machine: usize, keep_twin: bool) {
        let Some(twin) = self.twins.remove(&machine) else { return };
        self.crash(twin, 100);
        self.machines[twin].gone = true;
        let store = std::mem::replace(&mut self.machines[twin].store, MemoryStore::new(StoreEpoch(0)));
        if keep_twin {
            self.replace_disk(machine, store);
            self.start(machine);
        } else {
            self.lose_disk(&store, self.machines[twin].author());
        }
    }

    // ---- the end

    /// Everything is mended: from here on the mesh has to converge.
    fn heal(&mut self) {
        self.mend();
        for machine in self.twins.keys().copied().collect::<Vec<_>>() {
            self.end_twin(machine, false);
        }
        for machine in 0..self.plan.machines {
            self.machines[machine].stalled_until_ms = 0;
            self.set_room(machine, Room::Ample);
            if let Some(process) = &mut self.machines[machine].process {
                process.sync_fails = None;
            }
            self.start(machine);
        }
        self.healed = true;
        self.at(self.now_ms + LOOK_MS, Event::Look);
    }

    fn look(&mut self) {
        self.check_bounds();
        let took_ms = self.now_ms - self.plan.healed_at_ms;
        let late = took_ms >= CONVERGENCE_MS;
        let difference = self.find_difference(late).or_else(|| self.find_broken().map(|(_, text)| text));
        match difference {
            Some(_) if !late => self.at(self.now_ms + LOOK_MS, Event::Look),
            _ => {
                self.report.converged_in_ms = took_ms;
                self.done = true;
                if let Some(difference) = self.find_difference(late) {
                    self.fail(Promise::Convergent, difference);
                } else if let Some((promise, text)) = self.find_broken() {
                    self.fail(promise, text);
                }
            }
        }
    }
}
