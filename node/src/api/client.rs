//! The client of a node's API, as the command line uses it.

mod choreographies;
mod stability;
mod views;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lines::{Lines, LinesError};
use super::types::{
    AddPeer, BATCH_CONTENT_TYPE, BackedUp, BackupRequest, Compacted, DEFAULT_ACK_TIMEOUT_MS, EventsQuery, Imported,
    NDJSON_CONTENT_TYPE, PatternRule, Problem, PublishOptions, Published, Removed, TopicRule, VerifyLine,
};
use crate::consumers::{ConsumerConfig, ConsumerInfo, Letter};
use crate::home::Home;
use crate::status::{Converged, HoleStatus, NodeStatus};

/// What a publication may take beyond the time that it waits for acknowledgements.
const PUBLISH_GRACE: Duration = Duration::from_secs(30);
/// Never resolved: every connection goes to the socket.
const BASE: &str = "http://roundelay/v1/";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the home's socket. Nothing has happened.
    #[error("no node runs on the home {}: start one with `roundelay up`", .home.display())]
    NotReachable {
        /// The home.
        home: PathBuf,
    },
    /// The node refused or failed; it says what state that left.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No answer came in time. Whether the call took effect is unknown.
    #[error("no answer within {} ms; whether the call took effect is unknown", .after.as_millis())]
    Timeout {
        /// How long it was waited.
        after: Duration,
    },
    /// The connection ended before the answer did, as when the node stops. Whether the call took effect is unknown.
    #[error(
        "the node ended the connection ({detail}); whether the call took effect is unknown: look when it runs again"
    )]
    Lost {
        /// What the connection said.
        detail: String,
    },
    /// The answer is not what this program understands.
    #[error("the node's answer makes no sense here ({detail}): use the program version that the node runs")]
    Answer {
        /// What is wrong with it.
        detail: String,
    },
    /// What was to be sent cannot be put into JSON. Nothing was sent.
    #[error("cannot encode the request: {0}")]
    Encode(#[from] serde_json::Error),
    /// The client cannot be set up. Nothing was sent.
    #[error("cannot set up the connection: {0}")]
    Setup(String),
}

type Result<T> = std::result::Result<T, ClientError>;

/// Talks to the node of a home. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    home: PathBuf,
    timeout: Option<Duration>,
}

impl Client {
    /// A client of the node that runs, or will run, on a home. Connects with the first call.
    ///
    /// # Errors
    /// When the system has not what it needs.
    pub fn new(home: &Home) -> Result<Self> {
        let setup = |error: &dyn std::error::Error| ClientError::Setup(error.to_string());
        let http = reqwest::Client::builder().no_proxy().unix_socket(home.socket_path()).build();
        Ok(Self {
            http: http.map_err(|error| setup(&error))?,
            base: Url::parse(BASE).map_err(|error| setup(&error))?,
            home: home.path().to_owned(),
            timeout: None,
        })
    }

    /// Gives up on a call after so long: with [`ClientError::Timeout`]. Streams are limited until they begin.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    // ---- events

    /// Publishes events: CloudEvents as JSON objects, of which `id`, `source`, `type` and `specversion` may be missing.
    /// All of them are stored or none.
    ///
    /// # Errors
    /// See [`ClientError`]; a problem with [`super::types::Code::AcksTimeout`] says what was stored.
    pub async fn publish(&self, topic: &str, events: &[impl Serialize], options: PublishOptions) -> Result<Published> {
        self.publish_body(topic, serde_json::to_vec(events)?, options).await
    }

