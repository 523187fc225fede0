//! Meshes to rehearse a choreography in: nodes without sockets or disks, in one thread and virtual time, so that participants meet
//! partitions, crashes, late and repeated events in milliseconds, and the same again from the same seed.
//!
//! What is simulated is what the mesh promises, and no more: a node that commits has it for good, own events and what
//! was answered together; what it had not committed is lost in a crash. Each author's events reach every node
//! in their order, each by its own way and time, through whichever nodes are linked, and at last after a partition heals. There is no
//! other order. What is *stable* is known by what others publish, and by heartbeats where [`Mesh::give_heartbeats`] has
//! nodes give them. Clocks are wrong by what [`Mesh::skew`] says. Handlers are called for real; they may not wait for anything outside,
//! and what they do outside is their own.
//!
//! ```
//! # use roundelay_protocol::choreography::{Draft, Participant, declaration::End, participant::{Call, Emission}};
//! use roundelay_protocol::choreography::simulated::Mesh;
//!
//! let declaration = Draft::new("greeting", "new")
//!     .role("guest", &["answered"])
//!     .role("host", &["greeted"])
//!     .event("greeted", "guest").topic("greeted", "greetings")
//!     .event("answered", "host").topic("answered", "greetings")
//!     .event("ignored", "host").topic("ignored", "greetings")
//!     .on("new", "greeted", "waiting")
//!     .on("waiting", "answered", "done")
//!     .deadline("waiting", "1m", "ignored", "over")
//!     .end("done", End::Success)
//!     .end("over", End::Failure)
//!     .declare()?;
//! let host = Participant::new("greeting", "host")
//!     .on("greeted", |_: Call| async { Ok(vec![Emission::new("answered")]) });
//!
//! let mut mesh = Mesh::simulated(42, declaration);
//! let (here, there) = (mesh.add("here"), mesh.add("there"));
//! mesh.play(here, Participant::new("greeting", "guest"))?;
//! mesh.play(there, host)?;
//! mesh.partition(&[&[here], &[there]]);
//! mesh.begin(here, "guest", "g-1", Emission::new("greeted"))?;
//! mesh.advance(10_000);
//! assert_eq!(mesh.state(here, "g-1"), "waiting");
//! mesh.heal();
//! assert!(mesh.settle(120_000));
//! assert_eq!(mesh.state(here, "g-1"), "done");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cast;
mod faults;
mod node;

use std::collections::{BTreeMap, BTreeSet};

pub use cast::DeadLetter;
use node::{Node, Stored};

use super::conformance::{Conformance, Instance, Versions};
use super::declaration::Declaration;
use super::participant::{CastError, Emission, Participant, Planned, Refused};
use crate::hlc::Hlc;

/// When virtual time begins, in milliseconds since 1970.
pub const BEGINNING_MS: u64 = 1_800_000_000_000;
/// The longest that events are on their way from node to node while nothing is lost.
const MAX_DELAY_MS: u64 = 50;
/// After which what was lost is asked for again.
const REPAIR_MS: u64 = 1_000;
/// Of a hundred transfers, those that are lost.
const LOST_PERCENT: u64 = 10;
/// How often a participant looks for deadlines and for what it owes.
const LOOK_MS: u64 = 500;

/// A node of a simulated mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

/// What happens at a time.
#[derive(Debug, Clone)]
enum Happening {
    /// A node looks for what another has of an author.
    Transfer { from: usize, to: usize, author: usize },
    /// An event is given to a participant of a node. The life tells deliveries from before a crash.
    Deliver { node: usize, life: u64, part: usize, event: usize },
    /// A handler has ended, and what came of it is committed.
    Commit { node: usize, life: u64, part: usize, done: Box<cast::Done> },
    /// A participant looks for deadlines and for what it owes.
    Look { node: usize, life: u64, part: usize },
    /// A node gives a heartbeat.
    Beat { node: usize, life: u64 },
    /// A fault begins or ends.
    Fault(faults::Fault),
}

/// A simulated mesh.
#[derive(Debug)]
pub struct Mesh {
    now_ms: u64,
    numbers: Numbers,
    versions: Versions,
    nodes: Vec<Node>,
    /// Pairs of nodes that are not linked.
    cut: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(u64, u64), Happening>,
    happened: u64,
    /// How often nodes give heartbeats, at most. None: never.
    heartbeat_ms: Option<u64>,
    undoes_when_stable: bool,
}

