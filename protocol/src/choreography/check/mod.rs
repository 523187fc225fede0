//! What is wrong with a design, though its form is sound: one rule a function.

mod graph;
mod knowledge;
mod undoing;

use super::declaration::Declaration;
use super::finding::{Code, Finding, MAX_FINDINGS, event_place};

/// Every flaw of a declaration, sorted by place; of very many the first [`MAX_FINDINGS`].
#[must_use]
pub fn check(declaration: &Declaration) -> Vec<Finding> {
    let rules = [
        check_start,
        check_waits,
        check_events,
        graph::check_reachable,
        graph::check_ends,
        graph::check_loops,
        knowledge::check_choices,
        knowledge::check_seen_states,
        knowledge::check_seen_ends,
        undoing::check_compensations,
    ];
    let mut findings: Vec<_> = rules.iter().flat_map(|rule| rule(declaration)).collect();
    findings.sort();
    findings.dedup();
    findings.truncate(MAX_FINDINGS);
    findings
}

/// The start is not entered again: what would wait there is no instance's beginning.
fn check_start(declaration: &Declaration) -> Vec<Finding> {
    let again = declaration.arrows().filter(|arrow| arrow.to == declaration.start());
    let finding = |place| {
        let wrong = "It leads back to the start, which is before an instance exists.";
        Finding::new(place, Code::BadStart, wrong, "Lead to a state of its own, with a deadline.")
    };
    again.map(|arrow| finding(arrow.place())).collect()
}

/// Every wait has a deadline.
fn check_waits(declaration: &Declaration) -> Vec<Finding> {
    let waits = declaration.states().iter().filter(|(name, state)| {
        *name != declaration.start() && state.end.is_none() && state.deadline.is_none() && !state.on.is_empty()
    });
    let finding = |name: &str| {
        let wrong = format!("An instance can wait in '{name}' for ever: it has no deadline.");
        let mend = "Add a deadline: when it is due, which event is emitted then, and where it leads.";
        Finding::new(format!("states.{name}"), Code::EndlessWait, wrong, mend)
    };
    waits.map(|(name, _)| finding(name)).collect()
}

/// Every event is possible somewhere.
fn check_events(declaration: &Declaration) -> Vec<Finding> {
    let is_used = |kind: &str| declaration.arrows().any(|arrow| arrow.kind == kind);
    let finding = |kind: &str| {
        let wrong = format!("'{kind}' is possible in no state.");
        Finding::new(event_place(kind), Code::UnusedEvent, wrong, "Let it lead somewhere, or remove it.")
    };
    declaration.events().keys().filter(|kind| !is_used(kind)).map(|kind| finding(kind)).collect()
}

#[cfg(test)]
mod tests;
