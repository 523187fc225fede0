//! The engine: one task that feeds the replica with what happens, and does what it says. It owns the replica; everyone
//! else reaches it over bounded queues.

mod beat;
mod calls;
mod dedup;
mod effects;
mod inbox;
mod pace;
mod peers;
mod publishing;
mod room;
mod serve;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::{Frame, Memory, Position};
use roundelay_protocol::ids::{Author, StoreEpoch};
use roundelay_protocol::replica::{Effect, Input, MEMORY_MARK, Now, Replica, Source};
use roundelay_protocol::sequencer::MAX_QUEUED_BYTES;
use roundelay_protocol::sign::Ed25519Signer;
use roundelay_protocol::topic::Topic;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use beat::Beat;
pub(crate) use calls::{Call, Facts, Measures, Publish};
pub(crate) use dedup::{Dedup, Identifier};
use effects::Gathered;
use inbox::Inbound;
pub(crate) use peers::{BLOCK_MARK, JOIN_MARK, Peers, RULE_MARK, TOPICS_MARK};

use publishing::{Arrived, OwnWrites, Parked};
use room::Disk;
use waiting::Waiting;

use crate::clock::wall_ms;
use crate::log::{Log, LogError, LogEvent, LogReader};
use crate::mesh::{LinkSender, Mesh, MeshEvent};
use crate::metrics::{EngineMeters, OnItsWay, Way};
use crate::node::{CallError, Committed};

/// Publications that are taken from their queue at once.
const PUBLISH_RUN: usize = 512;
/// A peer's queue below this takes more heads.
const DRAINED_BYTES: usize = 512 * 1024;

struct Peer {
    link: u64,
    outbound: LinkSender,
    /// Heads were sent, and the replica waits until they are through.
    filling: bool,
}

/// What the engine is made of.
pub(crate) struct Parts {
    pub(crate) replica: Replica<Ed25519Signer>,
    pub(crate) epoch: StoreEpoch,
    pub(crate) log: Log,
    pub(crate) log_events: mpsc::Receiver<LogEvent>,
    pub(crate) mesh: Mesh,
    pub(crate) mesh_events: mpsc::Receiver<MeshEvent>,
    pub(crate) peers: Peers,
    pub(crate) dedup: Dedup,
    pub(crate) beat: Beat,
    pub(crate) publishes: mpsc::Receiver<Publish>,
    pub(crate) calls: mpsc::Receiver<Call>,
    pub(crate) stopped: watch::Sender<Option<String>>,
    pub(crate) meters: EngineMeters,
}

/// The engine's state.
pub(crate) struct Engine {
    replica: Replica<Ed25519Signer>,
    epoch: StoreEpoch,
    log: Log,
    log_events: mpsc::Receiver<LogEvent>,
    reader: LogReader,
    mesh: Mesh,
    peers: Peers,
    publishes: mpsc::Receiver<Publish>,
    calls: mpsc::Receiver<Call>,
    inbox: mpsc::Receiver<Inbound>,
    to_inbox: mpsc::Sender<Inbound>,
    stopped: watch::Sender<Option<String>>,
    links: BTreeMap<Author, Peer>,
    dedup: Dedup,
    beat: Beat,
    parked: Parked,
    own_writes: OwnWrites,
    /// What became durable last, while that is being told.
    arrived: Arrived,
    waiting: BTreeMap<u64, Waiting>,
    /// Publications that wait for acknowledgements, by when they are answered all the same.
    deadlines: BTreeSet<(Instant, u64)>,
    probes: BTreeMap<u64, oneshot::Sender<u32>>,
    last_id: u64,
    gossip_topics: BTreeSet<Topic>,
    /// Records of nodes and heartbeats on their way to the disk, by the write that holds them.
    records: VecDeque<(u64, VerifiedBatch)>,
    started: Instant,
    failure: Option<String>,
    gathered: Gathered,
    /// What the log reported while it was being waited for.
    backlog: VecDeque<LogEvent>,
    disk: Disk,
    /// Says when a read finds the log damaged.
    damage: watch::Receiver<Option<String>>,
    meters: EngineMeters,
    /// Batches on their way to the disk, by the write that holds them.
    writing: VecDeque<(u64, Vec<OnItsWay>)>,
}

