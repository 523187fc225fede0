//! A node of a Roundelay mesh: its durable log, its links to peers, and the way in and out for services.
#![forbid(unsafe_code)]

pub mod api;
pub mod bench;
pub mod choreography;
pub mod cli;
mod clock;
pub mod cloudevents;
pub mod config;
pub mod consumers;
pub mod cursor;
pub mod daemon;
pub mod dev;
mod engine;
pub mod filter;
#[doc(hidden)]
pub mod fuzzing;
pub mod gaps;
pub mod home;
pub mod identity;
pub mod log;
pub mod mesh;
pub mod metrics;
pub mod node;
pub mod participant;
pub mod peer_id;
pub mod record;
mod report;
pub mod stability;
pub mod status;
pub mod subscription;
mod supervisor;
pub mod traces;
pub mod units;
pub mod views;
