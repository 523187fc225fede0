//! Keeping within the store's cap: of what takes more than its share the oldest events go first, then the oldest of all,
//! but never own events that no peer has.

use std::collections::BTreeMap;

use super::survey::Amount;
use super::{Effect, OldBatch, Replica, Room};
use crate::heads::{LogKey, LogRecord};
use crate::ids::Arrival;
use crate::planted::{Fault, Planted};
use crate::quota;
use crate::sign::Signer;
use crate::topic::CHOREOGRAPHIES_TOPIC;
use crate::write_set::WriteSet;

/// Pruning goes on until the store is this much below its cap, in percent of the cap. Where it cannot, this much is the
/// reserve that only own events may fill. Pruning waits for what keys supersede until the store is this much above its cap.
const SLACK_PERCENT: u64 = 5;
/// Declarations of choreographies are the oldest events of many a store, and nothing can be judged without them: those of
/// an author stay, as long as they take no more bytes than this.
const MAX_SPARED_BYTES: u64 = 4 * 1024 * 1024;
/// After a pass that could not free enough, the next one waits so long.
const RETRY_MS: u64 = 5_000;

/// What may go. A pass over the whole store that frees nothing leads to the next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// What is above the fair share of its author, and of its topic among those of its author.
    #[default]
    Greedy,
    /// Last batches of such logs too.
    GreedyTips,
    /// What is oldest.
    Oldest,
    /// Last batches of logs too.
    Tips,
}

/// Where pruning stands.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    listing: bool,
    /// The write that prunes: until it is durable, what the store lists and counts still has what is being pruned.
    token: u64,
    after: Arrival,
    pass: Pass,
    /// The pass began at the first batch.
    whole: bool,
    /// The pass freed something.
    freed: bool,
    /// What logs above their share may keep, while a greedy pass goes on.
    shares: Option<BTreeMap<LogKey, u64>>,
    retry_at_ms: u64,
    /// Peers are asked what they hold from then on. Each answer may lead to a pass, so a pass may not lead to questions.
    ask_at_ms: u64,
    /// Nothing more can be pruned and the reserve is being used.
    tight: bool,
    /// The cap was exceeded, and the target is not reached yet.
    begun: bool,
}

impl Pruning {
    /// Nothing more can be pruned, and what room is left is for own events.
    pub(super) fn is_tight(&self) -> bool {
        self.tight
    }

    /// Whether it waits for the store: for a list, or for what was written to be durable up to `written`.
    pub(super) fn is_busy(&self, written: u64) -> bool {
        self.listing || self.token > written
    }

    /// Whether the store is, or was just now, beyond its cap.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    fn is_greedy(&self) -> bool {
        matches!(self.pass, Pass::Greedy | Pass::GreedyTips)
    }

    fn takes_tips(&self) -> bool {
        matches!(self.pass, Pass::GreedyTips | Pass::Tips)
    }

    /// When the store is to be looked at next.
    pub(super) fn due_ms(&self) -> Option<u64> {
        (!self.listing && self.retry_at_ms > 0).then_some(self.retry_at_ms)
    }

    /// Something that could not be pruned before may be now.
    pub(super) fn retry(&mut self) {
        if self.tight {
            self.retry_at_ms = 0;
        }
    }
}

impl<S: Signer> Replica<S> {
    /// Nothing more can be pruned and the store is at its cap.
    pub(super) fn store_is_full(&self) -> bool {
        self.pruning.tight && self.batch_bytes > self.cap_bytes
    }

    /// Bytes that pruning leaves, and that events of others may fill when nothing can be pruned.
    fn target_bytes(&self) -> u64 {
        self.cap_bytes - self.cap_bytes / 100 * SLACK_PERCENT
    }

    pub(super) fn prune_if_full(&mut self) {
        if self.batch_bytes <= self.target_bytes() {
            let Pruning { listing, token, after, ask_at_ms, .. } = self.pruning;
            self.pruning = Pruning { listing, token, after, ask_at_ms, ..Pruning::default() };
        }
        self.pruning.begun |= self.batch_bytes > self.cap_bytes;
        if !self.pruning.begun {
            return;
        }
        // Pruning writes, too.
        let listing = self.expiry.is_listing() || self.compaction.is_listing();
        let idle = self.room != Room::None && !listing && !self.pruning.is_busy(self.written());
        if !idle || self.pruning.retry_at_ms > self.now.mono_ms {
            return;
        }
        // What keys supersede goes first, unless that takes too long.
        let waits = self.batch_bytes <= self.cap_bytes.saturating_add(self.cap_bytes / 100 * SLACK_PERCENT);
        if waits && self.walks_before_pruning() {
            return;
        }
        self.pruning.listing = true;
        self.effects.push(Effect::ListOldest { after: self.pruning.after });
    }

