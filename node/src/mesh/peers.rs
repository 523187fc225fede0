//! What is known of each peer with a connection.

use std::collections::BTreeMap;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::flow::Backlog;
use super::link::RunningLink;

/// The first and the longest delay before a sync stream is opened again on a connection that lives.
const REOPEN_FIRST_MS: u64 = 200;
const REOPEN_LONGEST_MS: u64 = 10_000;
/// A sync stream that lived so long was a good one.
const REOPEN_GOOD_MS: u64 = 10_000;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    pub(crate) dialed: bool,
    /// What the process at its other end says that it is; empty until it said so.
    pub(crate) agent: String,
    /// When it came up.
    pub(crate) since_ms: u64,
    /// Another process of the peer took its place, and it is being closed.
    pub(crate) is_former: bool,
}

/// A peer that is being shown the door.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) at_ms: u64,
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct PeerState {
    pub(crate) connections: Vec<Connection>,
    pub(crate) backlog: Backlog,
    pub(crate) link: Option<RunningLink>,
    /// When the running link came up.
    pub(crate) link_since_ms: u64,
    pub(crate) closing: Option<Closing>,
    /// When the sync stream is to be opened; none if it is open, being opened, or theirs to open.
    pub(crate) open_at_ms: Option<u64>,
    reopen_ms: u64,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) agent: String,
    pub(crate) since_unix_ms: u64,
}

impl PeerState {
    pub(crate) fn new(since_unix_ms: u64, backlog: Backlog) -> Self {
        Self {
            connections: Vec::new(),
            backlog,
            link: None,
            link_since_ms: 0,
            closing: None,
            open_at_ms: None,
            reopen_ms: REOPEN_FIRST_MS,
            rtt_ms: None,
            agent: String::new(),
            since_unix_ms,
        }
    }

    /// Another process took this peer's place: how the streams of the former one ended is not held against it.
    pub(crate) fn begin_anew(&mut self, now_ms: u64) {
        self.reopen_ms = REOPEN_FIRST_MS;
        self.open_at_ms = Some(now_ms);
    }

    /// Whether the link is from before the process came that has the peer's place now: that may have more connections
    /// than one, and the link be on any of them.
    pub(crate) fn has_former_link(&self) -> bool {
        let first = self.connections.iter().find(|known| !known.is_former);
        first.is_some_and(|first| self.link_since_ms < first.since_ms)
    }

    /// The stream failed or could not be opened: say when to try again.
    pub(crate) fn plan_reopen(&mut self, now_ms: u64, lived_ms: u64) {
        if lived_ms >= REOPEN_GOOD_MS {
            self.reopen_ms = REOPEN_FIRST_MS;
        }
        self.open_at_ms = Some(now_ms + self.reopen_ms);
        self.reopen_ms = (2 * self.reopen_ms).min(REOPEN_LONGEST_MS);
    }
}

/// Peers by id, in order.
pub(crate) type Peers = BTreeMap<PeerId, PeerState>;

/// Of two peers, the one with the smaller id opens the sync stream.
pub(crate) fn opens(me: PeerId, peer: PeerId) -> bool {
    me.to_bytes() < peer.to_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_link_that_the_process_in_its_place_has_is_no_former_one_whatever_connects_later() {
        let mut state = PeerState::new(0, Backlog::new(Arc::default()));
        let connection = |id, since_ms, is_former| Connection {
            id: ConnectionId::new_unchecked(id),
            address: Multiaddr::empty(),
            dialed: true,
            agent: String::new(),
            since_ms,
            is_former,
        };
        assert!(!state.has_former_link());
        state.connections = vec![connection(1, 100, true), connection(2, 200, false), connection(3, 300, false)];
        for (link_since_ms, is_former) in [(150, true), (250, false), (350, false)] {
            state.link_since_ms = link_since_ms;
            assert_eq!(state.has_former_link(), is_former, "a link since {link_since_ms} ms");
        }
    }
}
