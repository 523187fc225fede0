//! Takes events in.

use std::fmt;

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::topic::Topic;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use utoipa::IntoParams;

use super::openapi;
use super::problem::ApiError;
use super::server::Api;
use super::types::{BATCH_CONTENT_TYPE, Code, DEFAULT_ACK_TIMEOUT_MS, MAX_PUBLISH_EVENTS, Published, PublishedEvent};
use crate::cloudevents::{CloudEventError, Defaults, Object, read_event};

/// The type of events that name none.
const DEFAULT_KIND: &str = "event";
/// Bodies above this are parsed where others do not have to wait for it.
const LARGE_BODY_BYTES: usize = 256 * 1024;

#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Peers that must hold the events before the answer comes.
    #[serde(default)]
    acks: u32,
    /// Milliseconds to wait for them.
    #[param(default = 30_000)]
    timeout_ms: Option<u64>,
}

/// Publishes events: all of them are stored, or none.
#[utoipa::path(
    post,
    path = "/topics/{topic}/events",
    tag = openapi::EVENTS,
    params(("topic" = String, Path, description = "The topic"), Parameters),
    request_body(content = Vec<openapi::CloudEvent>, content_type = "application/cloudevents-batch+json"),
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
    let Query(Parameters { acks, timeout_ms }) = parameters?;
    check_media_type(&headers)?;
    let (ids, events) = parse(&api, body?).await?;
    let wait_ms = timeout_ms.unwrap_or(DEFAULT_ACK_TIMEOUT_MS);
    let receipt = match acks {
        0 => api.node.publish(topic.clone(), events, 0).await?,
        _ => api.node.publish_within(topic.clone(), events, acks, wait_ms).await?,
    };
    let events = ids.into_iter().zip(receipt.first_seq..).map(|(id, seq)| PublishedEvent { id, seq }).collect();
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

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(BATCH_CONTENT_TYPE) {
        return Ok(());
    }
    let detail = format!("events are taken as {BATCH_CONTENT_TYPE}, not as '{given}'");
    Err(ApiError::new(Code::UnsupportedMediaType, detail).with_hint("send a JSON array of CloudEvents"))
}

type Parsed = (Vec<String>, Vec<EncodedEvent>);

async fn parse(api: &Api, body: Bytes) -> Result<Parsed, ApiError> {
    if body.len() <= LARGE_BODY_BYTES {
        return parse_body(&api.source, &body);
    }
    let source = api.source.clone();
    let parsed = tokio::task::spawn_blocking(move || parse_body(&source, &body)).await;
    parsed.map_err(|error| ApiError::new(Code::Internal, error))?
}

pub(super) fn parse_body(source: &str, body: &[u8]) -> Result<Parsed, ApiError> {
    let Objects { objects, more } =
        serde_json::from_slice(body).map_err(|error| CloudEventError::Json(error.to_string()))?;
    if more > 0 {
        let detail = format!("{} events at once are too many: at most {MAX_PUBLISH_EVENTS}", objects.len() + more);
        return Err(ApiError::new(Code::BodyTooLarge, detail));
    }
    let defaults = Defaults { source, kind: DEFAULT_KIND };
    let (mut ids, mut events) = (Vec::with_capacity(objects.len()), Vec::with_capacity(objects.len()));
    for (object, number) in objects.iter().zip(1..) {
        let place = |error: ApiError| match objects.len() {
            1 => error,
            _ => error.at(format_args!("event {number}")),
        };
        let event = read_event(object, Some(&defaults)).map_err(|error| place(error.into()))?.event;
        events.push(event.encode().map_err(|error| place(error.into()))?);
        ids.push(event.id);
    }
    Ok((ids, events))
}

/// As many objects as may be published at once, and how many there are beyond, which take no memory.
struct Objects<'a> {
    objects: Vec<Object<'a>>,
    more: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Objects<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Objects<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Objects<'de>, A::Error> {
                let mut objects = Vec::new();
                while objects.len() < MAX_PUBLISH_EVENTS
                    && let Some(object) = list.next_element()?
                {
                    objects.push(object);
                }
                let mut more = 0;
                while objects.len() == MAX_PUBLISH_EVENTS && list.next_element::<IgnoredAny>()?.is_some() {
                    more += 1;
                }
                Ok(Objects { objects, more })
            }
        }
        deserializer.deserialize_seq(List)
    }
}