    pub(super) fn prune(&mut self, batches: Vec<OldBatch>, end: bool) {
        self.pruning.listing = false;
        let target = self.target_bytes();
        if self.pruning.is_greedy() && self.pruning.shares.is_none() {
            self.pruning.shares = Some(quota::shares(self.logs.values(), target));
        }
        let mut remaining = self.batch_bytes;
        let mut set = WriteSet::default();
        let mut records: BTreeMap<LogKey, LogRecord> = BTreeMap::new();
        for (place, old) in in_order(batches) {
            if remaining <= target {
                break;
            }
            self.pruning.after = place;
            if !self.is_greedy(&old.log, records.get(&old.log)) {
                continue;
            }
            let record = records.entry(old.log.clone()).or_insert_with(|| self.latest_or_new(&old.log));
            if old.log.topic.as_str() == CHOREOGRAPHIES_TOPIC && record.bytes <= MAX_SPARED_BYTES {
                continue;
            }
            // A log's last batch proves its head, from which a newcomer learns of the log at all: it goes last, and never
            // in the system's topics, where it is what nodes know of each other.
            let spare_last = !self.pruning.takes_tips() || old.log.topic.is_system();
            if !may_prune(&old, record, self.is_own_unannounced(&old), spare_last) {
                continue;
            }
            self.let_go(&old, record, &mut set);
            remaining = remaining.saturating_sub(old.bytes);
        }
        let set_is_empty = set.pruned.is_empty();
        if !set_is_empty {
            self.batch_bytes = remaining;
            self.compaction.give_up(records.keys());
            self.write_pruned(set, records);
            self.pruning.freed = true;
        }
        if set_is_empty {
            // Others have a turn before the next look.
            self.pruning.retry_at_ms = self.now.mono_ms + 1;
        }
        if remaining > target && end {
            self.end_pass();
        }
    }

    /// The store was looked at to its end, and is still above the target.
    fn end_pass(&mut self) {
        let pruning = &mut self.pruning;
        (pruning.after, pruning.shares) = (Arrival(0), None);
        let whole = std::mem::replace(&mut pruning.whole, true);
        if std::mem::take(&mut pruning.freed) {
            // What came meanwhile may be above its share, and what waited for its turn in its log may go now.
            pruning.pass = Pass::Greedy;
        } else if whole {
            match pruning.pass {
                Pass::Greedy => pruning.pass = Pass::GreedyTips,
                Pass::GreedyTips => pruning.pass = Pass::Oldest,
                Pass::Oldest => pruning.pass = Pass::Tips,
                Pass::Tips => {
                    self.pruning.tight = true;
                    self.pruning.retry_at_ms = self.now.mono_ms + RETRY_MS;
                    self.ask_live_peers();
                }
            }
        }
    }

    fn ask_live_peers(&mut self) {
        if self.pruning.ask_at_ms <= self.now.mono_ms {
            self.pruning.ask_at_ms = self.now.mono_ms + RETRY_MS;
            let live = self.links.iter().filter(|(_, link)| link.is_live());
            let live: Vec<_> = live.map(|(peer, _)| *peer).collect();
            live.into_iter().for_each(|peer| self.ask_announced(peer));
        }
    }

    /// Whether the present pass looks at the log: in a greedy one, only at what is above its share.
    fn is_greedy(&self, log: &LogKey, pruned: Option<&LogRecord>) -> bool {
        let Some(shares) = self.pruning.shares.as_ref().filter(|_| self.pruning.is_greedy()) else {
            return true;
        };
        let bytes = pruned.or_else(|| self.latest(log)).map_or(0, |record| record.bytes);
        shares.get(log).is_some_and(|share| bytes > *share)
    }

