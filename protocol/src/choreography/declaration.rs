//! A declaration of sound form: every name can stand where it stands, everything named is there, and all is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::canonical::{Version, version_of};
use super::draft::{DeadlineDraft, Draft, EventDraft, FORMAT, RoleDraft, StateDraft};
use super::finding::{Code, Finding, MAX_FINDINGS, deadline_place, event_place, on_place};
use super::span::parse_span_ms;
use crate::ids::Author;
use crate::limits::MAX_ATTRIBUTE_BYTES;
use crate::topic::Pattern;

/// Roles of a declaration.
pub const MAX_ROLES: usize = 64;
/// Types of events of a declaration.
pub const MAX_EVENTS: usize = 256;
/// States of a declaration.
pub const MAX_STATES: usize = 256;
/// Transitions of a declaration, deadlines included.
pub const MAX_TRANSITIONS: usize = 4096;
/// Sources of a role.
pub const MAX_SOURCES: usize = 64;
/// Nodes of a role.
pub const MAX_NODES: usize = 64;
/// Bytes of the name of a choreography, role or state.
pub const MAX_NAME_BYTES: usize = 64;
/// Bytes of a type of events.
pub const MAX_KIND_BYTES: usize = 255;

/// How an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// What it was for is done.
    Success,
    /// It is not, and what was done of it has been undone.
    Failure,
}

impl End {
    /// `success` or `failure`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A declared choreography.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    name: String,
    start: String,
    roles: BTreeMap<String, Role>,
    events: BTreeMap<String, EventType>,
    states: BTreeMap<String, State>,
    version: Version,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Types of the events of others that it receives.
    pub sees: BTreeSet<String>,
    /// Sources by which it is known. None: any source may play it.
    pub sources: BTreeSet<String>,
    /// Nodes at which it is played. None: it may be played at any.
    pub nodes: BTreeSet<Author>,
}

/// A type of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    /// The role that emits it.
    pub by: String,
    /// Where it is published. None: anywhere.
    pub topic: Option<Pattern>,
    /// Whether it stands for an effect that has to be undone when the process fails.
    pub effect: bool,
    /// The type of the event that says that the effect was undone.
    pub compensation: Option<String>,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where each possible event leads.
    pub on: BTreeMap<String, Transition>,
    /// What happens when none of them comes.
    pub deadline: Option<Deadline>,
    /// That an instance ends here, and how.
    pub end: Option<End>,
}

/// Where an event leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The next state.
    pub to: String,
    /// That it closes a loop on purpose.
    pub is_loop: bool,
}

/// What ends a wait in which nothing comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    /// Milliseconds after the stamp of the event that began the wait.
    pub after_ms: u64,
    /// The type of the event that is emitted then.
    pub event: String,
    /// Where it leads.
    pub transition: Transition,
}

/// One arrow of the picture: from a state, by an event, to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrow<'a> {
    /// The state that is left.
    pub from: &'a str,
    /// The type of the event.
    pub kind: &'a str,
    /// The state that is entered.
    pub to: &'a str,
    /// That it closes a loop on purpose.
    pub is_loop: bool,
    /// The milliseconds of the deadline whose event it is.
    pub after_ms: Option<u64>,
}

impl Arrow<'_> {
    /// Where the declaration says it.
    #[must_use]
    pub fn place(&self) -> String {
        match self.after_ms {
            Some(_) => deadline_place(self.from),
            None => on_place(self.from, self.kind),
        }
    }
}

impl State {
    /// Where an event of this type leads, be it a deadline's or not.
    #[must_use]
    pub fn transition(&self, kind: &str) -> Option<&Transition> {
        let late = || self.deadline.as_ref().filter(|deadline| deadline.event == kind);
        self.on.get(kind).or_else(|| late().map(|deadline| &deadline.transition))
    }

    /// Types of the events that are possible here, that of the deadline last.
    pub fn possible(&self) -> impl Iterator<Item = &str> {
        self.on.keys().map(String::as_str).chain(self.deadline.iter().map(|deadline| deadline.event.as_str()))
    }
}

impl Declaration {
    /// The name that all versions share.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of all that it says, the same from TOML, JSON and Rust.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The state before an instance's first event.
    #[must_use]
    pub fn start(&self) -> &str {
        &self.start
    }

    /// Roles by name.
    #[must_use]
    pub fn roles(&self) -> &BTreeMap<String, Role> {
        &self.roles
    }

    /// Events by type.
    #[must_use]
    pub fn events(&self) -> &BTreeMap<String, EventType> {
        &self.events
    }

    /// States by name.
    #[must_use]
    pub fn states(&self) -> &BTreeMap<String, State> {
        &self.states
    }

