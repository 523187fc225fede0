//! Durable consumers of real daemons, over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Http, Mesh, Node, eventually, exit};

/// A service that works as a consumer.
pub(crate) struct Service {
    http: Http,
    name: String,
}

impl Service {
    /// Creates the consumer, or takes part in it.
    pub(crate) fn new(node: &Node, name: &str, config: &Value) -> Self {
        let service = Self { http: node.http(), name: name.to_owned() };
        let answer = service.put(config);
        assert!([200, 201].contains(&answer.status), "{}", answer.text());
        service
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/consumers/{}{what}", self.name)
    }

    pub(crate) fn post(&self, what: &str, body: &Value) -> Answer {
        self.http.post(&self.path(what), "application/json", body.to_string())
    }

    pub(crate) fn put(&self, config: &Value) -> Answer {
        self.http.send(Method::PUT, &self.path(""), &JSON, config.to_string())
    }

    pub(crate) fn get(&self, what: &str) -> Value {
        self.http.get(&self.path(what)).expect(200).json()
    }

    /// Fetches events, and waits a while for the first.
    pub(crate) fn fetch(&self, max: usize, wait_ms: u64) -> Vec<Value> {
        let fetched = self.post(&format!("/fetch?max={max}&wait_ms={wait_ms}"), &json!({})).expect(200).json();
        fetched["events"].as_array().expect("events").clone()
    }

    pub(crate) fn ack(&self, events: &[Value]) {
        let cursors: Vec<&Value> = events.iter().map(|event| &event["rdlcursor"]).collect();
        let answer = self.post("/ack", &json!({ "cursors": cursors })).expect(200).json();
        assert_eq!(answer["events"], events.len() as u64, "{answer}");
    }

    fn nack(&self, event: &Value, delay_ms: u64) {
        let body = json!({ "cursor": event["rdlcursor"], "delay_ms": delay_ms, "reason": "it is poison" });
        assert_eq!(self.post("/nack", &body).expect(200).json()["events"], 1);
    }

    pub(crate) fn commit(&self, processed: &Value, events: &Value) -> Answer {
        self.post("/commit", &json!({ "processed": [processed["rdlcursor"]], "events": events }))
    }
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Publishes events with ids and, where there is a colon, keys before it.
pub(crate) fn publish(node: &Node, topic: &str, ids: &[String]) {
    let event = |id: &String| {
        let key = id.split_once(':').map(|(key, _)| key);
        json!({ "specversion": "1.0", "id": id, "source": "/test", "type": "made", "partitionkey": key, "data": id })
    };
    let events: Vec<Value> = ids.iter().map(event).collect();
    let path = format!("/v1/topics/{topic}/events");
    node.http().post(&path, "application/cloudevents-batch+json", json!(events).to_string()).expect(201);
}

pub(crate) fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
}

pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn what_is_not_acknowledged_is_delivered_again_and_what_is_is_not() {
    let mesh = Mesh::star(1);
    let service =
        Service::new(&mesh[0], "billing", &json!({ "topics": ["orders.*"], "ack_wait_ms": 4000, "backoff_ms": 10 }));
    publish(&mesh[0], "orders.placed", &numbered("o", 3));
    publish(&mesh[0], "weather", &numbered("w", 1));
    let first = service.fetch(10, 5_000);
    assert_eq!(ids(&first), numbered("o", 3));
    assert!(first.iter().all(|event| event["rdlattempt"] == 1 && event["rdltopic"] == "orders.placed"));
    service.ack(&first[1..2]);
    assert!(service.fetch(10, 100).is_empty(), "it is under way");
    assert_eq!(service.get("/lag")["in_flight"], 2);

    let mut again = service.fetch(10, 20_000);
    eventually("both are delivered again", || {
        again.extend(service.fetch(10, 100));
        again.len() >= 2
    });
    // Events without a key wait for nobody, and each for its own moment.
    let mut numbers = ids(&again);
    numbers.sort();
    assert_eq!(numbers, ["o0", "o2"]);
    assert!(again.iter().all(|event| event["rdlattempt"] == 2));
    // The cursor of a delivery that was given up still names the event.
    service.ack(&first[..1]);
    mesh[0].kill();
    mesh[0].start();
    let service = Service { http: mesh[0].http(), ..service };
    let last = service.fetch(10, 10_000);
    assert_eq!(ids(&last), ["o2"]);
    let all = service.post("/ack", &json!({ "up_to": last[0]["rdlcursor"] })).expect(200).json();
    assert_eq!(all["events"], 1);
    let lag = service.get("/lag");
    assert_eq!((&lag["events"], &lag["dead"], &lag["missed"]), (&json!(0), &json!(0), &Value::Null), "{lag}");

    service.post("/seek", &json!({ "to": "start" })).expect(200);
    assert_eq!(ids(&service.fetch(10, 5_000)), numbered("o", 3));
    service.post("/seek", &json!({ "to": first[1]["rdlcursor"] })).expect(200);
    assert_eq!(ids(&service.fetch(10, 5_000)), ["o2"]);
    service.post("/seek", &json!({ "to": "end" })).expect(200);
    assert!(service.fetch(10, 100).is_empty());
}

