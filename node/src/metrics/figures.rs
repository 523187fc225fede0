//! What is looked up when somebody scrapes.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{ChoreographyFigures, ConsumerFigures};
use crate::mesh::MeshCounters;

type Written = Result<(), std::fmt::Error>;

/// A link to a peer.
#[derive(Debug, Default)]
pub(crate) struct PeerFigures {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) behind_events: u64,
    pub(crate) ahead_events: u64,
    pub(crate) in_sync: bool,
    pub(crate) clock_ahead_ms: i64,
    pub(crate) queued_bytes: usize,
    pub(crate) rtt_ms: Option<f64>,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct QueueFigures {
    pub(crate) name: &'static str,
    pub(crate) length: usize,
    pub(crate) limit: usize,
}

/// Everything that is looked up for a scrape.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mesh: String,
    pub(crate) problems: usize,
    pub(crate) warnings: usize,
    pub(crate) counters: MeshCounters,
    pub(crate) peers: Vec<PeerFigures>,
    pub(crate) known_nodes: usize,
    pub(crate) kept_away: usize,
    pub(crate) queues: Vec<QueueFigures>,
    pub(crate) log_queue_bytes: usize,
    pub(crate) sequencer_bytes: usize,
    pub(crate) awaiting_acks: usize,
    /// Logs of this node and of others.
    pub(crate) logs: [u64; 2],
    pub(crate) forked_logs: u64,
    /// Ranges and events that are missing: pruned, unavailable, not fetched.
    pub(crate) missing: [(u64, u64); 3],
    /// Audits of peers that found both sides equal, and that found a difference.
    pub(crate) audits: [u64; 2],
    pub(crate) refused_logs: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) cap_bytes: u64,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) last_arrival: u64,
    /// Whether events of others, and own ones, are taken.
    pub(crate) takes: [bool; 2],
    pub(crate) uptime_s: f64,
    pub(crate) consumers: Vec<ConsumerFigures>,
    pub(crate) choreographies: Vec<ChoreographyFigures>,
}

/// Writes one family after the other.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Written {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Written {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Written {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Written {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// The same thing in two directions.
    fn ways(&mut self, name: &str, help: &str, inward: u64, outward: u64) -> Written {
        self.counters(name, help, [([("direction", "in")], inward), ([("direction", "out")], outward)])
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> Written {
        let mut sheet = Sheet(encoder);
        self.node(&mut sheet)?;
        self.store(&mut sheet)?;
        self.links(&mut sheet)?;
        self.traffic(&mut sheet)?;
        self.queues(&mut sheet)?;
        self.consumers(&mut sheet)?;
        self.choreographies(&mut sheet)
    }
}

impl Figures {
    fn node(&self, sheet: &mut Sheet<'_>) -> Written {
        let info =
            [("version", env!("CARGO_PKG_VERSION")), ("id", &self.id), ("name", &self.name), ("mesh", &self.mesh)];
        sheet.gauges("node_info", "Always 1; the labels say which node this is.", [(info, 1.0)])?;
        sheet.gauge("uptime_seconds", "Seconds since the node started.", self.uptime_s)?;
        sheet.gauge("healthy", "1 when status finds nothing wrong with this node.", flag(self.problems == 0))?;
        sheet.gauge("problems", "Problems that status tells of.", self.problems as f64)?;
        sheet.gauge("warnings", "Warnings that status tells of.", self.warnings as f64)
    }

    fn store(&self, sheet: &mut Sheet<'_>) -> Written {
        sheet.gauge("store_batch_bytes", "Bytes of the batches in the store.", self.batch_bytes as f64)?;
        sheet.gauge("store_disk_bytes", "Bytes that the store takes on disk.", self.disk_bytes as f64)?;
        let cap = "Bytes that the store may take on disk. Beyond it events are pruned, first those of whoever takes more than a \
            fair share.";
        sheet.gauge("store_cap_bytes", cap, self.cap_bytes as f64)?;
        if let Some(free_bytes) = self.free_bytes {
            let free = "Bytes that are free on the disk that holds the store.";
            sheet.gauge("disk_free_bytes", free, free_bytes as f64)?;
        }
        sheet.gauge("store_last_arrival", "The last arrival number that was given out.", self.last_arrival as f64)?;
        let [others, own] = self.takes;
        let takes =
            "1 when events are taken: this node's own, and those of others. 0 when the store or its disk is full.";
        sheet.gauges(
            "takes_events",
            takes,
            [([("origin", "own")], flag(own)), ([("origin", "peer")], flag(others))],
        )?;
        let [own, others] = self.logs;
        let logs = [([("origin", "own")], own as f64), ([("origin", "peer")], others as f64)];
        sheet.gauges("logs", "Logs that are known here.", logs)?;
        let refused = "Batches and heads of further logs that limits on logs refused.";
        sheet.counter("logs_refused", refused, self.refused_logs)?;
        let forked = "Logs with more than one line: their author's store was restored or copied.";
        sheet.gauge("forked_logs", forked, self.forked_logs as f64)?;
        let reasons = ["pruned", "unavailable", "not_fetched"].map(|reason| [("reason", reason)]);
        let [ranges, events] =
            [self.missing.map(|(ranges, _)| ranges as f64), self.missing.map(|(_, events)| events as f64)];
        sheet.gauges("holes", "Ranges of events that are known and not here.", reasons.into_iter().zip(ranges))?;
        sheet.gauges("missing_events", "Events that are known and not here.", reasons.into_iter().zip(events))
    }

