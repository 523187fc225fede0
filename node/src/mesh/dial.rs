//! Whom to dial next. No I/O and no clock: time comes in as milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::{Multiaddr, PeerId};

use super::address::{Reach, split_peer};
use super::backoff::{Backoff, Dice, LONGEST_MS};
use super::{Candidate, limits};

/// A link that lasted so long was a good one: the next dial starts without back-off.
const LASTED_MS: u64 = 30_000;
/// A peer that failed so often in a row does not count as somebody's neighbour on the ring.
const HEALTHY_FAILURES: u32 = 4;
/// Neighbours on the ring that everybody keeps links to, so that the mesh hangs together whoever dies.
const RING_NEIGHBOURS: usize = 2;
/// An mDNS hint that failed so often is dropped; the neighbour announces itself again.
const HINT_FAILURES: u32 = 8;
/// An address of another mesh, or our own, is left alone for so long.
const WRONG_ADDRESS_MS: u64 = 300_000;

/// One dial to be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dial {
    /// Names the dial when its end is reported.
    pub(crate) ticket: u64,
    /// Who is expected to answer, if known.
    pub(crate) peer: Option<PeerId>,
    /// Where, best first. Exactly one if the peer is unknown.
    pub(crate) addresses: Vec<Multiaddr>,
    /// The join address that it is made for.
    pub(crate) join: Option<Multiaddr>,
}

#[derive(Debug, Default)]
struct Join {
    /// Who must answer, from the address itself.
    expected: Option<PeerId>,
    /// Who answered last.
    answered: Option<PeerId>,
    backoff: Backoff,
    /// From mDNS: worth a try, not worth insisting.
    hint: bool,
}

impl Join {
    fn peer(&self) -> Option<PeerId> {
        self.expected.or(self.answered)
    }
}

#[derive(Debug, Default)]
struct Memory {
    backoff: Backoff,
    last_good: Option<Multiaddr>,
    keep_away_until_ms: u64,
}

#[derive(Debug)]
struct UnderWay {
    peer: Option<PeerId>,
    join: Option<Multiaddr>,
}

/// Join addresses, candidates, what is known of each peer, and the dials under way.
#[derive(Debug)]
pub(crate) struct DialBook {
    me: PeerId,
    min_links: usize,
    max_links: usize,
    joins: BTreeMap<Multiaddr, Join>,
    candidates: BTreeMap<PeerId, Candidate>,
    memory: BTreeMap<PeerId, Memory>,
    blocked: BTreeSet<PeerId>,
    /// Peers with a connection, and since when.
    connected: BTreeMap<PeerId, u64>,
    under_way: BTreeMap<u64, UnderWay>,
    next_ticket: u64,
    dice: Dice,
}

impl DialBook {
    pub(crate) fn new(me: PeerId, min_links: usize, max_links: usize, seed: u64) -> Self {
        Self {
            me,
            min_links,
            max_links,
            joins: BTreeMap::new(),
            candidates: BTreeMap::new(),
            memory: BTreeMap::new(),
            blocked: BTreeSet::new(),
            connected: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next_ticket: 1,
            dice: Dice::new(seed),
        }
    }

    /// Takes a join address. `hint` if it is only mDNS that says so. False if there are too many.
    pub(crate) fn join(&mut self, address: &Multiaddr, hint: bool) -> bool {
        let (bare, expected) = split_peer(address);
        if expected == Some(self.me) && hint {
            return false;
        }
        // With our own identity, somebody else may be there; whoever dials it finds out.
        let expected = expected.filter(|peer| *peer != self.me);
        if let Some(join) = self.joins.get_mut(&bare) {
            join.hint &= hint;
            if !hint {
                join.expected = expected;
                join.backoff.clear();
            }
            return true;
        }
        if self.joins.values().filter(|join| join.hint == hint).count() >= limits::MAX_JOINS {
            return false;
        }
        self.joins.insert(bare, Join { expected, hint, ..Join::default() });
        true
    }

    /// Replaces the table of candidates.
    pub(crate) fn set_candidates(&mut self, candidates: Vec<Candidate>, now_ms: u64) {
        let known = candidates.into_iter().filter(|candidate| candidate.peer != self.me);
        self.candidates = known.take(limits::MAX_CANDIDATES).map(|it| (it.peer, it)).collect();
        self.drop_old_memories(now_ms);
    }

    /// Drops what is remembered of peers that nobody speaks of any more.
    fn drop_old_memories(&mut self, now_ms: u64) {
        let joined: BTreeSet<PeerId> = self.joins.values().filter_map(Join::peer).collect();
        self.memory.retain(|peer, memory| {
            memory.keep_away_until_ms > now_ms
                || self.candidates.contains_key(peer)
                || self.connected.contains_key(peer)
                || joined.contains(peer)
        });
    }

