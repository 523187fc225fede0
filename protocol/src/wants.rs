//! What peers have and this node lacks, and the plan for fetching it.
//!
//! A want is a batch, named by its log, last sequence number and hash, with the peers that have it: a tip that a peer
//! announced, the missing parent of a batch that came ahead of it, or the upper end of a hole. It is settled when that
//! very batch is durable here. Pulls ask for ranges: from what this node has of the log up to a wanted batch. Where what
//! comes does not connect to what is here, the log forked further down, and the next pull starts twice as far back.

mod pulls;
mod small_map;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

use small_map::SmallMap;
use tally::{Tally, Want};

use crate::frame::Range;
use crate::heads::LogKey;
use crate::ids::{Author, BatchHash};

/// Batches that may be wanted; what is beyond is left to the next comparison of sums.
pub const MAX_WANTS: usize = 262_144;
/// Batches that one peer may have us want.
pub const MAX_WANTS_OF_PEER: usize = 65_536;
/// What nobody says to have any more is given up after so long: nothing but their word told of it.
pub const ORPHAN_MS: u64 = 60_000;
/// What is missing below a batch that is here, and nobody says to have, is given up after so long.
pub const INNER_ORPHAN_MS: u64 = 600_000;
/// A peer that brings nothing for so long, whatever is asked of it, does not answer.
pub const SILENCE_MS: u64 = 3 * PULL_DEADLINE_MS;
/// How often wants are looked through for what is to be given up.
const SWEEP_MS: u64 = 5_000;
/// Batches of one log that may be wanted beside announced tips; further gaps are found when these are filled.
const MAX_INNER_WANTS: usize = 1_024;
/// Pulls under way with one peer.
pub const MAX_PULLS_PER_PEER: usize = 4;
/// Bytes that one pull may bring.
pub const PULL_BYTES: u64 = 1024 * 1024;
/// A peer that brings nothing for so long is given up, and another one is asked.
pub const PULL_DEADLINE_MS: u64 = 30_000;
/// A peer that brought nothing of a log is not asked for that log again for so long; each time twice as long.
const AVOID_MS: u64 = 250;
/// The longest time for which a peer is not asked for a log.
const MAX_AVOID_MS: u64 = 60_000;

/// A batch by its place: last sequence number and hash.
pub type Place = (u64, BatchHash);

#[derive(Debug, Default)]
struct LogWants {
    places: SmallMap<Place, Want>,
    /// Floors that peers announced with their heads, but those at 0.
    floors: SmallMap<Author, u64>,
    /// Peers not to ask for now, until when, and for how long they were avoided.
    avoided: SmallMap<Author, (u64, u64)>,
    /// How much further back the next pull starts.
    back: u64,
    /// The next pull starts as far back as there is.
    lower: bool,
    /// Where the present range begins and ends, and how far its pulls have come, whether what they brought connects or not.
    began: u64,
    upto: u64,
    reached: u64,
    /// Something that a pull of the present range brought did not connect.
    loose: bool,
    pull: Option<u64>,
}

/// A pull under way.
#[derive(Debug)]
pub struct Pull {
    /// Who was asked.
    pub peer: Author,
    /// For what.
    pub ranges: Vec<Range>,
    /// Nothing has come of it.
    pub idle: bool,
    deadline_ms: u64,
}

/// All wants.
#[derive(Debug, Default)]
pub struct Wants {
    logs: BTreeMap<LogKey, LogWants>,
    tally: Tally,
    /// Since when each peer of which something is pulled has brought nothing.
    silent_since_ms: BTreeMap<Author, u64>,
    swept_ms: u64,
    pulls: BTreeMap<u64, Pull>,
    last_serial: u64,
    last_pull: u64,
}

