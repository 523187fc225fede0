//! A running node: the handle that the API, the CLI and programs use.

use std::path::PathBuf;

use libp2p::{Multiaddr, PeerId};
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::{Pattern, Topic};

use crate::log::LogReader;
use crate::status::{Converged, HoleStatus, NodeStatus};
use crate::subscription::{From, Subscription};

/// How to run a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Folder of the node's store (`log/` is made in it). The caller holds the home's lock.
    pub home: PathBuf,
    /// Its name, for people.
    pub name: String,
    /// Its identity.
    pub keypair: libp2p::identity::Keypair,
    /// Its mesh; `default` unless told otherwise.
    pub mesh_name: String,
    /// The mesh's pre-shared key, if it has one.
    pub mesh_key: Option<[u8; 32]>,
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// Whom to join.
    pub join: Vec<Multiaddr>,
    /// If not empty, only these addresses are told to others.
    pub advertise: Vec<Multiaddr>,
    /// Find neighbours by mDNS. Ignored on the default mesh without a key.
    pub mdns: bool,
    /// What to subscribe to on the first start; what was joined and left since is remembered in the store.
    pub topics: Vec<Pattern>,
    /// Links to keep, if there are enough peers.
    pub min_links: usize,
    /// Links to have at most.
    pub max_links: usize,
    /// Bytes that the store may take on disk before the oldest events of others are pruned.
    pub store_cap_bytes: u64,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The identity is of another kind than ed25519.
    #[error("the identity is not an ed25519 key: remove the key file to have a new one made, or bring the right one")]
    Identity,
    /// The log could not be opened. Nothing was changed.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// The mesh could not be started; the log is closed again.
    #[error(transparent)]
    Mesh(#[from] crate::mesh::MeshError),
}

/// Why a call to a running node failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The store refused; nothing was stored.
    #[error(transparent)]
    Refused(#[from] roundelay_protocol::replica::Refusal),
    /// A system topic, whose first token starts with `_`.
    #[error("'{0}' belongs to the system: publish to a topic that does not start with '_'")]
    SystemTopic(Topic),
    /// The node ended, or its store failed, before it was known whether the call took effect.
    #[error("the node has stopped{0}; whether the call took effect is unknown: look when it runs again")]
    Stopped(String),
    /// More patterns than a node may subscribe to.
    #[error("a node subscribes to at most {0} patterns: leave some, or use wildcards")]
    TooManyPatterns(usize),
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Sequence number of its first event; the others follow by one.
    pub first_seq: u64,
    /// Stamp of its first event.
    pub first_hlc: Hlc,
    /// The arrival number with it.
    pub arrival: Arrival,
    /// Peers that announced to hold it, when the call returned.
    pub peers: u32,
    /// Links that were up.
    pub links: u32,
}

/// A handle to a running node; clones share it.
#[derive(Clone)]
pub struct Node {}

#[allow(unused_variables, clippy::unused_async, clippy::unimplemented)]
impl Node {
    /// Starts a node: opens its store, listens, joins.
    ///
    /// # Errors
    /// When the store or the network cannot be used.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        unimplemented!()
    }

    /// Who it is.
    pub fn id(&self) -> PeerId {
        unimplemented!()
    }

    /// Full multiaddrs for others to join by.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        unimplemented!()
    }

    /// Publishes events to a topic, all or none, and returns when they are durable here and, with `acks`, on so many
    /// peers. A caller that drops the future after it was polled may still have published. Order between calls is that in which they were first polled.
    ///
    /// # Errors
    /// When nothing was stored, or the node stopped.
    pub async fn publish(&self, topic: Topic, events: Vec<EncodedEvent>, acks: u32) -> Result<Receipt, CallError> {
        unimplemented!()
    }

    /// Like `publish`, but returns as soon as it is durable here or `wait_ms` has passed since then with fewer acks:
    /// `Receipt::peers` tells how many there are.
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
        unimplemented!()
    }

    /// Follows the events of the topics that match, in order of arrival, from a place on. See [`Subscription`].
    pub fn subscribe(&self, patterns: Vec<Pattern>, from: From) -> Subscription {
        unimplemented!()
    }

    /// Everything at a glance.
    pub async fn status(&self) -> Result<NodeStatus, CallError> {
        unimplemented!()
    }

    /// What is known to be missing.
    pub async fn holes(&self) -> Result<Vec<HoleStatus>, CallError> {
        unimplemented!()
    }

    /// Waits until every head that exists now is covered on both sides of every link.
    pub async fn converged(&self) -> Result<Converged, CallError> {
        unimplemented!()
    }

    /// Subscribes to one more pattern, for good.
    pub async fn join_topics(&self, pattern: Pattern) -> Result<(), CallError> {
        unimplemented!()
    }

    /// Ends a subscription, for good. False if there was none.
    pub async fn leave_topics(&self, pattern: Pattern) -> Result<bool, CallError> {
        unimplemented!()
    }

    /// Joins through an address, and remembers it.
    pub async fn add_peer(&self, address: Multiaddr) -> Result<(), CallError> {
        unimplemented!()
    }

    /// Forgets how to reach a peer.
    pub async fn forget_peer(&self, peer: PeerId) -> Result<(), CallError> {
        unimplemented!()
    }

    /// Has nothing to do with a peer and its events any more, until unblocked.
    pub async fn block_peer(&self, peer: PeerId, blocked: bool) -> Result<(), CallError> {
        unimplemented!()
    }

    /// True: closes all links and has none, until false.
    pub async fn set_offline(&self, offline: bool) {
        unimplemented!()
    }

    /// The log, to read.
    pub fn log(&self) -> LogReader {
        unimplemented!()
    }

    /// Resolves when the node has stopped by itself, with the reason (a failed store, for example).
    pub async fn stopped(&self) -> String {
        unimplemented!()
    }

    /// Stops it: says good-bye, finishes writes, closes the store.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
