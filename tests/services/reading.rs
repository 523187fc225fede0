//! Reading events over HTTP: as lines to replay, as server-sent events to follow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Chunks, DEADLINE, Http, Mesh, eventually, exit};

/// How long a stream may be quiet before a test takes it to be so.
const QUIET: Duration = Duration::from_millis(700);
const SSE: (&str, &str) = ("accept", "text/event-stream");

/// A server-sent event.
#[derive(Debug, Clone)]
struct Sent {
    id: String,
    kind: String,
    data: Value,
}

/// Reads server-sent events, after the HTML standard as far as it is used.
struct Reader<'a> {
    chunks: Chunks<'a>,
    text: String,
}

impl<'a> Reader<'a> {
    #[track_caller]
    fn begin(http: &'a Http, path: &str, last_event_id: Option<&str>) -> Self {
        let mut headers = vec![SSE];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        let chunks = http.stream(path, &headers);
        assert_eq!(chunks.status(), 200);
        Self { chunks, text: String::new() }
    }

    fn next_within(&mut self, limit: Duration) -> Option<Sent> {
        let start = Instant::now();
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields: BTreeMap<String, String> = block
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .map(|(name, value)| (name.to_owned(), value.trim_start().to_owned()))
                    .collect();
                self.text = rest.to_owned();
                if let Some(data) = fields.get("data") {
                    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
                    let data = serde_json::from_str(data).expect("data in JSON");
                    return Some(Sent { id: field("id"), kind: field("event"), data });
                }
            }
            let left = limit.checked_sub(start.elapsed())?;
            self.text.push_str(std::str::from_utf8(&self.chunks.next_within(left)?).expect("UTF-8"));
        }
    }

    #[track_caller]
    fn next(&mut self, kind: &str) -> Sent {
        let sent = self.next_within(DEADLINE).unwrap_or_else(|| panic!("the stream ended before: {kind}"));
        assert_eq!(sent.kind, kind, "{sent:?}");
        sent
    }

    /// The ids of events up to the one that says that it has caught up.
    #[track_caller]
    fn ids_until_caught_up(&mut self) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let sent = self.next_within(DEADLINE).expect("it catches up");
            match sent.kind.as_str() {
                "event" => ids.push(sent.data["id"].as_str().expect("an id").to_owned()),
                "caught-up" => return ids,
                _ => panic!("{sent:?}"),
            }
        }
    }
}

#[track_caller]
fn publish(http: &Http, topic: &str, events: Value) {
    let path = format!("/v1/topics/{topic}/events");
    http.post(&path, "application/cloudevents-batch+json", events.to_string()).expect(201);
}

fn event(id: &str, more: Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed"});
    event.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    event
}

#[track_caller]
fn ids(http: &Http, query: &str) -> Vec<String> {
    let lines = http.get(&format!("/v1/events?{query}")).expect(200).lines();
    lines.iter().map(|line| line["id"].as_str().map_or_else(|| line.to_string(), str::to_owned)).collect()
}

#[test]
fn a_replay_gives_what_matches_every_filter_and_nothing_else() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    publish(
        &http,
        "orders.placed",
        json!([
            event("1", json!({"correlationid": "c1", "subject": "o-1"})),
            event("2", json!({"type": "order.cancelled", "correlationid": "c2"})),
            event("3", json!({"source": "/shop/2", "type": "orders"})),
        ]),
    );
    publish(&http, "weather", json!([event("4", json!({"type": "rain", "correlationid": "c1"}))]));
    publish(&http, "orders.paid", json!([event("5", json!({}))]));
    for (query, expected) in [
        ("", &["1", "2", "3", "4", "5"][..]),
        ("&topic=orders.*", &["1", "2", "3", "5"]),
        ("&topic=weather,orders.paid", &["4", "5"]),
        ("&type=order.placed", &["1", "5"]),
        ("&type=order.*,rain", &["1", "2", "4", "5"]),
        ("&correlationid=c1", &["1", "4"]),
        ("&correlationid=c1&topic=weather", &["4"]),
        ("&source=/shop", &["1", "2", "4", "5"]),
        ("&source=/shop/*", &["3"]),
        ("&subject=o-1", &["1"]),
        ("&type=none", &[]),
        ("&limit=2", &["1", "2"]),
        ("&type=rain&limit=1", &["4"]),
        ("&order=time", &["1", "2", "3", "4", "5"]),
        ("&order=time&type=order.placed&limit=1", &["1"]),
        ("&to=@0", &[]),
        ("&to=end", &["1", "2", "3", "4", "5"]),
        ("&to=arrival:0", &[]),
    ] {
        assert_eq!(ids(&http, &format!("from=start{query}")), expected, "{query}");
    }
    // The last that match, however far back they are.
    assert_eq!(ids(&http, "from=-2&type=order.placed"), ["1", "5"]);
    assert_eq!(ids(&http, "from=-1&type=order.placed,rain"), ["5"]);
    assert_eq!(ids(&http, "from=-2"), ["4", "5"]);
    assert_eq!(ids(&http, "from=-3"), ["3", "4", "5"]);

    for (query, code) in [
        ("from=soon", "bad_request"),
        ("to=-5", "bad_request"),
        ("topic=a..b", "bad_pattern"),
        ("colour=red", "bad_request"),
        ("order=time&follow=true", "bad_request"),
        ("order=time&from=-3", "bad_request"),
        ("to=end&follow=true", "bad_request"),
        ("to=00c0ffee00c0ffee-1-0", "bad_request"),
    ] {
        http.get(&format!("/v1/events?{query}")).expect_problem(400, code);
    }
    http.send(reqwest::Method::GET, "/v1/events", &[("accept", "text/html")], "").expect_problem(406, "not_acceptable");
}