impl Engine {
    /// Runs until it is told to stop or its log fails.
    pub(crate) async fn run(parts: Parts) {
        let (to_inbox, inbox) = mpsc::channel(inbox::MAX_INBOX);
        let reader = parts.log.reader();
        let damage = reader.damage();
        let verifier =
            tokio::spawn(inbox::run(parts.mesh.clone(), parts.mesh_events, to_inbox.clone(), parts.meters.clone()));
        let mut engine = Self {
            replica: parts.replica,
            epoch: parts.epoch,
            log: parts.log,
            log_events: parts.log_events,
            reader,
            mesh: parts.mesh,
            peers: parts.peers,
            publishes: parts.publishes,
            calls: parts.calls,
            inbox,
            to_inbox,
            stopped: parts.stopped,
            links: BTreeMap::new(),
            dedup: parts.dedup,
            beat: parts.beat,
            parked: Parked::default(),
            own_writes: OwnWrites::default(),
            arrived: Arrived::default(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            probes: BTreeMap::new(),
            last_id: 0,
            gossip_topics: BTreeSet::new(),
            records: VecDeque::new(),
            started: Instant::now(),
            failure: None,
            gathered: Gathered::default(),
            backlog: VecDeque::new(),
            disk: Disk::new(),
            damage,
            meters: parts.meters,
            writing: VecDeque::new(),
        };
        engine.begin().await;
        let told_to_stop = engine.turn_until_the_end().await;
        engine.end(told_to_stop).await;
        verifier.abort();
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall_ms() }
    }

    /// `Some` with the one who waits for the end, if somebody asked for it.
    async fn turn_until_the_end(&mut self) -> Option<oneshot::Sender<()>> {
        let mut run = Vec::with_capacity(PUBLISH_RUN);
        loop {
            // Whatever is submitted may put more into the backlog, and no newer event may pass that.
            self.take_ready().await;
            while let Some(event) = self.backlog.pop_front() {
                self.take_log_event(event).await;
                self.take_ready().await;
            }
            let deadline = self.next_deadline();
            let room = self.replica.queued_bytes() + self.parked.bytes() < MAX_QUEUED_BYTES;
            tokio::select! {
                biased;
                Some(event) = self.log_events.recv() => self.take_log_event(event).await,
                call = self.calls.recv() => match call {
                    Some(Call::Stop(done)) => return Some(done),
                    Some(call) => self.answer(call).await,
                    None => return None,
                },
                Some(inbound) = self.inbox.recv() => self.take_inbound(inbound).await,
                count = self.publishes.recv_many(&mut run, PUBLISH_RUN), if room && !self.publishes.is_closed() => {
                    if count > 0 {
                        self.take_publishes(&mut run).await;
                    }
                }
                Ok(()) = self.damage.changed() => {
                    let detail = self.damage.borrow_and_update().clone().unwrap_or_default();
                    self.fail(&LogError::Damaged { dir: self.log_dir(), detail });
                }
                () = tokio::time::sleep_until(deadline.into()) => self.tick().await,
            }
            if self.failure.is_some() {
                return None;
            }
            // Also where there is always something else to do: others wait to hear that nothing earlier comes.
            self.beat_if_due().await;
        }
    }

