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
