//! How gossipsub is set up: content-addressed, unsigned (batches carry their own signatures), small degree.

use std::time::Duration;

use libp2p::gossipsub::{
    Behaviour, ConfigBuilder, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, Message, MessageAuthenticity,
    MessageId, MetricsConfig, TopicHash, TopicSubscriptionFilter, ValidationMode,
};

use super::{GossipId, MeshError, Registry, limits};

pub(crate) type Gossip = Behaviour<IdentityTransform, MaxCountSubscriptionFilter<TopicFilter>>;

/// A verdict that comes later than this many heartbeats finds its message gone: it is not forwarded then.
const HISTORY_HEARTBEATS: usize = 3;
const HEARTBEAT: Duration = Duration::from_millis(700);
/// Topics of which gossipsub keeps metrics; some two dozen series each.
const MEASURED_TOPICS: usize = 50;

/// Builds the behaviour for one mesh.
pub(crate) fn build(
    names: &TopicNames,
    max_message_bytes: usize,
    registry: &mut Registry,
) -> Result<Gossip, MeshError> {
    let max_packet_bytes = max_message_bytes.max(limits::MAX_CONTROL_BYTES) + limits::GOSSIP_HEADROOM_BYTES;
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message: &Message| MessageId::new(&id_of(message).0))
        .max_transmit_size(max_packet_bytes)
        .max_control_message_size(limits::MAX_CONTROL_BYTES)
        .max_publish_messages(64)
        .connection_handler_queue_len(limits::GOSSIP_QUEUE_MESSAGES)
        .flood_publish(false)
        // Measured with five nodes that all link, three runs each: about 30 % fewer bytes than 3, 4 and 6, and all
        // arrives either way. What a busy relay drops is for lazy gossip and reconciliation.
        .mesh_outbound_min(1)
        .mesh_n_low(2)
        .mesh_n(3)
        .mesh_n_high(4)
        .retain_scores(2)
        .gossip_lazy(2)
        .gossip_factor(0.1)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(HEARTBEAT)
        .history_length(HISTORY_HEARTBEATS)
        .history_gossip(2)
        .duplicate_cache_time(Duration::from_secs(60))
        .prune_backoff(Duration::from_secs(15))
        .unsubscribe_backoff(Duration::from_secs(2))
        .build()
        .map_err(|error| MeshError::Setup { what: "gossip", reason: error.to_string() })?;
    let filter = MaxCountSubscriptionFilter {
        filter: TopicFilter { names: names.clone() },
        max_subscribed_topics: limits::MAX_TOPICS_PER_PEER,
        max_subscriptions_per_request: limits::MAX_TOPICS_PER_PEER,
    };
    let measured =
        MetricsConfig { max_topics: MEASURED_TOPICS, max_never_subscribed_topics: 10, ..MetricsConfig::default() };
    Behaviour::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map(|gossip| gossip.with_metrics(registry.sub_registry_with_prefix("libp2p_gossipsub"), measured))
        .map_err(|reason| MeshError::Setup { what: "gossip", reason: reason.to_string() })
}

fn id_of(message: &Message) -> GossipId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes()).update(&[0]).update(&message.data);
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    GossipId(id)
}

/// Gossipsub's names of our topics: `MESH/TOPIC`, so that meshes that meet by accident do not mix.
#[derive(Clone, Debug)]
pub(crate) struct TopicNames {
    prefix: String,
}

impl TopicNames {
    pub(crate) fn new(mesh_name: &str) -> Self {
        Self { prefix: format!("{mesh_name}/") }
    }

    pub(crate) fn wire(&self, topic: &str) -> IdentTopic {
        IdentTopic::new(format!("{}{topic}", self.prefix))
    }

    /// The topic behind a name on the wire, if it is one of this mesh and well formed.
    pub(crate) fn topic<'a>(&self, wire: &'a TopicHash) -> Option<&'a str> {
        wire.as_str().strip_prefix(&self.prefix).filter(|topic| is_topic(topic))
    }

    /// Bytes that one topic takes in the list that goes to a new neighbour: the name, its framing, and flags.
    pub(crate) fn subscription_bytes(&self, topic: &str) -> usize {
        self.prefix.len() + topic.len() + 16
    }
}

fn is_topic(topic: &str) -> bool {
    topic.len() <= limits::MAX_TOPIC_BYTES
        && topic.split('.').all(|token| {
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        })
}

/// Hears subscriptions to well-formed topics of this mesh only.
#[derive(Clone, Debug)]
pub(crate) struct TopicFilter {
    names: TopicNames,
}

impl TopicSubscriptionFilter for TopicFilter {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        self.names.topic(topic).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_topics_are_checked() {
        let names = TopicNames::new("hall");
        let topic = |name: &str| names.topic(&TopicHash::from_raw(name)).map(str::to_owned);
        assert_eq!(topic("hall/orders.placed").as_deref(), Some("orders.placed"));
        assert_eq!(names.wire("_mesh").hash().as_str(), "hall/_mesh");
        for name in ["other/orders", "hall/", "hall/a..b", "hall/a b", "hall/*", "orders"] {
            assert_eq!(topic(name), None, "{name}");
        }
        assert_eq!(topic(&format!("hall/{}", "a".repeat(256))), None);
    }
}
