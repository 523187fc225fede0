//! Counters by topic. There may be any number of topics, and each costs a scraper memory for good, so only the first
//! ones get series of their own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use roundelay_protocol::topic::Topic;

/// Topics with series of their own; what happens in further ones is counted as [`OTHER`].
pub(crate) const MAX_TOPICS: usize = 100;
/// All further topics. This is no topic, so that none is mistaken for it.
const OTHER: &str = "(other)";

type ByTopic = Family<[(&'static str, String); 1], Counter>;
type ByOrigin = Family<[(&'static str, Arc<str>); 2], Counter>;

/// Whose events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Own,
    Peer,
}

/// Counts of one kind of thing that happens to batches.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    events: Counter,
    bytes: Counter,
}

impl Flow {
    pub(crate) fn add(&self, events: u64, bytes: u64) {
        self.events.inc_by(events);
        self.bytes.inc_by(bytes);
    }
}

/// The counters of one topic.
#[derive(Debug)]
pub(crate) struct OfTopic {
    own: Flow,
    peer: Flow,
    pub(crate) delivered: Flow,
}

impl OfTopic {
    pub(crate) fn stored(&self, origin: Origin) -> &Flow {
        match origin {
            Origin::Own => &self.own,
            Origin::Peer => &self.peer,
        }
    }
}

/// The counters of all topics. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicMeters(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: RwLock<HashMap<Topic, Arc<OfTopic>>>,
    other: RwLock<Option<Arc<OfTopic>>>,
    stored_events: ByOrigin,
    stored_bytes: ByOrigin,
    delivered_events: ByTopic,
    delivered_bytes: ByTopic,
}

impl TopicMeters {
    /// The counters of a topic: to be looked up once a batch.
    pub(crate) fn of(&self, topic: &Topic) -> Arc<OfTopic> {
        if let Some(known) = self.0.known.read().get(topic) {
            return known.clone();
        }
        let mut known = self.0.known.write();
        if let Some(known) = known.get(topic) {
            return known.clone();
        }
        if known.len() < MAX_TOPICS {
            let counters = Arc::new(self.make(topic.as_str()));
            known.insert(topic.clone(), counters.clone());
            return counters;
        }
        drop(known);
        self.0.other.write().get_or_insert_with(|| Arc::new(self.make(OTHER))).clone()
    }

    fn make(&self, topic: &str) -> OfTopic {
        let name: Arc<str> = topic.into();
        let stored = |origin: &str| {
            let labels = [("topic", name.clone()), ("origin", origin.into())];
            Flow {
                events: self.0.stored_events.get_or_create_owned(&labels),
                bytes: self.0.stored_bytes.get_or_create_owned(&labels),
            }
        };
        let labels = [("topic", topic.to_owned())];
        let delivered = Flow {
            events: self.0.delivered_events.get_or_create_owned(&labels),
            bytes: self.0.delivered_bytes.get_or_create_owned(&labels),
        };
        OfTopic { own: stored("own"), peer: stored("peer"), delivered }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let inner = &self.0;
        registry.register("stored_events", "Events that became durable here", inner.stored_events.clone());
        registry.register("stored_bytes", "Bytes of batches that became durable here", inner.stored_bytes.clone());
        let help = "Events of batches that were handed to subscriptions, once for each subscription";
        registry.register("delivered_events", help, inner.delivered_events.clone());
        let help = "Bytes of batches that were handed to subscriptions, once for each subscription";
        registry.register("delivered_bytes", help, inner.delivered_bytes.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_share_one_series() {
        let meters = TopicMeters::default();
        let topic = |n: usize| Topic::new(&format!("topic.{n}")).unwrap();
        for n in 0..MAX_TOPICS + 50 {
            meters.of(&topic(n)).stored(Origin::Own).add(1, 10);
        }
        let count = |name: &str| {
            let labels = [("topic", Arc::from(name)), ("origin", Arc::from("own"))];
            meters.0.stored_events.get_or_create_owned(&labels).get()
        };
        assert_eq!(count("topic.0"), 1);
        assert_eq!(count(OTHER), 50);
        let mut registry = Registry::default();
        meters.register(&mut registry);
        let text = crate::metrics::text::write(&[&registry], crate::metrics::Format::Prometheus);
        let series = text.lines().filter(|line| line.starts_with("stored_events_total{")).count();
        assert_eq!(series, 2 * (MAX_TOPICS + 1), "two origins each, and no more");
        meters.of(&topic(MAX_TOPICS + 7)).stored(Origin::Own).add(2, 0);
        assert_eq!(count(OTHER), 52);
    }
}