#[test]
fn times_bound_a_replay() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    publish(&http, "a", json!([event("1", json!({}))]));
    std::thread::sleep(Duration::from_millis(20));
    publish(&http, "a", json!([event("2", json!({}))]));
    let lines = http.get("/v1/events?topic=a&from=start").expect(200).lines();
    let second_ms = lines[1]["rdlhlc"].as_str().and_then(|hlc| hlc.parse::<u64>().ok()).expect("a stamp") >> 16;
    let time = lines[1]["time"].as_str().expect("a time");
    for order in ["arrival", "time"] {
        assert_eq!(ids(&http, &format!("topic=a&from=@{second_ms}&order={order}")), ["2"]);
        assert_eq!(ids(&http, &format!("topic=a&from={time}&order={order}")), ["2"]);
        assert_eq!(ids(&http, &format!("topic=a&from=start&to=@{second_ms}&order={order}")), ["1"]);
    }
    assert_eq!(ids(&http, "topic=a&from=2100-01-01T00:00:00%2B01:00"), [""; 0]);
}

#[test]
fn a_follower_goes_on_after_the_last_event_that_it_had() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    publish(&http, "a", json!([event("1", json!({})), event("2", json!({})), event("3", json!({}))]));
    let mut reader = Reader::begin(&http, "/v1/events?topic=a&from=start", None);
    let first = reader.next("event");
    assert_eq!((first.data["id"].as_str(), first.data["rdltopic"].as_str()), (Some("1"), Some("a")));
    assert_eq!(reader.ids_until_caught_up(), ["2", "3"]);
    assert!(reader.next_within(QUIET).is_none(), "nothing is there to be told");
    publish(&http, "b", json!([event("other", json!({}))]));
    publish(&http, "a", json!([event("4", json!({}))]));
    let fourth = reader.next("event");
    assert_eq!(fourth.data["id"], "4");
    drop(reader);

    // In the middle of a batch, at its end, and from a place that is given as a parameter.
    let mut reader = Reader::begin(&http, "/v1/events?topic=a&from=end", Some(&first.id));
    assert_eq!(reader.ids_until_caught_up(), ["2", "3", "4"]);
    drop(reader);
    publish(&http, "a", json!([event("5", json!({}))]));
    let mut reader = Reader::begin(&http, "/v1/events?topic=a", Some(&fourth.id));
    assert_eq!(reader.next("event").data["id"], "5");
    let caught_up = reader.next("caught-up");
    drop(reader);
    assert_eq!(ids(&http, &format!("topic=a&from={}", first.id)), ["2", "3", "4", "5"]);
    assert_eq!(ids(&http, &format!("topic=a&from={}&to={}", first.id, fourth.id)), ["2", "3", "4"]);
    assert_eq!(ids(&http, &format!("topic=a&from=start&to={}", first.id)), ["1"]);

    // The node may have restarted meanwhile.
    mesh[0].stop();
    mesh[0].start();
    let http = mesh[0].http();
    publish(&http, "a", json!([event("6", json!({}))]));
    let mut reader = Reader::begin(&http, "/v1/events?topic=a", Some(&caught_up.id));
    assert_eq!(reader.ids_until_caught_up(), ["6"]);
}

#[test]
fn a_place_in_another_store_is_a_gap() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    publish(&http, "a", json!([event("1", json!({}))]));
    let mut reader = Reader::begin(&http, "/v1/events?topic=a", Some("00c0ffee00c0ffee-5-0"));
    let gap = reader.next("gap");
    assert_eq!(gap.data["reason"], "other_store");
    assert!(gap.data["detail"].as_str().is_some_and(|detail| detail.contains("00c0ffee00c0ffee")), "{gap:?}");
    // What is here follows, lest anything be missed.
    assert_eq!(reader.ids_until_caught_up(), ["1"]);
    drop(reader);
    // Whoever comes again after the gap is not told of it once more.
    let mut reader = Reader::begin(&http, "/v1/events?topic=a", Some(&gap.id));
    assert_eq!(reader.ids_until_caught_up(), ["1"]);
    drop(reader);

    // Lines tell it, too.
    let lines = http.get("/v1/events?topic=a&from=00c0ffee00c0ffee-5-0").expect(200).lines();
    assert_eq!((lines.len(), &lines[0]["gap"]["reason"]), (2, &json!("other_store")));

    // An older copy of the same store has not come so far.
    let (epoch, _) = gap.id.split_once('-').expect("a cursor");
    let beyond = format!("{epoch}-1000000-0");
    let mut reader = Reader::begin(&http, "/v1/events?topic=a", Some(&beyond));
    assert_eq!(reader.next("gap").data["reason"], "store_went_back");
    assert!(reader.ids_until_caught_up().is_empty());
    let malformed = [SSE, ("last-event-id", "12")];
    http.send(reqwest::Method::GET, "/v1/events", &malformed, "").expect_problem(400, "bad_request");
}

