//! Takes events in.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use roundelay_protocol::topic::Topic;
use tracing::Instrument;
use utoipa::IntoParams;

use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, DEFAULT_ACK_TIMEOUT_MS, Published, PublishedEvent};
use super::{content, openapi};
use crate::cloudevents::Defaults;
use crate::cursor::Cursor;
use crate::node::EventPlace;
use crate::traces;
use crate::units::parse_duration;

/// Bodies above this are parsed where others do not have to wait for it.
const LARGE_BODY_BYTES: usize = 256 * 1024;

#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Peers that must hold the events before the answer comes.
    #[serde(default)]
    acks: u32,
    /// How long to wait for them, such as `5s` or `500ms`.
    #[param(default = "30s")]
    timeout: Option<String>,
    /// The same in milliseconds.
    timeout_ms: Option<u64>,
    /// Whether CloudEvents may lack an id, source, type or specversion, and get a default.
    #[serde(default)]
    fill: bool,
}

impl Parameters {
    fn wait_ms(&self) -> Result<u64, ApiError> {
        let bad = |error| ApiError::new(Code::BadRequest, format!("timeout: {error}"));
        match (&self.timeout, self.timeout_ms) {
            (Some(_), Some(_)) => Err(ApiError::new(Code::BadRequest, "give timeout or timeout_ms, not both")),
            (Some(text), None) => {
                let wait = parse_duration(text).map_err(bad)?;
                Ok(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
            }
            (None, wait_ms) => Ok(wait_ms.unwrap_or(DEFAULT_ACK_TIMEOUT_MS)),
        }
    }
}

/// Publishes events: all of them are stored, or none.
#[utoipa::path(
    post,
    path = "/topics/{topic}/events",
    tag = openapi::EVENTS,
    params(("topic" = String, Path, description = "The topic"), Parameters),
    request_body(
        description = "CloudEvents 1.0 in structured, batched or binary mode (attributes in `ce-` headers, data of any type \
            in the body). Without such headers the body is the data of an event with default attributes",
        content(
            (openapi::CloudEvent = "application/cloudevents+json"),
            (Vec<openapi::CloudEvent> = "application/cloudevents-batch+json"),
            (serde_json::Value = "application/json"),
            (Vec<u8> = "*/*"),
        )
    ),
    responses((status = 201, description = "Durable on this node, and on so many peers as were asked for", body = Published), ApiError)
)]
pub(super) async fn publish(
    State(api): State<Api>,
    topic: Result<Path<String>, PathRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Published>), ApiError> {
    let topic = parse_topic(&topic?)?;
    let span = traces::publish_span(topic.as_str(), content::trace_of(&headers).as_ref());
    store(api, topic, parameters, headers, body).instrument(span).await
}

async fn store(
    api: Api,
    topic: Topic,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Published>), ApiError> {
    let Query(parameters) = parameters?;
    let acks = parameters.acks;
    let wait_ms = parameters.wait_ms()?;
    let (ids, events) = read(&api, headers, body?, parameters.fill).instrument(traces::receive_span()).await?;
    let receipt = match acks {
        0 => api.node.publish(topic.clone(), events, 0).await?,
        _ => api.node.publish_within(topic.clone(), events, acks, wait_ms).await?,
    };
    let epoch = api.node.epoch();
    let event = |(id, place): (String, &EventPlace)| {
        let EventPlace { seq, arrival, index, duplicate } = *place;
        PublishedEvent { id, seq, cursor: Cursor { epoch, arrival, index }.to_string(), duplicate }
    };
    let events = ids.into_iter().zip(&receipt.places).map(event).collect();
    let published = Published { topic: topic.to_string(), events, peers: receipt.peers, links: receipt.links };
    if receipt.peers >= acks {
        return Ok((StatusCode::CREATED, Json(published)));
    }
    let detail = format!(
        "stored on this node, but after {wait_ms} ms only {} of {acks} acks had come; links that are up: {}",
        receipt.peers, receipt.links
    );
    let hint = "do not publish it again: peers get it as soon as they are reached";
    let mut error = ApiError::new(Code::AcksTimeout, detail).with_hint(hint);
    error.0.published = Some(published);
    Err(error)
}

pub(super) fn parse_topic(text: &str) -> Result<Topic, ApiError> {
    Topic::new(text).map_err(|error| ApiError::new(Code::BadTopic, error))
}

async fn read(api: &Api, headers: HeaderMap, body: Bytes, fill: bool) -> Result<content::Parsed, ApiError> {
    let (source, body_bytes) = (api.source.clone(), body.len());
    let read = move || content::read(&headers, &body, Defaults { source: &source, kind: content::DEFAULT_KIND }, fill);
    if body_bytes <= LARGE_BODY_BYTES {
        return read();
    }
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| ApiError::new(Code::Internal, error))?
}
