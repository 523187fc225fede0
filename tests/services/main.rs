//! Services beside real daemons: what they say over HTTP, and what programs in other languages make of it. One
//! behaviour a module, over the harness in `tests/harness`.
//!
//! Run one with `cargo test --test services description::`. What needs more than the daemon, such as Python, says so and
//! is skipped where that is missing; `ROUNDELAY_NO_SKIP=1` makes it fail instead.

#[path = "../harness/mod.rs"]
mod harness;

mod consumers;
mod consumers_cli;
mod consumers_group;
mod consumers_places;
mod description;
mod languages;
mod needs;
mod operate;
mod operate_process;
mod operate_traces;
mod polyglot;
mod publish;
mod publish_again;
mod reading;
mod retention;
mod safety;
mod sse_clients;
mod stable;
mod views;
