//! What the node's handle asks of the engine.

use std::time::Instant;

use libp2p::multiaddr::Protocol;
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::ids::Author;
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::{Input, KeptAway, LinkStatus, MissingRange, MissingReason, Room};
use roundelay_protocol::rules::{Rule, RuleError, Rules};
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::write_set::Mark;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Engine;
use super::dedup::Identity;
use super::peers::{BLOCK_MARK, JOIN_MARK, RULE_MARK, TOPICS_MARK};
use crate::mesh::{MeshCommand, Multiaddr, PeerId};
use crate::metrics::PeerFigures;
use crate::node::{CallError, Committed, Transaction};
use crate::peer_id::author_of;
use crate::record::Directory;
use crate::stability::Members;
use crate::traces::Stages;

/// A transaction, and who waits for it.
pub(crate) struct Publish {
    pub(crate) transaction: Transaction,
    /// Of its events, over all parts.
    pub(crate) identities: SmallVec<[Option<Identity>; 1]>,
    pub(crate) reply: oneshot::Sender<Result<Committed, CallError>>,
    /// When it was handed in.
    pub(crate) since: Instant,
    pub(crate) stages: Stages,
}

impl Publish {
    /// Bytes of its events.
    pub(super) fn bytes(&self) -> usize {
        let events = self.transaction.parts.iter().flat_map(|(_, events)| events);
        events.map(EncodedEvent::item_bytes).sum()
    }

    /// Refuses it for the sake of the event with this number.
    pub(super) fn name(&self, number: usize) -> CallError {
        let parts = &self.transaction.parts;
        let mut events = parts.iter().flat_map(|(topic, events)| events.iter().map(move |event| (topic, event)));
        match events.nth(number) {
            Some((topic, event)) => {
                let (source, id) = event.source_and_id();
                CallError::IdTaken { topic: topic.clone(), from: source.to_owned(), id: id.to_owned() }
            }
            None => CallError::NoEvents,
        }
    }
}

/// A question or an order.
pub(crate) enum Call {
    Facts(oneshot::Sender<Facts>),
    Measures(oneshot::Sender<Measures>),
    /// Answered at once: is the engine there?
    Ping(oneshot::Sender<()>),
    Probe(oneshot::Sender<u32>),
    /// What is subscribed to.
    Patterns(oneshot::Sender<Vec<Pattern>>),
    /// Who takes part, as far as it is known.
    Members(oneshot::Sender<Members>),
    JoinTopics(Pattern, oneshot::Sender<()>),
    /// The nodes whose records name a pattern, each with whether it is linked.
    Subscribers(Pattern, oneshot::Sender<Vec<(Author, bool)>>),
    LeaveTopics(Pattern, oneshot::Sender<bool>),
    Rules(oneshot::Sender<Rules>),
    /// Answered when it is durable.
    SetRule(Pattern, Option<Rule>, oneshot::Sender<Result<bool, CallError>>),
    AddPeer(Multiaddr, oneshot::Sender<()>),
    ForgetPeer(PeerId, oneshot::Sender<()>),
    BlockPeer(PeerId, bool, oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// What the engine knows, for reports.
pub(crate) struct Facts {
    pub(crate) records: Vec<LogRecord>,
    pub(crate) links: Vec<LinkStatus>,
    pub(crate) missing: Vec<MissingRange>,
    pub(crate) interest: Interest,
    pub(crate) directory: Directory,
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) notes: Vec<(Author, String)>,
    /// Until when peers are kept away, in milliseconds since 1970, and which.
    pub(crate) kept_away: Vec<(u64, KeptAway)>,
    pub(crate) batch_bytes: u64,
    pub(crate) full: bool,
    pub(crate) takes: &'static str,
    pub(crate) arrivals: u64,
}

/// What the engine knows, in numbers, for a scrape.
pub(crate) struct Measures {
    pub(crate) peers: Vec<PeerFigures>,
    pub(crate) problems: usize,
    pub(crate) warnings: usize,
    pub(crate) known_nodes: usize,
    pub(crate) kept_away: usize,
    /// What waits for the engine from peers, and how much may.
    pub(crate) inbox: (usize, usize),
    pub(crate) log_queue: (usize, usize),
    pub(crate) log_queue_bytes: usize,
    pub(crate) sequencer_bytes: usize,
    pub(crate) waiting: usize,
    /// Logs of this node, of others, and with more than one line.
    pub(crate) logs: [u64; 3],
    /// Ranges and events: pruned, unavailable, not fetched.
    pub(crate) missing: [(u64, u64); 3],
    pub(crate) audits: [u64; 2],
    pub(crate) refused_logs: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) last_arrival: u64,
    pub(crate) takes_others: bool,
    pub(crate) takes_own: bool,
}

