//! What is answered about views, in JSON.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A key and the event that gave it its value.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ViewEntry {
    /// The key: the attribute `partitionkey` of its events.
    pub key: String,
    /// Its last event, as a CloudEvent. None: it was pruned here after the view had read it.
    #[schema(value_type = Option<Object>)]
    pub event: Option<Box<RawValue>>,
    /// Whether no event that is older than this one can come any more. Newer ones always may.
    pub is_stable: bool,
}

/// How far a view can be relied on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ViewInfo {
    /// The topic.
    pub topic: String,
    /// Whether this node subscribes to the topic. Otherwise what is shown is what was here before, or what its own services
    /// published.
    pub is_subscribed: bool,
    /// Whether events were pruned here before the view could read them: then keys may be missing, or have old values.
    /// What a keyed topic without other limits lets go is no loss, unless the cap of the store took last events too.
    pub is_partial: bool,
    /// False when not everything that is stored was read in the time that there is for an answer. The next one goes on.
    pub is_up_to_date: bool,
    /// Everything of the topic that was stamped before this millisecond since 1970 is here: what was the last event of a key
    /// then stays it. 0 where that is not known; see `stable`.
    pub stable_ms: u64,
    /// Events that came although they were at or before what had been called stable: of nodes that were left out, that were
    /// not known yet, or that came back from an old copy. They count like any other.
    pub exceptions: u64,
    /// Keys that have values.
    pub keys: usize,
    /// Events without a key: they are in no view.
    pub without_key: u64,
    /// Events of keys for which there was no room.
    pub refused: u64,
}

/// Keys of a topic that have values.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ViewPage {
    /// How far it can be relied on.
    #[serde(flatten)]
    pub info: ViewInfo,
    /// The keys of this page, in their order.
    pub entries: Vec<ViewEntry>,
    /// The `after` of the next page, when there are more.
    pub next: Option<String>,
}

/// The value of one key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ViewValue {
    /// How far it can be relied on.
    #[serde(flatten)]
    pub info: ViewInfo,
    /// The key.
    pub key: String,
    /// Its last event, as a CloudEvent. None: there is none, or it has no data, which takes a key's value away.
    #[schema(value_type = Option<Object>)]
    pub event: Option<Box<RawValue>>,
    /// Whether no event that is older than this one can come any more. Newer ones always may.
    pub is_stable: bool,
    /// Whether the key had a value whose event was pruned here.
    pub is_pruned: bool,
}