    fn links(&self, sheet: &mut Sheet<'_>) -> Written {
        sheet.gauge("links", "Links to peers that are up.", self.peers.len() as f64)?;
        sheet.gauge("known_nodes", "Nodes of the mesh whose records are known.", self.known_nodes as f64)?;
        let away = "Peers that broke the rules and are kept away now.";
        sheet.gauge("peers_away", away, self.kept_away as f64)?;
        let mut each = |name: &str, help: &str, value: &dyn Fn(&PeerFigures) -> Option<f64>| {
            let labelled = |peer| Some((labels_of(peer), value(peer)?));
            sheet.gauges(name, help, self.peers.iter().filter_map(labelled))
        };
        each("peer_behind_events", "Events that the peer has and this node lacks.", &|peer| {
            Some(peer.behind_events as f64)
        })?;
        each("peer_ahead_events", "Events that this node has and the peer has not announced.", &|peer| {
            Some(peer.ahead_events as f64)
        })?;
        let in_sync = "1 when the last audit found both sides equal and nothing changed since.";
        each("peer_in_sync", in_sync, &|peer| Some(flag(peer.in_sync)))?;
        each("peer_round_trip_seconds", "The last round trip to the peer.", &|peer| Some(peer.rtt_ms? / 1e3))?;
        each("peer_clock_ahead_seconds", "The peer's clock less this machine's.", &|peer| {
            Some(peer.clock_ahead_ms as f64 / 1e3)
        })?;
        each("peer_queue_bytes", "Bytes of frames that wait to be sent to the peer.", &|peer| {
            Some(peer.queued_bytes as f64)
        })?;
        let [equal, different] = self.audits;
        let audits = [([("outcome", "equal")], equal), ([("outcome", "different")], different)];
        sheet.counters("audits", "Audits of peers, by whether both sides were equal.", audits)
    }

    fn traffic(&self, sheet: &mut Sheet<'_>) -> Written {
        let MeshCounters {
            gossip_messages_out,
            gossip_bytes_out,
            gossip_messages_in,
            gossip_bytes_in,
            publishes_dropped,
            publishes_without_peers,
            publishes_duplicate,
            publishes_queues_full,
            gossip_dropped_for_slow_peers,
            gossip_dropped_here,
            gossip_refused,
            verdicts_too_late,
            topics_without_gossip,
            dials,
            dials_failed,
            links_up,
            links_down,
            stream_bytes_out,
            stream_bytes_in,
            sync_bytes_out,
            sync_bytes_in,
            notices_dropped: _,
        } = self.counters;
        let messages =
            "Gossip messages that came and were no repeats, and own ones that at least one peer's queue took.";
        sheet.ways("gossip_messages", messages, gossip_messages_in, gossip_messages_out)?;
        let bytes = "Bytes of these gossip messages, once each however many peers they went to.";
        sheet.ways("gossip_bytes", bytes, gossip_bytes_in, gossip_bytes_out)?;
        let unsent = [
            ("own_queue_full", publishes_dropped),
            ("no_peers", publishes_without_peers),
            ("repeated", publishes_duplicate),
            ("peer_queues_full", publishes_queues_full),
            ("slow_peer", gossip_dropped_for_slow_peers),
        ];
        let unsent = unsent.map(|(reason, count)| ([("reason", reason)], count));
        let help = "Gossip messages that were not sent, or not to some peer; reconciliation brings them where they are wanted.";
        sheet.counters("gossip_unsent_messages", help, unsent)?;
        let dropped =
            [("engine_busy", gossip_dropped_here), ("refused", gossip_refused), ("not_forwarded", verdicts_too_late)];
        let dropped = dropped.map(|(reason, count)| ([("reason", reason)], count));
        let help = "Gossip messages that came and were not taken, or were judged too late to be passed on.";
        sheet.counters("gossip_dropped_messages", help, dropped)?;
        let help = "Topics that go without gossip, as the list of topics is full.";
        sheet.counter("gossip_topics_left_out", help, topics_without_gossip)?;
        sheet.ways("sync_bytes", "Bytes of sync streams.", sync_bytes_in, sync_bytes_out)?;
        let help = "Bytes of all streams to peers, without what encryption and TCP add.";
        sheet.ways("stream_bytes", help, stream_bytes_in, stream_bytes_out)?;
        sheet.counter("dials", "Dials that were begun.", dials)?;
        sheet.counter("dials_failed", "Dials that failed.", dials_failed)?;
        sheet.counter("links_opened", "Links that came up.", links_up)?;
        sheet.counter("links_closed", "Links that went down.", links_down)
    }

