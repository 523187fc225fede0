//! Events as a consumer delivers them.

use roundelay_protocol::choreography::participant::Received;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;
use serde::Deserialize;

use crate::cloudevents::{Object, Reading, read_event};

/// An event that was delivered.
pub(super) struct Incoming {
    /// By which it is acknowledged.
    pub(super) cursor: String,
    /// Which attempt this is, from 1.
    pub(super) attempt: u32,
    /// Its place in the log.
    pub(super) arrival: Arrival,
    /// The event. None: it is of no instance.
    pub(super) event: Option<Received>,
}

/// What is said of a delivery.
#[derive(Deserialize)]
struct Delivered {
    #[serde(default)]
    rdlcursor: String,
    #[serde(default)]
    rdlattempt: u32,
    #[serde(default)]
    rdlarrival: String,
    #[serde(default)]
    rdlhlc: String,
}

/// Reads an event as the node itself gave it out.
pub(super) fn read(json: &[u8]) -> Option<Incoming> {
    let delivered: Delivered = serde_json::from_slice(json).ok()?;
    let object: Object<'_> = serde_json::from_slice(json).ok()?;
    let found = read_event(&object, Reading::Again).ok()?;
    let (topic, event) = (found.topic.and_then(|topic| Topic::new(&topic).ok())?, found.event);
    let stamp = Hlc(delivered.rdlhlc.parse().unwrap_or_default());
    let received = event.correlation.map(|correlation| Received {
        topic,
        source: event.source,
        id: event.id,
        kind: event.kind,
        subject: event.subject,
        content_type: event.content_type,
        correlation,
        stamp,
        data: event.data,
    });
    Some(Incoming {
        cursor: delivered.rdlcursor,
        attempt: delivered.rdlattempt,
        arrival: Arrival(delivered.rdlarrival.parse().unwrap_or_default()),
        event: received,
    })
}
