//! Rules about what roles know: who chooses, and whether those who act see what they must.

use std::collections::BTreeSet;

use super::super::declaration::{Arrow, Declaration};
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
    unseen(
        declaration,
        declaration.arrows(),
        Code::UnseenState,
        |arrow| arrow.to,
        |role, arrow| {
            format!("'{role}' has to act in '{}' and does not see '{}', which leads there.", arrow.to, arrow.kind)
        },
    )
}

/// Who acts in a state knows when another role's event has left it.
pub(super) fn check_seen_ends(declaration: &Declaration) -> Vec<Finding> {
    // Nobody waits at the start, so that nobody has to stop.
    let arrows = declaration.arrows().filter(|arrow| arrow.from != declaration.start());
    unseen(
        declaration,
        arrows,
        Code::UnseenEnd,
        |arrow| arrow.from,
        |role, arrow| {
            format!("'{role}' may act in '{}' and does not see '{}', which ends that.", arrow.from, arrow.kind)
        },
    )
}

/// Arrows that somebody who acts in one of their states does not see.
fn unseen<'a>(
    declaration: &'a Declaration,
    arrows: impl Iterator<Item = Arrow<'a>>,
    code: Code,
    state_of: impl Fn(&Arrow<'a>) -> &'a str,
    wrong: impl Fn(&str, &Arrow<'a>) -> String,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for arrow in arrows {
        for role in actors(declaration, state_of(&arrow)).filter(|role| !declaration.knows(role, arrow.kind)) {
            let mend = format!("Add '{}' to roles.{role}.sees.", arrow.kind);
            findings.push(Finding::new(arrow.place(), code, wrong(role, &arrow), mend));
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
