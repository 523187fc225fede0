//! Tells in the log of the process which instances violate their choreographies: not at once, since what violates may only
//! have come before what it follows, and not too many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use roundelay_protocol::choreography::conformance::{Verdict, Violation};

use super::state::Shared;

/// How long an instance has to be violating.
const GRACE: Duration = Duration::from_secs(5);
/// Instances that wait for that; of further ones nothing is told.
const MAX_WAITING: usize = 1_024;
/// Instances that are told in one window; further ones are counted.
const MAX_WARNINGS: u32 = 32;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);

/// What is to be told.
#[derive(Default)]
pub(super) struct Warnings {
    /// Choreography and correlation id, and since when the instance is violating.
    waiting: BTreeMap<(String, String), Instant>,
    window: Option<Instant>,
    told: u32,
    untold: u32,
}

impl Warnings {
    /// An instance is violating, and was not before.
    pub(super) fn note(&mut self, choreography: &str, correlation: String) {
        if self.waiting.len() >= MAX_WAITING {
            self.untold = self.untold.saturating_add(1);
            return;
        }
        self.waiting.entry((choreography.to_owned(), correlation)).or_insert_with(Instant::now);
    }

    /// Resolves when something is to be told; never while nothing waits.
    pub(super) async fn due(&self) {
        match self.waiting.values().min() {
            Some(first) => tokio::time::sleep_until((*first + GRACE).into()).await,
            None => std::future::pending().await,
        }
    }

    /// Tells of those that are violating still.
    pub(super) fn tell(&mut self, shared: &Shared) {
        let now = Instant::now();
        if self.window.is_none_or(|since| now - since >= WINDOW) {
            if self.untold > 0 {
                let what = if self.untold == 1 {
                    "instance violated its choreography"
                } else {
                    "instances violated their choreographies"
                };
                tracing::warn!("{} more {what}", self.untold);
            }
            (self.window, self.told, self.untold) = (Some(now), 0, 0);
        }
        let (due, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, since)| now - *since >= GRACE);
        self.waiting = waiting;
        for (choreography, correlation) in BTreeMap::into_keys(due) {
            let verdict = {
                let state = shared.state.read();
                let judging = state.judged.get(&choreography);
                judging.and_then(|judging| judging.instance(&correlation)).map(|instance| instance.verdict())
            };
            let Some(Verdict::Violating(Violation { event, why })) = verdict else { continue };
            if self.told >= MAX_WARNINGS {
                self.untold = self.untold.saturating_add(1);
                continue;
            }
            self.told += 1;
            let code = why.code();
            tracing::warn!(choreography, instance = correlation, %event, code, "an instance violates its choreography: {why}");
        }
    }
}
