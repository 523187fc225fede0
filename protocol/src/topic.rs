//! Topics, and the patterns that subscribe to them.
//!
//! A topic is dot-separated tokens of `[A-Za-z0-9_-]`. In a pattern `*` stands for exactly one token and `>`, at the
//! end, for one or more. Topics whose first token starts with `_` belong to the system: wildcards in the first place
//! do not match them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::limits::MAX_TOPIC_BYTES;

/// The system topic in which every node keeps a signed record of itself.
pub const MESH_TOPIC: &str = "_mesh";
/// The system topic of the declarations of choreographies.
pub const CHOREOGRAPHIES_TOPIC: &str = "_choreographies";
/// The system topic in which nodes say how far their own logs go. Of each author the last event stays.
pub const HEARTBEATS_TOPIC: &str = "_heartbeats";

/// Why a text is no topic or pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Nothing was given, or a token between two dots is empty.
    #[error(
        "'{0}' has an empty token: write tokens of letters, digits, '_' and '-' joined by single dots, as in 'orders.placed'"
    )]
    EmptyToken(String),
    /// A character that no token may have.
    #[error("'{text}' contains {found:?}: tokens are made of letters, digits, '_' and '-'")]
    BadCharacter {
        /// What was given.
        text: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// Longer than [`MAX_TOPIC_BYTES`].
    #[error("a topic of {0} bytes is too long: the limit is {MAX_TOPIC_BYTES}")]
    TooLong(usize),
    /// `>` anywhere but in the last place.
    #[error("'{0}': '>' stands for all remaining tokens and must be the last one")]
    RestNotLast(String),
}

fn check(text: &str, wildcards: bool) -> Result<(), TopicError> {
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong(text.len()));
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Err(TopicError::EmptyToken(text.to_owned())),
            "*" if wildcards => {}
            ">" if wildcards && tokens.peek().is_none() => {}
            ">" if wildcards => return Err(TopicError::RestNotLast(text.to_owned())),
            _ => {
                let bad = token.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-'));
                if let Some(found) = bad {
                    return Err(TopicError::BadCharacter { text: text.to_owned(), found });
                }
            }
        }
    }
    Ok(())
}

/// The unit of subscription, gossip, retention and permission, such as `orders.placed`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Topic {
    /// Checks and takes a topic's text.
    ///
    /// # Errors
    /// When the text breaks the rules at the head of this module.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check(text, false)?;
        Ok(Self(text.into()))
    }

    /// The topic of the nodes' own records.
    #[must_use]
    pub fn mesh() -> Self {
        Self(MESH_TOPIC.into())
    }

    /// The topic of the declarations of choreographies.
    #[must_use]
    pub fn choreographies() -> Self {
        Self(CHOREOGRAPHIES_TOPIC.into())
    }

    /// The topic of heartbeats.
    #[must_use]
    pub fn heartbeats() -> Self {
        Self(HEARTBEATS_TOPIC.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the topic belongs to the system: services cannot publish to it.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.starts_with('_')
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

/// What a node or a reader subscribes to: a topic, or one with wildcards, such as `orders.*` or `>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks and takes a pattern's text.
    ///
    /// # Errors
    /// When the text breaks the rules at the head of this module.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check(text, true)?;
        Ok(Self(text.into()))
    }

    /// The pattern of every topic that is not the system's.
    #[must_use]
    pub fn all() -> Self {
        Self(">".into())
    }

    /// The pattern of one topic.
    #[must_use]
    pub fn of(topic: &Topic) -> Self {
        Self(topic.0.clone())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one topic that this pattern matches, when it has no wildcard.
    #[must_use]
    pub fn as_topic(&self) -> Option<Topic> {
        let literal = !self.0.split('.').any(|token| token == "*" || token == ">");
        literal.then(|| Topic(self.0.clone()))
    }

    /// Whether every topic that another pattern stands for is one of those that this one stands for.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        if other.0.starts_with('_') && (self.0.starts_with('*') || self.0.starts_with('>')) {
            return false;
        }
        let mut tokens = other.0.split('.');
        for want in self.0.split('.') {
            match (want, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(token)) if token != ">" => {}
                (want, Some(token)) if want == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether the topic is one of those that the pattern stands for.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        if topic.is_system() && (self.0.starts_with('*') || self.0.starts_with('>')) {
            return false;
        }
        let mut tokens = topic.0.split('.');
        for want in self.0.split('.') {
            match (want, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (want, Some(token)) if want == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    #[test]
    fn topics_are_checked() {
        for good in ["a", "orders.placed", "a-b_c.D1", MESH_TOPIC, CHOREOGRAPHIES_TOPIC, HEARTBEATS_TOPIC] {
            assert!(Topic::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "ä", "a/b", "a\0"] {
            assert!(Topic::new(bad).is_err(), "{bad}");
        }
        assert!(Topic::new(&"x".repeat(255)).is_ok());
        assert_eq!(Topic::new(&"x".repeat(256)), Err(TopicError::TooLong(256)));
    }

    #[test]
    fn a_pattern_includes_another_when_it_stands_for_all_of_its_topics() {
        let cases = [
            (">", "orders.*", true),
            (">", ">", true),
            (">", "_mesh", false),
            ("*", ">", false),
            ("*", "*", true),
            ("orders.>", "orders.*", true),
            ("orders.>", "orders.*.>", true),
            ("orders.>", "orders", false),
            ("orders.*", "orders.placed", true),
            ("orders.*", "orders.>", false),
            ("orders.placed", "orders.*", false),
            ("*.placed", "orders.placed", true),
        ];
        for (one, other, expected) in cases {
            let [pattern, included] = [one, other].map(|text| Pattern::new(text).unwrap());
            assert_eq!(pattern.includes(&included), expected, "{one} {other}");
        }
    }

    #[test]
    fn patterns_match_as_documented() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            (">", "a.b.c", true),
            (">", "_mesh", false),
            ("*", "_mesh", false),
            ("_mesh", "_mesh", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::new(pattern).unwrap().matches(&topic(text)), expected, "{pattern} {text}");
        }
        assert_eq!(Pattern::new("a.>.b"), Err(TopicError::RestNotLast("a.>.b".into())));
        assert_eq!(Pattern::new("a.b").unwrap().as_topic(), Some(topic("a.b")));
        assert_eq!(Pattern::new("a.*").unwrap().as_topic(), None);
    }
}