impl Wants {
    /// Takes a peer's announcement: of this log it has `places` that are not here. They replace what it announced
    /// before; they are pulled from `due_ms` on. `false` when there was no room for all.
    pub fn announce(&mut self, log: &LogKey, peer: Author, places: &[Place], floor: u64, due_ms: u64) -> bool {
        if places.is_empty() && !self.logs.contains_key(log) {
            return true;
        }
        self.last_serial += 1;
        let (mut serial, mut due_ms) = (self.last_serial, due_ms);
        let tally = &mut self.tally;
        let wants = self.logs.entry(log.clone()).or_default();
        wants.places.retain(|place, want| {
            if want.inner || places.contains(place) || !want.peers.contains_key(&peer) {
                return true;
            }
            // What takes its place is as old as it, for those who wait for all that was known at some time; and as due,
            // or a peer that publishes without a pause would never be asked.
            serial = serial.min(want.serial);
            due_ms = due_ms.min(want.due_ms);
            if want.arriving {
                // It stays the peer's until it is durable: somebody may wait for all that the peer has.
                return true;
            }
            tally.remove_source(want, &peer);
            let keep = !want.peers.is_empty();
            tally.all -= usize::from(!keep);
            keep
        });
        let mut room = true;
        for place in places {
            room = tally.has_room(&peer);
            if !room {
                break;
            }
            let want = wants.places.get_or_insert_with(*place, || {
                tally.all += 1;
                Want::new(serial, due_ms, false)
            });
            want.due_ms = want.due_ms.min(due_ms);
            want.serial = want.serial.min(serial);
            tally.add_source(want, peer);
        }
        if floor == 0 {
            wants.floors.remove(&peer);
        } else if wants.places.values().any(|want| want.peers.contains_key(&peer)) {
            wants.floors.insert(peer, floor);
        }
        self.tidy(log);
        room
    }

    /// Wants a batch that a peer must have, because it has one that follows it.
    pub fn add_inner(&mut self, log: &LogKey, place: Place, peers: impl IntoIterator<Item = Author>, due_ms: u64) {
        if self.tally.all >= MAX_WANTS {
            return;
        }
        let full = |wants: &LogWants| wants.places.len() >= MAX_INNER_WANTS && !wants.places.contains_key(&place);
        if self.logs.get(log).is_some_and(full) {
            return;
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let tally = &mut self.tally;
        let want = self.logs.entry(log.clone()).or_default().places.get_or_insert_with(place, || {
            tally.all += 1;
            Want::new(serial, due_ms, true)
        });
        want.inner = true;
        want.due_ms = want.due_ms.min(due_ms);
        peers.into_iter().for_each(|peer| tally.add_source(want, peer));
    }

    /// Whether this peer announced the batch as a tip. Who only passed on what follows it may lack it.
    #[must_use]
    pub fn is_promised(&self, log: &LogKey, place: &Place, peer: &Author) -> bool {
        let want = self.logs.get(log).and_then(|wants| wants.places.get(place));
        want.is_some_and(|want| !want.inner && want.peers.contains_key(peer))
    }

    /// Whether a pull brought the batch, though it is not here: there was no room for it, or it did not connect.
    #[must_use]
    pub fn came(&self, log: &LogKey, place: &Place) -> bool {
        self.logs.get(log).and_then(|wants| wants.places.get(place)).is_some_and(|want| want.brought_by.is_some())
    }

    /// Whether it was this peer whose pull brought it last.
    #[must_use]
    pub fn came_from(&self, log: &LogKey, place: &Place, peer: &Author) -> bool {
        let want = self.logs.get(log).and_then(|wants| wants.places.get(place));
        want.is_some_and(|want| want.brought_by == Some(*peer))
    }

    /// A peer that broke the rules: what only it said that it has is forgotten.
    pub fn disbelieve(&mut self, peer: &Author) {
        self.peer_down(peer);
        let tally = &mut self.tally;
        for wants in self.logs.values_mut() {
            wants.places.retain(|_, want| {
                let keep = want.inner || want.arriving || !want.peers.is_empty() || want.orphaned_ms.is_some();
                tally.all -= usize::from(!keep);
                keep
            });
        }
        self.logs.retain(|_, wants| !wants.places.is_empty() || wants.pull.is_some());
    }

    /// Gives up what nobody has said to have for long.
    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_ms + SWEEP_MS {
            return;
        }
        self.swept_ms = now_ms;
        let tally = &mut self.tally;
        for wants in self.logs.values_mut() {
            wants.places.retain(|_, want| {
                if !want.peers.is_empty() || want.arriving {
                    return true;
                }
                let since_ms = *want.orphaned_ms.get_or_insert(now_ms);
                let keep = now_ms < since_ms + if want.inner { INNER_ORPHAN_MS } else { ORPHAN_MS };
                tally.all -= usize::from(!keep);
                keep
            });
        }
        self.logs.retain(|_, wants| !wants.places.is_empty() || wants.pull.is_some());
    }

