//! Durable consumers over HTTP.

pub(super) mod stream;

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi;
use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, Removed};
use crate::consumers::{
    Acknowledged, CommitAnswer, CommitEvent, ConsumerConfig, ConsumerInfo, ConsumersError, Fetched, Lag, Letter,
    MAX_FETCH, MAX_WAIT, Missed, Seek, Which,
};

/// Dead letters in one answer.
const MAX_LISTED: usize = 1_000;

type Name = Result<Path<String>, PathRejection>;
type Numbered = Result<Path<(String, u64)>, PathRejection>;
type Parsed<T> = Result<Json<T>, JsonRejection>;

impl From<ConsumersError> for ApiError {
    fn from(error: ConsumersError) -> Self {
        use ConsumersError as E;
        let code = match &error {
            E::BadName(_) | E::BadConfig(_) | E::BadCall(_) => Code::BadRequest,
            E::NoConsumer(_) | E::NoLetter(..) => Code::NotFound,
            E::TooMany(_) => Code::TooManyConsumers,
            E::TooLarge(_) => Code::BodyTooLarge,
            E::Exists(_) | E::GroupSeek(_) => Code::ConsumerExists,
            E::BeingRemoved(_) | E::TooManyWaiters(_) => Code::Busy,
            E::OtherStore(_) => Code::OtherStore,
            E::NotDelivered(..) => Code::NotDelivered,
            E::AlreadyDone(_) => Code::AlreadyDone,
            E::BadEvent(..) => Code::BadEvent,
            E::BadTopic(..) => Code::BadTopic,
            E::Call(call) => return call.clone().into(),
            E::Log(_) => Code::Log,
            E::Stopped => Code::Stopped,
        };
        Self::new(code, error)
    }
}

/// Which events are acknowledged: one of these members.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ack {
    /// The `rdlcursor` of one event.
    cursor: Option<String>,
    /// Those of several.
    #[serde(default)]
    cursors: Vec<String>,
    /// All that were delivered and are not acknowledged, up to this cursor.
    up_to: Option<String>,
}

/// Which events take longer.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Extend {
    /// The `rdlcursor` of one event.
    cursor: Option<String>,
    /// Those of several.
    #[serde(default)]
    cursors: Vec<String>,
}

/// Which events could not be processed.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nack {
    /// The `rdlcursor` of one event.
    cursor: Option<String>,
    /// Those of several.
    #[serde(default)]
    cursors: Vec<String>,
    /// Milliseconds before they are delivered again, at most 86,400,000; the consumer's back-off if not given.
    delay_ms: Option<u64>,
    /// Why, for people: kept with a dead letter, its first 100 bytes.
    reason: Option<String>,
}

/// What was processed, and what came of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit {
    processed: Vec<String>,
    #[serde(default)]
    events: Vec<CommitEvent>,
}

/// A commit, as it is described.
#[derive(ToSchema)]
#[schema(as = Commit)]
#[expect(dead_code, reason = "only described: Commit is read")]
pub(super) struct DescribedCommit {
    /// The `rdlcursor` of each event that was processed.
    processed: Vec<String>,
    /// Events to be published with that.
    events: Vec<DescribedCommitEvent>,
}

/// An event of a commit, as it is described.
#[derive(ToSchema)]
#[schema(as = CommitEvent)]
#[expect(dead_code, reason = "only described: CommitEvent is read")]
pub(super) struct DescribedCommitEvent {
    /// Where it is published.
    topic: String,
    /// The event. An id, a source, causes and a correlation that it lacks are filled in.
    event: openapi::CloudEvent,
}

/// What a fetch brings.
#[derive(ToSchema)]
#[schema(as = Fetched)]
#[expect(dead_code, reason = "only described: it is written without it")]
pub(super) struct DescribedFetched {
    /// CloudEvents, each with `rdlcursor`, by which it is acknowledged, and `rdlattempt`.
    events: Vec<openapi::CloudEvent>,
    /// What was pruned before it was delivered, if anything was since that was last told.
    gap: Option<Missed>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FetchParameters {
    /// Events to bring at most.
    max: Option<usize>,
    /// Milliseconds to wait for the first of them, at most 60,000.
    wait_ms: Option<u64>,
    /// The same with a unit: `500ms`, `10s`; without one in seconds.
    wait: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadParameters {
    /// Only letters with a greater number.
    #[serde(default)]
    after: u64,
    /// Letters to list at most: up to 1,000.
    limit: Option<usize>,
}

/// Which dead letters are delivered again.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redrive {
    /// One letter.
    number: Option<u64>,
    /// All of them.
    #[serde(default)]
    all: bool,
}

/// How many dead letters are delivered again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Redriven {
    /// Those that were not being delivered again already.
    redriven: u64,
}

