//! Keeping within the store's cap: the oldest events go first, but never own events that no peer has.

use std::collections::BTreeMap;

use super::{Effect, OldBatch, Replica, Room};
use crate::heads::{LogKey, LogRecord};
use crate::ids::Arrival;
use crate::sign::Signer;
use crate::write_set::WriteSet;

/// Pruning goes on until the store is this much below its cap, in percent of the cap. Where it cannot, this much is the
/// reserve that only own events may fill.
const SLACK_PERCENT: u64 = 5;
/// After a pass that could not free enough, the next one waits so long.
const RETRY_MS: u64 = 5_000;

/// Where pruning stands.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    listing: bool,
    /// The write that prunes: until it is durable, what the store lists and counts still has what is being pruned.
    token: u64,
    after: Arrival,
    retry_at_ms: u64,
    /// Nothing more can be pruned and the reserve is being used.
    tight: bool,
    /// The cap was exceeded, and the target is not reached yet.
    begun: bool,
    /// Sparing the last batches of logs did not free enough.
    hard: bool,
}

impl Pruning {
    /// Nothing more can be pruned, and what room is left is for own events.
    pub(super) fn is_tight(&self) -> bool {
        self.tight
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
            (self.pruning.begun, self.pruning.hard, self.pruning.tight) = (false, false, false);
        }
        self.pruning.begun |= self.batch_bytes > self.cap_bytes;
        if !self.pruning.begun {
            return;
        }
        // Pruning writes, too.
        let idle = self.room != Room::None && !self.pruning.listing && self.pruning.token <= self.written();
        if idle && self.pruning.retry_at_ms <= self.now.mono_ms {
            self.pruning.listing = true;
            self.effects.push(Effect::ListOldest { after: self.pruning.after });
        }
    }

    pub(super) fn prune(&mut self, batches: Vec<OldBatch>, end: bool) {
        self.pruning.listing = false;
        let target = self.target_bytes();
        let mut remaining = self.batch_bytes;
        let mut set = WriteSet::default();
        let mut records: BTreeMap<LogKey, LogRecord> = BTreeMap::new();
        for old in batches {
            if remaining <= target {
                break;
            }
            self.pruning.after = old.arrival;
            let record = records.entry(old.log.clone()).or_insert_with(|| self.latest_or_new(&old.log));
            if !self.may_prune(&old, record) {
                continue;
            }
            record.floor = record.floor.max(old.last_seq);
            record.floor_hlc = record.floor_hlc.max(old.last_hlc);
            record.holes.retain(|hole| hole.to > record.floor);
            record.events = record.events.saturating_sub(old.last_seq - old.first_seq + 1);
            record.bytes = record.bytes.saturating_sub(old.bytes);
            remaining = remaining.saturating_sub(old.bytes);
            set.pruned.push(old.arrival);
        }
        if !set.pruned.is_empty() {
            let touched = records.into_values().filter(|record| self.latest(&record.key) != Some(record));
            set.logs = touched.collect();
            self.batch_bytes = remaining;
            self.write(set, Vec::new(), Vec::new());
            self.pruning.token = self.last_token;
        }
        if remaining > target && end {
            self.pruning.after = Arrival(0);
            let tried_all = std::mem::replace(&mut self.pruning.hard, true);
            if tried_all {
                self.pruning.tight = true;
                self.pruning.retry_at_ms = self.now.mono_ms + RETRY_MS;
            }
        }
    }

    fn may_prune(&self, old: &OldBatch, record: &LogRecord) -> bool {
        let is_tip = record.tips.iter().any(|tip| tip.hash == old.hash);
        let own_unannounced = old.log.author == self.me && self.own.announced(&old.log.topic) < old.last_seq;
        let hole_below = record.holes.iter().any(|hole| hole.from <= record.floor + 1 && hole.to + 1 >= old.first_seq);
        let in_order = old.first_seq <= record.floor + 1 || hole_below;
        // A log's last batch proves its head, from which a newcomer learns of the log at all: it goes last, and never
        // in the system's topics, where it is what nodes know of each other.
        let spared = is_tip && (!self.pruning.hard || old.log.topic.is_system());
        !own_unannounced && in_order && !spared
    }
}
