//! What consumers write: acknowledgements, commits, dead letters. One write is under way at a time; all that is asked
//! for meanwhile goes into the next.

use std::collections::{BTreeMap, BTreeSet};

use roundelay_protocol::consumer::{Identity, Slot};
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::Mark;

use super::actor::Actor;
use super::error::ConsumersError;
use crate::node::{CallError, Committed, PartPlace, Transaction};

/// Changes that one write holds, and bytes of their events.
const MAX_CHANGES: usize = 1_024;
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// What became of a change: where each of its parts is once it is durable, or why it was refused.
pub(super) type Written<'a> = Result<&'a [PartPlace], ConsumersError>;
/// Hears of it.
pub(super) type Done = Box<dyn FnOnce(&mut Actor, Written<'_>) + Send>;

/// Something that is written all or nothing.
pub(super) struct Change {
    pub(super) consumer: String,
    /// Of which life of a consumer of that name.
    pub(super) life: u64,
    /// What is done with it.
    pub(super) slots: Vec<Slot>,
    pub(super) marks: Vec<Mark>,
    pub(super) parts: Vec<(Topic, Vec<EncodedEvent>)>,
    /// It was refused together with others, and is tried without them.
    pub(super) alone: bool,
    pub(super) done: Done,
}

impl Change {
    /// A change of a consumer in one of its lives that writes how far it is.
    pub(super) fn of(consumer: &str, life: u64) -> Self {
        Self {
            consumer: consumer.to_owned(),
            life,
            slots: Vec::new(),
            marks: Vec::new(),
            parts: Vec::new(),
            alone: false,
            done: Box::new(|_, _| {}),
        }
    }

    /// One that writes these alone, whatever became of the consumer.
    pub(super) fn marks(consumer: &str, marks: Vec<Mark>) -> Self {
        Self { marks, ..Self::of(consumer, 0) }
    }

    /// One that writes nothing: it is told when all that was queued before is durable, or with a refusal of that.
    pub(super) fn answer(consumer: &str, done: impl FnOnce(&mut Actor, Written<'_>) + Send + 'static) -> Self {
        Self { done: Box::new(done), ..Self::of(consumer, 0) }
    }

    fn bytes(&self) -> usize {
        let events = self.parts.iter().flat_map(|(_, events)| events);
        events.map(EncodedEvent::item_bytes).sum::<usize>() + self.marks.iter().map(mark_bytes).sum::<usize>()
    }
}

fn mark_bytes((name, value): &Mark) -> usize {
    name.len() + value.as_ref().map_or(0, Vec::len)
}

impl Actor {
    pub(super) fn change(&mut self, change: Change) {
        self.queue.push_back(change);
    }

    /// Begins the next write, if there is something to write.
    pub(super) fn write(&mut self) {
        if !self.writing.is_empty() || self.queue.is_empty() {
            return;
        }
        let mut bytes = 0;
        while self.writing.len() < MAX_CHANGES
            && let Some(next) = self.queue.front()
        {
            bytes += next.bytes();
            let alone = next.alone || self.writing.last().is_some_and(|change| change.alone);
            if !self.writing.is_empty() && (alone || bytes > MAX_EVENT_BYTES) {
                break;
            }
            self.writing.extend(self.queue.pop_front());
        }
        let mut settled: BTreeMap<String, BTreeSet<Slot>> = BTreeMap::new();
        let mut transaction = Transaction::default();
        for change in &mut self.writing {
            transaction.parts.append(&mut change.parts.clone());
            transaction.marks.append(&mut change.marks.clone());
            if self.held.get(&change.consumer).is_some_and(|held| held.life == change.life) {
                settled.entry(change.consumer.clone()).or_default().extend(change.slots.iter().copied());
            }
        }
        for (name, slots) in settled {
            let Some(held) = self.held.get_mut(&name) else { continue };
            transaction.marks.extend(held.state(&slots));
            if let Some(group) = &held.group {
                let done: Vec<Identity> = slots.iter().filter_map(|slot| held.core.identity(slot)).collect();
                let events = group.progress(&done);
                if !events.is_empty() {
                    transaction.parts.push((group.topic.clone(), events));
                }
            }
        }
        let (node, written) = (self.node.clone(), self.written.0.clone());
        tokio::spawn(async move {
            let outcome = match transaction.parts.is_empty() && transaction.marks.is_empty() {
                true => Ok(None),
                false => node.transact(transaction).await.map(Some),
            };
            // The task ends with the node, and with it whoever waits.
            let _ = written.send(outcome).await;
        });
    }

    /// A write ended.
    pub(super) fn end_write(&mut self, outcome: Result<Option<Committed>, CallError>) {
        let changes = std::mem::take(&mut self.writing);
        let refused = match outcome {
            Ok(committed) => {
                let places = committed.map(|committed| committed.places).unwrap_or_default();
                let mut at = 0;
                for change in changes {
                    let parts = change.parts.len();
                    if let Some(held) = self.held.get_mut(&change.consumer).filter(|held| held.life == change.life) {
                        held.core.confirm(&change.slots);
                        change.slots.iter().for_each(|slot| drop(held.tries.remove(slot)));
                    }
                    (change.done)(self, Ok(places.get(at..at + parts).unwrap_or_default()));
                    at += parts;
                }
                return;
            }
            Err(refused) => refused,
        };
        // One that cannot be written must not keep the others from it.
        if changes.len() > 1 && matches!(refused, CallError::Refused(_) | CallError::IdTaken { .. }) {
            for change in changes.into_iter().rev() {
                self.queue.push_front(Change { alone: true, ..change });
            }
            return;
        }
        for change in changes {
            if let Some(held) = self.held.get_mut(&change.consumer).filter(|held| held.life == change.life) {
                held.core.revert(&change.slots);
            }
            (change.done)(self, Err(refused.clone().into()));
        }
    }
}
