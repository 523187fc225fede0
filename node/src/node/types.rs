//! What a node is made from, what is asked of it, and what it answers.

use std::path::PathBuf;
use std::time::Duration;

use libp2p::Multiaddr;
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::write_set::Mark;

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
    /// How many logs of others it takes.
    pub log_limits: LogLimits,
    /// For how long an event that is published again, by its topic, source and id, is acknowledged and not stored again;
    /// zero for never. At most 1,000,000 events are known.
    pub dedup_window: Duration,
    /// Between two heartbeats, by which others know that nothing earlier of this node is still to come; zero for none.
    pub heartbeat: Duration,
}

/// How long published events are known unless told otherwise.
pub const DEFAULT_DEDUP_WINDOW: Duration = Duration::from_secs(600);

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
    /// A rule cannot be set; nothing was changed.
    #[error(transparent)]
    Rule(#[from] roundelay_protocol::rules::RuleError),
    /// The node ended, or its store failed, before it was known whether the call took effect.
    #[error("the node has stopped{0}; whether the call took effect is unknown: look when it runs again")]
    Stopped(String),
    /// A publication without events. Nothing has happened.
    #[error("there is nothing to publish: give at least one event")]
    NoEvents,
    /// Another event of this topic, source and id was published lately; nothing was stored.
    #[error(
        "an event with the id '{id}' and the source '{from}' was published to {topic} lately, with other content; \
         nothing was stored"
    )]
    IdTaken {
        /// The topic.
        topic: Topic,
        /// The source.
        from: String,
        /// The id.
        id: String,
    },
    /// More patterns than a node may subscribe to.
    #[error("a node subscribes to at most {0} patterns: leave some, or use wildcards")]
    TooManyPatterns(usize),
}

/// Where an event is in this node's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventPlace {
    /// Its sequence number in this node's log of its topic.
    pub seq: u64,
    /// The arrival number of its batch.
    pub arrival: Arrival,
    /// Its place in that batch, from 0 on.
    pub index: u32,
    /// Whether it was here already, so that nothing was stored for it.
    pub duplicate: bool,
}

/// Where the events of one part of a [`Transaction`] are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartPlace {
    /// Sequence number of its first event. The others follow by one, unless some of them were here already.
    pub first_seq: u64,
    /// Its events, in their order.
    pub events: Vec<EventPlace>,
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its events, in their order.
    pub places: Vec<EventPlace>,
    /// The arrival number with it.
    pub arrival: Arrival,
    /// Peers that announced to hold it, when the call returned.
    pub peers: u32,
    /// Links that were up.
    pub links: u32,
}

/// What is written all or nothing.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Events by topic: several parts may name one. The transaction keeps its place among publications to its first
    /// topic; it may overtake others.
    pub parts: Vec<(Topic, Vec<EncodedEvent>)>,
    /// Marks of the store that are set or removed with them: see ARCHITECTURE.md for their names. A value has at most
    /// 16 KiB.
    pub marks: Vec<Mark>,
    /// How many peers must hold the events.
    pub acks: u32,
    /// How long to wait for them once all is durable here; for ever if not given.
    pub wait: Option<Duration>,
}

/// What became of a [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its parts, in their order.
    pub places: Vec<PartPlace>,
    /// The arrival number with it.
    pub arrival: Arrival,
    /// Peers that announced to hold all of it, when the call returned.
    pub peers: u32,
    /// Links that were up.
    pub links: u32,
}
