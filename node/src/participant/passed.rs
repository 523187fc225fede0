//! Events that were passed over, and may become steps when an event arrives late. Their places are kept as marks of the store, so
//! that they survive a restart.

use std::collections::{BTreeMap, BTreeSet};

use roundelay_protocol::choreography::once::name_of;
use roundelay_protocol::choreography::participant::Received;
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::Mark;
use serde::{Deserialize, Serialize};

use crate::log::{LogError, LogReader};

/// Events that are remembered. Of more, those of some instances are forgotten: the deadlines of their waits end them.
const MAX_PASSED: usize = 16_384;
/// Marks: `passed/CONSUMER/NAME`, the digest of source and id in hexadecimal; the value is a [`Place`] in JSON.
const PREFIX: &str = "passed/";

/// Where an event is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    correlation: String,
    source: String,
    id: String,
    arrival: u64,
}

/// Events by instance.
pub(super) struct Passed {
    prefix: String,
    events: BTreeMap<String, BTreeSet<Place>>,
    count: usize,
}

impl Passed {
    /// Those that a consumer has in the store.
    pub(super) fn load(log: &LogReader, consumer: &str) -> Result<Self, LogError> {
        let prefix = format!("{PREFIX}{consumer}/");
        let marks = log.marks(prefix.as_bytes())?;
        let mut passed = Self { prefix, events: BTreeMap::new(), count: 0 };
        for place in marks.iter().filter_map(|(_, value)| serde_json::from_slice::<Place>(value).ok()) {
            passed.insert(place);
        }
        Ok(passed)
    }

    fn insert(&mut self, place: Place) {
        let places = self.events.entry(place.correlation.clone()).or_default();
        self.count += usize::from(places.insert(place));
    }

    /// Remembers an event. What is given is to be written before the event counts as done.
    pub(super) fn add(&mut self, event: &Received, arrival: Arrival) -> Vec<Mark> {
        let place = Place {
            correlation: event.correlation.clone(),
            source: event.source.clone(),
            id: event.id.clone(),
            arrival: arrival.0,
        };
        let mut marks = vec![(self.mark(&place), serde_json::to_vec(&place).ok())];
        self.insert(place);
        while self.count > MAX_PASSED {
            let Some(correlation) = self.events.keys().find(|key| **key != event.correlation).cloned() else { break };
            marks.extend(self.forget(&correlation));
        }
        marks
    }

    pub(super) fn has(&self, correlation: &str) -> bool {
        self.events.contains_key(correlation)
    }

    /// Where an event that was passed over is.
    pub(super) fn find(&self, correlation: &str, source: &str, id: &str) -> Option<Arrival> {
        let places = self.events.get(correlation)?;
        places.iter().find(|place| place.source == source && place.id == id).map(|place| Arrival(place.arrival))
    }

    /// Forgets the events of an instance. What is given is to be written some time.
    pub(super) fn forget(&mut self, correlation: &str) -> Vec<Mark> {
        let places = self.events.remove(correlation).unwrap_or_default();
        self.count -= places.len();
        places.iter().map(|place| (self.mark(place), None)).collect()
    }

    fn mark(&self, place: &Place) -> Vec<u8> {
        let name = u128::from_be_bytes(name_of(&place.source, &place.id));
        format!("{}{name:032x}", self.prefix).into_bytes()
    }
}

/// The event with a source and id in the batch of this arrival number. None when it was pruned.
pub(super) fn read(log: &LogReader, arrival: Arrival, source: &str, id: &str) -> Result<Option<Received>, LogError> {
    let Some(batch) = log.batch(arrival)? else { return Ok(None) };
    let received = |item: Item<'_>| match item {
        Item::Event(event) if event.source == source && event.id == id => receive(&batch.header().topic, &event),
        _ => None,
    };
    Ok(batch.items().find_map(|(_, item)| received(item)))
}

fn receive(topic: &Topic, event: &EventView<'_>) -> Option<Received> {
    Some(Received {
        topic: topic.clone(),
        source: event.source.to_owned(),
        id: event.id.to_owned(),
        kind: event.kind.to_owned(),
        subject: event.subject.map(str::to_owned),
        content_type: event.content_type.map(str::to_owned),
        correlation: event.correlation?.to_owned(),
        stamp: event.hlc,
        data: bytes::Bytes::copy_from_slice(event.data),
    })
}

#[cfg(test)]
mod tests {
    use roundelay_protocol::hlc::Hlc;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_found_by_its_name() {
        let event = |correlation: usize| Received {
            topic: Topic::new("t").unwrap(),
            source: "/s".to_owned(),
            id: format!("e{correlation}"),
            kind: "k".to_owned(),
            subject: None,
            content_type: None,
            correlation: format!("{correlation:06}"),
            stamp: Hlc(0),
            data: bytes::Bytes::new(),
        };
        let mut passed = Passed { prefix: "passed/c/".to_owned(), events: BTreeMap::new(), count: 0 };
        let mut marks = BTreeSet::new();
        for nth in 0..MAX_PASSED + 10 {
            for (mark, value) in passed.add(&event(nth), Arrival(nth as u64)) {
                match value {
                    Some(_) => assert!(marks.insert(mark)),
                    None => assert!(marks.remove(&mark)),
                }
            }
        }
        assert_eq!((passed.count, marks.len()), (MAX_PASSED, MAX_PASSED));
        assert_eq!(passed.find("000010", "/s", "e10"), Some(Arrival(10)));
        assert!(!passed.has("000009") && passed.find("000010", "/s", "e11").is_none());
        // Delivered again, it is the same.
        assert_eq!(passed.add(&event(10), Arrival(10)).len(), 1);
        assert_eq!(passed.count, MAX_PASSED);
        for nth in 0..MAX_PASSED + 10 {
            for (mark, _) in passed.forget(&format!("{nth:06}")) {
                marks.remove(&mark);
            }
        }
        assert_eq!((passed.count, marks.len()), (0, 0));
    }
}
