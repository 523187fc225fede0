//! The view of one topic: the places of last events.

use std::collections::BTreeSet;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::choreography::Rank;
use roundelay_protocol::choreography::frontier::Frontier;
use roundelay_protocol::choreography::key_value::{KeyValue, Write};
use roundelay_protocol::choreography::once::name_of;
use roundelay_protocol::choreography::view::{Bounds, Input};
use roundelay_protocol::event::Item;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;
use serde_json::value::RawValue;

use super::tail::Tail;
use super::types::{ViewEntry, ViewInfo, ViewPage, ViewValue};
use super::{MAX_VIEW_EVENTS, MAX_VIEW_KEY_BYTES, MAX_VIEW_KEYS, MAX_VIEW_LISTED, MAX_VIEW_PAGE_BYTES, ViewQuery};
use crate::cloudevents::{Place, write_event};
use crate::log::{LogError, LogReader};
use crate::peer_id::text_of;

/// Events between two snapshots of a key.
const SNAPSHOT_EVERY: usize = 64;

/// Where an event is: the arrival number of its batch, and its place there.
type At = (Arrival, usize);

pub(super) struct TopicView {
    topic: Topic,
    values: KeyValue<At>,
    tail: Tail,
    /// Keys that have a value.
    keys: usize,
    key_bytes: usize,
    without_key: u64,
    refused: u64,
    /// The greatest stamp that was called stable.
    stable: Hlc,
    exceptions: u64,
}

impl TopicView {
    pub(super) fn new(topic: Topic) -> Self {
        let bounds = Bounds {
            keys: MAX_VIEW_KEYS,
            events: MAX_VIEW_EVENTS,
            snapshot_every: SNAPSHOT_EVERY,
            ..Bounds::default()
        };
        Self {
            topic,
            values: KeyValue::key_value(bounds, Frontier::default()),
            tail: Tail::default(),
            keys: 0,
            key_bytes: 0,
            without_key: 0,
            refused: 0,
            stable: Hlc(0),
            exceptions: 0,
        }
    }

    /// Reads what is new, as far as there is time. Everything at or before `stable` is in the log.
    pub(super) fn catch_up(&mut self, log: &LogReader, stable: Hlc) -> Result<(), LogError> {
        let (topic, mut tail) = (self.topic.clone(), std::mem::take(&mut self.tail));
        let read = tail.read(log, &|found| *found == topic, |arrival, batch| self.take(arrival, batch));
        self.tail = tail;
        read?;
        if self.tail.is_up_to_date() {
            self.stable = self.stable.max(stable);
        }
        Ok(())
    }

    fn take(&mut self, arrival: Arrival, batch: &VerifiedBatch) {
        let header = batch.header();
        let (mut inputs, mut keys) = (Vec::new(), BTreeSet::new());
        for (index, (_, item)) in batch.items().enumerate() {
            let Item::Event(event) = item else { continue };
            let Some(key) = event.key.map(str::to_owned) else {
                self.without_key += 1;
                continue;
            };
            if !keys.contains(&key) {
                if self.values.tentative(&key).is_none() {
                    if self.key_bytes + key.len() > MAX_VIEW_KEY_BYTES {
                        self.refused += 1;
                        continue;
                    }
                    self.key_bytes += key.len();
                }
                keys.insert(key.clone());
            }
            self.exceptions += u64::from(event.hlc <= self.stable);
            let rank = Rank { stamp: event.hlc, batch: batch.hash(), index: index as u32 };
            let value = (!event.data.is_empty()).then_some((arrival, index));
            let write = Write { name: name_of(event.source, event.id), value };
            inputs.push(Input { rank, author: header.author, key, event: write });
        }
        let had_value = self.count_with_value(&keys);
        // What comes below all that can be rolled back was decided by what followed it: of last values nothing is stale.
        self.refused += self.values.take(inputs).refused as u64;
        self.keys = self.keys - had_value + self.count_with_value(&keys);
    }

    fn count_with_value(&self, keys: &BTreeSet<String>) -> usize {
        keys.iter().filter(|key| self.place_of(key).is_some()).count()
    }

    fn place_of(&self, key: &str) -> Option<At> {
        self.values.tentative(key).and_then(|slot| *slot.state())
    }

    fn with_value(&self) -> impl Iterator<Item = (&str, At)> {
        self.values.entries().filter_map(|(key, slot)| Some((key, (*slot.state())?)))
    }

    fn info(&self) -> ViewInfo {
        ViewInfo {
            topic: self.topic.to_string(),
            is_subscribed: true,
            is_partial: self.tail.is_partial(),
            is_up_to_date: self.tail.is_up_to_date(),
            stable_ms: self.stable.as_ms(),
            exceptions: self.exceptions,
            keys: self.keys,
            without_key: self.without_key,
            refused: self.refused,
        }
    }

    pub(super) fn page(&self, log: &LogReader, query: &ViewQuery) -> Result<ViewPage, LogError> {
        let beyond = |key: &str| query.after.as_deref().is_none_or(|after| key > after);
        let wanted = |key: &str| key.starts_with(&query.prefix) && beyond(key);
        let mut wanted = self.with_value().filter(|(key, _)| wanted(key)).peekable();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < query.limit.min(MAX_VIEW_LISTED) && bytes < MAX_VIEW_PAGE_BYTES {
            let Some((key, at)) = wanted.next() else { break };
            let (event, stamp) = read(log, at)?.unzip();
            bytes += key.len() + event.as_deref().map_or(0, |event: &RawValue| event.get().len());
            entries.push(ViewEntry { key: key.to_owned(), event, is_stable: self.is_stable(stamp) });
        }
        let next = wanted.peek().and(entries.last()).map(|last| last.key.clone());
        Ok(ViewPage { info: self.info(), entries, next })
    }

    pub(super) fn value(&self, log: &LogReader, key: &str) -> Result<ViewValue, LogError> {
        let at = self.place_of(key);
        let (event, stamp) = at.map_or(Ok(None), |at| read(log, at))?.unzip();
        let (is_pruned, is_stable) = (at.is_some() && event.is_none(), self.is_stable(stamp));
        Ok(ViewValue { info: self.info(), key: key.to_owned(), is_pruned, is_stable, event })
    }

    fn is_stable(&self, stamp: Option<Hlc>) -> bool {
        stamp.is_some_and(|stamp| stamp <= self.stable)
    }
}

/// The event at a place, as a CloudEvent, and its stamp. None when it was pruned.
fn read(log: &LogReader, (arrival, index): At) -> Result<Option<(Box<RawValue>, Hlc)>, LogError> {
    let Some(batch) = log.batch(arrival)? else { return Ok(None) };
    let found = batch.items().nth(index);
    let Some((seq, Item::Event(event))) = found else { return Ok(None) };
    let author = text_of(&batch.header().author);
    let place = Place { topic: batch.header().topic.as_str(), author: &author, seq, arrival };
    let mut json = Vec::new();
    write_event(&mut json, &event, &place);
    let json = String::from_utf8(json).ok().and_then(|json| RawValue::from_string(json).ok());
    Ok(json.map(|json| (json, event.hlc)))
}
