use crate::node::CallError;

use super::config::MAX_NAME_BYTES;

/// Why something that was asked of a consumer was not done. Unless a variant says otherwise, nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsumersError {
    /// A name that breaks the rules.
    #[error("'{0}' cannot name a consumer or a group: use 1 to {MAX_NAME_BYTES} letters, digits, '_' and '-'")]
    BadName(String),
    /// A set-up that makes no sense.
    #[error("{0}")]
    BadConfig(String),
    /// A call that makes no sense.
    #[error("{0}")]
    BadCall(String),
    /// There is no such consumer.
    #[error("there is no consumer '{0}': see which there are, or create it")]
    NoConsumer(String),
    /// There is no such dead letter.
    #[error("consumer '{0}' has no dead letter {1}")]
    NoLetter(String, u64),
    /// More consumers than a node may have.
    #[error("a node has at most {0} consumers: remove one that is not needed")]
    TooMany(usize),
    /// A consumer of that name takes other events.
    #[error(
        "consumer '{0}' exists and takes other events: its topics, types, beginning and group stay as they are. Remove it first, or choose another name"
    )]
    Exists(String),
    /// A consumer of that name is being removed.
    #[error("consumer '{0}' is being removed: create it when that is done")]
    BeingRemoved(String),
    /// A cursor of another store than this node's.
    #[error("cursor '{0}' is of another store than this node's: fetch again, and acknowledge what that brings")]
    OtherStore(String),
    /// A cursor of an event that was never delivered by this consumer.
    #[error("cursor '{0}' names no event that consumer '{1}' delivered: nothing was done with any of them")]
    NotDelivered(String, String),
    /// Something that was to be committed was done by somebody else.
    #[error(
        "cursor '{0}' was acknowledged or committed before, by another call: nothing was committed, so that nothing is done twice"
    )]
    AlreadyDone(String),
    /// Members of a group cannot seek alone.
    #[error(
        "consumer '{0}' is a member of a group, and what a group has done stays done: to process everything again, use a new group name on all its nodes"
    )]
    GroupSeek(String),
    /// As many calls wait for a consumer's events as may.
    #[error("{0} calls wait for events of this consumer already: ask again later")]
    TooManyWaiters(usize),
    /// A request beyond a limit.
    #[error("{0}")]
    TooLarge(String),
    /// An event of a commit breaks the rules.
    #[error("event {0}: {1}")]
    BadEvent(usize, String),
    /// A topic of a commit breaks the rules, or belongs to the system.
    #[error("event {0}: {1}")]
    BadTopic(usize, String),
    /// The node refused the write, or ended before its outcome was known.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The log cannot be read.
    #[error("{0}")]
    Log(String),
    /// The node is stopping; what was asked may have taken effect, and may be asked again.
    #[error("the node is stopping; ask again when it runs: what was done is recognised")]
    Stopped,
}