    fn queues(&self, sheet: &mut Sheet<'_>) -> Written {
        let lengths = self.queues.iter().map(|queue| ([("queue", queue.name)], queue.length as f64));
        sheet.gauges("queue_length", "What waits in a queue.", lengths)?;
        let limits = self.queues.iter().map(|queue| ([("queue", queue.name)], queue.limit as f64));
        sheet.gauges("queue_limit", "What a queue takes; then whoever feeds it waits.", limits)?;
        let bytes = "Bytes of write sets that wait for the log or are being written.";
        sheet.gauge("log_queue_bytes", bytes, self.log_queue_bytes as f64)?;
        let bytes = "Bytes of events that wait to be sealed into batches.";
        sheet.gauge("sequencer_queue_bytes", bytes, self.sequencer_bytes as f64)?;
        let help = "Publications that are handed in and not answered: being stored, or waiting for acknowledgements.";
        sheet.gauge("publications_waiting", help, self.awaiting_acks as f64)
    }

    fn consumers(&self, sheet: &mut Sheet<'_>) -> Written {
        let mut each = |name: &str, help: &str, value: &dyn Fn(&ConsumerFigures) -> u64| {
            let labelled = |it: &ConsumerFigures| ([("consumer", it.name.clone())], value(it) as f64);
            sheet.gauges(name, help, self.consumers.iter().map(labelled))
        };
        let lag = "Events that match a durable consumer and are not acknowledged.";
        each("consumer_lag_events", lag, &|it| it.lag_events)?;
        let help = "Events that were handed out and not acknowledged yet.";
        each("consumer_in_flight_events", help, &|it| it.in_flight_events)?;
        each("consumer_dead_letters", "Events among a consumer's dead letters.", &|it| it.dead_letters)?;
        let members = "Members of a consumer's group that are alive; 0 without a group.";
        each("consumer_members", members, &|it| it.members)?;
        let mut each = |name: &str, help: &str, value: &dyn Fn(&ConsumerFigures) -> u64| {
            let labelled = |it: &ConsumerFigures| ([("consumer", it.name.clone())], value(it));
            sheet.counters(name, help, self.consumers.iter().map(labelled))
        };
        let help = "Events that were handed out, each time counted.";
        each("consumer_deliveries", help, &|it| it.deliveries)?;
        let help = "Events that were handed out and had been before.";
        each("consumer_redeliveries", help, &|it| it.redeliveries)
    }

    fn choreographies(&self, sheet: &mut Sheet<'_>) -> Written {
        let all = &self.choreographies;
        let instances =
            all.iter().flat_map(|it| it.instances.iter().map(move |(verdict, count)| (it, *verdict, *count)));
        let labelled = |(it, verdict, count): (&ChoreographyFigures, &str, u64)| {
            ([("choreography", it.name.clone()), ("verdict", verdict.to_owned())], count as f64)
        };
        let help = "Instances of choreographies, by what is said of them.";
        sheet.gauges("choreography_instances", help, instances.map(labelled))?;
        let mut each = |name: &str, help: &str, value: &dyn Fn(&ChoreographyFigures) -> u64| {
            let labelled = |it: &ChoreographyFigures| ([("choreography", it.name.clone())], value(it) as f64);
            sheet.gauges(name, help, all.iter().map(labelled))
        };
        each("choreography_events", "Events of the instances of choreographies.", &|it| it.events)?;
        let forgotten = "Instances that had ended and were forgotten to make room, since the log was read.";
        each("choreography_forgotten_instances", forgotten, &|it| it.forgotten)?;
        let refused =
            "Events of choreographies that were not taken, for lack of room or as their instances were forgotten.";
        each("choreography_refused_events", refused, &|it| it.refused)?;
        let refolded = "Instances that were folded anew, as an event came late or a version was published.";
        let labelled = |it: &ChoreographyFigures| ([("choreography", it.name.clone())], it.refolded);
        sheet.counters("choreography_refolds", refolded, all.iter().map(labelled))
    }
}

fn labels_of(peer: &PeerFigures) -> [(&'static str, String); 2] {
    [("peer", peer.id.clone()), ("name", peer.name.clone())]
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
