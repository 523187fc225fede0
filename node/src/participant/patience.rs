//! Deliveries that wait until they are stable: until no event can come any more that is before them.

use std::collections::BTreeMap;
use std::time::Duration;

use roundelay_protocol::hlc::Hlc;
use tokio::time::Instant;

use super::Stage;
use super::incoming::Incoming;

/// How often it is asked what is stable.
const LOOK: Duration = Duration::from_millis(200);
/// However short a time handlers have.
const SHORTEST: Duration = Duration::from_millis(20);
/// How often it is told that something waits, and for whom.
const TELL: Duration = Duration::from_secs(60);

/// Deliveries in the order in which they become stable.
pub(super) struct Patience {
    consumer: String,
    waiting: BTreeMap<(Hlc, u64), Incoming>,
    added: u64,
    looks_at: Instant,
    extended: Instant,
    told: Instant,
}

impl Patience {
    pub(super) fn new(consumer: String) -> Self {
        let now = Instant::now();
        Self { consumer, waiting: BTreeMap::new(), added: 0, looks_at: now, extended: now, told: now }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Has a delivery wait. One that is of no instance comes back.
    pub(super) fn add(&mut self, incoming: Incoming) -> Option<Incoming> {
        let Some(event) = &incoming.event else { return Some(incoming) };
        if self.waiting.is_empty() {
            let now = Instant::now();
            (self.looks_at, self.extended, self.told) = (now, now, now);
        }
        self.added += 1;
        self.waiting.insert((event.stamp, self.added), incoming);
        None
    }

    /// Until it is time to look again.
    pub(super) async fn rest(&self) {
        tokio::time::sleep_until(self.looks_at).await;
    }

    /// The consumer takes back what it hears nothing of.
    fn extend_after(&self, stage: &Stage) -> Duration {
        Duration::from_millis(stage.options.handling_limit_ms / 3).max(SHORTEST)
    }

    /// Those that are stable by now, by their stamps.
    pub(super) async fn release(&mut self, stage: &Stage) -> Vec<Incoming> {
        // Whatever keeps the answer away, the consumer must not wait in vain meanwhile.
        if self.extended.elapsed() >= self.extend_after(stage) {
            self.extended = Instant::now();
            self.extend(stage, self.waiting.values()).await;
        }
        let (stable, slowest) = match tokio::time::timeout(self.extend_after(stage), stage.stable()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => (Hlc(0), error.to_string()),
            Err(_) => (Hlc(0), "this node, which is busy".to_owned()),
        };
        let later = self.waiting.split_off(&(Hlc(stable.0.saturating_add(1)), 0));
        let released = std::mem::replace(&mut self.waiting, later);
        // A handler has its whole time from now on.
        self.extend(stage, released.values()).await;
        if !self.waiting.is_empty() && self.told.elapsed() >= TELL {
            self.told = Instant::now();
            tracing::warn!(
                consumer = self.consumer, events = self.waiting.len(), %slowest,
                "events wait until they are stable: `roundelay stable` shows what holds them up"
            );
        }
        self.looks_at = Instant::now() + LOOK.min(self.extend_after(stage));
        released.into_values().collect()
    }

    async fn extend(&self, stage: &Stage, waiting: impl Iterator<Item = &Incoming>) {
        let cursors: Vec<String> = waiting.map(|incoming| incoming.cursor.clone()).collect();
        if cursors.is_empty() {
            return;
        }
        if let Err(error) = stage.consumers.extend(self.consumer.clone(), cursors).await {
            tracing::debug!(%error, consumer = self.consumer, "what waits will be delivered again");
        }
    }
}
