//! Whom the node is linked to, and what it subscribes to.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use libp2p::PeerId;
use roundelay_protocol::topic::Pattern;

use super::problem::ApiError;
use super::server::Api;
use super::types::{AddPeer, Code, Removed};
use crate::config::parse_address;

type OnePath = Result<Path<String>, PathRejection>;

pub(super) async fn join_topics(State(api): State<Api>, pattern: OnePath) -> Result<StatusCode, ApiError> {
    api.node.join_topics(parse_pattern(&pattern?)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn leave_topics(State(api): State<Api>, pattern: OnePath) -> Result<Json<Removed>, ApiError> {
    Ok(Json(Removed { removed: api.node.leave_topics(parse_pattern(&pattern?)?).await? }))
}

pub(super) async fn add(
    State(api): State<Api>,
    body: Result<Json<AddPeer>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let address = parse_address(&body?.address, false).map_err(|error| ApiError::new(Code::BadAddress, error))?;
    api.node.add_peer(address).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget(State(api): State<Api>, peer: OnePath) -> Result<StatusCode, ApiError> {
    api.node.forget_peer(parse_peer(&peer?)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn block(State(api): State<Api>, peer: OnePath) -> Result<StatusCode, ApiError> {
    api.node.block_peer(parse_peer(&peer?)?, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

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
