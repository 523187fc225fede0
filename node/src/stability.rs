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
use roundelay_protocol::heartbeat::{Heartbeat, Heartbeats, MAX_BEATING, received};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::topic::{Pattern, Topic};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::log::{LogError, LogReader};
use crate::node::{CallError, Node, Transaction};
use crate::peer_id::{author_of, text_of};

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

/// Why a node cannot be left out, or have it count again. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LeaveOutError {
    /// A peer id of another kind of key than nodes have.
    #[error("'{0}' is no node's id: nodes have ed25519 keys")]
    NotANode(PeerId),
    /// This node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl StabilityError {
    /// Whether it says no more than that nothing is known to be stable.
    pub(crate) fn means_unknown(&self) -> bool {
        matches!(self, Self::TooManyTopics(_) | Self::TooManyNodes(_) | Self::NotSubscribed(_))
    }
}

/// Of what it is asked what is stable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Topics, by patterns.
    pub topics: Vec<Pattern>,
    /// The nodes that alone count, such as those that a declaration names. None: all that are known.
    pub nodes: Option<BTreeSet<Author>>,
}

impl From<Vec<Pattern>> for Scope {
    fn from(topics: Vec<Pattern>) -> Self {
        Self { topics, nodes: None }
    }
}

/// Up to when nothing of some topics changes any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stability {
    /// Everything that was stamped before this millisecond since 1970 is here, of all nodes that count. 0 while of some
    /// node nothing is known.
    pub stable_ms: u64,
    /// The same to the stamp: everything at or before it is here. As a text, as events have theirs in `rdlhlc`.
    #[serde(with = "stamp_text")]
    #[schema(value_type = String)]
    pub stable: Hlc,
    /// The nodes, those first that hold it up.
    pub nodes: Vec<NodeStability>,
}

