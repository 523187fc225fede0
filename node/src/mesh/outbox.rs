//! What waits for room in the channel to the engine. The swarm's task never waits: it puts events here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::counters::Counters;
use super::{MeshEvent, limits};

/// Events in order. Links and addresses always fit, because they replace each other; gossip and notices are bounded.
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: VecDeque<MeshEvent>,
    gossip_messages: usize,
    gossip_bytes: usize,
    notices: usize,
    misconducts: usize,
    counters: Arc<Counters>,
}

impl Outbox {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { waiting: VecDeque::new(), gossip_messages: 0, gossip_bytes: 0, notices: 0, misconducts: 0, counters }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes an event. False if it is gossip and there is no room.
    pub(crate) fn push(&mut self, event: MeshEvent) -> bool {
        match &event {
            MeshEvent::Gossip { data, .. } => {
                if self.gossip_messages >= limits::MAX_PENDING_GOSSIP_MESSAGES
                    || self.gossip_bytes + data.len() > limits::MAX_PENDING_GOSSIP_BYTES
                {
                    return false;
                }
                self.gossip_messages += 1;
                self.gossip_bytes += data.len();
            }
            MeshEvent::Notice(_) => {
                self.notices += 1;
                if self.notices > limits::MAX_PENDING_NOTICES {
                    self.drop_oldest(|event| matches!(event, MeshEvent::Notice(_)));
                    self.notices -= 1;
                    self.counters.notices_dropped.fetch_add(1, Relaxed);
                }
            }
            MeshEvent::Misconduct { .. } => {
                self.misconducts += 1;
                // Whoever misbehaves on and on is heard of again.
                if self.misconducts > limits::MAX_PENDING_NOTICES {
                    self.misconducts -= 1;
                    return true;
                }
            }
            MeshEvent::Addresses(_) => self.drop_oldest(|event| matches!(event, MeshEvent::Addresses(_))),
            MeshEvent::LinkDown { link: down, .. } => {
                let before = self.waiting.len();
                self.drop_oldest(|event| matches!(event, MeshEvent::LinkUp { link, .. } if link == down));
                // The engine never heard of the link, so it need not hear of its end.
                if self.waiting.len() < before {
                    return true;
                }
            }
            MeshEvent::LinkUp { .. } => {}
        }
        self.waiting.push_back(event);
        true
    }

    pub(crate) fn pop(&mut self) -> Option<MeshEvent> {
        let event = self.waiting.pop_front()?;
        match &event {
            MeshEvent::Gossip { data, .. } => {
                self.gossip_messages -= 1;
                self.gossip_bytes -= data.len();
            }
            MeshEvent::Notice(_) => self.notices -= 1,
            MeshEvent::Misconduct { .. } => self.misconducts -= 1,
            _ => {}
        }
        Some(event)
    }

    fn drop_oldest(&mut self, is_it: impl Fn(&MeshEvent) -> bool) {
        if let Some(index) = self.waiting.iter().position(is_it) {
            self.waiting.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::super::{GossipId, Notice};
    use super::*;

    fn gossip(bytes: usize) -> MeshEvent {
        let (from, id, topic) = (PeerId::random(), GossipId([0; 16]), "a".to_owned());
        MeshEvent::Gossip { from, id, topic, data: vec![0; bytes].into() }
    }

    /// Puts in as many as there are, and says how many were taken.
    fn taken(outbox: &mut Outbox, events: impl Iterator<Item = MeshEvent>) -> usize {
        events.filter_map(|event| outbox.push(event).then_some(())).count()
    }

    fn kept(mut outbox: Outbox) -> usize {
        std::iter::from_fn(|| outbox.pop()).count()
    }

    #[test]
    fn gossip_waits_up_to_so_many_messages_and_bytes() {
        let by_bytes = limits::MAX_PENDING_GOSSIP_BYTES / 65_000;
        for (bytes, fit) in [(10, limits::MAX_PENDING_GOSSIP_MESSAGES), (65_000, by_bytes)] {
            let mut outbox = Outbox::new(Arc::default());
            assert_eq!(taken(&mut outbox, (0..5_000).map(|_| gossip(bytes))), fit);
            outbox.pop();
            assert!(outbox.push(gossip(bytes)), "there is room again");
            assert!(!outbox.push(gossip(bytes)));
            assert_eq!(kept(outbox), fit);
        }
    }

    #[test]
    fn of_notices_the_newest_wait_and_of_misconduct_the_oldest() {
        let address = "/ip4/127.0.0.1/tcp/1".parse::<libp2p::Multiaddr>().unwrap();
        let counters = Arc::<Counters>::default();
        let mut outbox = Outbox::new(counters.clone());
        let notice = || MeshEvent::Notice(Notice::TwinSeen { address: address.clone() });
        assert_eq!(taken(&mut outbox, (0..600).map(|_| notice())), 600);
        assert_eq!(counters.notices_dropped.load(Relaxed), 88);
        assert_eq!(kept(outbox), limits::MAX_PENDING_NOTICES);
        let mut outbox = Outbox::new(counters);
        let misconduct = || MeshEvent::Misconduct { peer: PeerId::random(), what: String::new(), breach: true };
        taken(&mut outbox, (0..600).map(|_| misconduct()));
        assert_eq!(kept(outbox), limits::MAX_PENDING_NOTICES);
    }
}
