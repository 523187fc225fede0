//! What the log's thread measures.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::latency;

/// Handles of what the log's thread measures. Clones share them.
#[derive(Debug, Clone)]
pub struct LogMeters {
    write: Histogram,
    sync: Histogram,
    group_bytes: Histogram,
    write_sets: Counter,
}

impl Default for LogMeters {
    fn default() -> Self {
        Self {
            write: latency(),
            sync: latency(),
            group_bytes: Histogram::new(exponential_buckets(1024.0, 4.0, 8)),
            write_sets: Counter::default(),
        }
    }
}

impl LogMeters {
    /// A group of write sets was encoded for the store, which took so long.
    pub(crate) fn wrote(&self, sets: usize, bytes: usize, took: Duration) {
        self.write_sets.inc_by(sets as u64);
        self.group_bytes.observe(bytes as f64);
        self.write.observe(took.as_secs_f64());
    }

    /// It was written and synced, which took so long.
    pub(crate) fn synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let write = "Seconds that the log took to encode one group of write sets";
        registry.register("log_write_duration_seconds", write, self.write.clone());
        let sync = "Seconds that the log took to write one group of write sets and sync it (flush and fdatasync)";
        registry.register("log_sync_duration_seconds", sync, self.sync.clone());
        registry.register("log_group_bytes", "Bytes of one group of write sets", self.group_bytes.clone());
        registry.register("log_write_sets", "Write sets that became durable", self.write_sets.clone());
    }
}
