//! Durable consumers: named places in the log that survive restarts, with deliveries that are acknowledged.
//!
//! One thread owns all consumers of a node (`actor`), as it reads the log for long at a time. What they decide is in [`roundelay_protocol::consumer`]; here the
//! log is read for them, and what they say is written. An acknowledgement is answered when it is durable; all that wait
//! meanwhile go into the next write together.

mod actor;
mod commits;
mod committing;
mod config;
mod error;
mod group;
mod held;
mod letters;
mod marks;
mod push;
mod requests;
mod types;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use config::{ConsumerConfig, Webhook};
pub use error::ConsumersError;
use requests::Again;
pub use requests::CommitEvent;
pub(crate) use requests::{Content, Product};
pub use types::{
    Acknowledged, Attempt, CommitAnswer, CommittedEvent, ConsumerInfo, Fetched, Lag, Letter, Missed, Seek, Which,
};

use actor::{Actor, Order};
use held::Waiter;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::ConsumerFigures;
use crate::node::Node;

/// Consumers that a node has, at most.
pub const MAX_CONSUMERS: usize = 256;
/// Cursors that one call names, at most.
pub const MAX_CURSORS: usize = 10_000;
/// Events that one fetch brings, at most.
pub const MAX_FETCH: usize = 1_000;
/// Bytes of events in JSON that one fetch brings, at most, or one event.
pub const FETCH_BYTES: usize = 4 * 1024 * 1024;
/// Events that one commit publishes, at most.
pub const MAX_COMMIT_EVENTS: usize = 1_024;
/// The longest delay that a negative acknowledgement asks for, in milliseconds: a day.
pub const MAX_DELAY_MS: u64 = 86_400_000;
/// The longest time that a fetch waits.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Orders that wait for the task.
const MAX_ORDERS: usize = 256;

/// A handle to the consumers of a node; clones share them.
#[derive(Clone)]
pub struct Consumers {
    orders: mpsc::Sender<Order>,
    members: Arc<AtomicU64>,
    /// Dead letters that were written since the start.
    buried: watch::Sender<u64>,
}

impl Consumers {
    /// Begins to serve the consumers of a node: those that its store knows go on. Ends with the node. A node has one:
    /// [`Node::consumers`].
    pub(crate) fn start(node: Node) -> Self {
        let (orders, inbox) = mpsc::channel(MAX_ORDERS);
        let consumers = Self { orders, members: Arc::new(AtomicU64::new(1)), buried: watch::Sender::default() };
        let figures: Arc<Mutex<Vec<ConsumerFigures>>> = Arc::default();
        let told = figures.clone();
        node.metrics().watch_consumers(Arc::new(move || told.lock().clone()));
        let (runtime, handle) = (tokio::runtime::Handle::current(), consumers.clone());
        let serve = move || runtime.block_on(Actor::run(node, inbox, handle, figures));
        if let Err(error) = std::thread::Builder::new().name("consumers".into()).spawn(serve) {
            tracing::error!(%error, "the thread of the consumers cannot be started: there are none until the next start");
        }
        consumers
    }

    /// A number for somebody who fetches, so that what it has can be taken back when it is gone.
    #[must_use]
    pub fn new_member(&self) -> u64 {
        self.members.fetch_add(1, Ordering::Relaxed)
    }

