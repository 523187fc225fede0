//! One node and clients of its API: how many events go in and come out, and how much later a follower has them than a
//! reader in the node's own process. Clients share the machine with the node.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use roundelay_protocol::event::Item;
use roundelay_protocol::topic::{Pattern, Topic};
use serde_json::json;

use super::load::{Load, histogram, publish_paced};
use super::{BenchError, Length, Report, Usage};
use crate::api::types::{BATCH_CONTENT_TYPE, EVENT_STREAM_CONTENT_TYPE, NDJSON_CONTENT_TYPE};
use crate::dev::{LocalMesh, LocalMeshOptions, LocalNode};
use crate::subscription::From;

/// Events of one publication when a store is filled.
const FILL_EVENTS: u64 = 512;
/// How long an event may take to a follower before the benchmark is called off.
const STALL_S: u64 = 60;
const TOPIC: &str = "bench.http";

/// What all of these benchmarks take.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Bytes of each event's data.
    pub size: usize,
    /// Where the node's home is made; the system's temporary folder without it.
    pub dir: Option<PathBuf>,
}

async fn start(options: &HttpOptions) -> Result<LocalMesh, BenchError> {
    let local = LocalMeshOptions { parent: options.dir.clone(), api: true, ..LocalMeshOptions::new(["bench"]) };
    Ok(LocalMesh::start(local).await?)
}

/// A client and the address that it begins with.
struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    fn over_socket(node: &LocalNode) -> Result<Self, BenchError> {
        let http = reqwest::Client::builder().no_proxy().unix_socket(node.home.join("api.sock")).build();
        Ok(Self { http: http.map_err(BenchError::http)?, base: "http://localhost".into(), token: None })
    }

    fn over_tcp(node: &LocalNode) -> Result<Self, BenchError> {
        let http = reqwest::Client::builder().no_proxy().build().map_err(BenchError::http)?;
        let token = std::fs::read_to_string(node.home.join("api.token")).map_err(BenchError::io("read the token"))?;
        let base = node.api.as_ref().map(|api| api.url.clone()).unwrap_or_default();
        Ok(Self { http, base, token: Some(token.trim().to_owned()) })
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, BenchError> {
        request.send().await.and_then(reqwest::Response::error_for_status).map_err(BenchError::http)
    }
}