#[test]
fn other_keys_pass_a_poisoned_event_and_its_own_waits_until_it_is_a_dead_letter() {
    let mesh = Mesh::star(1);
    let config = json!({ "topics": ["jobs"], "max_deliver": 3, "ack_wait_ms": 30000 });
    let service = Service::new(&mesh[0], "worker", &config);
    let jobs = ["a:1", "a:2", "b:1", "b:2", "plain"].map(str::to_owned);
    publish(&mesh[0], "jobs", &jobs);
    let mut order = Vec::new();
    for _ in 0..40 {
        for event in service.fetch(10, 500) {
            order.extend(ids(std::slice::from_ref(&event)));
            if event["id"] == "a:1" {
                assert_eq!(service.get("/lag")["dead"], 0);
                service.nack(&event, 20);
            } else {
                service.ack(&[event]);
            }
        }
        if order.contains(&"a:2".to_owned()) {
            break;
        }
    }
    let at = |id: &str| order.iter().position(|other| other == id).unwrap_or_else(|| panic!("no {id}: {order:?}"));
    assert_eq!(order.iter().filter(|id| *id == "a:1").count(), 3, "{order:?}");
    assert_eq!(order.len(), 7, "{order:?}");
    assert!(at("b:1") < at("b:2") && at("b:2") < at("a:2"), "{order:?}");

    let dead = service.get("/dead");
    assert_eq!(dead.as_array().expect("letters").len(), 1);
    let number = dead[0]["number"].as_u64().expect("a number");
    let letter = service.get(&format!("/dead/{number}"));
    assert_eq!((&letter["id"], &letter["event"]["data"]), (&json!("a:1"), &json!("a:1")), "{letter}");
    let attempts = letter["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 3);
    assert!(attempts.iter().all(|attempt| attempt["outcome"] == "refused" && attempt["reason"] == "it is poison"));
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("it is poison")), "{letter}");

    // A letter that is redriven is kept until its event is done, also when the node dies meanwhile.
    assert_eq!(service.post("/dead/redrive", &json!({ "all": true })).expect(200).json()["redriven"], 1);
    assert_eq!(ids(&service.fetch(10, 5_000)), ["a:1"]);
    mesh[0].kill();
    mesh[0].start();
    let service = Service { http: mesh[0].http(), ..service };
    // Where it fails again, the letter says so of every delivery.
    for _ in 0..3 {
        let again = service.fetch(1, 5_000);
        assert_eq!(ids(&again), ["a:1"]);
        service.nack(&again[0], 20);
    }
    eventually("it is a dead letter again", || service.get("/dead")[0]["redriven"] == false);
    let letter = service.get(&format!("/dead/{number}"));
    assert_eq!(letter["attempts"].as_array().map(Vec::len), Some(6), "{letter}");
    assert_eq!(service.post("/dead/redrive", &json!({ "number": number })).expect(200).json()["redriven"], 1);
    let again = service.fetch(10, 5_000);
    assert_eq!(ids(&again), ["a:1"]);
    service.ack(&again);
    assert_eq!(service.get("/dead"), json!([]));
    service.post("/dead/redrive", &json!({ "number": number })).expect_problem(404, "not_found");
}

