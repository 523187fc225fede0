//! Gossip in and out: publishing, what arrives, verdicts, and subscriptions.

use std::sync::atomic::Ordering::Relaxed;

use libp2p::PeerId;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId, PublishError};
use tokio::sync::mpsc;

use super::driver::Driver;
use super::{GossipId, MeshEvent, Publish, Verdict, limits};

/// Messages that are published before the connections get their turn again.
const PUBLISH_BURST: usize = 16;

impl Driver {
    pub(crate) fn publish_burst(&mut self, first: Publish, more: &mut mpsc::Receiver<Publish>) {
        let mut next = Some(first);
        for _ in 0..PUBLISH_BURST {
            let Some(publish) = next.take().or_else(|| more.try_recv().ok()) else { break };
            self.publish(publish);
        }
    }

    /// Whether no neighbour's queue is so full that the next messages could overflow it.
    pub(crate) fn may_publish(&mut self) -> bool {
        let now_ms = self.now_ms();
        !self.peers.values_mut().any(|state| state.backlog.is_full(now_ms))
    }

    fn publish(&mut self, Publish { topic, data }: Publish) {
        let bytes = data.len();
        let now_ms = self.now_ms();
        let wire = self.names.wire(&topic).hash();
        self.shared.publish_bytes.fetch_sub(bytes, Relaxed);
        let counters = &self.counters;
        match self.swarm.behaviour_mut().gossip.publish(wire.clone(), data) {
            Ok(_) => {
                for peer in self.swarm.behaviour().gossip.mesh_peers(&wire) {
                    if let Some(state) = self.peers.get_mut(peer) {
                        state.backlog.add(bytes, now_ms);
                    }
                }
                counters.gossip_messages_out.fetch_add(1, Relaxed);
                counters.gossip_bytes_out.fetch_add(bytes as u64, Relaxed);
            }
            Err(PublishError::NoPeersSubscribedToTopic) => _ = counters.publishes_without_peers.fetch_add(1, Relaxed),
            Err(PublishError::Duplicate) => _ = counters.publishes_duplicate.fetch_add(1, Relaxed),
            Err(PublishError::AllQueuesFull(_)) => _ = counters.publishes_queues_full.fetch_add(1, Relaxed),
            Err(error) => {
                counters.publishes_dropped.fetch_add(1, Relaxed);
                tracing::warn!(%topic, bytes, %error, "gossip did not take a message");
            }
        }
    }

    pub(crate) fn apply_verdicts(&mut self) {
        let verdicts = std::mem::take(&mut *self.shared.verdicts.lock());
        for (id, from, verdict) in verdicts {
            self.apply_verdict(id, from, verdict);
        }
    }

    fn apply_verdict(&mut self, id: GossipId, from: PeerId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if !gossip.report_message_validation_result(&MessageId::new(&id.0), &from, acceptance) {
            self.counters.verdicts_too_late.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source: from, message_id, message } => {
                let Ok(id) = message_id.0.as_slice().try_into().map(GossipId) else { return };
                let bytes = message.data.len();
                let topic = self.names.topic(&message.topic).map(str::to_owned);
                let Some(topic) = topic.filter(|_| bytes <= self.config.max_message_bytes) else {
                    self.counters.gossip_refused.fetch_add(1, Relaxed);
                    let what = format!("sent a gossip message of {bytes} bytes, or of another mesh");
                    self.tell(MeshEvent::Misconduct { peer: from, what, breach: false });
                    return self.apply_verdict(id, from, Verdict::Reject);
                };
                self.counters.gossip_messages_in.fetch_add(1, Relaxed);
                self.counters.gossip_bytes_in.fetch_add(bytes as u64, Relaxed);
                if !self.tell(MeshEvent::Gossip { from, id, topic, data: message.data.into() }) {
                    self.counters.gossip_dropped_here.fetch_add(1, Relaxed);
                    self.apply_verdict(id, from, Verdict::Ignore);
                }
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                let dropped = (failed_messages.priority + failed_messages.non_priority) as u64;
                self.counters.gossip_dropped_for_slow_peers.fetch_add(dropped, Relaxed);
                tracing::debug!(peer = %peer_id, dropped, "a peer takes gossip slower than it comes");
            }
            _ => {}
        }
    }

    pub(crate) fn subscribe(&mut self, topic: String) {
        if self.subscribed.contains_key(&topic) {
            return;
        }
        let bytes = self.names.subscription_bytes(&topic);
        let fits = self.subscription_bytes + bytes <= limits::MAX_SUBSCRIPTION_BYTES;
        let wire = self.names.wire(&topic);
        let taken = fits && self.swarm.behaviour_mut().gossip.subscribe(&wire).is_ok();
        if taken {
            self.subscription_bytes += bytes;
        } else {
            self.counters.topics_without_gossip.fetch_add(1, Relaxed);
            tracing::debug!(%topic, "this topic goes without gossip");
        }
        self.subscribed.insert(topic, taken);
    }

    pub(crate) fn unsubscribe(&mut self, topic: &str) {
        if self.subscribed.remove(topic) == Some(true) {
            self.subscription_bytes -= self.names.subscription_bytes(topic);
            self.swarm.behaviour_mut().gossip.unsubscribe(&self.names.wire(topic));
        }
    }

    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed.get(topic).copied().unwrap_or(false)
    }
}
