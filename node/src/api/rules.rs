//! Rules by topic: what is kept for how long, and who may publish.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use roundelay_protocol::ids::Author;
use roundelay_protocol::rules::Rule;
use roundelay_protocol::topic::Pattern;

use super::openapi;
use super::peers::{parse_pattern, parse_peer};
use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, PatternRule, Removed, TopicRule};
use crate::peer_id::{author_of, text_of};

type OnePath = Result<Path<String>, PathRejection>;

/// All rules of this node.
#[utoipa::path(get, path = "/rules", tag = openapi::NODE, responses((status = 200, body = Vec<PatternRule>), ApiError))]
pub(super) async fn list_rules(State(api): State<Api>) -> Result<Json<Vec<PatternRule>>, ApiError> {
    let rules = api.node.rules().await?;
    let line = |(pattern, rule): (&Pattern, &Rule)| PatternRule { pattern: pattern.to_string(), rule: rule.into() };
    Ok(Json(rules.iter().map(line).collect()))
}

/// The rule of one pattern.
#[utoipa::path(
    get,
    path = "/rules/{pattern}",
    tag = openapi::NODE,
    params(("pattern" = String, Path, description = "A topic or a pattern, as it was set")),
    responses((status = 200, body = TopicRule), ApiError)
)]
pub(super) async fn show(State(api): State<Api>, pattern: OnePath) -> Result<Json<TopicRule>, ApiError> {
    let pattern = parse_pattern(&pattern?)?;
    let rules = api.node.rules().await?;
    let found = rules.iter().find(|(known, _)| **known == pattern).map(|(_, rule)| TopicRule::from(rule));
    let missing = || ApiError::new(Code::NotFound, format!("'{pattern}' has no rule on this node"));
    found.map(Json).ok_or_else(missing)
}

/// Sets the rule of a pattern, in the place of an earlier one. It holds at once, and for good.
#[utoipa::path(
    put,
    path = "/rules/{pattern}",
    tag = openapi::NODE,
    params(("pattern" = String, Path, description = "A topic or a pattern")),
    request_body = TopicRule,
    responses((status = 204, description = "It holds"), ApiError)
)]
pub(super) async fn set(
    State(api): State<Api>,
    pattern: OnePath,
    body: Result<Json<TopicRule>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let pattern = parse_pattern(&pattern?)?;
    let Json(TopicRule { max_age_ms, max_bytes, max_events, keyed, writers }) = body?;
    let writers =
        writers.map(|ids| ids.iter().map(|id| parse_author(id)).collect::<Result<Vec<_>, _>>()).transpose()?;
    api.node.set_rule(pattern, Rule { max_age_ms, max_bytes, max_events, keyed, writers }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the rule of a pattern.
#[utoipa::path(
    delete,
    path = "/rules/{pattern}",
    tag = openapi::NODE,
    params(("pattern" = String, Path, description = "A topic or a pattern, as it was set")),
    responses((status = 200, body = Removed), ApiError)
)]
pub(super) async fn unset(State(api): State<Api>, pattern: OnePath) -> Result<Json<Removed>, ApiError> {
    Ok(Json(Removed { removed: api.node.unset_rule(parse_pattern(&pattern?)?).await? }))
}

fn parse_author(text: &str) -> Result<Author, ApiError> {
    let peer = parse_peer(text)?;
    author_of(&peer)
        .ok_or_else(|| ApiError::new(Code::BadPeer, format!("'{text}' is no node's: nodes have ed25519 keys")))
}

impl From<&Rule> for TopicRule {
    fn from(rule: &Rule) -> Self {
        Self {
            max_age_ms: rule.max_age_ms,
            max_bytes: rule.max_bytes,
            max_events: rule.max_events,
            keyed: rule.keyed,
            writers: rule.writers.as_ref().map(|writers| writers.iter().map(text_of).collect()),
        }
    }
}
