//! Events to measure with, publishers that keep so many in flight, and readers that count them at the other end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use roundelay_protocol::event::{EncodedEvent, Event, Item};
use roundelay_protocol::topic::{Pattern, Topic};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BenchError, Length, MIN_SIZE};
use crate::node::Node;
use crate::subscription::From;

/// How long a reader may go without news before a benchmark is called off.
const STALL_S: u64 = 60;
/// Events between two updates of the progress bar.
const PROGRESS_EVERY: u64 = 256;

/// Longest time that is told apart from longer ones.
const MAX_NS: u64 = 600_000_000_000;

/// Times in nanoseconds to three figures.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, 3).unwrap_or_else(|_| unreachable!("the bounds are sound"))
}

/// Makes events, and tells the time that they carry.
#[derive(Clone)]
pub(super) struct Load {
    data: Vec<u8>,
    start: Instant,
}

impl Load {
    /// Events of exactly `size` bytes of data, at least [`MIN_SIZE`], that no compression makes smaller.
    pub(super) fn new(size: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        Self { data: std::iter::repeat_with(next).take(size.max(MIN_SIZE)).collect(), start: Instant::now() }
    }

    /// Nanoseconds since the load was made.
    pub(super) fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The bytes that every event carries, but for the time.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// An event that says it was published at `at_ns`.
    pub(super) fn event(&self, nth: u64, at_ns: u64) -> Result<EncodedEvent, BenchError> {
        let mut data = self.data.clone();
        data[..MIN_SIZE].copy_from_slice(&at_ns.to_le_bytes());
        let id = format!("{at_ns:x}-{nth:x}");
        let event = Event { kind: "bench".into(), id, source: "/bench".into(), data: data.into(), ..Event::default() };
        Ok(event.encode()?)
    }
}

/// What a publisher did.
pub(super) struct Published {
    pub(super) events: u64,
    pub(super) seconds: f64,
    /// From each call to its return.
    pub(super) times_ns: Histogram<u64>,
}

/// Publishes single events, `in_flight` at a time, to the topics in turn.
pub(super) async fn publish(
    node: &Node,
    topics: &[Topic],
    load: &Load,
    length: Length,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<Published, BenchError> {
    let (mut begun, mut times_ns, start) = (0, histogram(), Instant::now());
    let mut underway = FuturesUnordered::new();
    loop {
        while underway.len() < in_flight && !is_over(length, begun, start) {
            let at_ns = load.now_ns();
            let event = load.event(begun, at_ns)?;
            let topic = topics[begun as usize % topics.len()].clone();
            underway.push(async move { (at_ns, node.publish(topic, vec![event], 0).await) });
            begun += 1;
        }
        let Some((at_ns, receipt)) = underway.next().await else { break };
        receipt?;
        times_ns.saturating_record(load.now_ns() - at_ns);
        show_progress(bar, length, times_ns.len(), start);
    }
    Ok(Published { events: begun, seconds: start.elapsed().as_secs_f64(), times_ns })
}

/// Publishes at a steady rate, whether or not earlier events have returned, up to `in_flight`. Every event carries the
/// time at which it was due, so that a publisher which is kept waiting is measured too.
pub(super) async fn publish_paced(
    node: &Node,
    topics: &[Topic],
    load: &Load,
    seconds: f64,
    rate: f64,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<Published, BenchError> {
    let (mut due, start) = (pace(load.clone(), seconds, rate, in_flight), Instant::now());
    let (mut begun, mut times_ns, mut ended) = (0, histogram(), false);
    let mut underway = FuturesUnordered::new();
    loop {
        tokio::select! {
            at_ns = due.recv(), if !ended && underway.len() < in_flight => {
                let Some(at_ns) = at_ns else { ended = true; continue };
                let (event, topic) = (load.event(begun, at_ns)?, topics[begun as usize % topics.len()].clone());
                underway.push(async move { (at_ns, node.publish(topic, vec![event], 0).await) });
                begun += 1;
            }
            Some((at_ns, receipt)) = underway.next() => {
                receipt?;
                times_ns.saturating_record(load.now_ns().saturating_sub(at_ns));
                show_progress(bar, Length::Seconds(seconds), times_ns.len(), start);
            }
            else => break,
        }
    }
    Ok(Published { events: begun, seconds: start.elapsed().as_secs_f64(), times_ns })
}

/// Sends the times at which events are due. A thread, because tokio's timers are good to a millisecond only.
fn pace(load: Load, seconds: f64, rate: f64, in_flight: usize) -> mpsc::Receiver<u64> {
    let (sender, due) = mpsc::channel(in_flight.max(1));
    let first_ns = load.now_ns();
    std::thread::spawn(move || {
        for nth in 0..(seconds * rate) as u64 {
            let at_ns = first_ns + (nth as f64 * 1e9 / rate) as u64;
            std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(load.now_ns())));
            if sender.blocking_send(at_ns).is_err() {
                return;
            }
        }
    });
    due
}

