//! What the engine and its helpers count: publishing, storing, and what goes over the sync streams.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::Frame;
use roundelay_protocol::ids::Author;
use roundelay_protocol::replica::Refusal;

use super::topics::Origin;
use super::{Counters, TopicMeters, counter_of, latency};

/// In which direction something goes over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

const WAYS: [&str; 2] = ["in", "out"];
/// Kinds of frames, in the order in which [`kind_of`] numbers them.
const KINDS: [&str; 13] = [
    "hello",
    "interest",
    "sums",
    "want",
    "heads",
    "audit",
    "pull",
    "batches",
    "pull_end",
    "hurry",
    "probe",
    "probe_seen",
    "probe_done",
];
const REFUSALS: [&str; 4] = ["store_full", "disk_full", "clock", "not_writer"];
const SOURCES: [&str; 2] = ["gossip", "pull"];
const OFFENCES: [&str; 2] = ["breach", "slip"];

fn kind_of(frame: &Frame) -> usize {
    match frame {
        Frame::Hello(_) => 0,
        Frame::Interest(_) => 1,
        Frame::Sums { .. } => 2,
        Frame::Want { .. } => 3,
        Frame::Heads { .. } => 4,
        Frame::Audit { .. } => 5,
        Frame::Pull { .. } => 6,
        Frame::Batches { .. } => 7,
        Frame::PullEnd { .. } => 8,
        Frame::Hurry => 9,
        Frame::Probe(_) => 10,
        Frame::ProbeSeen(_) => 11,
        Frame::ProbeDone(_) => 12,
    }
}

/// A family with the handles of all its values.
#[derive(Debug, Clone)]
struct Known<const N: usize> {
    family: Counters,
    counters: [Counter; N],
}

impl<const N: usize> Known<N> {
    fn new(label: &'static str, values: [&'static str; N]) -> Self {
        let family = Counters::default();
        let counters = values.map(|value| counter_of(&family, label, value));
        Self { family, counters }
    }
}

/// Handles of what the engine counts. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct EngineMeters {
    topics: TopicMeters,
    publications: Counter,
    refused: Known<4>,
    publish_duration: Histogram,
    ack_duration: Histogram,
    propagation: Histogram,
    frames: [[Counter; 13]; 2],
    frame_family: prometheus_client::metrics::family::Family<[(&'static str, &'static str); 2], Counter>,
    batches: Known<2>,
    batch_bytes: Known<2>,
    invalid: Known<2>,
    offences: Known<2>,
    kept_away: Counter,
}

impl EngineMeters {
    pub(super) fn new(topics: TopicMeters) -> Self {
        let frame_family = prometheus_client::metrics::family::Family::<_, Counter>::default();
        let frame = |way, kind| frame_family.get_or_create_owned(&[("direction", way), ("kind", kind)]);
        Self {
            topics,
            publications: Counter::default(),
            refused: Known::new("reason", REFUSALS),
            publish_duration: latency(),
            ack_duration: latency(),
            // Clocks agree to some milliseconds at best.
            propagation: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            frames: WAYS.map(|way| KINDS.map(|kind| frame(way, kind))),
            frame_family: frame_family.clone(),
            batches: Known::new("direction", WAYS),
            batch_bytes: Known::new("direction", WAYS),
            invalid: Known::new("source", SOURCES),
            offences: Known::new("kind", OFFENCES),
            kept_away: Counter::default(),
        }
    }

    /// A publication is durable here, so long after it was handed in.
    pub(crate) fn published(&self, took: Duration) {
        self.publications.inc();
        self.publish_duration.observe(took.as_secs_f64());
    }

    /// As many peers as were asked for hold a publication, so long after it was durable here.
    pub(crate) fn acknowledged(&self, took: Duration) {
        self.ack_duration.observe(took.as_secs_f64());
    }

