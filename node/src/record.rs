//! Nodes' records of themselves: the events of the system topic `_mesh`, of which the last one of each author counts.
//! They are how nodes learn of peers, find co-subscribers to dial, and discover topics.

use std::collections::BTreeMap;

use libp2p::Multiaddr;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::event::{Event, Item};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Author;
use roundelay_protocol::interest::Interest;
use roundelay_protocol::topic::{Pattern, Topic};
use serde::{Deserialize, Serialize};

/// The type of the events that carry records.
pub const RECORD_KIND: &str = "roundelay.node.v1";
/// Topics that a record lists; further ones are learnt from heads.
pub const MAX_LISTED_TOPICS: usize = 1_024;
/// Addresses that a record lists.
const MAX_LISTED_ADDRESSES: usize = 16;
/// Bytes of a record that is believed.
const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Nodes whose records are kept in memory.
const MAX_NODES: usize = 10_000;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name, for people.
    pub name: String,
    /// Where it can be dialled, without `/p2p/…`.
    pub addresses: Vec<String>,
    /// What it subscribes to.
    pub patterns: Vec<String>,
    /// Topics that it publishes to, at most [`MAX_LISTED_TOPICS`].
    pub topics: Vec<String>,
    /// Equal for nodes that share a loopback interface.
    pub host: u64,
    /// Its program version.
    pub version: String,
    /// Its wall clock when it wrote this, in milliseconds since 1970.
    pub clock_ms: u64,
}

impl NodeRecord {
    /// The event that tells it.
    #[must_use]
    pub fn to_event(&self, source: String) -> Event {
        Event {
            kind: RECORD_KIND.to_owned(),
            id: uuid::Uuid::now_v7().to_string(),
            key: Some(source.clone()),
            source,
            content_type: Some("application/json".to_owned()),
            // A record has nothing that JSON cannot say.
            data: serde_json::to_vec(self).unwrap_or_default().into(),
            ..Event::default()
        }
    }

    /// Whether the two say the same, whenever they were written.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        Self { clock_ms: 0, ..self.clone() } == Self { clock_ms: 0, ..other.clone() }
    }
}

/// A record that was read and understood.
#[derive(Debug, Clone)]
pub struct KnownNode {
    /// When it was written, in its author's order.
    pub hlc: Hlc,
    /// What it says.
    pub record: NodeRecord,
    /// The addresses that can be understood.
    pub addresses: Vec<Multiaddr>,
    /// The patterns that can be understood.
    pub interest: Interest,
}

/// The last record of each node.
#[derive(Debug, Default, Clone)]
pub struct Directory {
    nodes: BTreeMap<Author, KnownNode>,
}

impl Directory {
    /// Takes the records in a batch of `_mesh`. Says whether anything changed.
    pub fn learn(&mut self, batch: &VerifiedBatch) -> bool {
        let author = batch.header().author;
        let mut changed = false;
        for (_, item) in batch.items() {
            let Item::Event(event) = item else { continue };
            if event.kind != RECORD_KIND || event.data.len() > MAX_RECORD_BYTES {
                continue;
            }
            let newer = self.nodes.get(&author).is_none_or(|known| known.hlc < event.hlc);
            let room = self.nodes.len() < MAX_NODES || self.nodes.contains_key(&author);
            if let (true, true, Ok(record)) = (newer, room, serde_json::from_slice::<NodeRecord>(event.data)) {
                self.nodes.insert(author, understand(event.hlc, record));
                changed = true;
            }
        }
        changed
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = (&Author, &KnownNode)> {
        self.nodes.iter()
    }

    /// A node's last record.
    #[must_use]
    pub fn get(&self, author: &Author) -> Option<&KnownNode> {
        self.nodes.get(author)
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, author: &Author) -> Option<String> {
        self.nodes.get(author).map(|known| known.record.name.clone())
    }

    /// Topics that any record names.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        let named = self.nodes.values().flat_map(|known| known.record.topics.iter().take(MAX_LISTED_TOPICS));
        let mut topics: Vec<Topic> = named.filter_map(|text| Topic::new(text).ok()).collect();
        topics.sort();
        topics.dedup();
        topics
    }
}

fn understand(hlc: Hlc, record: NodeRecord) -> KnownNode {
    let addresses = record.addresses.iter().take(MAX_LISTED_ADDRESSES);
    let patterns = record.patterns.iter().filter_map(|text| Pattern::new(text).ok()).collect();
    KnownNode {
        hlc,
        addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
        interest: Interest::new(patterns, Vec::new()),
        record,
    }
}
