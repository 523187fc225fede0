//! Peers: their records and ours, whom to link to, which topics to hear, and what happened to links.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use roundelay_protocol::ids::Author;
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::{Input, Notice};
use roundelay_protocol::topic::Topic;

use super::Engine;
use crate::mesh::{self, Candidate, MeshCommand, Multiaddr};
use crate::peer_id::{peer_id_of, text_of};
use crate::record::{Directory, MAX_LISTED_TOPICS, NodeRecord};

/// Marks under which join addresses are kept; the address follows.
pub(crate) const JOIN_MARK: &[u8] = b"join/";
/// Marks of blocked authors; the author's 32 bytes follow.
pub(crate) const BLOCK_MARK: &[u8] = b"block/";
/// Marks of rules; the pattern follows.
pub(crate) const RULE_MARK: &[u8] = b"topic/";
/// The mark of what was joined and left: a JSON list of patterns.
pub(crate) const TOPICS_MARK: &[u8] = b"topics";
/// A changed record is published, and candidates are told, at most so often.
const TEND_MS: u64 = 500;
/// Whoever noticed a twin tells it after so long: its stamps, which may be a second ahead, are past then.
const TELL_TWIN_MS: u64 = 2_000;
/// Links to co-subscribers that each topic has, if there are so many.
const CO_SUBSCRIBERS: usize = 2;
/// Candidates that are marked as wanted for a topic that lacks links.
const WANTED: usize = 6;
/// Topics that are looked at for co-subscribers.
const MAX_TENDED_TOPICS: usize = 2_048;
/// Notes on peers and notices that are kept.
const MAX_NOTES: usize = 256;

/// What the engine keeps of peers.
pub(crate) struct Peers {
    me: Author,
    record: NodeRecord,
    published: Option<NodeRecord>,
    directory: Directory,
    connected: BTreeMap<Author, Instant>,
    notes: BTreeMap<Author, String>,
    problems: Vec<String>,
    warnings: Vec<String>,
    changed: bool,
    /// Not before then.
    tend_at: Instant,
}

impl Peers {
    pub(crate) fn new(me: Author, record: NodeRecord, directory: Directory) -> Self {
        Self {
            me,
            record,
            published: None,
            directory,
            connected: BTreeMap::new(),
            notes: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            changed: true,
            tend_at: Instant::now(),
        }
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn notes(&self) -> Vec<(Author, String)> {
        self.notes.iter().map(|(author, note)| (*author, note.clone())).collect()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// Something changed that others, or the mesh, should be told of.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    pub(super) fn connected(&mut self, peer: Author) {
        self.connected.insert(peer, Instant::now());
        self.notes.remove(&peer);
        self.changed = true;
    }

    pub(super) fn disconnected(&mut self, peer: Author, reason: String) {
        self.connected.remove(&peer);
        self.note(peer, reason);
        self.changed = true;
    }

    pub(super) fn forget(&mut self, peer: Author) {
        self.notes.remove(&peer);
    }

    fn note(&mut self, peer: Author, note: String) {
        if self.notes.len() < MAX_NOTES || self.notes.contains_key(&peer) {
            self.notes.insert(peer, note);
        }
    }

    pub(super) fn set_addresses(&mut self, addresses: &[Multiaddr]) {
        self.record.addresses = addresses.iter().map(ToString::to_string).collect();
        self.changed = true;
    }

    fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        if !self.warnings.contains(&warning) {
            if self.warnings.len() >= 32 {
                self.warnings.remove(0);
            }
            self.warnings.push(warning);
        }
    }

    pub(super) fn take_notice(&mut self, notice: mesh::Notice) {
        use mesh::Notice as N;
        match notice {
            N::WrongMesh { address, peer, ours, theirs } => {
                let text = format!(
                    "the node at {address} is of mesh '{theirs}', this one of '{ours}': give both the same --mesh"
                );
                if let Some(author) = crate::peer_id::author_of(&peer) {
                    self.note(author, text.clone());
                }
                self.warn(text);
            }
            N::HandshakeFailed { address, hint } => self.warn(format!("the handshake with {address} failed: {hint}")),
            N::TwinSeen { address } => {
                let problem = format!(
                    "another live node at {address} has this node's identity: stop one of the two, give a copy an \
                     identity of its own, and restart this node"
                );
                tracing::error!("{problem}");
                if self.problems.is_empty() {
                    self.problems.push(problem);
                }
            }
            N::Ourselves { address } => self.warn(format!("{address} is this very node: it is not joined")),
            N::DialFailed { address, error, next_ms } => {
                tracing::warn!(%address, %error, retry_in_ms = next_ms, "cannot join; trying again");
            }
            N::JoinedVia { address, peer } => tracing::info!(%address, %peer, "joined"),
            #[allow(unreachable_patterns)]
            other => tracing::info!(?other, "mesh"),
        }
    }

