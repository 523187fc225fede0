use proptest::prelude::*;
use roundelay_protocol::event::{Event, EventView, Value};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;

use super::*;

fn view(event: &Event) -> EventView<'_> {
    EventView {
        hlc: Hlc::from_ms(1_767_225_600_123),
        kind: &event.kind,
        id: &event.id,
        source: &event.source,
        subject: event.subject.as_deref(),
        key: event.key.as_deref(),
        content_type: event.content_type.as_deref(),
        causes: event.causes.iter().map(String::as_str).collect(),
        correlation: event.correlation.as_deref(),
        extensions: event.extensions.iter().map(|(name, value)| (name.as_str(), value.clone())).collect(),
        data: &event.data,
    }
}

fn to_json(event: &Event) -> String {
    let mut out = Vec::new();
    let place = Place { topic: "orders.placed", author: "12D3KooW", seq: 7, arrival: Arrival(9) };
    write_event(&mut out, &view(event), &place);
    String::from_utf8(out).unwrap()
}

const DEFAULTS: Defaults<'_> = Defaults { source: "/nodes/a", kind: "event" };

fn read(json: &str, reading: Reading<'_>) -> Result<Incoming, CloudEventError> {
    let object = serde_json::from_str(json).map_err(|error| CloudEventError::Json(error.to_string()))?;
    read_event(&object, reading)
}

fn minimal() -> Event {
    Event { kind: "placed".into(), id: "1".into(), source: "/shop".into(), ..Event::default() }
}

fn maybe_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of("\\PC{1,12}")
}

fn any_data() -> impl Strategy<Value = (Option<String>, Vec<u8>)> {
    let json_type = prop::sample::select(vec![
        None,
        Some("application/json".to_owned()),
        Some("Application/X+JSON ; a=b".to_owned()),
    ]);
    let other_type = prop::sample::select(vec!["text/plain".to_owned(), "image/png".to_owned(), "json".to_owned()]);
    let json =
        prop::sample::select(vec!["{\"a\" : [1.50, \"ä\\n\"]}", "null", " true ", "\"text\"", "12345678901234567890"]);
    let typed = prop::sample::select(vec!["application/json".to_owned(), "text/plain".to_owned(), "a/b".to_owned()]);
    prop_oneof![
        (json_type, json).prop_map(|(kind, json)| (kind, json.trim().as_bytes().to_vec())),
        (other_type, "\\PC{0,20}").prop_map(|(kind, text)| (Some(kind), text.into_bytes())),
        (typed, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, bytes)| (Some(kind), bytes)),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let value = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(|value| Value::Int(value.into())),
        "\\PC{0,12}".prop_map(Value::Text),
    ];
    let extensions = prop::collection::btree_map("x[a-z0-9]{0,6}", value, 0..4);
    let causes = prop::collection::vec("[a-z,%2C5]{1,6}", 0..4);
    let texts = ("\\PC{1,12}", "\\PC{1,12}", "\\PC{1,12}", maybe_text(), maybe_text(), maybe_text());
    (texts, causes, extensions, any_data()).prop_map(|(texts, causes, extensions, (content_type, data))| {
        let (kind, id, source, subject, key, correlation) = texts;
        let extensions = extensions.into_iter().collect();
        Event { kind, id, source, subject, key, content_type, causes, correlation, extensions, data: data.into() }
    })
}

proptest! {
    #[test]
    fn to_json_and_back_keeps_everything(event in any_event()) {
        let json = to_json(&event);
        prop_assert!(!json.contains('\n'));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
        let mut back = read(&json, Reading::Again).unwrap();
        prop_assert_eq!(back.topic.as_deref(), Some("orders.placed"));
        let time = back.event.extensions.iter().position(|(name, _)| name == "time").unwrap();
        let (_, time) = back.event.extensions.remove(time);
        prop_assert_eq!(time, Value::Text("2026-01-01T00:00:00.123Z".into()));
        prop_assert_eq!(back.event, event);
    }
}