fn is_over(length: Length, begun: u64, start: Instant) -> bool {
    match length {
        Length::Events(count) => begun >= count,
        Length::Seconds(seconds) => start.elapsed().as_secs_f64() >= seconds,
    }
}

fn show_progress(bar: &ProgressBar, length: Length, done: u64, start: Instant) {
    if done.is_multiple_of(PROGRESS_EVERY) {
        match length {
            Length::Events(count) => {
                bar.set_length(count);
                bar.set_position(done);
            }
            Length::Seconds(seconds) => {
                bar.set_length((seconds * 1e3) as u64);
                bar.set_position(start.elapsed().as_millis() as u64);
            }
        }
    }
}

/// Reads every event at a node, from now on.
pub(super) struct Reader {
    shared: Arc<Read>,
    task: JoinHandle<Result<(), BenchError>>,
}

struct Read {
    events: AtomicU64,
    /// When the last was read, by the load's clock.
    last_ns: AtomicU64,
    times_ns: Mutex<Histogram<u64>>,
}

impl Reader {
    pub(super) fn start(node: &Node, load: Load) -> Self {
        let mut subscription = node.subscribe(vec![Pattern::all()], From::End);
        let shared =
            Arc::new(Read { events: AtomicU64::new(0), last_ns: AtomicU64::new(0), times_ns: Mutex::new(histogram()) });
        let read = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let deliveries = subscription.next().await?;
                let now_ns = load.now_ns();
                let (mut events, mut times_ns) = (0, read.times_ns.lock());
                for delivery in &deliveries {
                    for (_, item) in delivery.batch.items().skip(delivery.skip) {
                        let Item::Event(event) = item else { continue };
                        let Some(at_ns) = event.data.first_chunk() else { continue };
                        times_ns.saturating_record(now_ns.saturating_sub(u64::from_le_bytes(*at_ns)));
                        events += 1;
                    }
                }
                drop(times_ns);
                read.last_ns.store(load.now_ns(), Relaxed);
                read.events.fetch_add(events, Relaxed);
            }
        });
        Self { shared, task }
    }

    /// Events read so far.
    pub(super) fn events(&self) -> u64 {
        self.shared.events.load(Relaxed)
    }

    /// Waits until it has read `count` events in all. Returns when the last was read, by the load's clock.
    pub(super) async fn until(&self, count: u64) -> Result<u64, BenchError> {
        let (mut seen, mut news) = (self.events(), Instant::now());
        while self.events() < count {
            if self.task.is_finished() || news.elapsed().as_secs() >= STALL_S {
                let what = format!("reading event {count} of a node after {seen}");
                return Err(BenchError::Stalled { what, limit_s: STALL_S });
            }
            if self.events() > seen {
                (seen, news) = (self.events(), Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.shared.last_ns.load(Relaxed))
    }

    /// Forgets the times so far, as after the warm-up.
    pub(super) fn reset(&self) {
        self.shared.times_ns.lock().reset();
    }

    /// The times from publication to here.
    pub(super) fn times_ns(&self) -> Histogram<u64> {
        self.shared.times_ns.lock().clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}
