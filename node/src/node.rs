//! A running node: the handle that the API, the CLI and programs use.

mod followers;
mod known;
mod part;
mod types;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use parking_lot::RwLock;
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::frame::Position;
use roundelay_protocol::heartbeat::Heartbeats;
use roundelay_protocol::ids::{Author, Incarnation, StoreEpoch};
use roundelay_protocol::limits::MAX_BATCH_BYTES;
use roundelay_protocol::replica::{Config, MissingReason, Now, Replica};
use roundelay_protocol::sign::{Ed25519Signer, Signer};
use roundelay_protocol::topic::{Pattern, Topic};
use tokio::sync::{mpsc, oneshot, watch};

use known::Known;
pub use types::{
    CallError, Committed, DEFAULT_DEDUP_WINDOW, EventPlace, NodeConfig, NodeError, PartPlace, Receipt, Transaction,
};

use crate::choreography::Observer;
use crate::clock::wall_ms;
use crate::consumers::Consumers;
use crate::engine::{Beat, Call, Dedup, Engine, Identifier, Measures, Parts, Peers, Publish, TOPICS_MARK};
use crate::log::{self, Log, LogError, LogEvent, LogOptions, LogReader, Opened, RewriteReport, Salvaged, Snapshot};
use crate::mesh::{self, LinkInfo, Mesh, MeshCommand, MeshConfig, MeshCounters, Registry};
use crate::metrics::{Figures, Format, Metrics, PeerFigures, QueueFigures};
use crate::peer_id::{peer_id_of, text_of};
use crate::record::NodeRecord;
use crate::report;
use crate::status::{Converged, HoleStatus, NodeInfo, NodeStatus, Readiness, ReadinessCheck, StoreStatus};
use crate::subscription::{From, Subscription};
use crate::traces::Stages;
use crate::views;

/// The mesh of nodes that were not told another name.
pub const DEFAULT_MESH: &str = "default";
/// Bytes of the largest batch that is gossiped; larger ones are announced and pulled.
const MAX_GOSSIP_BYTES: usize = MAX_BATCH_BYTES + 1024;
/// What sled takes on disk for a byte of batches, rounded up: the cap is for the disk, batches are what is counted.
const DISK_BYTES_PER_BATCH_BYTE: u64 = 2;
/// Publications that wait for the engine.
const MAX_PUBLISHES: usize = 4096;
/// How often it is looked whether the last hole was filled.
const HOLE_POLL: Duration = Duration::from_millis(250);
/// How long the engine may take to answer while the node counts as ready.
const ENGINE_PATIENCE: Duration = Duration::from_secs(2);
/// Calls that wait for the engine.
const MAX_CALLS: usize = 64;
struct Inner {
    peer_id: PeerId,
    name: String,
    mesh_name: String,
    home: PathBuf,
    cap_bytes: u64,
    salvaged: Option<Salvaged>,
    started: Instant,
    identifier: Identifier,
    epoch: StoreEpoch,
    mesh: Mesh,
    log: Log,
    reader: LogReader,
    publishes: mpsc::Sender<Publish>,
    calls: mpsc::Sender<Call>,
    stopped: watch::Receiver<Option<String>>,
    metrics: Metrics,
    observer: OnceLock<Observer>,
    consumers: OnceLock<Consumers>,
    views: Arc<views::Shared>,
    heartbeats: Arc<RwLock<Heartbeats>>,
}

/// A handle to a running node; clones share it. The node goes on until [`Node::shutdown`], also without handles.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