/// Stamps as texts: numbers beyond 2^53 do not survive every reader of JSON.
mod stamp_text {
    use roundelay_protocol::hlc::Hlc;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(stamp: &Hlc, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&stamp.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hlc, D::Error> {
        String::deserialize(from)?.parse().map(Hlc).map_err(D::Error::custom)
    }
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
    pub async fn stability(&self, scope: impl Into<Scope>) -> Result<Stability, StabilityError> {
        let scope = scope.into();
        let Members { names, interest } = self.members().await?;
        let (log, heartbeats) = (self.log(), self.heartbeats());
        let judge = move || judge(&log, &heartbeats, &names, &interest, &scope);
        tokio::task::spawn_blocking(judge).await.unwrap_or(Err(LogError::Closed.into()))
    }

    /// Leaves a node out, so that its silence does not hold up what is stable, or has it count again. For good.
    ///
    /// # Errors
    /// When it is no node's id, or this node stopped.
    pub async fn leave_out(&self, peer: PeerId, is_left_out: bool) -> Result<(), LeaveOutError> {
        let author = author_of(&peer).ok_or(LeaveOutError::NotANode(peer))?;
        let marks = vec![([LEFT_OUT_MARK, &author.0].concat(), is_left_out.then(Vec::new))];
        self.transact(Transaction { marks, ..Transaction::default() }).await?;
        Ok(())
    }
}

fn judge(
    log: &LogReader,
    heartbeats: &Heartbeats,
    names: &BTreeMap<Author, String>,
    interest: &Interest,
    scope: &Scope,
) -> Result<Stability, StabilityError> {
    let patterns = &scope.topics;
    let is_covered = |pattern: &Pattern| interest.patterns.iter().any(|own| own.includes(pattern));
    if let Some(pattern) = patterns.iter().find(|pattern| !is_covered(pattern)) {
        return Err(StabilityError::NotSubscribed((*pattern).clone()));
    }
    let matches = |topic: &Topic| patterns.iter().any(|pattern| pattern.matches(topic));
    let literal: BTreeSet<Topic> = patterns.iter().filter_map(Pattern::as_topic).collect();
    let mut stored: BTreeMap<Author, BTreeSet<Topic>> = BTreeMap::new();
    for (key, _) in log.last_written(Arrival(0), Arrival(u64::MAX), &matches) {
        if !interest.excludes(&key.author) {
            stored.entry(key.author).or_default().insert(key.topic);
        }
    }
    let topics: BTreeSet<&Topic> = stored.values().flatten().chain(&literal).collect();
    if topics.len() > MAX_STABLE_TOPICS {
        return Err(StabilityError::TooManyTopics(topics.len()));
    }
    let counting: BTreeSet<&Author> = match &scope.nodes {
        Some(nodes) => nodes.iter().collect(),
        None => names.keys().chain(heartbeats.iter().map(|(author, _)| author)).chain(stored.keys()).collect(),
    };
    let authors: BTreeSet<Author> = counting.into_iter().filter(|author| !interest.excludes(author)).copied().collect();
    if authors.len() > MAX_BEATING {
        return Err(StabilityError::TooManyNodes(authors.len()));
    }
    let left_out: BTreeSet<Author> = (log.marks(LEFT_OUT_MARK)?.iter())
        .filter_map(|(name, _)| Some(Author(name[LEFT_OUT_MARK.len()..].try_into().ok()?)))
        .collect();
    let (mut frontier, mut nodes) = (Frontier::default(), Vec::with_capacity(authors.len()));
    for author in authors {
        let heartbeat = heartbeats.get(&author);
        // What an author says of topics binds itself alone.
        let spoken_of = heartbeat.into_iter().flat_map(|heartbeat| heartbeat.ends.keys());
        let own = spoken_of.filter(|topic| matches(topic)).chain(stored.get(&author).into_iter().flatten());
        let own: BTreeSet<&Topic> = own.chain(&literal).collect();
        let of_logs =
            received_of(log, &author, heartbeat, own.into_iter().filter(|it| interest.writers.allow(it, &author)))?;
        // Of what it may have published to topics that nobody here has heard of, a heartbeat alone tells.
        let of_others = (patterns.iter().any(|pattern| pattern.as_topic().is_none()))
            .then(|| heartbeat.filter(|heartbeat| heartbeat.is_whole).map_or(Hlc(0), |heartbeat| heartbeat.upto));
        // Whoever may publish to none of them holds nothing up.
        let Some(upto) = [of_logs, of_others].into_iter().flatten().min() else { continue };
        let is_left_out = left_out.contains(&author);
        if !is_left_out {
            frontier.declare(author);
        }
        nodes.push((author, upto, is_left_out));
    }
    for (author, upto, _) in &nodes {
        frontier.receive(author, *upto);
    }
    nodes.sort_by_key(|(_, upto, is_left_out)| (*is_left_out, *upto));
    let describe = |(author, upto, is_left_out): (Author, Hlc, bool)| NodeStability {
        id: text_of(&author),
        name: names.get(&author).cloned(),
        received_ms: upto.as_ms(),
        is_left_out,
    };
    let stable = frontier.stable();
    Ok(Stability { stable_ms: stable.as_ms(), stable, nodes: nodes.into_iter().map(describe).collect() })
}

/// Up to which stamp everything of an author in these topics is here. `None` without topics.
fn received_of<'a>(
    log: &LogReader,
    author: &Author,
    heartbeat: Option<&Heartbeat>,
    topics: impl Iterator<Item = &'a Topic>,
) -> Result<Option<Hlc>, LogError> {
    let mut least = None;
    for topic in topics {
        let key = LogKey { topic: topic.clone(), author: *author };
        let record = log.record(&key)?;
        let holds = |(seq, hash): &_| log.find(&key, *seq, hash).map(|found| found.is_some());
        let upto = received(heartbeat, topic, record.as_ref(), holds)?;
        least = Some(least.map_or(upto, |least: Hlc| least.min(upto)));
    }
    Ok(least)
}
