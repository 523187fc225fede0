//! What cannot change any more: up to which stamp everything that anybody published to some topics is here.
//!
//! Every node that this one knows has to have been received beyond a stamp, in the order of its log: by what it publishes,
//! or where it is quiet by its heartbeats, which it gives when `heartbeat` is set. Whoever is silent holds it up, is named,
//! and can be left out; what then still comes from it at or before what was stable is an exception, and counted as such.
//! What is decided is in [`roundelay_protocol::heartbeat`] and [`roundelay_protocol::choreography::frontier`].

use std::collections::{BTreeMap, BTreeSet};

use libp2p::PeerId;
use roundelay_protocol::choreography::frontier::Frontier;
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::heartbeat::{Heartbeats, MAX_BEATING, received};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::topic::{Pattern, Topic};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::log::{LogError, LogReader};
use crate::node::{CallError, Node, Transaction};
use crate::peer_id::text_of;

/// Topics of which it can be said at once what is stable.
pub const MAX_STABLE_TOPICS: usize = 256;
/// Marks of nodes that are left out; the author follows.
pub(crate) const LEFT_OUT_MARK: &[u8] = b"left-out/";

/// Why it cannot be said what is stable. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StabilityError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// More topics than are looked at.
    #[error("{0} topics match: at most {MAX_STABLE_TOPICS} are looked at, so name fewer")]
    TooManyTopics(usize),
    /// More nodes than are looked at.
    #[error("{0} nodes are known: what is stable can be said of at most {MAX_BEATING}; block those that are gone")]
    TooManyNodes(usize),
    /// A node has no part in the topics.
    #[error("this node does not subscribe to '{0}', so it cannot know what is stable there")]
    NotSubscribed(Pattern),
}

/// Up to when nothing of some topics changes any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stability {
    /// Everything that was stamped before this millisecond since 1970 is here, of all nodes that count. 0 while of some
    /// node nothing is known.
    pub stable_ms: u64,
    /// The same as a stamp: everything at or before it is here.
    #[serde(skip)]
    #[schema(ignore)]
    pub stable: Hlc,
    /// The nodes, those first that hold it up.
    pub nodes: Vec<NodeStability>,
}

/// How far a node was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStability {
    /// Its id.
    pub id: String,
    /// Its name, if it is known.
    pub name: Option<String>,
    /// Everything that it stamped before this millisecond since 1970 is here. 0: nothing is known.
    pub received_ms: u64,
    /// Whether it is left out, so that its silence holds nothing up.
    pub is_left_out: bool,
}

/// What the engine knows of who takes part.
pub(crate) struct Members {
    pub(crate) names: BTreeMap<Author, String>,
    pub(crate) interest: Interest,
}

impl Node {
    /// Up to when everything that was published to the topics that match is here.
    ///
    /// # Errors
    /// When this node has no part in the topics, they are too many, or the log cannot be read.
    pub async fn stability(&self, patterns: Vec<Pattern>) -> Result<Stability, StabilityError> {
        let Members { names, interest } = self.members().await?;
        let (log, heartbeats) = (self.log(), self.heartbeats());
        let judge = move || judge(&log, &heartbeats, &names, &interest, &patterns);
        tokio::task::spawn_blocking(judge).await.unwrap_or(Err(LogError::Closed.into()))
    }

    /// Leaves a node out, so that its silence does not hold up what is stable, or has it count again. For good.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn leave_out(&self, peer: PeerId, is_left_out: bool) -> Result<(), CallError> {
        let Some(author) = crate::peer_id::author_of(&peer) else { return Ok(()) };
        let marks = vec![([LEFT_OUT_MARK, &author.0].concat(), is_left_out.then(Vec::new))];
        self.transact(Transaction { marks, ..Transaction::default() }).await.map(drop)
    }
}

fn judge(
    log: &LogReader,
    heartbeats: &Heartbeats,
    names: &BTreeMap<Author, String>,
    interest: &Interest,
    patterns: &[Pattern],
) -> Result<Stability, StabilityError> {
    let is_covered = |pattern: &Pattern| interest.patterns.iter().any(|own| own.includes(pattern));
    if let Some(pattern) = patterns.iter().find(|pattern| !is_covered(pattern)) {
        return Err(StabilityError::NotSubscribed((*pattern).clone()));
    }
    let topics = topics_of(log, heartbeats, patterns);
    if topics.len() > MAX_STABLE_TOPICS {
        return Err(StabilityError::TooManyTopics(topics.len()));
    }
    let left_out: BTreeSet<Author> = (log.marks(LEFT_OUT_MARK)?.iter())
        .filter_map(|(name, _)| Some(Author(name[LEFT_OUT_MARK.len()..].try_into().ok()?)))
        .collect();
    let known = names.keys().chain(heartbeats.iter().map(|(author, _)| author));
    let authors: BTreeSet<Author> = known.filter(|author| !interest.excludes(author)).copied().collect();
    if authors.len() > MAX_BEATING {
        return Err(StabilityError::TooManyNodes(authors.len()));
    }
    let mut frontier = Frontier::new(authors.iter().filter(|author| !left_out.contains(author)).copied());
    let mut nodes = Vec::with_capacity(authors.len());
    for author in authors {
        let mut upto = Hlc::CEILING;
        for topic in topics.iter().filter(|topic| interest.writers.allow(topic, &author)) {
            let key = LogKey { topic: topic.clone(), author };
            let record = log.record(&key)?;
            let holds = |(seq, hash): &_| log.find(&key, *seq, hash).map(|found| found.is_some());
            upto = upto.min(received(heartbeats.get(&author), topic, record.as_ref(), holds)?);
        }
        frontier.receive(&author, upto);
        nodes.push(NodeStability {
            id: text_of(&author),
            name: names.get(&author).cloned(),
            received_ms: upto.as_ms(),
            is_left_out: left_out.contains(&author),
        });
    }
    nodes.sort_by_key(|node| (node.is_left_out, node.received_ms));
    let stable = frontier.stable();
    Ok(Stability { stable_ms: stable.as_ms(), stable, nodes })
}

/// Topics that match, of which there is anything, or of which a heartbeat speaks; and those that are named.
fn topics_of(log: &LogReader, heartbeats: &Heartbeats, patterns: &[Pattern]) -> BTreeSet<Topic> {
    let matches = |topic: &Topic| patterns.iter().any(|pattern| pattern.matches(topic));
    let stored = log.last_written(Arrival(0), Arrival(u64::MAX), &matches).into_iter().map(|(key, _)| key.topic);
    let spoken_of = heartbeats.iter().flat_map(|(_, heartbeat)| heartbeat.ends.keys());
    let spoken_of = spoken_of.filter(|topic| matches(topic)).cloned();
    stored.chain(spoken_of).chain(patterns.iter().filter_map(Pattern::as_topic)).collect()
}
