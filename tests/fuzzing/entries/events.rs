//! Events in JSON, as services publish, import and read them.

use bytes::Bytes;
use roundelay::cloudevents::{Defaults, Object, Place, Reading, read_event, write_event};
use roundelay::fuzzing::{imported, lines, published};
use roundelay_protocol::batch::{Link, seal};
use roundelay_protocol::event::{EncodedEvent, Event, Item};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Incarnation};
use roundelay_protocol::topic::Topic;

use super::stand_in::Stamp;
use super::within_memory;

const SOURCE: &str = "/nodes/someone";

/// Any bytes as a body with events to publish, as one event, and as lines to import.
pub fn events(bytes: &[u8]) {
    let (headers, body) = request(bytes);
    for fill in [false, true] {
        // A member of an object has at least four bytes and takes forty; reading it makes copies of its text. A header
        // takes a place in a table, and an event by itself some hundred bytes.
        let memory = bytes.len() * 80 + headers.len() * 512 + 2048;
        let body = Bytes::copy_from_slice(body);
        if let Some((ids, events)) = within_memory(memory, || published(SOURCE, &headers, body, fill)) {
            assert_eq!(ids.len(), events.len());
            for (id, event) in ids.iter().zip(&events) {
                assert_eq!(*id, come_back(event, "a").id);
            }
        }
    }
    if let Ok(object) = serde_json::from_slice::<Object<'_>>(bytes) {
        let strict = read_event(&object, Reading::Strict);
        let lenient = read_event(&object, Reading::Filling(Defaults { source: SOURCE, kind: "event" }));
        if let Ok(incoming) = &strict {
            let lenient = lenient.expect("what is whole needs no defaults");
            assert_eq!(&lenient, incoming);
            assert_eq!(read_event(&object, Reading::Again).as_ref(), Ok(incoming), "what is well needs no leniency");
        }
    }
    let halves = bytes.split_at(bytes.len() / 3);
    let cut = lines(vec![Bytes::copy_from_slice(halves.0), Bytes::copy_from_slice(halves.1)]);
    let expected: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').map(without_return).filter(|l| !l.is_empty()).collect();
    assert_eq!(cut, expected, "lines are the same wherever chunks end");
    for line in cut {
        if let Some((topic, event)) = imported(&line) {
            assert!(!topic.is_system());
            come_back(&event, topic.as_str());
        }
    }
}

/// Headers, a line each, up to an empty line, and a body. Without such lines it is a batch of events in JSON.
fn request(bytes: &[u8]) -> (Vec<(&str, &[u8])>, &[u8]) {
    let batch = || (vec![("content-type", &b"application/cloudevents-batch+json"[..])], bytes);
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") else { return batch() };
    let header = |line| {
        let line: &[u8] = line;
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
    };
    match bytes[..end].split(|byte| *byte == b'\n').map(header).collect() {
        Some(headers) => (headers, &bytes[end + 2..]),
        None => batch(),
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// An event that was taken can be sealed, written as JSON, and read back the same.
fn come_back(event: &EncodedEvent, topic: &str) -> Event {
    let name = Topic::new(topic).expect("a topic");
    let batch = seal(&Stamp::of(7), &name, Incarnation(1), Link::default(), Hlc(1 << 40), std::slice::from_ref(event));
    let Some((1, Item::Event(view))) = batch.items().next() else { panic!("one event was sealed") };
    let mut json = Vec::new();
    write_event(&mut json, &view, &Place { topic, author: "author", seq: 1, arrival: Arrival(1) });
    assert!(!json.contains(&b'\n') && !json.contains(&b'\r'), "an event is one line");
    let object: Object<'_> = serde_json::from_slice(&json).expect("what is written is JSON");
    let incoming = read_event(&object, Reading::Again).expect("what is written is a CloudEvent");
    assert_eq!(incoming.topic.as_deref(), Some(topic));
    let (mut original, mut again) = (view.to_event(), incoming.event);
    // What CloudEvents has no word for: see the head of `roundelay::cloudevents`.
    normalise(&mut original);
    normalise(&mut again);
    assert_eq!(again, original);
    view.to_event()
}

fn normalise(event: &mut Event) {
    use roundelay_protocol::event::Value;
    event.extensions.retain(|(name, _)| name != "time");
    for (_, value) in &mut event.extensions {
        *value = match std::mem::replace(value, Value::Bool(false)) {
            Value::Int(number) if i32::try_from(number).is_err() => Value::Text(number.to_string()),
            other => other,
        };
    }
    for text in [&mut event.subject, &mut event.key, &mut event.content_type, &mut event.correlation] {
        *text = text.take().filter(|text| !text.is_empty());
    }
    event.causes.retain(|cause| !cause.is_empty());
    // Data is judged by its meaning below: JSON may be told with other spaces, and text without a type gets one.
    if event.content_type.is_none() || event.content_type.as_deref() == Some("text/plain") {
        event.content_type = None;
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&event.data) {
        event.data = value.to_string().into();
    }
}
