//! The task that owns the swarm. It never waits: what has no room goes to the outbox, what takes time to other tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use libp2p::metrics::{Metrics, Registry};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout, timeout_at};

use super::address::{Reach, can_advertise, split_peer};
use super::behaviour::{MeshBehaviour, build_swarm, sync_protocol};
use super::counters::Counters;
use super::dial::{Dial, DialBook};
use super::gossip::TopicNames;
use super::outbox::Outbox;
use super::peers::{Closing, Peers};
use super::sync::SyncStreams;
use super::transport;
use super::twin::{self, TwinWatch};
use super::{LinkInfo, MeshCommand, MeshConfig, MeshError, MeshEvent, Notice, Publish, Request, Shared};

const TICK: Duration = Duration::from_millis(200);
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
const SHUTDOWN_DEADLINE: Duration = Duration::from_millis(600);
/// How often the interfaces are looked at.
const REACH_EVERY_MS: u64 = 30_000;
/// What a peer's link may still write when it is disconnected.
const FAREWELL_MS: u64 = 500;
/// How long publishing waits at a time when a neighbour's queue is full and nothing moves.
const PACE: Duration = Duration::from_millis(10);

pub(crate) struct Driver {
    pub(crate) config: MeshConfig,
    pub(crate) me: PeerId,
    pub(crate) swarm: Swarm<MeshBehaviour>,
    pub(crate) names: TopicNames,
    pub(crate) peers: Peers,
    pub(crate) book: DialBook,
    pub(crate) dials: BTreeMap<ConnectionId, u64>,
    pub(crate) twins: TwinWatch,
    pub(crate) reach: Reach,
    reach_due_ms: u64,
    pub(crate) sync: SyncStreams,
    pub(crate) outbox: Outbox,
    events: mpsc::Sender<MeshEvent>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    /// What libp2p makes of its events.
    pub(crate) metrics: Metrics,
    started: Instant,
    /// Topics, and whether gossip carries them.
    pub(crate) subscribed: BTreeMap<String, bool>,
    pub(crate) subscription_bytes: usize,
    told_addresses: Option<Vec<Multiaddr>>,
    /// Sources of failed inbound handshakes, and when they were last told of.
    pub(crate) strangers: BTreeMap<String, u64>,
}

impl Driver {
    pub(crate) fn new(
        config: MeshConfig,
        shared: Arc<Shared>,
        events: mpsc::Sender<MeshEvent>,
        registry: &mut Registry,
    ) -> Result<Self, MeshError> {
        let me = config.keypair.public().to_peer_id();
        let names = TopicNames::new(&config.mesh_name);
        let swarm = build_swarm(&config, &names, &shared, registry)?;
        let metrics = Metrics::new(registry);
        let sync = SyncStreams::new(swarm.behaviour().streams.new_control(), sync_protocol(&config.mesh_name)?)?;
        let mut seed = [0; 8];
        seed.copy_from_slice(&blake3::hash(format!("{me} {:?}", SystemTime::now()).as_bytes()).as_bytes()[..8]);
        let mut book = DialBook::new(me, config.min_links, config.max_links, u64::from_le_bytes(seed));
        for address in &config.join {
            book.join(address, false);
        }
        let counters = shared.counters.clone();
        Ok(Self {
            me,
            swarm,
            names,
            peers: Peers::new(),
            book,
            dials: BTreeMap::new(),
            twins: TwinWatch::default(),
            reach: Reach::look(),
            reach_due_ms: REACH_EVERY_MS,
            sync,
            outbox: Outbox::new(counters.clone()),
            events,
            shared,
            counters,
            metrics,
            started: Instant::now(),
            subscribed: BTreeMap::new(),
            subscription_bytes: 0,
            told_addresses: None,
            strangers: BTreeMap::new(),
            config,
        })
    }

    /// Binds every listener and waits until each has reported an address.
    pub(crate) async fn listen(&mut self) -> Result<(), MeshError> {
        let mut silent = Vec::new();
        for addr in self.config.listen.clone() {
            // Listeners of libp2p share ports with each other, so a second node would take over half of the first's.
            if let Some(taken) = transport::port_in_use(&addr) {
                return Err(MeshError::Listen { addr, source: taken });
            }
            match self.swarm.listen_on(addr.clone()) {
                Ok(listener) => silent.push(listener),
                Err(error) => {
                    let source = match error {
                        libp2p::TransportError::Other(source) => source,
                        other => std::io::Error::new(std::io::ErrorKind::Unsupported, other.to_string()),
                    };
                    return Err(MeshError::Listen { addr, source });
                }
            }
        }
        let deadline = tokio::time::Instant::now() + LISTEN_DEADLINE;
        while !silent.is_empty() {
            let event = timeout_at(deadline, self.swarm.select_next_some()).await;
            let event = event.map_err(|_| MeshError::NoAddresses)?;
            if let SwarmEvent::NewListenAddr { listener_id, .. } = &event {
                silent.retain(|listener| listener != listener_id);
            }
            self.on_swarm_event(event);
        }
        // A listener on all interfaces reports them one after the other, without a pause.
        let settled = tokio::time::Instant::now() + Duration::from_millis(20);
        while let Ok(event) = timeout_at(settled, self.swarm.select_next_some()).await {
            self.on_swarm_event(event);
        }
        self.tell_addresses();
        Ok(())
    }

