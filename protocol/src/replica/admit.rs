//! The one door in for batches of others (and of this node's other lives): known? next? gap? fork? clock?

use super::beat::binds;
use super::{Admitted, Effect, MAX_CHEATS, MAX_LOOKUPS, Notice, Replica, Source};
use crate::batch::VerifiedBatch;
use crate::frame::Range;
use crate::heads::{Hole, LogKey, LogRecord, MAX_HOLES, Tip};
use crate::hlc::Hlc;
use crate::ids::{Author, BatchHash, Incarnation};
use crate::limits::MAX_TIPS;
use crate::planted::Fault;
use crate::sign::Signer;
use crate::write_set::WriteSet;

/// A gap that gossip leaves is asked for after so long: what is missing may be a step behind.
const GAP_GRACE_MS: u64 = 30;
/// A twin's clock may be so far ahead of ours.
const TWIN_AHEAD_MS: u64 = 1_000;
/// Stamps that follow others rather than the wall clock may be so far ahead of it, where a peer's clock is.
const CARRIED_AHEAD_MS: u64 = 60_000;

/// The record with one more batch on top of one of its tips, or as a new line.
pub(super) fn advance(record: &mut LogRecord, batch: &VerifiedBatch) {
    let parent = batch.header().parent;
    record.tips.retain(|tip| tip.hash != parent);
    record.tips.push(batch.tip());
    record.tips.sort();
    record.events += batch.header().count;
    record.bytes += batch.bytes().len() as u64;
}

/// Whether the batch was here and was pruned. What a restored author publishes below the floor is younger.
fn has_pruned(record: &LogRecord, batch: &VerifiedBatch) -> bool {
    let header = batch.header();
    header.last_seq() <= record.floor && header.last_hlc <= record.floor_hlc
}