#[test]
fn the_form_is_that_of_cloudevents() {
    let event = Event {
        causes: vec!["a".into(), "b,c".into()],
        key: Some("k".into()),
        data: "{\n \"n\": 1.0}".into(),
        ..minimal()
    };
    let expected = concat!(
        r#"{"specversion":"1.0","id":"1","source":"/shop","type":"placed","time":"2026-01-01T00:00:00.123Z","#,
        r#""partitionkey":"k","causationid":"a,b%2Cc","rdltopic":"orders.placed","rdlauthor":"12D3KooW","#,
        r#""rdlseq":"7","rdlarrival":"9","rdlhlc":"115816897020100608000","data":{  "n": 1.0}}"#
    );
    let hlc = Hlc::from_ms(1_767_225_600_123).0.to_string();
    assert_eq!(to_json(&event), expected.replace("115816897020100608000", &hlc));
    let timed = Event { extensions: vec![("time".into(), Value::Text("2020-01-01T00:00:00Z".into()))], ..minimal() };
    assert_eq!(to_json(&timed).matches("\"time\"").count(), 1);
    for (content_type, data, expected) in [
        (None, &b"hello"[..], r#""datacontenttype":"text/plain","data":"hello"}"#),
        (None, &[0xff], r#""data_base64":"/w=="}"#),
        (Some("text/plain"), b"7", r#""datacontenttype":"text/plain","data":"7"}"#),
        (Some("application/json"), b"{", r#""datacontenttype":"application/json","data_base64":"ew=="}"#),
    ] {
        let event = Event { content_type: content_type.map(str::to_owned), data: data.to_vec().into(), ..minimal() };
        let json = to_json(&event);
        assert!(json.ends_with(expected), "{json}");
    }
}

#[test]
fn what_is_missing_gets_a_default_where_it_may() {
    let event = read(r#"{"data": [1, 2], "rdlseq": 5, "subject": null}"#, Reading::Filling(DEFAULTS)).unwrap().event;
    assert_eq!((event.source.as_str(), event.kind.as_str(), &event.data[..]), ("/nodes/a", "event", &b"[1, 2]"[..]));
    assert_eq!((event.id.len(), event.extensions.len(), event.subject), (36, 0, None));
    assert_eq!(read(r#"{"id":"1"}"#, Reading::Strict), Err(CloudEventError::Missing("specversion")));
    assert_eq!(read(r#"{"id":"1","specversion":"1.0"}"#, Reading::Strict), Err(CloudEventError::Missing("source")));
}

#[test]
fn what_breaks_the_rules_is_refused() {
    for (json, word) in [
        ("[]", "object"),
        ("{", "JSON"),
        (r#"{"specversion":"0.3"}"#, "0.3"),
        (r#"{"id":5}"#, "id is 5"),
        (r#"{"Id":"a"}"#, "'Id'"),
        (r#"{"my_name":"a"}"#, "'my_name'"),
        (r#"{"a":1,"a":2}"#, "twice"),
        (r#"{"a":1.5}"#, "1.5"),
        (r#"{"a":{}}"#, "whole number"),
        (r#"{"time":"yesterday"}"#, "yesterday"),
        (r#"{"time":"2026-01-31 09:00:00Z"}"#, "2026-01-31 09"),
        (r#"{"id":""}"#, "empty"),
        (r#"{"subject":""}"#, "empty"),
        (r#"{"id":"a\u0007"}"#, "control"),
        (r#"{"xtext":"a\uffff"}"#, "noncharacters"),
        (r#"{"source":"my shop"}"#, "URI reference"),
        (r#"{"dataschema":"relative"}"#, "scheme"),
        (r#"{"datacontenttype":"json"}"#, "media type"),
        (r#"{"n":2147483648}"#, "32 bits"),
        (r#"{"specversion":1.0}"#, "1.0"),
        (r#"{"data":1,"data_base64":"AA=="}"#, "both"),
        (r#"{"data_base64":"A"}"#, "base64"),
    ] {
        let error = read(json, Reading::Filling(DEFAULTS)).unwrap_err().to_string();
        assert!(error.contains(word), "{json}: {error}");
    }
}

#[test]
#[ignore = "a measurement: run it in release mode, with --nocapture"]
fn how_fast_events_are_written() {
    let event = Event { data: format!("{{\"a\":\"{}\"}}", "x".repeat(200)).into(), ..minimal() };
    let start = std::time::Instant::now();
    let mut out = Vec::new();
    for seq in 0..1_000_000 {
        out.clear();
        write_event(
            &mut out,
            &view(&event),
            &Place { topic: "orders.placed", author: "12D3KooW", seq, arrival: Arrival(9) },
        );
    }
    println!("{:.0} events/s", 1e6 / start.elapsed().as_secs_f64());
}
