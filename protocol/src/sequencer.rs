//! The queue of events that wait to be sealed. While one write is on its way to the disk, what is published meanwhile
//! gathers here and goes into the next: one event a batch when idle, hundreds under load.

use std::collections::{BTreeMap, VecDeque};

use crate::event::EncodedEvent;
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use crate::topic::Topic;

/// Bytes of events that may wait to be sealed; the driver takes no more publications beyond.
pub const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of events in one write.
pub const MAX_WRITE_BYTES: usize = 1024 * 1024;

/// Events that are published together: all of them are stored, or none.
#[derive(Debug)]
pub struct Publication {
    /// The caller's name for it.
    pub id: u64,
    /// At least one event.
    pub events: Vec<EncodedEvent>,
    /// How many peers must hold it before it is reported as acknowledged.
    pub acks: u32,
    /// When it came in, in milliseconds of the monotonic clock.
    pub since_ms: u64,
}

impl Publication {
    fn bytes(&self) -> usize {
        self.events.iter().map(EncodedEvent::item_bytes).sum()
    }
}

/// The waiting publications, by topic.
#[derive(Debug, Default)]
pub struct Sequencer {
    queues: BTreeMap<Topic, VecDeque<Publication>>,
    bytes: usize,
}

impl Sequencer {
    /// Puts a publication at the end of its topic's queue.
    pub fn push(&mut self, topic: Topic, publication: Publication) {
        self.bytes += publication.bytes();
        self.queues.entry(topic).or_default().push_back(publication);
    }

    /// Takes the publications for one write: from every topic in turn, whole, up to [`MAX_WRITE_BYTES`] or one.
    pub fn take(&mut self) -> Vec<(Topic, Vec<Publication>)> {
        let mut taken: BTreeMap<Topic, Vec<Publication>> = BTreeMap::new();
        let mut bytes = 0;
        while bytes < MAX_WRITE_BYTES && !self.queues.is_empty() {
            for (topic, queue) in &mut self.queues {
                let share = bytes + MAX_BATCH_BYTES;
                while bytes < share.min(MAX_WRITE_BYTES)
                    && let Some(publication) = queue.pop_front()
                {
                    bytes += publication.bytes();
                    taken.entry(topic.clone()).or_default().push(publication);
                }
            }
            self.queues.retain(|_, queue| !queue.is_empty());
        }
        self.bytes -= bytes;
        taken.into_iter().collect()
    }

    /// Empties the queue.
    pub fn drain(&mut self) -> Vec<Publication> {
        self.bytes = 0;
        std::mem::take(&mut self.queues).into_values().flatten().collect()
    }

    /// When the publication that waits longest came in.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        self.queues.values().filter_map(|queue| queue.front()).map(|publication| publication.since_ms).min()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

/// Cuts events into runs that fit a batch each: by count, and by bytes unless a single event is larger.
#[must_use]
pub fn cut(events: &[EncodedEvent]) -> Vec<&[EncodedEvent]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, event) in events.iter().enumerate() {
        let size = event.item_bytes();
        if index > start && (bytes + size > MAX_BATCH_BYTES - 1024 || index - start >= MAX_BATCH_EVENTS) {
            runs.push(&events[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < events.len() {
        runs.push(&events[start..]);
    }
    runs
}
