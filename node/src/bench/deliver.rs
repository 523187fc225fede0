//! Several nodes: how many events reach a reader at every one of them, durable there, and how long that takes.

use std::path::PathBuf;

use futures::future::{join_all, try_join_all};
use indicatif::ProgressBar;
use roundelay_protocol::topic::Topic;

use super::load::{Load, Reader, histogram, publish, publish_paced};
use super::{BenchError, Length, Report, Usage};
use crate::dev::{LocalMesh, LocalMeshOptions};

/// Seconds of the warm-up.
const WARM_UP_S: f64 = 1.0;

/// What to measure.
#[derive(Debug, Clone)]
pub struct DeliverOptions {
    /// Bytes of each event's data.
    pub size: usize,
    /// Nodes in the mesh.
    pub nodes: usize,
    /// How many of them publish.
    pub publishers: usize,
    /// Publishes under way at once, at each publisher.
    pub in_flight: usize,
    /// Topics that are published to in turn.
    pub topics: usize,
    /// Events a second from all publishers together; as fast as it goes without it.
    pub rate: Option<f64>,
    /// How long. With a rate, seconds.
    pub length: Length,
    /// Where the homes are made; the system's temporary folder without it.
    pub dir: Option<PathBuf>,
}

/// Publishes on some nodes and reads on all.
///
/// # Errors
/// When a node cannot start or stops, or an event does not arrive.
pub async fn run(options: &DeliverOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let names = (1..=options.nodes).map(|nth| format!("node-{nth}"));
    let mesh =
        LocalMesh::start(LocalMeshOptions { parent: options.dir.clone(), ..LocalMeshOptions::new(names) }).await?;
    let report = measure(&mesh, options, bar).await;
    mesh.shutdown().await;
    report
}

async fn measure(mesh: &LocalMesh, options: &DeliverOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let load = Load::new(options.size);
    let names = (0..options.topics.max(1)).map(|nth| Topic::new(&format!("bench.deliver.{nth}")));
    let topics = names.collect::<Result<Vec<_>, _>>()?;
    let readers: Vec<_> = mesh.nodes().iter().map(|node| Reader::start(&node.node, load.clone())).collect();

    // Every topic is known everywhere, and its gossip mesh formed, before anything is measured.
    let mut total = 0;
    if topics.len() > 1 {
        let each = Length::Events(topics.len() as u64);
        total += publish(&mesh[0], &topics, &load, each, options.in_flight, &ProgressBar::hidden()).await?.events;
        try_join_all(readers.iter().map(|reader| reader.until(total))).await?;
    }
    let warm_up = DeliverOptions { length: Length::Seconds(WARM_UP_S), ..options.clone() };
    total += load_mesh(mesh, &topics, &load, &warm_up, &ProgressBar::hidden()).await?.0;
    try_join_all(readers.iter().map(|reader| reader.until(total))).await?;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    readers.iter().for_each(Reader::reset);

    let mut report = Report::new("deliver", describe(options), mesh.folder());
    let (before, sent_before, start_ns) = (Usage::now(), bytes_out(mesh), load.now_ns());
    let (events, published_s) = load_mesh(mesh, &topics, &load, options, bar).await?;
    let read_then = readers.iter().map(Reader::events).min().unwrap_or_default();
    total += events;
    let last_ns = try_join_all(readers.iter().map(|reader| reader.until(total))).await?;
    let seconds = (last_ns.into_iter().max().unwrap_or_default() - start_ns) as f64 / 1e9;

    report.process = Usage::now().since(&before);
    report.add("events", "published, and read at every node", events as f64, "events");
    report.add("events_per_s", "until the last node had read all", events as f64 / seconds, "events/s");
    report.add("published_per_s", "acknowledged to publishers", events as f64 / published_s, "events/s");
    report.add("behind_events", "not yet read when publishing ended", (total - read_then) as f64, "events");
    report.add("behind_ms", "read how long after publishing ended", (seconds - published_s).max(0.0) * 1e3, "ms");
    let mut times_ns = histogram();
    // Those that publish deliver to themselves first; the others are what is measured, if there are any.
    let others = if options.publishers < readers.len() { options.publishers } else { 0 };
    for reader in &readers[others..] {
        times_ns.add(reader.times_ns()).unwrap_or_else(|_| unreachable!("both have the same bounds"));
    }
    report.add_times("delivery", "publish to delivery elsewhere", &times_ns);
    let sent = bytes_out(mesh);
    report.add("gossip_mb", "gossip published, once a message", (sent.0 - sent_before.0) as f64 / 1e6, "MB");
    report.add("sync_mb", "reconciliation sent, all links", (sent.1 - sent_before.1) as f64 / 1e6, "MB");
    let deliveries = events as f64 * readers.len() as f64;
    report.add("cpu_us_per_delivery", "processor time a delivery", report.process.cpu_s * 1e6 / deliveries, "µs");
    Ok(report)
}

/// Publishes on all publishers. Returns the number of events and the seconds until the last was acknowledged.
async fn load_mesh(
    mesh: &LocalMesh,
    topics: &[Topic],
    load: &Load,
    options: &DeliverOptions,
    bar: &ProgressBar,
) -> Result<(u64, f64), BenchError> {
    let publishers = options.publishers.clamp(1, mesh.nodes().len());
    let each = |nth: usize| async move {
        let hidden = ProgressBar::hidden();
        let bar = if nth == 0 { bar } else { &hidden };
        let node = &mesh[nth];
        match (options.rate, options.length) {
            (None, Length::Events(count)) => {
                let length = Length::Events(count / publishers as u64);
                publish(node, topics, load, length, options.in_flight, bar).await
            }
            (None, length) => publish(node, topics, load, length, options.in_flight, bar).await,
            (Some(rate), length) => {
                let seconds = match length {
                    Length::Seconds(seconds) => seconds,
                    Length::Events(count) => count as f64 / rate,
                };
                publish_paced(node, topics, load, seconds, rate / publishers as f64, options.in_flight, bar).await
            }
        }
    };
    let (mut events, mut seconds) = (0, 0.0_f64);
    for done in join_all((0..publishers).map(each)).await {
        let done = done?;
        events += done.events;
        seconds = seconds.max(done.seconds);
    }
    Ok((events, seconds))
}

fn describe(options: &DeliverOptions) -> String {
    let DeliverOptions { size, nodes, publishers, in_flight, topics, rate, .. } = options;
    let pace = rate.map_or(format!("{in_flight} in flight each"), |rate| format!("{rate} events/s"));
    format!(
        "{nodes} nodes, {publishers} publishing, {pace}, events of {size} bytes in {topics} topics; delivered is durable there and read"
    )
}

/// Bytes of gossip and of reconciliation that all nodes have sent.
pub(super) fn bytes_out(mesh: &LocalMesh) -> (u64, u64) {
    let counters = mesh.nodes().iter().map(|node| node.node.mesh_counters());
    counters.fold((0, 0), |sum, node| (sum.0 + node.gossip_bytes_out, sum.1 + node.sync_bytes_out))
}
