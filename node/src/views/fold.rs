//! Folds of one's own: states by key, from the events of any topics, in total order.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::choreography::Rank;
use roundelay_protocol::choreography::frontier::Frontier;
use roundelay_protocol::choreography::once::{Counted, Once, OnceView, name_of};
use roundelay_protocol::choreography::view::{Bounds, Input, Step};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::topic::{Pattern, Topic};
use tokio::sync::Semaphore;

use super::tail::Tail;
use super::{ViewError, stable_of};
use crate::log::{LogError, LogReader};
use crate::node::Node;

/// How events become states.
pub struct Fold<S, E> {
    /// The key of an event, such as its correlation id, and what of it is folded; that is kept in memory, to fold it again
    /// when an event arrives late. None: the event is left out.
    pub pick: fn(&Topic, &EventView<'_>) -> Option<(String, E)>,
    /// How the state of a key, which begins with its default, changes with an event. It is called in total order, again where
    /// an event arrived late, so that it depends on nothing but what it is given.
    pub step: Step<S, E>,
    /// How much is held.
    pub bounds: Bounds,
}

impl<S, E> Clone for Fold<S, E> {
    fn clone(&self) -> Self {
        Self { pick: self.pick, step: self.step, bounds: self.bounds }
    }
}

/// How far the states of a fold can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldInfo {
    /// Whether this node subscribes to the topics. Otherwise what is shown is what was here before, or what its own
    /// services published.
    pub is_subscribed: bool,
    /// Whether events were removed here before they could be read, by pruning or by key.
    pub is_partial: bool,
    /// False when not everything that is stored was read in the time that there is for an answer. The next one goes on.
    pub is_up_to_date: bool,
    /// Everything that was stamped before this millisecond since 1970 is here. 0 where that is not known.
    pub stable_ms: u64,
    /// Events that came although they were at or before what had been called stable. They count like any other.
    pub exceptions: u64,
    /// Events of keys for which there is no room.
    pub refused: u64,
}

/// The state of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<S> {
    /// After all events that are here. None: there is none of this key.
    pub tentative: Option<S>,
    /// After all events up to what is stable, which changes no more. None: there is no event of this key, or more came since
    /// than can be rolled back.
    pub stable: Option<S>,
    /// How far that can be relied on.
    pub info: FoldInfo,
}

/// A fold over topics of a node. What is new is read whenever somebody asks; the same on every node that holds the same
/// events. Nothing is kept on the disk.
pub struct Folded<S, E> {
    node: Node,
    readers: Arc<Semaphore>,
    states: Arc<Mutex<States<S, E>>>,
    patterns: Arc<[Pattern]>,
}

struct States<S, E> {
    fold: Fold<S, E>,
    tail: Tail,
    view: OnceView<S, E>,
    is_partial: bool,
    refused: u64,
}

impl<S, E> Folded<S, E>
where
    S: Clone + Default + Send + 'static,
    E: Send + 'static,
{
    pub(super) fn new(node: Node, readers: Arc<Semaphore>, patterns: Vec<Pattern>, fold: Fold<S, E>) -> Self {
        let states = States {
            view: OnceView::once(fold.bounds, Frontier::default()),
            fold,
            tail: Tail::default(),
            is_partial: false,
            refused: 0,
        };
        Self { node, readers, states: Arc::new(Mutex::new(states)), patterns: patterns.into() }
    }

    /// The state of a key.
    ///
    /// # Errors
    /// When the log cannot be read, or the node stops.
    pub async fn read(&self, key: &str) -> Result<Reading<S>, ViewError> {
        let key = key.to_owned();
        let look = move |view: &OnceView<S, E>| {
            (view.tentative(&key).map(|once| once.state().clone()), view.stable(&key).map(Once::into_state))
        };
        let ((tentative, stable), info) = self.look(look).await?;
        Ok(Reading { tentative, stable, info })
    }

    /// Whatever else is to be known: the view itself, when everything new has been read.
    ///
    /// # Errors
    /// When the log cannot be read, or the node stops.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&OnceView<S, E>) -> T + Send + 'static,
    ) -> Result<(T, FoldInfo), ViewError> {
        // Before anything is read: what is stable by then is in the view afterwards.
        let (is_subscribed, stable) = stable_of(&self.node, self.patterns.to_vec()).await?;
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| LogError::Closed)?;
        let (log, states, patterns) = (self.node.log(), self.states.clone(), self.patterns.clone());
        let read = move || {
            let mut states = states.lock();
            states.catch_up(&log, &patterns, stable)?;
            let found = look(&states.view);
            drop(permit);
            Ok((found, FoldInfo { is_subscribed, ..states.info() }))
        };
        tokio::task::spawn_blocking(read).await.unwrap_or(Err(LogError::Closed)).map_err(ViewError::Log)
    }
}