    /// Nobody is to remember this peer: its join addresses, candidacy and back-off go.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.joins.retain(|_, join| join.peer() != Some(peer));
        self.candidates.remove(&peer);
        self.memory.remove(&peer);
    }

    pub(crate) fn block(&mut self, peer: PeerId) {
        self.blocked.insert(peer);
    }

    pub(crate) fn unblock(&mut self, peer: PeerId) {
        self.blocked.remove(&peer);
    }

    pub(crate) fn keep_away(&mut self, peer: PeerId, until_ms: u64) {
        self.memory.entry(peer).or_default().keep_away_until_ms = until_ms;
    }

    /// This address leads to ourselves or to another mesh: leave it alone for long.
    pub(crate) fn wrong_address(&mut self, address: &Multiaddr, now_ms: u64) {
        if let Some(join) = self.joins.get_mut(&split_peer(address).0) {
            join.backoff.delay_at_least(now_ms, WRONG_ADDRESS_MS);
        }
    }

    /// Everything is worth a try again, for instance after having been offline.
    pub(crate) fn clear_backoffs(&mut self) {
        self.joins.values_mut().for_each(|join| join.backoff.clear());
        self.memory.values_mut().for_each(|memory| memory.backoff.clear());
    }

    /// A connection to `peer` is there, by our dial with that ticket or by theirs. Returns the join address that it
    /// came through.
    pub(crate) fn on_connected(
        &mut self,
        peer: PeerId,
        dialled: Option<(u64, &Multiaddr)>,
        now_ms: u64,
    ) -> Option<Multiaddr> {
        self.connected.entry(peer).or_insert(now_ms);
        let (ticket, address) = dialled?;
        self.memory.entry(peer).or_default().last_good = Some(split_peer(address).0);
        let join = self.under_way.remove(&ticket)?.join?;
        self.joins.get_mut(&join)?.answered = Some(peer);
        Some(join)
    }

    /// The last connection to `peer` is gone.
    pub(crate) fn on_disconnected(&mut self, peer: PeerId, now_ms: u64) {
        let lasted_ms = self.connected.remove(&peer).map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let dice = &mut self.dice;
        let mut settle = |backoff: &mut Backoff| match lasted_ms {
            LASTED_MS.. => backoff.reset(now_ms, dice),
            _ => drop(backoff.fail(now_ms, dice)),
        };
        for join in self.joins.values_mut().filter(|join| join.peer() == Some(peer)) {
            settle(&mut join.backoff);
        }
        settle(&mut self.memory.entry(peer).or_default().backoff);
        if self.memory.len() > 2 * limits::MAX_CANDIDATES {
            self.drop_old_memories(now_ms);
        }
    }

    /// A dial failed. Returns its join address, if it was for one, and how long the next attempt waits.
    pub(crate) fn on_failed(&mut self, ticket: u64, now_ms: u64) -> Option<(Option<Multiaddr>, u64)> {
        let UnderWay { peer, join } = self.under_way.remove(&ticket)?;
        let mut next_ms = 0;
        if let Some(address) = &join
            && let Some(entry) = self.joins.get_mut(address)
        {
            next_ms = entry.backoff.fail(now_ms, &mut self.dice);
            if entry.hint && entry.backoff.failures() >= HINT_FAILURES {
                self.joins.remove(address);
            }
        } else if let Some(peer) = peer {
            next_ms = self.memory.entry(peer).or_default().backoff.fail(now_ms, &mut self.dice);
        }
        Some((join, next_ms))
    }

    /// The dials to be made now. Each ends in [`on_connected`](Self::on_connected) or [`on_failed`](Self::on_failed).
    pub(crate) fn due(&mut self, now_ms: u64, reach: &Reach) -> Vec<Dial> {
        let mut dials = Vec::new();
        self.dial_joins(now_ms, &mut dials);
        for peer in self.peers_to_dial() {
            let links = self.connected.len() + self.under_way.len();
            if self.under_way.len() >= limits::MAX_DIALS || links >= self.max_links {
                break;
            }
            self.dial_peer(peer, now_ms, reach, &mut dials);
        }
        let missing = self.min_links.saturating_sub(self.connected.len() + self.under_way.len());
        if missing > 0 {
            self.dial_random(missing, now_ms, reach, &mut dials);
        }
        dials
    }

    fn dial_joins(&mut self, now_ms: u64, dials: &mut Vec<Dial>) {
        let enough = self.connected.len() >= self.min_links;
        let mut chosen = Vec::new();
        for (address, join) in &mut self.joins {
            let busy = self.under_way.values().any(|dial| dial.join.as_ref() == Some(address));
            if busy || !join.backoff.is_due(now_ms) || self.under_way.len() + chosen.len() >= limits::MAX_DIALS {
                continue;
            }
            if let Some(peer) = join.peer()
                && (self.connected.contains_key(&peer) || !may_dial(peer, &self.blocked, &self.memory, now_ms))
            {
                continue;
            }
            if enough {
                // Nothing is missing, so it is only asked now and then whether it is back.
                if join.hint {
                    continue;
                }
                let wait_ms = self.dice.jitter(LONGEST_MS);
                join.backoff.delay(now_ms, wait_ms);
            }
            chosen.push((address.clone(), join.expected));
        }
        for (address, peer) in chosen {
            self.start(peer, vec![address.clone()], Some(address), dials);
        }
    }

    /// Everybody that we should have a link to, most wanted first.
    fn peers_to_dial(&self) -> Vec<PeerId> {
        let wanted = self.candidates.values().filter(|candidate| candidate.wanted).map(|candidate| candidate.peer);
        wanted.chain(self.ring_neighbours()).collect()
    }

    /// The next peers after ourselves in the order of a hash, with those in between that do not answer.
    fn ring_neighbours(&self) -> Vec<PeerId> {
        let mine = ring_place(&self.me);
        let everyone = self.candidates.keys().chain(self.connected.keys());
        let ring: BTreeMap<u64, PeerId> =
            everyone.map(|peer| (ring_place(peer).wrapping_sub(mine), *peer)).filter(|(place, _)| *place > 0).collect();
        let mut healthy = 0;
        let mut neighbours = Vec::new();
        for peer in ring.into_values() {
            if healthy == RING_NEIGHBOURS || neighbours.len() == 2 * RING_NEIGHBOURS {
                break;
            }
            let failures = self.memory.get(&peer).map_or(0, |memory| memory.backoff.failures());
            if !self.blocked.contains(&peer) && failures < HEALTHY_FAILURES {
                healthy += 1;
            }
            neighbours.push(peer);
        }
        neighbours
    }

    fn dial_random(&mut self, missing: usize, now_ms: u64, reach: &Reach, dials: &mut Vec<Dial>) {
        let salt = self.dice.roll();
        let mut others: Vec<PeerId> = self.candidates.keys().copied().collect();
        others.sort_by_cached_key(|peer| ring_place(peer).wrapping_mul(salt | 1));
        let target = self.under_way.len() + missing;
        for peer in others {
            if self.under_way.len() >= target.min(limits::MAX_DIALS) {
                break;
            }
            self.dial_peer(peer, now_ms, reach, dials);
        }
    }

    fn dial_peer(&mut self, peer: PeerId, now_ms: u64, reach: &Reach, dials: &mut Vec<Dial>) {
        let waiting = self.memory.get(&peer).is_some_and(|memory| !memory.backoff.is_due(now_ms));
        let busy = self.under_way.values().any(|dial| dial.peer == Some(peer));
        if waiting || busy || self.connected.contains_key(&peer) {
            return;
        }
        if !may_dial(peer, &self.blocked, &self.memory, now_ms) {
            return;
        }
        let Some(candidate) = self.candidates.get(&peer) else { return };
        let mut addresses: Vec<Multiaddr> =
            self.memory.get(&peer).and_then(|memory| memory.last_good.clone()).into_iter().collect();
        for address in &candidate.addresses {
            let (bare, expected) = split_peer(address);
            let right = expected.is_none_or(|expected| expected == peer);
            if right && reach.can_dial(&bare, candidate.host_tag) && !addresses.contains(&bare) {
                addresses.push(bare);
            }
        }
        addresses.truncate(limits::MAX_ADDRESSES_PER_DIAL);
        if !addresses.is_empty() {
            self.start(Some(peer), addresses, None, dials);
        }
    }

    fn start(
        &mut self,
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
        join: Option<Multiaddr>,
        dials: &mut Vec<Dial>,
    ) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.under_way.insert(ticket, UnderWay { peer, join: join.clone() });
        dials.push(Dial { ticket, peer, addresses, join });
    }
}

fn may_dial(peer: PeerId, blocked: &BTreeSet<PeerId>, memory: &BTreeMap<PeerId, Memory>, now_ms: u64) -> bool {
    !blocked.contains(&peer) && memory.get(&peer).is_none_or(|memory| now_ms >= memory.keep_away_until_ms)
}

/// A peer's place on the ring. Hashed, so that nobody gets a crowd of neighbours by the way ids happen to lie.
fn ring_place(peer: &PeerId) -> u64 {
    let mut place = [0; 8];
    place.copy_from_slice(&blake3::hash(&peer.to_bytes()).as_bytes()[..8]);
    u64::from_be_bytes(place)
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
