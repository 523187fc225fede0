//! What was promised, and whether it is kept: after every effect, at every delivery, and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use roundelay::log::{MemoryStore, Store};
use roundelay_protocol::ahead::MAX_AHEAD_BYTES;
use roundelay_protocol::batch::{ParsedBatch, VerifiedBatch};
use roundelay_protocol::event::Item;
use roundelay_protocol::frame::Frame;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Incarnation};
use roundelay_protocol::limits::MAX_BATCH_WIRE_BYTES;
use roundelay_protocol::replica::{Input, MissingRange, MissingReason, Notice};
use roundelay_protocol::topic::Topic;

use super::machine::{Machine, Probe, Tip};
use super::world::World;

/// What a run may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    AckedIsDurable,
    GossipedIsDurable,
    AnnouncedIsDurable,
    PeersHaveWhatTheyAcked,
    NothingAckedIsLost,
    NumberUsedOnce,
    DeliveredOnce,
    DeliveredInOrder,
    InSyncIsTrue,
    ConvergedIsTrue,
    Convergent,
    SameOrderEverywhere,
    HolesAreReal,
    LastOfKeyStays,
    StableIsFinal,
    HonestNotAccused,
    Bounded,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AckedIsDurable => "what is acknowledged is on this node's disk",
            Self::GossipedIsDurable => "what is gossiped as ours is on this node's disk",
            Self::AnnouncedIsDurable => "what is announced is on this node's disk",
            Self::PeersHaveWhatTheyAcked => "what N peers acknowledge is on the disks of N peers",
            Self::NothingAckedIsLost => "nothing acknowledged is lost",
            Self::NumberUsedOnce => "no sequence number stands for two things",
            Self::DeliveredOnce => "a subscriber sees each event once",
            Self::DeliveredInOrder => {
                "a subscriber sees an author's events in order, without a gap that it is not told of"
            }
            Self::InSyncIsTrue => "who says that it is in sync is",
            Self::ConvergedIsTrue => "who says that all is converged is right",
            Self::Convergent => "a healed mesh converges",
            Self::SameOrderEverywhere => "the total order is the same everywhere",
            Self::HolesAreReal => "what is called missing is nowhere to be had",
            Self::LastOfKeyStays => "of each key the last event stays",
            Self::StableIsFinal => "what is stable does not change any more",
            Self::HonestNotAccused => "an honest node is not accused",
            Self::Bounded => "memory and work are bounded",
        })
    }
}

/// A promise that was broken, and how.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    pub(crate) at_ms: u64,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}\n{:>7.3} s  {}", self.promise, self.at_ms as f64 / 1_000.0, self.text)
    }
}

#[derive(Default)]
pub(super) struct Checker {
    pub(super) violation: Option<Violation>,
    /// Acknowledged batches by hash: their log and last sequence number.
    acked: BTreeMap<BatchHash, (LogKey, u64)>,
    /// What was only on a disk that is gone.
    pub(super) excused: BTreeSet<BatchHash>,
    /// Who ever had a batch on its disk.
    held: BTreeMap<BatchHash, BTreeSet<Author>>,
    /// What others were shown of a log: first and last sequence number, and the batch.
    shown: BTreeMap<LogKey, BTreeMap<u64, (u64, BatchHash)>>,
    /// Authors whose disk was ever replaced or copied: their logs may fork.
    pub(super) impure: BTreeSet<Author>,
    /// The first process that began after that.
    pub(super) impure_from: BTreeMap<Author, Incarnation>,
    /// Authors that ever had a twin.
    twinned: BTreeSet<Author>,
}

