//! What a node says of itself: the data behind `status`, `peers`, `topics` and `log holes`, in the stable JSON form that
//! `--json` prints.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The name and version of [`NodeStatus`]'s JSON form.
pub const STATUS_SCHEMA: &str = "roundelay.status/v1";

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Always [`STATUS_SCHEMA`].
    pub schema: String,
    /// Whether anything is wrong with this node itself. Being alone is not wrong.
    pub healthy: bool,
    /// What is wrong, in sentences that say what to do; empty when healthy.
    pub problems: Vec<String>,
    /// What is worth knowing and not wrong, such as forked logs or clocks that differ.
    pub warnings: Vec<String>,
    /// The node.
    pub node: NodeInfo,
    /// Its links and the peers that it knows.
    pub peers: Vec<PeerStatus>,
    /// The topics that it holds events of.
    pub topics: Vec<TopicStatus>,
    /// Its store.
    pub store: StoreStatus,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its peer id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Its mesh.
    pub mesh: String,
    /// Full multiaddrs that can be pasted after `--join`.
    pub listen: Vec<String>,
    /// Patterns that it subscribes to.
    pub subscriptions: Vec<String>,
    /// Its program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// How its API is reached over TCP, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiInfo>,
}

/// How the API is reached over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiInfo {
    /// Where, such as `http://127.0.0.1:7777`.
    pub url: String,
    /// The file with the token that every request has to show.
    pub token_file: String,
}

/// A peer, connected or known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Its peer id.
    pub id: String,
    /// Its name, if its record is known.
    pub name: Option<String>,
    /// Whether a link is up.
    pub connected: bool,
    /// Where it is, if connected; else the first address of its record.
    pub address: Option<String>,
    /// `outbound` if we dialled, `inbound` if it did.
    pub direction: Option<String>,
    /// The last round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Events that it has and we lack.
    pub behind: u64,
    /// Events that we have and it has not announced.
    pub ahead: u64,
    /// Whether the last audit found both sides equal, and nothing changed since.
    pub in_sync: bool,
    /// Its clock less ours, in milliseconds.
    pub clock_ahead_ms: i64,
    /// Whether the operator blocked it.
    pub blocked: bool,
    /// It broke the rules, and there are no links with it until then, in milliseconds since 1970. `peers add`, `forget`
    /// and `unblock` let it in at once.
    #[serde(default)]
    pub kept_away_until_ms: Option<u64>,
    /// Why it is not connected, or was disconnected last, if there is anything to say.
    pub note: Option<String>,
}

/// A topic that the node holds events of, or knows to exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopicStatus {
    /// Its name.
    pub topic: String,
    /// Events stored here.
    pub events: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Authors with a log in it.
    pub authors: u64,
    /// Stamp of the last event, in milliseconds since 1970.
    pub last_event_ms: Option<u64>,
    /// A hash over its heads: equal on two nodes exactly when they hold the same logs to the same place. Where a full store
    /// pruned, what is left between holes counts too.
    pub digest: String,
    /// Whether this node subscribes to it.
    pub subscribed: bool,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Where it is.
    pub path: String,
    /// Bytes of batches in it.
    pub batch_bytes: u64,
    /// Bytes that it takes on disk.
    pub disk_bytes: u64,
    /// Bytes of batches beyond which the oldest go.
    pub cap_bytes: u64,
    /// Whether publishing is refused because it is full of events that nobody else has.
    pub full: bool,
    /// Whose events are taken: `all`, only its `own`, or `none`. Less than `all` when the store or its disk is full.
    pub takes: String,
    /// Bytes that are free on the disk that holds it, if the system says.
    pub free_bytes: Option<u64>,
    /// The last arrival number.
    pub arrivals: u64,
    /// What became of the store that was here before and was damaged, if one was.
    pub salvaged: Option<crate::log::Salvaged>,
}

/// A range of events that the node knows of and does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HoleStatus {
    /// The topic.
    pub topic: String,
    /// The author's peer id.
    pub author: String,
    /// The author's name, if known.
    pub author_name: Option<String>,
    /// First missing sequence number.
    pub from: u64,
    /// Last missing sequence number.
    pub to: u64,
    /// `pruned` here, `unavailable` at every peer that was asked, or `not_fetched` yet.
    pub reason: String,
}

/// Whether a node can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether all is well.
    pub ready: bool,
    /// What was looked at.
    pub checks: Vec<ReadinessCheck>,
}

/// One thing that a node needs to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadinessCheck {
    /// `store`, `listening`, `engine`, or `running`.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What is wrong, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer to `wait --converged`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Converged {
    /// Links that were up all the time and agreed.
    pub links: u32,
    /// Authors that were left out because they are blocked here.
    pub left_out: Vec<String>,
}