    /// Lets a batch go: the write and its log's record say so, and its topic has less that is too much.
    pub(super) fn let_go(&mut self, old: &OldBatch, record: &mut LogRecord, set: &mut WriteSet) {
        note_pruned(record, old, self.planted);
        set.pruned.push(old.arrival);
        let (topic, amount) = (&old.log.topic, Amount::of(old));
        self.expiry.note_gone(topic, amount);
        self.compaction.note_gone(topic, amount);
    }

    /// Writes what was pruned. Nothing more is pruned until that is durable.
    pub(super) fn write_pruned(&mut self, mut set: WriteSet, records: BTreeMap<LogKey, LogRecord>) {
        set.logs = records.into_values().filter(|record| self.latest(&record.key) != Some(record)).collect();
        let logs: Vec<LogKey> = set.logs.iter().map(|record| record.key.clone()).collect();
        self.write(set, super::publish::OwnWrite::default(), Vec::new());
        self.pruning.token = self.last_token;
        logs.iter().for_each(|log| self.pass_waiting(log));
    }

    /// Whether it is of this node, and no peer has said to have it.
    pub(super) fn is_own_unannounced(&self, old: &OldBatch) -> bool {
        old.log.author == self.me && self.own.announced(&old.log.topic) < old.last_seq
    }
}

/// Whether a batch may go now: from the bottom of its log up, and not the last where that is to be spared.
pub(super) fn may_prune(old: &OldBatch, record: &LogRecord, own_unannounced: bool, spare_last: bool) -> bool {
    // The ends of other lines, and what ends below a hole, must not stand in the way of what lies above them.
    let is_last = old.last_seq >= record.last_seq();
    let hole_below = record.holes.iter().any(|hole| hole.from <= record.floor + 1 && hole.to + 1 >= old.first_seq);
    let in_order = old.first_seq <= record.floor + 1 || hole_below;
    !own_unannounced && in_order && !(is_last && spare_last)
}

/// The record of a log without a batch at its bottom.
fn note_pruned(record: &mut LogRecord, old: &OldBatch, planted: Planted) {
    if !planted.is(Fault::PruneWithoutFloor) {
        record.floor = record.floor.max(old.last_seq);
    }
    record.floor_hlc = record.floor_hlc.max(old.last_hlc);
    record.holes.retain(|hole| hole.to > record.floor);
    record.events = record.events.saturating_sub(old.last_seq - old.first_seq + 1);
    record.bytes = record.bytes.saturating_sub(old.bytes);
}

/// The batches of each log from its bottom up, in the places that the log's batches have by arrival: what filled a hole
/// arrived behind what lies above it.
fn in_order(batches: Vec<OldBatch>) -> Vec<(Arrival, OldBatch)> {
    let mut of_logs: BTreeMap<LogKey, Vec<usize>> = BTreeMap::new();
    for (place, old) in batches.iter().enumerate() {
        of_logs.entry(old.log.clone()).or_default().push(place);
    }
    let mut order: Vec<usize> = (0..batches.len()).collect();
    for places in of_logs.into_values() {
        let mut rising = places.clone();
        rising.sort_by_key(|place| (batches[*place].first_seq, batches[*place].last_seq));
        places.into_iter().zip(rising).for_each(|(place, from)| order[place] = from);
    }
    let places: Vec<Arrival> = batches.iter().map(|old| old.arrival).collect();
    let mut batches: Vec<Option<OldBatch>> = batches.into_iter().map(Some).collect();
    places.into_iter().zip(order).filter_map(|(place, from)| Some((place, batches[from].take()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlc::Hlc;
    use crate::ids::{Author, BatchHash};
    use crate::topic::Topic;

    #[test]
    fn what_filled_a_hole_last_goes_first_and_looks_go_on_behind_what_was_looked_at() {
        let old = |arrival: u64, topic: &str, seq: u64| OldBatch {
            arrival: Arrival(arrival),
            log: LogKey { topic: Topic::new(topic).unwrap(), author: Author([1; 32]) },
            first_seq: seq,
            last_seq: seq,
            hash: BatchHash([arrival as u8; 32]),
            last_hlc: Hlc(arrival),
            bytes: 1,
        };
        let listed = vec![old(1, "a", 9), old(2, "b", 1), old(3, "a", 8), old(4, "a", 7), old(5, "b", 2)];
        let order: Vec<_> = in_order(listed).into_iter().map(|(place, old)| (place.0, old.first_seq)).collect();
        assert_eq!(order, [(1, 7), (2, 1), (3, 8), (4, 9), (5, 2)]);
    }
}
