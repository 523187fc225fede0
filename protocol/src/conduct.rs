//! How peers behave: who broke the rules, and for how long to stay away from them.
//!
//! The first breach costs [`FIRST_AWAY_MS`], each further one twice as much, up to [`MAX_AWAY_MS`]. Every
//! [`FORGIVE_MS`] of good behaviour after that halves what the next one costs. What an honest peer may do once in a
//! while is a slip: more than [`MAX_SLIPS`] of them within [`SLIPS_MS`] are a breach.

use std::collections::BTreeMap;

use crate::ids::Author;

/// A first breach keeps a peer away for so long.
pub const FIRST_AWAY_MS: u64 = 10_000;
/// The longest time for which a peer is kept away.
pub const MAX_AWAY_MS: u64 = 3_600_000;
/// So much good behaviour halves what the next breach costs.
pub const FORGIVE_MS: u64 = 600_000;
/// Slips that are overlooked.
pub const MAX_SLIPS: u32 = 8;
/// Slips are counted anew after so long.
pub const SLIPS_MS: u64 = 60_000;
/// Peers whose conduct is remembered; beyond it, those go first that are free again soonest.
pub const MAX_REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
struct Record {
    reason: String,
    /// What the last breach cost.
    away_ms: u64,
    until_ms: u64,
    slips: u32,
    slips_until_ms: u64,
}

impl Record {
    /// What is left of the last breach's cost, after good behaviour.
    fn weight_ms(&self, now_ms: u64) -> u64 {
        let halvings = now_ms.saturating_sub(self.until_ms) / FORGIVE_MS;
        let left_ms = self.away_ms.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        if left_ms < FIRST_AWAY_MS { 0 } else { left_ms }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.weight_ms(now_ms) == 0 && self.slips_until_ms <= now_ms
    }
}

/// The conduct of all peers that ever gave cause to remember it.
#[derive(Debug, Default)]
pub struct Conduct {
    peers: BTreeMap<Author, Record>,
}

impl Conduct {
    /// A peer broke the rules. Returns for how long it is to be kept away, in milliseconds; nothing when it is already.
    pub fn breach(&mut self, peer: Author, reason: &str, now_ms: u64) -> Option<u64> {
        self.make_room(&peer, now_ms);
        let record = self.peers.entry(peer).or_default();
        if record.until_ms > now_ms {
            // It was still on its way when the peer was shown the door.
            return None;
        }
        record.away_ms = (record.weight_ms(now_ms) * 2).clamp(FIRST_AWAY_MS, MAX_AWAY_MS);
        record.until_ms = now_ms + record.away_ms;
        reason.clone_into(&mut record.reason);
        Some(record.away_ms)
    }

    /// A peer did what an honest one rarely does. When that was too often, it is a breach, and the answer is as there.
    pub fn slip(&mut self, peer: Author, reason: &str, now_ms: u64) -> Option<u64> {
        self.make_room(&peer, now_ms);
        let record = self.peers.entry(peer).or_default();
        if record.slips_until_ms <= now_ms {
            (record.slips, record.slips_until_ms) = (0, now_ms + SLIPS_MS);
        }
        record.slips += 1;
        if record.slips <= MAX_SLIPS {
            return None;
        }
        record.slips = 0;
        self.breach(peer, reason, now_ms)
    }

    /// Forgets what a peer did, because the operator says so.
    pub fn pardon(&mut self, peer: &Author) {
        self.peers.remove(peer);
    }

    /// Who is kept away, why, and until when on the clock that `now_ms` is of.
    pub fn kept_away(&self, now_ms: u64) -> impl Iterator<Item = (&Author, &str, u64)> {
        let away = self.peers.iter().filter(move |(_, record)| record.until_ms > now_ms);
        away.map(|(peer, record)| (peer, record.reason.as_str(), record.until_ms))
    }

    fn make_room(&mut self, peer: &Author, now_ms: u64) {
        if self.peers.len() < MAX_REMEMBERED || self.peers.contains_key(peer) {
            return;
        }
        self.peers.retain(|_, record| !record.is_over(now_ms));
        if self.peers.len() >= MAX_REMEMBERED
            && let Some(soonest) = self.peers.iter().min_by_key(|(_, record)| record.until_ms).map(|(peer, _)| *peer)
        {
            self.peers.remove(&soonest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Author = Author([1; 32]);

    #[test]
    fn each_breach_costs_twice_as_much_up_to_an_hour() {
        let mut conduct = Conduct::default();
        let mut now_ms = 1_000;
        let mut costs = Vec::new();
        for _ in 0..11 {
            let away_ms = conduct.breach(PEER, "lied", now_ms).unwrap();
            costs.push(away_ms / 1000);
            now_ms += away_ms;
        }
        assert_eq!(costs, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }

    #[test]
    fn good_behaviour_is_remembered_too() {
        let mut conduct = Conduct::default();
        let mut now_ms = 0;
        for _ in 0..3 {
            now_ms += conduct.breach(PEER, "lied", now_ms).unwrap();
        }
        assert_eq!(conduct.breach(PEER, "lied", now_ms + FORGIVE_MS), Some(40_000), "half of 40 s, twice");
        assert_eq!(conduct.breach(PEER, "lied", now_ms + 10 * FORGIVE_MS), Some(FIRST_AWAY_MS));
    }

    #[test]
    fn what_is_on_its_way_when_a_peer_is_sent_away_costs_nothing_more() {
        let mut conduct = Conduct::default();
        assert_eq!(conduct.breach(PEER, "lied", 0), Some(10_000));
        assert_eq!(conduct.breach(PEER, "lied", 4_000), None);
        assert_eq!(conduct.kept_away(4_000).collect::<Vec<_>>(), [(&PEER, "lied", 10_000)]);
        assert_eq!(conduct.kept_away(10_000).count(), 0);
        assert_eq!(conduct.breach(PEER, "lied", 10_000), Some(20_000));
    }

    #[test]
    fn a_few_slips_are_overlooked_and_many_are_not() {
        let mut conduct = Conduct::default();
        for _ in 0..10 {
            for _ in 0..MAX_SLIPS {
                assert_eq!(conduct.slip(PEER, "erred", 0), None);
            }
            conduct.pardon(&PEER);
        }
        let slow = (0..100).filter_map(|nth| conduct.slip(PEER, "erred", nth * SLIPS_MS / u64::from(MAX_SLIPS)));
        assert_eq!(slow.count(), 0);
        let fast: Vec<u64> = (0..MAX_SLIPS + 1).filter_map(|_| conduct.slip(Author([2; 32]), "erred", 0)).collect();
        assert_eq!(fast, [FIRST_AWAY_MS]);
    }

    #[test]
    fn the_table_is_bounded_and_those_are_kept_that_are_away_longest() {
        let mut conduct = Conduct::default();
        conduct.breach(PEER, "lied", 0);
        conduct.breach(PEER, "lied", 10_000);
        for nth in 0..2 * MAX_REMEMBERED as u64 {
            let mut peer = [9; 32];
            peer[..8].copy_from_slice(&nth.to_be_bytes());
            conduct.breach(Author(peer), "lied", 10_001);
        }
        assert_eq!(conduct.peers.len(), MAX_REMEMBERED);
        assert!(conduct.peers.contains_key(&PEER));
    }
}