impl Node {
    /// Starts a node: opens its store, listens, joins.
    ///
    /// # Errors
    /// When the store or the network cannot be used.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let ed25519 = config.keypair.clone().try_into_ed25519().map_err(|_| NodeError::Identity)?;
        let mut secret = [0; 32];
        secret.copy_from_slice(ed25519.secret().as_ref());
        let signer = Ed25519Signer::from_secret(&secret);
        let dir = config.home.join("log");
        let me = signer.author();
        let opened = tokio::task::spawn_blocking(move || log::open_or_salvage(&dir, LogOptions::default(), me));
        let Opened { log, events: log_events, snapshot } = opened.await.unwrap_or(Err(LogError::Closed))?;
        let started = Self::start_on(&config, signer, log.clone(), log_events, snapshot).await;
        if started.is_err() {
            log.close().await;
        }
        started
    }

    async fn start_on(
        config: &NodeConfig,
        signer: Ed25519Signer,
        log: Log,
        log_events: mpsc::Receiver<LogEvent>,
        snapshot: Snapshot,
    ) -> Result<Self, NodeError> {
        let reader = log.reader();
        let known = Known::read(&reader, &snapshot.records, config)?;
        let salvaged = reader.salvaged()?;
        let mesh_config = MeshConfig {
            keypair: config.keypair.clone(),
            mesh_name: config.mesh_name.clone(),
            mesh_key: config.mesh_key,
            listen: config.listen.clone(),
            join: config.join.iter().chain(&known.joins).cloned().collect(),
            advertise: config.advertise.clone(),
            mdns: config.mdns && (config.mesh_name != DEFAULT_MESH || config.mesh_key.is_some()),
            min_links: config.min_links,
            max_links: config.max_links,
            max_message_bytes: MAX_GOSSIP_BYTES,
        };
        let wall_ms = wall_ms();
        let me = signer.author();
        let identifier = Identifier::new(config.dedup_window);
        // Before the mesh is up: nobody answers peers yet.
        let dedup = Self::known_events(config, &reader, &snapshot, me, &identifier, wall_ms).await?;
        let mut registry = Registry::default();
        let (mesh, mesh_events) = Mesh::start(mesh_config, &mut registry).await?;
        let metrics = Metrics::new(&reader.meters(), registry);
        for author in &known.interest.excluded {
            if let Some(peer) = peer_id_of(author) {
                mesh.send(MeshCommand::Block(peer)).await;
            }
        }
        let replica_config = Config {
            incarnation: Incarnation(rand::random()),
            position: Position { epoch: snapshot.epoch, arrival: snapshot.last_arrival, chain: snapshot.chain },
            batch_bytes: snapshot.batch_bytes,
            cap_bytes: config.store_cap_bytes / DISK_BYTES_PER_BATCH_BYTE,
            log_limits: config.log_limits,
            max_gossip_bytes: MAX_GOSSIP_BYTES,
            interest: known.interest,
            rules: known.rules,
            arrival_times: known.arrival_times,
            seed: rand::random(),
        };
        let replica = Replica::new(signer, replica_config, snapshot.records, Now { mono_ms: 0, wall_ms });
        let record = NodeRecord {
            name: config.name.clone(),
            addresses: Vec::new(),
            patterns: Vec::new(),
            topics: Vec::new(),
            host: mesh::host_tag(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_ms: wall_ms,
        };
        let heartbeats = Arc::new(RwLock::new(known.heartbeats));
        let (publishes, publish_queue) = mpsc::channel(MAX_PUBLISHES);
        let (calls, call_queue) = mpsc::channel(MAX_CALLS);
        let (stop, stopped) = watch::channel(None);
        let parts = Parts {
            replica,
            epoch: snapshot.epoch,
            log: log.clone(),
            log_events,
            mesh: mesh.clone(),
            mesh_events,
            peers: Peers::new(me, record, known.directory),
            dedup,
            beat: Beat::new(config.heartbeat, heartbeats.clone()),
            publishes: publish_queue,
            calls: call_queue,
            stopped: stop,
            meters: metrics.engine.clone(),
        };
        tokio::spawn(Engine::run(parts));
        Ok(Self(Arc::new(Inner {
            peer_id: mesh.peer_id(),
            name: config.name.clone(),
            mesh_name: config.mesh_name.clone(),
            home: config.home.clone(),
            cap_bytes: config.store_cap_bytes,
            salvaged,
            started: Instant::now(),
            identifier,
            epoch: snapshot.epoch,
            mesh,
            log,
            reader,
            publishes,
            calls,
            stopped,
            metrics,
            observer: OnceLock::new(),
            consumers: OnceLock::new(),
            views: Arc::default(),
            heartbeats,
        })))
    }

    /// What was published lately, read back from the node's own logs.
    async fn known_events(
        config: &NodeConfig,
        reader: &LogReader,
        snapshot: &Snapshot,
        me: Author,
        identifier: &Identifier,
        wall_ms: u64,
    ) -> Result<Dedup, LogError> {
        let (reader, records, identifier) = (reader.clone(), snapshot.records.clone(), identifier.clone());
        let mut dedup = Dedup::new(config.dedup_window);
        let read = move || dedup.read_back(&reader, &records, &me, &identifier, wall_ms).map(|()| dedup);
        tokio::task::spawn_blocking(read).await.unwrap_or(Err(LogError::Closed))
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.0.peer_id
    }

    /// Full multiaddrs for others to join by.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let full = |address: Multiaddr| address.with_p2p(self.0.peer_id).unwrap_or_else(|address| address);
        self.0.mesh.addresses().into_iter().map(full).collect()
    }

    /// Publishes events to a topic, all or none but for those that were published lately, and returns when they are
    /// durable here and, with `acks`, on so many peers. Calls take effect in the order in which they were first polled,
    /// but for one that repeats an event on its way, which waits for that; one that is dropped may still take effect.
    ///
    /// # Errors
    /// When nothing was stored, or the node stopped.
    pub async fn publish(&self, topic: Topic, events: Vec<EncodedEvent>, acks: u32) -> Result<Receipt, CallError> {
        self.submit(topic, events, acks, None).await
    }

    /// Like [`Node::publish`], but waits for acknowledgements only `wait_ms` after the events are durable here:
    /// [`Receipt::peers`] tells how many there are.
    ///
    /// # Errors
    /// When nothing was stored, or the node stopped.
    pub async fn publish_within(
        &self,
        topic: Topic,
        events: Vec<EncodedEvent>,
        acks: u32,
        wait_ms: u64,
    ) -> Result<Receipt, CallError> {
        self.submit(topic, events, acks, Some(Duration::from_millis(wait_ms))).await
    }

    async fn submit(
        &self,
        topic: Topic,
        events: Vec<EncodedEvent>,
        acks: u32,
        wait: Option<Duration>,
    ) -> Result<Receipt, CallError> {
        if topic.is_system() {
            return Err(CallError::SystemTopic(topic));
        }
        let transaction = Transaction { parts: vec![(topic, events)], marks: Vec::new(), acks, wait };
        let Committed { places, arrival, peers, links } = self.transact(transaction).await?;
        let places = places.into_iter().next().ok_or(CallError::NoEvents)?.events;
        Ok(Receipt { places, arrival, peers, links })
    }

    /// Writes events of several topics and marks in one write set, and returns when it is durable. Also takes system
    /// topics.
    ///
    /// # Errors
    /// When nothing was stored, or the node stopped.
    pub(crate) async fn transact(&self, transaction: Transaction) -> Result<Committed, CallError> {
        let empty = |(_, events): &(Topic, Vec<EncodedEvent>)| events.is_empty();
        if transaction.parts.iter().any(empty) || (transaction.parts.is_empty() && transaction.marks.is_empty()) {
            return Err(CallError::NoEvents);
        }
        let events =
            transaction.parts.iter().flat_map(|(topic, events)| events.iter().map(move |event| (topic, event)));
        let identities = events.map(|(topic, event)| self.0.identifier.identify(topic, event)).collect();
        let (reply, committed) = oneshot::channel();
        let publish = Publish { transaction, identities, reply, since: Instant::now(), stages: Stages::begin() };
        self.0.publishes.send(publish).await.map_err(|_| self.gone())?;
        committed.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> CallError {
        let reason = self.0.stopped.borrow().clone().filter(|reason| !reason.is_empty());
        CallError::Stopped(reason.map(|reason| format!(" because {reason}")).unwrap_or_default())
    }

    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        self.0.calls.send(call(reply)).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    /// Follows the events of the topics that match, in order of arrival, from a place on. See [`Subscription`].
    #[must_use]
    pub fn subscribe(&self, patterns: Vec<Pattern>, from: From) -> Subscription {
        Subscription::new(self.0.reader.clone(), self.0.metrics.delivery.clone(), patterns, from)
    }

    /// Everything at a glance.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn status(&self) -> Result<NodeStatus, CallError> {
        let facts = self.call(Call::Facts).await?;
        let links = self.0.mesh.links().await;
        let node = NodeInfo {
            id: self.0.peer_id.to_base58(),
            name: self.0.name.clone(),
            mesh: self.0.mesh_name.clone(),
            listen: self.addresses().iter().map(ToString::to_string).collect(),
            subscriptions: facts.interest.patterns.iter().map(ToString::to_string).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.0.started.elapsed().as_secs(),
            api: None,
        };
        let store = StoreStatus {
            path: self.0.home.join("log").display().to_string(),
            batch_bytes: facts.batch_bytes,
            disk_bytes: self.0.reader.size_on_disk(),
            cap_bytes: self.0.cap_bytes,
            full: facts.full,
            takes: facts.takes.to_owned(),
            free_bytes: self.0.reader.free_bytes(),
            arrivals: facts.arrivals,
            salvaged: self.0.salvaged.clone(),
        };
        let mut status = report::status(&facts, &links, node, store);
        if let Some(warning) = self.salvage_warning() {
            status.warnings.insert(0, warning);
        }
        Ok(status)
    }

    /// Told until the operator has done with what was set aside.
    fn salvage_warning(&self) -> Option<String> {
        let salvaged = self.0.salvaged.as_ref().filter(|salvaged| salvaged.set_aside.exists())?;
        Some(format!("{salvaged}: once you remove that, this is not told any more"))
    }

    /// Whether it can be used: its store is open, it listens, and its engine answers in time.
    pub async fn readiness(&self) -> Readiness {
        let store = self.0.reader.mark(TOPICS_MARK).map(|_| ()).map_err(|error| error.to_string());
        let listening = match self.0.mesh.addresses().is_empty() {
            true => Err("no address is listened on".to_owned()),
            false => Ok(()),
        };
        let engine = match self.answers_within(ENGINE_PATIENCE).await {
            true => Ok(()),
            false => Err(format!("the engine did not answer within {} s", ENGINE_PATIENCE.as_secs())),
        };
        let checks = [("store", store), ("listening", listening), ("engine", engine)];
        let check = |(name, outcome): (&str, Result<(), String>)| ReadinessCheck {
            name: name.to_owned(),
            ok: outcome.is_ok(),
            detail: outcome.err(),
        };
        let checks: Vec<_> = checks.into_iter().map(check).collect();
        Readiness { ready: checks.iter().all(|check| check.ok), checks }
    }

    /// Whether the engine answers in time.
    pub async fn answers_within(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.call(Call::Ping)).await, Ok(Ok(())))
    }

    /// What the node counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// All metrics, as text for scrapers.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn scrape(&self, format: Format) -> Result<String, CallError> {
        let measures = self.call(Call::Measures).await?;
        let links = self.0.mesh.links().await;
        Ok(self.0.metrics.scrape(self.figures(measures, &links), format))
    }

    fn figures(&self, measures: Measures, links: &[LinkInfo]) -> Figures {
        let node = &self.0;
        let queue = |name, (length, limit)| QueueFigures { name, length, limit };
        let [commands, gossip] = node.mesh.queues();
        let publishes = (node.publishes.max_capacity() - node.publishes.capacity(), node.publishes.max_capacity());
        let calls = (node.calls.max_capacity() - node.calls.capacity(), node.calls.max_capacity());
        let rtts: HashMap<String, f64> =
            links.iter().filter_map(|link| Some((link.peer.to_base58(), link.rtt_ms?))).collect();
        let peers = measures.peers.into_iter().map(|peer| PeerFigures { rtt_ms: rtts.get(&peer.id).copied(), ..peer });
        let [own, others, forked_logs] = measures.logs;
        Figures {
            id: node.peer_id.to_base58(),
            name: node.name.clone(),
            mesh: node.mesh_name.clone(),
            problems: measures.problems,
            warnings: measures.warnings + usize::from(self.salvage_warning().is_some()),
            counters: node.mesh.counters(),
            peers: peers.collect(),
            known_nodes: measures.known_nodes,
            kept_away: measures.kept_away,
            queues: vec![
                queue("publishes", publishes),
                queue("calls", calls),
                queue("inbox", measures.inbox),
                queue("log", measures.log_queue),
                queue("gossip", gossip),
                queue("mesh_commands", commands),
            ],
            log_queue_bytes: measures.log_queue_bytes,
            sequencer_bytes: measures.sequencer_bytes,
            awaiting_acks: measures.waiting,
            logs: [own, others],
            forked_logs,
            missing: measures.missing,
            audits: measures.audits,
            refused_logs: measures.refused_logs,
            batch_bytes: measures.batch_bytes,
            disk_bytes: node.reader.size_on_disk(),
            cap_bytes: node.cap_bytes,
            free_bytes: node.reader.free_bytes(),
            last_arrival: measures.last_arrival,
            takes: [measures.takes_others, measures.takes_own],
            uptime_s: node.started.elapsed().as_secs_f64(),
            consumers: Vec::new(),
            choreographies: Vec::new(),
        }
    }

    /// What is known to be missing.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn holes(&self) -> Result<Vec<HoleStatus>, CallError> {
        Ok(report::holes(&self.call(Call::Facts).await?))
    }

    /// Waits until every head that exists now is covered on both sides of every link, and nothing that this node knows
    /// of is missing here but what it pruned itself.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn converged(&self) -> Result<Converged, CallError> {
        let mut links = self.call(Call::Probe).await?;
        let mut facts = self.call(Call::Facts).await?;
        while facts.missing.iter().any(|range| range.reason != MissingReason::Pruned) {
            tokio::time::sleep(HOLE_POLL).await;
            links = self.call(Call::Probe).await?;
            facts = self.call(Call::Facts).await?;
        }
        Ok(Converged { links, left_out: facts.interest.excluded.iter().map(text_of).collect() })
    }

    /// The random number of its store, without which an arrival number says nothing.
    #[must_use]
    pub fn epoch(&self) -> StoreEpoch {
        self.0.epoch
    }

    /// The log, to read.
    #[must_use]
    pub fn log(&self) -> LogReader {
        self.0.reader.clone()
    }

    /// See [`Log::rewrite`].
    ///
    /// # Errors
    /// When there is too little room for the copy, or it fails: the store goes on as it was. When the node has stopped.
    pub async fn rewrite_log(&self) -> Result<RewriteReport, LogError> {
        self.0.log.rewrite().await
    }

    /// What the mesh layer counted.
    #[must_use]
    pub fn mesh_counters(&self) -> MeshCounters {
        self.0.mesh.counters()
    }

    /// Resolves when the node has stopped, with the reason, which is empty when it was told to.
    pub async fn stopped(&self) -> String {
        let mut stopped = self.0.stopped.clone();
        let reason = stopped.wait_for(Option::is_some).await.map(|reason| reason.clone().unwrap_or_default());
        reason.unwrap_or_else(|_| "the engine ended unexpectedly".to_owned())
    }

    /// Stops it: says good-bye, finishes writes, closes the store.
    pub async fn shutdown(&self) {
        // An engine that has stopped already does not answer, and that is as good.
        let _ = self.call(Call::Stop).await;
        self.stopped().await;
    }
}
