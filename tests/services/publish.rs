//! Events go in over HTTP in every mode of CloudEvents, and come out as they went in.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Http, Mesh};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";
const URL: &str = "/v1/topics/orders.placed/events";

/// Everything that a node holds, without where it stands.
pub(crate) fn events(http: &Http) -> Vec<Value> {
    let mut events = http.get("/v1/log/export").expect(200).lines();
    for event in &mut events {
        event.as_object_mut().expect("an event").retain(|name, _| !name.starts_with("rdl"));
    }
    events
}

fn without_time(mut event: Value) -> Value {
    event.as_object_mut().expect("an event").remove("time");
    event
}

#[test]
fn an_event_comes_out_as_it_went_in_whatever_the_mode() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let event = |id: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "https://shop.example/orders?a=b", "type": "com.example.placed",
            "subject": "Euro € 😀 \"quoted\"", "time": "2026-01-31T09:00:00.123456Z", "partitionkey": "k",
            "correlationid": "process-1", "causationid": "cause", "dataschema": "urn:schema:1",
            "datacontenttype": "application/json", "traceparent": "00-1-2-01",
            "data": {"n": [1.50, "ä\n"]},
        })
    };
    let answer = http.post(URL, STRUCTURED, event("structured").to_string()).expect(201).json();
    assert_eq!((&answer["topic"], &answer["events"][0]["id"]), (&json!("orders.placed"), &json!("structured")));
    http.post(URL, BATCHED, json!([event("first"), event("second")]).to_string()).expect(201);

    let (binary, mut headers) = (event("binary"), Vec::new());
    for (name, value) in binary.as_object().expect("an object") {
        match name.as_str() {
            "data" => {}
            "datacontenttype" => headers.push(("content-type".to_owned(), value.as_str().expect("a text").to_owned())),
            _ => headers.push((format!("ce-{name}"), percent_encoded(value.as_str().expect("a text")))),
        }
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    http.send(Method::POST, URL, &headers, binary["data"].to_string()).expect(201);

    let expected: Vec<Value> = ["structured", "first", "second", "binary"].map(event).to_vec();
    assert_eq!(events(&http), expected);
}

