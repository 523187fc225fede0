//! Many seeds on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use super::checker::Violation;
use super::plan::Plan;
use super::world::{Options, Report, run};

/// Seeds to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Campaign {
    pub(crate) from: u64,
    pub(crate) seeds: u64,
    /// As many machines in each, or as the seed says.
    pub(crate) machines: Option<usize>,
    pub(crate) options: Options,
}

impl Campaign {
    /// Runs the seeds until one fails, or all, and tells of each as it ends. Returns the failure of the smallest seed:
    /// seeds below a failing one are run to the end, so it is the same on any number of cores.
    pub(crate) fn run(
        self,
        keep_going: bool,
        mut each: impl FnMut(u64, &Result<Report, Violation>),
    ) -> Option<(u64, Violation)> {
        let (next, failed) = (AtomicU64::new(self.from), AtomicBool::new(false));
        let (sender, outcomes) = mpsc::sync_channel(64);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut first: Option<(u64, Violation)> = None;
        thread::scope(|scope| {
            for _ in 0..cores {
                let (sender, next, failed) = (sender.clone(), &next, &failed);
                scope.spawn(move || {
                    while !failed.load(Ordering::Relaxed) || keep_going {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.from + self.seeds {
                            return;
                        }
                        let outcome = run(&Plan::draw(seed, self.machines), self.options);
                        failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                        if sender.send((seed, outcome)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (seed, outcome) in outcomes {
                each(seed, &outcome);
                if let Err(violation) = outcome
                    && first.as_ref().is_none_or(|(smallest, _)| seed < *smallest)
                {
                    first = Some((seed, violation));
                }
            }
        });
        first
    }
}