/// Publishes batches over HTTP, several at a time.
///
/// # Errors
/// When the node cannot start or stops, or refuses.
pub async fn publish(
    options: &HttpOptions,
    length: Length,
    batch: usize,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<Report, BenchError> {
    let mesh = start(options).await?;
    let measures = format!(
        "events of {} bytes, {batch} a request, {in_flight} requests in flight, durable when they return",
        options.size
    );
    let mut report = Report::new("http-publish", measures, mesh.folder());
    let load = Load::new(options.size);
    for (key, name, client) in [
        ("socket", "socket", Client::over_socket(&mesh.nodes()[0])?),
        ("tcp", "TCP", Client::over_tcp(&mesh.nodes()[0])?),
    ] {
        post(&client, &load, Length::Seconds(1.0), batch, in_flight, &ProgressBar::hidden()).await?;
        let before = Usage::now();
        let (events, seconds, times_ns) = post(&client, &load, length, batch, in_flight, bar).await?;
        report.process = Usage::now().since(&before);
        report.add(format!("{key}_events_per_s"), format!("over {name}"), events as f64 / seconds, "events/s");
        report.add_times(&format!("{key}_request"), &format!("a request over {name}"), &times_ns);
    }
    mesh.shutdown().await;
    Ok(report)
}

async fn post(
    client: &Client,
    load: &Load,
    length: Length,
    batch: usize,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<(u64, f64, Histogram<u64>), BenchError> {
    let (mut begun, mut times_ns, start) = (0_u64, histogram(), Instant::now());
    let data = STANDARD.encode(load.data());
    let mut underway = FuturesUnordered::new();
    let is_over = |begun: u64| match length {
        Length::Events(count) => begun >= count,
        Length::Seconds(seconds) => start.elapsed().as_secs_f64() >= seconds,
    };
    loop {
        while underway.len() < in_flight && !is_over(begun) {
            let run = load.now_ns();
            let events: Vec<_> = (0..batch)
                .map(|nth| {
                    json!({"specversion": "1.0", "id": format!("{run:x}-{begun:x}-{nth:x}"), "source": "/bench",
                        "type": "bench", "data_base64": data})
                })
                .collect();
            let body = serde_json::to_vec(&events).unwrap_or_default();
            let request = client.request(reqwest::Method::POST, &format!("/v1/topics/{TOPIC}/events"));
            let request = request.header("content-type", BATCH_CONTENT_TYPE).body(body);
            underway.push(async move {
                let at = Instant::now();
                let answer = client.send(request).await?.bytes().await.map_err(BenchError::http);
                answer.map(|_| at.elapsed().as_nanos() as u64)
            });
            begun += batch as u64;
        }
        let Some(took_ns) = underway.next().await else { break };
        times_ns.saturating_record(took_ns?);
        bar.inc(batch as u64);
    }
    Ok((begun, start.elapsed().as_secs_f64(), times_ns))
}

/// Replays a store over HTTP, as lines and from disk for the most part.
///
/// # Errors
/// When the node cannot start or stops, or the replay is not whole.
pub async fn replay(options: &HttpOptions, events: u64, bar: &ProgressBar) -> Result<Report, BenchError> {
    let mesh = start(options).await?;
    let (load, topic) = (Load::new(options.size), Topic::new(TOPIC)?);
    let mut filled = 0;
    while filled < events {
        let count = FILL_EVENTS.min(events - filled);
        let run: Result<Vec<_>, _> = (0..count).map(|nth| load.event(filled + nth, load.now_ns())).collect();
        mesh[0].publish(topic.clone(), run?, 0).await?;
        filled += count;
        bar.set_position(filled * 50 / events);
    }
    let measures =
        format!("a replay of {events} events of {} bytes as lines of JSON, to a client on this machine", options.size);
    let mut report = Report::new("http-replay", measures, mesh.folder());
    let before = Usage::now();
    for (key, name, client, order) in [
        ("socket", "socket", Client::over_socket(&mesh.nodes()[0])?, "arrival"),
        ("tcp", "TCP", Client::over_tcp(&mesh.nodes()[0])?, "arrival"),
        ("time", "socket, in order of time", Client::over_socket(&mesh.nodes()[0])?, "time"),
    ] {
        let path = format!("/v1/events?topic={TOPIC}&from=start&order={order}");
        let start = Instant::now();
        let request = client.request(reqwest::Method::GET, &path).header("accept", NDJSON_CONTENT_TYPE);
        let mut chunks = client.send(request).await?.bytes_stream();
        let (mut lines, mut bytes) = (0_u64, 0_u64);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(BenchError::http)?;
            bytes += chunk.len() as u64;
            lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        if lines != events {
            return Err(BenchError::Stalled { what: format!("a whole replay ({lines} of {events})"), limit_s: 0 });
        }
        let seconds = start.elapsed().as_secs_f64();
        report.add(format!("{key}_events_per_s"), format!("over {name}"), lines as f64 / seconds, "events/s");
        report.add(format!("{key}_mb_per_s"), format!("bytes over {name}"), bytes as f64 / seconds / 1e6, "MB/s");
    }
    report.process = Usage::now().since(&before);
    let total = 3.0 * events as f64;
    report.add("cpu_us_per_event", "processor time an event", report.process.cpu_s * 1e6 / total, "µs");
    mesh.shutdown().await;
    Ok(report)
}

/// When each event, by its id, came to readers: nanoseconds since the load was made.
type Came = Arc<Mutex<HashMap<String, [u64; 2]>>>;

/// Follows over HTTP while events are published at a steady rate, and compares it with a reader in the process.
///
/// # Errors
/// When the node cannot start or stops, or an event does not come.
pub async fn follow(options: &HttpOptions, seconds: f64, rate: f64, bar: &ProgressBar) -> Result<Report, BenchError> {
    let mesh = start(options).await?;
    let measures = format!(
        "events of {} bytes at {rate} a second, to a follower by server-sent events and to a reader in the process",
        options.size
    );
    let mut report = Report::new("http-follow", measures, mesh.folder());
    let before = Usage::now();
    for (key, name, client) in [
        ("socket", "socket", Client::over_socket(&mesh.nodes()[0])?),
        ("tcp", "TCP", Client::over_tcp(&mesh.nodes()[0])?),
    ] {
        let (load, topics, came) = (Load::new(options.size), [Topic::new(TOPIC)?], Came::default());
        let inside =
            tokio::spawn(read_inside(mesh[0].subscribe(vec![Pattern::all()], From::End), load.clone(), came.clone()));
        let request = client.request(reqwest::Method::GET, &format!("/v1/events?topic={TOPIC}&from=end"));
        let response = client.send(request.header("accept", EVENT_STREAM_CONTENT_TYPE)).await?;
        let outside = tokio::spawn(read_outside(response, load.clone(), came.clone()));
        let done = publish_paced(&mesh[0], &topics, &load, seconds, rate, 64, bar).await?;
        let start = Instant::now();
        loop {
            let whole = came.lock().values().filter(|times| times.iter().all(|ns| *ns > 0)).count() as u64;
            if whole >= done.events {
                break;
            }
            if start.elapsed().as_secs() > STALL_S {
                return Err(BenchError::Stalled { what: "the delivery of every event".into(), limit_s: STALL_S });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        inside.abort();
        outside.abort();
        let (mut within, mut without, mut added) = (histogram(), histogram(), histogram());
        for (id, [inside_ns, outside_ns]) in came.lock().iter() {
            let at_ns = id.split('-').next().and_then(|at| u64::from_str_radix(at, 16).ok()).unwrap_or_default();
            within.saturating_record(inside_ns.saturating_sub(at_ns));
            without.saturating_record(outside_ns.saturating_sub(at_ns));
            added.saturating_record(outside_ns.saturating_sub(*inside_ns).max(1));
        }
        report.add_times(&format!("{key}_inside"), "publish to a reader in the process", &within);
        report.add_times(&format!("{key}_outside"), &format!("publish to a follower over {name}"), &without);
        report.add_times(&format!("{key}_added"), &format!("added over {name}"), &added);
    }
    report.process = Usage::now().since(&before);
    mesh.shutdown().await;
    Ok(report)
}

async fn read_inside(mut subscription: crate::subscription::Subscription, load: Load, came: Came) {
    while let Ok(found) = subscription.next().await {
        let now_ns = load.now_ns();
        for delivery in &found {
            for (_, item) in delivery.batch.items() {
                if let Item::Event(event) = item {
                    came.lock().entry(event.id.to_owned()).or_default()[0] = now_ns;
                }
            }
        }
    }
}

async fn read_outside(response: reqwest::Response, load: Load, came: Came) {
    let (mut chunks, mut text) = (response.bytes_stream(), Vec::new());
    while let Some(Ok(chunk)) = chunks.next().await {
        let now_ns = load.now_ns();
        text.extend_from_slice(&chunk);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let id = line.starts_with("data: ").then(|| line.split(r#""id":""#).nth(1)).flatten();
            if let Some(id) = id.and_then(|rest| rest.split('"').next()) {
                came.lock().entry(id.to_owned()).or_default()[1] = now_ns;
            }
        }
    }
}