/// As the HTTP binding says: spaces, quotes, per cents and what is no printable ASCII.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'"' && byte != b'%';
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[test]
fn json_data_is_kept_byte_for_byte() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let data = r#"{"b" : 1.50, "a":12345678901234567890123, "e":1e400,"b":"\u00e9é"}"#;
    let event = format!(r#"{{"specversion":"1.0","id":"s","source":"/s","type":"t","data":{data}}}"#);
    http.post(URL, STRUCTURED, event).expect(201);
    http.post(URL, "application/json", data).expect(201);
    let binary = [("ce-specversion", "1.0"), ("ce-id", "b"), ("ce-source", "/s"), ("ce-type", "t")];
    http.send(Method::POST, URL, &binary, data).expect(201);
    let text = http.get("/v1/log/export").expect(200).text();
    assert_eq!(text.matches(&format!(r#""data":{data}}}"#)).count(), 3, "{text}");
}

#[test]
fn data_of_any_type_travels_in_binary_mode() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let send = |id: &str, content_type: &str, data: &[u8]| {
        let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
        http.send(Method::POST, URL, &[&headers[..], &[("content-type", content_type)]].concat(), data).expect(201);
    };
    send("image", "image/png", &[0x89, 0, 0xff]);
    send("text", "text/plain; charset=utf-8", "größe\n".as_bytes());
    send("xml", "application/xml", b"<a/>");
    let members =
        |event: &Value| (event["datacontenttype"].clone(), event["data"].clone(), event["data_base64"].clone());
    let found: Vec<_> = events(&http).iter().map(members).collect();
    assert_eq!(found[0], (json!("image/png"), Value::Null, json!("iQD/")));
    assert_eq!(found[1], (json!("text/plain; charset=utf-8"), json!("größe\n"), Value::Null));
    assert_eq!(found[2], (json!("application/xml"), json!("<a/>"), Value::Null));
}

#[test]
fn data_alone_gets_the_attributes_that_it_needs() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let source = format!("/nodes/{}", mesh[0].id());
    for (content_type, body) in [
        ("application/json", r#"{"n":1}"#),
        ("application/x-www-form-urlencoded", r#"{"n":1}"#),
        ("text/plain", "hello"),
    ] {
        let answer = http.post(URL, content_type, body).expect(201).json();
        let id = answer["events"][0]["id"].as_str().expect("an id").to_owned();
        let event = events(&http).pop().expect("an event");
        assert_eq!((&event["id"], &event["source"], &event["type"]), (&json!(id), &json!(source), &json!("event")));
        let data = if content_type == "text/plain" { json!("hello") } else { json!({"n": 1}) };
        assert_eq!(event["data"], data, "{content_type}");
        assert!(event["time"].is_string(), "{event}");
    }
    http.post(URL, "application/json", "{").expect_problem(400, "bad_event");
    assert_eq!(events(&http).len(), 3);
}

#[test]
fn what_is_no_cloudevent_is_refused_with_the_reason_and_leaves_nothing() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    let with = |name: &str, value: Value| {
        let mut event = event.clone();
        event[name] = value;
        event
    };
    for name in ["specversion", "id", "source", "type"] {
        let mut event = event.clone();
        event.as_object_mut().expect("an object").remove(name);
        let problem = http.post(URL, STRUCTURED, event.to_string()).expect_problem(400, "bad_event");
        assert!(problem["detail"].as_str().expect("a text").contains(name), "{problem}");
    }
    for (name, value) in [
        ("specversion", json!("0.3")),
        ("id", json!("")),
        ("id", json!(7)),
        ("source", json!("not a reference")),
        ("type", json!("bell\u{7}")),
        ("subject", json!("")),
        ("time", json!("2026-01-31 09:00")),
        ("time", json!(1)),
        ("dataschema", json!("no scheme")),
        ("datacontenttype", json!("json")),
        ("Upper", json!("a")),
        ("snake_case", json!("a")),
        ("toolarge", json!(2_147_483_648_u64)),
        ("fraction", json!(0.5)),
        ("nested", json!({})),
    ] {
        let problem = http.post(URL, STRUCTURED, with(name, value).to_string()).expect_problem(400, "bad_event");
        assert!(problem["detail"].as_str().expect("a text").contains(name), "{name}: {problem}");
        // One bad event spoils the batch, and the others of it are not stored either.
        let batch = json!([with("id", json!("other")), with(name, problem["status"].clone()), with("id", json!(""))]);
        let problem = http.post(URL, BATCHED, batch.to_string()).expect_problem(400, "bad_event");
        assert!(problem["detail"].as_str().expect("a text").starts_with("event "), "{problem}");
    }
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    for bad in [("ce-subject", "%ff"), ("ce-datacontenttype", "text/plain"), ("ce-id", "2"), ("ce-a_b", "c")] {
        http.send(Method::POST, URL, &[&headers[..], &[bad]].concat(), "").expect_problem(400, "bad_event");
    }
    http.post(URL, "application/cloudevents+xml", "<event/>").expect_problem(415, "unsupported_media_type");
    http.post("/v1/topics/_mesh/events", STRUCTURED, event.to_string()).expect_problem(403, "system_topic");
    http.post("/v1/topics/orders.*/events", STRUCTURED, event.to_string()).expect_problem(400, "bad_topic");
    let slow = format!("{URL}?acks=1&timeout=soon");
    http.post(&slow, STRUCTURED, event.to_string()).expect_problem(400, "bad_request");
    assert_eq!(events(&http), Vec::<Value>::new());
}

#[test]
fn acks_are_waited_for_as_long_as_the_request_says() {
    let mesh = Mesh::star(2);
    let http = mesh[0].http();
    mesh.connected([0, 1]);
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1});
    let answer = http.post(&format!("{URL}?acks=1&timeout=60s"), STRUCTURED, event.to_string()).expect(201).json();
    assert_eq!(answer["peers"], 1);
    assert_eq!(mesh[1].count("orders.placed"), 1, "the peer has it when the answer says so");
    let alone = format!("{URL}?acks=2&timeout=200ms");
    let problem = http.post(&alone, "text/plain", "stored").expect_problem(504, "acks_timeout");
    assert_eq!(problem["events"][0]["seq"], 2, "what was stored is named: {problem}");
    mesh.count("orders.placed", 2, [0, 1]);
    assert_eq!(events(&http).into_iter().map(without_time).next(), Some(event));
}

#[test]
fn json_that_is_nested_too_deep_is_refused_or_comes_out_as_bytes() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let event =
        |id: &str, data: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{data}}}"#);
    http.post(URL, STRUCTURED, event("deep", &nested(100))).expect(201);
    for depth in [101, 100_000] {
        http.post(URL, STRUCTURED, event("deeper", &nested(depth))).expect_problem(400, "bad_event");
        http.post(URL, BATCHED, format!("[{}]", event("deeper", &nested(depth)))).expect_problem(400, "bad_event");
        http.post(URL, "application/json", nested(depth)).expect_problem(400, "bad_event");
    }
    // In binary mode, data is bytes, whatever it says to be.
    let headers =
        [("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-type", "t"), ("content-type", "application/json")];
    let binary = [&headers[..], &[("ce-id", "bytes")]].concat();
    http.send(Method::POST, URL, &binary, nested(100_000)).expect(201);
    let untyped = [&headers[..3], &[("ce-id", "untyped")]].concat();
    http.send(Method::POST, URL, &untyped, nested(101)).expect(201);
    // Whoever reads JSON can read every line.
    let events = events(&http);
    assert_eq!(events.iter().map(|event| event["data"].is_array()).collect::<Vec<_>>(), [true, false, false]);
    assert!(events[1..].iter().all(|event| event["data_base64"].is_string()), "{:?}", events[2]);
}
