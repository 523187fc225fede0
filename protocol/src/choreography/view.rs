//! Views: for each key a state, folded from the events of a topic in total order.
//!
//! Events arrive in any order. One that comes before others of its key rolls that key back to the nearest snapshot
//! before it, and folds what follows anew, once for all that came together. So a view is the same on every node that
//! holds the same events. What is known of its certainty stands beside it:
//!
//! - *stable* is the state after all events up to the frontier of the declared authors, *tentative* after all there are;
//! - an *exception* is an event that comes at or before what was stable, from an author that was left out;
//! - a view is *partial* above a floor when events below that were pruned before it could fold them.
//!
//! A view holds a bounded number of events. The oldest go first: they are folded into the base of their key, below which
//! nothing can be rolled back. An event that comes below the base of its key is not folded; the key is then to be
//! folded again from the log, see [`Taken::stale`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::frontier::Frontier;
use super::rank::Rank;
use crate::hlc::Hlc;
use crate::ids::Author;

/// How a state changes with an event.
pub type Step<S, E> = fn(&mut S, &Rank, &E);

/// How much a view holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Keys. Events of further ones are not taken.
    pub keys: usize,
    /// Events, of all keys together, that can still be rolled back.
    pub events: usize,
    /// Events of a key between two of its snapshots.
    pub snapshot_every: usize,
    /// Exceptions that are remembered; further ones are counted.
    pub exceptions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keys: 65_536, events: 100_000, snapshot_every: 64, exceptions: 256 }
    }
}

/// An event for a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input<E> {
    /// Its place in the total order.
    pub rank: Rank,
    /// Who published it.
    pub author: Author,
    /// Its key, or correlation id.
    pub key: String,
    /// What of it is folded.
    pub event: E,
}

/// An event that came at or before what was stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Its place in the total order.
    pub rank: Rank,
    /// Who published it.
    pub author: Author,
    /// Its key.
    pub key: String,
}

/// What became of events that were taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Keys of which the state may have changed.
    pub changed: BTreeSet<String>,
    /// Keys below whose base an event came: give all events of the key again, to [`View::take_again`].
    pub stale: BTreeSet<String>,
    /// Events that were here already.
    pub known: usize,
    /// Events of keys that the view has no room for.
    pub refused: usize,
    /// Events that were exceptions.
    pub exceptions: usize,
    /// Keys that were rolled back.
    pub rolled_back: usize,
    /// Events that were folded again for it.
    pub refolded: usize,
}

/// States by key. `S` begins with its default.
#[derive(Debug, Clone)]
pub struct View<S, E> {
    step: Step<S, E>,
    bounds: Bounds,
    frontier: Frontier,
    lanes: BTreeMap<String, Lane<S, E>>,
    /// Events that can be rolled back, with their keys: the first is the first to go.
    held: BTreeMap<Rank, String>,
    partial_above: Option<Hlc>,
    exceptions: Vec<Exception>,
    further_exceptions: u64,
}

/// One key.
#[derive(Debug, Clone)]
struct Lane<S, E> {
    /// The state after all events that cannot be rolled back any more.
    base: S,
    /// The last of those.
    base_at: Option<Rank>,
    events: BTreeMap<Rank, E>,
    /// States after some of these events, by the last one.
    snapshots: BTreeMap<Rank, S>,
    since_snapshot: usize,
    state: S,
    /// The first event that came before others.
    late: Option<Rank>,
}

impl<S: Clone + Default, E> View<S, E> {
    /// An empty view.
    #[must_use]
    pub fn new(step: Step<S, E>, bounds: Bounds, frontier: Frontier) -> Self {
        Self {
            step,
            bounds,
            frontier,
            lanes: BTreeMap::new(),
            held: BTreeMap::new(),
            partial_above: None,
            exceptions: Vec::new(),
            further_exceptions: 0,
        }
    }

