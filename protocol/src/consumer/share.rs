//! Groups: which keys are this member's, and what others have done.

use super::place::{Identity, Key, owner};
use super::{Consumer, Slot, Stage};

/// Which keys are this member's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The group.
    pub group: String,
    /// This member.
    pub me: [u8; 32],
    /// All members that are alive, this one among them, rising.
    pub members: Vec<[u8; 32]>,
    /// The members before these, while it may be that not all that they did has come: a key is this member's only when
    /// it was before, too.
    pub before: Option<Vec<[u8; 32]>>,
}

impl Share {
    pub(super) fn has(&self, key: &[u8; 16]) -> bool {
        let mine = |members: &[[u8; 32]]| owner(&self.group, members, key) == Some(&self.me);
        mine(&self.members) && self.before.as_deref().is_none_or(mine)
    }
}

impl Consumer {
    /// Another member did an event, which is known by its identity. Says whether it was one of those that are here.
    pub fn done_elsewhere(&mut self, identity: Identity) -> bool {
        let Some(slot) = self.identities.get(&identity).copied() else {
            self.early.insert(identity);
            return false;
        };
        if self.entries.get(&slot).is_some_and(|entry| matches!(entry.stage, Stage::Settling { .. })) {
            // When what is being written of it is refused, it is done all the same.
            self.early.insert(identity);
        } else {
            self.confirm(&[slot]);
        }
        true
    }

    /// Whether another member did an event while this one was writing what became of it: then it is done.
    pub(super) fn take_done_elsewhere(&mut self, slot: Slot) -> bool {
        let identity = self.entries.get(&slot).filter(|_| slot.letter == 0).map(|entry| entry.identity);
        identity.is_some_and(|identity| self.early.take(&identity))
    }

    /// What an event here is recognised by.
    #[must_use]
    pub fn identity(&self, slot: &Slot) -> Option<Identity> {
        self.entries.get(slot).map(|entry| entry.identity)
    }

    /// The members, or this one's share, changed: events of keys that are not its own are not delivered, and are not
    /// done either.
    pub fn set_share(&mut self, share: Option<Share>) {
        if self.share == share {
            return;
        }
        self.share = share;
        let slots: Vec<(Slot, Option<Key>)> = self.entries.iter().map(|(slot, entry)| (*slot, entry.key)).collect();
        for (slot, entry) in &mut self.entries {
            let foreign = self.share.as_ref().is_some_and(|share| !share.has(&entry.share()));
            entry.foreign = foreign && slot.letter == 0;
        }
        for (slot, key) in slots {
            self.look_at(slot, key);
        }
    }

    /// The first event that is not done, when it is another member's: no floor passes it before that member's progress
    /// has come.
    #[must_use]
    pub fn first_of_others(&self) -> Option<Slot> {
        let first = self.entries.iter().find(|(slot, entry)| slot.letter == 0 && entry.stage != Stage::Done);
        let foreign = first.filter(|(_, entry)| entry.foreign && matches!(entry.stage, Stage::Open { .. }));
        foreign.map(|(slot, _)| *slot)
    }
}
