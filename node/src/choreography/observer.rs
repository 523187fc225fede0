//! The handle of those who ask for instances.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use roundelay_protocol::choreography::conformance::{Conformance, Due, Instance, Judgement, Versions};
use roundelay_protocol::choreography::{Declaration, Observed, Version};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Pattern;
use tokio::sync::{broadcast, watch};

use super::MAX_CHANGES;
use super::actor::Actor;
use super::error::{LookupError, ObserverError};
use super::instances::{InstanceDetail, InstanceSummary, Instances};
use super::judging::Judging;
use super::reading::missing_events;
use super::state::{Shared, State};
use super::types::{Choreographies, ChoreographyDetail, ChoreographyStatus};
use crate::log::LogError;
use crate::metrics::ChoreographyFigures;
use crate::node::Node;
use crate::stability::Scope;

/// Follows the log of a node and judges every instance of every choreography that was published. Clones share it; a node
/// has one: [`Node::observer`].
///
/// What it says is up to date with the log but for what arrived in the last moments: [`Observer::folded`] waits for
/// that. A version that is published later has the log read again; until that is done, what was said before is said.
#[derive(Clone)]
pub struct Observer(Arc<Shared>);

/// Something about instances has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The choreography.
    pub choreography: Arc<str>,
    /// The instance. `None`: any of them may have changed, as after a new version.
    pub correlation: Option<Arc<str>>,
}

/// What is declared of a choreography.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The version that holds for instances that begin now.
    pub latest: Arc<Declaration>,
    /// All of them.
    pub versions: Versions,
}

/// An instance as it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its correlation id.
    pub correlation: String,
    /// Its state, its verdict, its deadline, what is owed and superseded.
    pub instance: Instance,
    /// The version that it plays by; `None` when that is not known here.
    pub declaration: Option<Arc<Declaration>>,
    /// Something of it may have been pruned here before it was read: then its judgement may be wrong.
    pub is_partial: bool,
    /// Events of it that are here.
    pub events: usize,
    /// The stamp of the last of them in total order. Once that is stable, only later events can change what is said.
    pub last: Hlc,
}

impl Observer {
    /// Begins to follow a node's log. Ends with the node. To be called on a tokio runtime.
    pub(crate) fn start(node: &Node) -> Self {
        let (turns, turned) = watch::channel(0);
        let shared = Arc::new(Shared {
            log: node.log(),
            state: RwLock::new(State::default()),
            turns: turned,
            changes: broadcast::channel(MAX_CHANGES).0,
        });
        let figures = Arc::downgrade(&shared);
        node.metrics().watch_choreographies(Arc::new(move || {
            figures.upgrade().map(|shared| Self(shared).figures()).unwrap_or_default()
        }));
        let (runtime, actor) = (tokio::runtime::Handle::current(), Actor::new(node.clone(), shared.clone(), turns));
        let run = move || runtime.block_on(actor.run());
        if let Err(error) = std::thread::Builder::new().name("observer".into()).spawn(run) {
            tracing::error!(%error, "the thread of the choreographies cannot be started: none is followed until the next start");
        }
        Self(shared)
    }

    // ---- for whoever acts on instances

