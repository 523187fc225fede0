//! Whom the node is linked to, and what it subscribes to.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use libp2p::PeerId;
use roundelay_protocol::topic::Pattern;

use super::openapi;
use super::problem::ApiError;
use super::server::Api;
use super::types::{AddPeer, Code, Removed};
use crate::config::parse_address;

type OnePath = Result<Path<String>, PathRejection>;

/// Subscribes the node to one more pattern, for good.
#[utoipa::path(
    put,
    path = "/subscriptions/{pattern}",
    tag = openapi::NODE,
    params(("pattern" = String, Path, description = "A topic or a pattern")),
    responses((status = 204, description = "Subscribed"), ApiError)
)]
pub(super) async fn join_topics(State(api): State<Api>, pattern: OnePath) -> Result<StatusCode, ApiError> {
    api.node.join_topics(parse_pattern(&pattern?)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a subscription of the node, for good.
#[utoipa::path(
    delete,
    path = "/subscriptions/{pattern}",
    tag = openapi::NODE,
    params(("pattern" = String, Path, description = "A topic or a pattern")),
    responses((status = 200, body = Removed), ApiError)
)]
pub(super) async fn leave_topics(State(api): State<Api>, pattern: OnePath) -> Result<Json<Removed>, ApiError> {
    Ok(Json(Removed { removed: api.node.leave_topics(parse_pattern(&pattern?)?).await? }))
}

/// Joins through an address, and remembers it.
#[utoipa::path(
    post,
    path = "/peers",
    tag = openapi::PEERS,
    request_body = AddPeer,
    responses((status = 204, description = "It will be dialled"), ApiError)
)]
pub(super) async fn add(
    State(api): State<Api>,
    body: Result<Json<AddPeer>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let address = parse_address(&body?.address, false).map_err(|error| ApiError::new(Code::BadAddress, error))?;
    api.node.add_peer(address).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets how to reach a peer.
#[utoipa::path(
    delete,
    path = "/peers/{id}",
    tag = openapi::PEERS,
    params(("id" = String, Path, description = "Its peer id")),
    responses((status = 204, description = "Forgotten"), ApiError)
)]
pub(super) async fn forget(State(api): State<Api>, peer: OnePath) -> Result<StatusCode, ApiError> {
    api.node.forget_peer(parse_peer(&peer?)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has nothing to do with a peer and its events any more.
#[utoipa::path(
    put,
    path = "/peers/{id}/block",
    tag = openapi::PEERS,
    params(("id" = String, Path, description = "Its peer id")),
    responses((status = 204, description = "Blocked"), ApiError)
)]
pub(super) async fn block(State(api): State<Api>, peer: OnePath) -> Result<StatusCode, ApiError> {
    api.node.block_peer(parse_peer(&peer?)?, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Blocks a peer no longer.
#[utoipa::path(
    delete,
    path = "/peers/{id}/block",
    tag = openapi::PEERS,
    params(("id" = String, Path, description = "Its peer id")),
    responses((status = 204, description = "Not blocked"), ApiError)
)]
pub(super) async fn unblock(State(api): State<Api>, peer: OnePath) -> Result<StatusCode, ApiError> {
    api.node.block_peer(parse_peer(&peer?)?, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn parse_pattern(text: &str) -> Result<Pattern, ApiError> {
    Pattern::new(text).map_err(|error| ApiError::new(Code::BadPattern, error))
}

pub(super) fn parse_peer(text: &str) -> Result<PeerId, ApiError> {
    text.parse().map_err(|error| {
        ApiError::new(Code::BadPeer, format!("'{text}' is no peer id: {error}"))
            .with_hint("`roundelay peers` shows them")
    })
}
