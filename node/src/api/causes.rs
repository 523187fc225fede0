//! What caused what, and who reacts to what: read out of the log when it is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use roundelay_protocol::choreography::Declaration;
use roundelay_protocol::choreography::flow::Flow;
use roundelay_protocol::choreography::span::parse_span_ms;
use roundelay_protocol::choreography::trace::{Line, Trace};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::topic::Pattern;
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi;
use super::picture::{self, Format, Picture};
use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, From};
use crate::choreography::{FlowReport, MAX_SCANS, Scan, ScanInfo, TraceReport};
use crate::clock::wall_ms;
use crate::log::LogError;

/// What is said below an answer in words that not all of the log was read for.
const CUT: &str = "Not all of the log was read: older events are left out.\n";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FormatParameters {
    /// In which form.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// Reads the log for an answer, where others do not have to wait for it.
async fn scan<T: Send + 'static>(
    api: &Api,
    patterns: Vec<Pattern>,
    read: impl FnOnce(&mut Scan) -> Result<T, LogError> + Send + 'static,
) -> Result<(T, ScanInfo), ApiError> {
    let busy = |_| {
        let detail =
            format!("the log is read for {MAX_SCANS} traces or flows already, which is as many as there may be");
        ApiError::new(Code::Busy, detail).with_hint("ask again in a moment")
    };
    let permit = api.scans.clone().try_acquire_owned().map_err(busy)?;
    let mut scan = Scan::new(api.node.log(), patterns);
    let read = tokio::task::spawn_blocking(move || {
        let found = read(&mut scan)?;
        drop(permit);
        Ok::<_, LogError>((found, scan.info()))
    });
    Ok(read.await.map_err(|error| ApiError::new(Code::Internal, error))??)
}

fn not_found(id: &str, scan: ScanInfo) -> ApiError {
    let detail = format!("no event on this node has '{id}' for its id or its correlation id");
    let hint = match scan.is_whole {
        true => "see `roundelay instances` for correlation ids, and `roundelay sub --json` for events with their ids",
        false => "not all of the log was read in the time that there is for that: it may be among older events",
    };
    ApiError::new(Code::NotFound, detail).with_hint(hint)
}

/// What was found, as lines of a trace.
struct Traced {
    trace: Trace,
    lines: Vec<Line>,
    correlation: Option<String>,
    scan: ScanInfo,
}

impl Picture for Traced {
    type Json = TraceReport;

    fn json(&self) -> TraceReport {
        TraceReport::new(&self.trace, &self.lines, self.correlation.clone(), self.scan)
    }

    fn text(&self) -> String {
        let mut text = self.trace.text(&self.lines);
        let (repeats, omitted) = self.trace.left_out();
        for (count, what) in [(repeats, "repeats are left out"), (omitted, "events are beyond the limit")] {
            if count > 0 {
                text.push_str(&format!("{count} {what}\n"));
            }
        }
        text + if self.scan.is_whole { "" } else { CUT }
    }

    fn mermaid(&self) -> String {
        self.trace.mermaid()
    }

    fn dot(&self) -> String {
        self.trace.dot()
    }
}

/// What caused what: the events of a correlation id, or of the one that an event has. Of an event without one, whatever
/// led to it and came of it.
#[utoipa::path(
    get,
    path = "/traces/{id}",
    tag = openapi::CHOREOGRAPHIES,
    params(("id" = String, Path, description = "A correlation id, or the id of an event"), FormatParameters),
    responses(
        (status = 200, content((TraceReport = "application/json"), (String = "text/plain"), (String = "text/vnd.mermaid"), (String = "text/vnd.graphviz"))),
        ApiError
    )
)]
pub(super) async fn trace(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    parameters: Result<Query<FormatParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (Path(id), Query(FormatParameters { format })) = (id?, parameters?);
    let wanted = id.clone();
    let (found, info) = scan(&api, vec![Pattern::all()], move |scan| scan.trace_of(&wanted)).await?;
    let found = found.ok_or_else(|| not_found(&id, info))?;
    let (lines, correlation) = (found.trace.forest(), found.correlation);
    Ok(picture::respond(format, &Traced { trace: found.trace, lines, correlation, scan: info }))
}

