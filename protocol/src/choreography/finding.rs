//! What is wrong with a declaration, as values.

use std::fmt;

/// Declares [`Code`] and the texts that stand for its values.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What kind of flaw a finding is. Its text never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its text, such as `endless_wait`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The file's format is none that this program reads.
    BadFormat = "bad_format",
    /// A name or a text that cannot stand there.
    BadName = "bad_name",
    /// More of something than a declaration may have.
    TooMany = "too_many",
    /// A topic that is no pattern.
    BadTopic = "bad_topic",
    /// A span of time that cannot be read.
    BadSpan = "bad_span",
    /// A role that the declaration does not have.
    UnknownRole = "unknown_role",
    /// An event that the declaration does not have.
    UnknownEvent = "unknown_event",
    /// A state that the declaration does not have.
    UnknownState = "unknown_state",
    /// An end from which something leads on.
    EndGoesOn = "end_goes_on",
    /// A start that is entered again, waits with a deadline, or is an end.
    BadStart = "bad_start",
    /// A deadline's event that is possible before the deadline too.
    DoubleDeadline = "double_deadline",
    /// One source named for two roles.
    SharedSource = "shared_source",
    /// A node's id is none.
    BadNode = "bad_node",
    /// No events lead to a state.
    UnreachableState = "unreachable_state",
    /// An event that is possible nowhere.
    UnusedEvent = "unused_event",
    /// Several roles choose in one state.
    DividedChoice = "divided_choice",
    /// A role has to act in a state and does not see what leads there.
    UnseenState = "unseen_state",
    /// A role acts in a state and does not see that another role left it.
    UnseenEnd = "unseen_end",
    /// A wait without a deadline.
    EndlessWait = "endless_wait",
    /// A step with an effect that may have to be undone, without a compensation.
    NoCompensation = "no_compensation",
    /// A way to failure around a compensation.
    MissedCompensation = "missed_compensation",
    /// A compensation of a step that has no effect.
    IdleCompensation = "idle_compensation",
    /// A cycle of which no transition is declared a loop.
    UndeclaredLoop = "undeclared_loop",
    /// A transition that is declared a loop and is on no cycle.
    IdleLoop = "idle_loop",
    /// A state from which no end can be reached.
    NoEnd = "no_end",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Findings that are told at once: the first by place. A rule that has found as many looks no further.
pub const MAX_FINDINGS: usize = 1000;

/// One flaw of a declaration. Findings sort by place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it is, as in `states.reserved.on["payment.refused"]`.
    pub place: String,
    /// Its kind.
    pub code: Code,
    /// One sentence: what is wrong.
    pub wrong: String,
    /// One sentence: what to do.
    pub mend: String,
}

impl Finding {
    /// A finding at a place.
    #[must_use]
    pub fn new(place: impl Into<String>, code: Code, wrong: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { place: place.into(), code, wrong: wrong.into(), mend: mend.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} {}", self.place, self.code, self.wrong, self.mend)
    }
}

/// The place of an event type.
pub(super) fn event_place(kind: &str) -> String {
    format!("events[{kind:?}]")
}

/// The place of a transition.
pub(super) fn on_place(state: &str, kind: &str) -> String {
    format!("states.{state}.on[{kind:?}]")
}

/// The place of a deadline.
pub(super) fn deadline_place(state: &str) -> String {
    format!("states.{state}.deadline")
}
