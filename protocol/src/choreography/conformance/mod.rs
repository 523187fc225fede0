//! In which state each instance of a choreography is, and whether it keeps to its declaration.
//!
//! An instance is judged by a fold over its events in total order, so that it is the same on every node that holds them,
//! in whatever order they arrived: an event that arrives late has its instance folded anew, once for all that came with
//! it. The rules of the fold are in [`fold`]'s words.

pub mod fold;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use verdict::{Due, EventRef, Instance, Judgement, Late, Owed, Superseded, Verdict, Violation, Why, WhyNot};

use self::fold::Fold;
use super::canonical::Version;
use super::declaration::Declaration;
use super::observed::Observed;
use super::rank::Rank;
use crate::hlc::Hlc;

/// Instances that are looked after at once.
pub const MAX_INSTANCES: usize = 65_536;
/// Events of an instance that are judged: the first in total order.
pub const MAX_INSTANCE_EVENTS: usize = 4096;
/// Events of all instances together.
pub const MAX_EVENTS: usize = 262_144;
/// Versions of a choreography that are known side by side.
pub const MAX_VERSIONS: usize = 256;

/// Why a version cannot be added. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// It is of another choreography.
    #[error("'{found}' is another choreography than '{expected}': look after each by itself")]
    OtherName {
        /// What is looked after here.
        expected: String,
        /// What was to be added.
        found: String,
    },
    /// [`MAX_VERSIONS`] are known already.
    #[error(
        "{MAX_VERSIONS} versions are known already, which is the limit: begin anew with those that are still in use"
    )]
    TooMany,
}

/// The versions of a choreography by the stamp from which each holds.
#[derive(Debug, Clone)]
pub struct Versions {
    name: String,
    first: Arc<Declaration>,
    by_hash: BTreeMap<Version, Arc<Declaration>>,
    since: BTreeMap<(Hlc, Version), Arc<Declaration>>,
}

impl Versions {
    /// One version, which holds from the beginning of time.
    #[must_use]
    pub fn new(first: Declaration) -> Self {
        let (name, version, first) = (first.name().to_owned(), first.version(), Arc::new(first));
        let by_hash = [(version, first.clone())].into();
        Self { name, by_hash, since: [((Hlc(0), version), first.clone())].into(), first }
    }

    /// Adds a version for instances that begin at or after a stamp.
    ///
    /// # Errors
    /// When it is of another name, or there are too many.
    pub fn add(&mut self, declaration: Declaration, since: Hlc) -> Result<(), AddError> {
        if declaration.name() != self.name {
            let (expected, found) = (self.name.clone(), declaration.name().to_owned());
            return Err(AddError::OtherName { expected, found });
        }
        if self.since.len() >= MAX_VERSIONS {
            return Err(AddError::TooMany);
        }
        let version = declaration.version();
        let declaration = self.by_hash.entry(version).or_insert_with(|| Arc::new(declaration)).clone();
        self.since.insert((since, version), declaration);
        Ok(())
    }

    /// A version by its hash.
    #[must_use]
    pub fn get(&self, version: Version) -> Option<&Arc<Declaration>> {
        self.by_hash.get(&version)
    }

    /// The version that an instance keeps which begins with an event: the one that the event names, or else the latest
    /// that holds from its stamp. `None` when it names one that is not known.
    #[must_use]
    pub fn of_first(&self, event: &Observed) -> Option<&Arc<Declaration>> {
        match &event.version {
            Some(named) => self.by_hash.get(&named.parse().ok()?),
            None => Some(self.at(event.rank.stamp)),
        }
    }

    /// The version that holds at a stamp: the latest from before, or else the first.
    #[must_use]
    pub fn at(&self, stamp: Hlc) -> &Arc<Declaration> {
        let before = self.since.range(..=(stamp, Version([0xff; 32]))).next_back();
        before.map_or(&self.first, |(_, found)| found)
    }

    /// The name that all versions share.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every version by its hash.
    pub fn declarations(&self) -> impl Iterator<Item = &Arc<Declaration>> {
        self.by_hash.values()
    }

    fn declare(&self, kind: &str) -> bool {
        self.by_hash.values().any(|declaration| declaration.events().contains_key(kind))
    }
}

/// What became of events that were taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Instances that have changed.
    pub touched: BTreeSet<String>,
    /// Events that were here already.
    pub known: usize,
    /// Events without a correlation id, or of types that no version declares.
    pub foreign: usize,
    /// Instances that were folded anew, since an event of theirs arrived late.
    pub refolded: usize,
    /// Events beyond [`MAX_INSTANCES`] or [`MAX_EVENTS`]: not taken. Forget some and read the log again.
    pub refused: usize,
}

/// All instances of one choreography.
#[derive(Debug, Clone)]
pub struct Conformance {
    versions: Versions,
    instances: BTreeMap<String, Tracked>,
    events: usize,
    due: BTreeSet<(u64, String)>,
}

#[derive(Debug, Clone)]
struct Tracked {
    events: BTreeMap<Rank, Arc<Observed>>,
    fold: Fold,
    /// Something arrived before the last event that was folded.
    is_late: bool,
    omitted: usize,
    /// Under which time it stands among the deadlines.
    indexed_due_ms: Option<u64>,
}

