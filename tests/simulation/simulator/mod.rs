//! Whole meshes of replicas in one thread and virtual time, over a network and disks that fail.
//!
//! - `plan` draws from a seed what happens: who publishes, and what goes wrong when
//! - `world` lets it happen: a queue of events in virtual time, and the driver of each replica
//! - `machine` is a disk, a clock and perhaps a running process
//! - `network` carries frames and gossip: links in order, gossip lossy and without order
//! - `checker` knows what was promised, and says which promise was broken
//! - `stability` gives heartbeats, and checks what machines take for stable
//! - `campaign` runs many seeds on all cores
//! - `shrink` finds the shortest story that breaks the same promise
//!
//! Everything follows from the plan, so a seed names a run.

mod campaign;
mod checker;
mod keys;
mod machine;
mod network;
mod plan;
mod shrink;
mod stability;
mod world;

pub(crate) use campaign::Campaign;
pub(crate) use plan::Plan;
pub(crate) use shrink::{shrink, story};
#[allow(unused_imports)] // not by all who run it
pub(crate) use world::{Options, Report, run};
