//! What is answered about causes, in JSON. Times are milliseconds since 1970.

use std::sync::Arc;

use roundelay_protocol::choreography::Declaration;
use roundelay_protocol::choreography::conformance::EventRef;
use roundelay_protocol::choreography::flow::{self, Flow};
use roundelay_protocol::choreography::trace::{Line, Trace};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::instances::EventName;
use crate::peer_id::text_of;

/// How much of the log was read for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanInfo {
    /// Batches that were read.
    pub batches: u64,
    /// False when a limit ended that before the beginning of the log: older events are left out.
    pub is_whole: bool,
}

/// An event of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TracedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: EventName,
    /// Its topic.
    pub topic: String,
    /// The peer id of the node that published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The role that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Causes above it; in the answer to why, causes between it and what was asked for.
    pub depth: usize,
    /// Milliseconds between the latest of its causes and it, by their stamps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Ids of the events that caused it.
    pub causes: Vec<String>,
    /// Those of them that were not found.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<String>,
    /// Those of them that are later than it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub backwards: Vec<String>,
}

/// What caused what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceReport {
    /// The correlation id that the events share; missing when they were found by their causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    /// Each event once, below the latest of its causes; in the answer to why, the nearest first.
    pub events: Vec<TracedEvent>,
    /// Repeats that were left out.
    pub repeats: usize,
    /// Events beyond the limit of 4,096 that were left out.
    pub omitted: usize,
    /// How much of the log was read.
    pub scan: ScanInfo,
}

impl TraceReport {
    /// The lines of a trace.
    pub(crate) fn new(trace: &Trace, lines: &[Line], correlation: Option<String>, scan: ScanInfo) -> Self {
        let (repeats, omitted) = trace.left_out();
        let traced = |line: &Line| {
            let (event, node) = (&trace.events()[line.event], &trace.nodes()[line.event]);
            TracedEvent {
                event: EventName::from(&EventRef::from(event)),
                topic: event.topic.to_string(),
                author: event.author.as_ref().map(text_of),
                role: event.role.clone(),
                depth: line.depth,
                wait_ms: line.wait_ms,
                causes: event.causes.clone(),
                missing: node.missing.clone(),
                backwards: node.backwards.clone(),
            }
        };
        Self { correlation, events: lines.iter().map(traced).collect(), repeats, omitted, scan }
    }
}

/// A type of events, and who emits it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Station {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The role, or the source where that is not known.
    pub who: String,
}

impl From<&flow::Station> for Station {
    fn from(flow::Station { kind, who }: &flow::Station) -> Self {
        Self { kind: kind.clone(), who: who.clone() }
    }
}

/// Who reacts to what, how often, and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowEdge {
    /// What caused.
    pub from: Station,
    /// What was caused.
    pub to: Station,
    /// How often.
    pub count: u64,
    /// How often a second, over the time from the first to the last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Half of the reactions took no longer, in milliseconds, with two digits.
    pub p50_ms: u64,
    /// Nine of ten.
    pub p90_ms: u64,
    /// 99 of a hundred.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

/// How many events a station emitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StationCount {
    /// The station.
    #[serde(flatten)]
    pub station: Station,
    /// Its events.
    pub events: u64,
}

/// An edge between types of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KindEdge {
    /// The type that causes.
    pub from: String,
    /// The type that is caused.
    pub to: String,
    /// How often that was seen.
    pub count: u64,
}

/// How what was seen differs from what the latest version of a choreography declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowDifference {
    /// The version.
    pub version: String,
    /// Seen and not declared.
    pub undeclared: Vec<KindEdge>,
    /// Declared and not seen, although there were events of both types: whoever emitted the second did not name the first.
    pub unseen: Vec<KindEdge>,
    /// Declared types of which there was no event.
    pub absent: Vec<String>,
}

/// Who reacts to what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowReport {
    /// The stamp of the first event; missing when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// The stamp of the last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
    /// Who emits what.
    pub stations: Vec<StationCount>,
    /// From cause to effect.
    pub edges: Vec<FlowEdge>,
    /// Against the declaration, when a choreography was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<FlowDifference>,
    /// Causes that are not among the events.
    pub missing_causes: u64,
    /// Edges and events beyond the limits.
    pub omitted: u64,
    /// How much of the log was read.
    pub scan: ScanInfo,
}

impl FlowReport {
    /// A flow, and how it differs from a declaration.
    pub(crate) fn new(flow: &Flow, declaration: Option<&Arc<Declaration>>, scan: ScanInfo) -> Self {
        let edge = |((from, to), edge): (&(flow::Station, flow::Station), &flow::Edge)| {
            let at = |quantile| edge.latency_ms.value_at_quantile(quantile);
            FlowEdge {
                from: from.into(),
                to: to.into(),
                count: edge.count,
                per_second: flow.per_second(edge.count),
                p50_ms: at(0.5),
                p90_ms: at(0.9),
                p99_ms: at(0.99),
                max_ms: at(1.0),
            }
        };
        let station =
            |(station, events): (&flow::Station, &u64)| StationCount { station: station.into(), events: *events };
        let (missing_causes, omitted) = flow.left_out();
        Self {
            from_ms: flow.span_ms().map(|(from, _)| from),
            to_ms: flow.span_ms().map(|(_, to)| to),
            stations: flow.stations().iter().map(station).collect(),
            edges: flow.edges().iter().map(edge).collect(),
            difference: declaration.map(|declaration| FlowDifference::new(flow, declaration)),
            missing_causes,
            omitted,
            scan,
        }
    }
}

impl FlowDifference {
    fn new(flow: &Flow, declaration: &Declaration) -> Self {
        let difference = flow.compare(declaration);
        let edge = |(from, to): &(String, String), count| KindEdge { from: from.clone(), to: to.clone(), count };
        Self {
            version: declaration.version().to_string(),
            undeclared: difference.undeclared.iter().map(|(types, count)| edge(types, *count)).collect(),
            unseen: difference.unseen.iter().map(|types| edge(types, 0)).collect(),
            absent: difference.absent.into_iter().collect(),
        }
    }
}
