//! What it takes to agree: a node that was away, few changes among many logs, and nothing at all.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::link::AUDIT_MS;
use roundelay_protocol::topic::Topic;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::deliver::bytes_out;
use super::load::{Load, Reader, publish};
use super::{BenchError, Length, Report, Usage};
use crate::dev::{LocalMesh, LocalMeshOptions};
use crate::status::NodeStatus;

/// How long peers are left alone before they are taken to be at rest.
const SETTLE: Duration = Duration::from_secs(4);
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Single publishes under way at once while the difference is made.
const IN_FLIGHT: usize = 512;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A node that missed many events becomes whole again.
    Missed,
    /// A few logs of very many have changed.
    Changed,
    /// Nodes in sync make sure of it.
    InSync,
    /// A daemon with a peer and nothing to do.
    Idle,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct ReconcileOptions {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// Bytes of each event's data.
    pub size: usize,
    /// Events that the node misses.
    pub missed: u64,
    /// Logs that there are, and how many of them change.
    pub logs: usize,
    /// See `logs`.
    pub changed: usize,
    /// Seconds for which quiet nodes are watched.
    pub quiet_s: f64,
    /// The program to run as a daemon for [`Part::Idle`].
    pub program: PathBuf,
    /// Where the homes are made; the system's temporary folder without it.
    pub dir: Option<PathBuf>,
}

/// Measures the parts, each with nodes of its own.
///
/// # Errors
/// When a node cannot start or stops, or the nodes do not agree.
pub async fn run(options: &ReconcileOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let measures = format!("two nodes that meet again; events of {} bytes", options.size);
    let home = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut report = Report::new("reconcile", measures, &home);
    let before = Usage::now();
    for part in &options.parts {
        bar.set_message(format!("{part:?}"));
        if *part == Part::Idle {
            idle(options, &mut report).await?;
            continue;
        }
        let names = LocalMeshOptions { parent: options.dir.clone(), ..LocalMeshOptions::new(["here", "away"]) };
        let mesh = LocalMesh::start(names).await?;
        let done = match part {
            Part::Missed => missed(&mesh, options, &mut report, bar).await,
            Part::Changed => changed(&mesh, options, &mut report, bar).await,
            Part::InSync | Part::Idle => in_sync(&mesh, options, &mut report).await,
        };
        mesh.shutdown().await;
        done?;
    }
    report.process = Usage::now().since(&before);
    Ok(report)
}

/// A link that breaks and comes back, and what was published meanwhile.
struct Absence {
    load: Load,
    reader: Reader,
    /// The last arrival at the node that stayed, and what had been sent, before the other returned.
    known: Arrival,
    sent: u64,
    back: Instant,
}

impl Absence {
    /// Publishes to all topics while both are there, then while one is away, and lets it return.
    async fn begin(
        mesh: &LocalMesh,
        size: usize,
        before: (&[Topic], u64),
        meanwhile: (&[Topic], u64),
        bar: &ProgressBar,
    ) -> Result<(Self, u64), BenchError> {
        let load = Load::new(size);
        let reader = Reader::start(&mesh[1], load.clone());
        publish(&mesh[0], before.0, &load, Length::Events(before.1), IN_FLIGHT, bar).await?;
        reader.until(before.1).await?;
        sleep(SETTLE).await;
        let known = mesh[0].log().last_arrival();
        mesh[1].set_offline(true).await;
        until_links(mesh, 0).await?;
        publish(&mesh[0], meanwhile.0, &load, Length::Events(meanwhile.1), IN_FLIGHT, bar).await?;
        let sent = sent(mesh);
        let back = Instant::now();
        mesh[1].set_offline(false).await;
        Ok((Self { load, reader, known, sent, back }, before.1 + meanwhile.1))
    }

    /// Bytes of batches that were missed.
    fn missed_bytes(&self, mesh: &LocalMesh) -> Result<u64, BenchError> {
        let (log, mut after, mut bytes) = (mesh[0].log(), self.known, 0);
        loop {
            let batches = log.scan(after, 256, 8 << 20)?;
            let Some((last, _)) = batches.last() else { return Ok(bytes) };
            after = *last;
            let events = batches.iter().filter(|(_, batch)| !batch.header().topic.is_system());
            bytes += events.map(|(_, batch)| batch.bytes().len() as u64).sum::<u64>();
        }
    }
}

