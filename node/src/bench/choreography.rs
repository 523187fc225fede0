//! Choreographies: how fast instances are judged, what a late event costs, and how many events a handler gets through.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use roundelay_protocol::choreography::conformance::{Conformance, Versions};
use roundelay_protocol::choreography::declaration::End;
use roundelay_protocol::choreography::frontier::Frontier;
use roundelay_protocol::choreography::participant::{Call, Emission, Participant};
use roundelay_protocol::choreography::view::{Bounds, Input, View};
use roundelay_protocol::choreography::{Draft, Observed, Rank};
use roundelay_protocol::event::{Event, EventError};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Author, BatchHash};
use roundelay_protocol::topic::Topic;

use super::{BenchError, Report, Usage};
use crate::choreography::publish;
use crate::dev::{LocalMesh, LocalMeshOptions};
use crate::node::Node;
use crate::participant::{PlayOptions, Playing};

/// Events of an instance that is folded in memory: as many as an incident has on average.
const EVENTS_PER_INSTANCE: u64 = 9;
/// Events of the key that a late one comes to.
const VIEW_EVENTS: u64 = 100_000;
/// Events of one publication.
const PUBLISHED_AT_ONCE: u64 = 500;
/// How long everything may take to be handled.
const LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(5);

/// What to measure.
#[derive(Debug, Clone)]
pub struct ChoreographyOptions {
    /// Events that are handled, each of an instance of its own.
    pub count: u64,
    /// Events that are judged in memory.
    pub judged: u64,
    /// Where the node's home is made; the system's temporary folder without it.
    pub dir: Option<PathBuf>,
}

/// Judges events in memory, and plays roles on one node that has no peers.
///
/// # Errors
/// When the node cannot start or stops.
pub async fn run(options: &ChoreographyOptions, bar: &ProgressBar) -> Result<Report, BenchError> {
    let mesh =
        LocalMesh::start(LocalMeshOptions { parent: options.dir.clone(), ..LocalMeshOptions::new(["bench"]) }).await?;
    let measures = format!(
        "{} events judged in memory, one late among {VIEW_EVENTS} of a key; {} events on one node, each of an \
         instance of its own: judged, and handled, with each handling durable",
        options.judged, options.count
    );
    let mut report = Report::new("choreography", measures, mesh.folder());
    let before = Usage::now();
    judge(options.judged, &mut report)?;
    refold(&mut report);
    let handled = handle(&mesh[0], options.count, bar, &mut report).await;
    report.process = Usage::now().since(&before);
    mesh.shutdown().await;
    handled.map(|()| report)
}

/// Asked, and perhaps answered.
fn draft(name: &str, is_answered: bool) -> Draft {
    let draft = Draft::new(name, "new").role("asker", &["answered"]).role("clerk", &["asked"]);
    let draft = draft.event("asked", "asker").topic("asked", name).event("answered", "clerk").topic("answered", name);
    let draft = draft.end("done", End::Success);
    match is_answered {
        true => draft.on("new", "asked", "asked").on("asked", "answered", "done"),
        // Ended at once, so that there is room for those that come after.
        false => draft.on("new", "asked", "done").on("new", "answered", "done"),
    }
}

fn judge(count: u64, report: &mut Report) -> Result<(), BenchError> {
    let mut draft = Draft::new("rounds", "new").role("asker", &["asked"]).event("asked", "asker").topic("asked", "t");
    draft = draft.on("new", "asked", "asked").loops("asked", "asked", "asked").end("never", End::Failure);
    let declaration = draft.declare().map_err(|error| BenchError::Choreography(error.to_string()))?;
    let topic = Topic::new("t")?;
    let event = |n: u64| Observed {
        rank: Rank { stamp: Hlc::from_ms(n), batch: BatchHash::NONE, index: 0 },
        topic: topic.clone(),
        author: None,
        source: "/asker".to_owned(),
        id: n.to_string(),
        kind: "asked".to_owned(),
        causes: n.checked_sub(count / EVENTS_PER_INSTANCE).map(|cause| cause.to_string()).into_iter().collect(),
        correlation: Some((n % (count / EVENTS_PER_INSTANCE).max(1)).to_string()),
        role: None,
        version: None,
    };
    let events: Vec<Observed> = (0..count).map(event).collect();
    let (mut conformance, start) = (Conformance::new(Versions::new(declaration)), Instant::now());
    conformance.take(events);
    let seconds = start.elapsed().as_secs_f64();
    report.add("judged_in_memory_ms", "judged in memory", seconds * 1e3, "ms");
    report.add("judged_in_memory_per_s", "the same", count as f64 / seconds, "events/s");
    Ok(())
}

