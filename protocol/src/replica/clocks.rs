//! Whose clock is wrong: peers tell theirs when they are met.

use std::collections::BTreeSet;

use super::{Now, Replica};
use crate::ids::Author;
use crate::limits::MAX_CLOCK_AHEAD_MS;
use crate::link::Peer;
use crate::sign::Signer;
use crate::topic::MESH_TOPIC;

/// So many peers that agree convince a node of any mesh; of one of three nodes, both others do.
const CLOCKS_NEEDED: usize = 3;

impl<S: Signer> Replica<S> {
    /// Where most peers' clocks are more than a day from ours, and agree, ours is wrong. Who is linked is chance, so in a
    /// larger mesh two peers are not enough, and nobody counts before it has told which nodes there are.
    pub(super) fn judge_clock(&mut self) {
        let told = self.links.values().filter(|link| link.informed);
        let mut ahead: Vec<i64> = told.filter_map(|link| Some(link.peer.as_ref()?.clock_ahead_ms)).collect();
        ahead.sort_unstable();
        let median = ahead.get(ahead.len() / 2).copied().unwrap_or(0);
        let is_far = |from_ms: i64, ahead_ms: i64| ahead_ms.saturating_sub(from_ms).unsigned_abs() > MAX_CLOCK_AHEAD_MS;
        let agree = ahead.iter().filter(|ahead_ms| !is_far(median, **ahead_ms)).count();
        let most = agree > 1 && agree * 2 > ahead.len() && is_far(0, median);
        self.clock_offset_ms = if most && agree >= self.clocks_needed() { median } else { 0 };
    }

    /// Clocks that can convince this node: [`CLOCKS_NEEDED`], or most of all nodes that it knows of.
    fn clocks_needed(&self) -> usize {
        let logs = self.logs.keys().chain(self.wants.iter().map(|(log, _)| log));
        let with_record = logs.filter(|log| log.topic.as_str() == MESH_TOPIC).map(|log| log.author);
        let nodes: BTreeSet<Author> = with_record.chain(self.links.keys().copied()).chain([self.me]).collect();
        CLOCKS_NEEDED.min(nodes.len() / 2 + 1)
    }

    /// How many peers see another day than this node, whose clock may be corrected, and how many the same.
    fn clocks_apart(&self) -> (usize, usize) {
        self.count_apart(|peer| peer.clock_ahead_ms)
    }

    fn count_apart(&self, ahead_ms: impl Fn(&Peer) -> i64) -> (usize, usize) {
        let ahead = self.links.values().filter_map(|link| link.peer.as_ref().map(&ahead_ms));
        let off = ahead.map(|ahead_ms| ahead_ms.saturating_sub(self.clock_offset_ms).unsigned_abs());
        let (far, near): (Vec<u64>, Vec<u64>) = off.partition(|off_ms| *off_ms > MAX_CLOCK_AHEAD_MS);
        (far.len(), near.len())
    }

    /// How many peers see another day than this node, where these are half of all or more: whose clock is wrong cannot be
    /// told from here. 0 otherwise.
    #[must_use]
    pub fn clock_disputes(&self) -> usize {
        let (far, near) = self.clocks_apart();
        if far >= near { far } else { 0 }
    }

    /// The same at a moment when this node's clock may have been set since it met them.
    pub(super) fn clock_disputes_at(&self, now: Now) -> usize {
        let (far, near) = self.count_apart(|peer| peer.clock_ahead_by_now_ms(now));
        if far >= near { far } else { 0 }
    }

    /// Whether this node cannot tell that its clock, corrected or not, is that of most nodes: it has met nobody, or half
    /// of its peers see another day.
    pub(super) fn doubts_clock(&self) -> bool {
        let (far, near) = self.clocks_apart();
        far >= near
    }
}
