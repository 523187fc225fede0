//! Plays a role of a choreography on a node: [`Playing`] runs a [`Participant`] over the node's log.
//!
//! Events come from a durable consumer, so that each is handled once however often it is delivered, failed attempts are
//! repeated with back-off, and replicas on several nodes share the work by correlation id. What a handler emits
//! goes into one write with the knowledge that its event is done. What else there is to do follows from the log: deadlines,
//! what is owed, what became a step later. What is decided is in [`roundelay_protocol::choreography::participant`].
//!
//! | module | what |
//! | --- | --- |
//! | `worker` | deliveries: calls handlers, and commits what comes of them |
//! | `patience` | deliveries that wait until they are stable |
//! | `watcher` | deadlines, what is owed, what was passed over, failures that have to be told |
//! | `incoming` `passed` | events as they are delivered; those that were passed over |

mod incoming;
mod passed;
mod patience;
mod watcher;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use passed::Passed;
use roundelay_protocol::choreography::Participant;
use roundelay_protocol::choreography::conformance::Superseded;
use roundelay_protocol::choreography::participant::{CastError, Emission, Planned, Received, Refused};
use roundelay_protocol::event::EventError;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::write_set::Mark;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::choreography::{LookupError, Observer, ObserverError};
use crate::clock::wall_ms;
use crate::consumers::{ConsumerConfig, Consumers, ConsumersError};
use crate::log::LogError;
use crate::node::{CallError, Node, Transaction};
use crate::peer_id::author_of;
use crate::stability::StabilityError;

/// Events that a participant is at, at once.
pub const MAX_CONCURRENCY: usize = 1_000;
/// Notices that wait for whoever is told; of more the oldest are not told.
const MAX_NOTICES: usize = 1_024;
/// How long it may take to know the choreography.
const DECLARED_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a consumer's name.
const MAX_NAME_BYTES: usize = 64;

/// How a role is played.
#[derive(Debug, Clone)]
pub struct PlayOptions {
    /// Whether other nodes may play the role as well, with which the instances are shared.
    pub shared: bool,
    /// Events that are handled at once. Those of one instance are handled one after the other.
    pub concurrency: usize,
    /// Attempts before an event goes to the dead letters, up to 64.
    pub max_attempts: u32,
    /// Milliseconds before the second attempt; twice as long, with jitter, before each further one.
    pub backoff_ms: u64,
    /// The longest of these waits.
    pub max_backoff_ms: u64,
    /// Milliseconds that a handler may take. Then its event is delivered again.
    pub handling_limit_ms: u64,
    /// Milliseconds that nothing of an instance may have come before what is owed is undone, so that what is on its
    /// way can still change who decided first.
    pub settle_ms: u64,
    /// Undo only what is stable besides: when everything of the choreography's topics up to what is to be undone is here,
    /// of every node that counts (see [`crate::stability`]), so that no earlier event can turn up with which it had won.
    /// Needs heartbeats from all nodes; a silent one holds undoing up until it is left out.
    pub undo_when_stable: bool,
}

impl Default for PlayOptions {
    fn default() -> Self {
        Self {
            shared: true,
            concurrency: 256,
            max_attempts: 10,
            backoff_ms: 1_000,
            max_backoff_ms: 60_000,
            handling_limit_ms: 30_000,
            settle_ms: 5_000,
            undo_when_stable: false,
        }
    }
}

