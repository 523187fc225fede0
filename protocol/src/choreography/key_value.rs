//! A view that needs no code: of each key the last value, whatever the values are.
//!
//! The last writer wins, in total order. An event that was published twice counts where it is first: a repeat that came by
//! another node, behind what replaced it, would bring an old value back. It is known for a repeat among the last
//! [`MAX_REMEMBERED`] events of its key.

use std::collections::VecDeque;

use super::frontier::Frontier;
use super::view::{Bounds, View};

/// Events of a key by which repeats are known.
pub const MAX_REMEMBERED: usize = 16;

/// The name of an event, source and id, as a digest: see [`name_of`].
pub type Name = [u8; 16];

/// The name of the event with this source and id.
#[must_use]
pub fn name_of(source: &str, id: &str) -> Name {
    let mut hasher = blake3::Hasher::new();
    // With its length before it, no source can be mistaken for another that goes on in its id.
    hasher.update(&(source.len() as u64).to_le_bytes()).update(source.as_bytes()).update(id.as_bytes());
    let mut name = [0; 16];
    hasher.finalize_xof().fill(&mut name);
    name
}

/// An event that gives a key a value, or takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write<V> {
    /// Which event it is.
    pub name: Name,
    /// The value. None: the key has none from here on.
    pub value: Option<V>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot<V> {
    value: Option<V>,
    recent: VecDeque<Name>,
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self { value: None, recent: VecDeque::new() }
    }
}

impl<V: Clone> Slot<V> {
    /// Its value.
    #[must_use]
    pub fn value(&self) -> Option<&V> {
        self.value.as_ref()
    }

    fn write(&mut self, write: &Write<V>) {
        if self.recent.contains(&write.name) {
            return;
        }
        if self.recent.len() >= MAX_REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(write.name);
        self.value.clone_from(&write.value);
    }
}

/// A view of values by key.
pub type KeyValue<V> = View<Slot<V>, Write<V>>;

impl<V: Clone> KeyValue<V> {
    /// An empty view of values.
    #[must_use]
    pub fn key_value(bounds: Bounds, frontier: Frontier) -> Self {
        Self::new(|slot, _, write| slot.write(write), bounds, frontier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Rank;
    use super::super::view::Input;
    use super::*;
    use crate::hlc::Hlc;
    use crate::ids::Author;

    fn write(stamp: u64, id: &str, value: &'static str) -> Input<Write<&'static str>> {
        let value = Some(value).filter(|value| !value.is_empty());
        Input {
            rank: Rank { stamp: Hlc(stamp), ..Rank::default() },
            author: Author([1; 32]),
            key: "k".to_owned(),
            event: Write { name: name_of("/s", id), value },
        }
    }

    fn read(writes: &[Input<Write<&'static str>>]) -> Option<&'static str> {
        let mut view = KeyValue::key_value(Bounds::default(), Frontier::default());
        writes.iter().for_each(|write| drop(view.take([write.clone()])));
        view.tentative("k").and_then(|slot| slot.value().copied())
    }

    #[test]
    fn the_last_writer_wins_in_total_order() {
        let (old, new, gone) = (write(10, "a", "old"), write(20, "b", "new"), write(30, "c", ""));
        assert_eq!(read(&[new.clone(), old.clone()]), Some("new"));
        assert_eq!(read(&[gone.clone(), new.clone(), old.clone()]), None);
        assert_eq!(read(&[gone, write(40, "d", "again"), new, old]), Some("again"));
    }

    #[test]
    fn a_repeat_behind_what_replaced_it_changes_nothing() {
        let (first, second, repeat) = (write(10, "a", "one"), write(20, "b", "two"), write(30, "a", "one"));
        assert_eq!(read(&[first.clone(), second.clone(), repeat.clone()]), Some("two"));
        assert_eq!(read(&[repeat.clone(), second.clone()]), Some("one"), "as long as the first is not here");
        assert_eq!(read(&[repeat, second, first]), Some("two"));
        assert_ne!(name_of("/a", "b/c"), name_of("/a/b", "c"));
    }
}
