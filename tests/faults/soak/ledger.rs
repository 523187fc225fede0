//! Which events were acknowledged, and which disks they are known to be on.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// A disk and the time from which on it is known to hold an event.
type Holder = (usize, Instant);

#[derive(Default)]
struct Entry {
    acknowledged: bool,
    holders: Vec<Holder>,
    /// Every disk that was known to hold it was replaced by an older copy: it may be gone
    excused: bool,
}

/// What is known of every event. What is on a disk is known from acknowledgements and deliveries, so that a disk may hold
/// more than is known, and never less.
#[derive(Default)]
pub(super) struct Ledger {
    events: HashMap<String, Entry>,
}

/// What a ledger finds when all nodes hold the same.
#[derive(Debug, Default)]
pub(super) struct Audit {
    pub(super) acknowledged: u64,
    /// Acknowledged, and on no disk that was not replaced by an older copy
    pub(super) excused: u64,
    pub(super) lost: Vec<String>,
    /// Events by the number of nodes that hold them
    pub(super) on_nodes: BTreeMap<usize, u64>,
}

impl Ledger {
    /// A node has answered a publisher.
    pub(super) fn acknowledge(&mut self, id: String, node: usize) {
        let entry = self.events.entry(id).or_default();
        entry.acknowledged = true;
        hold(entry, node);
    }

    /// A node has delivered an event, so it is on its disk.
    pub(super) fn deliver(&mut self, id: &str, node: usize) {
        match self.events.get_mut(id) {
            Some(entry) => hold(entry, node),
            None => hold(self.events.entry(id.to_owned()).or_default(), node),
        }
    }

    /// A node's disk was replaced by a copy that was begun at `copied`.
    pub(super) fn replace_disk(&mut self, node: usize, copied: Instant) {
        for entry in self.events.values_mut().filter(|entry| !entry.holders.is_empty()) {
            entry.holders.retain(|(holder, since)| *holder != node || *since < copied);
            entry.excused |= entry.holders.is_empty();
        }
    }

    /// Compares what was acknowledged with what is held, when every follower has all that its node holds.
    pub(super) fn audit(&self, nodes: usize) -> Audit {
        let mut audit = Audit::default();
        for (id, entry) in &self.events {
            audit.acknowledged += u64::from(entry.acknowledged);
            let held = entry.holders.len();
            *audit.on_nodes.entry(held).or_default() += 1;
            match (held == nodes, entry.acknowledged, entry.excused && held == 0) {
                (true, _, _) | (_, false, _) => {}
                (_, _, true) => audit.excused += 1,
                _ => audit.lost.push(format!("{id} is on {:?} only", entry.holders)),
            }
        }
        audit
    }
}

fn hold(entry: &mut Entry, node: usize) {
    if !entry.holders.iter().any(|(holder, _)| *holder == node) {
        entry.holders.push((node, Instant::now()));
    }
}
