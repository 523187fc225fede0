//! What is remembered of peers, so that the next meeting starts where the last one ended.

use super::{Replica, Room};
use crate::frame::Memory;
use crate::heads::LogKey;
use crate::ids::Author;
use crate::sign::Signer;
use crate::write_set::WriteSet;

/// What is remembered of peers is written at most so often.
const MEMORY_MS: u64 = 5_000;
/// Marks in the store under which peers are remembered; the peer's 32 bytes follow.
pub const MEMORY_MARK: &[u8] = b"peer/";

impl<S: Signer> Replica<S> {
    pub(super) fn remember_peers(&mut self) {
        if self.memories_at_ms <= self.now.mono_ms {
            self.memories_at_ms = self.now.mono_ms + MEMORY_MS;
            self.remember(None);
        }
    }

    /// Writes up to where the heads of peers are known, and covered here, so that the next meeting starts from there.
    pub(super) fn remember(&mut self, only: Option<Author>) {
        // What is not written now is written once there is room.
        if self.room == Room::None {
            return;
        }
        let mut set = WriteSet::default();
        let mut memories = Vec::new();
        for (peer, link) in self.links.iter_mut().filter(|(peer, _)| only.is_none_or(|only| only == **peer)) {
            let (Some(position), Some(known)) = (link.known, &link.peer) else { continue };
            let memory = Memory { position, common: self.interest.fingerprint(&known.interest) };
            if link.memory == Some(memory) || self.wants.has_since(peer, link.known_serial) {
                continue;
            }
            link.memory = Some(memory);
            set.marks.push(([MEMORY_MARK, &peer.0].concat(), Some(memory.encode())));
            memories.push((*peer, memory));
        }
        for topic in self.own.take_announced() {
            let key = LogKey { topic, author: self.me };
            if let Some(record) = self.latest(&key) {
                set.logs.push(record.clone());
            }
        }
        if !set.is_empty() {
            self.write(set, super::publish::OwnWrite::default(), memories);
        }
    }
}