impl Engine {
    pub(super) async fn answer(&mut self, call: Call) {
        match call {
            Call::Facts(reply) => {
                let _ = reply.send(self.facts());
            }
            Call::Measures(reply) => {
                let _ = reply.send(self.measures());
            }
            Call::Ping(reply) => {
                let _ = reply.send(());
            }
            Call::Probe(reply) => {
                self.last_id += 1;
                let id = self.last_id;
                let gone = self.probes.iter().filter(|(_, reply)| reply.is_closed()).map(|(id, _)| *id);
                let gone: Vec<u64> = gone.collect();
                for id in gone {
                    self.probes.remove(&id);
                    self.feed(Input::Cancel { id }).await;
                }
                self.probes.insert(id, reply);
                self.feed(Input::Probe { id }).await;
            }
            Call::Members(reply) => {
                let names = self.peers.directory().iter().map(|(author, node)| (*author, node.record.name.clone()));
                let _ = reply.send(Members { names: names.collect(), interest: self.replica.interest().clone() });
            }
            Call::Patterns(reply) => drop(reply.send(self.replica.interest().patterns.clone())),
            Call::JoinTopics(pattern, reply) => {
                let mut patterns = self.replica.interest().patterns.clone();
                patterns.push(pattern);
                self.subscribe(patterns).await;
                let _ = reply.send(());
            }
            Call::Subscribers(pattern, reply) => {
                let named = self.peers.directory().iter().filter(|(_, node)| node.interest.patterns.contains(&pattern));
                let _ = reply.send(named.map(|(author, _)| (*author, self.links.contains_key(author))).collect());
            }
            Call::LeaveTopics(pattern, reply) => {
                let mut patterns = self.replica.interest().patterns.clone();
                let before = patterns.len();
                patterns.retain(|known| *known != pattern);
                let left = patterns.len() < before;
                if left {
                    self.subscribe(patterns).await;
                }
                let _ = reply.send(left);
            }
            Call::Rules(reply) => {
                let _ = reply.send(self.replica.rules().clone());
            }
            Call::SetRule(pattern, rule, reply) => match self.set_rule(pattern, rule).await {
                Ok((changed, mark)) => {
                    let durable = self.write_mark(mark).await;
                    tokio::spawn(async move {
                        let written = durable.await.unwrap_or_else(|_| Err(CallError::Stopped(String::new())));
                        let _ = reply.send(written.map(|_| changed));
                    });
                }
                Err(error) => drop(reply.send(Err(error.into()))),
            },
            Call::AddPeer(address, reply) => {
                self.mark([JOIN_MARK, address.to_string().as_bytes()].concat(), Some(Vec::new())).await;
                if let Some(Protocol::P2p(peer)) = address.iter().last() {
                    self.let_in(peer).await;
                }
                self.mesh.send(MeshCommand::Join(address)).await;
                let _ = reply.send(());
            }
            Call::ForgetPeer(peer, reply) => {
                self.forget(peer).await;
                let _ = reply.send(());
            }
            Call::BlockPeer(peer, blocked, reply) => {
                self.block(peer, blocked).await;
                let _ = reply.send(());
            }
            Call::Stop(done) => {
                // The loop takes this one itself.
                drop(done);
            }
        }
    }

    async fn mark(&mut self, name: Vec<u8>, value: Option<Vec<u8>>) {
        self.feed(Input::SetMarks(vec![(name, value)])).await;
    }

    async fn subscribe(&mut self, patterns: Vec<Pattern>) {
        let interest = Interest::new(patterns, self.replica.interest().excluded.clone());
        let texts: Vec<&str> = interest.patterns.iter().map(Pattern::as_str).collect();
        // Texts are always JSON.
        let value = serde_json::to_vec(&texts).unwrap_or_default();
        self.mark(TOPICS_MARK.to_vec(), Some(value)).await;
        self.feed(Input::SetInterest(interest)).await;
        let interest = self.replica.interest().clone();
        let left: Vec<Topic> = self.gossip_topics.iter().filter(|topic| !interest.covers(topic)).cloned().collect();
        for topic in left {
            self.gossip_topics.remove(&topic);
            self.mesh.send(MeshCommand::Unsubscribe(topic.as_str().to_owned())).await;
        }
        self.hear_known_topics().await;
        self.peers.touch();
    }

