//! What topics with rules have here, and what of that is too much. Only topics in which something changed are looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{OldBatch, Replica};
use crate::rules::Rule;
use crate::sign::Signer;
use crate::topic::Topic;

/// Events, and the bytes of their batches.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    pub(super) events: u64,
}

impl Amount {
    pub(super) fn of(batch: &OldBatch) -> Self {
        Self { bytes: batch.bytes, events: batch.last_seq - batch.first_seq + 1 }
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), events: self.events.saturating_add(other.events) }
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), events: self.events.saturating_sub(other.events) }
    }

    fn beyond(self, rule: &Rule) -> Self {
        let (bytes, events) = (rule.max_bytes.unwrap_or(u64::MAX), rule.max_events.unwrap_or(u64::MAX));
        self.without(Self { bytes, events })
    }

    /// No more than the other in either respect.
    pub(super) fn within(self, other: Self) -> Self {
        Self { bytes: self.bytes.min(other.bytes), events: self.events.min(other.events) }
    }
}

/// What is known of topics with rules.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Topics in which something was stored or let go since the last look.
    changed: BTreeSet<Topic>,
    /// What topics have beyond the limits of their rules.
    pub(super) excess: BTreeMap<Topic, Amount>,
    /// Keyed topics that have more events than the last walk over them left, and how many they have.
    pub(super) grown: BTreeMap<Topic, u64>,
}

impl Survey {
    /// Of all these topics nothing is known.
    pub(super) fn of(topics: impl Iterator<Item = Topic>) -> Self {
        Self { changed: topics.collect(), ..Self::default() }
    }

    pub(super) fn note_change(&mut self, topic: &Topic) {
        if !self.changed.contains(topic) {
            self.changed.insert(topic.clone());
        }
    }
}

impl<S: Signer> Replica<S> {
    /// Looks at the topics in which something changed.
    pub(super) fn look_over_changed(&mut self) {
        for topic in std::mem::take(&mut self.survey.changed) {
            self.survey.excess.remove(&topic);
            self.survey.grown.remove(&topic);
            let (rule, is_keyed) = (self.rules.of(&topic).map(|(_, rule)| rule), self.is_keyed(&topic));
            if rule.is_none() && !is_keyed {
                continue;
            }
            let has = self.amount_of(&topic);
            let excess = rule.map_or_else(Amount::default, |rule| has.beyond(rule));
            if is_keyed && has.events > self.compaction.left(&topic) {
                self.survey.grown.insert(topic.clone(), has.events);
            }
            if !excess.is_nothing() {
                self.survey.excess.insert(topic, excess);
            }
        }
    }

    /// What a topic has here, of all authors together.
    fn amount_of(&self, topic: &Topic) -> Amount {
        let records = self.logs_of(topic).map(|record| self.latest(&record.key).unwrap_or(record));
        records.fold(Amount::default(), |sum, record| sum.and(Amount { bytes: record.bytes, events: record.events }))
    }

    /// What a topic has beyond the limits of its rule.
    pub(super) fn excess_of(&self, topic: &Topic) -> Amount {
        self.rules.of(topic).map_or_else(Amount::default, |(_, rule)| self.amount_of(topic).beyond(rule))
    }
}
