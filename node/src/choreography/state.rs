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