    /// Runs until every handle is gone or one asks for the end.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut publishes: mpsc::Receiver<Publish>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        let events = self.events.clone();
        loop {
            let may_publish = publishes.is_empty() || self.may_publish();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some(publish) = publishes.recv(), if may_publish => {
                    self.publish_burst(publish, &mut publishes);
                    // Gossip's queues are short: without a turn for the connections, a burst would overflow them.
                    tokio::task::yield_now().await;
                }
                _ = timeout(PACE, shared.flow.moved.notified()), if !may_publish => {}
                () = shared.verdict_came.notified() => self.apply_verdicts(),
                Some(stream) = self.sync.streams.recv() => self.on_stream(stream),
                Some(end) = self.sync.ended.recv() => self.on_link_end(end),
                permit = events.reserve(), if !self.outbox.is_empty() => self.drain_outbox(permit.ok()),
                _ = tick.tick() => self.on_tick(),
                request = requests.recv() => match request {
                    Some(Request::Command(command)) => self.on_command(command),
                    Some(Request::Links(answer)) => drop(answer.send(self.list_links())),
                    Some(Request::Shutdown(done)) => return self.shut_down(Some(done)).await,
                    None => return self.shut_down(None).await,
                },
            }
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Hands an event to the engine, at once or when there is room. False if it is gossip and there is none.
    pub(crate) fn tell(&mut self, event: MeshEvent) -> bool {
        if !self.outbox.is_empty() {
            return self.outbox.push(event);
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(event)) => self.outbox.push(event),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.tell(MeshEvent::Notice(notice));
    }

    /// Moves what fits from the outbox to the channel. Without a permit nobody listens any more.
    fn drain_outbox(&mut self, permit: Option<mpsc::Permit<'_, MeshEvent>>) {
        let Some(permit) = permit else {
            self.outbox = Outbox::new(self.counters.clone());
            return;
        };
        if let Some(event) = self.outbox.pop() {
            permit.send(event);
        }
        while let Ok(permit) = self.events.try_reserve() {
            let Some(event) = self.outbox.pop() else { break };
            permit.send(event);
        }
    }

    fn on_tick(&mut self) {
        let now_ms = self.now_ms();
        if now_ms >= self.reach_due_ms {
            self.reach = Reach::look();
            self.reach_due_ms = now_ms + REACH_EVERY_MS;
        }
        let listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        for verdict in self.twins.expire(now_ms, |address| listening.contains(&split_peer(address).0)) {
            self.on_twin_verdict(verdict);
        }
        self.close_due(now_ms);
        self.open_due(now_ms);
        self.dial_due();
    }

    pub(crate) fn on_twin_verdict(&mut self, verdict: twin::Verdict) {
        match verdict {
            twin::Verdict::Twin(address) => self.notice(Notice::TwinSeen { address }),
            twin::Verdict::Ourselves(address) => {
                self.book.wrong_address(&address, self.now_ms());
                self.notice(Notice::Ourselves { address });
            }
        }
    }

    fn dial_due(&mut self) {
        if self.swarm.behaviour().gate.is_offline() {
            return;
        }
        let now_ms = self.now_ms();
        for Dial { ticket, peer, addresses, .. } in self.book.due(now_ms, &self.reach) {
            // A port of its own for each dial: two nodes that dial each other from their listening ports at the same
            // moment would meet in one TCP connection that both think they opened.
            let options = match (peer, addresses) {
                (Some(peer), addresses) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(addresses)
                    .allocate_new_port()
                    .build(),
                (None, mut addresses) => {
                    let Some(address) = addresses.pop() else { continue };
                    DialOpts::unknown_peer_id().address(address).allocate_new_port().build()
                }
            };
            self.counters.dials.fetch_add(1, Relaxed);
            let connection = options.connection_id();
            self.dials.insert(connection, ticket);
            if let Err(error) = self.swarm.dial(options) {
                self.on_dial_failed(connection, &error);
            }
        }
    }

    fn on_command(&mut self, command: MeshCommand) {
        let now_ms = self.now_ms();
        match command {
            MeshCommand::Subscribe(topic) => self.subscribe(topic),
            MeshCommand::Unsubscribe(topic) => self.unsubscribe(&topic),
            MeshCommand::Candidates(candidates) => self.book.set_candidates(candidates, now_ms),
            MeshCommand::Join(address) => drop(self.book.join(&address, false)),
            MeshCommand::Forget(peer) => self.book.forget(peer),
            MeshCommand::LetIn(peer) => {
                self.book.keep_away(peer, 0);
                self.swarm.behaviour_mut().gate.let_in(peer);
            }
            MeshCommand::Block(peer) => {
                self.book.block(peer);
                self.swarm.behaviour_mut().gate.block(peer);
                self.close_peer(peer, "blocked".to_owned(), now_ms);
            }
            MeshCommand::Unblock(peer) => {
                self.book.unblock(peer);
                self.swarm.behaviour_mut().gate.unblock(peer);
            }
            MeshCommand::Disconnect { peer, reason, keep_away_ms } => {
                self.keep_away(peer, keep_away_ms);
                self.close_peer(peer, reason, now_ms + FAREWELL_MS);
            }
            MeshCommand::SetOffline(offline) => self.set_offline(offline),
        }
        self.close_due(now_ms);
        self.dial_due();
    }

