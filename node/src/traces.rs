//! Spans for OpenTelemetry: what becomes of a publication, under the trace of whoever published it.
//!
//! Spans are exported when `OTEL_EXPORTER_OTLP_ENDPOINT`, or the one for traces, names a collector, over HTTP as
//! protobuf. Otherwise nobody listens to them, and making one costs a comparison. The other `OTEL_` variables (service
//! name, resource attributes, sampler, headers, batching) mean what the OpenTelemetry specification says.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use roundelay_protocol::event::{Event, Value};
use roundelay_protocol::limits::MAX_EXTENSIONS;
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// What the spans of this module have as their target, so that nothing else is exported.
const TARGET: &str = "roundelay::traces";
/// Either of them switches traces on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// How long an export may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the last spans may take to get out when the node stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Traces were asked for and cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The collector cannot be talked to like this.
    #[error(
        "{variable}='{endpoint}': spans are sent over HTTP without TLS: give an address such as http://127.0.0.1:4318"
    )]
    Endpoint {
        /// The variable.
        variable: &'static str,
        /// What it says.
        endpoint: String,
    },
    /// Another setting cannot be used.
    #[error("traces cannot be exported: {0}; look at the OTEL_ variables")]
    Setup(String),
}

/// Where spans go. Ends with [`Exporter::finish`].
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Sets up the export that the environment asks for; `None` if it asks for none. To be called on a runtime, which
    /// the export goes on using.
    ///
    /// # Errors
    /// When it asks for something that cannot be done.
    pub fn start() -> Result<Option<Self>, TracesError> {
        let set = |variable: &'static str| Some((variable, std::env::var(variable).ok().filter(|it| !it.is_empty())?));
        let Some((variable, endpoint)) = ENDPOINTS.into_iter().find_map(set) else { return Ok(None) };
        if !endpoint.starts_with("http://") {
            return Err(TracesError::Endpoint { variable, endpoint });
        }
        let setup = |error: &dyn fmt::Display| TracesError::Setup(error.to_string());
        let client = reqwest::Client::builder().timeout(EXPORT_LIMIT).build().map_err(|error| setup(&error))?;
        let collector = Collector {
            client,
            runtime: tokio::runtime::Handle::current(),
            endpoint,
            failing: Arc::new(AtomicBool::new(false)),
        };
        let exporter = SpanExporter::builder().with_http().with_http_client(collector).build();
        let exporter = exporter.map_err(|error| setup(&error))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("roundelay");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Some(Self(provider.build())))
    }

    /// What takes spans from `tracing`.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    {
        let layer: OpenTelemetryLayer<S, Tracer> =
            tracing_opentelemetry::layer().with_tracer(self.0.tracer("roundelay"));
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_target(false);
        layer.with_filter(FilterFn::new(|span| span.is_span() && span.target() == TARGET))
    }

    /// Sends what is left.
    pub async fn finish(self) {
        // It waits for a thread of its own, which needs this runtime.
        let done = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FAREWELL)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Sends exports through the HTTP client that the command line uses, too.
#[derive(Debug)]
struct Collector {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
    endpoint: String,
    failing: Arc<AtomicBool>,
}

impl Collector {
    /// Told once, and once more when it works again: there is an export every few seconds.
    fn tell(endpoint: &str, failing: &AtomicBool, failure: Option<&str>) {
        let failed_before = failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !failed_before => {
                tracing::warn!(%endpoint, %error, "spans cannot be exported and are dropped until they can");
            }
            None if failed_before => tracing::info!(%endpoint, "spans are exported again"),
            _ => {}
        }
    }
}

impl HttpClient for Collector {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let (client, endpoint, failing) = (self.client.clone(), self.endpoint.clone(), self.failing.clone());
        // The exporter's thread has no runtime.
        let sent = self.runtime.spawn(async move {
            let sent = send(client, request).await;
            let failure = match &sent {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => Some(format!("it answers {}", response.status())),
                Err(error) => Some(error.to_string()),
            };
            Self::tell(&endpoint, &failing, failure.as_deref());
            sent
        });
        Box::pin(async move { sent.await? })
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let response = client.execute(request.try_into()?).await?;
    let status = response.status();
    let mut answer = Response::new(response.bytes().await?);
    *answer.status_mut() = status;
    Ok(answer)
}