    /// Writes a mark as publications are written, and says when it is durable.
    async fn write_mark(&mut self, mark: Mark) -> oneshot::Receiver<Result<Committed, CallError>> {
        let (reply, durable) = oneshot::channel();
        let transaction = Transaction { marks: vec![mark], ..Transaction::default() };
        let (identities, since, stages) = (SmallVec::new(), Instant::now(), Stages::begin());
        self.take_publishes(&mut vec![Publish { transaction, identities, reply, since, stages }]).await;
        durable
    }

    /// Sets a rule or ends it. Says whether there is one now, or was one, and what is to be written.
    async fn set_rule(&mut self, pattern: Pattern, rule: Option<Rule>) -> Result<(bool, Mark), RuleError> {
        let mut rules = self.replica.rules().clone();
        let changed = match rule {
            Some(rule) => rules.set(pattern.clone(), rule).map(|()| true)?,
            None => rules.unset(&pattern),
        };
        let value = rules.iter().find(|(known, _)| **known == pattern).map(|(_, rule)| rule.encode());
        self.feed(Input::SetRules(rules)).await;
        Ok((changed, ([RULE_MARK, pattern.as_str().as_bytes()].concat(), value)))
    }

    /// The operator wants a peer that is kept away.
    async fn let_in(&mut self, peer: PeerId) {
        if let Some(author) = author_of(&peer) {
            self.feed(Input::Pardon { peer: author }).await;
        }
        self.mesh.send(MeshCommand::LetIn(peer)).await;
    }

    async fn forget(&mut self, peer: PeerId) {
        let suffix = format!("/p2p/{peer}");
        for (name, _) in self.reader.marks(JOIN_MARK).unwrap_or_default() {
            if name.ends_with(suffix.as_bytes()) {
                self.mark(name, None).await;
            }
        }
        if let Some(author) = author_of(&peer) {
            self.peers.forget(author);
        }
        self.mesh.send(MeshCommand::Forget(peer)).await;
        self.let_in(peer).await;
    }

    async fn block(&mut self, peer: PeerId, blocked: bool) {
        let Some(author) = author_of(&peer) else { return };
        self.mark([BLOCK_MARK, &author.0].concat(), blocked.then(Vec::new)).await;
        let mut excluded = self.replica.interest().excluded.clone();
        excluded.retain(|known| *known != author);
        if blocked {
            excluded.push(author);
        }
        let interest = Interest::new(self.replica.interest().patterns.clone(), excluded);
        if blocked {
            self.mesh.send(MeshCommand::Block(peer)).await;
        } else {
            self.mesh.send(MeshCommand::Unblock(peer)).await;
            self.let_in(peer).await;
        }
        self.feed(Input::SetInterest(interest)).await;
        self.peers.touch();
    }

    fn facts(&self) -> Facts {
        let (problems, warnings) = self.judge();
        let now = self.now();
        let kept_away = self.replica.kept_away(now.mono_ms).into_iter();
        Facts {
            records: self.replica.logs().cloned().collect(),
            links: self.replica.links(),
            missing: self.replica.missing(),
            interest: self.replica.interest().clone(),
            directory: self.peers.directory().clone(),
            problems,
            warnings,
            notes: self.peers.notes(),
            kept_away: kept_away.map(|away| (now.wall_ms + away.left_ms, away)).collect(),
            batch_bytes: self.replica.batch_bytes(),
            full: self.replica.is_full(),
            takes: match (self.replica.room(), self.replica.is_full(), self.replica.takes_others()) {
                (Room::None, ..) | (_, true, _) => "none",
                (_, _, false) => "own",
                _ => "all",
            },
            arrivals: self.replica.position().arrival.0,
        }
    }

