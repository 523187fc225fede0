//! One node and its disk: how many events it makes durable, and how long one takes.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
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
/// Bytes of the file that is written in place.
const SIZED_BYTES: u64 = 16 * 1024 * 1024;

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

/// Single publishes and bare writes of the same bytes to files beside the log, in turns, so that all meet the same disk.
async fn one_at_a_time(mesh: &LocalMesh, options: &PublishOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let (load, topics) = (Load::new(options.size), [Topic::new("bench.publish")?]);
    let hidden = ProgressBar::hidden();
    publish(&mesh[0], &topics, &load, Length::Events(TURN), 1, &hidden).await?;
    let bytes = last_batch(mesh)?;
    let mut bare = Bare::create(&mesh.nodes()[0].home).map_err(BenchError::io("prepare the files to compare with"))?;

    let measures = format!(
        "events of {} bytes, one publish at a time, against write and fdatasync of the same {} bytes",
        options.size,
        bytes.len()
    );
    let mut report = Report::new("publish", measures, mesh.folder());
    let (mut published, before, start) = (histogram(), Usage::now(), Instant::now());
    let is_over = |done: u64| match options.length {
        Length::Events(count) => done >= count,
        Length::Seconds(seconds) => start.elapsed().as_secs_f64() >= seconds,
    };
    while !is_over(published.len()) {
        let turn = publish(&mesh[0], &topics, &load, Length::Events(TURN), 1, &hidden).await?;
        published.add(&turn.times_ns).unwrap_or_else(|_| unreachable!("both have the same bounds"));
        let bytes = bytes.clone();
        let writing = tokio::task::spawn_blocking(move || bare.write(&bytes, TURN).map(|()| bare));
        let written = writing.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        bare = written.map_err(BenchError::io("write to compare with"))?;
        bar.set_position(published.len());
    }
    report.process = Usage::now().since(&before);
    report.add("events", "published", published.len() as f64, "events");
    report.add_times("publish", "a publish", &published);
    report.add_times("append", "bare append", &bare.appended);
    report.add_times("overwrite", "bare write in place", &bare.overwritten);
    for (key, name, bare) in [("append", "append", &bare.appended), ("overwrite", "write in place", &bare.overwritten)]
    {
        let ratio = published.value_at_quantile(0.5) as f64 / bare.value_at_quantile(0.5) as f64;
        report.add(format!("ratio_{key}_p50"), format!("publish over {name}, p50"), ratio, "times");
        let ratio = published.mean() / bare.mean();
        report.add(format!("ratio_{key}_mean"), format!("publish over {name}, mean"), ratio, "times");
    }
    Ok(report)
}

/// What a publish is compared with: a file that grows, and one that has its size already. For the former the system
/// writes down the new size too; the log's own file is mostly of the latter kind.
struct Bare {
    growing: File,
    sized: File,
    appended: Histogram<u64>,
    overwritten: Histogram<u64>,
}

impl Bare {
    fn create(home: &Path) -> std::io::Result<Self> {
        let growing = File::create(home.join("bare-append"))?;
        let mut sized = File::create(home.join("bare-overwrite"))?;
        sized.write_all(&vec![1; SIZED_BYTES as usize])?;
        sized.sync_all()?;
        sized.rewind()?;
        Ok(Self { growing, sized, appended: histogram(), overwritten: histogram() })
    }

    fn write(&mut self, bytes: &[u8], times: u64) -> std::io::Result<()> {
        for _ in 0..times {
            self.appended.saturating_record(write_synced(&mut self.growing, bytes)?);
        }
        for _ in 0..times {
            if self.sized.stream_position()? + bytes.len() as u64 > SIZED_BYTES {
                self.sized.rewind()?;
            }
            self.overwritten.saturating_record(write_synced(&mut self.sized, bytes)?);
        }
        Ok(())
    }
}

/// Nanoseconds that one write and its fdatasync take.
fn write_synced(file: &mut File, bytes: &[u8]) -> std::io::Result<u64> {
    let start = Instant::now();
    file.write_all(bytes)?;
    file.sync_data()?;
    Ok(start.elapsed().as_nanos() as u64)
}

/// The bytes of the batch that was stored last: those of one event.
fn last_batch(mesh: &LocalMesh) -> Result<Vec<u8>, BenchError> {
    let log = mesh[0].log();
    let before_last = Arrival(log.last_arrival().0.saturating_sub(1));
    let batches = log.scan(before_last, 1, usize::MAX)?;
    Ok(batches.first().map(|(_, batch)| batch.bytes().to_vec()).unwrap_or_default())
}