impl Mesh {
    /// A mesh without nodes, in which everybody knows a declaration. All that happens by chance follows from the seed.
    #[must_use]
    pub fn simulated(seed: u64, declaration: Declaration) -> Self {
        Self {
            now_ms: BEGINNING_MS,
            numbers: Numbers::new(seed),
            versions: Versions::new(declaration),
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            happened: 0,
            heartbeat_ms: None,
            undoes_when_stable: false,
        }
    }

    /// Has every node give heartbeats, so many milliseconds after something was published anywhere and after its start: by
    /// them the others know that nothing earlier is still to come from it. Without them only what it publishes tells.
    pub fn give_heartbeats(&mut self, every_ms: u64) {
        self.heartbeat_ms = Some(every_ms.max(1));
        (0..self.nodes.len()).for_each(|node| self.beat_in_time(node));
    }

    /// Has what is superseded be undone only when that is stable, besides after the usual rest. It needs heartbeats.
    pub fn undo_when_stable(&mut self) {
        self.undoes_when_stable = true;
    }

    /// Adds a node, linked to all others.
    pub fn add(&mut self, name: &str) -> NodeId {
        self.nodes.push(Node::new(name, self.nodes.len(), &self.versions));
        NodeId(self.nodes.len() - 1)
    }

    /// Has a node play a role, from all events on that it has. Several nodes may play one role: they share its instances.
    ///
    /// # Errors
    /// When the participant does not fit the declaration.
    pub fn play(&mut self, node: NodeId, participant: Participant) -> Result<(), CastError> {
        participant.check(self.versions.at(Hlc::from_ms(self.now_ms)))?;
        self.nodes[node.0].parts.push(cast::Part::new(participant));
        self.wake(node.0, self.nodes[node.0].parts.len() - 1);
        Ok(())
    }

    /// Has a node that plays a role emit an event that answers none, such as the first of an instance. Gives its id.
    ///
    /// # Errors
    /// When the role or the state does not allow it, or the node does not play the role or is down.
    pub fn begin(&mut self, node: NodeId, role: &str, correlation: &str, event: Emission) -> Result<String, Refused> {
        let (id, now_ms) = (format!("{:016x}", self.numbers.next()), self.clock_ms(node.0));
        let found = &self.nodes[node.0];
        let part = found.parts.iter().find(|part| part.participant.role() == role && found.is_up);
        let unknown = || Refused::UnknownInstance(correlation.to_owned());
        let planned =
            part.ok_or_else(unknown)?.participant.begin(&found.conformance, correlation, &id, event, now_ms)?;
        self.append(node.0, planned.into_iter().collect());
        Ok(id)
    }

    /// Lets time pass, in milliseconds.
    pub fn advance(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(((at, _), _)) = self.queue.first_key_value()
            && *at <= until
            && let Some(((at, _), happening)) = self.queue.pop_first()
        {
            self.now_ms = at;
            self.happen(happening);
        }
        self.now_ms = until;
    }

    /// Lets time pass until every instance has ended, nothing is owed that can be undone, and every node that is up has the same
    /// events; at most so many milliseconds. Says whether that came about.
    pub fn settle(&mut self, limit_ms: u64) -> bool {
        let until = self.now_ms + limit_ms;
        while !self.is_settled() {
            if self.now_ms >= until {
                return false;
            }
            // Where nothing happens for days there is nothing to look at.
            let next_ms = self.queue.first_key_value().map_or(until, |((at, _), _)| *at);
            self.advance((next_ms.min(until) - self.now_ms).max(LOOK_MS));
        }
        true
    }

    fn is_settled(&self) -> bool {
        let mut up = self.nodes.iter().filter(|node| node.is_up);
        let Some(first) = up.next() else { return true };
        let owes = |instance: &Instance| instance.owed.iter().any(|owed| owed.compensation.is_some());
        let rests = |(_, instance): (&str, &Instance)| instance.end.is_some() && !owes(instance);
        first.conformance.instances().all(rests) && up.all(|node| node.has_same_as(first))
    }

