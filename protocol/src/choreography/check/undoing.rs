//! Rules about effects: what may have to be undone can be, and is on every way to failure.

use super::super::declaration::{Declaration, End, EventType};
use super::super::finding::{Code, Finding, event_place};
use super::graph::reach;

/// Effects that may have to be undone have a compensation, and no way to failure leads around it.
pub(super) fn check_compensations(declaration: &Declaration) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (kind, event) in declaration.events() {
        match (event.effect, &event.compensation) {
            (true, Some(compensation)) => findings.extend(check_ways(declaration, kind, compensation)),
            (true, None) => findings.extend(check_need(declaration, kind, event)),
            (false, Some(compensation)) => {
                let wrong = format!("'{compensation}' is to undo '{kind}', which has no effect.");
                let mend = "Write effect = true, or leave the compensation out.";
                findings.push(Finding::new(event_place(kind), Code::IdleCompensation, wrong, mend));
            }
            (false, None) => {}
        }
    }
    findings
}

/// Whether an effect without a compensation may have to be undone.
fn check_need(declaration: &Declaration, kind: &str, event: &EventType) -> Option<Finding> {
    let mend = "Name the event that undoes it as its compensation.";
    let finding = |wrong| Some(Finding::new(event_place(kind), Code::NoCompensation, wrong, mend));
    if let Some(failure) = failure_after(declaration, kind, |_| true) {
        return finding(format!(
            "'{kind}' has an effect, can be followed by the failure '{failure}', and nothing undoes it."
        ));
    }
    // A deadline that another role sees to can win against an effect that is done already.
    let racing = declaration.states().iter().find_map(|(name, state)| {
        let late = state.deadline.as_ref().filter(|_| state.on.contains_key(kind))?;
        let (other, to) = (declaration.emitter(&late.event)?, state.on.get(kind).map(|transition| &transition.to));
        (other != event.by && to != Some(&late.transition.to)).then_some((name, &late.event))
    });
    let (name, late) = racing?;
    finding(format!(
        "'{kind}' has an effect and can lose against the deadline's '{late}' in '{name}', and nothing undoes it."
    ))
}

/// Whether a way to failure leads around a compensation.
fn check_ways(declaration: &Declaration, kind: &str, compensation: &str) -> Option<Finding> {
    let failure = failure_after(declaration, kind, |other| other != compensation)?;
    let wrong =
        format!("'{kind}' can be followed by the failure '{failure}' without its compensation '{compensation}'.");
    let mend = format!("Let every way from '{kind}' to '{failure}' lead over '{compensation}'.");
    Some(Finding::new(event_place(kind), Code::MissedCompensation, wrong, mend))
}

/// A failed end that can follow an event, over events that are let through.
fn failure_after<'a>(declaration: &'a Declaration, kind: &str, through: impl Fn(&str) -> bool) -> Option<&'a str> {
    let entered = declaration.arrows().filter(|arrow| arrow.kind == kind).map(|arrow| arrow.to);
    let reached = reach(declaration, entered, |arrow| through(arrow.kind));
    let failed = |name: &&str| declaration.states().get(*name).is_some_and(|state| state.end == Some(End::Failure));
    reached.into_iter().find(failed)
}
