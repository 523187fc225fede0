//! What subscriptions count.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use roundelay_protocol::batch::VerifiedBatch;

use super::{TopicMeters, latency};

/// Handles of what subscriptions count. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryMeters {
    topics: TopicMeters,
    duration: Histogram,
    open: Gauge,
}

impl DeliveryMeters {
    pub(super) fn new(topics: TopicMeters) -> Self {
        Self { topics, duration: latency(), open: Gauge::default() }
    }

    /// A subscription was opened; it counts as open until the guard is dropped.
    pub(crate) fn open(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    /// A batch was handed to a subscription.
    pub(crate) fn delivered(&self, batch: &VerifiedBatch, skipped: usize) {
        let header = batch.header();
        let events = header.count.saturating_sub(skipped as u64);
        self.topics.of(&header.topic).delivered.add(events, batch.bytes().len() as u64);
    }

    /// What was just handed to a subscription that had all before it became durable so long ago.
    pub(crate) fn took(&self, since_durable: Duration) {
        self.duration.observe(since_durable.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let duration =
            "Seconds from being durable here until a batch was handed to a subscription that had all before it";
        registry.register("delivery_duration_seconds", duration, self.duration.clone());
        registry.register("subscriptions", "Subscriptions that are open", self.open.clone());
    }
}

/// A subscription that is open.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