    /// Publishes events that are already a JSON array.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_body(
        &self,
        topic: &str,
        body: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<Published> {
        let wait_ms = options.timeout_ms.unwrap_or(DEFAULT_ACK_TIMEOUT_MS);
        let request = self
            .request(Method::POST, &["topics", topic, "events"])
            .query(&[("acks", u64::from(options.acks)), ("timeout_ms", wait_ms)])
            .query(&[("fill", true)])
            .header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE)
            .body(body.into());
        // The node keeps the time; this only notices one that hangs.
        let limit = self.timeout.map(|limit| limit.max(Duration::from_millis(wait_ms)) + PUBLISH_GRACE);
        self.within(limit, async { self.read(self.send(request).await?).await }).await
    }

    /// Streams events, one CloudEvent in JSON a line, in order of arrival. With `follow` it ends only when the node
    /// stops.
    ///
    /// # Errors
    /// When the stream cannot begin.
    pub async fn events(&self, query: &EventsQuery) -> Result<LineStream> {
        let mut request = self.request(Method::GET, &["events"]).query(&[
            ("topic", query.patterns.join(",")),
            ("from", query.from.to_string()),
            ("follow", query.follow.to_string()),
        ]);
        if let Some(limit) = query.limit {
            request = request.query(&[("limit", limit)]);
        }
        self.stream(request).await
    }

    // ---- what the node knows

    /// Everything at a glance.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<NodeStatus> {
        self.call(self.request(Method::GET, &["status"])).await
    }

    /// What is known to be missing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn holes(&self) -> Result<Vec<HoleStatus>> {
        self.call(self.request(Method::GET, &["holes"])).await
    }

    /// Waits until every head that exists now is covered on both sides of every link. Dropping the call ends it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn converged(&self) -> Result<Converged> {
        self.call(self.request(Method::POST, &["converged"])).await
    }

    // ---- subscriptions and peers

    /// Subscribes the node to one more pattern, for good.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn join_topics(&self, pattern: &str) -> Result<()> {
        self.done(self.request(Method::PUT, &["subscriptions", pattern])).await
    }

    /// Ends a subscription of the node, for good. False if there was none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leave_topics(&self, pattern: &str) -> Result<bool> {
        let removed: Removed = self.call(self.request(Method::DELETE, &["subscriptions", pattern])).await?;
        Ok(removed.removed)
    }

    /// The rules of the node's topics.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rules(&self) -> Result<Vec<PatternRule>> {
        self.call(self.request(Method::GET, &["rules"])).await
    }

    /// Sets the rule of a pattern, for good.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_rule(&self, pattern: &str, rule: &TopicRule) -> Result<()> {
        self.done(self.request(Method::PUT, &["rules", pattern]).json(rule)).await
    }

    /// Ends the rule of a pattern, for good. False if there was none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unset_rule(&self, pattern: &str) -> Result<bool> {
        let removed: Removed = self.call(self.request(Method::DELETE, &["rules", pattern])).await?;
        Ok(removed.removed)
    }

    /// Joins through an address, and remembers it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_peer(&self, address: &str) -> Result<()> {
        self.done(self.request(Method::POST, &["peers"]).json(&AddPeer { address: address.to_owned() })).await
    }

    /// Forgets how to reach a peer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn forget_peer(&self, peer: &str) -> Result<()> {
        self.done(self.request(Method::DELETE, &["peers", peer])).await
    }

    /// Blocks a peer and its events, or no longer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn block_peer(&self, peer: &str, blocked: bool) -> Result<()> {
        let method = if blocked { Method::PUT } else { Method::DELETE };
        self.done(self.request(method, &["peers", peer, "block"])).await
    }

    // ---- consumers

    /// All consumers of the node.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn consumers(&self) -> Result<Vec<ConsumerInfo>> {
        self.call(self.request(Method::GET, &["consumers"])).await
    }

    /// One consumer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn consumer(&self, name: &str) -> Result<ConsumerInfo> {
        self.call(self.request(Method::GET, &["consumers", name])).await
    }

    /// Creates a consumer, or changes how an existing one delivers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_consumer(&self, name: &str, config: &ConsumerConfig) -> Result<ConsumerInfo> {
        self.call(self.request(Method::PUT, &["consumers", name]).json(config)).await
    }

    /// Removes a consumer. False if there was none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_consumer(&self, name: &str) -> Result<bool> {
        let removed: Removed = self.call(self.request(Method::DELETE, &["consumers", name])).await?;
        Ok(removed.removed)
    }

    /// Posts to a consumer, and reads what it answers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ask_consumer(&self, name: &str, what: &[&str], body: &impl Serialize) -> Result<serde_json::Value> {
        let path = [&["consumers", name], what].concat();
        self.call(self.request(Method::POST, &path).json(body)).await
    }

    /// The next event of a consumer as a CloudEvent in JSON, if one comes in time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn fetch(&self, name: &str, wait: Duration) -> Result<Option<Box<serde_json::value::RawValue>>> {
        #[derive(serde::Deserialize)]
        struct Fetched {
            events: Vec<Box<serde_json::value::RawValue>>,
        }
        let request = self.request(Method::POST, &["consumers", name, "fetch"]);
        let request = request.query(&[("max", 1), ("wait_ms", wait.as_millis() as u64)]);
        let limit = self.timeout.map(|limit| limit + wait);
        let fetched: Fetched = self.within(limit, async { self.read(self.send(request).await?).await }).await?;
        Ok(fetched.events.into_iter().next())
    }

    /// Dead letters of a consumer, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn dead(&self, name: &str, after: u64) -> Result<Vec<Letter>> {
        self.call(self.request(Method::GET, &["consumers", name, "dead"]).query(&[("after", after)])).await
    }

    /// One dead letter with its event.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn dead_letter(&self, name: &str, number: u64) -> Result<serde_json::Value> {
        self.call(self.request(Method::GET, &["consumers", name, "dead", &number.to_string()])).await
    }

    // ---- the log

    /// Streams every event that the node holds, or those of the topics that match a pattern.
    ///
    /// # Errors
    /// When the stream cannot begin.
    pub async fn export(&self, pattern: Option<&str>) -> Result<LineStream> {
        let mut request = self.request(Method::GET, &["log", "export"]);
        if let Some(pattern) = pattern {
            request = request.query(&[("topic", pattern)]);
        }
        self.stream(request).await
    }

    /// Publishes events again that were exported, each to its topic, under the node's own name. A failure leaves those
    /// before it published.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import<E>(
        &self,
        lines: impl Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
    ) -> Result<Imported>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let request = self.request(Method::POST, &["log", "import"]).header(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE);
        self.read(self.send(request.body(reqwest::Body::wrap_stream(lines))).await?).await
    }

    /// Checks every hash, link and signature of the running node's log. The stream ends with a report.
    ///
    /// # Errors
    /// When the stream cannot begin.
    pub async fn verify(&self) -> Result<impl Stream<Item = Result<VerifyLine>> + Send + Unpin + 'static> {
        let lines = self.stream(self.request(Method::POST, &["log", "verify"])).await?;
        Ok(lines.and_then(|line| std::future::ready(decode(&line))))
    }

    /// Has the node copy its store into a file that does not exist yet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backup(&self, file: &str) -> Result<BackedUp> {
        let request = self.request(Method::POST, &["log", "backup"]).json(&BackupRequest { file: file.to_owned() });
        self.read(self.send(request).await?).await
    }

    /// Has the node rewrite its store, so that the space of what was pruned comes back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compact(&self) -> Result<Compacted> {
        self.read(self.send(self.request(Method::POST, &["log", "compact"])).await?).await
    }

    /// Tells the node to stop, and does not wait until it has.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn shutdown(&self) -> Result<()> {
        self.done(self.request(Method::POST, &["shutdown"])).await
    }

    // ---- underneath

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    async fn within<T>(&self, limit: Option<Duration>, call: impl Future<Output = Result<T>>) -> Result<T> {
        match limit {
            None => call.await,
            Some(after) => tokio::time::timeout(after, call).await.unwrap_or(Err(ClientError::Timeout { after })),
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        self.within(self.timeout, async { self.read(self.send(request).await?).await }).await
    }

    async fn done(&self, request: RequestBuilder) -> Result<()> {
        self.within(self.timeout, async { self.send(request).await.map(drop) }).await
    }

    async fn stream(&self, request: RequestBuilder) -> Result<LineStream> {
        let response = self.within(self.timeout, self.send(request)).await?;
        let lines: LineStream = Box::pin(Lines::new(response.bytes_stream()).map_err(|error| match error {
            LinesError::Input(error) => lost(&error),
            LinesError::TooLong => ClientError::Answer { detail: "a line is too long".into() },
        }));
        Ok(lines)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| match error.is_connect() {
            true => ClientError::NotReachable { home: self.home.clone() },
            false => lost(&error),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| lost(&error))?;
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => Err(ClientError::Answer { detail: format!("HTTP status {status} without a problem") }),
        }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        decode(&response.bytes().await.map_err(|error| lost(&error))?)
    }
}

/// Lines without their ends; empty ones, which only show that the node lives, are left out.
pub type LineStream = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| ClientError::Answer { detail: error.to_string() })
}

fn lost(error: &reqwest::Error) -> ClientError {
    // The outermost message only repeats the URL.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    ClientError::Lost { detail: cause.to_string() }
}
