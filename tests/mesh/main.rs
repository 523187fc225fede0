//! Meshes of real daemons, as processes: one behaviour a module, over the harness in `tests/harness`.
//!
//! All modules are one executable, so that there is one thing to link. Run one with `cargo test --test mesh partition::`.
//! The output of a test that fails ends with what each of its nodes said last. `ROUNDELAY_TEST_BIN` names another
//! executable to test than the one that is built for it.

#[path = "../harness/mod.rs"]
mod harness;

mod acknowledging;
mod away;
mod bridge;
mod chain;
mod crash;
mod first_node_gone;
mod flapping;
mod gossip;
mod identity;
mod joining;
mod late_joiner;
mod network_works;
mod one_way_loss;
mod partition;
mod patterns;
mod refused_commands;
mod refused_publish;
mod refused_start;
mod shutdown;
mod strangers;
mod unsubscribed_between;