/// One event that comes last and belongs behind the first tenth, and one that belongs before the last.
fn refold(report: &mut Report) {
    let input = |stamp: u64| Input {
        rank: Rank { stamp: Hlc(stamp), ..Rank::default() },
        author: Author([1; 32]),
        key: "k".to_owned(),
        event: stamp,
    };
    let bounds = Bounds { events: 2 * VIEW_EVENTS as usize, ..Bounds::default() };
    let mut view: View<u64, u64> = View::new(|sum, _, n| *sum = sum.wrapping_add(*n), bounds, Frontier::default());
    view.take((1..=VIEW_EVENTS).map(|n| input(n * 10)));
    for (key, label, stamp) in [
        ("late_near", "a late event, near the end", VIEW_EVENTS * 10 - 5),
        ("late_far", "a late event, near the start", VIEW_EVENTS),
    ] {
        let start = Instant::now();
        let taken = view.take([input(stamp + 1)]);
        report.add(format!("{key}_us"), label, start.elapsed().as_nanos() as f64 / 1e3, "µs");
        report.add(format!("{key}_refolded"), "folded again for it", taken.refolded as f64, "events");
    }
}

async fn handle(node: &Node, count: u64, bar: &ProgressBar, report: &mut Report) -> Result<(), BenchError> {
    let choreography = |error: &dyn std::fmt::Display| BenchError::Choreography(error.to_string());
    for (name, is_answered) in [("noted", false), ("answered", true)] {
        publish(node, &draft(name, is_answered), true).await.map_err(|error| choreography(&error))?;
        ask(node, name, count).await?;
        let (observer, start) = (node.observer(), Instant::now());
        observer.folded(name, node.log().last_arrival()).await.map_err(|error| choreography(&error))?;
        tracing::debug!(name, waited_ms = start.elapsed().as_millis() as u64, "judged");

        let (handled, first) = (Arc::new(AtomicU64::new(0)), Arc::new(OnceLock::new()));
        let (counting, beginning) = (handled.clone(), first.clone());
        let clerk = Participant::new(name, "clerk").on("asked", move |_: Call| {
            beginning.get_or_init(Instant::now);
            counting.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(is_answered.then(|| Emission::new("answered")).into_iter().collect()))
        });
        let (before, start) = (Usage::now(), Instant::now());
        let options = PlayOptions { concurrency: 1_000, ..PlayOptions::default() };
        let playing = Playing::start(node, clerk, options).await.map_err(|error| choreography(&error))?;
        let consumer = playing.consumers().next().unwrap_or_default().to_owned();
        loop {
            tokio::time::sleep(LOOK).await;
            let found = handled.load(Ordering::Relaxed);
            bar.set_position(found);
            // Counting what is not done takes its time, so that it is asked only when that may be nothing.
            if found >= count {
                let info = node.consumers().get(consumer.clone()).await.map_err(|error| choreography(&error))?;
                if info.lag.events == 0 {
                    break;
                }
            }
            if start.elapsed() > LIMIT {
                return Err(BenchError::Stalled { what: "the handling".into(), limit_s: LIMIT.as_secs() });
            }
        }
        // Replicas look for each other before one of them begins.
        let begun = first.get().copied().unwrap_or(start);
        let (seconds, used) = (begun.elapsed().as_secs_f64(), Usage::now().since(&before));
        playing.stop().await;
        let label = if is_answered { "handled, with an answer" } else { "handled, without an answer" };
        report.add(format!("{name}_per_s"), label, count as f64 / seconds, "events/s");
        report.add(format!("{name}_cpu_us"), "processor time an event", used.cpu_s * 1e6 / count as f64, "µs");
        report.add(format!("{name}_begin_ms"), "until the first", (begun - start).as_secs_f64() * 1e3, "ms");
    }
    Ok(())
}

/// Publishes events that begin instances.
async fn ask(node: &Node, name: &str, count: u64) -> Result<(), BenchError> {
    let topic = Topic::new(name)?;
    let event = |n: u64| {
        let (id, correlation) = (format!("{name}-{n}"), Some(format!("i-{n}")));
        let (kind, source) = ("asked".to_owned(), "/asker".to_owned());
        Event { kind, source, id, key: correlation.clone(), correlation, ..Event::default() }.encode()
    };
    for first in (0..count).step_by(PUBLISHED_AT_ONCE as usize) {
        let events = (first..count.min(first + PUBLISHED_AT_ONCE)).map(event).collect::<Result<_, EventError>>()?;
        node.publish(topic.clone(), events, 0).await?;
    }
    Ok(())
}