#[test]
fn a_commit_happens_once_whenever_the_node_is_killed() {
    const COUNT: usize = 60;
    let mesh = Mesh::star(1);
    let service = Service::new(&mesh[0], "shipping", &json!({ "topics": ["orders"] }));
    publish(&mesh[0], "orders", &numbered("o", COUNT));
    let orders = service.fetch(COUNT, 5_000);
    assert_eq!(orders.len(), COUNT);
    let shipped = |order: &Value| {
        json!([{ "topic": "shipped", "event": { "type": "shipped", "data": order["id"] } },
               { "topic": "billed", "event": { "id": format!("bill-{}", order["id"]), "data": 1 } }])
    };
    let first = service.commit(&orders[0], &shipped(&orders[0])).expect(200).json();
    assert_eq!((&first["processed"], &first["duplicate"]), (&json!(1), &json!(false)), "{first}");

    // Whoever commits loses its answers in the middle.
    let cut = Arc::new(Mutex::new(0));
    thread::scope(|scope| {
        let http = mesh[0].http();
        let done = cut.clone();
        let (orders, shipped) = (&orders, &shipped);
        scope.spawn(move || {
            for order in &orders[1..] {
                let body = json!({ "processed": [order["rdlcursor"]], "events": shipped(order) });
                let answer = http.try_post("/v1/consumers/shipping/commit", "application/json", body.to_string());
                if answer.is_none() {
                    break;
                }
                *done.lock().expect("a number") += 1;
            }
        });
        eventually("some commits are made", || *cut.lock().expect("a number") >= 10);
        mesh[0].kill();
    });
    mesh[0].start();
    let service = Service { http: mesh[0].http(), ..service };
    let repeated = service.commit(&orders[0], &shipped(&orders[0])).expect(200).json();
    assert_eq!(repeated["events"], first["events"], "the answer is the first one's");
    assert_eq!(repeated["duplicate"], true);
    let mut duplicates = 0;
    for order in &orders[1..] {
        let answer = service.commit(order, &shipped(order)).expect(200).json();
        duplicates += usize::from(answer["duplicate"] == true);
    }
    assert!(duplicates >= 10, "{duplicates} were recognised");
    for topic in ["shipped", "billed"] {
        let events = mesh[0].events(topic);
        let distinct: BTreeSet<_> = events.iter().map(|event| &event.id).collect();
        assert_eq!((events.len(), distinct.len()), (COUNT, COUNT), "{topic}");
    }
    assert!(service.fetch(1, 200).is_empty(), "all is done");
    let event = service.http.get("/v1/events?topic=shipped&from=start&limit=1").expect(200).lines().remove(0);
    assert_eq!((&event["causationid"], &event["correlationid"]), (&json!("o0"), &json!("o0")), "{event}");
    // The same work, committed otherwise, is refused whole.
    service.commit(&orders[0], &json!([])).expect_problem(409, "already_done");
    let epoch = orders[0]["rdlcursor"].as_str().expect("a cursor").split('-').next().expect("an epoch");
    service.post("/ack", &json!({ "cursor": format!("{epoch}-4000000-0") })).expect_problem(409, "not_delivered");
    service.post("/ack", &json!({ "cursor": "00c0ffee00c0ffee-1-0" })).expect_problem(409, "other_store");
}

#[test]
fn a_commit_whose_events_are_refused_is_not_done_also_after_a_crash() {
    let mesh = Mesh::star(2);
    mesh[0].cli(&["topics", "set", "shipped", "--writers", mesh[1].id()]).expect(exit::OK);
    let service = Service::new(&mesh[0], "shipping", &json!({ "topics": ["orders"] }));
    publish(&mesh[0], "orders", &numbered("o", 1));
    let order = service.fetch(1, 5_000).remove(0);
    let events = json!([{ "topic": "billed", "event": { "data": 1 } }, { "topic": "shipped", "event": { "data": 1 } }]);
    service.commit(&order, &events).expect_problem(403, "not_writer");
    mesh[0].kill();
    mesh[0].start();
    let service = Service { http: mesh[0].http(), ..service };
    assert_eq!(ids(&service.fetch(1, 5_000)), ["o0"]);
    assert_eq!((mesh[0].count("billed"), mesh[0].count("shipped")), (0, 0));
}

#[test]
fn members_of_one_consumer_share_its_events() {
    const COUNT: usize = 200;
    let mesh = Mesh::star(1);
    let config = json!({ "topics": ["work"], "max_in_flight": 8 });
    Service::new(&mesh[0], "pool", &config);
    let work: Vec<String> = (0..COUNT).map(|number| format!("{}:{number}", number % 7)).collect();
    publish(&mesh[0], "work", &work);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let service = Service::new(&mesh[0], "pool", &config);
                loop {
                    let events = service.fetch(4, 1_000);
                    if events.is_empty() {
                        break;
                    }
                    done.lock().expect("a list").extend(ids(&events));
                    service.ack(&events);
                }
            });
        }
    });
    let done = done.into_inner().expect("a list");
    assert_eq!(done.len(), COUNT);
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for id in &done {
        let (key, number) = id.split_once(':').expect("a key");
        let number = number.parse().expect("a number");
        assert!(last.insert(key, number).is_none_or(|before| before < number), "{id} came out of order");
    }
}

