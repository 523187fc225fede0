//! How others talk to a running node: an HTTP API on a Unix socket in its home, and the client of it. The only place
//! that imports the HTTP server.
//!
//! Everything is under `/v1`. Events are CloudEvents 1.0 in their JSON form; errors are JSON problems, see
//! [`types::Problem`].

mod causes;
mod choreographies;
pub mod client;
mod consumers;
mod content;
mod events;
mod guard;
mod health;
mod in_time;
mod leftover;
mod lines;
mod log;
mod openapi;
mod outflow;
mod peers;
mod picture;
mod problem;
mod publish;
mod rules;
pub mod server;
mod stability;
pub mod tcp;
mod token;
pub mod types;
mod views;

#[cfg(test)]
mod tests;

pub(crate) mod fuzzing;