    /// Peers that announced anything wanted of the log, with the floors they claim.
    #[must_use]
    pub fn announcers(&self, log: &LogKey) -> Vec<(Author, u64)> {
        let Some(wants) = self.logs.get(log) else { return Vec::new() };
        let peers: BTreeSet<_> = wants.places.values().flat_map(|want| want.peers.keys().copied()).collect();
        peers.into_iter().map(|peer| (peer, wants.floors.get(&peer).copied().unwrap_or(0))).collect()
    }

    /// From whom the batch is wanted.
    #[must_use]
    pub fn sources(&self, log: &LogKey, place: &Place) -> Vec<Author> {
        let want = self.logs.get(log).and_then(|wants| wants.places.get(place));
        want.map(|want| want.peers.keys().copied().collect()).unwrap_or_default()
    }

    /// Whether all who were known to have the batch are gone: nobody is asked for it, and nobody was in vain.
    #[must_use]
    pub fn is_orphan(&self, log: &LogKey, place: &Place) -> bool {
        let want = self.logs.get(log).and_then(|wants| wants.places.get(place));
        want.is_none_or(|want| want.peers.is_empty() && want.denied.is_empty() && !want.arriving)
    }

    /// The batch is being written: it is not pulled again.
    pub fn arriving(&mut self, log: &LogKey, place: &Place) {
        if let Some(wants) = self.logs.get_mut(log) {
            wants.back = 0;
            wants.reached = 0;
            wants.loose = false;
            wants.avoided.clear();
            if let Some(want) = wants.places.get_mut(place) {
                want.arriving = true;
            }
        }
    }

    /// The batch is durable here, turned out to be here already, or is wanted no more.
    pub fn settle(&mut self, log: &LogKey, place: &Place) {
        if let Some(wants) = self.logs.get_mut(log) {
            if let Some(want) = wants.places.remove(place) {
                self.tally.forget(&want);
            }
            self.tidy(log);
        }
    }

    /// This peer does not have the batch, whatever it said.
    pub fn deny(&mut self, log: &LogKey, place: &Place, peer: &Author) {
        if let Some(want) = self.logs.get_mut(log).and_then(|wants| wants.places.get_mut(place)) {
            self.tally.remove_source(want, peer);
            want.denied.insert(*peer, ());
        }
    }

    /// Whether the peer said that it lacks the batch.
    #[must_use]
    pub fn was_denied(&self, log: &LogKey, place: &Place, peer: &Author) -> bool {
        let want = self.logs.get(log).and_then(|wants| wants.places.get(place));
        want.is_some_and(|want| want.denied.contains_key(peer))
    }

    /// What is wanted of a log and not being written yet.
    #[must_use]
    pub fn open(&self, log: &LogKey) -> Vec<Place> {
        let Some(wants) = self.logs.get(log) else { return Vec::new() };
        wants.places.iter().filter(|(_, want)| !want.arriving).map(|(place, _)| *place).collect()
    }

    /// All that is wanted of a log.
    #[must_use]
    pub fn places(&self, log: &LogKey) -> BTreeSet<Place> {
        self.logs.get(log).map(|wants| wants.places.keys().copied().collect()).unwrap_or_default()
    }

