//! Those who wait for what they published to be durable, here and at peers.

use std::time::{Duration, Instant};

use roundelay_protocol::replica::Input;
use tokio::sync::oneshot;

use super::Engine;
use super::publishing::Plotted;
use crate::node::{CallError, Committed};
use crate::traces::Stages;

/// What waits for the outcome of a publication.
pub(super) struct Waiting {
    pub(super) acks: u32,
    pub(super) reply: oneshot::Sender<Result<Committed, CallError>>,
    pub(super) stored: Option<Committed>,
    /// When to answer although acknowledgements are missing.
    pub(super) until: Option<Instant>,
    pub(super) wait: Option<Duration>,
    pub(super) plotted: Plotted,
    /// When it was handed in; then, when it became durable.
    pub(super) since: Instant,
    pub(super) stages: Stages,
}

impl Engine {
    /// Answers whoever published what is durable now, or waits on for peers to have it.
    pub(super) fn wait_for_acks(&mut self, id: u64, mut waiting: Waiting) {
        let now = Instant::now();
        self.meters.published(now - waiting.since);
        waiting.since = now;
        if waiting.acks == 0
            && let Some(committed) = waiting.stored
        {
            let _ = waiting.reply.send(Ok(committed));
            return;
        }
        waiting.stages.stored(waiting.acks);
        waiting.until = waiting.wait.map(|wait| now + wait);
        if let Some(until) = waiting.until {
            self.deadlines.insert((until, id));
        }
        self.waiting.insert(id, waiting);
    }

    pub(super) fn acked(&mut self, id: u64, peers: u32, complete: bool) {
        let Some(committed) = self.waiting.get_mut(&id).and_then(|waiting| waiting.stored.as_mut()) else { return };
        committed.peers = peers;
        if complete && let Some(Waiting { reply, stored: Some(committed), until, since, .. }) = self.waiting.remove(&id)
        {
            self.meters.acknowledged(since.elapsed());
            if let Some(until) = until {
                self.deadlines.remove(&(until, id));
            }
            let _ = reply.send(Ok(committed));
        }
    }

    /// Answers those whose patience is at its end, and forgets those who are gone.
    pub(super) async fn answer_overdue(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.remove(&(at, id));
            if let Some(Waiting { reply, stored: Some(committed), .. }) = self.waiting.remove(&id) {
                let _ = reply.send(Ok(committed));
            }
            self.feed(Input::Cancel { id }).await;
        }
        let gone = self.waiting.iter().filter(|(_, waiting)| waiting.stored.is_some() && waiting.reply.is_closed());
        let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.waiting.remove(&id);
            self.feed(Input::Cancel { id }).await;
        }
    }
}
