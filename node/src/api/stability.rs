//! What cannot change any more, and who holds it up.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi;
use super::peers::{parse_pattern, parse_peer};
use super::problem::ApiError;
use super::server::Api;
use super::types::Code;
use crate::stability::{LeaveOutError, Stability, StabilityError};

impl From<StabilityError> for ApiError {
    fn from(error: StabilityError) -> Self {
        match error {
            StabilityError::Log(error) => error.into(),
            StabilityError::Call(error) => error.into(),
            StabilityError::TooManyTopics(_) | StabilityError::TooManyNodes(_) => Self::new(Code::BadRequest, error),
            StabilityError::NotSubscribed(_) => {
                Self::new(Code::BadRequest, error).with_hint("`roundelay topics join` has it subscribe")
            }
        }
    }
}

impl From<LeaveOutError> for ApiError {
    fn from(error: LeaveOutError) -> Self {
        match error {
            LeaveOutError::NotANode(_) => {
                Self::new(Code::BadPeer, error).with_hint("`roundelay peers` shows the ids of nodes")
            }
            LeaveOutError::Call(error) => error.into(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StabilityParameters {
    /// Topics and patterns, separated by commas. All that the node subscribes to unless it is said which.
    topic: Option<String>,
    /// In place of topics a choreography: its topics, and only the nodes that its declaration names, where it names those of
    /// every role.
    choreography: Option<String>,
}

/// Up to when everything that was published to some topics is here.
///
/// Every known node counts, by what it published last or by its last heartbeat, unless it is left out. Nodes give
/// heartbeats when `heartbeat` is set.
#[utoipa::path(
    get,
    path = "/stability",
    tag = openapi::EVENTS,
    params(StabilityParameters),
    responses((status = 200, body = Stability), ApiError)
)]
pub(super) async fn show_stability(
    State(api): State<Api>,
    parameters: Result<Query<StabilityParameters>, QueryRejection>,
) -> Result<Json<Stability>, ApiError> {
    let Query(StabilityParameters { topic, choreography }) = parameters?;
    let scope = match (topic, choreography) {
        (Some(_), Some(_)) => {
            let detail = "'topic' and 'choreography' are both given";
            return Err(ApiError::new(Code::BadRequest, detail).with_hint("give one of the two"));
        }
        (None, Some(name)) => api.node.observer().scope(&name)?,
        (Some(texts), None) => texts.split(',').map(parse_pattern).collect::<Result<Vec<_>, _>>()?.into(),
        (None, None) => api.node.patterns().await?.into(),
    };
    Ok(Json(api.node.stability(scope).await?))
}

/// Leaves a node out, for good: its silence holds nothing up, and what still comes of it may be an exception.
#[utoipa::path(
    put,
    path = "/stability/left-out/{id}",
    tag = openapi::PEERS,
    params(("id" = String, Path, description = "Its peer id")),
    responses((status = 204, description = "Left out"), ApiError)
)]
pub(super) async fn leave_out(
    State(api): State<Api>,
    peer: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    api.node.leave_out(parse_peer(&peer?)?, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a node that was left out count again.
#[utoipa::path(
    delete,
    path = "/stability/left-out/{id}",
    tag = openapi::PEERS,
    params(("id" = String, Path, description = "Its peer id")),
    responses((status = 204, description = "It counts"), ApiError)
)]
pub(super) async fn take_in(
    State(api): State<Api>,
    peer: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    api.node.leave_out(parse_peer(&peer?)?, false).await?;
    Ok(StatusCode::NO_CONTENT)
}
