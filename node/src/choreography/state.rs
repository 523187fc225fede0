//! What the thread that judges shares with those who ask.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::RwLock;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use tokio::sync::{broadcast, watch};

use super::catalog::Catalog;
use super::judging::{Judging, Sizes};
use super::observer::Change;
use crate::log::LogReader;

/// All that is known of choreographies.
#[derive(Default)]
pub(super) struct State {
    pub(super) catalog: Catalog,
    /// Declarations that arrived up to here are known.
    pub(super) catalog_upto: Arrival,
    pub(super) judged: BTreeMap<String, Judging>,
    /// Choreographies whose log is read again, since a version was published. What was said before is said until then.
    pub(super) rereading: BTreeSet<String>,
}

impl State {
    /// The instances of all choreographies together.
    pub(super) fn sizes(&self) -> Sizes {
        self.judged.values().map(Judging::sizes).fold(Sizes::default(), |all, sizes| all + sizes)
    }

    /// Forgets the instances that ended longest ago, of whatever choreography, when the limits are near.
    pub(super) fn make_room(&mut self) {
        let mut sizes = self.sizes();
        if !sizes.exceed(&Sizes::FULL) {
            return;
        }
        while sizes.exceed(&Sizes::TARGET) {
            let first = self.judged.values_mut().filter_map(|judging| Some((judging.first_end()?, judging)));
            let Some((_, judging)) = first.min_by_key(|(ended, _): &(Hlc, _)| *ended) else { return };
            judging.forget_first();
            sizes = self.sizes();
        }
    }

    /// Up to where a choreography was folded; one that is not known, up to where it is known that there is none.
    pub(super) fn folded(&self, choreography: &str) -> Arrival {
        self.judged.get(choreography).map_or(self.catalog_upto, |judging| judging.folded.min(self.catalog_upto))
    }

    /// Up to where all of them were.
    pub(super) fn all_folded(&self) -> Arrival {
        self.judged.values().map(|judging| judging.folded).fold(self.catalog_upto, Arrival::min)
    }
}

/// What is behind every handle of an observer.
pub(super) struct Shared {
    pub(super) log: LogReader,
    pub(super) state: RwLock<State>,
    /// Counts the times that the thread got on. Closed when it has ended.
    pub(super) turns: watch::Receiver<u64>,
    pub(super) changes: broadcast::Sender<Change>,
}

#[cfg(test)]
mod tests {
    use super::super::judging::tests::{event, judging};
    use super::*;

    #[test]
    fn room_is_made_where_instances_ended_first_whatever_their_choreography() {
        let mut state = State::default();
        for (name, from, count) in [("first", 0, 30_000), ("second", 30_000, 40_000)] {
            let mut judging = judging();
            for n in from..from + count {
                let id = n.to_string();
                judging.take(vec![event(n, "asked", &id), event(n + 1, "answered", &id)], Sizes::LIMIT);
            }
            state.judged.insert(name.to_owned(), judging);
        }
        assert_eq!(state.sizes().instances, 70_000);
        state.make_room();
        assert_eq!(state.sizes().instances, Sizes::TARGET.instances);
        let forgotten = (70_000 - Sizes::TARGET.instances) as u64;
        assert_eq!(state.judged["first"].counts.forgotten, forgotten);
        assert!(state.judged["first"].instance(&forgotten.to_string()).is_some());
        assert!(state.judged["first"].has_forgotten(&(forgotten - 1).to_string()));
        state.make_room();
        assert_eq!(state.judged["first"].counts.forgotten, forgotten, "there is room");
    }
}