    /// Takes events, in any order.
    pub fn take(&mut self, inputs: impl IntoIterator<Item = Input<E>>) -> Taken {
        let mut taken = Taken::default();
        for input in inputs {
            self.insert(input, &mut taken);
        }
        for key in &taken.changed {
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            if let Some(refolded) = lane.settle(self.step, self.bounds.snapshot_every) {
                taken.rolled_back += 1;
                taken.refolded += refolded;
            }
        }
        self.let_go();
        taken
    }

    fn insert(&mut self, input: Input<E>, taken: &mut Taken) {
        let Input { rank, author, key, event } = input;
        if self.held.contains_key(&rank) {
            taken.known += 1;
            return;
        }
        let room = self.lanes.len() < self.bounds.keys;
        let lane = match self.lanes.entry(key.clone()) {
            Entry::Occupied(lane) => lane.into_mut(),
            Entry::Vacant(lane) if room => lane.insert(Lane::new()),
            Entry::Vacant(_) => {
                taken.refused += 1;
                return;
            }
        };
        if lane.base_at == Some(rank) {
            taken.known += 1;
            return;
        }
        if self.frontier.is_exception(&rank) {
            taken.exceptions += 1;
            if self.exceptions.len() < self.bounds.exceptions {
                self.exceptions.push(Exception { rank, author, key: key.clone() });
            } else {
                self.further_exceptions += 1;
            }
        }
        if lane.base_at.is_some_and(|base| rank < base) {
            taken.stale.insert(key);
            return;
        }
        lane.insert(rank, event, self.step, self.bounds.snapshot_every);
        self.held.insert(rank, key.clone());
        taken.changed.insert(key);
    }

    /// Folds the oldest events into the bases of their keys until few enough are held.
    fn let_go(&mut self) {
        while self.held.len() > self.bounds.events {
            let Some((rank, key)) = self.held.pop_first() else { return };
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.let_go(&rank, self.step);
            }
        }
    }

    /// Forgets a key, so that its events can be given again from the log.
    pub fn restart(&mut self, key: &str) -> bool {
        let Some(lane) = self.lanes.remove(key) else { return false };
        lane.events.keys().for_each(|rank| {
            self.held.remove(rank);
        });
        true
    }

    /// Folds keys anew, which is given all of their events. What of these was an exception was counted when it first came.
    pub fn take_again(&mut self, stale: &BTreeSet<String>, inputs: impl IntoIterator<Item = Input<E>>) -> Taken {
        for key in stale {
            self.restart(key);
        }
        let counted = (std::mem::take(&mut self.exceptions), self.further_exceptions);
        let taken = Taken { exceptions: 0, ..self.take(inputs) };
        (self.exceptions, self.further_exceptions) = counted;
        taken
    }

    /// Notes that everything of an author up to a stamp was taken. Says whether more is stable now.
    pub fn receive(&mut self, author: &Author, upto: Hlc) -> bool {
        self.frontier.receive(author, upto)
    }

    /// Notes that events up to a stamp had been pruned before they could be taken: the view is partial above it.
    pub fn miss(&mut self, upto: Hlc) {
        self.partial_above = self.partial_above.max(Some(upto));
    }

    /// The stamp above which the view is whole, when it is partial.
    #[must_use]
    pub fn partial_above(&self) -> Option<Hlc> {
        self.partial_above
    }

    /// A key's state after all events that there are.
    #[must_use]
    pub fn tentative(&self, key: &str) -> Option<&S> {
        self.lanes.get(key).map(|lane| &lane.state)
    }

    /// A key's state after all events up to the frontier. `None` when the key is not there, or when its base is beyond
    /// the frontier: more events came than can be rolled back.
    #[must_use]
    pub fn stable(&self, key: &str) -> Option<S> {
        self.lanes.get(key)?.state_upto(self.frontier.stable(), self.step)
    }

    /// Whether nothing of a key is beyond the frontier: its tentative state is its stable one.
    #[must_use]
    pub fn is_stable(&self, key: &str) -> bool {
        let last = self.lanes.get(key).and_then(Lane::last);
        last.is_none_or(|last| last.stamp <= self.frontier.stable())
    }

    /// Keys and their tentative states, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &S)> {
        self.lanes.iter().map(|(key, lane)| (key.as_str(), &lane.state))
    }

    /// The frontier.
    #[must_use]
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The frontier, to declare authors or leave some out.
    pub fn frontier_mut(&mut self) -> &mut Frontier {
        &mut self.frontier
    }

    /// Exceptions so far, the first [`Bounds::exceptions`] of them, and how many there were beyond.
    #[must_use]
    pub fn exceptions(&self) -> (&[Exception], u64) {
        (&self.exceptions, self.further_exceptions)
    }

    /// Events that can be rolled back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