    fn measures(&self) -> Measures {
        let (problems, warnings) = self.judge();
        let now = self.now();
        let directory = self.peers.directory();
        let figures = |link: LinkStatus| PeerFigures {
            id: crate::peer_id::text_of(&link.peer),
            name: directory.name(&link.peer).unwrap_or_default(),
            behind_events: link.behind,
            ahead_events: link.ahead,
            in_sync: link.in_sync,
            clock_ahead_ms: link.clock_ahead_ms,
            queued_bytes: self.links.get(&link.peer).map_or(0, |peer| peer.outbound.queued_bytes()),
            rtt_ms: None,
        };
        let mut missing = [(0, 0); 3];
        for range in self.replica.missing() {
            let (ranges, events) = match range.reason {
                MissingReason::Pruned => &mut missing[0],
                MissingReason::Unavailable => &mut missing[1],
                MissingReason::NotFetched => &mut missing[2],
            };
            *ranges += 1;
            *events += (range.to + 1).saturating_sub(range.from);
        }
        let mut logs = [0, 0, 0];
        for record in self.replica.logs() {
            logs[usize::from(record.key.author != self.replica.author())] += 1;
            logs[2] += u64::from(record.lines() > 1);
        }
        let none = self.replica.room() == Room::None || self.replica.is_full();
        Measures {
            peers: self.replica.links().into_iter().map(figures).collect(),
            problems: problems.len(),
            warnings: warnings.len(),
            known_nodes: directory.iter().count(),
            kept_away: self.replica.kept_away(now.mono_ms).len(),
            inbox: (self.inbox.len(), self.inbox.max_capacity()),
            log_queue: self.log.queue(),
            log_queue_bytes: self.log.queued_bytes(),
            sequencer_bytes: self.replica.queued_bytes(),
            waiting: self.waiting.len(),
            logs,
            missing,
            audits: self.replica.audits(),
            refused_logs: self.replica.refused_logs(),
            batch_bytes: self.replica.batch_bytes(),
            last_arrival: self.replica.position().arrival.0,
            takes_others: !none && self.replica.takes_others(),
            takes_own: !none,
        }
    }

    /// What is wrong with this node, and what is worth knowing.
    fn judge(&self) -> (Vec<String>, Vec<String>) {
        let mut problems = self.peers.problems();
        let mut warnings = self.peers.warnings();
        if let Some(twin) = self.replica.twin() {
            problems.push(format!(
                "another live process publishes with this node's identity (incarnation {:016x}): stop one of the two, \
                 give a copy an identity of its own, and restart this node",
                twin.0
            ));
        }
        if self.replica.is_full() {
            problems.push(
                "the store is full of events that no other node has: publishing is refused until a peer has them or \
                 the cap is raised"
                    .to_owned(),
            );
        }
        let free = crate::units::format_bytes(self.reader.free_bytes().unwrap_or(0));
        if self.replica.room() == Room::None {
            problems.push(format!(
                "the disk that holds the store has only {free} left: publishing is refused and events of others wait; \
                 free some space on it, and all goes on by itself"
            ));
        }
        let off_ms = self.replica.clock_offset_ms();
        if off_ms != 0 {
            problems.push(format!(
                "this machine's clock is {} s behind most peers' (negative: ahead): set it",
                off_ms / 1000
            ));
        }
        let disputes = self.replica.clock_disputes();
        if off_ms == 0 && disputes > 0 {
            warnings.push(format!(
                "{disputes} of the peers connected here see another day than this machine's clock, and too few see the same to \
                 tell whose is wrong: look at the clocks of both (`roundelay peers` shows by how much they differ)"
            ));
        }
        if self.replica.refused_logs() > 0 {
            warnings.push(format!(
                "{} batches and heads of further logs were refused: this node holds {} logs of others, as many as limits.logs, \
                 limits.logs_per_author or limits.logs_per_topic allow. Raise the limit, or block who makes them; until \
                 then it is not in sync with those who hold them",
                self.replica.refused_logs(),
                self.replica.foreign_logs()
            ));
        }
        let forked = self.replica.logs().filter(|record| record.lines() > 1);
        if self.replica.room() == Room::OwnOnly {
            warnings.push(format!(
                "the disk that holds the store has only {free} left, which is kept for this node's own events: those \
                 of others wait; free some space on it"
            ));
        } else if self.replica.room() == Room::Ample && !self.replica.takes_others() && !self.replica.is_full() {
            warnings.push(
                "what is left of the store's cap is kept for this node's own events: those of others wait until a \
                 peer has what fills the store, or the cap is raised"
                    .to_owned(),
            );
        }
        warnings.extend(forked.map(|record| {
            let LogKey { topic, author } = &record.key;
            let author = self.peers.directory().name(author).unwrap_or_else(|| crate::peer_id::text_of(author));
            let tips = record.lines();
            format!("the log of {author} in {topic} has {tips} lines: its store was restored from an old copy, or copied; both are kept")
        }));
        warnings.truncate(64);
        (problems, warnings)
    }
}
