//! What a node counts and measures, for `/metrics`.
//!
//! Who does something holds the handles of what it counts (`EngineMeters`, `LogMeters`, `DeliveryMeters`,
//! `HttpMeters`): an event costs an addition or two, and no look-up by name. [`Metrics`] keeps the same handles in one
//! registry, beside libp2p's own. What can be looked up instead of counted, such as queues and the lag of peers, is
//! `Figures`, taken anew for each scrape.

mod choreographies;
mod consumers;
mod delivery;
mod engine;
mod figures;
mod http;
mod log;
mod process;
mod text;
mod topics;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub use choreographies::{ChoreographyFigures, ChoreographySource};
pub use consumers::{ConsumerFigures, ConsumerSource};
pub(crate) use delivery::{DeliveryMeters, Open};
pub(crate) use engine::{EngineMeters, OnItsWay, Way};
pub(crate) use figures::{Figures, PeerFigures, QueueFigures};
pub(crate) use http::HttpMeters;
pub use log::LogMeters;
pub use text::Format;
pub(crate) use topics::TopicMeters;

/// What the names of this project's own metrics begin with.
const PREFIX: &str = "roundelay";

/// A counter for each value of a label. The label and its values are fixed in the code, so there are few.
type Counters = Family<[(&'static str, &'static str); 1], Counter>;

/// The counter of one value, made at once so that it is there, and 0, before anything happens.
fn counter_of(family: &Counters, label: &'static str, value: &'static str) -> Counter {
    family.get_or_create_owned(&[(label, value)])
}

/// From a tenth of a millisecond to about half a minute, twice as long each.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 19))
}

/// Everything that a node counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    consumers: Mutex<Option<Arc<ConsumerSource>>>,
    choreographies: Mutex<Option<Arc<ChoreographySource>>>,
    pub(crate) engine: EngineMeters,
    pub(crate) delivery: DeliveryMeters,
    pub(crate) http: HttpMeters,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The metrics of a node with this log, beside those that libraries have put into the registry.
    pub(crate) fn new(log: &LogMeters, mut registry: Registry) -> Self {
        let own = registry.sub_registry_with_prefix(PREFIX);
        let topics = TopicMeters::default();
        let metrics = (EngineMeters::new(topics.clone()), DeliveryMeters::new(topics.clone()), HttpMeters::default());
        topics.register(own);
        metrics.0.register(own);
        metrics.1.register(own);
        metrics.2.register(own);
        log.register(own);
        let (engine, delivery, http) = metrics;
        let (consumers, choreographies) = (Mutex::default(), Mutex::default());
        Self { registry: Mutex::new(registry), consumers, choreographies, engine, delivery, http }
    }

    /// Whom to ask for the durable consumers at each scrape. A later source replaces an earlier one.
    pub fn watch_consumers(&self, source: Arc<ConsumerSource>) {
        *self.consumers.lock() = Some(source);
    }

    /// Whom to ask for the choreographies at each scrape. A later source replaces an earlier one.
    pub fn watch_choreographies(&self, source: Arc<ChoreographySource>) {
        *self.choreographies.lock() = Some(source);
    }

    /// Everything as text, in a format that scrapers read.
    pub(crate) fn scrape(&self, mut figures: Figures, format: Format) -> String {
        let source = self.consumers.lock().clone();
        figures.consumers = source.map(|source| source()).unwrap_or_default();
        let source = self.choreographies.lock().clone();
        figures.choreographies = source.map(|source| source()).unwrap_or_default();
        let mut momentary = Registry::default();
        momentary.sub_registry_with_prefix(PREFIX).register_collector(Box::new(figures));
        momentary.register_collector(Box::new(process::Process));
        let registry = self.registry.lock();
        text::write(&[&registry, &momentary], format)
    }
}
