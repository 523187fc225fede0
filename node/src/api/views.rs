//! Views of last values by key.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi;
use super::problem::ApiError;
use super::publish::parse_topic;
use super::server::Api;
use super::types::Code;
use crate::views::{MAX_VIEW_LISTED, ViewError, ViewPage, ViewQuery, ViewValue};

/// Keys of a page unless it is said how many.
const DEFAULT_LISTED: usize = 100;

impl From<ViewError> for ApiError {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Log(error) => error.into(),
            ViewError::Call(error) => error.into(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParameters {
    /// Only keys that begin so.
    #[serde(default)]
    prefix: String,
    /// Keys of a page, at most 1,000. A page of large events ends sooner.
    #[param(default = 100)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// The last event of each key of a topic, by key.
///
/// The last one in the total order counts, so that every node that holds the same events answers the same. An event
/// without data takes its key's value away. A repeat of an event counts where it is first.
#[utoipa::path(
    get,
    path = "/views/{topic}",
    tag = openapi::EVENTS,
    params(("topic" = String, Path, description = "The topic"), PageParameters),
    responses((status = 200, body = ViewPage), ApiError)
)]
pub(super) async fn list_view(
    State(api): State<Api>,
    topic: Result<Path<String>, PathRejection>,
    parameters: Result<Query<PageParameters>, QueryRejection>,
) -> Result<Json<ViewPage>, ApiError> {
    let (topic, Query(PageParameters { prefix, limit, after })) = (parse_topic(&topic?)?, parameters?);
    let limit = limit.unwrap_or(DEFAULT_LISTED);
    if !(1..=MAX_VIEW_LISTED).contains(&limit) {
        let detail = format!("limit: a page has 1 to {MAX_VIEW_LISTED} keys");
        return Err(ApiError::new(Code::BadRequest, detail));
    }
    Ok(Json(api.node.views().page(&topic, ViewQuery { prefix, after, limit }).await?))
}

/// The last event of one key of a topic.
#[utoipa::path(
    get,
    path = "/views/{topic}/{key}",
    tag = openapi::EVENTS,
    params(("topic" = String, Path, description = "The topic"), ("key" = String, Path, description = "The key")),
    responses((status = 200, body = ViewValue), ApiError)
)]
pub(super) async fn view_value(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ViewValue>, ApiError> {
    let Path((topic, key)) = path?;
    let topic = parse_topic(&topic)?;
    let found = api.node.views().value(&topic, key).await?;
    if found.event.is_some() {
        return Ok(Json(found));
    }
    let (key, info) = (&found.key, &found.info);
    let (detail, hint) = match found {
        _ if found.is_pruned => {
            (format!("the last event of '{key}' was pruned here"), "`roundelay topics` shows what is kept of a topic")
        }
        _ if !info.is_up_to_date => {
            (format!("'{key}' has no value in what was read of {topic} so far"), "ask again: the reading goes on")
        }
        _ if !info.is_subscribed => (
            format!("'{key}' has no value in {topic}, which this node does not subscribe to"),
            "`roundelay topics join` has it subscribe",
        ),
        _ => (format!("'{key}' has no value in {topic}"), "`roundelay view TOPIC` lists keys that have values"),
    };
    Err(ApiError::new(Code::NotFound, detail).with_hint(hint))
}