/// Why a role is not played. Nothing has begun.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The choreography is not known on this node.
    #[error(transparent)]
    Unknown(#[from] LookupError),
    /// The participant does not fit the declaration.
    #[error(transparent)]
    Cast(#[from] CastError),
    /// Its consumer cannot be had.
    #[error(transparent)]
    Consumers(#[from] ConsumersError),
    /// The node refuses, or has stopped.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why an event was not emitted. Nothing was.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// The role or the state of the instance does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The event is no sound event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Nothing is judged any more.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// The node refuses, or has stopped.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// An event of this role that another event had decided before. If it did something outside the mesh, its undoing is called
/// besides. After a restart it is told again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The instance.
    pub correlation: String,
    /// The event, and what decided before it.
    pub superseded: Superseded,
}

/// A role that is played until it is stopped or dropped.
pub struct Playing {
    stage: Arc<Stage>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Why it is not known what is stable. What waits for that goes on waiting.
#[derive(Debug, thiserror::Error)]
enum Unknowable {
    #[error(transparent)]
    Scope(#[from] LookupError),
    #[error(transparent)]
    Stability(#[from] StabilityError),
    #[error(transparent)]
    Observer(#[from] ObserverError),
}

/// What the tasks of one participant share.
struct Stage {
    participant: Participant,
    options: PlayOptions,
    node: Node,
    observer: Observer,
    consumers: Consumers,
    /// Where its events come from; none when it handles nothing.
    lanes: Vec<Lane>,
    notices: broadcast::Sender<Notice>,
    passed: Mutex<Passed>,
    /// The last write of this participant: whoever asks what is allowed next has to know of it.
    published: AtomicU64,
}

/// A consumer of a participant.
#[derive(Debug, Clone)]
struct Lane {
    consumer: String,
    /// Whether its events wait until they are stable. They have a consumer of their own, so that nothing waits with them.
    is_patient: bool,
}

impl Playing {
    /// Begins to play a role on a node, from the first event on that it has, or where it stopped before.
    ///
    /// # Errors
    /// When the choreography was not published to the mesh, the participant does not fit it, or the node refuses.
    pub async fn start(node: &Node, participant: Participant, options: PlayOptions) -> Result<Self, PlayError> {
        let observer = node.observer();
        let declared = wait_for(&observer, participant.choreography()).await?;
        participant.check(&declared)?;
        if let Some(author) = author_of(&node.id()) {
            participant.check_node(&declared, author)?;
        }
        for (kind, state) in participant.unanswered(&declared) {
            tracing::warn!(
                role = participant.role(), %kind, %state,
                "no handler answers an event after which this role has to act: it has to be emitted otherwise"
            );
        }
        let consumers = node.consumers();
        let lanes = enlist(node, &observer, &consumers, &participant, &options).await?;
        let passed = Passed::load(&node.log(), &name_of(&participant, ""))?;
        let (notices, _) = broadcast::channel(MAX_NOTICES);
        let stage = Arc::new(Stage {
            participant,
            options,
            node: node.clone(),
            observer,
            consumers,
            lanes,
            notices,
            passed: Mutex::new(passed),
            published: AtomicU64::new(0),
        });
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(watcher::run(stage.clone(), stop.clone()));
        for lane in stage.lanes.clone() {
            tasks.spawn(worker::run(stage.clone(), lane, stop.clone()));
        }
        Ok(Self { stage, stop, tasks })
    }

    /// Emits an event that answers none, such as the first of an instance. Gives its id once it is durable here.
    ///
    /// # Errors
    /// When the role or the state of the instance does not allow it.
    pub async fn begin(&self, correlation: &str, event: Emission) -> Result<String, EmitError> {
        self.begin_as(correlation, &uuid::Uuid::now_v7().to_string(), event).await
    }

    /// The same with an id, by which it is recognised when it is emitted again.
    ///
    /// # Errors
    /// As for [`Playing::begin`].
    pub async fn begin_as(&self, correlation: &str, id: &str, event: Emission) -> Result<String, EmitError> {
        let Stage { participant, observer, published, .. } = &*self.stage;
        // What was emitted just before may be what allows this.
        let before = Arrival(published.load(Ordering::Relaxed));
        observer.folded(participant.choreography(), before).await?;
        let planned = observer.look(participant.choreography(), |conformance| {
            participant.begin(conformance, correlation, id, event, wall_ms())
        });
        let unknown = || EmitError::Refused(Refused::UnknownInstance(correlation.to_owned()));
        if let Some(planned) = planned.ok_or_else(unknown)?? {
            self.stage.publish(vec![planned]).await?;
        }
        Ok(id.to_owned())
    }

    /// Tells of own events that are superseded, from now on.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.stage.notices.subscribe()
    }

    /// The names of its consumers, where its dead letters are: one for what it handles at once and one for what waits until
    /// it is stable, as far as there is any.
    pub fn consumers(&self) -> impl Iterator<Item = &str> {
        self.stage.lanes.iter().map(|lane| lane.consumer.as_str())
    }

    /// Stops, after the handlers that are at work.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stage {
    /// Remembers an event that was passed over. It may count as done then.
    async fn pass_over(&self, event: &Received, arrival: Arrival) -> Result<(), CallError> {
        let marks = self.passed.lock().add(event, arrival);
        self.mark(marks).await
    }

    async fn mark(&self, marks: Vec<Mark>) -> Result<(), CallError> {
        if marks.is_empty() {
            return Ok(());
        }
        self.node.transact(Transaction { marks, ..Transaction::default() }).await.map(drop)
    }

    /// Up to when nothing that matters can change any more, and is judged: the last such stamp, and who holds it up.
    async fn stable(&self) -> Result<(Hlc, String), Unknowable> {
        let choreography = self.participant.choreography();
        let stability = self.node.stability(self.observer.scope(choreography)?).await?;
        // What is here by now has to be judged before anything is done because of it.
        self.observer.folded(choreography, self.node.log().last_arrival()).await?;
        let slowest = stability.nodes.first().map(|node| node.name.clone().unwrap_or_else(|| node.id.clone()));
        Ok((stability.stable, slowest.unwrap_or_default()))
    }

    /// Publishes events in one write. Whether they were published before does not matter: their ids tell.
    async fn publish(&self, planned: Vec<Planned>) -> Result<(), EmitError> {
        let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for Planned { topic, event } in planned {
            parts.entry(topic).or_default().push(event.encode()?);
        }
        if parts.is_empty() {
            return Ok(());
        }
        let parts = parts.into_iter().collect();
        let written = self.node.transact(Transaction { parts, marks: Vec::new(), acks: 0, wait: None }).await?;
        self.published.fetch_max(written.arrival.0, Ordering::Relaxed);
        Ok(())
    }
}

/// The latest version, once it is here.
async fn wait_for(
    observer: &Observer,
    choreography: &str,
) -> Result<Arc<roundelay_protocol::choreography::Declaration>, LookupError> {
    let begun = Instant::now();
    loop {
        match observer.declared(choreography) {
            Ok(declared) => return Ok(declared.latest),
            Err(error) if begun.elapsed() > DECLARED_LIMIT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Sets the consumers up from which a participant gets its events.
async fn enlist(
    node: &Node,
    observer: &Observer,
    consumers: &Consumers,
    participant: &Participant,
    options: &PlayOptions,
) -> Result<Vec<Lane>, PlayError> {
    let patterns = observer.topics(participant.choreography());
    for pattern in &patterns {
        node.cover(pattern.clone()).await?;
    }
    let topics: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    let mut lanes = Vec::new();
    for (is_patient, suffix) in [(false, ""), (true, "-stable")] {
        let handled = participant.handled().filter(|kind| participant.is_patient(kind) == is_patient);
        let types: Vec<String> = handled.map(str::to_owned).collect();
        if types.is_empty() {
            continue;
        }
        let consumer = name_of(participant, suffix);
        let config = ConsumerConfig {
            types,
            group: options.shared.then(|| consumer.clone()),
            ack_wait_ms: options.handling_limit_ms,
            max_deliver: options.max_attempts,
            max_in_flight: options.concurrency.clamp(1, MAX_CONCURRENCY) as u32 * 2,
            backoff_ms: options.backoff_ms,
            max_backoff_ms: options.max_backoff_ms,
            ..ConsumerConfig::new(topics.clone())
        };
        // A further handler, or a version with other topics, makes it take other events from now on.
        consumers.put_over(consumer.clone(), config).await?;
        lanes.push(Lane { consumer, is_patient });
    }
    Ok(lanes)
}

/// The name of a participant's consumer and group: `CHOREOGRAPHY-ROLE` and a suffix, or a hash of it when that is too long.
fn name_of(participant: &Participant, suffix: &str) -> String {
    let name = format!("{}-{}{suffix}", participant.choreography(), participant.role());
    if name.len() <= MAX_NAME_BYTES { name } else { blake3::hash(name.as_bytes()).to_hex()[..32].to_owned() }
}
