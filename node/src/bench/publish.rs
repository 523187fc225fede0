//! One node and its disk: how many events it makes durable, and how long one takes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;

use super::load::{Load, histogram, publish};
use super::{BenchError, Length, Report, Usage};
use crate::dev::{LocalMesh, LocalMeshOptions};

/// Events of the warm-up with one in flight, and of each turn of the comparison with a bare append.
const TURN: u64 = 100;

/// What to measure.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// Bytes of each event's data.
    pub size: usize,
    /// Calls under way at once. With one, single publishes are compared to bare appends.
    pub in_flight: usize,
    /// How long.
    pub length: Length,
    /// Where the node's home is made; the system's temporary folder without it.
    pub dir: Option<PathBuf>,
}

/// Publishes on one node that has no peers.
///
/// # Errors
/// When the node cannot start or stops.
pub async fn run(options: &PublishOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let mesh =
        LocalMesh::start(LocalMeshOptions { parent: options.dir.clone(), ..LocalMeshOptions::new(["bench"]) }).await?;
    let report =
        if options.in_flight == 1 { one_at_a_time(&mesh, options, bar).await } else { many(&mesh, options, bar).await };
    mesh.shutdown().await;
    report
}

async fn many(mesh: &LocalMesh, options: &PublishOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let PublishOptions { size, in_flight, length, .. } = options;
    let (load, topics) = (Load::new(*size), [Topic::new("bench.publish")?]);
    publish(&mesh[0], &topics, &load, Length::Seconds(1.0), *in_flight, &ProgressBar::hidden()).await?;

    let measures = format!("events of {size} bytes, {in_flight} single publishes in flight, durable when they return");
    let mut report = Report::new("publish", measures, mesh.folder());
    let before = Usage::now();
    let done = publish(&mesh[0], &topics, &load, *length, *in_flight, bar).await?;
    report.process = Usage::now().since(&before);
    report.add("events", "published", done.events as f64, "events");
    report.add("events_per_s", "rate", done.events as f64 / done.seconds, "events/s");
    report.add("data_mb_per_s", "data", (done.events * *size as u64) as f64 / done.seconds / 1e6, "MB/s");
    report.add_times("publish", "a publish", &done.times_ns);
    report.add("cpu_us_per_event", "processor time an event", report.process.cpu_s * 1e6 / done.events as f64, "µs");
    Ok(report)
}

/// Single publishes and bare appends of the same bytes to a file beside the log, in turns, so that both meet the same
/// disk.
async fn one_at_a_time(mesh: &LocalMesh, options: &PublishOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let (load, topics) = (Load::new(options.size), [Topic::new("bench.publish")?]);
    let hidden = ProgressBar::hidden();
    publish(&mesh[0], &topics, &load, Length::Events(TURN), 1, &hidden).await?;
    let bytes = last_batch(mesh)?;
    let path = mesh.nodes()[0].home.join("bare-append");
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(BenchError::io("open a file"))?;

    let measures = format!(
        "events of {} bytes, one publish at a time, against write and fdatasync of the same {} bytes",
        options.size,
        bytes.len()
    );
    let mut report = Report::new("publish", measures, mesh.folder());
    let (mut published, mut appended, before, start) = (histogram(), histogram(), Usage::now(), Instant::now());
    let is_over = |done: u64| match options.length {
        Length::Events(count) => done >= count,
        Length::Seconds(seconds) => start.elapsed().as_secs_f64() >= seconds,
    };
    while !is_over(published.len()) {
        let turn = publish(&mesh[0], &topics, &load, Length::Events(TURN), 1, &hidden).await?;
        published.add(&turn.times_ns).unwrap_or_else(|_| unreachable!("both have the same bounds"));
        let appending = tokio::task::spawn_blocking({
            let bytes = bytes.clone();
            move || append(&mut file, &bytes, TURN).map(|times_ns| (file, times_ns))
        });
        let times_ns;
        (file, times_ns) = appending
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(BenchError::io("append to a file"))?;
        appended.add(&times_ns).unwrap_or_else(|_| unreachable!("both have the same bounds"));
        bar.set_position(published.len());
    }
    report.process = Usage::now().since(&before);
    report.add("events", "published", published.len() as f64, "events");
    report.add_times("publish", "a publish", &published);
    report.add_times("append", "append and fdatasync", &appended);
    let ratio = |quantile| published.value_at_quantile(quantile) as f64 / appended.value_at_quantile(quantile) as f64;
    report.add("ratio_p50", "publish over append, p50", ratio(0.5), "times");
    report.add("ratio_p99", "publish over append, p99", ratio(0.99), "times");
    report.add("ratio_mean", "publish over append, mean", published.mean() / appended.mean(), "times");
    Ok(report)
}

fn append(file: &mut std::fs::File, bytes: &[u8], times: u64) -> std::io::Result<Histogram<u64>> {
    let mut times_ns = histogram();
    for _ in 0..times {
        let start = Instant::now();
        file.write_all(bytes)?;
        file.sync_data()?;
        times_ns.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(times_ns)
}

/// The bytes of the batch that was stored last: those of one event.
fn last_batch(mesh: &LocalMesh) -> Result<Vec<u8>, BenchError> {
    let log = mesh[0].log();
    let before_last = Arrival(log.last_arrival().0.saturating_sub(1));
    let batches = log.scan(before_last, 1, usize::MAX)?;
    Ok(batches.first().map(|(_, batch)| batch.bytes().to_vec()).unwrap_or_default())
}
