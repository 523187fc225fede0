//! Rules about the shape: what can be reached from where, and cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::super::declaration::{Arrow, Declaration};
use super::super::finding::{Code, Finding};

/// States that can be reached from some, over the arrows that are let through; these themselves included.
pub(super) fn reach<'a>(
    declaration: &'a Declaration,
    from: impl IntoIterator<Item = &'a str>,
    through: impl Fn(&Arrow) -> bool,
) -> BTreeSet<&'a str> {
    walk(from, declaration.arrows().filter(|arrow| through(arrow)).map(|arrow| (arrow.from, arrow.to)))
}

/// What can be reached over edges.
fn walk<'a>(
    from: impl IntoIterator<Item = &'a str>,
    edges: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeSet<&'a str> {
    let mut next = BTreeMap::<_, Vec<_>>::new();
    edges.for_each(|(from, to)| next.entry(from).or_default().push(to));
    let mut open: Vec<&str> = from.into_iter().collect();
    let mut reached: BTreeSet<&str> = open.iter().copied().collect();
    while let Some(state) = open.pop() {
        open.extend(next.get(state).into_iter().flatten().filter(|to| reached.insert(**to)));
    }
    reached
}

/// Every state is reachable from the start.
pub(super) fn check_reachable(declaration: &Declaration) -> Vec<Finding> {
    let reached = reach(declaration, [declaration.start()], |_| true);
    let finding = |name: &str| {
        let wrong = format!("No events lead from the start to '{name}'.");
        let mend = "Let an event lead there, or remove the state.";
        Finding::new(format!("states.{name}"), Code::UnreachableState, wrong, mend)
    };
    declaration.states().keys().filter(|name| !reached.contains(name.as_str())).map(|name| finding(name)).collect()
}

/// From every state an end can be reached.
pub(super) fn check_ends(declaration: &Declaration) -> Vec<Finding> {
    let ends = declaration.states().iter().filter(|(_, state)| state.end.is_some()).map(|(name, _)| name.as_str());
    let ending = walk(ends, declaration.arrows().map(|arrow| (arrow.to, arrow.from)));
    let finding = |name: &str| {
        let wrong = format!("From '{name}' no end can be reached.");
        let mend = "Let an event lead on towards an end, or make the state an end.";
        Finding::new(format!("states.{name}"), Code::NoEnd, wrong, mend)
    };
    declaration.states().keys().filter(|name| !ending.contains(name.as_str())).map(|name| finding(name)).collect()
}

/// Every cycle has a transition that is declared a loop, and only cycles have one.
pub(super) fn check_loops(declaration: &Declaration) -> Vec<Finding> {
    let over_all = reach_from_each(declaration, |_| true);
    let over_others = reach_from_each(declaration, |arrow| !arrow.is_loop);
    let comes_back = |over: &BTreeMap<&str, BTreeSet<&str>>, arrow: &Arrow| {
        over.get(arrow.to).is_some_and(|reached| reached.contains(arrow.from))
    };
    let mut findings = Vec::new();
    for arrow in declaration.arrows() {
        if arrow.is_loop && !comes_back(&over_all, &arrow) {
            let wrong = "It is declared a loop, and nothing leads from there back to here.";
            findings.push(Finding::new(arrow.place(), Code::IdleLoop, wrong, "Leave 'loop' out."));
        }
        if !arrow.is_loop && comes_back(&over_others, &arrow) {
            let wrong =
                format!("'{}' leads on from '{}', and from there back again and again.", arrow.kind, arrow.from);
            let mend = "Declare the transition that goes back with loop = true, if this is meant.";
            findings.push(Finding::new(arrow.place(), Code::UndeclaredLoop, wrong, mend));
        }
    }
    findings
}

/// What can be reached from each state over the arrows that are let through.
fn reach_from_each(declaration: &Declaration, through: fn(&Arrow) -> bool) -> BTreeMap<&str, BTreeSet<&str>> {
    declaration.states().keys().map(|name| (name.as_str(), reach(declaration, [name.as_str()], through))).collect()
}
