//! The log as a whole: out, in, checked and copied.

use std::collections::BTreeSet;
use std::path::PathBuf;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::topic::{Pattern, Topic};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::events::{self, Asked, Order};
use super::lines::{Lines, LinesError};
use super::openapi;
use super::outflow::Form;
use super::peers::parse_pattern;
use super::problem::ApiError;
use super::publish::parse_topic;
use super::server::Api;
use super::types::{BackedUp, BackupRequest, Code, Compacted, From, Imported, NDJSON_CONTENT_TYPE, VerifyLine};
use crate::cloudevents::{CloudEventError, Reading, read_event};
use crate::filter::Filter;
use crate::log;
use crate::node::CallError;

/// Events of one topic that an import publishes at once, and bytes of them.
const RUN_EVENTS: usize = 512;
const RUN_BYTES: usize = 256 * 1024;
/// Publications of an import that are underway at once.
const MAX_RUNS: usize = 32;
/// Bytes of the rest of a refused import that are read, so that whoever sends them gets to read the answer.
const MAX_DRAIN_BYTES: usize = 1 << 30;
/// Lines of a verification that wait to be read.
const VERIFY_LINES: usize = 16;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportParameters {
    /// A topic or a pattern; everything without it.
    topic: Option<String>,
}

/// Every event that the node holds, or those of the topics that match a pattern, one CloudEvent a line.
#[utoipa::path(
    get,
    path = "/log/export",
    tag = openapi::LOG,
    params(ExportParameters),
    responses(
        (status = 200, description = "An event a line", body = openapi::CloudEvent, content_type = "application/x-ndjson"),
        ApiError
    )
)]
pub(super) async fn export(
    State(api): State<Api>,
    parameters: Result<Query<ExportParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ExportParameters { topic }) = parameters?;
    let pattern = topic.as_deref().map_or_else(|| Ok(Pattern::all()), parse_pattern)?;
    let asked = Asked {
        patterns: vec![pattern],
        from: From::Start,
        to: None,
        filter: Filter::default(),
        limit: u64::MAX,
        follow: None,
        order: Order::Arrival,
    };
    events::respond(&api, asked, Form::Lines { with_gaps: false })
}

/// Publishes events again that were exported, each to its `rdltopic`, under the node's own name.
#[utoipa::path(
    post,
    path = "/log/import",
    tag = openapi::LOG,
    request_body(content = openapi::CloudEvent, content_type = "application/x-ndjson", description = "An event a line"),
    responses((status = 200, body = Imported), ApiError)
)]
pub(super) async fn import(State(api): State<Api>, body: Body) -> Result<Json<Imported>, ApiError> {
    let mut lines = Lines::new(body.into_data_stream());
    let mut import = Import::new(api);
    let error = match import.take_all(&mut lines).await {
        Ok(()) => match import.finish().await {
            Ok(imported) => return Ok(Json(imported)),
            Err(error) => error,
        },
        Err(error) => {
            // What came before is published; the line in question is the problem to tell of.
            let _ = import.finish().await;
            error
        }
    };
    let mut drained = 0;
    while let Some(Ok(line)) = lines.next().await
        && drained < MAX_DRAIN_BYTES
    {
        drained += line.len();
    }
    Err(error.with_hint("what came before it is published: leave it out of the next try"))
}

/// Publishes events again. Runs of one topic go together, and are begun in the order of the lines.
struct Import {
    api: Api,
    topic: Option<Topic>,
    run: Vec<EncodedEvent>,
    run_bytes: usize,
    underway: FuturesOrdered<futures::future::BoxFuture<'static, Result<u64, CallError>>>,
    topics: BTreeSet<Topic>,
    published: u64,
}

impl Import {
    fn new(api: Api) -> Self {
        let (underway, topics) = (FuturesOrdered::new(), BTreeSet::new());
        Self { api, topic: None, run: Vec::new(), run_bytes: 0, underway, topics, published: 0 }
    }

    async fn take_all<S>(&mut self, lines: &mut Lines<S>) -> Result<(), ApiError>
    where
        S: Stream<Item = Result<Bytes, axum::Error>> + Unpin,
    {
        let mut number = 0_u64;
        while let Some(line) = lines.next().await {
            number += 1;
            let line = line.map_err(|error| match error {
                LinesError::Input(error) => ApiError::new(Code::BadRequest, error),
                LinesError::TooLong => ApiError::new(Code::EventTooLarge, "the line is too long for an event"),
            });
            let place = |error: ApiError| error.at(format_args!("event {number} of the import"));
            let (topic, event) = line.and_then(|line| parse_line(&line)).map_err(place)?;
            self.take(topic, event).await?;
        }
        Ok(())
    }

