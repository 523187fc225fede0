//! Folds that count each event once.
//!
//! An event that was published twice, by way of two nodes or after a restore, is in the log twice, with one source and id. It
//! counts where it is first in total order. It is known for a repeat among the last so many events of its key.

use std::collections::VecDeque;

use super::frontier::Frontier;
use super::rank::Rank;
use super::view::{Bounds, Step, View};

/// Events of a key by which repeats are known in a fold of one's own.
pub const MAX_COUNTED: usize = 256;

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

/// A state, and the events that it was folded from last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Once<S> {
    state: S,
    recent: VecDeque<Name>,
}

impl<S> Once<S> {
    /// The state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The state.
    #[must_use]
    pub fn into_state(self) -> S {
        self.state
    }

    /// Changes the state with an event, unless it is among the last `remembered` ones.
    pub(super) fn count(&mut self, name: Name, remembered: usize, change: impl FnOnce(&mut S)) {
        if self.recent.contains(&name) {
            return;
        }
        if self.recent.len() >= remembered {
            self.recent.pop_front();
        }
        self.recent.push_back(name);
        change(&mut self.state);
    }
}

/// An event for a fold that counts it once.
#[derive(Debug, Clone)]
pub struct Counted<S, E> {
    /// Which event it is.
    pub name: Name,
    /// What of it is folded.
    pub event: E,
    /// How the state changes with it.
    pub step: Step<S, E>,
}

/// A view that counts each event once.
pub type OnceView<S, E> = View<Once<S>, Counted<S, E>>;

impl<S: Clone + Default, E> OnceView<S, E> {
    /// An empty view.
    #[must_use]
    pub fn once(bounds: Bounds, frontier: Frontier) -> Self {
        let step: Step<Once<S>, Counted<S, E>> = |kept: &mut Once<S>, rank: &Rank, counted: &Counted<S, E>| {
            kept.count(counted.name, MAX_COUNTED, |state| (counted.step)(state, rank, &counted.event));
        };
        Self::new(step, bounds, frontier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Input;
    use super::*;
    use crate::hlc::Hlc;
    use crate::ids::Author;

    #[test]
    fn what_was_published_twice_counts_where_it_is_first() {
        let input = |stamp: u64, id: &str, amount: u64| Input {
            rank: Rank { stamp: Hlc(stamp), ..Rank::default() },
            author: Author([1; 32]),
            key: "k".to_owned(),
            event: Counted {
                name: name_of("/s", id),
                event: amount,
                step: |sums: &mut Vec<u64>, _: &Rank, amount: &u64| sums.push(*amount),
            },
        };
        let mut view = OnceView::once(Bounds::default(), Frontier::default());
        view.take([input(30, "a", 3), input(20, "b", 2)]);
        assert_eq!(view.tentative("k").map(Once::state), Some(&vec![2, 3]));
        view.take([input(10, "a", 1)]);
        assert_eq!(view.tentative("k").map(Once::state), Some(&vec![1, 2]), "the later one is the repeat");
        assert_ne!(name_of("/a", "b/c"), name_of("/a/b", "c"));
    }
}