#[test]
fn what_was_pruned_before_a_follower_came_by_is_told() {
    let mut mesh = Mesh::empty();
    mesh.start(&[], &["--store-cap", "16MiB"]);
    mesh.start(&[0], &["--store-cap", "16MiB"]);
    let (writer, reader) = (mesh[0].http(), mesh[1].http());
    publish(&writer, "a", json!([event("first", json!({"data": "x"}))]));
    publish(&writer, "quiet", json!([event("quiet", json!({}))]));
    mesh.converge(mesh.all());
    let mut stream = Reader::begin(&reader, "/v1/events?topic=a&from=start", None);
    let first = stream.next("event");
    drop(stream);
    let mut stream = Reader::begin(&reader, "/v1/events?topic=quiet&from=start", None);
    let quiet = stream.next("event");
    drop(stream);

    // Far more than a store takes, so that what the follower had not seen goes.
    for round in 0..24 {
        let data = "y".repeat(60_000);
        let events: Vec<_> = (0..10).map(|nth| event(&format!("{round}-{nth}"), json!({"data": data}))).collect();
        publish(&writer, "a", Value::Array(events));
    }
    mesh.converge(mesh.all());
    let mut stream = Reader::begin(&reader, "/v1/events?topic=a", Some(&first.id));
    let gap = stream.next("gap");
    assert_eq!((&gap.data["reason"], &gap.data["topic"]), (&json!("pruned"), &json!("a")), "{gap:?}");
    let next = stream.next("event");
    let seq: u64 = next.data["rdlseq"].as_str().and_then(|seq| seq.parse().ok()).expect("a number");
    assert_eq!(gap.data["to_seq"], json!(seq - 1), "{gap:?}");
    assert!(seq > 2, "{next:?}");
    drop(stream);

    // Another topic has lost nothing.
    let mut stream = Reader::begin(&reader, "/v1/events?topic=quiet", Some(&quiet.id));
    assert!(stream.ids_until_caught_up().is_empty());
}

#[test]
fn order_of_time_is_the_same_on_every_node() {
    let mesh = Mesh::star(3);
    let all: Vec<_> = mesh.all().map(|nth| mesh[nth].http()).collect();
    for round in 0..20 {
        for (nth, http) in all.iter().enumerate() {
            publish(http, "a", json!([event(&format!("{nth}-{round}"), json!({}))]));
        }
    }
    mesh.converge(mesh.all());
    let replays: Vec<_> = all.iter().map(|http| ids(http, "topic=a&order=time")).collect();
    assert_eq!(replays[0].len(), 60);
    assert!(replays.iter().all(|replay| *replay == replays[0]), "{replays:?}");
    let lines = all[0].get("/v1/events?topic=a&order=time").expect(200).lines();
    let stamps: Vec<u64> = lines.iter().map(|line| line["rdlhlc"].as_str().unwrap().parse().unwrap()).collect();
    assert!(stamps.is_sorted(), "{stamps:?}");
}

#[test]
fn who_reads_in_pages_is_told_of_what_was_removed_between_them() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let http = mesh[0].http();
    for nth in 1..=6 {
        for topic in ["quiet", "busy"] {
            publish(&http, topic, json!([event(&format!("{topic}-{nth}"), json!({}))]));
        }
    }
    publish(&http, "quiet", json!([event("quiet-7", json!({}))]));
    let page = |from: &str| http.get(&format!("/v1/events?topic=quiet,busy&limit=1&from={from}")).expect(200).lines();
    let mut lines = page("start");
    mesh[0].cli(&["topics", "set", "quiet", "--max-events", "1"]).expect(exit::OK);
    eventually("the topic is small", || mesh[0].count("quiet") == 1);
    let (mut events, mut gaps) = (Vec::new(), Vec::new());
    while let Some(event) = lines.iter().find(|line| line["gap"].is_null()) {
        events.push(event["id"].as_str().expect("an id").to_owned());
        let from = format!("arrival:{}", event["rdlarrival"].as_str().expect("an arrival number"));
        gaps.extend(lines.iter().filter(|line| line["gap"].is_object()).map(|line| line["gap"].clone()));
        lines = page(&from);
    }
    assert_eq!(events, ["quiet-1", "busy-1", "busy-2", "busy-3", "busy-4", "busy-5", "busy-6", "quiet-7"]);
    assert!(!gaps.is_empty());
    for gap in gaps {
        assert_eq!((&gap["reason"], &gap["topic"], &gap["to_seq"]), (&json!("pruned"), &json!("quiet"), &json!(6)));
    }
}
