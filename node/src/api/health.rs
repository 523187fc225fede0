//! What those who watch a node ask it: is it alive, is it ready, and what does it measure.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};

use super::openapi;
use super::problem::{self, ApiError};
use super::server::Api;
use super::types::{Code, Liveness};
use crate::metrics::{Format, HttpMeters};
use crate::status::{Readiness, ReadinessCheck};

/// Whether the process should go on.
///
/// A node whose store failed ends by itself, so whoever gets an answer at all gets this one.
#[utoipa::path(get, path = "/livez", tag = openapi::WATCH, responses((status = 200, body = Liveness), ApiError))]
pub(super) async fn livez() -> Json<Liveness> {
    Json(Liveness { live: true })
}

/// Whether the node can be used: its store is open, it listens, and its engine answers in time.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = openapi::WATCH,
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "It cannot, and why", body = Readiness),
        ApiError
    )
)]
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let mut readiness = api.node.readiness().await;
    if api.closing.is_cancelled() {
        let detail = Some("the node is stopping".to_owned());
        readiness.checks.push(ReadinessCheck { name: "running".to_owned(), ok: false, detail });
        readiness.ready = false;
    }
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

/// Everything that the node counts and measures, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = openapi::WATCH,
    responses(
        (status = 200, description = "Prometheus' text format, or OpenMetrics for those who accept it",
            content((String = "text/plain"), (String = "application/openmetrics-text"))),
        ApiError
    )
)]
pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Result<Response, ApiError> {
    let format = Format::wanted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    let text = api.node.scrape(format).await?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}

/// Has all requests to a router counted, those that its own layers refuse, too.
pub(super) fn counted(router: Router, meters: HttpMeters) -> Router {
    router.layer(middleware::from_fn_with_state(meters, count))
}

/// Counts requests by their route, which is one of those that the server has, so that nobody can make up series.
async fn count(State(meters): State<HttpMeters>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = name_of(request.method());
    let response = next.run(request).await;
    meters.answered(
        route.as_ref().map_or("none", MatchedPath::as_str),
        method,
        response.status().as_u16(),
        began.elapsed(),
    );
    if let Some(code) = response.extensions().get::<Code>() {
        meters.problem(&problem::name_of(*code));
    }
    response
}

fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
