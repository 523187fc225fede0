//! Links: meeting, telling heads, taking heads, and making sure that both sides agree.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Effect, Replica};
use crate::frame::{Frame, Head, Hello, Memory, Position};
use crate::heads::{LogKey, LogRecord, Sum, SumKey, Tip};
use crate::ids::{Author, BatchHash, Chain};
use crate::interest::Interest;
use crate::link::{
    AUDIT_MS, GRACE_MS, HURRY_MS, Informing, Link, Mark, PAGE_BYTES, PAGE_HEADS, PAGE_SUMS, Probe, QUIET_MS,
    REFUSED_GRACE_MS, count,
};
use crate::planted::Fault;
use crate::sign::Signer;
use crate::topic::Topic;

/// What a peer announces live is not pulled at once: gossip is about to bring it.
const LIVE_GRACE_MS: u64 = 250;
/// A peer that could not fill a hole is not asked again for so long; each time twice as long.
const HOLE_MS: u64 = 5_000;
/// The longest time for which a peer is not asked to fill a hole.
const MAX_HOLE_MS: u64 = 600_000;
/// Probes of one peer that may wait for an answer.
const MAX_PROBES: usize = 64;

impl<S: Signer> Replica<S> {
    pub(super) fn link_up(&mut self, peer: Author, id: u64, nonce: u64, memory: Option<Memory>) {
        if self.links.contains_key(&peer) {
            self.drop_link(&peer);
        }
        // What was learnt since the mark was read counts, and what the store holds otherwise.
        let memory = self.memories.get(&peer).copied().or(memory);
        if let Some(memory) = memory {
            self.memories.insert(peer, memory);
        }
        self.links.insert(peer, Link::new(id, nonce, memory, self.now.mono_ms));
        let hello = Hello {
            process: self.incarnation.0,
            nonce,
            epoch: self.position.epoch,
            clock_ms: self.now.wall_ms,
            interest: self.interest.clone(),
            memory,
        };
        self.send(peer, Frame::Hello(hello));
    }

    pub(super) fn link_down(&mut self, peer: &Author, id: u64) {
        if self.links.get(peer).is_some_and(|link| link.id == id) {
            self.drop_link(peer);
        }
    }

    fn drop_link(&mut self, peer: &Author) {
        self.remember(Some(*peer));
        self.links.remove(peer);
        self.wants.peer_down(peer);
        for progress in self.probes.values_mut() {
            progress.remove(peer);
        }
        self.plan_pending = true;
    }

