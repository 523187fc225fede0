//! What the swarm reports, and what follows from it.

use std::sync::atomic::Ordering::Relaxed;

use libp2p::core::ConnectedPoint;
use libp2p::metrics::Recorder;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, mdns, ping};

use super::address::split_peer;
use super::behaviour::{MeshBehaviourEvent, PROTOCOL_PREFIX, protocol_version};
use super::driver::Driver;
use super::flow::Backlog;
use super::peers::{Connection, PeerState, opens};
use super::transport;
use super::{Notice, twin};
use crate::clock::wall_ms;

/// A node of another mesh has so long to see for itself before we hang up.
const WRONG_MESH_PATIENCE_MS: u64 = 500;
/// And is not let in again for so long.
const WRONG_MESH_KEEP_AWAY_MS: u64 = 60_000;
/// A stranger whose handshakes fail is told of so often.
const STRANGER_EVERY_MS: u64 = 60_000;
/// Strangers that are remembered.
const MAX_STRANGERS: usize = 256;

impl Driver {
    pub(crate) fn on_swarm_event(&mut self, event: SwarmEvent<MeshBehaviourEvent>) {
        self.metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let reason = cause.map_or_else(|| "the connection was closed".to_owned(), |cause| cause.to_string());
                self.on_closed(peer_id, connection_id, num_established, &reason);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.on_incoming_failed(send_back_addr, &error);
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.tell_addresses(),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "a listener closed");
                self.tell_addresses();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed to accept"),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: MeshBehaviourEvent) {
        match &event {
            MeshBehaviourEvent::Gossip(event) => self.metrics.record(event),
            MeshBehaviourEvent::Identify(event) => self.metrics.record(event),
            MeshBehaviourEvent::Ping(event) => self.metrics.record(event),
            _ => {}
        }
        match event {
            MeshBehaviourEvent::Gossip(event) => self.on_gossip(event),
            MeshBehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.end_former_life(peer_id, connection_id, &info.agent_version);
                self.on_identified(peer_id, info);
            }
            MeshBehaviourEvent::Ping(ping::Event { peer, connection, result }) => match result {
                Ok(rtt) => {
                    if let Some(state) = self.peers.get_mut(&peer) {
                        state.rtt_ms = Some(rtt.as_secs_f64() * 1000.0);
                    }
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "a connection is dead");
                    self.swarm.close_connection(connection);
                }
            },
            MeshBehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    let (bare, _) = split_peer(&address);
                    if self.reach.can_dial(&bare, 0) {
                        self.book.join(&bare.with(Protocol::P2p(peer)), true);
                    }
                }
            }
            _ => {}
        }
    }

    /// Two connections to one peer may lead to two processes: it started anew, or two live ones share its identity. The
    /// one that came last gets the link; twins take turns, until each has heard of the other.
    fn end_former_life(&mut self, peer: PeerId, connection: ConnectionId, agent: &str) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        for known in state.connections.iter_mut().filter(|known| known.id == connection) {
            known.agent = agent.chars().take(64).collect();
        }
        let at = state.connections.iter().position(|known| known.id == connection).unwrap_or(0);
        let former = state.connections[..at].iter_mut().filter(|known| !known.agent.is_empty() && known.agent != agent);
        for known in former {
            known.is_former = true;
            tracing::info!(%peer, "another process of this peer has connected: the former connection is closed");
            self.swarm.close_connection(known.id);
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        let now_ms = self.now_ms();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.agent = info.agent_version.chars().take(64).collect();
        if info.protocol_version == protocol_version(&self.config.mesh_name) || state.closing.is_some() {
            return;
        }
        let version = info.protocol_version;
        let theirs: String = version.strip_prefix(PROTOCOL_PREFIX).unwrap_or(&version).chars().take(255).collect();
        let Some(connection) = state.connections.first() else { return };
        let address = connection.address.clone();
        let reason = format!("it is of another mesh, {theirs}");
        self.close_peer(peer, reason, now_ms + WRONG_MESH_PATIENCE_MS);
        self.keep_away(peer, WRONG_MESH_KEEP_AWAY_MS);
        self.book.wrong_address(&address, now_ms);
        let ours = self.config.mesh_name.clone();
        self.notice(Notice::WrongMesh { address, peer, ours, theirs });
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let now_ms = self.now_ms();
        let (address, _) = split_peer(endpoint.get_remote_address());
        let dialled = self.dials.remove(&connection).map(|ticket| (ticket, &address));
        let joined = self.book.on_connected(peer, dialled, now_ms);
        let dialed = endpoint.is_dialer();
        let flow = &self.shared.flow;
        let state = self.peers.entry(peer).or_insert_with(|| PeerState::new(wall_ms(), Backlog::new(flow.of(peer))));
        state.connections.push(Connection {
            id: connection,
            address,
            dialed,
            agent: String::new(),
            since_ms: now_ms,
            is_former: false,
        });
        if state.connections.len() == 1 && opens(self.me, peer) {
            state.open_at_ms = Some(now_ms);
        }
        self.open_due(now_ms);
        if let Some(address) = joined {
            self.notice(Notice::JoinedVia { address, peer });
        }
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId, remaining: u32, reason: &str) {
        let now_ms = self.now_ms();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let was_former = state.connections.iter().any(|known| known.id == connection && known.is_former);
        state.connections.retain(|it| it.id != connection);
        if remaining > 0 {
            if was_former {
                self.move_link(peer, now_ms);
            }
            return;
        }
        let reason = state.closing.take().map_or_else(|| reason.to_owned(), |closing| closing.reason);
        self.drop_link(peer, &reason);
        self.peers.remove(&peer);
        self.book.on_disconnected(peer, now_ms);
    }

    /// Gives the link to the process that took the place of another. A stream over a connection that this side closed
    /// ends only when it is written to.
    fn move_link(&mut self, peer: PeerId, now_ms: u64) {
        let ours = opens(self.me, peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if ours {
            state.begin_anew(now_ms);
        }
        if ours || state.has_former_link() {
            self.drop_link(peer, "another process of this peer took its place");
        }
        self.open_due(now_ms);
    }

    pub(crate) fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        // Whatever else dials (nothing should) keeps its own books.
        let Some(ticket) = self.dials.remove(&connection) else { return };
        self.counters.dials_failed.fetch_add(1, Relaxed);
        let now_ms = self.now_ms();
        let Some((join, next_ms)) = self.book.on_failed(ticket, now_ms) else { return };
        match error {
            DialError::LocalPeerId { address } => self.on_met_ourselves(address),
            DialError::WrongPeerId { obtained, address } if *obtained == self.me => self.on_met_ourselves(address),
            // The swarm does not even dial where it listens.
            DialError::NoAddresses if join.as_ref().is_some_and(|it| self.swarm.listeners().any(|own| own == it)) => {
                self.on_twin_verdict(twin::Verdict::Ourselves(join.unwrap_or_else(Multiaddr::empty)));
            }
            _ => {
                tracing::debug!(?join, %error, "a dial failed");
                let Some(address) = join else { return };
                let notice = self.describe_failure(address, error, next_ms);
                self.notice(notice);
            }
        }
    }

    fn on_met_ourselves(&mut self, address: &Multiaddr) {
        let (bare, _) = split_peer(address);
        let listening = self.swarm.listeners().any(|own| *own == bare);
        let now_ms = self.now_ms();
        if let Some(verdict) = self.twins.saw_outgoing(bare, listening, now_ms) {
            self.on_twin_verdict(verdict);
        }
    }

    fn describe_failure(&self, address: Multiaddr, error: &DialError, next_ms: u64) -> Notice {
        let error = match error {
            DialError::Transport(failures) => {
                if failures.iter().any(|(_, error)| transport::failed_in_handshake(error)) {
                    return Notice::HandshakeFailed { address, hint: self.handshake_hint() };
                }
                failures.first().map_or_else(|| error.to_string(), |(_, error)| transport::describe(error))
            }
            DialError::WrongPeerId { obtained, .. } => {
                format!("another peer answered: {obtained}; correct the /p2p/ part, or leave it out")
            }
            DialError::Denied { cause } => {
                let causes = std::error::Error::source(cause);
                causes.map_or_else(|| cause.to_string(), ToString::to_string)
            }
            other => other.to_string(),
        };
        Notice::DialFailed { address, error, next_ms }
    }

    fn handshake_hint(&self) -> String {
        let end = "the other side closed the connection during the handshake";
        match self.config.mesh_key {
            Some(_) => format!("{end}: does it use the same --mesh-key?"),
            None => format!("{end}: does it use a --mesh-key, which this node does not?"),
        }
    }

    fn on_incoming_failed(&mut self, from: Multiaddr, error: &ListenError) {
        let now_ms = self.now_ms();
        match error {
            ListenError::LocalPeerId { .. } => {
                if let Some(verdict) = self.twins.saw_incoming(from, now_ms) {
                    self.on_twin_verdict(verdict);
                }
            }
            ListenError::Transport(error) if transport::failed_in_handshake(error) => {
                tracing::debug!(%from, error = %transport::describe(error), "an inbound handshake failed");
                self.on_stranger(from, now_ms);
            }
            other => tracing::debug!(%from, error = %other, "an inbound connection came to nothing"),
        }
    }

    /// A handshake failed that somebody else began. Scanners do that all day, so each address is told of now and then.
    fn on_stranger(&mut self, from: Multiaddr, now_ms: u64) {
        let host = from.iter().next().map(|part| part.to_string()).unwrap_or_default();
        self.strangers.retain(|_, told_ms| now_ms < *told_ms + STRANGER_EVERY_MS);
        if self.strangers.len() < MAX_STRANGERS && self.strangers.insert(host, now_ms).is_none() {
            let hint = self.handshake_hint();
            self.notice(Notice::HandshakeFailed { address: from, hint });
        }
    }
}