/// Creates a consumer, or changes how an existing one delivers.
#[utoipa::path(
    put,
    path = "/consumers/{name}",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "Letters, digits, _ and -")),
    request_body = ConsumerConfig,
    responses((status = 201, body = ConsumerInfo), (status = 200, body = ConsumerInfo), ApiError)
)]
pub(super) async fn put(
    State(api): State<Api>,
    name: Name,
    config: Parsed<ConsumerConfig>,
) -> Result<(StatusCode, Json<ConsumerInfo>), ApiError> {
    let (info, created) = api.consumers.put(name?.0, config?.0).await?;
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, Json(info)))
}

/// One consumer.
#[utoipa::path(
    get,
    path = "/consumers/{name}",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    responses((status = 200, body = ConsumerInfo), ApiError)
)]
pub(super) async fn get(State(api): State<Api>, name: Name) -> Result<Json<ConsumerInfo>, ApiError> {
    Ok(Json(api.consumers.get(name?.0).await?))
}

/// All consumers of this node.
#[utoipa::path(
    get,
    path = "/consumers",
    tag = openapi::CONSUMERS,
    responses((status = 200, body = Vec<ConsumerInfo>), ApiError)
)]
pub(super) async fn list_consumers(State(api): State<Api>) -> Result<Json<Vec<ConsumerInfo>>, ApiError> {
    Ok(Json(api.consumers.list().await?))
}

/// Removes a consumer with its dead letters.
#[utoipa::path(
    delete,
    path = "/consumers/{name}",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    responses((status = 200, body = Removed), ApiError)
)]
pub(super) async fn remove(State(api): State<Api>, name: Name) -> Result<Json<Removed>, ApiError> {
    Ok(Json(Removed { removed: api.consumers.remove(name?.0).await? }))
}

/// Goes on from another place: what comes after it is delivered, again where need be.
#[utoipa::path(
    post,
    path = "/consumers/{name}/seek",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    request_body = Seek,
    responses((status = 200, body = Lag), ApiError)
)]
pub(super) async fn seek(State(api): State<Api>, name: Name, seek: Parsed<Seek>) -> Result<Json<Lag>, ApiError> {
    Ok(Json(api.consumers.seek(name?.0, seek?.0.to).await?))
}

/// How far a consumer is.
#[utoipa::path(
    get,
    path = "/consumers/{name}/lag",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    responses((status = 200, body = Lag), ApiError)
)]
pub(super) async fn lag(State(api): State<Api>, name: Name) -> Result<Json<Lag>, ApiError> {
    Ok(Json(api.consumers.get(name?.0).await?.lag))
}

/// The next events. Each is delivered again unless it is acknowledged in time.
#[utoipa::path(
    post,
    path = "/consumers/{name}/fetch",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer"), FetchParameters),
    responses((status = 200, body = DescribedFetched), ApiError)
)]
pub(super) async fn fetch(
    State(api): State<Api>,
    name: Name,
    parameters: Result<Query<FetchParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(FetchParameters { max, wait_ms, wait }) = parameters?;
    let max = max.unwrap_or(1).clamp(1, MAX_FETCH);
    let wait = match (wait_ms, wait) {
        (Some(ms), _) => Duration::from_millis(ms),
        (None, Some(text)) => parse_wait(&text)?,
        (None, None) => Duration::ZERO,
    };
    let until = Instant::now() + wait.min(MAX_WAIT);
    let fetch = api.consumers.fetch(name?.0, api.consumers.new_member(), max, until);
    let fetched = tokio::select! {
        fetched = fetch => fetched?,
        // Whoever waits for nothing must not hold up the end.
        () = api.closing.cancelled() => Fetched::default(),
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], write_fetched(&fetched)).into_response())
}

fn parse_wait(text: &str) -> Result<Duration, ApiError> {
    let number = |text: &str| text.parse::<u64>().ok();
    let wait = match text.strip_suffix("ms") {
        Some(ms) => number(ms).map(Duration::from_millis),
        None => number(text.strip_suffix('s').unwrap_or(text)).map(Duration::from_secs),
    };
    wait.ok_or_else(|| {
        ApiError::new(Code::BadRequest, format!("'{text}' is no time to wait: use 500ms, 10s, or wait_ms"))
    })
}

