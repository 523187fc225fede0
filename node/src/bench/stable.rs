//! What is stable: how long after its publication it is known at another node that nothing earlier can come any more, and
//! what the heartbeats cost.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use roundelay_protocol::event::Event;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, Pattern, Topic};

use super::load::histogram;
use super::{BenchError, Report, Usage};
use crate::clock::wall_ms;
use crate::dev::{LocalMesh, LocalMeshOptions};
use crate::stability::StabilityError;

/// How often it is asked what is stable.
const LOOK: Duration = Duration::from_millis(2);
/// How long it may take until all is.
const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "bench.stable";
/// Batches and bytes that one read of the log brings.
const READ_BATCHES: usize = 10_000;
const READ_BYTES: usize = 16 * 1024 * 1024;

/// What to measure.
#[derive(Debug, Clone)]
pub struct StableOptions {
    /// Nodes of the mesh, at least two.
    pub nodes: usize,
    /// Between two heartbeats of each.
    pub heartbeat: Duration,
    /// Events to publish, one after the other.
    pub count: u64,
    /// Events a second.
    pub rate: f64,
    /// Where the nodes' homes are made; the system's temporary folder without it.
    pub dir: Option<PathBuf>,
}

/// Publishes events at one node and asks the last one what is stable.
///
/// # Errors
/// When a node cannot start, stops, or never knows that all is stable.
pub async fn run(options: &StableOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let names = (0..options.nodes.max(2)).map(|nth| format!("bench-{nth}"));
    let (parent, heartbeat) = (options.dir.clone(), options.heartbeat);
    let mesh = LocalMesh::start(LocalMeshOptions { parent, heartbeat, ..LocalMeshOptions::new(names) }).await?;
    let measures = format!(
        "{} events, {} a second, published at one of {} nodes that give a heartbeat every {} ms; when the last node knows \
         that nothing earlier can come",
        options.count,
        options.rate,
        mesh.nodes().len(),
        heartbeat.as_millis()
    );
    let mut report = Report::new("stable", measures, mesh.folder());
    let before = Usage::now();
    let measured = measure(&mesh, options, bar, &mut report).await;
    report.process = Usage::now().since(&before);
    mesh.shutdown().await;
    measured.map(|()| report)
}

async fn measure(
    mesh: &LocalMesh,
    options: &StableOptions,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), BenchError> {
    let (topic, last) = (Topic::new(TOPIC)?, &mesh[mesh.nodes().len() - 1]);
    let (mut times_ns, mut waiting) = (histogram(), VecDeque::new());
    let (mut published, start) = (0, Instant::now());
    bar.set_length(options.count);
    while times_ns.len() < options.count {
        let due = start + Duration::from_secs_f64(published as f64 / options.rate);
        if published < options.count && Instant::now() >= due {
            let event =
                Event { kind: "bench".into(), id: published.to_string(), source: "/bench".into(), ..Event::default() };
            mesh[0].publish(topic.clone(), vec![event.encode()?], 0).await?;
            waiting.push_back((wall_ms(), Instant::now()));
            published += 1;
        }
        let stability = last.stability(vec![Pattern::of(&topic)]).await.map_err(|error| match error {
            StabilityError::Log(error) => BenchError::Log(error),
            StabilityError::Call(error) => BenchError::Call(error),
            error => BenchError::Stability(error.to_string()),
        })?;
        while waiting.front().is_some_and(|(stamped_ms, _)| *stamped_ms < stability.stable_ms)
            && let Some((_, since)) = waiting.pop_front()
        {
            times_ns.saturating_record(since.elapsed().as_nanos() as u64);
            bar.inc(1);
        }
        if waiting.front().is_some_and(|(_, since)| since.elapsed() > LIMIT) {
            return Err(BenchError::Stalled { what: "that an event is stable".to_owned(), limit_s: LIMIT.as_secs() });
        }
        tokio::time::sleep(LOOK).await;
    }
    report.add_times("stable", "from published to known to be stable", &times_ns);
    let beats = last.log().scan_topic(
        &|topic: &Topic| topic.as_str() == HEARTBEATS_TOPIC,
        Arrival(0),
        READ_BATCHES,
        READ_BYTES,
    )?;
    let bytes: usize = beats.batches.iter().map(|(_, batch)| batch.bytes().len()).sum();
    report.add("heartbeat_bytes", "a heartbeat, as a batch", bytes as f64 / beats.batches.len().max(1) as f64, "bytes");
    Ok(())
}