impl<S: Clone + Default, E> Lane<S, E> {
    fn new() -> Self {
        Self {
            base: S::default(),
            base_at: None,
            events: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            since_snapshot: 0,
            state: S::default(),
            late: None,
        }
    }

    fn last(&self) -> Option<Rank> {
        self.events.last_key_value().map(|(rank, _)| *rank).or(self.base_at)
    }

    fn insert(&mut self, rank: Rank, event: E, step: Step<S, E>, snapshot_every: usize) {
        if self.last().is_some_and(|last| rank < last) {
            self.late = Some(self.late.map_or(rank, |late| late.min(rank)));
        } else if self.late.is_none() {
            self.fold(&rank, &event, step, snapshot_every);
        }
        self.events.insert(rank, event);
    }

    fn fold(&mut self, rank: &Rank, event: &E, step: Step<S, E>, snapshot_every: usize) {
        step(&mut self.state, rank, event);
        self.since_snapshot += 1;
        if self.since_snapshot >= snapshot_every {
            self.since_snapshot = 0;
            self.snapshots.insert(*rank, self.state.clone());
        }
    }

    /// Rolls back to before the first late event and folds what follows. Says how many events that were.
    fn settle(&mut self, step: Step<S, E>, snapshot_every: usize) -> Option<usize> {
        let late = self.late.take()?;
        self.snapshots.split_off(&late);
        let (from, state) = match self.snapshots.last_key_value() {
            Some((rank, state)) => (Some(*rank), state),
            None => (self.base_at, &self.base),
        };
        (self.state, self.since_snapshot) = (state.clone(), 0);
        let events = std::mem::take(&mut self.events);
        let mut refolded = 0;
        for (rank, event) in after(&events, from) {
            self.fold(rank, event, step, snapshot_every);
            refolded += 1;
        }
        self.events = events;
        Some(refolded)
    }

    /// Folds the first event, which has this rank, into the base.
    fn let_go(&mut self, rank: &Rank, step: Step<S, E>) {
        let Some(event) = self.events.remove(rank) else { return };
        step(&mut self.base, rank, &event);
        self.base_at = Some(*rank);
        self.snapshots.remove(rank);
    }

    fn state_upto(&self, upto: Hlc, step: Step<S, E>) -> Option<S> {
        if self.base_at.is_some_and(|base| base.stamp > upto) {
            return None;
        }
        let snapshot = self.snapshots.iter().rev().find(|(rank, _)| rank.stamp <= upto);
        let (from, mut state) = match snapshot {
            Some((rank, state)) => (Some(*rank), state.clone()),
            None => (self.base_at, self.base.clone()),
        };
        let due = after(&self.events, from).take_while(|(rank, _)| rank.stamp <= upto);
        due.for_each(|(rank, event)| step(&mut state, rank, event));
        Some(state)
    }
}

fn after<E>(events: &BTreeMap<Rank, E>, from: Option<Rank>) -> impl Iterator<Item = (&Rank, &E)> {
    events.range((from.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
}

#[cfg(test)]
mod tests;