impl Conformance {
    /// Looks after instances of these versions. Whoever adds a version later begins anew and reads the log again.
    #[must_use]
    pub fn new(versions: Versions) -> Self {
        Self { versions, instances: BTreeMap::new(), events: 0, due: BTreeSet::new() }
    }

    /// The versions.
    #[must_use]
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Takes events, in any order.
    pub fn take(&mut self, events: impl IntoIterator<Item = Observed>) -> Taken {
        let mut taken = Taken::default();
        for event in events {
            let Some(correlation) = event.correlation.clone().filter(|_| self.versions.declare(&event.kind)) else {
                taken.foreign += 1;
                continue;
            };
            let is_new = !self.instances.contains_key(&correlation);
            if self.events >= MAX_EVENTS || (is_new && self.instances.len() >= MAX_INSTANCES) {
                taken.refused += 1;
                continue;
            }
            let tracked = self.instances.entry(correlation).or_insert_with_key(|correlation| Tracked::new(correlation));
            let before = tracked.events.len();
            match tracked.insert(&self.versions, event) {
                Some(correlation) => drop(taken.touched.insert(correlation)),
                None => taken.known += 1,
            }
            self.events += tracked.events.len() - before;
        }
        for correlation in &taken.touched {
            let Some(tracked) = self.instances.get_mut(correlation) else { continue };
            taken.refolded += usize::from(tracked.settle(&self.versions, correlation));
            tracked.index(&mut self.due, correlation);
        }
        taken
    }

    /// An instance, as it is after everything that was taken.
    #[must_use]
    pub fn instance(&self, correlation: &str) -> Option<&Instance> {
        self.instances.get(correlation).map(|tracked| tracked.fold.instance())
    }

    /// Every instance with its correlation id, by id.
    pub fn instances(&self) -> impl Iterator<Item = (&str, &Instance)> {
        self.instances.iter().map(|(correlation, tracked)| (correlation.as_str(), tracked.fold.instance()))
    }

    /// The fold of an instance.
    #[must_use]
    pub fn fold(&self, correlation: &str) -> Option<&Fold> {
        self.instances.get(correlation).map(|tracked| &tracked.fold)
    }

    /// How many instances there are, and how many events they have together.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.instances.len(), self.events)
    }

    /// How each event of an instance was judged, in total order.
    #[must_use]
    pub fn judgements(&self, correlation: &str) -> Vec<(&Observed, &Judgement)> {
        let Some(tracked) = self.instances.get(correlation) else { return Vec::new() };
        tracked.fold.judged().iter().map(|(event, judgement)| (&**event, judgement)).collect()
    }

    /// Deadlines that are due at a time and not met yet, the earliest first, with their instances.
    pub fn due(&self, now_ms: u64) -> impl Iterator<Item = (&str, &Due)> {
        let due = self.due.iter().take_while(move |(due_ms, _)| *due_ms <= now_ms);
        due.filter_map(|(_, correlation)| Some((correlation.as_str(), self.instance(correlation)?.due.as_ref()?)))
    }

    /// When the next deadline is due, in milliseconds since 1970.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Forgets an instance. An event of it that arrives later begins it anew, and cannot be judged rightly.
    pub fn forget(&mut self, correlation: &str) -> bool {
        let Some(tracked) = self.instances.remove(correlation) else { return false };
        self.events -= tracked.events.len();
        if let Some(due_ms) = tracked.indexed_due_ms {
            self.due.remove(&(due_ms, correlation.to_owned()));
        }
        true
    }
}

impl Tracked {
    fn new(correlation: &str) -> Self {
        let fold = Fold::new(correlation);
        Self { events: BTreeMap::new(), fold, is_late: false, omitted: 0, indexed_due_ms: None }
    }

    /// Adds an event, and judges it at once if it is the last. Gives its instance's id, or `None` when it was here.
    fn insert(&mut self, versions: &Versions, event: Observed) -> Option<String> {
        let (rank, correlation) = (event.rank, event.correlation.clone());
        if self.events.contains_key(&rank) {
            return None;
        }
        let is_last = self.events.last_key_value().is_none_or(|(last, _)| *last < rank);
        let is_full = self.events.len() >= MAX_INSTANCE_EVENTS;
        if is_full {
            self.omitted += 1;
            self.fold.set_omitted(self.omitted);
            if is_last {
                return correlation;
            }
            self.events.pop_last();
        }
        let event = Arc::new(event);
        self.events.insert(rank, event.clone());
        match is_last && !self.is_late {
            true => self.fold.judge(versions, event),
            false => self.is_late = true,
        }
        correlation
    }

    /// Folds anew what a late event has changed. Says whether one had.
    fn settle(&mut self, versions: &Versions, correlation: &str) -> bool {
        let was_late = std::mem::take(&mut self.is_late);
        if was_late {
            self.fold = Fold::new(correlation);
            self.events.values().for_each(|event| self.fold.judge(versions, event.clone()));
            self.fold.set_omitted(self.omitted);
        }
        was_late
    }

    fn index(&mut self, due: &mut BTreeSet<(u64, String)>, correlation: &str) {
        let due_ms = self.fold.instance().due.as_ref().map(|due| due.due_ms);
        let before = std::mem::replace(&mut self.indexed_due_ms, due_ms);
        if let Some(before) = before.filter(|before| Some(*before) != due_ms) {
            due.remove(&(before, correlation.to_owned()));
        }
        if let Some(due_ms) = due_ms {
            due.insert((due_ms, correlation.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
