//! Who gets in: nobody while offline, no blocked or kept-away peer, and no inbound one beyond the limit of links.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::limits;

/// Why a connection was refused here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this node is offline")]
    Offline,
    #[error("this node blocks the peer")]
    Blocked,
    #[error("this node keeps away from the peer for a while")]
    KeptAway,
    #[error("this node has as many links as it may have ({0})")]
    Full(usize),
}

/// A behaviour that only denies.
#[derive(Debug)]
pub(crate) struct Gate {
    offline: bool,
    max_links: usize,
    blocked: BTreeSet<PeerId>,
    keep_away: BTreeMap<PeerId, Instant>,
    connected: BTreeSet<PeerId>,
}

impl Gate {
    pub(crate) fn new(max_links: usize) -> Self {
        Self {
            offline: false,
            max_links,
            blocked: BTreeSet::new(),
            keep_away: BTreeMap::new(),
            connected: BTreeSet::new(),
        }
    }

    pub(crate) fn set_offline(&mut self, offline: bool) {
        self.offline = offline;
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    pub(crate) fn block(&mut self, peer: PeerId) {
        self.blocked.insert(peer);
    }

    pub(crate) fn unblock(&mut self, peer: PeerId) {
        self.blocked.remove(&peer);
    }

    pub(crate) fn keep_away(&mut self, peer: PeerId, until: Instant) {
        let now = Instant::now();
        self.keep_away.retain(|_, until| *until > now);
        if self.keep_away.len() >= limits::MAX_KEPT_AWAY
            && let Some(soonest) = self.keep_away.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            self.keep_away.remove(&soonest);
        }
        self.keep_away.insert(peer, until);
    }

    pub(crate) fn let_in(&mut self, peer: PeerId) {
        self.keep_away.remove(&peer);
    }

    fn check(&self, peer: Option<PeerId>) -> Result<(), ConnectionDenied> {
        if self.offline {
            return Err(ConnectionDenied::new(Refused::Offline));
        }
        let Some(peer) = peer else { return Ok(()) };
        if self.blocked.contains(&peer) {
            return Err(ConnectionDenied::new(Refused::Blocked));
        }
        if self.keep_away.get(&peer).is_some_and(|until| *until > Instant::now()) {
            return Err(ConnectionDenied::new(Refused::KeptAway));
        }
        Ok(())
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check(None)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(Some(peer))?;
        if self.connected.len() >= self.max_links && !self.connected.contains(&peer) {
            return Err(ConnectionDenied::new(Refused::Full(self.max_links)));
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.check(peer)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(Some(peer))?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connected.insert(established.peer_id);
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.connected.remove(&closed.peer_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
