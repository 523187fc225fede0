//! What cannot change any more: up to which stamp the events of all authors that matter are here.
//!
//! Stamps rise along a log. So when an author's log was received without gaps up to a stamp, nothing of that author is
//! still to come at or before it, and when that holds for every author that was declared, nothing is at all. Authors
//! that are left out, since they are silent or unknown, may still come with something earlier: an *exception*.

use std::collections::BTreeMap;

use super::rank::Rank;
use crate::hlc::Hlc;
use crate::ids::Author;

/// Authors of a frontier.
pub const MAX_AUTHORS: usize = 4096;

/// Up to where each declared author was received, in chain order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    authors: BTreeMap<Author, Hlc>,
    /// What was stable once: it never goes back, also when an author joins.
    stable: Hlc,
}

impl Frontier {
    /// A frontier of these authors, of which nothing was received. Authors beyond [`MAX_AUTHORS`] are left out.
    #[must_use]
    pub fn new(authors: impl IntoIterator<Item = Author>) -> Self {
        let authors = authors.into_iter().take(MAX_AUTHORS).map(|author| (author, Hlc(0))).collect();
        Self { authors, stable: Hlc(0) }
    }

    /// Declares one more author; what is stable stays so. False when there are too many.
    pub fn declare(&mut self, author: Author) -> bool {
        if self.authors.len() >= MAX_AUTHORS {
            return self.authors.contains_key(&author);
        }
        self.authors.entry(author).or_insert(Hlc(0));
        true
    }

    /// Goes on without an author, so that its silence holds nothing up.
    pub fn leave_out(&mut self, author: &Author) -> bool {
        let was_there = self.authors.remove(author).is_some();
        self.raise();
        was_there
    }

    /// Notes that everything of an author up to a stamp is here. Says whether more is stable now.
    pub fn receive(&mut self, author: &Author, upto: Hlc) -> bool {
        if let Some(received) = self.authors.get_mut(author) {
            *received = (*received).max(upto);
        }
        self.raise()
    }

    /// Notes that everything at or before a stamp is here, which is known otherwise than by what is received of each author.
    pub fn raise_to(&mut self, stable: Hlc) {
        self.stable = self.stable.max(stable);
    }

    fn raise(&mut self) -> bool {
        let before = self.stable;
        self.stable = before.max(self.authors.values().copied().min().unwrap_or_default());
        self.stable > before
    }

    /// Everything at or before this stamp is here. Zero while nothing is known of some author, or none is declared.
    #[must_use]
    pub fn stable(&self) -> Hlc {
        self.stable
    }

    /// The author that holds up what is stable, and up to where it was received.
    #[must_use]
    pub fn slowest(&self) -> Option<(Author, Hlc)> {
        self.authors.iter().min_by_key(|(_, received)| **received).map(|(author, received)| (*author, *received))
    }

    /// Whether an event that comes now is an exception: it is at or before what is stable.
    #[must_use]
    pub fn is_exception(&self, rank: &Rank) -> bool {
        rank.stamp <= self.stable
    }

    /// Declared authors, and up to where each was received.
    #[must_use]
    pub fn authors(&self) -> &BTreeMap<Author, Hlc> {
        &self.authors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(n: u8) -> Author {
        Author([n; 32])
    }

    #[test]
    fn the_slowest_author_says_what_is_stable() {
        let mut frontier = Frontier::new([author(1), author(2)]);
        assert!(!frontier.receive(&author(1), Hlc(10)));
        assert!(!frontier.receive(&author(9), Hlc(90)), "a stranger's events say nothing of the others");
        assert_eq!((frontier.stable(), frontier.slowest()), (Hlc(0), Some((author(2), Hlc(0)))));
        assert!(frontier.receive(&author(2), Hlc(7)));
        assert!(!frontier.receive(&author(2), Hlc(3)), "a frontier does not go back");
        assert_eq!(frontier.stable(), Hlc(7));
        let at = |stamp| Rank { stamp: Hlc(stamp), ..Rank::default() };
        assert!(frontier.is_exception(&at(7)) && !frontier.is_exception(&at(8)));
    }

    #[test]
    fn who_is_left_out_holds_nothing_up_and_who_joins_takes_nothing_back() {
        let mut frontier = Frontier::new([author(1), author(2)]);
        frontier.receive(&author(1), Hlc(10));
        assert!(frontier.leave_out(&author(2)));
        assert_eq!(frontier.stable(), Hlc(10));
        assert!(frontier.declare(author(3)));
        assert!(!frontier.receive(&author(1), Hlc(20)));
        assert_eq!(frontier.stable(), Hlc(10));
        assert_eq!(Frontier::new([]).stable(), Hlc(0), "without authors nothing is stable");
    }
}