    pub(super) fn take_frame(&mut self, peer: Author, id: u64, frame: Frame, chain: Option<Chain>) {
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.id == id) else { return };
        let greeted = link.peer.is_some();
        match frame {
            Frame::Hello(_) if greeted => self.breach(peer, "said hello twice"),
            Frame::Hello(hello) => self.meet(peer, &hello, chain),
            _ if !greeted => self.breach(peer, "spoke before saying hello"),
            Frame::Interest(interest) => {
                if let Some(known) = &mut link.peer {
                    known.interest = interest;
                }
                self.compare_anew(peer);
            }
            Frame::Sums { topics, last } => self.take_sums(peer, topics, last),
            Frame::Want { topics, last } => self.take_want(peer, &topics, last),
            Frame::Heads { heads, upto, events } => self.take_heads(peer, heads, upto, events),
            Frame::Audit { sum, events } => self.take_audit(peer, sum, events),
            Frame::Pull { id, max_bytes, ranges } => self.serve(peer, id, max_bytes, ranges),
            // Batches were verified by the driver and came in one by one.
            Frame::Batches { .. } => self.wants.progress(&peer, self.now.mono_ms),
            Frame::PullEnd { id, served, missing } => self.pull_ended(peer, id, served, &missing),
            Frame::Hurry => {
                link.hurry_until_ms = self.now.mono_ms + HURRY_MS;
                link.announce_at_ms = link.announce_at_ms.map(|_| self.now.mono_ms);
            }
            Frame::Probe(id) => {
                if link.probes.len() >= MAX_PROBES {
                    // Whoever asks so often has given up on the oldest.
                    link.probes.remove(0);
                }
                link.announce_at_ms = link.announce_at_ms.map(|_| self.now.mono_ms);
                let mark = Mark { serial: self.wants.serial(), token: self.last_token };
                link.probes.push(Probe { id, mark, seen_sent: false });
            }
            Frame::ProbeSeen(id) => {
                let mark = Mark { serial: self.wants.serial(), token: self.last_token };
                if let Some(progress) = self.probes.get_mut(&id).and_then(|probe| probe.get_mut(&peer)) {
                    progress.seen = Some(mark);
                }
            }
            Frame::ProbeDone(id) => {
                if let Some(progress) = self.probes.get_mut(&id).and_then(|probe| probe.get_mut(&peer)) {
                    progress.done = true;
                }
            }
        }
    }

    /// A peer broke the rules: it is shown the door, and kept away for a growing while.
    pub(super) fn breach(&mut self, peer: Author, reason: &str) {
        if let Some(keep_away_ms) = self.conduct.breach(peer, reason, self.now.mono_ms) {
            self.send_away(peer, reason, keep_away_ms);
        }
    }

    /// A peer did what an honest one rarely does.
    pub(super) fn slip(&mut self, peer: Author, reason: &str) {
        if let Some(keep_away_ms) = self.conduct.slip(peer, reason, self.now.mono_ms) {
            self.send_away(peer, reason, keep_away_ms);
        }
    }

    /// What only this peer said that it has is nothing to wait for.
    fn send_away(&mut self, peer: Author, reason: &str, keep_away_ms: u64) {
        self.wants.disbelieve(&peer);
        self.effects.push(Effect::Disconnect { peer, reason: reason.to_owned(), keep_away_ms });
    }

    fn meet(&mut self, peer: Author, hello: &Hello, chain: Option<Chain>) {
        let position = self.position;
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.meet(hello, self.now);
        let common = self.interest.fingerprint(&hello.interest);
        let remembered = hello.memory.filter(|memory| {
            let at = &memory.position;
            let same_place = at.arrival.0 == 0 || chain == Some(at.chain);
            at.epoch == position.epoch && at.arrival <= position.arrival && same_place && memory.common == common
        });
        self.sum_up(peer);
        match remembered {
            Some(memory) => {
                let since = memory.position.arrival;
                let changed = self.logs.values().filter(|record| record.last_arrival > since);
                let changed: Vec<LogKey> = changed.map(|record| record.key.clone()).collect();
                let Some(link) = self.links.get_mut(&peer) else { return };
                for log in changed {
                    if link.shares(&self.me, &self.interest, &peer, &log) {
                        link.dirty.insert(log);
                    }
                }
                link.informing = Informing::CatchingUp;
            }
            None => self.send_sums(peer),
        }
    }

    /// Recomputes the link's sum over what both have in common.
    fn sum_up(&mut self, peer: Author) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let Some(key) = link.peer.as_ref().map(|known| known.key) else { return };
        (link.sum, link.events) = (Sum::default(), 0);
        for record in self.logs.values() {
            if link.shares(&self.me, &self.interest, &peer, &record.key) {
                let tips = link.common_tips(record);
                link.sum.add(&key, &record.key, &tips);
                link.events = link.events.saturating_add(count(&tips));
            }
        }
        link.touch(self.now.mono_ms);
    }

    fn topic_sums(&self, peer: &Author) -> BTreeMap<Topic, Sum> {
        let mut sums: BTreeMap<Topic, Sum> = BTreeMap::new();
        let Some(link) = self.links.get(peer) else { return sums };
        let Some(key) = link.peer.as_ref().map(|known| known.key) else { return sums };
        for record in self.logs.values() {
            // A log of which nothing is left counts for nothing, but the peer is to ask for its floor.
            if link.shares(&self.me, &self.interest, peer, &record.key) && !record.tips.is_empty() {
                let sum = sums.entry(record.key.topic.clone()).or_default();
                sum.add(&key, &record.key, &link.common_tips(record));
            }
        }
        sums
    }

    /// Starts to tell a peer our heads without knowing what it has.
    fn send_sums(&mut self, peer: Author) {
        let sums: Vec<_> = self.topic_sums(&peer).into_iter().collect();
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.comparing += 1;
        link.informing = Informing::Comparing;
        let pages = pages(&sums);
        link.pages = link.pages.saturating_add(pages.len() as u32);
        for (topics, last) in pages {
            self.send(peer, Frame::Sums { topics, last });
        }
    }

    fn compare_anew(&mut self, peer: Author) {
        self.sum_up(peer);
        if let Some(link) = self.links.get_mut(&peer) {
            link.forget_heads();
        }
        self.send_sums(peer);
    }

    fn take_sums(&mut self, peer: Author, topics: Vec<(Topic, Sum)>, last: bool) {
        let mine = self.topic_sums(&peer);
        let differing: Vec<Topic> = topics
            .into_iter()
            .filter(|(topic, sum)| mine.get(topic).copied().unwrap_or_default() != *sum)
            .map(|(topic, _)| topic)
            .collect();
        self.send(peer, Frame::Want { topics: differing, last });
    }

    fn take_want(&mut self, peer: Author, topics: &[Topic], last: bool) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        // All heads for a few bytes: only whoever was sent sums has that to ask. Of its own logs anyone may ask.
        let answers = link.pages > 0;
        link.pages = link.pages.saturating_sub(1);
        for topic in topics.iter().collect::<BTreeSet<_>>() {
            let first = if answers { Author([0; 32]) } else { peer };
            let of_topic = self.logs.range(LogKey { topic: topic.clone(), author: first }..);
            let wanted = |key: &LogKey| key.topic == *topic && (answers || key.author == peer);
            for (key, _) in of_topic.take_while(|(key, _)| wanted(key)) {
                if link.shares(&self.me, &self.interest, &peer, key) {
                    link.make_dirty(key.clone(), self.now.mono_ms);
                }
            }
        }
        if last {
            link.comparing = link.comparing.saturating_sub(1);
            if link.comparing == 0 && link.informing == Informing::Comparing {
                link.informing = Informing::CatchingUp;
            }
        }
    }

    /// Tells each peer the heads that it does not know yet, a page at a time, as its queue takes them.
    pub(super) fn announce_due(&mut self) {
        let now_ms = self.now.mono_ms;
        let due = self.links.iter().filter(|(_, link)| {
            let due = link.announce_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
            link.writable && (link.informing == Informing::CatchingUp || (link.is_live() && due))
        });
        let peers: Vec<Author> = due.map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.announce(peer);
        }
    }

    fn announce(&mut self, peer: Author) {
        let position = self.position;
        let Some(link) = self.links.get_mut(&peer) else { return };
        let mut heads = Vec::new();
        let mut bytes = 0;
        while heads.len() < PAGE_HEADS
            && bytes < PAGE_BYTES
            && let Some(key) = link.dirty.pop_first()
        {
            let early = self.latest.get(&key).filter(|_| self.planted.is(Fault::AnnounceBeforeSync));
            if let Some(record) = early.map(|latest| &latest.record).or_else(|| self.logs.get(&key)) {
                bytes += 64 + key.topic.as_str().len() + record.tips.len() * 48;
                heads.push(head_of(record));
            }
        }
        let whole = link.dirty.is_empty();
        if whole {
            link.informing = Informing::Live;
            link.announce_at_ms = None;
        }
        link.writable = heads.len() < 256;
        let events = link.events;
        self.send(peer, Frame::Heads { heads, upto: whole.then_some(position), events });
    }

    fn take_heads(&mut self, peer: Author, heads: Vec<Head>, upto: Option<Position>, events: u64) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let due_ms = if link.informed { self.now.mono_ms + LIVE_GRACE_MS } else { self.now.mono_ms };
        link.peer_events = events;
        // Heads that are ours too may be told again; whatever else is told has to be seen by an audit.
        let same = |head: &Head| self.logs.get(&head.log).is_some_and(|record| head_of(record).tips == head.tips);
        if !heads.iter().all(same) {
            link.touch(self.now.mono_ms);
        }
        for head in heads {
            if !self.interest.holds(&self.me, &head.log) {
                continue;
            }
            if self.latest(&head.log).is_none() && !self.census.admits(&head.log) {
                self.refuse_head(&peer);
                continue;
            }
            if let (Some(link), Some(record)) = (self.links.get_mut(&peer), self.logs.get(&head.log))
                && link.shares(&self.me, &self.interest, &peer, &head.log)
            {
                link.note_floor(record, head.floor, self.now.mono_ms);
            }
            self.see_topic(&head.log.topic);
            if head.log.author == self.me {
                self.note_announced(peer, &head);
            }
            self.take_head(peer, head, due_ms);
        }
        if upto.is_some() && self.links.get(&peer).is_some_and(|link| !link.informed) {
            self.want_all_holes(peer);
        }
        if let (Some(link), Some(position)) = (self.links.get_mut(&peer), upto) {
            link.informed = true;
            link.note_told(position, self.wants.serial());
            link.in_sync |= self.planted.is(Fault::ClaimSyncWithoutAudit);
            self.judge_clock();
        }
        self.plan_pending = true;
    }

    /// A head is not taken: whatever else agrees, the two are not in sync.
    fn refuse_head(&mut self, peer: &Author) {
        if let Some(link) = self.links.get_mut(peer) {
            link.refused = true;
        }
    }

    fn take_head(&mut self, peer: Author, mut head: Head, due_ms: u64) {
        if self.planted.is(Fault::IgnoreSecondTip) {
            head.tips.truncate(1);
        }
        let record = self.latest(&head.log);
        let (top, floor) = record.map_or((0, 0), |record| (record.last_seq(), record.floor));
        let tips = record.map(|record| record.tips.clone()).unwrap_or_default();
        let here = |place: &(u64, BatchHash)| {
            tips.iter().any(|tip| tip.hash == place.1) || (self.recent.contains(&place.1) && place.0 > floor)
        };
        // What ends at its floor or below is gone there too.
        let absent = head.tips.iter().filter(|place| place.0 > head.floor && !here(place));
        let absent: Vec<_> = absent.copied().collect();
        self.want_holes(peer, &head.log, head.floor);
        if absent.iter().any(|place| place.0 <= top) {
            // Behind us, or on another line: the store can tell.
            if let Some(link) = self.links.get_mut(&peer) {
                link.note_check();
            }
            self.effects.push(Effect::Check(Check { peer, log: head.log, floor: head.floor, places: absent, due_ms }));
        } else {
            self.want_tips(&head.log, peer, &absent, head.floor, due_ms);
        }
    }

    fn want_tips(&mut self, log: &LogKey, peer: Author, places: &[(u64, BatchHash)], floor: u64, due_ms: u64) {
        self.plan_pending = true;
        if !self.wants.announce(log, peer, places, floor, due_ms) {
            self.refuse_head(&peer);
        }
    }

    /// The answer to [`Effect::Check`].
    pub(super) fn checked(&mut self, check: Check, known: &[Tip]) {
        let Check { peer, log, floor, places, due_ms } = check;
        if self.links.contains_key(&peer) {
            let here = |place: &(u64, BatchHash)| {
                known.iter().any(|tip| tip.hash == place.1) || self.recent.contains(&place.1)
            };
            let absent: Vec<_> = places.into_iter().filter(|place| !here(place)).collect();
            self.want_tips(&log, peer, &absent, floor, due_ms);
            if let Some(link) = self.links.get_mut(&peer) {
                link.note_checked(self.wants.serial());
            }
        }
    }

    /// Holes that this peer may be able to fill are asked for when it is met, when it tells the log's head again, and
    /// when an audit finds both equal, each time after twice as long.
    fn want_holes(&mut self, peer: Author, log: &LogKey, floor: u64) {
        let record = self.latest.get(log).map(|latest| &latest.record).or(self.logs.get(log));
        let (Some(record), Some(link)) = (record, self.links.get_mut(&peer)) else { return };
        for hole in record.holes.iter().filter(|hole| floor < hole.to) {
            let (at_ms, wait_ms) = link.holes_asked.get(&hole.anchor).copied().unwrap_or_default();
            if at_ms <= self.now.mono_ms {
                let wait_ms = (wait_ms * 2).clamp(HOLE_MS, MAX_HOLE_MS);
                link.holes_asked.insert(hole.anchor, (self.now.mono_ms + wait_ms, wait_ms));
                self.wants.add_inner(log, (hole.to, hole.anchor), [peer], self.now.mono_ms);
            }
        }
    }

    /// Equal heads say nothing of what lies below them, so whoever is met is asked for every hole.
    fn want_all_holes(&mut self, peer: Author) {
        let Some(link) = self.links.get(&peer) else { return };
        let shared = self
            .logs
            .values()
            .filter(|record| !record.holes.is_empty() && link.shares(&self.me, &self.interest, &peer, &record.key));
        let logs: Vec<LogKey> = shared.map(|record| record.key.clone()).collect();
        for log in logs {
            self.want_holes(peer, &log, 0);
        }
    }

    /// Equal heads are not told, so a peer is asked what it has of own logs that nobody announced to the end.
    pub(super) fn ask_announced(&mut self, peer: Author) {
        let topics: Vec<Topic> = self.own.unannounced().cloned().collect();
        self.ask_own_heads(peer, &topics);
    }

    /// Asks a peer to tell the heads of own logs in these topics, as far as it takes part in them.
    pub(super) fn ask_own_heads(&mut self, peer: Author, topics: &[Topic]) {
        let Some(link) = self.links.get(&peer) else { return };
        let shared = |topic: &&Topic| {
            let log = LogKey { topic: (*topic).clone(), author: self.me };
            link.shares(&self.me, &self.interest, &peer, &log)
        };
        let topics: Vec<Topic> = topics.iter().filter(shared).cloned().collect();
        for topics in topics.chunks(PAGE_SUMS) {
            self.send(peer, Frame::Want { topics: topics.to_vec(), last: false });
        }
    }

    pub(super) fn audit_due(&mut self) {
        let now_ms = self.now.mono_ms;
        let peers: Vec<Author> =
            self.links.iter().filter(|(_, link)| link.audit_at_ms <= now_ms).map(|(peer, _)| *peer).collect();
        for peer in peers {
            let jitter = self.random(AUDIT_MS / 2);
            let Some(link) = self.links.get_mut(&peer) else { continue };
            let quiet = link.last_change_ms + QUIET_MS <= now_ms || link.last_audit_ms + 4 * AUDIT_MS <= now_ms;
            if !link.is_live() || !link.dirty.is_empty() || !quiet {
                link.audit_at_ms = now_ms + QUIET_MS;
                continue;
            }
            link.last_audit_ms = now_ms;
            link.audit_at_ms = now_ms + AUDIT_MS * 3 / 4 + jitter;
            let frame = Frame::Audit { sum: link.sum, events: link.events };
            self.send(peer, frame);
        }
    }

    fn take_audit(&mut self, peer: Author, sum: Sum, events: u64) {
        let now_ms = self.now.mono_ms;
        // What finds no room here is not on its way, however long it is wanted.
        let lacking = self.takes_others() && self.wants.has_since(&peer, u64::MAX);
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.peer_events = events;
        self.audits[usize::from(sum != link.sum)] += 1;
        if sum == link.sum {
            let first = link.informed && !std::mem::replace(&mut link.announced_asked, link.informed);
            link.in_sync = link.informed;
            link.differing_since_ms = None;
            link.grace_ms = GRACE_MS;
            link.refused = false;
            if first {
                self.ask_announced(peer);
            }
            self.want_all_holes(peer);
            return;
        }
        link.in_sync = false;
        link.audit_at_ms = link.audit_at_ms.min(now_ms + 1_000);
        let since_ms = *link.differing_since_ms.get_or_insert(now_ms);
        if now_ms - since_ms >= link.grace_ms && !lacking && link.is_live() {
            link.differing_since_ms = None;
            link.grace_ms = (link.grace_ms * 2).min(if link.refused { REFUSED_GRACE_MS } else { 60_000 });
            self.send_sums(peer);
        }
    }

    pub(super) fn set_interest(&mut self, interest: Interest) {
        let interest = Interest { writers: self.rules.writers(), ..interest };
        if interest == self.interest {
            return;
        }
        self.interest = interest;
        let (me, mine) = (self.me, &self.interest);
        self.wants.retain(|log| mine.holds(&me, log));
        self.topics_seen.retain(|topic| mine.covers(topic));
        let known: Vec<Topic> = self.logs.keys().map(|key| key.topic.clone()).collect();
        for topic in known {
            self.see_topic(&topic);
        }
        let peers: Vec<(Author, bool)> = self.links.iter().map(|(peer, link)| (*peer, link.peer.is_some())).collect();
        for (peer, met) in peers {
            // A peer whose hello is still to come has ours, with the old interest.
            let frame = Frame::Interest(self.interest.clone());
            self.send(peer, frame);
            if met {
                self.compare_anew(peer);
            }
        }
    }
}

fn pages(sums: &[(Topic, Sum)]) -> Vec<(Vec<(Topic, Sum)>, bool)> {
    let count = sums.len().div_ceil(PAGE_SUMS).max(1);
    (0..count)
        .map(|page| {
            let end = sums.len().min((page + 1) * PAGE_SUMS);
            (sums[page * PAGE_SUMS..end].to_vec(), page + 1 == count)
        })
        .collect()
}

/// What is told of a log.
fn head_of(record: &LogRecord) -> Head {
    Head {
        log: record.key.clone(),
        floor: record.floor,
        holes_to: record.holes.iter().map(|hole| hole.to).max().unwrap_or(0),
        tips: record.tips.iter().map(|tip| (tip.seq, tip.hash)).collect(),
    }
}

/// A topic's digest for reports: equal on two nodes exactly when they hold the same logs to the same place.
#[must_use]
pub fn digest<'a>(records: impl Iterator<Item = &'a LogRecord>) -> Sum {
    let mut sum = Sum::default();
    for record in records {
        sum.add(&SumKey::REPORT, &record.key, &record.tips_above(0));
    }
    sum
}
