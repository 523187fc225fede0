//! Hostile peers: an identity of its own that speaks the protocols and breaks every rule, inside a mesh of honest
//! daemons that must go on publishing and delivering, lose nothing, and stay within their memory.
//!
//! Each attack ends with a row for the table in docs/reliability.md: what the honest nodes did, their memory before and at
//! its most, the events that they lost, and for how long they were attacked. To see the rows:
//!
//! ```text
//! cargo test --test hostile -- --nocapture | grep '^| '
//! ```

#[path = "../harness/mod.rs"]
mod harness;

mod arena;
mod authors;
mod floods;
mod forge;
mod frames;
mod gossip;
mod heads;
mod peer;
