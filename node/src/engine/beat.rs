//! When this node says how far its own logs go: soon after anything was stored, and not again while nothing is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heartbeat::{Heartbeats, Silence};
use roundelay_protocol::replica::Input;
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, Topic};

use super::Engine;
use crate::peer_id::text_of;

/// Heartbeats that are given, and those that came.
pub(crate) struct Beat {
    /// Between two of them; `None` for none.
    every: Option<Duration>,
    due: Instant,
    /// Something was stored since the last.
    has_news: bool,
    /// The last one, while it is not durable: there is no other until then.
    under_way: Option<u64>,
    /// Why none was given when it was time for one last.
    silence: Option<Silence>,
    known: Arc<RwLock<Heartbeats>>,
}

impl Beat {
    pub(crate) fn new(every: Duration, known: Arc<RwLock<Heartbeats>>) -> Self {
        let every = (!every.is_zero()).then_some(every);
        // What was stored before the last end may not have been followed by a heartbeat.
        Self {
            every,
            due: Instant::now() + every.unwrap_or_default(),
            has_news: true,
            under_way: None,
            silence: None,
            known,
        }
    }

    /// A batch is on its way to the disk.
    pub(super) fn note(&mut self, batch: &VerifiedBatch) {
        self.has_news |= !batch.header().topic.is_system();
    }

    /// A batch of heartbeats is durable. False: it is of something else.
    pub(super) fn learn(&mut self, batch: &VerifiedBatch) -> bool {
        let is_beat = batch.header().topic.as_str() == HEARTBEATS_TOPIC;
        if is_beat {
            self.known.write().learn(batch);
        }
        is_beat
    }

    /// A publication is durable.
    pub(super) fn was_published(&mut self, id: u64) {
        self.under_way = self.under_way.filter(|under_way| *under_way != id);
    }

    /// Whether a publication that was refused was a heartbeat. The next one comes in its turn.
    pub(super) fn was_refused(&mut self, id: u64) -> bool {
        let is_beat = self.under_way == Some(id);
        if is_beat {
            (self.has_news, self.under_way) = (true, None);
        }
        is_beat
    }

    /// When the next one is to be given, if any is.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.every.is_some() && self.has_news && self.under_way.is_none()).then_some(self.due)
    }

    /// Tells once why there is none.
    fn note_silence(&mut self, silence: Option<Silence>) {
        let is_alike = |one: &Silence, other: &Silence| std::mem::discriminant(one) == std::mem::discriminant(other);
        if let Some(reason) = &silence
            && !self.silence.as_ref().is_some_and(|before| is_alike(before, reason))
        {
            tracing::warn!("no heartbeats are given, so that what is stable waits for this node: {reason}");
        }
        self.silence = silence;
    }
}

impl Engine {
    /// Gives a heartbeat when it is time for one.
    pub(super) async fn beat_if_due(&mut self) {
        let (Some(every), Some(due)) = (self.beat.every, self.beat.next_deadline()) else { return };
        if Instant::now() < due {
            return;
        }
        self.beat.due = Instant::now() + every;
        let heartbeat = match self.replica.heartbeat(self.now()) {
            Ok(heartbeat) => heartbeat,
            Err(silence) => return self.beat.note_silence(Some(silence)),
        };
        self.beat.note_silence(None);
        self.beat.has_news = false;
        match heartbeat.to_event(format!("/nodes/{}", text_of(&self.replica.author()))).encode() {
            Ok(event) => {
                self.last_id += 1;
                self.beat.under_way = Some(self.last_id);
                self.feed(Input::publish(self.last_id, Topic::heartbeats(), vec![event], 0)).await;
            }
            Err(error) => tracing::error!(%error, "a heartbeat cannot be published"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_heartbeat_is_under_way_there_is_no_other() {
        let mut beat = Beat::new(Duration::from_secs(1), Arc::default());
        assert!(beat.next_deadline().is_some());
        for ends in [Beat::was_published as fn(&mut Beat, u64), |beat, id| assert!(beat.was_refused(id) == (id == 7))] {
            (beat.has_news, beat.under_way) = (true, Some(7));
            assert_eq!(beat.next_deadline(), None);
            ends(&mut beat, 6);
            assert_eq!(beat.next_deadline(), None, "of something else");
            ends(&mut beat, 7);
            assert!(beat.next_deadline().is_some());
        }
        // One that was refused is given again, without anything new.
        (beat.has_news, beat.under_way) = (false, Some(8));
        assert!(beat.was_refused(8) && beat.next_deadline().is_some());
    }
}
