//! Finds a shorter story that breaks the same promise.

use super::checker::Violation;
use super::plan::Plan;
use super::world::{Options, run};

/// Runs that a search may take.
const MAX_RUNS: usize = 2_000;

/// Leaves out of a failing plan whatever it fails without: delta debugging (Zeller and Hildebrandt, 2002) over its
/// steps. Returns the smallest plan that was found, and how it fails.
pub(crate) fn shrink(plan: &Plan, violation: Violation, options: Options) -> (Plan, Violation) {
    let (mut best, mut violation) = (plan.clone(), violation);
    let (mut size, mut runs) = (best.steps.len().div_ceil(2), 0);
    while size > 0 && runs < MAX_RUNS {
        let (mut start, mut smaller) = (0, false);
        while start < best.steps.len() && runs < MAX_RUNS {
            let mut candidate = best.clone();
            candidate.steps.drain(start..(start + size).min(best.steps.len()));
            runs += 1;
            match run(&candidate, options) {
                Err(found) if found.promise == violation.promise => {
                    (best, violation, smaller) = (candidate, found, true);
                }
                _ => start += size,
            }
        }
        if !smaller || size > 1 {
            size /= 2;
        }
    }
    (best, violation)
}

/// A plan and how it failed, for people.
pub(crate) fn story(plan: &Plan, violation: &Violation) -> String {
    let steps: String = plan.steps.iter().map(|step| format!("{step}\n")).collect();
    let (weather, healed_s) = (&plan.weather, plan.healed_at_ms as f64 / 1_000.0);
    let beats = plan.heartbeat_ms.map(|every_ms| format!(", heartbeats each {every_ms} ms")).unwrap_or_default();
    let head = format!("seed {}: {} machines{beats}, {weather:?}", plan.seed, plan.machines);
    format!("{head}\n{steps}{healed_s:>7.3} s  everything is mended\n{violation}")
}
