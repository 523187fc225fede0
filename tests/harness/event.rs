//! What the command line prints, read back: the only place that knows its field names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::Value;

/// An event as `sub --json` prints it: CloudEvents in JSON, with the log it stands in as extension attributes.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) author: String,
    pub(crate) seq: u64,
    /// The place of its batch in the order of arrival at the node that delivered it
    pub(crate) arrival: u64,
    /// Its stamp: 48 bits of milliseconds, 16 of counter
    pub(crate) hlc: u64,
    pub(crate) data: Value,
}

/// What makes it the same event on every node.
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        let parts = |event: &Self| (event.id.clone(), event.topic.clone(), event.author.clone(), event.seq, event.hlc);
        parts(self) == parts(other) && self.data == other.data
    }
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
            arrival: text("rdlarrival").parse().expect("an arrival number"),
            hlc: text("rdlhlc").parse().expect("a stamp"),
            data: json["data"].clone(),
        }
    }
}

impl Event {
    /// How many days its stamp is from now.
    pub(crate) fn days_off(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        (self.hlc >> 16).abs_diff(now.as_millis() as u64) / (24 * 3600 * 1000)
    }

    /// Whether its data is text that begins so.
    pub(crate) fn begins_with(&self, word: &str) -> bool {
        self.data.as_str().is_some_and(|data| data.starts_with(word))
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

/// A peer in `status`.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) connected: bool,
    pub(crate) in_sync: bool,
    pub(crate) behind: u64,
    pub(crate) ahead: u64,
    pub(crate) clock_ahead_ms: i64,
    pub(crate) note: Option<String>,
}

/// A topic in `status`: how many events of it the node holds, and the digest over its heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) events: u64,
    pub(crate) digest: String,
    /// The stamp of its last event.
    pub(crate) last_event_ms: Option<u64>,
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

    /// What is wrong, and what is worth knowing, a line each.
    pub(crate) fn remarks(&self) -> String {
        let lists = ["problems", "warnings"].map(|list| self.0[list].as_array().expect("a list").clone());
        lists.concat().iter().map(|line| format!("{}\n", line.as_str().expect("a sentence"))).collect()
    }

    /// Addresses to join it by.
    pub(crate) fn listen(&self) -> Vec<String> {
        let all = self.0["node"]["listen"].as_array().expect("node.listen").iter();
        all.map(|address| address.as_str().expect("an address").to_owned()).collect()
    }

    /// Bytes that the store takes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.0["store"]["disk_bytes"].as_u64().expect("store.disk_bytes")
    }

    /// What it says of one peer.
    pub(crate) fn peer(&self, id: &str) -> Option<Peer> {
        let peer = self.0["peers"].as_array().expect("peers").iter().find(|peer| peer["id"] == id)?;
        Some(Peer {
            id: id.to_owned(),
            connected: peer["connected"].as_bool().expect("connected"),
            in_sync: peer["in_sync"].as_bool().expect("in_sync"),
            behind: peer["behind"].as_u64().expect("behind"),
            ahead: peer["ahead"].as_u64().expect("ahead"),
            clock_ahead_ms: peer["clock_ahead_ms"].as_i64().expect("clock_ahead_ms"),
            note: peer["note"].as_str().map(str::to_owned),
        })
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
            (name, Topic { events, digest, last_event_ms: topic["last_event_ms"].as_u64() })
        });
        topics.filter(|(name, topic)| !name.starts_with('_') && topic.events > 0).collect()
    }
}