    async fn take(&mut self, topic: Topic, event: EncodedEvent) -> Result<(), ApiError> {
        let fits = self.run.len() < RUN_EVENTS && self.run_bytes + event.item_bytes() <= RUN_BYTES;
        if !fits || self.topic.as_ref() != Some(&topic) {
            self.publish_run().await?;
            self.topic = Some(topic);
        }
        self.run_bytes += event.item_bytes();
        self.run.push(event);
        Ok(())
    }

    async fn publish_run(&mut self) -> Result<(), ApiError> {
        let Some(topic) = self.topic.take() else { return Ok(()) };
        let events = std::mem::take(&mut self.run);
        self.run_bytes = 0;
        let node = self.api.node.clone();
        self.topics.insert(topic.clone());
        self.underway.push_back(Box::pin(async move {
            let receipt = node.publish(topic, events, 0).await?;
            Ok(receipt.places.iter().filter(|place| !place.duplicate).count() as u64)
        }));
        while self.underway.len() >= MAX_RUNS {
            self.settle_one().await?;
        }
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), ApiError> {
        if let Some(settled) = self.underway.next().await {
            self.published += settled?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<Imported, ApiError> {
        self.publish_run().await?;
        while !self.underway.is_empty() {
            self.settle_one().await?;
        }
        Ok(Imported { events: self.published, topics: self.topics.len() as u64 })
    }
}

pub(super) fn parse_line(line: &[u8]) -> Result<(Topic, EncodedEvent), ApiError> {
    let object = serde_json::from_slice(line).map_err(|error| CloudEventError::Json(error.to_string()))?;
    let incoming = read_event(&object, Reading::Again)?;
    let topic = parse_topic(&incoming.topic.ok_or(CloudEventError::Missing("rdltopic"))?)?;
    if topic.is_system() {
        return Err(CallError::SystemTopic(topic).into());
    }
    Ok((topic, incoming.event.encode()?))
}

/// Checks every hash, link and signature of the log.
#[utoipa::path(
    post,
    path = "/log/verify",
    tag = openapi::LOG,
    responses(
        (status = 200, description = "Progress, then one report, a line each", body = VerifyLine, content_type = "application/x-ndjson"),
        ApiError
    )
)]
pub(super) async fn verify(State(api): State<Api>) -> Result<Response, ApiError> {
    let busy = |_| ApiError::new(Code::Busy, "another verification runs: wait until it has ended");
    let permit = api.verifying.clone().try_acquire_owned().map_err(busy)?;
    let (sender, lines) = mpsc::channel(VERIFY_LINES);
    let reader = api.node.log();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        // Nobody has to read every progress.
        let progress = |done, total| drop(sender.try_send(VerifyLine::Progress { done, total }));
        let line = match log::verify(&reader, progress) {
            Ok(report) => VerifyLine::Report(report.into()),
            Err(error) => VerifyLine::Failed(*ApiError::from(error).0),
        };
        // Whoever asked may have gone.
        let _ = sender.blocking_send(line);
    });
    let lines = ReceiverStream::new(lines).map(|line| {
        serde_json::to_vec(&line).map(|mut json| {
            json.push(b'\n');
            Bytes::from(json)
        })
    });
    Ok(([(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE)], Body::from_stream(lines)).into_response())
}

/// Copies the store into a file on the node's machine that does not exist yet.
#[utoipa::path(
    post,
    path = "/log/backup",
    tag = openapi::LOG,
    request_body = BackupRequest,
    responses((status = 200, body = BackedUp), ApiError)
)]
pub(super) async fn backup(
    State(api): State<Api>,
    body: Result<Json<BackupRequest>, JsonRejection>,
) -> Result<Json<BackedUp>, ApiError> {
    let Json(BackupRequest { file }) = body?;
    let path = PathBuf::from(&file);
    if !path.is_absolute() {
        let detail = format!("'{file}' is no absolute path: the node has a working folder of its own");
        return Err(ApiError::new(Code::BadRequest, detail));
    }
    let reader = api.node.log();
    let report = tokio::task::spawn_blocking(move || match path.symlink_metadata() {
        Ok(_) => {
            let detail = format!("{} exists, and a backup replaces nothing: choose another name", path.display());
            Err(ApiError::new(Code::FileExists, detail))
        }
        Err(_) => Ok(log::backup(&reader, &path)?),
    });
    let report = report.await.map_err(|error| ApiError::new(Code::Internal, error))??;
    Ok(Json(BackedUp { file, bytes: report.bytes, last_arrival: report.last_arrival.0 }))
}

/// Rewrites the store into a fresh one, so that the space of what was pruned comes back. The node goes on meanwhile.
#[utoipa::path(
    post,
    path = "/log/compact",
    tag = openapi::LOG,
    responses((status = 200, body = Compacted), ApiError)
)]
pub(super) async fn compact(State(api): State<Api>) -> Result<Json<Compacted>, ApiError> {
    Ok(Json(api.node.rewrite_log().await?.into()))
}
