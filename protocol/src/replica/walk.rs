//! A walk over a keyed topic: which of its batches have no event that is the last of its key.
//!
//! It goes back from what arrived last, so that mostly the last event of a key is met before those that it supersedes, and
//! remembers it to the end. Of the batches it remembers so many at a time: what they are known not to keep goes, before it
//! goes on with those that arrived earlier.

use std::collections::BTreeMap;

use super::OldBatch;
use super::compact::{KeyHash, KeyedBatch};
use super::survey::Amount;
use crate::hlc::Hlc;
use crate::ids::{Arrival, BatchHash};
use crate::planted::{Fault, Planted};
use crate::topic::Topic;

/// Batches that a walk remembers at once.
pub const MAX_WALKED_BATCHES: usize = 262_144;
/// Keys that one walk remembers. Events of further ones stay until it has fewer.
pub const MAX_WALKED_KEYS: usize = 262_144;

/// A walk over one topic.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) topic: Topic,
    pub(super) begun_ms: u64,
    /// What arrived before this is still to be looked at.
    pub(super) before: Arrival,
    /// All was looked at.
    pub(super) ended: bool,
    /// Events of the batches that were looked at, without those that went.
    pub(super) events: u64,
    /// Of these, superseded own ones that no peer has announced yet.
    pub(super) later: Amount,
    /// Whether what is missing in holes counts as pruned.
    pub(super) passes_holes: bool,
    /// Something superseded could not go because of a hole below it.
    pub(super) hindered: bool,
    /// What goes, the last first, once as much as it can remember was listed.
    pub(super) gone: Option<Vec<OldBatch>>,
    max_batches: usize,
    batches: Vec<Walking>,
    /// Batches that were looked at before the present ones.
    passed: usize,
    newest: BTreeMap<KeyHash, Newest>,
}

#[derive(Debug)]
struct Walking {
    batch: OldBatch,
    /// Events that stay: those that are the last of their key, and one for all that have none.
    lasting: u32,
}

/// The last event of a key, as far as is known, and which of the walk's batches has it.
#[derive(Debug)]
struct Newest {
    at: (Hlc, BatchHash),
    place: usize,
}

impl Walk {
    /// Over all that arrived before.
    pub(super) fn new(topic: Topic, before: Arrival, now_ms: u64, passes_holes: bool) -> Self {
        Self {
            topic,
            begun_ms: now_ms,
            before,
            ended: false,
            events: 0,
            later: Amount::default(),
            passes_holes,
            hindered: false,
            gone: None,
            max_batches: MAX_WALKED_BATCHES,
            batches: Vec::new(),
            passed: 0,
            newest: BTreeMap::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.batches.len() >= self.max_batches
    }

    /// Takes a batch. What is stamped beyond `upto` lasts and supersedes nothing.
    pub(super) fn take(&mut self, KeyedBatch { batch, keys, keyless }: KeyedBatch, upto: Hlc, planted: Planted) {
        let place = self.passed + self.batches.len();
        let mut lasting = u32::from(keyless);
        for (key, hlc) in keys {
            let at = (hlc, batch.hash);
            if hlc > upto {
                lasting += 1;
                continue;
            }
            match self.newest.get_mut(&key) {
                Some(newest) if newest.at < at && !planted.is(Fault::SupersedeByArrival) => {
                    let known = newest.place.checked_sub(self.passed).and_then(|index| self.batches.get_mut(index));
                    if let Some(superseded) = known {
                        superseded.lasting -= 1;
                    }
                    *newest = Newest { at, place };
                    lasting += 1;
                }
                Some(_) => {}
                None => {
                    if self.newest.len() < MAX_WALKED_KEYS {
                        self.newest.insert(key, Newest { at, place });
                    }
                    lasting += 1;
                }
            }
        }
        self.events = self.events.saturating_add(Amount::of(&batch).events);
        self.batches.push(Walking { batch, lasting });
    }

    /// Says what goes of the batches that were listed, lower parts of logs before higher ones.
    pub(super) fn finish_listing(&mut self) {
        self.passed += self.batches.len();
        let batches = std::mem::take(&mut self.batches);
        let mut gone: Vec<_> =
            batches.into_iter().filter(|walking| walking.lasting == 0).map(|walking| walking.batch).collect();
        gone.sort_by(|one, other| (&other.log, other.first_seq).cmp(&(&one.log, one.first_seq)));
        self.gone = Some(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::LogKey;
    use crate::ids::Author;

    fn batch(arrival: u64, keys: &[(&str, u64)]) -> KeyedBatch {
        let log = LogKey { topic: Topic::new("a").unwrap(), author: Author([1; 32]) };
        let (seq, hash) = (arrival, BatchHash([arrival as u8; 32]));
        let last_hlc = Hlc(keys.iter().map(|(_, hlc)| *hlc).max().unwrap());
        let arrival = Arrival(arrival);
        let batch = OldBatch { arrival, log, first_seq: seq, last_seq: seq, hash, last_hlc, bytes: 1 };
        let keys = keys.iter().map(|(key, hlc)| (KeyHash::of(key), Hlc(*hlc))).collect();
        KeyedBatch { batch, keys, keyless: false }
    }

    /// What goes of these, given in order of arrival, when so many are remembered at a time.
    fn gone(max_batches: usize, batches: &[(u64, &[(&str, u64)])]) -> Vec<u64> {
        let mut walk = Walk { max_batches, ..Walk::new(Topic::new("a").unwrap(), Arrival(u64::MAX), 0, false) };
        let mut gone = Vec::new();
        for (arrival, keys) in batches.iter().rev() {
            walk.take(batch(*arrival, keys), Hlc(100), Planted::default());
            if walk.is_full() {
                walk.finish_listing();
                gone.extend(walk.gone.take().unwrap());
            }
        }
        walk.finish_listing();
        gone.extend(walk.gone.unwrap());
        let mut gone: Vec<u64> = gone.iter().map(|batch| batch.arrival.0).collect();
        gone.sort_unstable();
        gone
    }

    #[test]
    fn what_is_stamped_far_ahead_lasts_and_supersedes_nothing() {
        let batches: [(u64, &[(&str, u64)]); 4] =
            [(1, &[("k", 10)]), (2, &[("k", 900)]), (3, &[("k", 20), ("l", 21)]), (4, &[("k", 30)])];
        assert_eq!(gone(100, &batches), [1]);
    }

    #[test]
    fn what_a_walk_does_not_remember_any_more_supersedes_all_the_same() {
        let batches: [(u64, &[(&str, u64)]); 6] = [
            (1, &[("k", 10)]),
            (2, &[("cold", 11)]),
            (3, &[("l", 22), ("k", 23)]),
            // Came late.
            (4, &[("l", 12)]),
            (5, &[("k", 30)]),
            (6, &[("l", 21)]),
        ];
        for max_batches in [6, 4] {
            assert_eq!(gone(max_batches, &batches), [1, 4, 6], "{max_batches} at a time");
        }
        // Here the later event is met when the batch of the earlier one is no longer known: it stays, and that is all.
        for max_batches in [1, 2, 3] {
            assert_eq!(gone(max_batches, &batches), [1, 4], "{max_batches} at a time");
        }
    }
}