fn write_fetched(fetched: &Fetched) -> Vec<u8> {
    let mut body = br#"{"events":["#.to_vec();
    body.extend_from_slice(&fetched.events.join(&b','));
    body.extend_from_slice(br#"],"gap":"#);
    body.extend_from_slice(&serde_json::to_vec(&fetched.gap).unwrap_or_else(|_| b"null".to_vec()));
    body.push(b'}');
    body
}

/// Events are done. They are not delivered again, once this is answered.
#[utoipa::path(
    post,
    path = "/consumers/{name}/ack",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    request_body = Ack,
    responses((status = 200, body = Acknowledged), ApiError)
)]
pub(super) async fn ack(State(api): State<Api>, name: Name, body: Parsed<Ack>) -> Result<Json<Acknowledged>, ApiError> {
    let Ack { cursor, mut cursors, up_to } = body?.0;
    cursors.extend(cursor);
    let which = match up_to {
        Some(cursor) if cursors.is_empty() => Which::UpTo(cursor),
        Some(_) => return Err(ApiError::new(Code::BadRequest, "give either cursors or up_to, not both")),
        None => Which::Each(cursors),
    };
    Ok(Json(api.consumers.ack(name?.0, which).await?))
}

/// Events could not be processed: they are delivered again later, or become dead letters.
#[utoipa::path(
    post,
    path = "/consumers/{name}/nack",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    request_body = Nack,
    responses((status = 200, body = Acknowledged), ApiError)
)]
pub(super) async fn nack(
    State(api): State<Api>,
    name: Name,
    body: Parsed<Nack>,
) -> Result<Json<Acknowledged>, ApiError> {
    let Nack { cursor, mut cursors, delay_ms, reason } = body?.0;
    cursors.extend(cursor);
    Ok(Json(api.consumers.nack(name?.0, cursors, delay_ms, reason).await?))
}

/// Events take longer: the time in which they must be acknowledged begins anew.
#[utoipa::path(
    post,
    path = "/consumers/{name}/extend",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    request_body = Extend,
    responses((status = 200, body = Acknowledged), ApiError)
)]
pub(super) async fn extend(
    State(api): State<Api>,
    name: Name,
    body: Parsed<Extend>,
) -> Result<Json<Acknowledged>, ApiError> {
    let Extend { cursor, mut cursors } = body?.0;
    cursors.extend(cursor);
    Ok(Json(api.consumers.extend(name?.0, cursors).await?))
}

/// Events are done, and others came of them: both in one atomic write, once, also when the call is repeated.
#[utoipa::path(
    post,
    path = "/consumers/{name}/commit",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    request_body = DescribedCommit,
    responses((status = 200, body = CommitAnswer), ApiError)
)]
pub(super) async fn commit(
    State(api): State<Api>,
    name: Name,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<CommitAnswer>, ApiError> {
    let commit: Commit = serde_json::from_slice(&body?)
        .map_err(|error| ApiError::new(Code::BadRequest, format!("no commit: {error}")))?;
    Ok(Json(api.consumers.commit(name?.0, commit.processed, commit.events).await?))
}

/// Dead letters, the oldest first, without their events.
#[utoipa::path(
    get,
    path = "/consumers/{name}/dead",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer"), DeadParameters),
    responses((status = 200, body = Vec<Letter>), ApiError)
)]
pub(super) async fn dead(
    State(api): State<Api>,
    name: Name,
    parameters: Result<Query<DeadParameters>, QueryRejection>,
) -> Result<Json<Vec<Letter>>, ApiError> {
    let Query(DeadParameters { after, limit }) = parameters?;
    Ok(Json(api.consumers.dead(name?.0, after, limit.unwrap_or(MAX_LISTED).min(MAX_LISTED)).await?))
}

/// One dead letter with its event, as `event` beside the rest.
#[utoipa::path(
    get,
    path = "/consumers/{name}/dead/{number}",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer"), ("number" = u64, Path, description = "The letter")),
    responses((status = 200, body = Letter), ApiError)
)]
pub(super) async fn dead_letter(State(api): State<Api>, path: Numbered) -> Result<Response, ApiError> {
    let Path((name, number)) = path?;
    let (letter, event) = api.consumers.dead_letter(name, number).await?;
    let mut body = serde_json::to_vec(&letter).unwrap_or_default();
    body.pop();
    body.extend_from_slice(br#","event":"#);
    body.extend_from_slice(&event);
    body.push(b'}');
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Delivers dead letters again, one or all. Each goes when its event is acknowledged.
#[utoipa::path(
    post,
    path = "/consumers/{name}/dead/redrive",
    tag = openapi::CONSUMERS,
    params(("name" = String, Path, description = "The consumer")),
    request_body = Redrive,
    responses((status = 200, body = Redriven), ApiError)
)]
pub(super) async fn redrive(
    State(api): State<Api>,
    name: Name,
    body: Parsed<Redrive>,
) -> Result<Json<Redriven>, ApiError> {
    let Redrive { number, all } = body?.0;
    if number.is_some() == all {
        return Err(ApiError::new(Code::BadRequest, "say which letters: either a number, or all"));
    }
    Ok(Json(Redriven { redriven: api.consumers.redrive(name?.0, number).await? }))
}