    fn next_deadline(&self) -> Instant {
        let filling = self.links.values().any(|peer| peer.filling);
        let drain = filling.then(|| Instant::now() + Duration::from_millis(10));
        let ack = self.deadlines.first().map(|(at, _)| *at);
        let replica = self.started + Duration::from_millis(self.replica.deadline_ms());
        [drain, ack, Some(replica), self.peers.next_deadline(), self.beat.next_deadline(), self.disk.next_look()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(replica)
    }

    async fn tick(&mut self) {
        self.answer_overdue().await;
        let drained: Vec<Author> = self
            .links
            .iter_mut()
            .filter(|(_, peer)| peer.filling && peer.outbound.queued_bytes() < DRAINED_BYTES)
            .map(|(author, peer)| {
                peer.filling = false;
                *author
            })
            .collect();
        let drained = drained.into_iter().map(|peer| Input::Drained { peer });
        let inputs: Vec<Input> = drained.chain([Input::Tick]).collect();
        self.feed_all(inputs).await;
        self.tend_peers().await;
    }

    async fn take_log_event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Stored { token, first_arrival, last_arrival, chain, batch_bytes } => {
                self.arrived = self.own_writes.arrived(token, first_arrival);
                let position = Position { epoch: self.epoch, arrival: last_arrival, chain };
                self.count_stored(token);
                self.feed(Input::Stored { token, position, batch_bytes }).await;
                self.learn_records(token).await;
            }
            LogEvent::Failed { error } => self.fail(&error),
        }
    }

    /// Batches count as stored from when they are durable.
    fn count_stored(&mut self, token: u64) {
        let wall_ms = self.now().wall_ms;
        while self.writing.front().is_some_and(|(at, _)| *at <= token)
            && let Some((_, batches)) = self.writing.pop_front()
        {
            self.meters.stored(batches, wall_ms);
        }
    }

    fn log_dir(&self) -> std::path::PathBuf {
        self.reader.dir().to_owned()
    }

    /// After a failed write nothing may be acknowledged any more: what is on the disk is unknown until it is reopened.
    fn fail(&mut self, error: &LogError) {
        tracing::error!(%error, "the log failed; this node stops");
        self.failure = Some(error.to_string());
    }

    async fn take_inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Gossip { peer, batch } => self.feed(Input::Batch { batch, source: Source::Gossip(peer) }).await,
            Inbound::Pulled { peer, id, batches } => {
                let source = Source::Pull { peer, id };
                let inputs: Vec<_> = batches.into_iter().map(|batch| Input::Batch { batch, source }).collect();
                self.feed_all(inputs).await;
            }
            Inbound::Frame { peer, link, frame, turn } => {
                self.meters.frame(Way::In, &frame);
                let started = Instant::now();
                let chain = match &frame {
                    Frame::Hello(hello) => {
                        let at = hello.memory.map(|memory| memory.position.arrival);
                        at.and_then(|arrival| self.reader.chain_at(arrival).ok().flatten())
                    }
                    _ => None,
                };
                self.feed(Input::Frame { peer, link, frame, chain }).await;
                turn.took(started.elapsed());
            }
            Inbound::LinkUp { peer, link, outbound } => {
                self.links.insert(peer, Peer { link, outbound, filling: false });
                let mark = self.reader.mark(&[MEMORY_MARK, &peer.0].concat()).ok().flatten();
                let memory = mark.and_then(|bytes| Memory::decode(&bytes).ok());
                self.peers.connected(peer);
                self.feed(Input::LinkUp { peer, link, nonce: rand::random(), memory }).await;
                self.tend_peers().await;
            }
            Inbound::LinkDown { peer, link, reason } => {
                if self.links.get(&peer).is_some_and(|known| known.link == link) {
                    self.links.remove(&peer);
                }
                tracing::info!(peer = %crate::peer_id::text_of(&peer), %reason, "link down");
                self.peers.disconnected(peer, reason);
                self.feed(Input::LinkDown { peer, link }).await;
                self.tend_peers().await;
            }
            Inbound::Served { peer } => self.feed(Input::Served { peer }).await,
            Inbound::Breach { peer, reason } => {
                self.meters.breach();
                self.feed(Input::Breach { peer, reason }).await;
            }
            Inbound::Slip { peer, reason } => {
                self.meters.slip();
                self.feed(Input::Slip { peer, reason }).await;
            }
            Inbound::Addresses => self.peers.set_addresses(&self.mesh.addresses()),
            Inbound::Notice(notice) => self.peers.take_notice(notice),
        }
    }

    /// Says good-bye, finishes what is being written and lets go of the store.
    async fn end(mut self, told_to_stop: Option<oneshot::Sender<()>>) {
        self.publishes.close();
        self.mesh.shutdown().await;
        let failure = self.failure.clone();
        let Self { log, mut log_events, replica, mut waiting, parked, mut own_writes, .. } = self;
        let mut replica = replica;
        // What was handed to the log may still become durable, and its publishers hear of it.
        let drain = async {
            while let Some(event) = log_events.recv().await {
                let LogEvent::Stored { token, first_arrival, last_arrival, chain, batch_bytes } = event else {
                    continue;
                };
                let arrived = own_writes.arrived(token, first_arrival);
                let position = Position { epoch: self.epoch, arrival: last_arrival, chain };
                let now = Now { mono_ms: u64::MAX / 2, wall_ms: 0 };
                for effect in replica.handle(now, Input::Stored { token, position, batch_bytes }) {
                    let Effect::Published { id, places, arrival } = effect else { continue };
                    if let Some(waiting) = waiting.remove(&id) {
                        let (places, _) = waiting.plotted.settle(&places, &arrived);
                        let committed = Committed { places, arrival, peers: 0, links: 0 };
                        let _ = waiting.reply.send(Ok(committed));
                    }
                }
            }
        };
        tokio::join!(log.close(), drain);
        let reason = failure.unwrap_or_default();
        let because = if reason.is_empty() { String::new() } else { format!(" because {reason}") };
        let replies = waiting.into_values().map(|waiting| waiting.reply);
        for reply in replies.chain(parked.take_all().map(|publish| publish.reply)) {
            let _ = reply.send(Err(CallError::Stopped(because.clone())));
        }
        self.stopped.send_replace(Some(reason));
        if let Some(done) = told_to_stop {
            let _ = done.send(());
        }
    }
}