    /// A publication was not taken.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let reason = match refusal {
            Refusal::StoreFull => 0,
            Refusal::DiskFull => 1,
            Refusal::Clock => 2,
            Refusal::NotWriter(_) => 3,
        };
        self.refused.counters[reason].inc();
    }

    /// A frame went over a link.
    pub(crate) fn frame(&self, way: Way, frame: &Frame) {
        self.frames[way as usize][kind_of(frame)].inc();
    }

    /// Batches went over a link, in a frame of their own.
    pub(crate) fn batches(&self, way: Way, batches: usize, bytes: usize) {
        self.frames[way as usize][7].inc();
        self.batches.counters[way as usize].inc_by(batches as u64);
        self.batch_bytes.counters[way as usize].inc_by(bytes as u64);
    }

    /// What a peer gossiped is no valid batch of its topic.
    pub(crate) fn invalid_gossip(&self) {
        self.invalid.counters[0].inc();
    }

    /// What a peer sent in answer to a pull is no valid batch.
    pub(crate) fn invalid_pull(&self) {
        self.invalid.counters[1].inc();
    }

    /// A peer broke the rules.
    pub(crate) fn breach(&self) {
        self.offences.counters[0].inc();
    }

    /// A peer did what an honest one may do once in a while.
    pub(crate) fn slip(&self) {
        self.offences.counters[1].inc();
    }

    /// A link was ended and its peer is kept away for a while.
    pub(crate) fn kept_away(&self) {
        self.kept_away.inc();
    }

    /// What there will be to count when these batches are durable.
    pub(crate) fn on_their_way<'a>(
        &self,
        me: &Author,
        batches: impl Iterator<Item = &'a VerifiedBatch>,
    ) -> Vec<OnItsWay> {
        let on_its_way = |batch: &'a VerifiedBatch| {
            let header = batch.header();
            OnItsWay {
                topic: self.topics.of(&header.topic),
                origin: if header.author == *me { Origin::Own } else { Origin::Peer },
                events: header.count,
                bytes: batch.bytes().len() as u64,
                last_hlc_ms: header.last_hlc.as_ms(),
            }
        };
        batches.map(on_its_way).collect()
    }

    /// Batches are durable, at this time of the wall clock.
    pub(crate) fn stored(&self, batches: Vec<OnItsWay>, wall_ms: u64) {
        for batch in batches {
            batch.topic.stored(batch.origin).add(batch.events, batch.bytes);
            if batch.origin == Origin::Peer {
                self.propagation.observe(wall_ms.saturating_sub(batch.last_hlc_ms) as f64 / 1e3);
            }
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let publications = "Publications and commits of services that became durable here";
        registry.register("publications", publications, self.publications.clone());
        let refused = "Publications that were refused, and of which nothing was stored";
        registry.register("publications_refused", refused, self.refused.family.clone());
        let duration = "Seconds from handing in a publication until it was durable here";
        registry.register("publish_duration_seconds", duration, self.publish_duration.clone());
        let duration = "Seconds from being durable here until as many peers as were asked for held a publication";
        registry.register("publish_ack_duration_seconds", duration, self.ack_duration.clone());
        let propagation = "Seconds from the stamp of a peer's batch by its author's clock until it was durable here \
                           by this machine's clock";
        registry.register("propagation_duration_seconds", propagation, self.propagation.clone());
        registry.register("sync_frames", "Frames of sync streams, by kind", self.frame_family.clone());
        registry.register("sync_batches", "Batches in answers to pulls", self.batches.family.clone());
        registry.register("sync_batch_bytes", "Bytes of batches in answers to pulls", self.batch_bytes.family.clone());
        let invalid = "What peers sent that was no valid batch, and was dropped";
        registry.register("invalid_batches", invalid, self.invalid.family.clone());
        let offences = "What peers did against the rules: a breach, or a slip that is forgiven now and then";
        registry.register("peer_offences", offences, self.offences.family.clone());
        registry.register("peers_kept_away", "Links that were ended for breaking rules", self.kept_away.clone());
    }
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    topic: std::sync::Arc<super::topics::OfTopic>,
    origin: Origin,
    events: u64,
    bytes: u64,
    last_hlc_ms: u64,
}
