//! What does not fit: of a participant and its declaration, and of what a handler wants to emit.

use super::MAX_EMISSIONS;
use crate::ids::Author;

/// Why a participant cannot play its role. Nothing was begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CastError {
    /// The declaration is of another choreography.
    #[error("it plays in '{0}', and the declaration is of '{1}'")]
    OtherChoreography(String, String),
    /// The declaration has no such role.
    #[error("there is no role '{role}': there are {}", known.join(", "))]
    UnknownRole {
        /// The role.
        role: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The role's sources are declared, and the participant's is none of them.
    #[error("'{role}' is not known by the source '{found}': take one of its declared sources")]
    OtherSource {
        /// The role.
        role: String,
        /// The participant's.
        found: String,
    },
    /// The role's nodes are declared, and this is none of them.
    #[error("'{role}' is not played at this node, {}: play it at one that is declared, or declare this one", node.peer_id())]
    OtherNode {
        /// The role.
        role: String,
        /// The node.
        node: Author,
    },
    /// It has a handler for events that the role does not receive.
    #[error(
        "'{role}' does not receive '{kind}', for which it has a handler: add it to what the role sees, or remove the handler"
    )]
    Unseen {
        /// The role.
        role: String,
        /// The type.
        kind: String,
    },
    /// It cannot undo what the declaration says can be undone.
    #[error("'{kind}' of '{role}' has a compensation, and nothing undoes it: add undo(\"{kind}\", ...)")]
    NotUndone {
        /// The role.
        role: String,
        /// The type.
        kind: String,
    },
    /// It undoes what is no effect of the role, or has no compensation.
    #[error(
        "'{role}' would undo '{kind}', which is no event of its own with a compensation: remove undo(\"{kind}\", ...)"
    )]
    NothingToUndo {
        /// The role.
        role: String,
        /// The type.
        kind: String,
    },
    /// It is not said where an event of its own is to be published.
    #[error(transparent)]
    Topic(Refused),
}

/// Why what a handler wants to emit is not emitted. Nothing of that answer is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The instance, or its version, is not known here.
    #[error("instance '{0}' is not known here, or began with a version that is not: publish the declaration first")]
    UnknownInstance(String),
    /// The version of the instance has no such type.
    #[error("'{kind}' is no event of the instance's version of '{choreography}': declare it, or emit another")]
    Undeclared {
        /// The choreography.
        choreography: String,
        /// The type.
        kind: String,
    },
    /// Another role emits the type.
    #[error("'{kind}' is emitted by '{by}', not by '{role}'")]
    OtherRole {
        /// The type.
        kind: String,
        /// The role that emits it.
        by: String,
        /// The role that wanted to.
        role: String,
    },
    /// The state of the instance does not allow it.
    #[error("'{kind}' is not allowed now: {why}")]
    NotAllowed {
        /// The type.
        kind: String,
        /// Why.
        why: String,
    },
    /// Neither the declaration nor the participant says where it is published.
    #[error("it is not said where '{0}' is published: name a topic in the declaration, or give the participant one")]
    NoTopic(String),
    /// The declaration says otherwise where it is published.
    #[error("'{kind}' belongs to '{expected}', not to '{found}'")]
    OtherTopic {
        /// The type.
        kind: String,
        /// The pattern that is declared.
        expected: String,
        /// The topic that was named.
        found: String,
    },
    /// More than an answer may have.
    #[error("{0} events in one answer are too many: at most {MAX_EMISSIONS}")]
    TooMany(usize),
}