    pub(super) fn take_replica_notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Twin { incarnation } => {
                tracing::error!(
                    incarnation = incarnation.0,
                    "another live process publishes with this node's identity"
                );
                // The other one learns of us by our next record.
                self.publish_again(TELL_TWIN_MS);
            }
            Notice::Forked { log, tips } => tracing::warn!(?log, tips, "a log has several lines: both are kept"),
            Notice::Cheat { log, batches: [one, other] } => {
                let author = self.directory.name(&log.author).unwrap_or_else(|| text_of(&log.author));
                self.warn(format!(
                    "{author} signed two histories of its log in {}: batches {one} and {other} follow the same one, from \
                     one life of its process. It cheats, or it was copied while it ran; both are kept. `peers block` \
                     leaves its events out",
                    log.topic
                ));
            }
            Notice::TooManyLines { log } => {
                self.warn(format!("the author of {log:?} makes ever new lines of its log: further ones are refused"));
            }
            Notice::Invalid { log } => self.warn(format!("a batch of {log:?} breaks the rules and was refused")),
            Notice::Hole { log, hole } => {
                tracing::warn!(
                    ?log,
                    from = hole.from,
                    to = hole.to,
                    "events are missing: no peer that was asked has them"
                );
            }
        }
    }

    /// This node's record could not be published: it is tried again.
    pub(super) fn record_refused(&mut self) {
        self.publish_again(TEND_MS);
    }

    fn publish_again(&mut self, after_ms: u64) {
        self.published = None;
        self.changed = true;
        self.tend_at = Instant::now() + Duration::from_millis(after_ms);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.changed.then_some(self.tend_at)
    }

    /// Whom the mesh may dial, and whom we want: co-subscribers of topics that have too few links to such.
    fn candidates(&self, interest: &Interest, topics: &[Topic]) -> Vec<Candidate> {
        let mut wanted: Vec<Author> = Vec::new();
        for topic in topics.iter().filter(|topic| interest.covers(topic)).take(MAX_TENDED_TOPICS) {
            let subscribers = self.directory.iter().filter(|(author, known)| {
                **author != self.me && known.interest.covers(topic) && !interest.excludes(author)
            });
            let (linked, others): (Vec<_>, Vec<_>) =
                subscribers.partition(|(author, _)| self.connected.contains_key(author));
            if linked.len() < CO_SUBSCRIBERS {
                wanted.extend(others.iter().map(|(author, _)| **author).take(WANTED));
            }
        }
        wanted.sort();
        wanted.dedup();
        let candidate = |(author, known): (&Author, &crate::record::KnownNode)| {
            let peer = peer_id_of(author).filter(|_| *author != self.me && !interest.excludes(author))?;
            Some(Candidate {
                peer,
                addresses: known.addresses.clone(),
                host_tag: known.record.host,
                wanted: wanted.binary_search(author).is_ok(),
            })
        };
        self.directory.iter().filter_map(candidate).collect()
    }
}

impl Engine {
    /// The first things: hear the topics that are known, and say who we are.
    pub(super) async fn begin(&mut self) {
        self.peers.set_addresses(&self.mesh.addresses());
        let topics: Vec<Topic> = self.replica.logs().map(|record| record.key.topic.clone()).collect();
        for topic in [Topic::mesh()].into_iter().chain(topics) {
            if self.replica.interest().covers(&topic) {
                self.hear(topic).await;
            }
        }
        self.hear_known_topics().await;
        self.tend_peers().await;
    }

    /// Takes part in a topic's gossip.
    pub(super) async fn hear(&mut self, topic: Topic) {
        if self.gossip_topics.insert(topic.clone()) {
            self.mesh.send(MeshCommand::Subscribe(topic.as_str().to_owned())).await;
            self.peers.touch();
        }
    }

    /// Topics that have no wildcard, and those that any node names, are heard before their first event comes.
    pub(super) async fn hear_known_topics(&mut self) {
        let interest = self.replica.interest().clone();
        let literal = interest.patterns.iter().filter_map(roundelay_protocol::topic::Pattern::as_topic);
        let named = self.peers.directory.topics().into_iter().filter(|topic| interest.covers(topic));
        let topics: Vec<Topic> = literal.chain(named).collect();
        for topic in topics {
            self.hear(topic).await;
        }
    }

    /// Takes the records that are durable with a write.
    pub(super) async fn learn_records(&mut self, token: u64) {
        let mut changed = false;
        while self.records.front().is_some_and(|(at, _)| *at <= token)
            && let Some((_, batch)) = self.records.pop_front()
        {
            changed |= !self.beat.learn(&batch) && self.peers.directory.learn(&batch);
        }
        if changed {
            self.peers.touch();
            self.hear_known_topics().await;
        }
    }

    /// Tells others when our record changed, and the mesh when theirs did.
    pub(super) async fn tend_peers(&mut self) {
        if !self.peers.changed || Instant::now() < self.peers.tend_at {
            return;
        }
        self.peers.changed = false;
        self.peers.tend_at = Instant::now() + Duration::from_millis(TEND_MS);
        let interest = self.replica.interest().clone();
        self.mesh.send(MeshCommand::Candidates(self.peers.candidates(&interest, &self.tended_topics()))).await;
        self.publish_record(&interest).await;
    }

    fn tended_topics(&self) -> Vec<Topic> {
        let mut topics: Vec<Topic> = self.gossip_topics.iter().cloned().collect();
        if topics.len() <= 1 {
            // Nothing is published yet: stay near those who could publish what we subscribe to.
            topics.extend(
                self.replica.interest().patterns.iter().filter_map(roundelay_protocol::topic::Pattern::as_topic),
            );
        }
        topics
    }

    async fn publish_record(&mut self, interest: &Interest) {
        let me = self.peers.me;
        let own = self.replica.logs().filter(|log| log.key.author == me && !log.key.topic.is_system());
        let topics = own.map(|log| log.key.topic.to_string()).take(MAX_LISTED_TOPICS).collect();
        let record = NodeRecord {
            patterns: interest.patterns.iter().map(ToString::to_string).collect(),
            topics,
            clock_ms: self.now().wall_ms,
            ..self.peers.record.clone()
        };
        if self.peers.published.as_ref().is_some_and(|published| published.says_the_same_as(&record)) {
            return;
        }
        let event = record.to_event(format!("/nodes/{}", text_of(&me)));
        match event.encode() {
            Ok(event) => {
                self.peers.published = Some(record);
                self.last_id += 1;
                let id = self.last_id;
                self.feed(Input::publish(id, Topic::mesh(), vec![event], 0)).await;
            }
            Err(error) => tracing::error!(%error, "this node's record cannot be published"),
        }
    }
}