#[test]
fn a_stream_gives_back_what_its_reader_never_acknowledged() {
    let mesh = Mesh::star(1);
    let service = Service::new(&mesh[0], "live", &json!({ "topics": ["ticks"], "max_deliver": 5 }));
    publish(&mesh[0], "ticks", &numbered("t", 5));
    let http = mesh[0].http();
    let mut stream = http.stream("/v1/consumers/live/stream?max=2", &[]);
    let mut text = String::new();
    while text.matches("\n\n").count() < 2 {
        let chunk = stream.next_within(Duration::from_secs(20)).expect("the stream goes on");
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(text.contains(r#""id":"t0""#) && text.contains(r#""id":"t1""#) && !text.contains(r#""id":"t2""#), "{text}");
    assert!(text.starts_with("event: event\ndata: {"), "{text}");
    drop(stream);
    drop(http);
    let mut rest = Vec::new();
    eventually("all five are there for others", || {
        rest.extend(ids(&service.fetch(10, 200)));
        rest.len() == 5
    });
    rest.sort();
    assert_eq!(rest, numbered("t", 5));
}

/// Answers posts: 500 to the first so many of each event, then 204.
fn serve_hook(listener: TcpListener, refusals: usize, seen: Arc<Mutex<Vec<Value>>>) {
    for connection in listener.incoming().flatten() {
        let seen = seen.clone();
        thread::spawn(move || serve_connection(connection, refusals, &seen));
    }
}

fn serve_connection(connection: TcpStream, refusals: usize, seen: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(connection.try_clone().expect("a socket"));
    loop {
        let (mut length, mut structured, mut line) = (0, false, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let header = line.trim().to_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            structured |= header.starts_with("content-type: application/cloudevents+json");
            if header.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        assert!(structured, "it is no structured CloudEvent");
        let event: Value = serde_json::from_slice(&body).expect("JSON");
        let mut seen = seen.lock().expect("a list");
        let before = seen.iter().filter(|other| other["id"] == event["id"]).count();
        seen.push(event);
        let status = if before < refusals { "500 Internal Server Error" } else { "204 No Content" };
        if write!(&connection, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

#[test]
fn a_webhook_that_fails_gets_its_events_again_until_it_takes_them() {
    let mesh = Mesh::star(1);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (for_server, refusals) = (seen.clone(), 2);
    thread::spawn(move || serve_hook(listener, refusals, for_server));
    let config = json!({ "topics": ["news"], "backoff_ms": 50, "webhook": { "url": url } });
    let service = Service::new(&mesh[0], "hook", &config);
    publish(&mesh[0], "news", &["x:1", "x:2", "y:1"].map(str::to_owned));
    eventually("everything is taken", || service.get("/lag")["events"] == 0);
    let seen = ids(&seen.lock().expect("a list"));
    assert_eq!(seen.len(), 9, "{seen:?}");
    let x: Vec<&String> = seen.iter().filter(|id| id.starts_with("x:")).collect();
    assert_eq!(x, ["x:1", "x:1", "x:1", "x:2", "x:2", "x:2"]);
    let tls = json!({ "topics": ["news"], "webhook": { "url": "https://example.org" } });
    service.http.send(Method::PUT, "/v1/consumers/tls", &JSON, tls.to_string()).expect_problem(400, "bad_request");
}

#[test]
fn an_event_that_came_through_two_nodes_is_delivered_once() {
    let mesh = Mesh::star(2);
    let service = Service::new(&mesh[0], "once", &json!({ "topics": ["echo"] }));
    publish(&mesh[0], "echo", &numbered("e", 3));
    publish(&mesh[1], "echo", &numbered("e", 4));
    mesh.count("echo", 7, [0]);
    let mut events = Vec::new();
    eventually("four events came", || {
        let some = service.fetch(10, 500);
        service.ack(&some);
        events.extend(ids(&some));
        events.len() >= 4
    });
    mesh[0].kill();
    mesh[0].start();
    let service = Service { http: mesh[0].http(), ..service };
    publish(&mesh[1], "echo", &["e9".to_owned()]);
    events.extend(ids(&service.fetch(10, 20_000)));
    events.sort();
    assert_eq!(events, ["e0", "e1", "e2", "e3", "e9"]);
}
