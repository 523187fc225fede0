//! Every decision of a Roundelay node, without any I/O.
//!
//! This crate knows no sockets, files, threads, clock or source of randomness: time, randomness and the results of I/O
//! come in as arguments, and what is to be done goes out as values. ARCHITECTURE.md draws the formats.
#![forbid(unsafe_code)]

pub mod ahead;
pub mod arrival_times;
pub mod batch;
pub mod choreography;
pub mod codec;
pub mod conduct;
pub mod consumer;
pub mod event;
pub mod frame;
pub mod heads;
pub mod heartbeat;
pub mod hlc;
pub mod ids;
pub mod interest;
pub mod limits;
pub mod link;
pub mod planted;
pub mod quota;
pub mod recent;
pub mod replica;
pub mod rules;
pub mod sequencer;
pub mod sign;
pub mod topic;
pub mod wants;
pub mod write_set;
