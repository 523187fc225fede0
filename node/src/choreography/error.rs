//! Why something about choreographies is refused.

use roundelay_protocol::choreography::draft::{DraftError, MAX_FILE_BYTES};
use roundelay_protocol::choreography::{Finding, Version};
use roundelay_protocol::event::EventError;

use super::{MAX_CATALOG_BYTES, MAX_CHOREOGRAPHIES};
use crate::log::LogError;
use crate::node::CallError;

/// Why a declaration was not published. Nothing has changed then, unless the node stopped.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It cannot be read, or its form is not sound.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// Its form is sound, and its design has flaws.
    #[error("the design of '{name}' has {} flaws; the first: {}", .findings.len(), .findings.first().map(Finding::to_string).unwrap_or_default())]
    Flawed {
        /// The choreography.
        name: String,
        /// Everything that is wrong.
        findings: Vec<Finding>,
    },
    /// As JSON it is larger than the largest file.
    #[error(
        "the declaration has {0} bytes as JSON, in which it is published: the limit is {MAX_FILE_BYTES}; split the choreography"
    )]
    TooLarge(usize),
    /// The node knows as many choreographies, versions, or bytes of them, as it may.
    #[error(
        "this node knows as many declarations as it may: {MAX_CHOREOGRAPHIES} choreographies, 256 publications of each, \
         {MAX_CATALOG_BYTES} bytes of them; go on with one of these names, or take another mesh"
    )]
    Full,
    /// The event that would carry it cannot be made.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The node refused, or stopped.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The observer stopped with the node, after the declaration was stored.
    #[error(transparent)]
    Observer(#[from] ObserverError),
}

/// Why the observer did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ObserverError {
    /// It ended with the node, or cannot read the log any more.
    #[error("the choreographies are not followed any more, as the node is stopping or its log cannot be read")]
    Stopped,
}

/// Why something is not shown. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Nobody published such a choreography, or it has not come here.
    #[error("no choreography '{name}' is known on this node{}", list(.known))]
    NoChoreography {
        /// What was asked for.
        name: String,
        /// What is known.
        known: Vec<String>,
    },
    /// No version of it begins so.
    #[error("no version of '{name}' begins with '{prefix}'")]
    NoVersion {
        /// The choreography.
        name: String,
        /// What was asked for.
        prefix: String,
    },
    /// Several versions of it begin so.
    #[error("'{prefix}' can mean the versions {first} and {second} of '{name}', and perhaps more")]
    SeveralVersions {
        /// The choreography.
        name: String,
        /// What was asked for.
        prefix: String,
        /// One version.
        first: Version,
        /// Another.
        second: Version,
    },
    /// No event with this correlation id belongs to it.
    #[error("'{choreography}' has no instance '{correlation}' on this node")]
    NoInstance {
        /// The choreography.
        choreography: String,
        /// The correlation id.
        correlation: String,
    },
    /// It had ended, and was forgotten to make room.
    #[error("the instance '{correlation}' of '{choreography}' had ended, and was forgotten to make room")]
    Forgotten {
        /// The choreography.
        choreography: String,
        /// The correlation id.
        correlation: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

fn list(known: &[String]) -> String {
    match known {
        [] => ", nor any other".to_owned(),
        known => format!("; known are {}", known.join(", ")),
    }
}
