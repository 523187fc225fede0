//! What a new version of a declaration changes, and for whom.
//!
//! Each version is read from the side of every role: what it emits, sees, may do in which state, and has to do when
//! nothing comes. What differs between the two readings of a role is what its service has to be changed for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::declaration::{Declaration, Transition};
use super::finding::{deadline_place, event_place, on_place};
use super::span::format_span;

/// One thing that is different for a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where the declarations say it, as in `states.reserved.on["payment.refused"]`.
    pub place: String,
    /// What held before, if anything did.
    pub was: Option<String>,
    /// What holds now, if anything does.
    pub is: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.was, &self.is) {
            (Some(was), Some(is)) => write!(f, "{}: {is}; before: {was}", self.place),
            (None, Some(is)) => write!(f, "{}: new: {is}", self.place),
            (Some(was), None) => write!(f, "{}: no longer: {was}", self.place),
            (None, None) => write!(f, "{}: unchanged", self.place),
        }
    }
}

/// The changes for each role that is touched, by role; each role's by place.
pub type Diff = BTreeMap<String, Vec<Change>>;

/// What `new` changes against `old`, for each role that it touches.
#[must_use]
pub fn diff(old: &Declaration, new: &Declaration) -> Diff {
    let roles: BTreeSet<&String> = old.roles().keys().chain(new.roles().keys()).collect();
    let changes = |role: &String| {
        let (was, is) = (Facts::of(old, role).0, Facts::of(new, role).0);
        let places: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        let changed = places.into_iter().filter(|place| was.get(*place) != is.get(*place));
        let change =
            |place: &String| Change { place: place.clone(), was: was.get(place).cloned(), is: is.get(place).cloned() };
        changed.map(change).collect::<Vec<_>>()
    };
    roles.into_iter().map(|role| (role.clone(), changes(role))).filter(|(_, changes)| !changes.is_empty()).collect()
}

/// The difference as text: one line a role that is touched, and its changes below.
#[must_use]
pub fn format_diff(diff: &Diff) -> String {
    let mut text = String::new();
    for (role, changes) in diff {
        text.push_str(&format!("{role}\n"));
        changes.iter().for_each(|change| text.push_str(&format!("  {change}\n")));
    }
    text
}

/// What a declaration means for one role, by place.
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn of(declaration: &Declaration, role: &str) -> Self {
        let mut facts = Self(BTreeMap::new());
        let Some(own) = declaration.roles().get(role) else { return facts };
        facts.add(format!("roles.{role}"), "there is this role".to_owned());
        for kind in &own.sees {
            facts.add(format!("roles.{role}.sees[{kind:?}]"), format!("it sees '{kind}'"));
        }
        for source in &own.sources {
            facts.add(format!("roles.{role}.sources[{source:?}]"), format!("it is known by '{source}'"));
        }
        for node in &own.nodes {
            let node = node.peer_id();
            facts.add(format!("roles.{role}.nodes[{node:?}]"), format!("it is played at '{node}'"));
        }
        for kind in declaration.events().keys().filter(|kind| declaration.knows(role, kind)) {
            facts.add_event(declaration, role, kind);
        }
        facts.add_states(declaration, role);
        facts
    }

    fn add(&mut self, place: String, fact: String) {
        self.0.insert(place, fact);
    }

    fn add_event(&mut self, declaration: &Declaration, role: &str, kind: &str) {
        let Some(event) = declaration.events().get(kind) else { return };
        let place = event_place(kind);
        match event.by == role {
            true => self.add(format!("{place}.by"), format!("it emits '{kind}'")),
            false => self.add(format!("{place}.by"), format!("'{}' emits '{kind}'", event.by)),
        }
        if let Some(topic) = &event.topic {
            self.add(format!("{place}.topic"), format!("'{kind}' is published to '{topic}'"));
        }
        if event.effect && event.by == role {
            self.add(format!("{place}.effect"), format!("'{kind}' has an effect"));
        }
        if let Some(compensation) = &event.compensation {
            self.add(format!("{place}.compensation"), format!("'{compensation}' undoes '{kind}'"));
        }
    }

    /// What of the states a role knows: those that it acts in, and the events that it emits or sees there.
    fn add_states(&mut self, declaration: &Declaration, role: &str) {
        let first = declaration.states().get(declaration.start()).into_iter().flat_map(|state| state.possible());
        if first.into_iter().any(|kind| declaration.knows(role, kind)) {
            self.add("start".to_owned(), format!("an instance begins in '{}'", declaration.start()));
        }
        for (name, state) in declaration.states() {
            for (kind, transition) in state.on.iter().filter(|(kind, _)| declaration.knows(role, kind)) {
                let verb = if declaration.emitter(kind) == Some(role) { "it may emit" } else { "it sees" };
                let leads = describe(declaration, transition);
                self.add(on_place(name, kind), format!("in '{name}' {verb} '{kind}', which leads to {leads}"));
            }
            let Some(late) = state.deadline.as_ref().filter(|late| declaration.knows(role, &late.event)) else {
                continue;
            };
            let who = if declaration.emitter(&late.event) == Some(role) { "it has to emit" } else { "it sees" };
            let (after, leads) = (format_span(late.after_ms), describe(declaration, &late.transition));
            let fact = format!("after {after} in '{name}' {who} '{}', which leads to {leads}", late.event);
            self.add(deadline_place(name), fact);
        }
    }
}

fn describe(declaration: &Declaration, transition: &Transition) -> String {
    let end = declaration.states().get(&transition.to).and_then(|state| state.end);
    match (end, transition.is_loop) {
        (Some(end), _) => format!("'{}', the end in {end}", transition.to),
        (None, true) => format!("'{}', in a loop", transition.to),
        (None, false) => format!("'{}'", transition.to),
    }
}