impl<S: Clone + Default, E> States<S, E> {
    fn catch_up(&mut self, log: &LogReader, patterns: &[Pattern], stable: Hlc) -> Result<(), LogError> {
        let topics = |topic: &Topic| patterns.iter().any(|pattern| pattern.matches(topic));
        let Self { fold, tail, view, is_partial, refused } = self;
        let mut stale = BTreeSet::new();
        tail.read(log, &topics, |_, batch| {
            let (inputs, is_whole) = pick(fold, batch);
            *is_partial |= !is_whole;
            let taken = view.take(inputs);
            *refused += taken.refused as u64;
            stale.extend(taken.stale);
        })?;
        if !stale.is_empty() {
            self.fold_again(log, &topics, &stale)?;
        }
        if self.tail.is_up_to_date() {
            self.view.frontier_mut().raise_to(stable);
        }
        Ok(())
    }

    /// Folds keys anew from the log, of which an event came below all that can be rolled back.
    fn fold_again(
        &mut self,
        log: &LogReader,
        topics: &dyn Fn(&Topic) -> bool,
        stale: &BTreeSet<String>,
    ) -> Result<(), LogError> {
        let (mut again, mut inputs) = (Tail::default(), Vec::new());
        while again.after() < self.tail.after() {
            again.read(log, topics, |arrival, batch| {
                if arrival <= self.tail.after() {
                    let (picked, _) = pick(&self.fold, batch);
                    inputs.extend(picked.into_iter().filter(|input| stale.contains(&input.key)));
                }
            })?;
        }
        self.is_partial |= again.is_partial();
        self.view.take_again(stale, inputs);
        Ok(())
    }

    fn info(&self) -> FoldInfo {
        let (exceptions, further) = self.view.exceptions();
        FoldInfo {
            is_subscribed: true,
            is_partial: self.is_partial || self.tail.is_partial(),
            is_up_to_date: self.tail.is_up_to_date(),
            stable_ms: self.view.frontier().stable().as_ms(),
            exceptions: exceptions.len() as u64 + further,
            refused: self.refused,
        }
    }
}

/// What a fold takes of a batch, and whether nothing had been removed from it.
fn pick<S, E>(fold: &Fold<S, E>, batch: &VerifiedBatch) -> (Vec<Input<Counted<S, E>>>, bool) {
    let (header, hash) = (batch.header(), batch.hash());
    let (mut inputs, mut is_whole) = (Vec::new(), true);
    for ((_, item), index) in batch.items().zip(0..) {
        let Item::Event(event) = item else {
            is_whole = false;
            continue;
        };
        let stamp = event.hlc;
        let Some((key, picked)) = (fold.pick)(&header.topic, &event) else { continue };
        let event = Counted { name: name_of(event.source, event.id), event: picked, step: fold.step };
        let rank = Rank { stamp, batch: hash, index };
        inputs.push(Input { rank, author: header.author, key, event });
    }
    (inputs, is_whole)
}
