//! What is said of an instance, and of each of its events.

use std::fmt;

use super::super::canonical::Version;
use super::super::declaration::End;
use super::super::observed::Observed;
use super::super::rank::Rank;
use super::super::span::format_span;
use crate::ids::Author;

/// Names an event, with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRef {
    /// Its place in the total order.
    pub rank: Rank,
    /// Its type.
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
}

impl From<&Observed> for EventRef {
    fn from(event: &Observed) -> Self {
        Self { rank: event.rank, kind: event.kind.clone(), source: event.source.clone(), id: event.id.clone() }
    }
}

impl fmt::Display for EventRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} of {})", self.kind, self.id, self.source)
    }
}

/// How an event was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It led from its instance's state to this one.
    Step {
        /// The state that it entered.
        to: String,
    },
    /// The same event was here before, at a lower rank.
    Repeat,
    /// Its type is none of its instance's version.
    Foreign,
    /// Another event had decided before it.
    Superseded {
        /// Why, and by which.
        why: Why,
        /// The event that counts.
        by: EventRef,
    },
    /// It cannot be.
    Violating(WhyNot),
}

/// Why an event is superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It answers what another had answered: a second replica, or the other side of a partition, or a deadline.
    Duplicate,
    /// It has the source and id of another, and another type: a replica that decided otherwise.
    SameId,
    /// All that caused it is superseded.
    Consequence,
    /// It undoes the effect of an event that is superseded.
    Compensation,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "duplicate",
            Self::SameId => "same_id",
            Self::Consequence => "consequence",
            Self::Compensation => "compensation",
        })
    }
}

/// Why an event is violating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// Its type is not possible in the state that it met.
    Unexpected {
        /// The state.
        state: String,
        /// The types that are possible there.
        possible: Vec<String>,
    },
    /// Its instance had ended.
    AfterEnd {
        /// The end's state.
        state: String,
    },
    /// A deadline's event before the deadline was due.
    Early {
        /// When it is due, in milliseconds since 1970.
        due_ms: u64,
        /// How long before that its stamp is, in milliseconds.
        early_ms: u64,
    },
    /// It comes from another role than the one that emits its type.
    WrongRole {
        /// The role that emits its type.
        expected: String,
        /// The role that it comes from, or its source where no role has it.
        found: String,
    },
    /// It was published by a node at which its role is not played.
    WrongNode {
        /// The role.
        role: String,
        /// The node.
        found: Author,
    },
    /// It was published to a topic where its type does not belong.
    WrongTopic {
        /// The pattern of its topics.
        expected: String,
        /// The topic.
        found: String,
    },
    /// Its instance began with a version that is not known: nothing of it can be judged before that is added.
    UnknownVersion {
        /// The version that the first event names.
        named: String,
    },
}

impl WhyNot {
    /// The kind of violation, as a text that never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unexpected { .. } => "unexpected",
            Self::AfterEnd { .. } => "after_end",
            Self::Early { .. } => "early",
            Self::WrongRole { .. } => "wrong_role",
            Self::WrongNode { .. } => "wrong_node",
            Self::WrongTopic { .. } => "wrong_topic",
            Self::UnknownVersion { .. } => "unknown_version",
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected { state, possible } => {
                write!(f, "it is not possible in '{state}', where {} could come", possible.join(" or "))
            }
            Self::AfterEnd { state } => write!(f, "the instance had ended in '{state}'"),
            Self::Early { early_ms, .. } => {
                write!(f, "it comes {} before its deadline is due", format_span(*early_ms))
            }
            Self::WrongRole { expected, found } => write!(f, "'{expected}' emits it, and it comes from '{found}'"),
            Self::WrongNode { role, found } => {
                write!(f, "'{role}' is not played at {}, which published it", found.peer_id())
            }
            Self::WrongTopic { expected, found } => {
                write!(f, "it belongs to '{expected}', and was published to '{found}'")
            }
            Self::UnknownVersion { named } => {
                write!(f, "the instance began with version '{named}', which is not known here")
            }
        }
    }
}

/// An event that another had decided before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// The event.
    pub event: EventRef,
    /// Why.
    pub why: Why,
    /// The event that counts.
    pub by: EventRef,
}

/// An event that cannot be, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The event.
    pub event: EventRef,
    /// Why.
    pub why: WhyNot,
}

/// A deadline of an instance's present wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When, in milliseconds since 1970: the stamp of the event that began the wait, and the deadline's span.
    pub due_ms: u64,
    /// The state.
    pub state: String,
    /// The type of the event that is to be emitted then.
    pub kind: String,
    /// The role that is to emit it.
    pub by: String,
    /// The id that it is to have, the same from every replica.
    pub id: String,
    /// The event that began the wait: what the deadline's event has to name as its cause.
    pub cause: EventRef,
}

/// A wait that was ended after it was due, by something else than its deadline's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// The state.
    pub state: String,
    /// The event that ended the wait.
    pub event: EventRef,
    /// When the wait was due, in milliseconds since 1970.
    pub due_ms: u64,
}

/// An effect of a superseded event that nothing has undone yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The superseded event.
    pub event: EventRef,
    /// The type of the event that would undo it. None: the declaration has none.
    pub compensation: Option<String>,
}

/// What is said of an instance as a whole: the worst that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has ended as declared.
    Conforming {
        /// How.
        end: End,
    },
    /// It goes on as declared.
    Pending,
    /// Some event was superseded, the first is named; nothing was violated.
    Superseded(Superseded),
    /// Some event cannot be; the first is named.
    Violating(Violation),
}

impl Verdict {
    /// `conforming`, `pending`, `superseded` or `violating`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Conforming { .. } => "conforming",
            Self::Pending => "pending",
            Self::Superseded(_) => "superseded",
            Self::Violating(_) => "violating",
        }
    }
}

/// An instance after all its events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instance {
    /// The version that it began with. None: the version is not known, or nothing was judged yet.
    pub version: Option<Version>,
    /// Its state. Empty while the version is not known.
    pub state: String,
    /// How it ended, when it has.
    pub end: Option<End>,
    /// Events that led from state to state.
    pub steps: usize,
    /// The last of them.
    pub last_step: Option<EventRef>,
    /// The deadline of its present wait.
    pub due: Option<Due>,
    /// Waits that were ended after they were due.
    pub late: Vec<Late>,
    /// Events that others had decided before.
    pub superseded: Vec<Superseded>,
    /// Events that cannot be. Each is left out of the fold: the state stays.
    pub violations: Vec<Violation>,
    /// Effects of superseded events that nothing has undone yet.
    pub owed: Vec<Owed>,
    /// Repeats of events.
    pub repeats: usize,
    /// Events of types that its version does not declare.
    pub foreign: usize,
    /// Events beyond the limit, which were not judged.
    pub omitted: usize,
}

impl Instance {
    /// The verdict on the whole.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.violations.first(), self.superseded.first(), self.end) {
            (Some(violation), _, _) => Verdict::Violating(violation.clone()),
            (None, Some(superseded), _) => Verdict::Superseded(superseded.clone()),
            (None, None, Some(end)) => Verdict::Conforming { end },
            (None, None, None) => Verdict::Pending,
        }
    }

    /// Whether its deadline is due at a time and nothing has come.
    #[must_use]
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        self.due.as_ref().is_some_and(|due| due.due_ms <= now_ms)
    }
}
