//! What the command line prints, read back: the only place that knows its field names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// An event as `sub --json` prints it: CloudEvents in JSON, with the log it stands in as extension attributes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) author: String,
    pub(crate) seq: u64,
    pub(crate) data: Value,
}

impl Event {
    #[track_caller]
    pub(crate) fn parse(line: &str) -> Self {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        let text = |name: &str| match &json[name] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => panic!("an event without {name}: {line}"),
        };
        for required in ["specversion", "source", "type"] {
            assert!(json[required].is_string(), "no CloudEvent, it lacks {required}: {line}");
        }
        Self {
            id: text("id"),
            topic: text("rdltopic"),
            author: text("rdlauthor"),
            seq: text("rdlseq").parse().expect("a sequence number"),
            data: json["data"].clone(),
        }
    }
}

/// The id in a line that `pub --json` prints for an event it was acknowledged.
pub(crate) fn acknowledged_id(line: &str) -> Option<String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Some(object.get("id")?.as_str()?.to_owned()),
        _ => Some(line.trim().to_owned()).filter(|id| !id.is_empty()),
    }
}

pub(crate) fn ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> BTreeSet<String> {
    events.into_iter().map(|event| event.id.clone()).collect()
}

/// Fails unless every event was delivered once, and each author's events of a topic in the order they were published.
#[track_caller]
pub(crate) fn assert_delivered(events: &[Event]) {
    let mut seen = BTreeSet::new();
    let mut last = BTreeMap::new();
    for event in events {
        assert!(seen.insert(&event.id), "delivered twice: {event:?}");
        if let Some(before) = last.insert((&event.author, &event.topic), event) {
            assert!(before.seq < event.seq, "out of order: {event:?} came after {before:?}");
        }
    }
}

/// Fails when two of these events have the same author, topic and sequence number and are not the same event.
#[track_caller]
pub(crate) fn assert_no_number_used_twice<'a>(events: impl IntoIterator<Item = &'a Event>) {
    let mut known = BTreeMap::new();
    for event in events {
        let other = known.entry((&event.author, &event.topic, event.seq)).or_insert(event);
        assert_eq!(*other, event, "one sequence number, two events");
    }
}

/// What `status --json` says.
#[derive(Debug)]
pub(crate) struct Status(Value);

/// A topic in `status`: how many events of it the node holds, and the digest over its heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) events: u64,
    pub(crate) digest: String,
}

impl Status {
    /// None when this is no status document, as when the node cannot be reached.
    pub(crate) fn parse(stdout: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(stdout).ok()?;
        (json["schema"] == "roundelay.status/v1").then_some(Self(json))
    }

    pub(crate) fn healthy(&self) -> bool {
        self.0["healthy"].as_bool().expect("healthy")
    }

    pub(crate) fn id(&self) -> &str {
        self.0["node"]["id"].as_str().expect("node.id")
    }

    /// Whose events it takes: `all`, its `own`, or `none`.
    pub(crate) fn takes(&self) -> &str {
        self.0["store"]["takes"].as_str().expect("store.takes")
    }

    /// The ids of the peers that this node is connected to.
    pub(crate) fn peers(&self) -> BTreeSet<String> {
        let peers = self.0["peers"].as_array().expect("peers").iter();
        let connected = peers.filter(|peer| peer["connected"] != Value::Bool(false));
        connected.map(|peer| peer["id"].as_str().expect("peers[].id").to_owned()).collect()
    }

    /// The topics with events, without those of the mesh itself.
    pub(crate) fn topics(&self) -> BTreeMap<String, Topic> {
        let topics = self.0["topics"].as_array().expect("topics").iter().map(|topic| {
            let name = topic["topic"].as_str().expect("topics[].topic").to_owned();
            let events = topic["events"].as_u64().expect("topics[].events");
            let digest = topic["digest"].as_str().expect("topics[].digest").to_owned();
            (name, Topic { events, digest })
        });
        topics.filter(|(name, topic)| !name.starts_with('_') && topic.events > 0).collect()
    }
}
