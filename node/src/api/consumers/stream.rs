//! A consumer's events as they come, for as long as a connection lasts.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::Name;
use crate::api::events::streaming;
use crate::api::openapi;
use crate::api::outflow::Form;
use crate::api::problem::ApiError;
use crate::api::server::Api;
use crate::api::types::HEARTBEAT_MS;
use crate::consumers::{Consumers, ConsumersError, Fetched, MAX_FETCH};

/// Events that a stream has under way unless told otherwise.
const STREAM_EVENTS: usize = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct StreamParameters {
    /// Events that this stream may have that are not acknowledged.
    max: Option<usize>,
}

/// Events as they come, as server-sent events. What is not acknowledged when the stream ends is delivered to others.
#[utoipa::path(
    get,
    path = "/consumers/{name}/stream",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer"), StreamParameters),
    responses(
        (status = 200, description = "`event`: a CloudEvent; `gap`: what was pruned", content_type = "text/event-stream"),
        ApiError
    )
)]
pub(in crate::api) async fn follow(
    State(api): State<Api>,
    name: Name,
    parameters: Result<Query<StreamParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let max = parameters?.0.max.unwrap_or(STREAM_EVENTS).clamp(1, MAX_FETCH);
    let permit = api.stream_permit()?;
    api.consumers.check(name.clone()).await?;
    let outflow =
        Outflow { member: Membership::new(&api.consumers, name), max, closing: api.closing.clone(), _permit: permit };
    let chunks = futures::stream::unfold(outflow, |mut outflow| async move {
        let chunk = outflow.next().await?;
        Some((Ok::<_, Infallible>(chunk), outflow))
    });
    Ok(streaming(Form::ServerSent, Body::from_stream(chunks)))
}

/// Somebody who fetches for as long as a connection lasts.
struct Membership {
    consumers: Consumers,
    name: String,
    number: u64,
}

impl Membership {
    fn new(consumers: &Consumers, name: String) -> Self {
        Self { consumers: consumers.clone(), name, number: consumers.new_member() }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let (consumers, name, number) = (self.consumers.clone(), std::mem::take(&mut self.name), self.number);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { consumers.leave(name, number).await });
        }
    }
}

struct Outflow {
    member: Membership,
    max: usize,
    closing: CancellationToken,
    /// Given back when the stream ends.
    _permit: OwnedSemaphorePermit,
}

impl Outflow {
    async fn next(&mut self) -> Option<Bytes> {
        let until = Instant::now() + Duration::from_millis(HEARTBEAT_MS);
        let Membership { consumers, name, number } = &self.member;
        let fetched = tokio::select! {
            biased;
            () = self.closing.cancelled() => return None,
            fetched = consumers.fetch_up_to(name.clone(), *number, self.max, until) => fetched,
        };
        match fetched {
            Ok(fetched) => Some(write(&fetched).into()),
            Err(ConsumersError::Stopped) => None,
            Err(error) => {
                tracing::warn!(consumer = name, %error, "a stream of a consumer's events ends");
                None
            }
        }
    }
}

fn write(fetched: &Fetched) -> Vec<u8> {
    let mut chunk = Vec::new();
    if let Some(gap) = &fetched.gap {
        chunk.extend_from_slice(b"event: gap\ndata: ");
        chunk.extend_from_slice(&serde_json::to_vec(gap).unwrap_or_default());
        chunk.extend_from_slice(b"\n\n");
    }
    for event in &fetched.events {
        chunk.extend_from_slice(b"event: event\ndata: ");
        chunk.extend_from_slice(event);
        chunk.extend_from_slice(b"\n\n");
    }
    if chunk.is_empty() {
        chunk.extend_from_slice(b":\n\n");
    }
    chunk
}
