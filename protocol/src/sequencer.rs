//! The queue of events that wait to be sealed. While one write is on its way to the disk, what is published meanwhile
//! gathers here and goes into the next: one event a batch when idle, hundreds under load.

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use crate::event::EncodedEvent;
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use crate::topic::Topic;
use crate::write_set::Mark;

/// Bytes of events that may wait to be sealed; the driver takes no more publications beyond.
pub const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of events in one write.
pub const MAX_WRITE_BYTES: usize = 1024 * 1024;

/// What goes to one topic of a publication.
#[derive(Debug, Clone)]
pub struct Part {
    /// Where to.
    pub topic: Topic,
    /// At least one.
    pub events: Vec<EncodedEvent>,
}

/// What is published together: all of it is stored, or nothing.
#[derive(Debug)]
pub struct Publication {
    /// The caller's name for it.
    pub id: u64,
    /// Events by topic; none when only marks are to be written.
    pub parts: SmallVec<[Part; 1]>,
    /// Marks that become durable with the events.
    pub marks: Vec<Mark>,
    /// How many peers must hold it before it is reported as acknowledged.
    pub acks: u32,
    /// When it came in, in milliseconds of the monotonic clock.
    pub since_ms: u64,
}

impl Publication {
    fn bytes(&self) -> usize {
        let events = self.parts.iter().flat_map(|part| &part.events).map(EncodedEvent::item_bytes);
        let marks = self.marks.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
        events.sum::<usize>() + marks.sum::<usize>()
    }

    /// Publications wait with others of their first topic. Those without events have a queue of their own.
    fn queue(&self) -> Option<Topic> {
        self.parts.first().map(|part| part.topic.clone())
    }
}

/// The waiting publications, by their first topic.
#[derive(Debug, Default)]
pub struct Sequencer {
    queues: BTreeMap<Option<Topic>, VecDeque<Publication>>,
    bytes: usize,
}

impl Sequencer {
    /// Puts a publication at the end of its queue.
    pub fn push(&mut self, publication: Publication) {
        self.bytes += publication.bytes();
        self.queues.entry(publication.queue()).or_default().push_back(publication);
    }

    /// Takes the publications for one write: from every queue in turn, whole, up to [`MAX_WRITE_BYTES`] or one.
    pub fn take(&mut self) -> Vec<Publication> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < MAX_WRITE_BYTES && !self.queues.is_empty() {
            for queue in self.queues.values_mut() {
                let share = bytes + MAX_BATCH_BYTES;
                while bytes < share.min(MAX_WRITE_BYTES)
                    && let Some(publication) = queue.pop_front()
                {
                    bytes += publication.bytes();
                    taken.push(publication);
                }
            }
            self.queues.retain(|_, queue| !queue.is_empty());
        }
        self.bytes -= bytes;
        taken
    }

    /// Takes those that bring no events.
    pub fn take_without_events(&mut self) -> Vec<Publication> {
        let taken: Vec<Publication> = self.queues.remove(&None).unwrap_or_default().into();
        self.bytes -= taken.iter().map(Publication::bytes).sum::<usize>();
        taken
    }

    /// Empties the queues.
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