    /// Every arrow, by state and type.
    pub fn arrows(&self) -> impl Iterator<Item = Arrow<'_>> {
        self.states.iter().flat_map(|(from, state)| {
            let on = state.on.iter().map(|(kind, transition)| (kind, transition, None));
            let late = state.deadline.iter().map(|late| (&late.event, &late.transition, Some(late.after_ms)));
            on.chain(late).map(|(kind, transition, after_ms)| {
                let (to, is_loop) = (transition.to.as_str(), transition.is_loop);
                Arrow { from, kind, to, is_loop, after_ms }
            })
        })
    }

    /// The role that emits a type of events.
    #[must_use]
    pub fn emitter(&self, kind: &str) -> Option<&str> {
        self.events.get(kind).map(|event| event.by.as_str())
    }

    /// Whether a role knows of events of a type: it emits or sees them.
    #[must_use]
    pub fn knows(&self, role: &str, kind: &str) -> bool {
        self.emitter(kind) == Some(role) || self.roles.get(role).is_some_and(|role| role.sees.contains(kind))
    }

    /// The nodes that alone can add to an instance. None: some role may be played at any node.
    #[must_use]
    pub fn nodes(&self) -> Option<BTreeSet<Author>> {
        let emit = |name: &str| self.events.values().any(|event| event.by == *name);
        let mut roles = self.roles.iter().filter(|(name, _)| emit(name)).map(|(_, role)| role);
        roles.try_fold(BTreeSet::new(), |mut nodes, role| {
            nodes.extend(role.nodes.iter().copied());
            (!role.nodes.is_empty()).then_some(nodes)
        })
    }

    /// The one role that is known by a source.
    #[must_use]
    pub fn role_of_source(&self, source: &str) -> Option<&str> {
        self.roles.iter().find(|(_, role)| role.sources.contains(source)).map(|(name, _)| name.as_str())
    }

    /// Judges the form of a draft, and gives it its types.
    pub(super) fn from_draft(draft: &Draft) -> Result<Self, Vec<Finding>> {
        let mut reader = Reader { draft, findings: Vec::new() };
        reader.read_head();
        let roles = draft.roles.iter().map(|(name, role)| (name.clone(), reader.read_role(name, role))).collect();
        let events = draft.events.iter().map(|(kind, event)| (kind.clone(), reader.read_event(kind, event))).collect();
        let states = draft.states.iter().map(|(name, state)| (name.clone(), reader.read_state(name, state))).collect();
        let mut findings = reader.findings;
        if !findings.is_empty() {
            findings.sort();
            findings.truncate(MAX_FINDINGS);
            return Err(findings);
        }
        let (name, start, version) = (draft.name.clone(), draft.start.clone(), Version([0; 32]));
        let mut declaration = Self { name, start, roles, events, states, version };
        declaration.version = version_of(&declaration);
        Ok(declaration)
    }
}