    async fn ask<T: Send + 'static>(
        &self,
        order: impl FnOnce(&mut Actor, Reply<T>) + Send + 'static,
    ) -> Result<T, ConsumersError> {
        let (reply, answer) = oneshot::channel();
        let order: Order = Box::new(move |actor| order(actor, reply));
        self.orders.send(order).await.map_err(|_| ConsumersError::Stopped)?;
        answer.await.unwrap_or(Err(ConsumersError::Stopped))
    }

    /// Creates a consumer, or changes how an existing one delivers. The second value says whether it is new.
    ///
    /// # Errors
    /// When the set-up makes no sense, or an existing consumer takes other events.
    pub async fn put(&self, name: String, config: ConsumerConfig) -> Result<(ConsumerInfo, bool), ConsumersError> {
        self.ask(move |actor, reply| actor.put(&name, config, false, reply)).await
    }

    /// The same, and an existing consumer takes the topics and types of this set-up from what it has not read yet on.
    pub(crate) async fn put_over(
        &self,
        name: String,
        config: ConsumerConfig,
    ) -> Result<(ConsumerInfo, bool), ConsumersError> {
        self.ask(move |actor, reply| actor.put(&name, config, true, reply)).await
    }

    /// One consumer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, name: String) -> Result<ConsumerInfo, ConsumersError> {
        self.ask(move |actor, reply| drop(reply.send(actor.info(&name)))).await
    }

    /// Whether there is a consumer of that name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn check(&self, name: String) -> Result<(), ConsumersError> {
        self.ask(move |actor, reply| drop(reply.send(actor.held(&name).map(drop)))).await
    }

    /// All consumers.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn list(&self) -> Result<Vec<ConsumerInfo>, ConsumersError> {
        self.ask(|actor, reply| drop(reply.send(actor.list()))).await
    }

    /// Removes a consumer with its dead letters. False when there was none.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn remove(&self, name: String) -> Result<bool, ConsumersError> {
        self.ask(move |actor, reply| actor.remove(&name, reply)).await
    }

    /// Goes on from another place.
    ///
    /// # Errors
    /// When there is no such consumer or place, or it is a member of a group.
    pub async fn seek(&self, name: String, to: String) -> Result<Lag, ConsumersError> {
        self.ask(move |actor, reply| actor.seek(&name, &to, reply)).await
    }

    /// The next events for somebody: waits for the first of them until a time.
    ///
    /// # Errors
    /// When there is no such consumer, or the log cannot be read.
    pub async fn fetch(
        &self,
        name: String,
        member: u64,
        max: usize,
        until: Instant,
    ) -> Result<Fetched, ConsumersError> {
        self.wait_for(name, member, max, usize::MAX, until).await
    }

    /// Like [`Consumers::fetch`], for a member that goes on fetching and never has more than `bound` events that are
    /// not answered.
    ///
    /// # Errors
    /// As there.
    pub async fn fetch_up_to(
        &self,
        name: String,
        member: u64,
        bound: usize,
        until: Instant,
    ) -> Result<Fetched, ConsumersError> {
        self.wait_for(name, member, bound, bound, until).await
    }

    async fn wait_for(
        &self,
        name: String,
        member: u64,
        max: usize,
        bound: usize,
        until: Instant,
    ) -> Result<Fetched, ConsumersError> {
        let max = max.min(MAX_FETCH);
        self.ask(move |actor, reply| actor.fetch(&name, Waiter { member, max, bound, until, reply })).await
    }

    /// Somebody is gone: what it had is delivered to others.
    pub async fn leave(&self, name: String, member: u64) {
        let order: Order = Box::new(move |actor| actor.leave(&name, member));
        // A node that has stopped delivers everything again that was not acknowledged.
        let _ = self.orders.send(order).await;
    }

    /// Events are done.
    ///
    /// # Errors
    /// When a cursor was never delivered; then nothing is acknowledged.
    pub async fn ack(&self, name: String, which: Which) -> Result<Acknowledged, ConsumersError> {
        self.ask(move |actor, reply| actor.ack(&name, which, reply)).await
    }

    /// Events could not be processed: they are delivered again after so many milliseconds, or after the consumer's
    /// own back-off.
    ///
    /// # Errors
    /// When there is no such consumer, a cursor was never delivered, or the delay is too long; then nothing is changed.
    pub async fn nack(
        &self,
        name: String,
        cursors: Vec<String>,
        delay_ms: Option<u64>,
        reason: Option<String>,
    ) -> Result<Acknowledged, ConsumersError> {
        let again = delay_ms.map_or(Again::InTime, Again::After);
        self.ask(move |actor, reply| actor.nack(&name, &cursors, again, reason.as_deref(), reply)).await
    }

    /// Events can never be processed: they go to the dead letters, however few attempts they had.
    ///
    /// # Errors
    /// As for [`Consumers::nack`].
    pub async fn give_up(
        &self,
        name: String,
        cursors: Vec<String>,
        reason: String,
    ) -> Result<Acknowledged, ConsumersError> {
        self.ask(move |actor, reply| actor.nack(&name, &cursors, Again::Never, Some(&reason), reply)).await
    }

    /// Events take longer: their deadlines begin anew.
    ///
    /// # Errors
    /// When there is no such consumer, or a cursor was never delivered; then nothing is changed.
    pub async fn extend(&self, name: String, cursors: Vec<String>) -> Result<Acknowledged, ConsumersError> {
        self.ask(move |actor, reply| drop(reply.send(actor.extend(&name, &cursors)))).await
    }

    /// Events are done, and others came of them: both in one write, once, also when the call is repeated.
    ///
    /// # Errors
    /// When a cursor was never delivered or is done already by another call; then nothing is done.
    pub async fn commit(
        &self,
        name: String,
        processed: Vec<String>,
        events: Vec<CommitEvent>,
    ) -> Result<CommitAnswer, ConsumersError> {
        let events = events.into_iter().map(Product::from).collect();
        self.produce(name, processed, events).await
    }

    pub(crate) async fn produce(
        &self,
        name: String,
        processed: Vec<String>,
        events: Vec<Product>,
    ) -> Result<CommitAnswer, ConsumersError> {
        self.ask(move |actor, reply| actor.commit(&name, &processed, events, reply)).await
    }

    /// Dead letters after a number, the oldest first, without their events.
    ///
    /// # Errors
    /// When there is no such consumer.
    pub async fn dead(&self, name: String, after: u64, max: usize) -> Result<Vec<Letter>, ConsumersError> {
        self.ask(move |actor, reply| drop(reply.send(actor.dead(&name, after, max)))).await
    }

    /// Changes whenever any consumer has written a dead letter, so that nobody has to ask for them again and again.
    pub(crate) fn buried(&self) -> watch::Receiver<u64> {
        self.buried.subscribe()
    }

    /// One dead letter, and its event as a CloudEvent in JSON.
    ///
    /// # Errors
    /// When there is none.
    pub async fn dead_letter(&self, name: String, number: u64) -> Result<(Letter, Vec<u8>), ConsumersError> {
        self.ask(move |actor, reply| drop(reply.send(actor.dead_letter(&name, number)))).await
    }

    /// Delivers a dead letter's event again, or those of all letters. Says how many. A letter goes when its event is
    /// acknowledged.
    ///
    /// # Errors
    /// When there is no such letter.
    pub async fn redrive(&self, name: String, number: Option<u64>) -> Result<u64, ConsumersError> {
        self.ask(move |actor, reply| actor.redrive(&name, number, reply)).await
    }
}

/// Where an answer goes.
type Reply<T> = oneshot::Sender<Result<T, ConsumersError>>;
