//! Streams events out: a cursor over the log, and never more than one chunk of it in memory for a slow reader.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, stream};
use roundelay_protocol::event::Item;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::limits::MAX_PATTERNS;
use roundelay_protocol::topic::Pattern;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::openapi;
use super::peers::parse_pattern;
use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, From, HEARTBEAT_MS, NDJSON_CONTENT_TYPE};
use crate::cloudevents::{Place, write_event};
use crate::log::LogError;
use crate::peer_id::text_of;
use crate::subscription::{self, Delivery, Subscription};

/// Bytes after which a chunk is sent. A batch is never cut, so that it may have more.
const CHUNK_BYTES: usize = 64 * 1024;
/// Authors whose peer ids a stream keeps as text.
const MAX_AUTHORS: usize = 4096;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Topics and patterns, separated by commas.
    #[serde(default = "all")]
    #[param(default = ">")]
    topic: String,
    /// `start`, `end`, `-N`, `@MILLISECONDS` or `arrival:N`.
    #[serde(default)]
    #[param(default = "end")]
    from: Option<String>,
    /// End after so many events.
    limit: Option<u64>,
    /// Wait for more at the end, instead of ending there.
    #[serde(default)]
    follow: bool,
}

fn all() -> String {
    Pattern::all().to_string()
}

/// Events in order of arrival, one CloudEvent a line.
#[utoipa::path(
    get,
    path = "/events",
    tag = openapi::EVENTS,
    params(Parameters),
    responses(
        (status = 200, description = "An event a line", body = openapi::CloudEvent, content_type = "application/x-ndjson"),
        ApiError
    )
)]
pub(super) async fn stream(
    State(api): State<Api>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters?;
    let (patterns, from) = parameters.read()?;
    Ok(respond(&api, patterns, from, parameters.limit, parameters.follow))
}

impl Parameters {
    /// The topics, and where to begin.
    pub(super) fn read(&self) -> Result<(Vec<Pattern>, subscription::From), ApiError> {
        let patterns: Vec<Pattern> = self.topic.split(',').map(parse_pattern).collect::<Result<_, _>>()?;
        if patterns.len() > MAX_PATTERNS {
            return Err(ApiError::new(Code::TooManyPatterns, format!("at most {MAX_PATTERNS} patterns at once")));
        }
        let from = match self.from.as_deref().unwrap_or("end").parse() {
            Ok(From::Start) => subscription::From::Start,
            Ok(From::End) => subscription::From::End,
            Ok(From::Last(count)) => subscription::From::Last(count),
            Ok(From::TimeMs(ms)) => subscription::From::Time(Hlc::from_ms(ms)),
            Ok(From::Arrival(arrival)) => subscription::From::After(Arrival(arrival)),
            Err(error) => return Err(ApiError::new(Code::BadRequest, error)),
        };
        Ok((patterns, from))
    }
}

/// Streams what matches. Without `follow` up to what is stored now.
pub(super) fn respond(
    api: &Api,
    patterns: Vec<Pattern>,
    from: subscription::From,
    limit: Option<u64>,
    follow: bool,
) -> Response {
    let outflow = Outflow {
        last: (!follow).then(|| api.node.log().last_arrival()),
        subscription: api.node.subscribe(patterns, from),
        pending: VecDeque::new(),
        left: limit.unwrap_or(u64::MAX),
        authors: HashMap::new(),
        closing: api.closing.clone(),
    };
    ([(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE)], Body::from_stream(outflow.into_stream())).into_response()
}

/// Why a stream breaks off, so that its reader does not take it for whole.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the node is stopping")]
    Closing,
}

struct Outflow {
    subscription: Subscription,
    /// Read and not yet written: one read of the log at most.
    pending: VecDeque<Delivery>,
    /// Events that may still be written.
    left: u64,
    /// Where it ends, if it does not follow.
    last: Option<Arrival>,
    authors: HashMap<Author, String>,
    closing: CancellationToken,
}

impl Outflow {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Broken>> + Send + 'static {
        stream::try_unfold(self, |mut outflow| async move {
            let chunk = outflow.next_chunk().await?;
            Ok(chunk.map(|chunk| (chunk, outflow)))
        })
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        while self.left > 0 {
            if self.pending.is_empty() && !self.read().await? {
                return match self.last {
                    None if !self.closing.is_cancelled() => Ok(Some(Bytes::from_static(b"\n"))),
                    _ => Ok(None),
                };
            }
            let chunk = self.write_chunk();
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
        }
        Ok(None)
    }

    /// Reads on. False: the end, or a heartbeat is due.
    async fn read(&mut self) -> Result<bool, Broken> {
        let found = match self.last {
            None => tokio::select! {
                biased;
                () = self.closing.cancelled() => return Ok(false),
                found = self.subscription.next() => found,
                () = tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)) => return Ok(false),
            },
            Some(_) if self.closing.is_cancelled() => return Err(Broken::Closing),
            Some(last) => self.subscription.next_stored().await.map(|mut found| {
                found.retain(|delivery| delivery.arrival <= last);
                found
            }),
        };
        match found {
            // The store closes before the server when the node fails.
            Err(LogError::Closed) if self.last.is_none() => Ok(false),
            Err(error) => Err(error.into()),
            Ok(found) => {
                self.pending = found.into();
                Ok(!self.pending.is_empty())
            }
        }
    }

    fn write_chunk(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 2);
        while out.len() < CHUNK_BYTES && self.left > 0 {
            let Some(delivery) = self.pending.pop_front() else { break };
            let header = delivery.batch.header();
            if self.authors.len() >= MAX_AUTHORS {
                self.authors.clear();
            }
            let author = self.authors.entry(header.author).or_insert_with(|| text_of(&header.author));
            for (seq, item) in delivery.batch.items().skip(delivery.skip) {
                let Item::Event(event) = item else { continue };
                if self.left == 0 {
                    break;
                }
                self.left -= 1;
                let place = Place { topic: header.topic.as_str(), author, seq, arrival: delivery.arrival };
                write_event(&mut out, &event, &place);
                out.push(b'\n');
            }
        }
        out
    }
}