    pub(crate) fn keep_away(&mut self, peer: PeerId, for_ms: u64) {
        if for_ms > 0 {
            self.book.keep_away(peer, self.now_ms().saturating_add(for_ms));
            let far = Duration::from_secs(10 * 365 * 24 * 3600);
            let until = Instant::now() + Duration::from_millis(for_ms).min(far);
            self.swarm.behaviour_mut().gate.keep_away(peer, until);
        }
    }

    fn set_offline(&mut self, offline: bool) {
        self.swarm.behaviour_mut().gate.set_offline(offline);
        if !offline {
            self.book.clear_backoffs();
            return;
        }
        let everyone: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in everyone {
            self.close_peer(peer, "this node went offline".to_owned(), 0);
        }
    }

    /// Has a peer's connections closed at that time, or as soon as its link has written what it had.
    pub(crate) fn close_peer(&mut self, peer: PeerId, reason: String, at_ms: u64) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        // Whoever is being shown the door does not put that off by giving more reasons for it.
        let at_ms = state.closing.as_ref().map_or(at_ms, |closing| closing.at_ms.min(at_ms));
        state.closing = Some(Closing { at_ms, reason });
        if let Some(link) = &state.link {
            link.close.cancel();
        }
    }

    pub(crate) fn close_due(&mut self, now_ms: u64) {
        let is_due = |closing: &Closing| now_ms >= closing.at_ms;
        let due: Vec<(PeerId, String)> = self
            .peers
            .iter()
            .filter_map(|(peer, state)| Some((*peer, state.closing.as_ref().filter(|it| is_due(it))?.reason.clone())))
            .collect();
        for (peer, reason) in due {
            self.drop_link(peer, &reason);
            // Not connected is fine: that is what was wanted.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Tells the engine our addresses, if they are not what it was told last.
    pub(crate) fn tell_addresses(&mut self) {
        let mut addresses = self.config.advertise.iter().map(|it| split_peer(it).0).collect::<Vec<_>>();
        if addresses.is_empty() {
            addresses = self.swarm.listeners().filter(|address| can_advertise(address)).cloned().collect();
        }
        addresses.sort();
        addresses.dedup();
        if self.told_addresses.as_ref() != Some(&addresses) {
            self.told_addresses = Some(addresses.clone());
            self.shared.addresses.write().clone_from(&addresses);
            self.tell(MeshEvent::Addresses(addresses));
        }
    }

    fn list_links(&self) -> Vec<LinkInfo> {
        let gossip = &self.swarm.behaviour().gossip;
        let common: BTreeMap<PeerId, usize> = gossip
            .all_peers()
            .map(|(peer, topics)| {
                let ours = topics.iter().filter(|wire| self.names.topic(wire).is_some_and(|it| self.is_subscribed(it)));
                (*peer, ours.count())
            })
            .collect();
        let described = self.peers.iter().filter_map(|(peer, state)| {
            let connection = state.connections.first()?;
            Some(LinkInfo {
                peer: *peer,
                link: state.link.as_ref().map(|link| link.link),
                address: connection.address.clone(),
                dialed: connection.dialed,
                rtt_ms: state.rtt_ms,
                agent: state.agent.clone(),
                connected_since_unix_ms: state.since_unix_ms,
                common_topics: common.get(peer).copied().unwrap_or(0),
            })
        });
        described.collect()
    }

    async fn shut_down(mut self, done: Option<oneshot::Sender<()>>) {
        self.swarm.behaviour_mut().gate.set_offline(true);
        let mut running = 0;
        for link in self.peers.values().filter_map(|state| state.link.as_ref()) {
            link.close.cancel();
            running += 1;
        }
        let deadline = tokio::time::Instant::now() + SHUTDOWN_DEADLINE;
        while running > 0 {
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                Some(_) = self.sync.ended.recv() => running -= 1,
                () = sleep_until(deadline) => break,
            }
        }
        let everyone: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in everyone {
            self.drop_link(peer, "this node shut down");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = tokio::time::Instant::now() + SHUTDOWN_DEADLINE;
        while self.swarm.connected_peers().next().is_some() {
            if timeout_at(deadline, self.swarm.select_next_some()).await.is_err() {
                break;
            }
        }
        while let Some(event) = self.outbox.pop() {
            if self.events.try_send(event).is_err() {
                break;
            }
        }
        // Listeners and sockets are closed before anybody is told that they are.
        drop(self);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}
