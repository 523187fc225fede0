//! Spans: what a collector receives of a publication, and that they hang under the publisher's own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::harness::{DEADLINE, Mesh};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A server that takes exports, as a collector does.
struct Collector {
    address: String,
    exports: Receiver<(String, ExportTraceServiceRequest)>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("its address"));
        let (sender, exports) = mpsc::channel();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    while let Some(export) = take(&stream) {
                        drop(sender.send(export));
                    }
                });
            }
        });
        Self { address, exports }
    }

    /// Waits until spans of all these names have come, and gives everything that came, by name.
    #[track_caller]
    fn spans(&self, names: &[&str]) -> BTreeMap<String, Span> {
        let mut found = BTreeMap::new();
        let start = Instant::now();
        while !names.iter().all(|name| found.contains_key(*name)) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let (path, export) =
                self.exports.recv_timeout(left).unwrap_or_else(|_| panic!("only {:?} came", found.keys()));
            assert_eq!(path, "/v1/traces");
            for resource in export.resource_spans {
                let attributes = resource.resource.expect("a resource").attributes;
                let service = attributes.iter().find(|attribute| attribute.key == "service.name");
                let value = service.and_then(|service| service.value.clone()).and_then(|value| value.value);
                assert!(format!("{value:?}").contains("roundelay"), "{value:?}");
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                found.extend(spans.map(|span| (span.name.clone(), span)));
            }
        }
        found
    }
}

/// Reads one request with its length given, and answers it.
fn take(mut stream: &TcpStream) -> Option<(String, ExportTraceServiceRequest)> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_ascii_lowercase()),
        }
    }
    let path = head.first()?.split(' ').nth(1)?.to_owned();
    assert!(head.iter().any(|line| line == "content-type: application/x-protobuf"), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    Some((path, ExportTraceServiceRequest::decode(body.as_slice()).expect("an export")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two linked nodes, of which the first exports spans.
fn traced_mesh(endpoint: &str) -> Mesh {
    let mut mesh = Mesh::empty();
    let first = mesh.prepare(&[], &[]);
    let variable = format!("OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}");
    mesh[first].run_through(&["env", &variable, "OTEL_BSP_SCHEDULE_DELAY=100"]);
    mesh[first].start();
    mesh.start(&[first], &[]);
    mesh.connected(mesh.all());
    mesh
}

#[test]
fn a_publication_is_a_span_under_the_publishers_with_its_stages_below() {
    let collector = Collector::start();
    let mesh = traced_mesh(&collector.address);
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        ("content-type", "application/cloudevents+json"),
        ("traceparent", traceparent.as_str()),
        ("tracestate", "vendor=value"),
    ];
    let event = r#"{"specversion":"1.0","id":"1","source":"/test","type":"test","data":{"n":1}}"#;
    let path = "/v1/topics/orders.placed/events?acks=1";
    mesh[0].http().send(reqwest::Method::POST, path, &headers, event).expect(201);

    let spans = collector.spans(&["publish", "receive", "store", "acknowledge"]);
    let publish = &spans["publish"];
    assert_eq!((hex(&publish.trace_id), hex(&publish.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    for stage in ["receive", "store", "acknowledge"] {
        let span = &spans[stage];
        assert_eq!(hex(&span.trace_id), TRACE, "{stage}");
        assert_eq!(span.parent_span_id, publish.span_id, "{stage} hangs under publish");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{stage}");
        assert!(publish.start_time_unix_nano <= span.start_time_unix_nano, "{stage}");
    }
    assert!(spans["store"].end_time_unix_nano <= spans["acknowledge"].end_time_unix_nano);
    let destination = publish.attributes.iter().find(|attribute| attribute.key == "messaging.destination.name");
    assert!(format!("{destination:?}").contains("orders.placed"), "{destination:?}");

    // Whoever reads the event, wherever, can go on with the trace.
    mesh.converge(mesh.all());
    let read = mesh[1].http().get("/v1/events?topic=orders.placed&from=start").expect(200).lines();
    assert_eq!(
        (&read[0]["traceparent"], &read[0]["tracestate"]),
        (&traceparent.as_str().into(), &"vendor=value".into())
    );
}

#[test]
fn an_event_keeps_the_trace_that_it_brings_and_a_bad_header_is_none() {
    // No collector: the attribute has nothing to do with whether spans are exported here.
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let own = format!("00-{TRACE}-00000000000000aa-00");
    let header = format!("00-{TRACE}-{PARENT}-01");
    let publish = |id: &str, extra: &str, header: &str| {
        let event = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/test","type":"test"{extra}}}"#);
        let headers = [("content-type", "application/cloudevents+json"), ("traceparent", header)];
        http.send(reqwest::Method::POST, "/v1/topics/orders/events", &headers, event).expect(201);
    };
    publish("own", &format!(r#","traceparent":"{own}""#), &header);
    publish("bad", "", "00-nonsense");
    publish("good", "", &header);
    // The same again from a client that makes a span for each attempt: a repeat, and no other event.
    publish("good", "", &format!("00-{TRACE}-00000000000000bb-01"));
    let read = http.get("/v1/events?topic=orders&from=start").expect(200).lines();
    let of = |id: &str| read.iter().find(|event| event["id"] == id).unwrap_or_else(|| panic!("no {id}"));
    assert_eq!(of("own")["traceparent"], own.as_str());
    assert!(of("bad")["traceparent"].is_null());
    assert_eq!(of("good")["traceparent"], header.as_str());
}

#[test]
fn without_a_collector_that_answers_the_node_goes_on() {
    // Nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("its address"));
    drop(listener);
    let mesh = traced_mesh(&address);
    mesh[0].publish("orders", "one");
    crate::harness::eventually("it says that spans cannot be exported", || {
        mesh[0].said().contains("spans cannot be exported")
    });
    mesh[0].publish("orders", "two");
    assert_eq!(mesh[0].count("orders"), 2);
    mesh[0].stop_within(Duration::from_secs(60));
    let said = mesh[0].said();
    assert_eq!(said.matches("spans cannot be exported").count(), 1, "told once:\n{said}");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_at_the_start() {
    let mut mesh = Mesh::empty();
    let node = mesh.prepare(&[], &[]);
    mesh[node].run_through(&["env", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://collector.example:4318/v1/traces"]);
    let done = mesh[node].run_to_its_end();
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(
        done.stderr.contains("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") && done.stderr.contains("http://"),
        "{}",
        done.stderr
    );
}
