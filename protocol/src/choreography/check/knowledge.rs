//! Rules about what roles know: who chooses, and whether those who act see what they must.

use std::collections::BTreeSet;

use super::super::declaration::Declaration;
use super::super::finding::{Code, Finding, MAX_FINDINGS};

/// Every choice is made by one role. A deadline is no choice: it is what happens when nobody chose.
pub(super) fn check_choices(declaration: &Declaration) -> Vec<Finding> {
    let finding = |name: &str, roles: &BTreeSet<&str>| {
        let roles = roles.iter().map(|role| format!("'{role}'")).collect::<Vec<_>>().join(" and ");
        let wrong =
            format!("In '{name}' the next event can come from {roles}, which do not know of each other's choice.");
        let mend = "Let one role choose, and give the others states after its choice.";
        Finding::new(format!("states.{name}.on"), Code::DividedChoice, wrong, mend)
    };
    let choices = declaration.states().iter().map(|(name, state)| {
        (name, state.on.keys().filter_map(|kind| declaration.emitter(kind)).collect::<BTreeSet<_>>())
    });
    choices.filter(|(_, roles)| roles.len() > 1).map(|(name, roles)| finding(name, &roles)).collect()
}

/// Who acts in a state knows of every event that leads there.
pub(super) fn check_seen_states(declaration: &Declaration) -> Vec<Finding> {
    let mut findings = Vec::new();
    for arrow in declaration.arrows() {
        for role in actors(declaration, arrow.to).filter(|role| !declaration.knows(role, arrow.kind)) {
            let wrong =
                format!("'{role}' has to act in '{}' and does not see '{}', which leads there.", arrow.to, arrow.kind);
            let mend = format!("Add '{}' to roles.{role}.sees.", arrow.kind);
            findings.push(Finding::new(arrow.place(), Code::UnseenState, wrong, mend));
        }
        if findings.len() >= MAX_FINDINGS {
            break;
        }
    }
    findings
}

/// Who acts in a state knows when another role's event has left it.
pub(super) fn check_seen_ends(declaration: &Declaration) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Nobody waits at the start, so that nobody has to stop.
    for arrow in declaration.arrows().filter(|arrow| arrow.from != declaration.start()) {
        for role in actors(declaration, arrow.from).filter(|role| !declaration.knows(role, arrow.kind)) {
            let wrong =
                format!("'{role}' may act in '{}' and does not see '{}', which ends that.", arrow.from, arrow.kind);
            let mend = format!("Add '{}' to roles.{role}.sees.", arrow.kind);
            findings.push(Finding::new(arrow.place(), Code::UnseenEnd, wrong, mend));
        }
        if findings.len() >= MAX_FINDINGS {
            break;
        }
    }
    findings
}

/// Roles whose events are possible in a state.
fn actors<'a>(declaration: &'a Declaration, state: &str) -> impl Iterator<Item = &'a str> {
    let possible = declaration.states().get(state).into_iter().flat_map(|state| state.possible());
    possible.filter_map(|kind| declaration.emitter(kind)).collect::<BTreeSet<_>>().into_iter()
}