/// Reads a draft, and notes what is wrong with its form.
struct Reader<'a> {
    draft: &'a Draft,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn find(&mut self, place: impl Into<String>, code: Code, wrong: String, mend: &str) {
        self.findings.push(Finding::new(place, code, wrong, mend));
    }

    fn read_head(&mut self) {
        let draft = self.draft;
        if draft.format != FORMAT {
            let wrong = format!("The file has format {}.", draft.format);
            self.find("format", Code::BadFormat, wrong, "Write format 1, the only one that there is.");
        }
        self.check_name("name", &draft.name);
        self.check_state("start", &draft.start);
        let transitions = draft.states.values().map(|state| state.on.len() + usize::from(state.deadline.is_some()));
        self.check_count("roles", draft.roles.len(), MAX_ROLES);
        self.check_count("events", draft.events.len(), MAX_EVENTS);
        self.check_count("states", draft.states.len(), MAX_STATES);
        self.check_count("states", transitions.sum(), MAX_TRANSITIONS);
        let mut sources = BTreeMap::new();
        for (name, role) in &draft.roles {
            for source in &role.sources {
                let Some(other) = sources.insert(source, name).filter(|other| *other != name) else { continue };
                let wrong = format!("The source '{source}' is that of '{other}' too.");
                let mend = "Give each role sources of its own, so that an event tells which role it comes from.";
                self.find(format!("roles.{name}.sources"), Code::SharedSource, wrong, mend);
            }
        }
    }

    fn read_role(&mut self, name: &str, role: &RoleDraft) -> Role {
        let place = format!("roles.{name}");
        self.check_name(&place, name);
        self.check_count(&format!("{place}.sees"), role.sees.len(), MAX_EVENTS);
        self.check_count(&format!("{place}.sources"), role.sources.len(), MAX_SOURCES);
        role.sees.iter().for_each(|kind| self.check_event(&format!("{place}.sees"), kind));
        for source in &role.sources {
            self.check_text(&format!("{place}.sources"), source, MAX_ATTRIBUTE_BYTES);
        }
        let nodes = self.read_nodes(&format!("{place}.nodes"), &role.nodes);
        Role { sees: role.sees.iter().cloned().collect(), sources: role.sources.iter().cloned().collect(), nodes }
    }

    fn read_nodes(&mut self, place: &str, nodes: &[String]) -> BTreeSet<Author> {
        self.check_count(place, nodes.len(), MAX_NODES);
        let mut read = BTreeSet::new();
        for node in nodes {
            match Author::from_peer_id(node) {
                Some(author) => drop(read.insert(author)),
                None => {
                    let wrong = format!("'{}' is no id of a node.", node.escape_debug());
                    let mend = "Write ids as `roundelay status` shows them, such as 12D3KooW...";
                    self.find(place, Code::BadNode, wrong, mend);
                }
            }
        }
        read
    }

    fn read_event(&mut self, kind: &str, event: &EventDraft) -> EventType {
        let place = event_place(kind);
        self.check_text(&place, kind, MAX_KIND_BYTES);
        if !self.draft.roles.contains_key(&event.by) {
            let wrong = format!("It is emitted by '{}', and there is no such role.", event.by);
            self.find(format!("{place}.by"), Code::UnknownRole, wrong, "Name a role of the declaration, or add it.");
        }
        if let Some(compensation) = &event.compensation {
            self.check_event(&format!("{place}.compensation"), compensation);
        }
        let topic = event.topic.as_ref().and_then(|topic| match Pattern::new(topic) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let mend = "Write a topic, or a pattern of topics.";
                self.find(format!("{place}.topic"), Code::BadTopic, format!("{error}."), mend);
                None
            }
        });
        EventType { by: event.by.clone(), topic, effect: event.effect, compensation: event.compensation.clone() }
    }

    fn read_state(&mut self, name: &str, state: &StateDraft) -> State {
        let place = format!("states.{name}");
        self.check_name(&place, name);
        for (kind, transition) in &state.on {
            self.check_event(&on_place(name, kind), kind);
            self.check_state(&on_place(name, kind), &transition.to);
        }
        if state.end.is_some() && (!state.on.is_empty() || state.deadline.is_some()) {
            let wrong = "It is an end, and something leads on from it.".to_owned();
            self.find(&place, Code::EndGoesOn, wrong, "Remove 'end', or 'on' and 'deadline'.");
        }
        if name == self.draft.start && (state.end.is_some() || state.deadline.is_some()) {
            let wrong = "It is the start, before an instance exists, and has an end or a deadline.".to_owned();
            self.find(&place, Code::BadStart, wrong, "Leave only 'on' to the start.");
        }
        let on = state.on.iter().map(|(kind, transition)| {
            (kind.clone(), Transition { to: transition.to.clone(), is_loop: transition.is_loop })
        });
        let deadline = state.deadline.as_ref().map(|deadline| self.read_deadline(name, state, deadline));
        State { on: on.collect(), deadline, end: state.end }
    }

    fn read_deadline(&mut self, name: &str, state: &StateDraft, deadline: &DeadlineDraft) -> Deadline {
        let place = deadline_place(name);
        self.check_event(&place, &deadline.event);
        self.check_state(&place, &deadline.to);
        if state.on.contains_key(&deadline.event) {
            let wrong = format!("The deadline's event '{}' is possible before the deadline too.", deadline.event);
            let mend = "Give the deadline an event of its own, so that one can tell which of the two it was.";
            self.find(&place, Code::DoubleDeadline, wrong, mend);
        }
        let after_ms = parse_span_ms(&deadline.after).unwrap_or_else(|| {
            let wrong = format!("'{}' is no span of time.", deadline.after);
            let mend = "Write numbers with units, as in 500ms, 30s, 1h30m or 7d, up to a hundred years.";
            self.find(format!("{place}.after"), Code::BadSpan, wrong, mend);
            0
        });
        let transition = Transition { to: deadline.to.clone(), is_loop: deadline.is_loop };
        Deadline { after_ms, event: deadline.event.clone(), transition }
    }

    fn check_name(&mut self, place: &str, name: &str) {
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(good) {
            let wrong = format!("'{}' cannot be a name.", name.escape_debug());
            let mend = "Write 1 to 64 letters, digits, '_' and '-'.";
            self.find(place.escape_debug().to_string(), Code::BadName, wrong, mend);
        }
    }

    fn check_text(&mut self, place: &str, text: &str, max_bytes: usize) {
        if text.is_empty() || text.len() > max_bytes || text.chars().any(char::is_control) {
            let wrong = format!("'{}' cannot stand here.", text.escape_debug());
            let mend = format!("Write 1 to {max_bytes} bytes without control characters.");
            self.find(place, Code::BadName, wrong, &mend);
        }
    }

    fn check_event(&mut self, place: &str, kind: &str) {
        if !self.draft.events.contains_key(kind) {
            let wrong = format!("There is no event '{}'.", kind.escape_debug());
            self.find(place, Code::UnknownEvent, wrong, "Name an event of the declaration, or add it.");
        }
    }

    fn check_state(&mut self, place: &str, state: &str) {
        if !self.draft.states.contains_key(state) {
            let wrong = format!("There is no state '{}'.", state.escape_debug());
            self.find(place, Code::UnknownState, wrong, "Name a state of the declaration, or add it.");
        }
    }

    fn check_count(&mut self, place: &str, found: usize, limit: usize) {
        if found > limit {
            let wrong = format!("There are {found} where {limit} are allowed.");
            self.find(place, Code::TooMany, wrong, "Split the choreography.");
        }
    }
}