fn log_of(batch: &VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

impl World<'_> {
    /// What became durable is delivered to the machine's subscriber.
    pub(super) fn deliver(&mut self, machine: usize) {
        let at = &mut self.machines[machine];
        let author = at.author();
        // Who begins anew may find what once filled a hole behind what follows it.
        let anew = at.reader.after == Arrival(0);
        let batches = at.store.scan(at.reader.after, usize::MAX, usize::MAX).unwrap_or_default();
        let (mut broken, mut logs, mut fresh) = (None, BTreeSet::new(), Vec::new());
        for (arrival, batch) in batches {
            if let Some(process) = &mut at.process {
                process.beat.learn(&batch);
            }
            let (log, header) = (log_of(&batch), batch.header());
            at.reader.after = arrival;
            self.checker.held.entry(batch.hash()).or_default().insert(author);
            let told = at.reader.holes.get(&log).is_some_and(|holes| {
                holes.iter().any(|hole| hole.from <= header.first_seq && header.last_seq() <= hole.to)
            });
            let before = header.first_seq - 1;
            let follows = header.parent == BatchHash::NONE
                || at.reader.delivered.contains(&header.parent)
                || (anew && at.has(&log, before, &header.parent));
            if !at.reader.delivered.insert(batch.hash()) {
                broken = Some((
                    Promise::DeliveredOnce,
                    format!("machine {machine} is given {log:?} {} twice", header.first_seq),
                ));
            } else if !(follows || told || at.explains(&log, before)) {
                let text =
                    format!("machine {machine} is given {log:?} {} before {}", header.first_seq, header.first_seq - 1);
                broken = Some((Promise::DeliveredInOrder, text));
            }
            fresh.push((log.clone(), batch));
            logs.insert(log);
        }
        for log in logs {
            let holes = at.store.record(&log).ok().flatten().map(|record| record.holes).unwrap_or_default();
            at.reader.holes.insert(log, holes);
        }
        if let Some((promise, text)) = broken {
            self.fail(promise, text);
        }
        fresh.iter().for_each(|(log, batch)| self.check_stable(machine, log, batch));
    }

    /// Others see a batch of its author: no number may ever stand for something else.
    fn show(&mut self, batch: &VerifiedBatch) {
        let (log, header) = (log_of(batch), batch.header());
        if self.checker.impure.contains(&log.author) {
            return;
        }
        let shown = self.checker.shown.entry(log.clone()).or_default();
        let (first, last, hash) = (header.first_seq, header.last_seq(), batch.hash());
        let other = shown.range(..=last).next_back().filter(|(_, (upto, other))| *upto >= first && *other != hash);
        if let Some((from, (upto, _))) = other {
            let text = format!("{log:?} {first} to {last} and {from} to {upto} are two batches");
            return self.fail(Promise::NumberUsedOnce, text);
        }
        shown.insert(first, (last, hash));
    }

    pub(super) fn check_gossip(&mut self, machine: usize, batch: &VerifiedBatch) {
        let header = batch.header();
        if !self.machines[machine].has(&log_of(batch), header.last_seq(), &batch.hash()) {
            let text =
                format!("machine {machine} gossips {:?} {} before it is durable", log_of(batch), header.first_seq);
            self.fail(Promise::GossipedIsDurable, text);
        }
        self.show(batch);
    }

    pub(super) fn check_sent(&mut self, machine: usize, frame: &Frame) {
        match frame {
            Frame::Heads { heads, .. } => {
                for head in heads {
                    let at = &self.machines[machine];
                    let durable = |place: &(u64, BatchHash)| at.accounts_for(&head.log, place.0, &place.1);
                    if let Some(place) = head.tips.iter().find(|place| !durable(place)) {
                        let text = format!("machine {machine} announces {:?} {place:?}", head.log);
                        self.fail(Promise::AnnouncedIsDurable, text);
                    }
                }
            }
            Frame::Batches { batches, .. } => {
                for bytes in batches {
                    if let Ok(batch) = VerifiedBatch::from_store(bytes.clone()) {
                        self.show(&batch);
                    }
                    if self.options.fault.is_some() && ParsedBatch::parse(bytes.clone()).is_err() {
                        self.fail(Promise::AnnouncedIsDurable, format!("machine {machine} serves a broken batch"));
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn check_published(&mut self, machine: usize, id: u64, first_seq: u64) {
        let at = &mut self.machines[machine];
        let author = at.author();
        let Some(process) = &mut at.process else { return };
        let incarnation = process.incarnation;
        let Some(publication) = process.publications.get_mut(&id) else { return };
        let log = LogKey { topic: publication.topic.clone(), author };
        let last_seq = first_seq + publication.ids.len() as u64 - 1;
        let stored = at.store.range(&log, first_seq - 1, last_seq, usize::MAX).unwrap_or_default();
        let mine: Vec<_> = stored.iter().filter(|batch| batch.header().incarnation == incarnation).collect();
        let found: BTreeSet<&str> = mine
            .iter()
            .flat_map(|batch| batch.items())
            .filter_map(|(_, item)| if let Item::Event(event) = item { Some(event.id) } else { None })
            .collect();
        let lost = publication.ids.iter().find(|id| !found.contains(id.as_str())).cloned();
        publication.batches = mine.iter().map(|batch| batch.hash()).collect();
        self.report.events_acknowledged += publication.ids.len() as u64;
        for batch in mine {
            self.checker.acked.insert(batch.hash(), (log.clone(), batch.header().last_seq()));
        }
        if let Some(id) = lost {
            self.fail(
                Promise::AckedIsDurable,
                format!("machine {machine} acknowledges {id}, which is not on its disk"),
            );
        }
    }

    pub(super) fn check_acked(&mut self, machine: usize, id: u64, peers: u32) {
        let author = self.machines[machine].author();
        let Some(process) = &self.machines[machine].process else { return };
        let Some(publication) = process.publications.get(&id) else { return };
        for hash in &publication.batches {
            let held = self.checker.held.get(hash);
            let holders = held.map_or(0, |held| held.iter().filter(|holder| **holder != author).count());
            if holders < peers as usize {
                let text = format!(
                    "machine {machine} hears of {peers} peers that have {hash:?} of {:?}; {holders} have it",
                    publication.topic
                );
                return self.fail(Promise::PeersHaveWhatTheyAcked, text);
            }
        }
    }

    /// Audits are what being in sync is claimed upon, and both sides must have been equal then.
    pub(super) fn check_in_sync(&mut self, machine: usize, from: usize, told: Option<Vec<LogRecord>>) {
        let (author, settled_ms) = (self.machines[from].author(), self.now_ms.saturating_sub(5_000));
        let changing = [machine, from].iter().any(|at| self.machines[*at].interest_at_ms > settled_ms);
        let Some(process) = &mut self.machines[machine].process else { return };
        let claims: BTreeSet<_> =
            process.replica.links().into_iter().filter(|link| link.in_sync).map(|link| link.peer).collect();
        let fresh: Vec<_> = claims.difference(&process.in_sync).copied().collect();
        process.in_sync = claims;
        for peer in fresh {
            let same = |told: &Vec<LogRecord>| same_tips(told, &self.common_logs(machine, from));
            let right = peer == author && told.as_ref().is_some_and(same);
            if !right && !changing {
                self.fail(Promise::InSyncIsTrue, format!("machine {machine} takes itself for in sync with {from}"));
            }
        }
    }

    /// The durable logs of a machine that it shares with another.
    pub(super) fn common_logs(&self, machine: usize, other: usize) -> Vec<LogRecord> {
        let (one, two) = (&self.machines[machine], &self.machines[other]);
        let shared = |record: &&LogRecord| {
            one.interest.holds(&one.author(), &record.key) && two.interest.holds(&two.author(), &record.key)
        };
        one.process.as_ref().map(|process| process.replica.logs().filter(shared).cloned().collect()).unwrap_or_default()
    }

    pub(super) fn check_notice(&mut self, machine: usize, notice: &Notice) {
        let accused = match notice {
            Notice::Invalid { log } | Notice::Cheat { log, .. } => Some(log.author),
            Notice::Twin { .. } => {
                Some(self.machines[machine].author()).filter(|me| !self.checker.twinned.contains(me))
            }
            Notice::Forked { log, .. } => Some(log.author).filter(|author| !self.checker.impure.contains(author)),
            _ => None,
        };
        if accused.is_some() {
            self.fail(Promise::HonestNotAccused, format!("machine {machine} says {notice:?}"));
        }
    }

    // ---- probes

    pub(super) fn probe(&mut self, machine: usize) {
        let settled_ms = self.now_ms.saturating_sub(5_000);
        let settled = self.machines.iter().all(|machine| machine.interest_at_ms <= settled_ms);
        let Some(process) = self.machines[machine].process.as_ref().filter(|_| settled) else { return };
        let id = u64::MAX - self.now_ms;
        let links: Vec<(u64, usize)> = process.links.values().copied().collect();
        let heads = links.into_iter().map(|(link, peer)| (peer, link, self.heads_of(peer))).collect();
        let own = self.heads_of(machine);
        if let Some(process) = &mut self.machines[machine].process {
            process.probes.insert(id, Probe { heads, own });
        }
        self.feed(machine, Input::Probe { id });
    }

    fn heads_of(&self, machine: usize) -> Vec<Tip> {
        let records = self.machines[machine].store.snapshot().records;
        let tips = |record: &LogRecord| {
            let key = record.key.clone();
            record.tips_above(0).into_iter().map(move |tip| (key.clone(), tip.seq, tip.hash))
        };
        records.iter().flat_map(tips).collect()
    }

    /// Where interests change what both have in common does too.
    pub(super) fn forget_probes(&mut self) {
        for machine in &mut self.machines {
            if let Some(process) = &mut machine.process {
                process.probes.clear();
            }
        }
    }

    pub(super) fn check_probed(&mut self, machine: usize, id: u64) {
        let Some(process) = &mut self.machines[machine].process else { return };
        let Some(probe) = process.probes.remove(&id) else { return };
        for (peer, link, heads) in &probe.heads {
            if !self.network.is_linked(machine, *peer, *link) {
                continue;
            }
            let missing = |at: usize, heads: &[Tip]| {
                let (holder, other) = (&self.machines[at], &self.machines[machine + *peer - at]);
                let shared = |log: &LogKey| {
                    holder.interest.holds(&holder.author(), log) && other.interest.holds(&other.author(), log)
                };
                let open = |(log, seq, hash): &&Tip| {
                    shared(log) && !holder.accounts_for(log, *seq, hash) && !other.explains(log, *seq)
                };
                heads.iter().find(open).cloned()
            };
            if let Some(place) = missing(machine, heads).or_else(|| missing(*peer, &probe.own)) {
                let text =
                    format!("machine {machine} says that all is converged, and {place:?} is not at it or {peer}");
                return self.fail(Promise::ConvergedIsTrue, text);
            }
        }
    }

    // ---- disks that are lost

    /// A disk is gone: what only it held is gone with it, and nobody is to blame.
    pub(super) fn lose_disk(&mut self, old: &MemoryStore, author: Author) {
        self.note_impure(author);
        for (_, batch) in old.scan(Default::default(), usize::MAX, usize::MAX).unwrap_or_default() {
            let (log, seq) = (log_of(&batch), batch.header().last_seq());
            if !self.machines.iter().any(|machine| machine.has(&log, seq, &batch.hash())) {
                self.checker.excused.insert(batch.hash());
            }
        }
        // What it had pruned, and nobody else has any more, is gone by its cap.
        let floor = |log: &LogKey| old.record(log).ok().flatten().map_or(0, |record| record.floor);
        let gone = self.checker.acked.iter().filter(|(hash, (log, seq))| {
            *seq <= floor(log) && !self.machines.iter().any(|machine| machine.has(log, *seq, hash))
        });
        let gone: Vec<BatchHash> = gone.map(|(hash, _)| *hash).collect();
        self.checker.excused.extend(gone);
    }

    fn note_impure(&mut self, author: Author) {
        self.checker.impure.insert(author);
        let from = self.next_incarnation();
        self.checker.impure_from.entry(author).or_insert(from);
    }

    pub(super) fn note_twin(&mut self, author: Author) {
        self.note_impure(author);
        self.checker.twinned.insert(author);
    }

    // ---- the end

    pub(super) fn check_bounds(&mut self) {
        for (number, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else { continue };
            let ahead = process.replica.ahead_bytes();
            if ahead > MAX_AHEAD_BYTES + MAX_BATCH_WIRE_BYTES {
                return self.fail(Promise::Bounded, format!("machine {number} holds {ahead} bytes ahead"));
            }
        }
    }

    /// Whether a machine takes nothing of others, because its store is full of own events that no peer has.
    pub(super) fn is_full(&self, number: usize) -> bool {
        self.machines[number].process.as_ref().is_some_and(|process| !process.replica.takes_others())
    }

    /// Those that a machine is to be linked to.
    fn neighbours(&self, number: usize) -> impl Iterator<Item = usize> {
        let pairs = self.plan.links.iter().filter(move |(a, b)| *a == number || *b == number);
        pairs.map(move |(a, b)| if *a == number { *b } else { *a }).filter(move |other| {
            let (one, two) = (&self.machines[number], &self.machines[*other]);
            !one.interest.excludes(&two.author()) && !two.interest.excludes(&one.author())
        })
    }

    /// Those that hold a log, as far as they reach its author, or the first of them, through others that hold it.
    pub(super) fn holders(&self, log: &LogKey) -> Vec<usize> {
        let holds = |number: &usize| {
            let machine = &self.machines[*number];
            machine.interest.holds(&machine.author(), log)
        };
        let all: Vec<usize> = (0..self.plan.machines).filter(holds).collect();
        let author = all.iter().position(|number| self.machines[*number].author() == log.author);
        let mut reached: Vec<usize> = all.get(author.unwrap_or(0)).copied().into_iter().collect();
        let mut at = 0;
        while let Some(number) = reached.get(at).copied() {
            at += 1;
            for other in self.neighbours(number).filter(holds) {
                if !reached.contains(&other) {
                    reached.push(other);
                }
            }
        }
        reached
    }

    /// The first thing in which the mesh is not converged.
    pub(super) fn find_difference(&self, forgiving: bool) -> Option<String> {
        for number in 0..self.plan.machines {
            let Some(process) = &self.machines[number].process else {
                return Some(format!("machine {number} is down"));
            };
            if process.replica.writes_in_flight() > 0 {
                return Some(format!("machine {number} is writing"));
            }
            let links = process.replica.links();
            let lacking = |other: &usize| !links.iter().any(|link| link.peer == self.machines[*other].author());
            if let Some(other) = self.neighbours(number).find(lacking) {
                return Some(format!("machine {number} is not linked to {other}"));
            }
            for link in links {
                let other = (0..self.plan.machines).find(|other| self.machines[*other].author() == link.peer);
                let full = self.is_full(number) || other.is_some_and(|other| self.is_full(other));
                if forgiving && full {
                    continue;
                }
                if !link.in_sync || (link.behind, link.ahead) != (0, 0) {
                    let logs = other.and_then(|other| self.differing_log(number, other));
                    return Some(format!("machine {number}: {link:?}\n{}", logs.unwrap_or_default()));
                }
            }
            let missing = process.replica.missing();
            let wanted = missing.iter().filter(|range| range.reason == MissingReason::NotFetched);
            if let Some(range) = wanted
                .into_iter()
                .find(|range| !(forgiving && self.is_full(number)) && self.is_anywhere_else(number, range))
            {
                return Some(format!("machine {number} lacks {range:?}"));
            }
        }
        let logs: BTreeSet<LogKey> = self
            .machines
            .iter()
            .flat_map(|machine| machine.store.snapshot().records)
            .map(|record| record.key)
            .collect();
        logs.iter().find_map(|log| self.find_difference_of(log, forgiving))
    }

    /// Whether another machine has something of what this one wants. What nobody has may have gone with a disk.
    fn is_anywhere_else(&self, number: usize, range: &MissingRange) -> bool {
        let holders = self.holders(&range.log);
        holders.contains(&number)
            && self.neighbours(number).filter(|other| holders.contains(other)).any(|other| {
                let found = self.machines[other].store.range(&range.log, range.from - 1, range.to, usize::MAX);
                let floor =
                    self.machines[other].store.record(&range.log).ok().flatten().map_or(0, |record| record.floor);
                found.unwrap_or_default().iter().filter(|batch| batch.header().last_seq() > floor).any(|batch| {
                    !self.machines[number].accounts_for(&range.log, batch.header().last_seq(), &batch.hash())
                })
            })
    }

    /// What two machines have of the first log of which they have different tips.
    fn differing_log(&self, one: usize, other: usize) -> Option<String> {
        let records = |number: usize| -> BTreeMap<LogKey, LogRecord> {
            let records = self.machines[number].store.snapshot().records;
            records.into_iter().map(|record| (record.key.clone(), record)).collect()
        };
        let (ones, others) = (records(one), records(other));
        let log = ones.keys().chain(others.keys()).find(|log| !are_level(ones.get(log), others.get(log)))?;
        Some(format!("machine {one} has {:?}\nmachine {other} has {:?}", ones.get(log), others.get(log)))
    }

    fn find_difference_of(&self, log: &LogKey, forgiving: bool) -> Option<String> {
        let holders = self.holders(log);
        let record = |number: usize| self.machines[number].store.record(log).ok().flatten();
        let pairs = holders.iter().flat_map(|one| holders.iter().map(move |other| (*one, *other)));
        let mut linked = pairs.filter(|(one, other)| self.neighbours(*one).any(|neighbour| neighbour == *other));
        linked.find_map(|(one, other)| {
            let (ones, others) = (record(one), record(other));
            let full = self.is_full(one) || self.is_full(other);
            let level = are_level(ones.as_ref(), others.as_ref()) || (forgiving && full);
            (!level).then(|| format!("machine {one} has {ones:?}\nmachine {other} has {others:?}"))
        })
    }

    /// What is not true of a mesh that says that it is converged, though it must be.
    pub(super) fn find_broken(&self) -> Option<(Promise, String)> {
        let mut everything: BTreeMap<BatchHash, (LogKey, VerifiedBatch)> = BTreeMap::new();
        for machine in &self.machines {
            for (_, batch) in machine.store.scan(Arrival(0), usize::MAX, usize::MAX).unwrap_or_default() {
                everything.insert(batch.hash(), (log_of(&batch), batch));
            }
        }
        let lost = self.find_lost(&everything).or_else(|| self.find_absent(&everything));
        lost.or_else(|| self.find_disorder()).or_else(|| self.find_outdated())
    }

    /// An acknowledged batch that nobody has any more, though nobody pruned it and no disk was lost.
    fn find_lost(&self, everything: &BTreeMap<BatchHash, (LogKey, VerifiedBatch)>) -> Option<(Promise, String)> {
        let lost = self.checker.acked.iter().find(|(hash, (log, seq))| {
            let pruned = |machine: &Machine| {
                let record = machine.store.record(log).ok().flatten();
                record.is_some_and(|record| *seq <= record.floor)
            };
            let excused = self.checker.excused.contains(*hash) || self.machines.iter().any(pruned);
            !everything.contains_key(*hash) && !excused
        });
        lost.map(|(_, (log, seq))| {
            (Promise::NothingAckedIsLost, format!("{log:?} {seq} was acknowledged, and is nowhere"))
        })
    }

    /// A batch that some have and another should have too, above its floor.
    fn find_absent(&self, everything: &BTreeMap<BatchHash, (LogKey, VerifiedBatch)>) -> Option<(Promise, String)> {
        for (hash, (log, batch)) in everything {
            let (first, last) = (batch.header().first_seq, batch.header().last_seq());
            for number in self.holders(log) {
                let machine = &self.machines[number];
                let record = machine.store.record(log).ok().flatten().unwrap_or_else(|| LogRecord::new(log.clone()));
                if machine.has(log, last, hash) || last <= record.floor {
                    continue;
                }
                let has_it = |other: &usize| {
                    let at = &self.machines[*other];
                    at.has(log, last, hash) && at.store.record(log).is_ok_and(|r| r.is_none_or(|r| r.floor < last))
                };
                let holders = self.holders(log);
                let mut near = self.neighbours(number).filter(|other| holders.contains(other));
                if self.is_full(number) || !near.any(|other| has_it(&other)) {
                    continue;
                }
                let hole = record.holes.iter().find(|hole| hole.from <= first && last <= hole.to);
                return Some(match hole {
                    Some(hole) => {
                        (Promise::HolesAreReal, format!("machine {number} gave up {log:?} {hole:?}, which others have"))
                    }
                    None => (
                        Promise::Convergent,
                        format!("machine {number} lacks {log:?} {first} to {last} and does not know it"),
                    ),
                });
            }
        }
        None
    }

    /// Two machines that hold the same events replay them in the same order.
    fn find_disorder(&self) -> Option<(Promise, String)> {
        let order = |number: usize, topic: &Topic| -> Vec<(Hlc, BatchHash, u64)> {
            let batches = self.machines[number].store.scan_topic(
                &|other| other == topic,
                Default::default(),
                usize::MAX,
                usize::MAX,
            );
            let mut order: Vec<_> = batches
                .map(|scan| scan.batches)
                .unwrap_or_default()
                .iter()
                .flat_map(|(_, batch)| {
                    batch.items().map(|(seq, item)| (stamp_of(&item), batch.hash(), seq)).collect::<Vec<_>>()
                })
                .collect();
            order.sort();
            order
        };
        // Where anything was pruned, or is missing for good, the events are not the same.
        let unpruned = |topic: &Topic| {
            let mut records = self.machines.iter().flat_map(|machine| machine.store.snapshot().records);
            records.all(|record| record.key.topic != *topic || (record.floor == 0 && record.holes.is_empty()))
        };
        let topics: BTreeSet<Topic> = self
            .machines
            .iter()
            .flat_map(|machine| machine.store.snapshot().records)
            .map(|record| record.key.topic)
            .collect();
        for topic in topics.into_iter().filter(unpruned) {
            let whole = |number: &usize| {
                let interest = &self.machines[*number].interest;
                let whole = interest.excluded.is_empty() && interest.writers.is_empty();
                interest.covers(&topic) && whole && !self.is_full(*number)
            };
            let holders: Vec<usize> = (0..self.plan.machines).filter(whole).collect();
            let Some(first) = holders.first() else { continue };
            let expected = order(*first, &topic);
            if let Some(other) = holders.iter().find(|number| order(**number, &topic) != expected) {
                return Some((
                    Promise::SameOrderEverywhere,
                    format!("machines {first} and {other} order {topic} otherwise"),
                ));
            }
        }
        None
    }
}

/// Whether two have the same tips, above the higher of their floors.
fn same_tips(ones: &[LogRecord], others: &[LogRecord]) -> bool {
    let by_key = |records: &[LogRecord]| -> BTreeMap<LogKey, LogRecord> {
        records.iter().map(|record| (record.key.clone(), record.clone())).collect()
    };
    let (ones, others) = (by_key(ones), by_key(others));
    let mut logs = ones.keys().chain(others.keys());
    logs.all(|log| are_level(ones.get(log), others.get(log)))
}

/// Whether two have the same tips of a log, above the higher of their floors.
fn are_level(one: Option<&LogRecord>, other: Option<&LogRecord>) -> bool {
    let floor = |record: Option<&LogRecord>| record.map_or(0, |record| record.floor);
    let tips = |record: Option<&LogRecord>, floor| record.map(|record| record.tips_above(floor)).unwrap_or_default();
    tips(one, floor(other)) == tips(other, floor(one))
}

fn stamp_of(item: &Item<'_>) -> Hlc {
    match item {
        Item::Event(event) => event.hlc,
        Item::Dropped(_) => Hlc(0),
    }
}