    /// The time, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The name that a node was given.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &str {
        &self.nodes[node.0].name
    }

    /// What a node knows of all instances.
    #[must_use]
    pub fn conformance(&self, node: NodeId) -> &Conformance {
        &self.nodes[node.0].conformance
    }

    /// In which state a node sees an instance; empty when it has nothing of it.
    #[must_use]
    pub fn state(&self, node: NodeId, correlation: &str) -> &str {
        self.conformance(node).instance(correlation).map_or("", |instance| &instance.state)
    }

    /// All events that a node has, in the order of their arrival.
    pub fn events(&self, node: NodeId) -> impl Iterator<Item = &Planned> {
        self.nodes[node.0].log.iter().map(|stored| &*stored.planned)
    }

    /// What the participants of a node gave up on.
    pub fn dead_letters(&self, node: NodeId) -> impl Iterator<Item = &DeadLetter> {
        self.nodes[node.0].parts.iter().flat_map(|part| &part.letters)
    }

    /// Everything with this stamp or an earlier one is on a node.
    #[must_use]
    pub fn stable(&self, node: NodeId) -> Hlc {
        self.nodes[node.0].stable(self.nodes.len())
    }

    fn clock_ms(&self, node: usize) -> u64 {
        self.now_ms.saturating_add_signed(self.nodes[node].skew_ms)
    }

    fn schedule(&mut self, after_ms: u64, happening: Happening) {
        self.happened += 1;
        self.queue.insert((self.now_ms + after_ms, self.happened), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Transfer { from, to, author } => self.transfer(from, to, author),
            Happening::Deliver { node, life, part, event } if self.lives(node, life) => self.deliver(node, part, event),
            Happening::Commit { node, life, part, done } if self.lives(node, life) => self.commit(node, part, *done),
            Happening::Look { node, life, part } if self.lives(node, life) => self.look(node, part),
            Happening::Beat { node, life } if self.lives(node, life) => self.beat(node),
            Happening::Fault(fault) => self.strike(fault),
            _ => {}
        }
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].is_up && self.nodes[node].life == life
    }

    /// Own events become durable, all or none, and go on their way.
    fn append(&mut self, node: usize, planned: Vec<Planned>) {
        let now_ms = self.clock_ms(node);
        let stored = self.nodes[node].seal(planned, now_ms);
        self.take(node, stored);
    }

    /// A node has further events of one author.
    fn take(&mut self, node: usize, stored: Vec<Stored>) {
        let Some(author) = stored.first().map(|stored| stored.author) else { return };
        let first = self.nodes[node].log.len();
        let now_ms = self.clock_ms(node);
        self.nodes[node].store(stored, now_ms);
        for event in first..self.nodes[node].log.len() {
            for part in 0..self.nodes[node].parts.len() {
                self.offer(node, part, event);
            }
        }
        (0..self.nodes[node].parts.len()).for_each(|part| self.look_in_time(node, part));
        self.spread(node, author);
        self.beat_in_time(node);
    }

    /// What a node has of an author goes to the others.
    fn spread(&mut self, from: usize, author: usize) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            let delay_ms = 1 + self.numbers.below(MAX_DELAY_MS);
            self.schedule(delay_ms, Happening::Transfer { from, to, author });
        }
    }

    fn transfer(&mut self, from: usize, to: usize, author: usize) {
        let (sender, receiver) = (&self.nodes[from], &self.nodes[to]);
        let has_news = receiver.last_beat(author) < sender.last_beat(author);
        if receiver.has(author) >= sender.has(author) && !has_news {
            return;
        }
        let is_linked = !self.cut.contains(&(from.min(to), from.max(to)));
        if !sender.is_up || !receiver.is_up || !is_linked || self.numbers.below(100) < LOST_PERCENT {
            let delay_ms = REPAIR_MS / 2 + self.numbers.below(REPAIR_MS);
            self.schedule(delay_ms, Happening::Transfer { from, to, author });
            return;
        }
        let missing = sender.after(author, receiver.has(author));
        if let Some(beat) = sender.last_beat(author).filter(|_| has_news) {
            let now_ms = self.clock_ms(to);
            self.nodes[to].take_beat(author, beat, now_ms);
        }
        match missing.is_empty() {
            true => self.spread(to, author),
            false => self.take(to, missing),
        }
    }

    /// Sees to it that a node gives a heartbeat soon.
    fn beat_in_time(&mut self, node: usize) {
        let Some(every_ms) = self.heartbeat_ms.filter(|_| !self.nodes[node].is_beat_due) else { return };
        self.nodes[node].is_beat_due = true;
        let life = self.nodes[node].life;
        self.schedule(every_ms, Happening::Beat { node, life });
    }

    fn beat(&mut self, node: usize) {
        let now_ms = self.clock_ms(node);
        self.nodes[node].is_beat_due = false;
        self.nodes[node].beat(now_ms);
        self.spread(node, node);
    }
}

/// Numbers that follow from a seed: the output of BLAKE3 as an extendable function.
#[derive(Debug)]
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("roundelay simulated choreography v1");
        Self(hasher.update(&seed.to_le_bytes()).finalize_xof())
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Below a bound, which is not 0. Small bounds only: what it is off by does not matter then.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
