//! Runs meshes of real daemons, each a process with a home of its own, over a network that can be broken and healed.
//!
//! - `binary` builds and finds the `roundelay` executable, once a test run
//! - `run` runs one command to its end, with a deadline
//! - `node` is one daemon and what can be done to it: start, stop, kill, pause, ask
//! - `mesh` is several of them and what must become true of all
//! - `network` is the way between them: a TCP proxy before each, with a rule for each direction of each pair
//! - `lan` is the other way between them, for root: a network namespace a node, joined by a bridge
//! - `http` talks to a node's API as services do
//! - `load` publishes and subscribes in the background
//! - `dice` draws what is left to chance from a seed that is printed when a test fails
//! - `event` reads events and status as the command line prints them, and checks what a delivery promises
//!
//! Nothing here asserts on speed: a deadline only tells "late" from "never" on a busy machine.

// Each executable that is built over it uses a part of it.
#![allow(dead_code, unused_imports)]

mod binary;
mod dice;
mod event;
mod http;
mod lan;
mod load;
mod mesh;
mod network;
mod node;
mod procfs;
mod run;

use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) use binary::build;
pub(crate) use dice::Dice;
pub(crate) use event::{Event, Peer, acknowledged_id, assert_delivered, assert_no_number_used_twice, ids};
pub(crate) use http::{Answer, Chunks, Http};
pub(crate) use lan::Lan;
pub(crate) use load::{Follower, Publisher, Stream, Subscriber};
pub(crate) use mesh::Mesh;
pub(crate) use network::{Network, Way};
pub(crate) use node::Node;
pub(crate) use run::mentions;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The same as an argument of `--timeout`.
pub(crate) const DEADLINE_ARG: &str = "120s";

/// Exit codes of the command line.
pub(crate) mod exit {
    pub(crate) const OK: i32 = 0;
    pub(crate) const FAILURE: i32 = 1;
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const UNREACHABLE: i32 = 3;
    pub(crate) const TIMED_OUT: i32 = 4;
    pub(crate) const UNHEALTHY: i32 = 10;
}

/// Waits until `condition` holds; fails with `what` when it does not within the deadline.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(DEADLINE, what, condition);
}

/// The same with another deadline.
#[track_caller]
pub(crate) fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(200));
    }
}

/// `count` lines that differ: `prefix-0`, `prefix-1`, ...
pub(crate) fn lines(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// `count` lines that differ and are `size` bytes long.
pub(crate) fn lines_of(prefix: &str, count: usize, size: usize) -> Vec<String> {
    lines(prefix, count).into_iter().map(|line| format!("{line:.<size$}")).collect()
}