fn log_of(batch: &VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

fn place_of(batch: &VerifiedBatch) -> (u64, BatchHash) {
    (batch.header().last_seq(), batch.hash())
}

fn parent_of(batch: &VerifiedBatch) -> (u64, BatchHash) {
    (batch.header().first_seq - 1, batch.header().parent)
}

fn peer_of(source: Source) -> Option<Author> {
    match source {
        Source::Gossip(peer) | Source::Pull { peer, .. } => Some(peer),
        Source::Import | Source::Salvage { .. } => None,
    }
}

impl<S: Signer> Replica<S> {
    pub(super) fn take_batch(&mut self, batch: VerifiedBatch, source: Source) {
        let log = log_of(&batch);
        if let Source::Pull { peer, .. } = source {
            self.wants.progress(&peer, self.now.mono_ms);
            self.wants.brought(&log, &place_of(&batch), peer);
        }
        if !self.interest.holds(&self.me, &log) || (!self.takes_others() && log.author != self.me) {
            return;
        }
        if self.latest(&log).is_none() && !self.census.admits(&log) {
            return self.wants.settle(&log, &place_of(&batch));
        }
        self.see_topic(&log.topic);
        self.look_for_twin(&batch);
        if self.is_pruned(&log, &batch) {
            return match source {
                Source::Salvage { stored: true } => self.admit_island(&log, batch),
                _ => self.pass_pruned(&log, &batch),
            };
        }
        let hash = batch.hash();
        let repeats = self.recent.contains(&hash) && !self.planted.is(Fault::SkipDuplicateSuppression);
        if repeats || self.lookups.contains_key(&hash) {
            return;
        }
        if let (true, Some(peer)) = (batch.dropped() > 0, peer_of(source)) {
            return self.refuse_stripped(&log, &batch, peer);
        }
        let (seq, parent) = parent_of(&batch);
        let record = self.latest(&log);
        let tips = record.map(|record| record.tips.as_slice()).unwrap_or_default();
        if let Some(tip) = tips.iter().find(|tip| tip.hash == parent) {
            let tip = *tip;
            return self.admit_chain(&log, batch, Some(tip));
        }
        let top = record.map_or(0, LogRecord::last_seq);
        if seq == 0 && top == 0 {
            return self.admit_chain(&log, batch, None);
        }
        let fills_hole =
            record.is_some_and(|record| record.holes.iter().any(|hole| hole.from <= seq + 1 && seq < hole.to));
        if seq > top && !fills_hole {
            return self.hold(log, batch, source);
        }
        // Somewhere inside what is here: a repeat, a fork or the filling of a hole. Only the store can tell.
        if self.lookups.len() < MAX_LOOKUPS {
            let place = place_of(&batch);
            self.lookups.insert(hash, (batch, source));
            self.effects.push(Effect::Find { log, place, parent: (seq, parent) });
        }
    }

    pub(super) fn found(
        &mut self,
        hash: &BatchHash,
        known: bool,
        parent: Option<Tip>,
        siblings: &[(BatchHash, Incarnation)],
    ) {
        let Some((batch, source)) = self.lookups.remove(hash) else { return };
        let log = log_of(&batch);
        if (known || self.recent.contains(hash)) && !self.planted.is(Fault::SkipDuplicateSuppression) {
            self.recent.insert(*hash);
            self.close_hole(&log, hash);
            // What came in by another way meanwhile, and is on its way to the disk, is settled when it is durable.
            if !self.is_being_written(&log, hash) {
                self.wants.settle(&log, &place_of(&batch));
            }
            return;
        }
        self.look_for_cheat(&log, &batch, siblings);
        let (seq, parent_hash) = parent_of(&batch);
        // The parent may have been admitted while the store was asked.
        let tip = self.latest(&log).and_then(|record| record.tips.iter().find(|tip| tip.hash == parent_hash).copied());
        match tip.or(parent) {
            Some(parent) => self.admit_chain(&log, batch, Some(parent)),
            None if seq == 0 => self.admit_chain(&log, batch, None),
            // The parent was here, and was pruned.
            None if self.recent.contains(&parent_hash) && self.latest(&log).is_some_and(|r| seq <= r.floor) => {
                self.admit_chain(&log, batch, None);
            }
            // The parent is on its way to the disk, inside its log: it is looked up again once it is there.
            None if self.recent.contains(&parent_hash) => {
                self.ahead.insert(batch);
            }
            None if self.is_anchor(&log, hash) => self.admit_chain(&log, batch, None),
            None => self.hold(log, batch, source),
        }
    }

    /// Some of the batch was dropped by whoever sent it. Anybody can drop items, and what is left still verifies; stored,
    /// it would shut the whole one out. So it is not taken, and the peer does not have it.
    fn refuse_stripped(&mut self, log: &LogKey, batch: &VerifiedBatch, peer: Author) {
        self.wants.avoid_long(log, peer, self.now.mono_ms);
        self.wants.deny(log, &place_of(batch), &peer);
    }

    fn is_being_written(&self, log: &LogKey, hash: &BatchHash) -> bool {
        let mut under_way = self.writes.iter().flat_map(|write| &write.admitted);
        under_way.any(|other| other.place.1 == *hash && other.log == *log)
    }

    fn is_pruned(&self, log: &LogKey, batch: &VerifiedBatch) -> bool {
        self.latest(log).is_some_and(|record| has_pruned(record, batch))
    }

    /// Leaves a pruned batch where it is: gone. What waits for it may follow it all the same.
    fn pass_pruned(&mut self, log: &LogKey, batch: &VerifiedBatch) {
        let tip = batch.tip();
        self.recent.insert(tip.hash);
        self.wants.settle(log, &(tip.seq, tip.hash));
        let children = self.ahead.take_children(log, tip.seq, &tip.hash);
        let record = self.latest_or_new(log);
        self.admit_onto(log, record, children.into_iter().map(|child| (child, Some(tip))).collect());
    }

    /// Takes a batch from below the floor, where it was stored before: see [`super::compact`].
    fn admit_island(&mut self, log: &LogKey, batch: VerifiedBatch) {
        if self.recent.contains(&batch.hash()) {
            return;
        }
        let mut record = self.latest_or_new(log);
        record.events += batch.header().count;
        record.bytes += batch.bytes().len() as u64;
        self.recent.insert(batch.hash());
        let set = WriteSet { batches: vec![batch], logs: vec![record], ..WriteSet::default() };
        self.write(set, super::publish::OwnWrite::default(), Vec::new());
    }

    /// The log's floor rose: what waits below it is gone too, with what it waits for, and what follows may be admitted.
    pub(super) fn pass_waiting(&mut self, log: &LogKey) {
        let Some(record) = self.latest(log).cloned() else { return };
        for batch in self.ahead.take_where(log, |batch| has_pruned(&record, batch)) {
            self.pass_pruned(log, &batch);
            self.admit_above_hole(log, parent_of(&batch), true);
        }
    }

    /// The upper end of a hole turned out to be here: the hole is none.
    fn close_hole(&mut self, log: &LogKey, hash: &BatchHash) {
        if self.is_anchor(log, hash) {
            let mut record = self.latest_or_new(log);
            record.holes.retain(|hole| hole.anchor != *hash);
            record.tips.retain(|tip| tip.hash != *hash);
            self.write(
                WriteSet { logs: vec![record], ..WriteSet::default() },
                super::publish::OwnWrite::default(),
                Vec::new(),
            );
        }
    }

    fn is_anchor(&self, log: &LogKey, hash: &BatchHash) -> bool {
        self.latest(log).is_some_and(|record| record.holes.iter().any(|hole| hole.anchor == *hash))
    }

    /// Keeps a batch that came ahead of its parent, and wants the parent.
    fn hold(&mut self, log: LogKey, batch: VerifiedBatch, source: Source) {
        let parent = parent_of(&batch);
        if matches!(source, Source::Pull { .. }) {
            self.wants.dangles(&log);
        }
        let waits_too = self.ahead.contains_parent(&log, &parent);
        let kept = self.ahead.insert(batch);
        if matches!(source, Source::Salvage { .. }) {
            self.admit_above_hole(&log, parent, false);
            return;
        }
        let dropped = self.planted.is(Fault::DropGapRequest);
        if dropped || !kept || waits_too || self.lookups.contains_key(&parent.1) {
            return;
        }
        let grace_ms = if matches!(source, Source::Gossip(_)) { GAP_GRACE_MS } else { 0 };
        let peers = peer_of(source).into_iter().filter(|peer| self.links.contains_key(peer));
        let peers = peers.chain(self.wants.announcers(&log).into_iter().map(|(peer, _)| peer));
        // What a pull brings once more says nothing new of those who were asked in vain.
        let again = |peer: &Author| matches!(source, Source::Pull { .. }) && self.wants.was_denied(&log, &parent, peer);
        let peers: Vec<_> = peers.filter(|peer| !again(peer)).collect();
        self.wants.add_inner(&log, parent, peers, self.now.mono_ms + grace_ms);
        self.plan_pending = true;
    }

    /// Admits a batch and all that waited for it, in one write.
    fn admit_chain(&mut self, log: &LogKey, batch: VerifiedBatch, parent: Option<Tip>) {
        let record = self.latest_or_new(log);
        self.admit_onto(log, record, vec![(batch, parent)]);
    }

    fn admit_onto(&mut self, log: &LogKey, mut record: LogRecord, mut next: Vec<(VerifiedBatch, Option<Tip>)>) {
        let mut set = WriteSet::default();
        let mut below = Vec::new();
        while let Some((batch, parent)) = next.pop() {
            let repeats = self.recent.contains(&batch.hash()) && !self.planted.is(Fault::SkipDuplicateSuppression);
            if repeats || !self.check(log, &batch, parent, &record) {
                continue;
            }
            let tip = batch.tip();
            if binds(&self.me, log) {
                self.clock.keep(tip.hlc);
            } else {
                self.clock.observe(tip.hlc, self.wall_ms());
            }
            let goes_on = record.tips.iter().any(|tip| tip.hash == batch.header().parent);
            if fill_hole(&mut record, &batch, parent) {
                record.events += batch.header().count;
                record.bytes += batch.bytes().len() as u64;
                below.extend(self.ahead.take_hash(log, &batch.header().parent));
            } else {
                shrink_hole(&mut record, &batch);
                advance(&mut record, &batch);
                if log.author == self.me {
                    self.own.follow(&batch);
                }
            }
            // What does not go on from a tip may have a brother that is not on the disk yet.
            if !goes_on {
                let brothers: Vec<_> = set.batches.iter().map(Admitted::of).collect();
                self.look_for_cheat_in(log, &batch, &brothers);
            }
            self.recent.insert(tip.hash);
            self.wants.arriving(log, &(tip.seq, tip.hash));
            for child in self.ahead.take_children(log, tip.seq, &tip.hash) {
                next.push((child, Some(tip)));
            }
            set.batches.push(batch);
        }
        if set.batches.is_empty() {
            return;
        }
        if self.planted.is(Fault::DeliverOutOfOrder) {
            set.batches.reverse();
        }
        if record.lines() > 1 && self.latest(log).is_none_or(|old| old.lines() < record.lines()) {
            self.effects.push(Effect::Notice(Notice::Forked { log: log.clone(), tips: record.lines() }));
        }
        set.logs.push(record);
        self.write(set, super::publish::OwnWrite::default(), Vec::new());
        self.plan_pending = true;
        // What waited for a hole's upper end to come down to it.
        below.into_iter().for_each(|batch| self.take_batch(batch, Source::Import));
    }

    /// Whether a batch may follow its parent. What may not is refused by every node alike, so nothing diverges.
    fn check(&mut self, log: &LogKey, batch: &VerifiedBatch, parent: Option<Tip>, record: &LogRecord) -> bool {
        let header = batch.header();
        if parent.is_some_and(|parent| parent.seq + 1 != header.first_seq || parent.hlc >= header.first_hlc) {
            self.effects.push(Effect::Notice(Notice::Invalid { log: log.clone() }));
            self.wants.settle(log, &place_of(batch));
            // Whoever brought it may be honest, but its author signed both.
            if self.links.contains_key(&header.author) {
                self.breach(header.author, "signed a batch that breaks the rules against the one it follows");
            }
            return false;
        }
        let replaces = record.tips.iter().any(|tip| tip.hash == header.parent);
        if !replaces && record.tips.len() >= MAX_TIPS && !self.is_anchor(log, &batch.hash()) {
            self.effects.push(Effect::Notice(Notice::TooManyLines { log: log.clone() }));
            self.wants.settle(log, &place_of(batch));
            return false;
        }
        true
    }

    /// Two batches of one incarnation upon the same parent are proof that their author cheats: an honest process goes on
    /// from what it sealed last. What is proven is told, and both are kept like any fork, so that nothing diverges.
    fn look_for_cheat(&mut self, log: &LogKey, batch: &VerifiedBatch, siblings: &[(BatchHash, Incarnation)]) {
        let (hash, incarnation) = (batch.hash(), batch.header().incarnation);
        let proof = siblings.iter().find(|(other, of)| *other != hash && *of == incarnation).map(|(other, _)| *other);
        let news = !self.cheats.contains(log) && self.cheats.len() < MAX_CHEATS;
        if let Some(other) = proof.filter(|_| news) {
            self.cheats.insert(log.clone());
            self.effects.push(Effect::Notice(Notice::Cheat { log: log.clone(), batches: [other, hash] }));
        }
    }

    /// The same against batches that are on their way to the disk.
    fn look_for_cheat_in(&mut self, log: &LogKey, batch: &VerifiedBatch, gathered: &[Admitted]) {
        let under_way = self.writes.iter().flat_map(|write| &write.admitted).chain(gathered);
        let of_parent = under_way.filter(|other| other.log == *log && other.parent == batch.header().parent);
        let siblings: Vec<_> = of_parent.map(|other| (other.place.1, other.incarnation)).collect();
        self.look_for_cheat(log, batch, &siblings);
    }

    /// Another live process that publishes as this node: its stamps are from after our start, by a clock that peers
    /// share. What a replaced disk held was stamped earlier, or by a clock that was off: one that was ahead, even a
    /// little, cannot be told from a twin's by stamps in the future, so these say nothing. Of the time since our
    /// start the lesser counts that our two clocks say: where the wall clock runs slow or was set back, the start would
    /// move into an earlier life by the other, and where it was behind then and was set right since, by the wall clock.
    /// A stamp that follows another's may be ahead of the clock of the life that gave it, as that other's clock was.
    fn look_for_twin(&mut self, batch: &VerifiedBatch) {
        let header = batch.header();
        let foreign = header.author == self.me && header.incarnation != self.incarnation;
        if !foreign || self.twin == Some(header.incarnation) || self.doubts_clock() {
            return;
        }
        let now_ms = self.wall_ms();
        let of_wall_ms = self.now.wall_ms.saturating_sub(self.started.wall_ms);
        let life_ms = self.now.mono_ms.saturating_sub(self.started.mono_ms).min(of_wall_ms);
        let carried_ms = if header.first_hlc.is_of_wall_clock() { 0 } else { CARRIED_AHEAD_MS };
        let started = Hlc::from_ms(now_ms.saturating_sub(life_ms).saturating_add(carried_ms));
        let far = Hlc::from_ms(now_ms.saturating_add(TWIN_AHEAD_MS));
        if header.first_hlc > self.greatest_at_start.max(started) && header.first_hlc < far {
            self.twin = Some(header.incarnation);
            self.effects.push(Effect::Notice(Notice::Twin { incarnation: header.incarnation }));
        }
    }

    /// After a pull from `peer`: what waits ahead with a parent that this peer says is missing is admitted above a
    /// hole, unless somebody else may have it; and so on with what waits above that.
    pub(super) fn skip_missing(&mut self, range: &Range, peer: Author, missing: &[(u64, u64)]) {
        let log = &range.log;
        // What a peer serves from below its floor are the last events of their keys: see [`super::compact`].
        let floors = self.wants.announcers(log);
        let floor = floors.iter().find(|(other, _)| *other == peer).map_or(0, |(_, floor)| *floor);
        let upto = missing.iter().map(|(_, to)| to.saturating_add(1)).max().unwrap_or_default();
        let (mut by_key, mut passed) = (false, (0, BatchHash::NONE));
        while let Some(lowest) = self.ahead.next_root(log, passed, upto) {
            let (gap, above) = (parent_of(lowest), lowest.header().first_hlc);
            passed = (lowest.header().first_seq, lowest.hash());
            if !missing.iter().any(|(from, to)| (*from..=*to).contains(&gap.0)) {
                // What nobody is known to have need not hold up what lies above it, which may be on another line.
                let on_its_way = self.recent.contains(&gap.1) || self.lookups.contains_key(&gap.1);
                if on_its_way || !self.wants.is_orphan(log, &gap) {
                    return;
                }
                continue;
            }
            by_key |= gap.0 < floor && self.is_keyed(&log.topic);
            // Below its floor the peer may have a line that began there later, and of which nothing above tells.
            let own_floor = self.latest(log).map_or(0, |record| record.floor);
            if own_floor < gap.0 && gap.0 <= floor && own_floor < self.wants.began(log) {
                self.wants.add_inner(log, gap, [peer], self.now.mono_ms);
                return self.wants.begin_lower(log);
            }
            self.wants.deny(log, &gap, &peer);
            for (other, floor) in &floors {
                let told = *other != peer && *floor < gap.0 && self.links.contains_key(other);
                if told && !self.wants.was_denied(log, &gap, other) {
                    self.wants.add_inner(log, gap, [*other], self.now.mono_ms);
                }
            }
            if !self.wants.sources(log, &gap).is_empty() {
                return;
            }
            if by_key && gap.0 <= floor && !self.ends_own_line(log, gap.0) {
                let mut record = self.latest_or_new(log);
                self.raise_floor(&mut record, gap.0, above);
                self.admit_waiting(log, record, gap);
            } else if !self.admit_above_hole(log, gap, true) {
                return;
            }
        }
    }

    /// Admits what waits for a batch that is not to be had. `false` when it may not be skipped. Where the log has no more
    /// room for holes, the lowest is given up for it if `gives_up`.
    fn admit_above_hole(&mut self, log: &LogKey, gap: (u64, BatchHash), gives_up: bool) -> bool {
        let mut record = self.latest_or_new(log);
        while gap.0 > record.floor && (record.holes.len() >= MAX_HOLES || record.tips.len() >= MAX_TIPS) {
            if !gives_up || !self.close_lowest_hole(&mut record) {
                return false;
            }
        }
        if gap.0 > record.floor {
            let below = record.tips.iter().map(|tip| tip.seq).filter(|seq| *seq < gap.0).max();
            let from = below.unwrap_or_default().max(record.floor) + 1;
            if from > gap.0 {
                return false;
            }
            // What ends below the hole may be the lower part of its line or the end of another: it stays a tip until its
            // child is here, so that the tips follow from what is stored alone.
            let hole = Hole { from, to: gap.0, anchor: gap.1 };
            record.holes.push(hole);
            record.holes.sort();
            self.effects.push(Effect::Notice(Notice::Hole { log: log.clone(), hole }));
        }
        self.admit_waiting(log, record, gap)
    }

    /// More holes than a log may have, as where peers keep the last event of each key only: what lies in the lowest one is
    /// given up, and counts as pruned. What is stored below it stays. `false` when there is no hole.
    fn close_lowest_hole(&self, record: &mut LogRecord) -> bool {
        let Some(hole) = record.holes.first().copied() else { return false };
        if self.ends_own_line(&record.key, hole.to) {
            return false;
        }
        let above = record.tips.iter().filter(|tip| tip.seq > hole.to).map(|tip| tip.hlc).min();
        self.raise_floor(record, hole.to, above.unwrap_or_default());
        true
    }

    /// Whether this node's line of its own log ends at a sequence number or below it, and nobody may have all of it: it must
    /// not come to lie below the floor, where nothing is announced.
    pub(super) fn ends_own_line(&self, log: &LogKey, seq: u64) -> bool {
        let ends = || self.own.end_of(&log.topic).is_some_and(|(end, _)| end <= seq);
        log.author == self.me && ends() && !self.own.is_spread(&log.topic)
    }

    /// What is missing up to a sequence number counts as pruned. It is earlier than what was or is to be admitted `above`.
    fn raise_floor(&self, record: &mut LogRecord, upto: u64, above: Hlc) {
        record.floor = record.floor.max(upto);
        record.floor_hlc = record.floor_hlc.max(Hlc(above.0.saturating_sub(1)));
        record.holes.retain(|hole| hole.to > upto);
        // Lines that began below the floor later, and this node's own, may still go on.
        let (last, floor_hlc) = (record.last_seq(), record.floor_hlc);
        let own = (record.key.author == self.me).then(|| self.own.end_of(&record.key.topic)).flatten();
        record
            .tips
            .retain(|tip| tip.seq > upto || tip.seq == last || tip.hlc > floor_hlc || own == Some((tip.seq, tip.hash)));
    }

    /// Admits what waits for a batch that is not to be had, onto a record that says so. `false` when nothing does.
    fn admit_waiting(&mut self, log: &LogKey, record: LogRecord, gap: (u64, BatchHash)) -> bool {
        self.wants.settle(log, &gap);
        let above = self.ahead.take_children(log, gap.0, &gap.1);
        let admitted = !above.is_empty();
        self.admit_onto(log, record, above.into_iter().map(|batch| (batch, None)).collect());
        admitted
    }
}

/// Shrinks the hole that the batch ends. `false` when it ends none. `parent` is the batch's, if it is stored.
fn fill_hole(record: &mut LogRecord, batch: &VerifiedBatch, parent: Option<Tip>) -> bool {
    let header = batch.header();
    let Some(index) = record.holes.iter().position(|hole| hole.anchor == batch.hash()) else { return false };
    let below = record.tips.iter().position(|tip| tip.hash == header.parent);
    let (floor, hole) = (record.floor, &mut record.holes[index]);
    (hole.to, hole.anchor) = (header.first_seq - 1, header.parent);
    if hole.from > hole.to {
        // What was taken for the lower part of the line is the end of another.
        hole.from = floor + 1;
    }
    if below.is_some() || parent.is_some() || hole.to <= floor {
        record.holes.remove(index);
    }
    if let Some(below) = below {
        record.tips.remove(below);
    }
    record.holes.sort();
    true
}

/// A line grew below a hole, or something within it turned up: less is missing, as far as that is the hole's line.
fn shrink_hole(record: &mut LogRecord, batch: &VerifiedBatch) {
    let (header, floor) = (batch.header(), record.floor);
    let within = |hole: &&mut Hole| (hole.from..=hole.to).contains(&header.first_seq);
    if let Some(hole) = record.holes.iter_mut().find(within) {
        hole.from = if header.last_seq() < hole.to { header.last_seq() + 1 } else { floor + 1 };
    }
    record.holes.sort();
}
