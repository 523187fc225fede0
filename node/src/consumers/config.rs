//! How a consumer is set up.

use roundelay_protocol::consumer::{Rules, WINDOW};
use roundelay_protocol::limits::MAX_ATTRIBUTE_BYTES;
use roundelay_protocol::topic::{Pattern, Topic};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ConsumersError;

/// Bytes of a consumer's or a group's name.
pub(super) const MAX_NAME_BYTES: usize = 64;
/// Patterns and types that one consumer may name.
const MAX_NAMED: usize = 64;
/// Bytes of a webhook's address.
const MAX_URL_BYTES: usize = 2_048;
/// The topics in which the members of groups say what they have done; the group's name follows.
pub(crate) const GROUP_TOPIC_PREFIX: &str = "_group.";

/// How a consumer is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerConfig {
    /// Topics and patterns; an event is for the consumer when its topic matches any of them.
    pub topics: Vec<String>,
    /// Types of events that are for the consumer; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Where it begins: `start`, `end`, `@MILLISECONDS` since 1970, or a cursor.
    #[serde(default = "start")]
    pub from: String,
    /// The group of nodes with which it shares the work by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Milliseconds after which a delivery that was not acknowledged is delivered again.
    #[serde(default = "default_ack_wait_ms")]
    pub ack_wait_ms: u64,
    /// Deliveries after which an event that was never acknowledged becomes a dead letter.
    #[serde(default = "default_max_deliver")]
    pub max_deliver: u32,
    /// Events that may be delivered and not acknowledged.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    /// Milliseconds before an event whose first delivery failed is delivered again; twice as long after each further
    /// failure, with jitter.
    #[serde(default = "default_backoff_ms")]
    pub backoff_ms: u64,
    /// The longest of these waits in milliseconds.
    #[serde(default = "default_max_backoff_ms")]
    pub max_backoff_ms: u64,
    /// Where events are pushed to, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Where a consumer pushes its events to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// An `http://` address, to which each event is posted as a structured CloudEvent. A 2xx answer acknowledges it.
    pub url: String,
    /// Events that are posted at the same time.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
}

fn start() -> String {
    "start".into()
}

fn default_ack_wait_ms() -> u64 {
    30_000
}

fn default_max_deliver() -> u32 {
    10
}

fn default_max_in_flight() -> u32 {
    1_000
}

fn default_backoff_ms() -> u64 {
    1_000
}

fn default_max_backoff_ms() -> u64 {
    60_000
}

fn default_concurrency() -> u32 {
    8
}

impl ConsumerConfig {
    /// A consumer of topics, set up as usual.
    #[must_use]
    pub fn new(topics: Vec<String>) -> Self {
        Self {
            topics,
            types: Vec::new(),
            from: start(),
            group: None,
            ack_wait_ms: default_ack_wait_ms(),
            max_deliver: default_max_deliver(),
            max_in_flight: default_max_in_flight(),
            backoff_ms: default_backoff_ms(),
            max_backoff_ms: default_max_backoff_ms(),
            webhook: None,
        }
    }

    /// How it delivers.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            ack_wait_ms: self.ack_wait_ms,
            max_deliver: self.max_deliver,
            max_in_flight: self.max_in_flight as usize,
            backoff_ms: self.backoff_ms,
            max_backoff_ms: self.max_backoff_ms.max(self.backoff_ms),
            window: WINDOW,
        }
    }

    /// The patterns of its topics.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn patterns(&self) -> Result<Vec<Pattern>, ConsumersError> {
        let parse = |text: &String| Pattern::new(text).map_err(|error| ConsumersError::BadConfig(error.to_string()));
        self.topics.iter().map(parse).collect()
    }

    /// The topic of its group's progress.
    #[must_use]
    pub fn group_topic(&self) -> Option<Topic> {
        self.group.as_ref().and_then(|group| Topic::new(&format!("{GROUP_TOPIC_PREFIX}{group}")).ok())
    }

    /// Whether it takes the same events as another: what cannot be changed later.
    #[must_use]
    pub fn takes_the_same_as(&self, other: &Self) -> bool {
        (&self.topics, &self.types, &self.from, &self.group) == (&other.topics, &other.types, &other.from, &other.group)
    }

    /// Checks all of it.
    ///
    /// # Errors
    /// With what is wrong and what to do.
    pub fn check(&self) -> Result<(), ConsumersError> {
        let bad = |words: String| Err(ConsumersError::BadConfig(words));
        if self.topics.is_empty() || self.topics.len() > MAX_NAMED || self.types.len() > MAX_NAMED {
            return bad(format!("a consumer has 1 to {MAX_NAMED} topics, and up to {MAX_NAMED} types"));
        }
        if let Some(system) = self.patterns()?.iter().find(|pattern| pattern.as_str().starts_with('_')) {
            return bad(format!("'{system}' belongs to the system: consume topics that do not start with '_'"));
        }
        if self.types.iter().any(|kind| kind.is_empty() || kind.len() > MAX_ATTRIBUTE_BYTES) {
            return bad(format!("a type has 1 to {MAX_ATTRIBUTE_BYTES} bytes"));
        }
        if let Some(group) = &self.group {
            check_name(group)?;
            if self.from != "start" && !self.from.starts_with('@') {
                return bad("a group begins at start or at a time, so that all its members begin alike".into());
            }
        }
        let bounds = [
            ("ack_wait_ms", self.ack_wait_ms, 100, 86_400_000),
            ("max_deliver", self.max_deliver.into(), 1, 64),
            ("max_in_flight", self.max_in_flight.into(), 1, WINDOW as u64),
            ("backoff_ms", self.backoff_ms, 1, 86_400_000),
            ("max_backoff_ms", self.max_backoff_ms, 1, 86_400_000),
            ("webhook.concurrency", self.webhook.as_ref().map_or(1, |webhook| webhook.concurrency.into()), 1, 256),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return bad(format!("{name} is {value}: it must be from {least} to {most}"));
            }
        }
        let Some(webhook) = &self.webhook else { return Ok(()) };
        let url = reqwest::Url::parse(&webhook.url).ok().filter(|_| webhook.url.len() <= MAX_URL_BYTES);
        match url.as_ref().map(|url| (url.scheme(), url.host_str())) {
            Some(("http", Some(_))) => Ok(()),
            Some(("https", _)) => bad(
                "this program is built without TLS, so a webhook's address begins with http://: put a proxy on this \
                 machine before a server that wants https"
                    .into(),
            ),
            _ => bad(format!("'{}' is no http:// address", webhook.url.chars().take(80).collect::<String>())),
        }
    }
}

/// Checks the name of a consumer or a group.
pub(crate) fn check_name(name: &str) -> Result<(), ConsumersError> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(sound) {
        true => Ok(()),
        false => Err(ConsumersError::BadName(name.chars().take(MAX_NAME_BYTES).collect())),
    }
}
