//! One want, and how many there are.

use std::collections::BTreeMap;

use super::small_map::SmallMap;
use super::{MAX_WANTS, MAX_WANTS_OF_PEER};
use crate::ids::Author;

/// A batch that is wanted.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) peers: SmallMap<Author, ()>,
    pub(super) serial: u64,
    pub(super) due_ms: u64,
    /// It is being written.
    pub(super) arriving: bool,
    /// Peers that said that they lack it.
    pub(super) denied: SmallMap<Author, ()>,
    /// Not announced as a tip but found missing, so that a new announcement does not take it back.
    pub(super) inner: bool,
    /// Whose pull brought it last, whatever became of it.
    pub(super) brought_by: Option<Author>,
    /// Since when nobody says to have it.
    pub(super) orphaned_ms: Option<u64>,
}

impl Want {
    pub(super) fn new(serial: u64, due_ms: u64, inner: bool) -> Self {
        let (peers, denied) = (SmallMap::default(), SmallMap::default());
        Self { peers, serial, due_ms, arriving: false, denied, inner, brought_by: None, orphaned_ms: None }
    }
}

/// How many wants there are, in all and by the peers that are to have them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) all: usize,
    pub(super) by_peer: BTreeMap<Author, usize>,
}

impl Tally {
    pub(super) fn has_room(&self, peer: &Author) -> bool {
        self.all < MAX_WANTS && self.by_peer.get(peer).copied().unwrap_or(0) < MAX_WANTS_OF_PEER
    }

    pub(super) fn add_source(&mut self, want: &mut Want, peer: Author) {
        want.orphaned_ms = None;
        if want.peers.insert(peer, ()).is_none() {
            *self.by_peer.entry(peer).or_default() += 1;
        }
    }

    pub(super) fn remove_source(&mut self, want: &mut Want, peer: &Author) -> bool {
        let removed = want.peers.remove(peer).is_some();
        if removed {
            self.release(peer);
        }
        removed
    }

    fn release(&mut self, peer: &Author) {
        if let Some(count) = self.by_peer.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(peer);
            }
        }
    }

    pub(super) fn forget(&mut self, want: &Want) {
        self.all -= 1;
        want.peers.keys().for_each(|peer| self.release(peer));
    }
}
