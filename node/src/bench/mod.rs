//! Benchmarks of real nodes in this process: what one publishes, what several deliver, what reconciliation takes.
//!
//! - [`publish`] is one node and its disk
//! - [`deliver`] is several nodes, from the publisher's call to the reader at the last node
//! - [`http`] is one node and clients of its API
//! - [`reconcile`] is two nodes that meet again
//! - [`choreography`] is one node that judges instances and plays a role
//! - [`stable`] is several nodes that tell each other how far their logs go
//! - `load` makes events, publishes them and reads them; all three use it
//! - `machine` says what the process has used, and what it runs on
//! - [`Report`] is what each returns

pub mod choreography;
pub mod deliver;
pub mod http;
mod load;
mod machine;
pub mod publish;
pub mod reconcile;
mod report;
pub mod stable;

pub use machine::{Machine, Usage};
pub use report::{Figure, Report};

use crate::dev::LocalMeshError;
use crate::log::LogError;
use crate::node::CallError;
use roundelay_protocol::event::EventError;
use roundelay_protocol::topic::TopicError;

/// Bytes of an event's data that the benchmarks need for themselves: when it was published.
pub const MIN_SIZE: usize = 8;

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// So many events.
    Events(u64),
    /// So many seconds.
    Seconds(f64),
}

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The nodes did not start.
    #[error(transparent)]
    Mesh(#[from] LocalMeshError),
    /// A node stopped, or refused to publish.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The events are of no size that can be published.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A topic's name is wrong.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// A client of the API got no answer, or a refusal.
    #[error("the API did not answer as it should: {0}")]
    Http(String),
    /// A choreography could not be declared or played.
    #[error("the choreography cannot be played: {0}")]
    Choreography(String),
    /// What is stable cannot be said.
    #[error("what is stable is not known: {0}")]
    Stability(String),
    /// What should happen did not, so there is nothing to measure.
    #[error("{what} did not happen within {limit_s} s: this is a defect, or the machine is overloaded")]
    Stalled {
        /// What.
        what: String,
        /// How long it was given.
        limit_s: u64,
    },
}

impl BenchError {
    fn http(error: reqwest::Error) -> Self {
        let mut causes = vec![error.to_string()];
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            causes.push(inner.to_string());
            cause = inner.source();
        }
        Self::Http(causes.join(": "))
    }

    fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
