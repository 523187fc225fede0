//! Choreographies in a running node: their declarations in the mesh, and what is said of their instances.
//!
//! A declaration is an event of the system topic `_choreographies`, which every node takes part in, so that it reaches
//! all of them and survives restarts like any other event. The [`Observer`] of a node follows the log and folds every
//! instance as its events arrive; what it says follows from the events alone, so every node that holds the same events
//! says the same. Traces and flows read the log when they are asked for. What is decided is in
//! [`roundelay_protocol::choreography`].
//!
//! | module | what |
//! | --- | --- |
//! | `publication` `catalog` | declarations as events; those that are known here |
//! | `reading` `judging` | a place in the log for each choreography; what became of its instances, and bounds on them |
//! | `actor` `observer` `state` `warnings` | the thread that reads and judges; the handle of those who ask; what the two share; what is told in the log of the process |
//! | `scan` | traces, causes and flows out of the log |
//! | `types` `instances` `reports` `error` | what is answered; what is refused |

mod actor;
mod catalog;
mod error;
mod instances;
mod judging;
mod observer;
mod publication;
mod reading;
mod reports;
mod scan;
mod state;
mod types;
mod warnings;

pub use error::{LookupError, ObserverError, PublishError};
pub use instances::{
    EventName, InstanceDetail, InstanceSummary, Instances, JudgedEvent, LateWait, OwedEffect, SupersededEvent,
    Violated, Wait,
};
pub use observer::{Change, Declared, Judged, Observer};
pub use publication::{CHOREOGRAPHY_KIND, publish, read_draft};
pub use reports::{
    FlowDifference, FlowEdge, FlowReport, KindEdge, ScanInfo, Station, StationCount, TraceReport, TracedEvent,
};
pub(crate) use scan::{MAX_SCANS, Scan};
pub(crate) use types::findings_of;
pub use types::{
    Choreographies, ChoreographyDetail, ChoreographyStatus, FindingInfo, PublishedChoreography, VerdictCounts,
    VersionInfo,
};

/// Choreographies that a node knows: the first that arrived. Declarations of further ones are refused and counted.
pub const MAX_CHOREOGRAPHIES: usize = 64;
/// Bytes of all declarations that a node knows, as JSON. Further ones are refused and counted.
pub const MAX_CATALOG_BYTES: usize = 64 * 1024 * 1024;
/// Instances of all choreographies of a node. Beyond it those are forgotten that ended longest ago, and counted.
pub const MAX_INSTANCES: usize = 65_536;
/// Events of all these instances. Beyond it likewise.
pub const MAX_EVENTS: usize = 262_144;
/// Bytes in memory of all these events, roughly. Beyond it likewise.
pub const MAX_EVENT_BYTES: usize = 256 * 1024 * 1024;
/// Instances of one choreography that a page lists.
pub const MAX_LISTED: usize = 1_000;
/// Changes that wait for whoever is told of them; who takes more is told to look at everything.
pub const MAX_CHANGES: usize = 4_096;