/// Why an event is: everything that led to it, the nearest first.
#[utoipa::path(
    get,
    path = "/why/{id}",
    tag = openapi::CHOREOGRAPHIES,
    params(("id" = String, Path, description = "The id of an event"), FormatParameters),
    responses(
        (status = 200, content((TraceReport = "application/json"), (String = "text/plain"), (String = "text/vnd.mermaid"), (String = "text/vnd.graphviz"))),
        ApiError
    )
)]
pub(super) async fn why(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    parameters: Result<Query<FormatParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (Path(id), Query(FormatParameters { format })) = (id?, parameters?);
    let wanted = id.clone();
    let (trace, info) = scan(&api, vec![Pattern::all()], move |scan| scan.why(&wanted)).await?;
    let trace = trace.ok_or_else(|| not_found(&id, info))?;
    let lines = trace.why(&id);
    Ok(picture::respond(format, &Traced { trace, lines, correlation: None, scan: info }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FlowParameters {
    /// Only events of the last `30s`, `1h30m` or `7d`, or from a time in RFC 3339 on; of all time without it.
    since: Option<String>,
    /// Only events of this choreography, and how they differ from what its latest version declares.
    choreography: Option<String>,
    /// In which form.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

struct Flowing {
    flow: Flow,
    declaration: Option<Arc<Declaration>>,
    scan: ScanInfo,
}

impl Picture for Flowing {
    type Json = FlowReport;

    fn json(&self) -> FlowReport {
        FlowReport::new(&self.flow, self.declaration.as_ref(), self.scan)
    }

    fn text(&self) -> String {
        let mut text = self.flow.text();
        if let Some(declaration) = &self.declaration {
            let difference = self.flow.compare(declaration);
            for ((from, to), count) in &difference.undeclared {
                text.push_str(&format!("not declared: {from} -> {to}: {count}\n"));
            }
            for (from, to) in &difference.unseen {
                text.push_str(&format!("not seen: {from} -> {to}\n"));
            }
            if !difference.absent.is_empty() {
                let absent = Vec::from_iter(difference.absent).join(", ");
                text.push_str(&format!("without an event: {absent}\n"));
            }
        }
        text + if self.scan.is_whole { "" } else { CUT }
    }

    fn mermaid(&self) -> String {
        self.flow.mermaid()
    }

    fn dot(&self) -> String {
        self.flow.dot()
    }
}

/// Who reacts to what: how often, and how fast.
#[utoipa::path(
    get,
    path = "/flow",
    tag = openapi::CHOREOGRAPHIES,
    params(FlowParameters),
    responses(
        (status = 200, content((FlowReport = "application/json"), (String = "text/plain"), (String = "text/vnd.mermaid"), (String = "text/vnd.graphviz"))),
        ApiError
    )
)]
pub(super) async fn flow(
    State(api): State<Api>,
    parameters: Result<Query<FlowParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(FlowParameters { since, choreography, format }) = parameters?;
    let since = since.as_deref().map_or(Ok(Hlc(0)), read_since)?;
    let (mut patterns, mut kinds, mut declaration) = (vec![Pattern::all()], None, None);
    if let Some(name) = &choreography {
        let observer = api.node.observer();
        let known = observer.declared(name)?;
        patterns = observer.topics(name);
        let all = known.versions.declarations().flat_map(|version| version.events().keys().cloned());
        kinds = Some(all.collect::<BTreeSet<String>>());
        declaration = Some(known.latest);
    }
    let of = declaration.clone();
    let read = move |scan: &mut Scan| {
        let events = scan.since(since, kinds.as_ref())?;
        Ok(Flow::of(&events, of.as_deref()))
    };
    let (flow, info) = scan(&api, patterns, read).await?;
    Ok(picture::respond(format, &Flowing { flow, declaration, scan: info }))
}

/// A span before now, or a time.
fn read_since(text: &str) -> Result<Hlc, ApiError> {
    if let Some(span_ms) = parse_span_ms(text) {
        return Ok(Hlc::from_ms(wall_ms().saturating_sub(span_ms)));
    }
    match text.parse() {
        Ok(From::TimeMs(ms)) => Ok(Hlc::from_ms(ms)),
        _ => {
            let detail = format!("since: '{text}' is no span of time and no time");
            Err(ApiError::new(Code::BadRequest, detail).with_hint("write 30s, 1h30m, 7d, or 2026-01-31T09:00:00Z"))
        }
    }
}
