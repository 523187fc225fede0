//! A view that needs no code: of each key the last value, whatever the values are.
//!
//! The last writer wins, in total order. An event that was published twice counts where it is first (see
//! [`once`](super::once)): a repeat that came by another node, behind what replaced it, would bring an old value back. It is
//! known for a repeat among the last [`MAX_REMEMBERED`] events of its key.

use super::frontier::Frontier;
use super::once::{Name, Once};
use super::rank::Rank;
use super::view::{Bounds, View};

/// Events of a key by which repeats are known.
pub const MAX_REMEMBERED: usize = 16;

/// An event that gives a key a value, or takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write<V> {
    /// Which event it is.
    pub name: Name,
    /// The value. None: the key has none from here on.
    pub value: Option<V>,
}

/// What is known of a key.
pub type Slot<V> = Once<Option<V>>;

/// A view of values by key.
pub type KeyValue<V> = View<Slot<V>, Write<V>>;

impl<V: Clone> KeyValue<V> {
    /// An empty view of values.
    #[must_use]
    pub fn key_value(bounds: Bounds, frontier: Frontier) -> Self {
        let step = |slot: &mut Slot<V>, _: &Rank, write: &Write<V>| {
            slot.count(write.name, MAX_REMEMBERED, |value| value.clone_from(&write.value));
        };
        Self::new(step, bounds, frontier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::once::name_of;
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
        view.tentative("k").and_then(|slot| *slot.state())
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
    }
}
