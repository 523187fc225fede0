//! What goes wrong in a simulated mesh.

use super::{Happening, Mesh, NodeId};

/// The longest that a fault of [`Mesh::disturb`] lasts.
const MAX_FAULT_MS: u64 = 60_000;

#[derive(Debug, Clone)]
pub(super) enum Fault {
    Cut(usize, usize),
    Mend(usize, usize),
    Isolate(usize),
    Join(usize),
    Crash(usize),
    Restart(usize),
}

impl Mesh {
    /// Cuts all links but those within each group. A node that is in no group is alone.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        let group_of = |node: usize| groups.iter().position(|group| group.contains(&NodeId(node)));
        self.cut.clear();
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                if group_of(one).is_none() || group_of(one) != group_of(other) {
                    self.cut.insert((one, other));
                }
            }
        }
    }

    /// Mends all links.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// A node goes down at once. What it had not committed is lost.
    pub fn crash(&mut self, node: NodeId) {
        if self.nodes[node.0].is_up {
            self.nodes[node.0].crash();
        }
    }

    /// A node that was down comes back with what is on its disk.
    pub fn restart(&mut self, node: NodeId) {
        if !self.nodes[node.0].is_up {
            self.nodes[node.0].restart();
            self.beat_in_time(node.0);
            (0..self.nodes[node.0].parts.len()).for_each(|part| self.wake(node.0, part));
        }
    }

    /// Sets a node's clock off, in milliseconds.
    pub fn skew(&mut self, node: NodeId, ms: i64) {
        self.nodes[node.0].skew_ms = ms;
    }

    /// Has links break and nodes crash, as chance will have it, for so many milliseconds from now on. All of it is
    /// mended a minute later at the latest.
    pub fn disturb(&mut self, ms: u64) {
        let (nodes, mut at) = (self.nodes.len() as u64, 0);
        if nodes == 0 {
            return;
        }
        loop {
            at += 1 + self.numbers.below(20_000);
            if at >= ms {
                return;
            }
            let (one, lasts_ms) = (self.numbers.below(nodes) as usize, 1 + self.numbers.below(MAX_FAULT_MS));
            let other = self.numbers.below(nodes) as usize;
            let (fault, end) = match self.numbers.below(3) {
                0 => (Fault::Crash(one), Fault::Restart(one)),
                1 => (Fault::Isolate(one), Fault::Join(one)),
                _ => (Fault::Cut(one, other), Fault::Mend(one, other)),
            };
            self.schedule(at, Happening::Fault(fault));
            self.schedule(at + lasts_ms, Happening::Fault(end));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(one, other) => drop(self.cut.insert((one.min(other), one.max(other)))),
            Fault::Mend(one, other) => drop(self.cut.remove(&(one.min(other), one.max(other)))),
            Fault::Isolate(node) => {
                let pairs = (0..self.nodes.len()).filter(|other| *other != node);
                self.cut.extend(pairs.map(|other| (node.min(other), node.max(other))));
            }
            Fault::Join(node) => self.cut.retain(|(one, other)| *one != node && *other != node),
            Fault::Crash(node) => self.crash(NodeId(node)),
            Fault::Restart(node) => self.restart(NodeId(node)),
        }
    }
}