    /// Waits until everything that arrived up to a place is in what is said of a choreography.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn folded(&self, choreography: &str, upto: Arrival) -> Result<(), ObserverError> {
        self.until(|state| state.folded(choreography) >= upto).await
    }

    /// Waits until everything that arrived up to a place is in what is said of all choreographies.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn reached(&self, upto: Arrival) -> Result<(), ObserverError> {
        self.until(|state| state.all_folded() >= upto).await
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) -> Result<(), ObserverError> {
        // Mostly it holds already, and whoever asks does so for each event.
        if holds(&self.0.state.read()) {
            return Ok(());
        }
        let mut turns = self.0.turns.clone();
        loop {
            turns.borrow_and_update();
            if holds(&self.0.state.read()) {
                return Ok(());
            }
            turns.changed().await.map_err(|_| ObserverError::Stopped)?;
        }
    }

    /// Tells which instances have changed, from now on. Who lags behind has to look at all of them.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// The names of the choreographies that are known, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.state.read().catalog.names().map(str::to_owned).collect()
    }

    /// The versions of a choreography, each with what it declares.
    #[must_use]
    pub fn versions(&self, choreography: &str) -> Option<Versions> {
        self.0.state.read().catalog.versions(choreography)
    }

    /// The versions of a choreography, and what holds for instances that begin now.
    ///
    /// # Errors
    /// When there is no such choreography.
    pub fn declared(&self, choreography: &str) -> Result<Declared, LookupError> {
        let state = self.0.state.read();
        let found = state.catalog.versions(choreography).zip(state.catalog.latest(choreography));
        let (versions, latest) = found.ok_or_else(|| state.catalog.no_choreography(choreography))?;
        Ok(Declared { latest: Arc::new(latest.declaration.clone()), versions })
    }

    /// The version that holds for instances that begin now.
    #[must_use]
    pub fn latest_version(&self, choreography: &str) -> Option<Version> {
        self.0.state.read().catalog.latest(choreography).map(|latest| latest.version())
    }

    /// Topics where events of a choreography may be, over all its versions. None: it is not known.
    #[must_use]
    pub fn topics(&self, choreography: &str) -> Vec<Pattern> {
        self.scope(choreography).map(|scope| scope.topics).unwrap_or_default()
    }

    /// Of what it is to be asked what is stable of a choreography: its topics, and the nodes that all its versions name.
    ///
    /// # Errors
    /// When there is no such choreography.
    pub fn scope(&self, choreography: &str) -> Result<Scope, LookupError> {
        let state = self.0.state.read();
        if state.catalog.latest(choreography).is_none() {
            return Err(state.catalog.no_choreography(choreography));
        }
        Ok(Scope { topics: state.catalog.patterns(choreography), nodes: state.catalog.nodes(choreography) })
    }

    /// One instance, as it is judged now.
    #[must_use]
    pub fn instance(&self, choreography: &str, correlation: &str) -> Option<Judged> {
        let state = self.0.state.read();
        let judging = state.judged.get(choreography)?;
        judging.instance(correlation).map(|instance| judged(judging, correlation, instance))
    }

    /// Whether an instance had ended and was forgotten to make room, as far as that is remembered.
    #[must_use]
    pub fn has_forgotten(&self, choreography: &str, correlation: &str) -> bool {
        self.0.state.read().judged.get(choreography).is_some_and(|judging| judging.has_forgotten(correlation))
    }

    /// The events of an instance in total order, and how each was judged. Empty when there is no such instance.
    #[must_use]
    pub fn judgements(&self, choreography: &str, correlation: &str) -> Vec<(Observed, Judgement)> {
        let state = self.0.state.read();
        let Some(judging) = state.judged.get(choreography) else { return Vec::new() };
        let events = judging.conformance.judgements(correlation).into_iter();
        events.map(|(event, judgement)| (event.clone(), judgement.clone())).collect()
    }

    /// Shows the folds of a choreography's instances, for whoever decides by them. `None` when it is not known. Nothing is
    /// judged meanwhile, so that `look` has to be short.
    pub fn look<T>(&self, choreography: &str, look: impl FnOnce(&Conformance) -> T) -> Option<T> {
        self.0.state.read().judged.get(choreography).map(|judging| look(&judging.conformance))
    }

    /// Instances that `wanted` says to give, by correlation id, beyond one and so many at most.
    #[must_use]
    pub fn instances(
        &self,
        choreography: &str,
        after: Option<&str>,
        max: usize,
        mut wanted: impl FnMut(&str, &Instance) -> bool,
    ) -> Vec<Judged> {
        let state = self.0.state.read();
        let Some(judging) = state.judged.get(choreography) else { return Vec::new() };
        let beyond = judging.conformance.instances().filter(|(id, _)| after.is_none_or(|after| *id > after));
        let found = beyond.filter(|(id, instance)| wanted(id, instance)).take(max);
        found.map(|(id, instance)| judged(judging, id, instance)).collect()
    }

    /// Deadlines that are due at a time, in milliseconds since 1970, and not met yet: the earliest first, so many at
    /// most, each with its instance.
    #[must_use]
    pub fn due(&self, choreography: &str, now_ms: u64, max: usize) -> Vec<(String, Due)> {
        let state = self.0.state.read();
        let due = state.judged.get(choreography).into_iter().flat_map(|judging| judging.conformance.due(now_ms));
        due.take(max).map(|(correlation, due)| (correlation.to_owned(), due.clone())).collect()
    }

    /// When the next deadline of a choreography is due, in milliseconds since 1970.
    #[must_use]
    pub fn next_due_ms(&self, choreography: &str) -> Option<u64> {
        self.0.state.read().judged.get(choreography)?.conformance.next_due_ms()
    }

    // ---- for whoever looks

    /// Waits, not longer than that, until everything that is stored now is in what is said. False when it is not.
    pub async fn catch_up(&self, limit: Duration) -> bool {
        let upto = self.0.log.last_arrival();
        matches!(tokio::time::timeout(limit, self.reached(upto)).await, Ok(Ok(())))
    }

    /// All choreographies at a glance.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn overview(&self) -> Result<Choreographies, LogError> {
        let state = self.0.state.read();
        let choreographies =
            state.catalog.names().filter_map(|name| ChoreographyStatus::of(&state, name)).collect::<Vec<_>>();
        let refused = state.catalog.refused();
        drop(state);
        let with_missing = choreographies.into_iter().map(|status| self.with_missing(status));
        Ok(Choreographies { choreographies: with_missing.collect::<Result<_, _>>()?, refused })
    }

    /// One choreography with one of its declarations: the latest, or that of the version that begins so.
    ///
    /// # Errors
    /// When there is no such choreography or version, or the log cannot be read.
    pub fn detail(&self, choreography: &str, version: &str) -> Result<ChoreographyDetail, LookupError> {
        let state = self.0.state.read();
        let publication = state.catalog.find(choreography, version)?;
        let no_status = || state.catalog.no_choreography(choreography);
        let status = ChoreographyStatus::of(&state, choreography).ok_or_else(no_status)?;
        let detail = ChoreographyDetail::new(status, state.catalog.publications(choreography), publication);
        drop(state);
        let status = self.with_missing(detail.status)?;
        Ok(ChoreographyDetail { status, ..detail })
    }

    fn with_missing(&self, mut status: ChoreographyStatus) -> Result<ChoreographyStatus, LogError> {
        let patterns = status.topics.iter().filter_map(|text| Pattern::new(text).ok()).collect();
        status.missing_events = missing_events(&self.0.log, patterns)?;
        Ok(status)
    }

    /// The instances of a choreography that `wanted` says to give, by correlation id: those beyond one, and so many. Everything
    /// up to `stable` has been folded: see [`Observer::scope`].
    ///
    /// # Errors
    /// When there is no such choreography, or the log cannot be read.
    pub fn page(
        &self,
        choreography: &str,
        after: Option<&str>,
        limit: usize,
        stable: Hlc,
        wanted: impl FnMut(&str, &Instance) -> bool,
    ) -> Result<Instances, LookupError> {
        let status = {
            let state = self.0.state.read();
            let no_status = || state.catalog.no_choreography(choreography);
            ChoreographyStatus::of(&state, choreography).ok_or_else(no_status)?
        };
        let mut found = self.instances(choreography, after, limit.saturating_add(1), wanted);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| last.correlation.clone());
        let instances = found.iter().map(|judged| InstanceSummary::new(judged, stable)).collect();
        let (status, stable_ms) = (self.with_missing(status)?, stable.as_ms());
        Ok(Instances { status, is_up_to_date: true, stable_ms, instances, next })
    }

    /// All that is known of an instance. Everything up to `stable` has been folded.
    ///
    /// # Errors
    /// When there is no such choreography or instance.
    pub fn instance_detail(
        &self,
        choreography: &str,
        correlation: &str,
        stable: Hlc,
    ) -> Result<InstanceDetail, LookupError> {
        if let Some(judged) = self.instance(choreography, correlation) {
            let events = self.judgements(choreography, correlation);
            return Ok(InstanceDetail::new(choreography, &judged, &events, stable));
        }
        let state = self.0.state.read();
        let Some(judging) = state.judged.get(choreography) else {
            return Err(state.catalog.no_choreography(choreography));
        };
        let (choreography, correlation) = (choreography.to_owned(), correlation.to_owned());
        match judging.has_forgotten(&correlation) {
            true => Err(LookupError::Forgotten { choreography, correlation }),
            false => Err(LookupError::NoInstance { choreography, correlation }),
        }
    }

    pub(super) fn has_room_for(&self, choreography: &str, bytes: usize) -> bool {
        self.0.state.read().catalog.has_room_for(choreography, bytes)
    }

    fn figures(&self) -> Vec<ChoreographyFigures> {
        let state = self.0.state.read();
        let figures = state.judged.iter().map(|(name, judging)| ChoreographyFigures {
            name: name.clone(),
            instances: judging.verdicts.iter().map(|(verdict, count)| (*verdict, *count as u64)).collect(),
            events: judging.sizes().events as u64,
            refolded: judging.counts.refolded,
            forgotten: judging.counts.forgotten,
            refused: judging.counts.refused + judging.counts.after_forgotten,
        });
        figures.collect()
    }
}

fn judged(judging: &Judging, correlation: &str, instance: &Instance) -> Judged {
    let declaration = instance.version.and_then(|version| judging.conformance.versions().get(version).cloned());
    let events = judging.conformance.fold(correlation).map(|fold| fold.judged());
    Judged {
        correlation: correlation.to_owned(),
        instance: instance.clone(),
        declaration,
        is_partial: judging.is_partial(correlation),
        events: events.map_or(0, <[_]>::len),
        last: events.and_then(<[_]>::last).map_or(Hlc(0), |(event, _)| event.rank.stamp),
    }
}