async fn missed(
    mesh: &LocalMesh,
    options: &ReconcileOptions,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<(), BenchError> {
    let topics = [Topic::new("bench.reconcile")?];
    let (absence, total) = Absence::begin(mesh, options.size, (&topics, 1000), (&topics, options.missed), bar).await?;
    until_links(mesh, 1).await?;
    let linked_s = absence.back.elapsed().as_secs_f64();
    let start_ns = absence.load.now_ns();
    let last_ns = absence.reader.until(total).await?;
    let whole_s = linked_s + last_ns.saturating_sub(start_ns) as f64 / 1e9;
    let (sent, bytes) = (sent(mesh) - absence.sent, absence.missed_bytes(mesh)?);
    report.add("missed_events", "events missed", options.missed as f64, "events");
    report.add("missed_link_s", "until the link was up again", linked_s, "s");
    report.add("missed_whole_s", "until all were read there", whole_s, "s");
    report.add("missed_events_per_s", "rate", options.missed as f64 / whole_s, "events/s");
    report.add("missed_bytes", "bytes missing", bytes as f64, "bytes");
    report.add("missed_sent_bytes", "bytes sent, both sides", sent as f64, "bytes");
    report.add("missed_sent_ratio", "sent over missing", sent as f64 / bytes as f64, "times");
    Ok(())
}

async fn changed(
    mesh: &LocalMesh,
    options: &ReconcileOptions,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<(), BenchError> {
    let names = (0..options.logs).map(|nth| Topic::new(&format!("bench.logs.{nth}")));
    let topics = names.collect::<Result<Vec<_>, _>>()?;
    let every = (options.logs / options.changed.max(1)).max(1);
    let some: Vec<_> = topics.iter().step_by(every).take(options.changed).cloned().collect();
    let (before, meanwhile) = ((topics.as_slice(), topics.len() as u64), (some.as_slice(), some.len() as u64));
    let (absence, total) = Absence::begin(mesh, options.size, before, meanwhile, bar).await?;
    until_links(mesh, 1).await?;
    let (linked_s, start_ns) = (absence.back.elapsed().as_secs_f64(), absence.load.now_ns());
    let last_ns = absence.reader.until(total).await?;
    let (sent, bytes) = (sent(mesh) - absence.sent, absence.missed_bytes(mesh)?);
    let found_ms = last_ns.saturating_sub(start_ns) as f64 / 1e6;
    report.add("changed_logs", format!("logs changed of {}", topics.len()), some.len() as f64, "logs");
    report.add("changed_link_s", "until the link was up again", linked_s, "s");
    report.add("changed_whole_ms", "from there until whole", found_ms, "ms");
    report.add("changed_batch_bytes", "bytes missing", bytes as f64, "bytes");
    report.add("changed_found_bytes", "sent besides, both sides", sent.saturating_sub(bytes) as f64, "bytes");
    Ok(())
}

async fn in_sync(mesh: &LocalMesh, options: &ReconcileOptions, report: &mut Report) -> Result<(), BenchError> {
    let (load, topics) = (Load::new(options.size), [Topic::new("bench.reconcile")?]);
    let reader = Reader::start(&mesh[1], load.clone());
    publish(&mesh[0], &topics, &load, Length::Events(1000), IN_FLIGHT, &ProgressBar::hidden()).await?;
    reader.until(1000).await?;
    sleep(SETTLE).await;
    let (before, start) = (sent(mesh), Instant::now());
    sleep(Duration::from_secs_f64(options.quiet_s)).await;
    let bytes_per_s = (sent(mesh) - before) as f64 / start.elapsed().as_secs_f64();
    let period_s = AUDIT_MS as f64 / 1e3;
    report.add("in_sync_bytes", format!("in sync, each way in {period_s} s"), bytes_per_s * period_s / 2.0, "bytes");
    Ok(())
}

/// Two daemons, so that the memory is that of a node and nothing else.
async fn idle(options: &ReconcileOptions, report: &mut Report) -> Result<(), BenchError> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::tempdir_in(parent).map_err(BenchError::io("make a folder"))?;
    let first = Daemon::start(&options.program, &folder.path().join("first"), &[]).await?;
    let second = Daemon::start(&options.program, &folder.path().join("second"), &first.addresses).await?;
    sleep(SETTLE).await;
    let (before, start) = (second.usage(), Instant::now());
    sleep(Duration::from_secs_f64(options.quiet_s)).await;
    let used = second.usage().since(&before);
    let percent = used.cpu_s * 100.0 / start.elapsed().as_secs_f64();
    report.add("idle_rss_mb", "idle daemon, resident", used.rss_mb, "MB");
    report.add("idle_peak_rss_mb", "idle daemon, resident at most", used.peak_rss_mb, "MB");
    report.add("idle_cpu_percent", "idle daemon, of a core", percent, "%");
    Ok(())
}

/// A `roundelay up` with a home of its own. Killed when dropped.
struct Daemon {
    child: Child,
    addresses: Vec<String>,
}

impl Daemon {
    async fn start(program: &Path, home: &Path, join: &[String]) -> Result<Self, BenchError> {
        let mut command = Command::new(program);
        command.arg("--home").arg(home).args(["up", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        command.args(join.iter().flat_map(|address| ["--join", address]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().map_err(BenchError::io("start a daemon"))?;
        let start = Instant::now();
        loop {
            let mut asking = Command::new(program);
            asking.arg("--home").arg(home).args(["status", "--json"]).stderr(Stdio::null());
            let said = asking.output().await.map_err(BenchError::io("ask a daemon"))?;
            if let Ok(status) = serde_json::from_slice::<NodeStatus>(&said.stdout) {
                return Ok(Self { child, addresses: status.node.listen });
            }
            if start.elapsed() > LIMIT {
                return Err(BenchError::Stalled { what: "starting a daemon".into(), limit_s: LIMIT.as_secs() });
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn usage(&self) -> Usage {
        self.child.id().map(|pid| Usage::of(&pid.to_string())).unwrap_or_default()
    }
}

/// Bytes that both nodes have sent.
fn sent(mesh: &LocalMesh) -> u64 {
    let (gossip, sync) = bytes_out(mesh);
    gossip + sync
}

async fn until_links(mesh: &LocalMesh, wanted: usize) -> Result<(), BenchError> {
    let start = Instant::now();
    for node in mesh.nodes() {
        while node.links().await? != wanted {
            if start.elapsed() > LIMIT {
                let what = format!("having {wanted} links");
                return Err(BenchError::Stalled { what, limit_s: LIMIT.as_secs() });
            }
            sleep(POLL).await;
        }
    }
    Ok(())
}