    /// Forgets all wants of the logs that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&LogKey) -> bool) {
        let tally = &mut self.tally;
        self.logs.retain(|log, wants| {
            let keep = keep(log);
            if !keep {
                std::mem::take(&mut wants.places).into_values().for_each(|want| tally.forget(&want));
            }
            keep
        });
    }

    fn tidy(&mut self, log: &LogKey) {
        if self.logs.get(log).is_some_and(|wants| wants.places.is_empty() && wants.pull.is_none()) {
            self.logs.remove(log);
        }
    }

    /// The peer is gone: its pulls end, and what only it had stays known but cannot be fetched.
    pub fn peer_down(&mut self, peer: &Author) {
        let ended: Vec<u64> = self.pulls.iter().filter(|(_, pull)| pull.peer == *peer).map(|(id, _)| *id).collect();
        for id in ended {
            self.end(id);
        }
        self.silent_since_ms.remove(peer);
        for wants in self.logs.values_mut() {
            wants.floors.remove(peer);
            wants.avoided.remove(peer);
            for want in wants.places.values_mut() {
                self.tally.remove_source(want, peer);
            }
        }
    }

    /// The peer brought nothing of what it announced: others are asked first. When it never does, it has it no more.
    pub fn avoid(&mut self, log: &LogKey, peer: Author, now_ms: u64) {
        if let Some(wants) = self.logs.get_mut(log) {
            let (_, before_ms) = wants.avoided.get(&peer).copied().unwrap_or_default();
            if before_ms >= MAX_AVOID_MS {
                for want in wants.places.values_mut().filter(|want| !want.arriving) {
                    self.tally.remove_source(want, &peer);
                }
            }
            let avoid_ms = (before_ms * 2).clamp(AVOID_MS, MAX_AVOID_MS);
            wants.avoided.insert(peer, (now_ms + avoid_ms, avoid_ms));
        }
    }

    /// The peer served a range and did not bring the batch that it ends with. Where it never announced that very batch it
    /// need not have it, and is not asked again; otherwise others are asked first.
    pub fn lacks(&mut self, log: &LogKey, place: &Place, peer: Author, now_ms: u64) {
        let want = self.logs.get(log).and_then(|wants| wants.places.get(place));
        if want.is_some_and(|want| want.inner) {
            self.deny(log, place, &peer);
        } else {
            self.avoid(log, peer, now_ms);
        }
    }

    /// The peer does not deliver what it has: it is not asked for this log for the longest time.
    pub fn avoid_long(&mut self, log: &LogKey, peer: Author, now_ms: u64) {
        if let Some(wants) = self.logs.get_mut(log) {
            wants.avoided.insert(peer, (now_ms + MAX_AVOID_MS, MAX_AVOID_MS));
        }
    }

    /// Ends the pulls whose deadline has passed, whose peers are avoided for a while, and gives up what nobody has.
    /// Returns peers that have long brought nothing at all.
    pub fn expire(&mut self, now_ms: u64) -> BTreeSet<Author> {
        self.sweep(now_ms);
        let late: Vec<u64> =
            self.pulls.iter().filter(|(_, pull)| pull.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        let mut silent = BTreeSet::new();
        for id in late {
            let since_ms = self.pulls.get(&id).and_then(|pull| self.silent_since_ms.get(&pull.peer)).copied();
            if let Some(pull) = self.end(id) {
                for range in &pull.ranges {
                    self.avoid(&range.log, pull.peer, now_ms);
                }
                if since_ms.is_some_and(|since_ms| now_ms >= since_ms + SILENCE_MS) {
                    silent.insert(pull.peer);
                }
            }
        }
        silent
    }

    /// How many events this peer is known to have that are not here, given each log's record.
    #[must_use]
    pub fn behind(&self, peer: &Author, last_seq: impl Fn(&LogKey) -> u64) -> u64 {
        let of_peer = |(log, wants): (&LogKey, &LogWants)| {
            let top = wants
                .places
                .iter()
                .filter(|(_, want)| want.peers.contains_key(peer))
                .map(|(place, _)| place.0)
                .max()?;
            Some(top.saturating_sub(last_seq(log)).max(1))
        };
        self.logs.iter().filter_map(of_peer).fold(0, u64::saturating_add)
    }

    /// Whether the peer has anything that is wanted and was known when `serial` was the newest.
    #[must_use]
    pub fn has_since(&self, peer: &Author, serial: u64) -> bool {
        let old = |want: &Want| want.serial <= serial && want.peers.contains_key(peer);
        self.logs.values().any(|wants| wants.places.values().any(old))
    }

    /// Batches that are wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tally.all
    }

    /// The newest want's serial number.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.last_serial
    }

    /// Logs with wants, and up to where.
    pub fn iter(&self) -> impl Iterator<Item = (&LogKey, u64)> {
        self.logs.iter().filter_map(|(log, wants)| Some((log, wants.places.keys().map(|place| place.0).max()?)))
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }
}