/// Where a trace comes from: the headers of W3C Trace Context, which are the attributes of CloudEvents' extension for
/// distributed tracing, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// `00-TRACE-PARENT-FLAGS`.
    pub traceparent: String,
    /// What vendors add; empty if nothing.
    pub tracestate: String,
}

/// The headers, and the attributes.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// What a `tracestate` may have; longer ones are left out, as the specification allows.
const MAX_TRACESTATE_BYTES: usize = 512;

impl TraceContext {
    /// Takes the headers. `None` when there is no `traceparent`, or it is none: a trace that cannot be understood
    /// begins anew.
    #[must_use]
    pub fn from_headers(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<Self> {
        let traceparent = traceparent.filter(|text| is_traceparent(text))?.to_owned();
        let tracestate = tracestate.filter(|text| text.len() <= MAX_TRACESTATE_BYTES).unwrap_or_default().to_owned();
        Some(Self { traceparent, tracestate })
    }

    /// Lets an event carry the trace on, unless it brings one itself. It names the service that published it, as the
    /// extension wants, and none of the nodes on its way. An event without room for that goes without.
    pub fn mark(&self, event: &mut Event) {
        let brings_one = event.extensions.iter().any(|(name, _)| name == TRACEPARENT);
        if brings_one || event.extensions.len() + 2 > MAX_EXTENSIONS {
            return;
        }
        event.extensions.retain(|(name, _)| name != TRACESTATE);
        event.extensions.push((TRACEPARENT.to_owned(), Value::Text(self.traceparent.clone())));
        if !self.tracestate.is_empty() {
            event.extensions.push((TRACESTATE.to_owned(), Value::Text(self.tracestate.clone())));
        }
    }
}

fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    let [version, trace, parent, flags, rest @ ..] = parts.as_slice() else { return false };
    // Later versions may add parts, and this one must not.
    let known = hex(version, 2) && *version != "ff" && (rest.is_empty() || *version != "00");
    let named = |id: &str| id.bytes().any(|byte| byte != b'0');
    known && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && named(trace) && named(parent)
}

/// The span of a publication that a service handed in, under the service's own.
#[must_use]
pub fn publish_span(topic: &str, context: Option<&TraceContext>) -> Span {
    let span = tracing::info_span!(
        target: TARGET, parent: None, "publish",
        otel.kind = "producer", messaging.system = "roundelay", messaging.operation.name = "publish",
        messaging.destination.name = topic,
    );
    if let Some(context) = context.filter(|_| !span.is_disabled()) {
        let mut headers = HashMap::from([(TRACEPARENT.to_owned(), context.traceparent.clone())]);
        if !context.tracestate.is_empty() {
            headers.insert(TRACESTATE.to_owned(), context.tracestate.clone());
        }
        // A span that was just made takes a parent.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
    }
    span
}

/// The part of the span that is current now in which events are read and checked.
#[must_use]
pub fn receive_span() -> Span {
    tracing::info_span!(target: TARGET, "receive")
}

/// The stages of a publication inside the node.
pub(crate) struct Stages {
    publication: Span,
    current: Span,
}

impl Stages {
    /// It was handed to the engine, under the span that is current.
    pub(crate) fn begin() -> Self {
        let current = tracing::info_span!(target: TARGET, "store");
        let publication = if current.is_disabled() { Span::none() } else { Span::current() };
        Self { publication, current }
    }

    /// It is durable here, and waits for peers.
    pub(crate) fn stored(&mut self, acks: u32) {
        if !self.current.is_disabled() {
            self.current = tracing::info_span!(target: TARGET, parent: &self.publication, "acknowledge", acks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_when_it_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let taken = TraceContext::from_headers(Some(good), Some("a=1"));
        assert_eq!(taken, Some(TraceContext { traceparent: good.to_owned(), tracestate: "a=1".to_owned() }));
        assert!(is_traceparent("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
        let long = "a".repeat(MAX_TRACESTATE_BYTES + 1);
        let taken = TraceContext::from_headers(Some(good), Some(&long)).unwrap();
        assert_eq!(taken.tracestate, "");
    }
}
