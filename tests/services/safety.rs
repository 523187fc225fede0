//! Who and what is refused over TCP, and that a node is not hurt by it.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Http, Mesh, Node, eventually, exit};

/// A path, and headers.
type Request<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// A node whose API is on a port of loopback.
fn served() -> Mesh {
    let mut mesh = Mesh::empty();
    mesh.start(&[], &["--api", "0"]);
    mesh
}

/// Where the API of a node is, as host and port.
#[track_caller]
fn address(node: &Node) -> String {
    let found = || {
        let printed = node.printed();
        let line = printed.lines().rev().find_map(|line| line.strip_prefix("API on http://"))?;
        Some(line.split_once(',').map_or(line, |(address, _)| address).to_owned())
    };
    // It is printed a little after the node answers.
    eventually("the node says where its API is", || found().is_some());
    found().expect("an address")
}

fn token(node: &Node) -> String {
    fs::read_to_string(node.home.join("api.token")).expect("a token").trim().to_owned()
}

/// What a node answers to bytes, up to the end of the connection: its status and the whole of it.
#[track_caller]
fn exchange(address: &str, bytes: &[u8]) -> (u16, String) {
    // What it answers before it has read everything may be lost when it closes.
    let answer = (0..20).find_map(|_| try_exchange(address, bytes));
    answer.expect("an answer")
}

fn try_exchange(address: &str, bytes: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).expect("the API takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    // It may have closed before.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("no end of the answer: {error}"),
        _ => {}
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    Some((text.split(' ').nth(1)?.parse().ok()?, text))
}

/// A request for a path with headers, after which the connection ends.
fn get((path, headers): Request<'_>) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").into_bytes()
}

#[track_caller]
fn assert_problem((status, text): &(u16, String), expected: u16, code: &str) {
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.to_lowercase().contains("content-type: application/problem+json"), "{text}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!((*status, problem["code"].as_str()), (expected, Some(code)), "{text}");
    assert!(problem["hint"].is_string(), "{text}");
}

#[track_caller]
fn assert_answers(node: &Node) {
    let bearer = format!("Bearer {}", token(node));
    let headers = [("host", "localhost"), ("authorization", &bearer)];
    let (status, text) = exchange(&address(node), &get(("/v1/status", &headers)));
    assert_eq!(status, 200, "{text}");
}

#[test]
fn without_being_asked_a_node_listens_nowhere_for_its_api() {
    let mesh = Mesh::star(1);
    assert!(!mesh[0].printed().contains("API on"), "{}", mesh[0].printed());
    assert!(!mesh[0].home.join("api.token").exists());
    mesh[0].http().get("/v1/status").expect(200);
    let mode = fs::metadata(mesh[0].home.join("api.sock")).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_port_is_one_of_loopback_and_needs_the_token() {
    let mesh = served();
    let (node, address) = (&mesh[0], address(&mesh[0]));
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let file = node.home.join("api.token");
    assert_eq!(fs::metadata(&file).expect("a token").permissions().mode() & 0o777, 0o600);
    let status: Value = serde_json::from_str(&node.cli(&["status", "--json"]).stdout).expect("JSON");
    assert_eq!(status["node"]["api"]["url"], format!("http://{address}"));
    assert_eq!(status["node"]["api"]["token_file"], file.display().to_string());

    let (base, token) = (format!("http://{address}"), token(node));
    let bearer = |token: &str| {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
        HeaderMap::from_iter([(reqwest::header::AUTHORIZATION, value)])
    };
    let with = Http::over_tcp(&base, bearer(&token));
    with.get("/v1/status").expect(200);
    with.get("/v1/openapi.json").expect(200);
    let event = r#"[{"specversion":"1.0","id":"1","source":"/s","type":"t"}]"#;
    with.post("/v1/topics/a/events", "application/cloudevents-batch+json", event).expect(201);
    assert_eq!(with.get("/v1/events?from=start").expect(200).lines().len(), 1);

    let without = Http::over_tcp(&base, HeaderMap::new());
    let wrong = Http::over_tcp(&base, bearer(&"0".repeat(token.len())));
    for path in ["/v1/status", "/v1/events", "/v1/openapi.json", "/v1/nothing", "/metrics", "/"] {
        without.get(path).expect_problem(401, "unauthorized");
        wrong.get(path).expect_problem(401, "unauthorized");
    }
    without.post("/v1/shutdown", "", "").expect_problem(401, "unauthorized");
    let problem = without.post("/v1/topics/a/events", "application/json", vec![b' '; 1 << 20]);
    problem.expect_problem(401, "unauthorized");
    let (_, text) = exchange(&address, &get(("/v1/status", &[("host", "localhost")])));
    assert!(text.to_lowercase().contains("www-authenticate: bearer"), "{text}");
    // The socket needs none, and the token stays when the node starts again.
    node.http().get("/v1/status").expect(200);
    node.stop();
    node.start();
    assert_eq!(self::token(node), token);
    assert_answers(node);
}

#[test]
fn a_token_that_others_can_read_keeps_a_node_from_starting() {
    let mesh = served();
    let node = &mesh[0];
    node.stop();
    let file = node.home.join("api.token");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("permissions");
    let done = node.run_to_its_end();
    assert_eq!(done.code, Some(exit::FAILURE), "{}", done.stderr);
    assert!(done.stderr.contains("chmod 0600") && done.stderr.contains("api.token"), "{}", done.stderr);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("permissions");
    node.start();
    assert_answers(node);
}

#[test]
fn names_and_pages_that_are_not_the_nodes_are_refused() {
    let mut mesh = served();
    let other = mesh.prepare(&[], &["--api", "127.0.0.1:0"]);
    mesh[other].run_through(&["env", "ROUNDELAY_API_HOSTS=node.example.org"]);
    mesh[other].start();
    let (address, bearer) = (address(&mesh[0]), format!("Bearer {}", token(&mesh[0])));
    let auth = ("authorization", bearer.as_str());
    let ask = |headers: &[(&str, &str)]| exchange(&address, &get(("/v1/status", headers)));
    for host in ["localhost", "127.0.0.1", &address] {
        assert_eq!(ask(&[("host", host), auth]).0, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "192.0.2.1", "node.example.org"] {
        assert_problem(&ask(&[("host", host), auth]), 403, "host_refused");
    }
    assert_problem(&ask(&[("host", "localhost"), ("host", "evil.example"), auth]), 403, "host_refused");
    let whole = get(("http://evil.example/v1/status", &[("host", "localhost"), auth]));
    assert_problem(&exchange(&address, &whole), 403, "host_refused");

    let host = ("host", address.as_str());
    for header in [
        ("origin", "http://evil.example"),
        ("origin", "http://localhost:3000"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        assert_problem(&ask(&[host, auth, header]), 403, "cross_site");
    }
    let own = format!("http://{address}");
    assert_eq!(ask(&[host, auth, ("origin", &own), ("sec-fetch-site", "same-origin")]).0, 200);

    // A setting takes further names.
    let (address, bearer) = (self::address(&mesh[other]), format!("Bearer {}", token(&mesh[other])));
    let headers = [("host", "node.example.org:7777"), ("authorization", bearer.as_str())];
    assert_eq!(exchange(&address, &get(("/v1/status", &headers))).0, 200);
}

#[test]
fn an_address_of_the_network_is_told_of_loudly() {
    let mut mesh = Mesh::empty();
    mesh.start(&[], &["--api", "0.0.0.0:0"]);
    assert!(mesh[0].said().contains("NOT ENCRYPTED"), "{}", mesh[0].said());
    let port = address(&mesh[0]).rsplit_once(':').expect("a port").1.to_owned();
    let bearer = format!("Bearer {}", token(&mesh[0]));
    let headers = [("host", "127.0.0.1"), ("authorization", bearer.as_str())];
    assert_eq!(exchange(&format!("127.0.0.1:{port}"), &get(("/v1/status", &headers))).0, 200);

    let silent = served();
    assert!(!silent[0].said().contains("NOT ENCRYPTED"), "{}", silent[0].said());
    for wrong in ["here", "7777x", "http://127.0.0.1:7777", "127.0.0.1", "99999", "node.example.org:7777"] {
        let index = mesh.prepare(&[], &["--api", wrong]);
        let done = mesh[index].run_to_its_end();
        assert_eq!(done.code, Some(exit::USAGE), "{wrong}: {}", done.stderr);
        assert!(done.stderr.contains("--api"), "{wrong}: {}", done.stderr);
    }
}

#[test]
fn requests_beyond_the_limits_are_refused_and_the_node_goes_on() {
    let mesh = served();
    let (address, bearer) = (address(&mesh[0]), format!("Bearer {}", token(&mesh[0])));
    let auth = [("host", "localhost"), ("authorization", bearer.as_str())];

    // A header that is too long, and too many of them.
    let long = "x".repeat(64 * 1024);
    let (status, text) = exchange(&address, &get(("/v1/status", &[auth[0], auth[1], ("x-long", &long)])));
    assert_eq!(status, 431, "{text}");
    let names: Vec<_> = (0..100).map(|nth| format!("x-{nth}")).collect();
    let mut many = auth.to_vec();
    many.extend(names.iter().map(|name| (name.as_str(), "1")));
    let (status, text) = exchange(&address, &get(("/v1/status", &many)));
    assert_eq!(status, 431, "{text}");
    let (status, text) = exchange(&address, &get((&format!("/v1/{}", "x".repeat(100_000)), &auth)));
    assert!(matches!(status, 414 | 431), "{text}");

    // A body that says that it is too large: it is not even waited for.
    let head = format!(
        "POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer}\r\n\
         content-type: application/cloudevents-batch+json\r\ncontent-length: 17000000\r\nconnection: close\r\n\r\n"
    );
    let answer = exchange(&address, head.as_bytes());
    assert_problem(&answer, 413, "body_too_large");
    // One that does not say, and goes on until it is.
    let mut endless = head.replace("content-length: 17000000", "transfer-encoding: chunked").into_bytes();
    for _ in 0..16 {
        endless.extend_from_slice(b"100000\r\n");
        endless.extend(std::iter::repeat_n(b' ', 0x10_0000));
        endless.extend_from_slice(b"\r\n");
    }
    endless.extend_from_slice(b"2\r\n[]\r\n0\r\n\r\n");
    assert_problem(&exchange(&address, &endless), 413, "body_too_large");
    let (status, text) = exchange(&address, b"NONSENSE\r\n\r\n");
    assert_eq!(status, 400, "{text}");
    assert_answers(&mesh[0]);
}

#[test]
fn who_sends_a_whole_body_before_reading_learns_why_it_was_refused() {
    let mesh = served();
    let (address, bearer) = (address(&mesh[0]), format!("authorization: Bearer {}\r\n", token(&mesh[0])));
    let post = |path: &str, auth: &str, bytes: usize| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\n{auth}content-type: text/csv\r\ncontent-length: {bytes}\r\n\
             connection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect(&address).expect("the API takes connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
        stream.write_all(head.as_bytes()).expect("the head is taken");
        stream.write_all(&vec![b' '; bytes]).expect("the body is taken to its end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer comes to its end");
        (answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).expect("a status"), answer)
    };
    let topic = "/v1/topics/a/events";
    for (path, auth, bytes, status, code) in [
        (topic, "", 20 << 20, 401, "unauthorized"),
        (topic, bearer.as_str(), 20 << 20, 413, "body_too_large"),
        ("/v1/topics/a..b/events", bearer.as_str(), 8 << 20, 400, "bad_topic"),
        ("/v1/nothing", bearer.as_str(), 8 << 20, 404, "not_found"),
        ("/v1/status", bearer.as_str(), 8 << 20, 405, "method_not_allowed"),
    ] {
        let (answered, text) = post(path, auth, bytes);
        assert!(answered == status && text.contains(&format!(r#""code":"{code}""#)), "{path}: {text}");
    }
    // Who waits to be told to send is told no instead, at once.
    let mut stream = TcpStream::connect(&address).expect("the API takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    let head = format!(
        "POST {topic} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 9\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the head is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer comes to its end");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn more_connections_than_there_may_be_are_told_so() {
    let mesh = served();
    let address = address(&mesh[0]);
    let mut held: Vec<TcpStream> = (0..256).map(|_| TcpStream::connect(&address).expect("a connection")).collect();
    let start = Instant::now();
    let refused = loop {
        // Connections are taken one after the other.
        let answer = exchange(&address, &get(("/v1/status", &[("host", "localhost")])));
        if answer.0 == 503 {
            break answer;
        }
        assert!(start.elapsed() < DEADLINE, "never refused: {answer:?}");
    };
    assert_problem(&refused, 503, "too_many_connections");
    // The command line goes by the socket.
    mesh[0].status();
    let scrape = mesh[0].http().get("/metrics").expect(200).text();
    assert!(scrape.contains(r#"roundelay_http_problems_total{code="too_many_connections"} "#), "{scrape}");
    held.clear();
    let start = Instant::now();
    let headers = [("host", "localhost"), ("authorization", &*format!("Bearer {}", token(&mesh[0])))];
    while exchange(&address, &get(("/v1/status", &headers))).0 != 200 {
        assert!(start.elapsed() < DEADLINE, "refused for ever");
    }
}

#[test]
fn more_streams_than_there_may_be_are_told_so() {
    let mesh = served();
    let http = mesh[0].http();
    let held: Vec<_> = (0..256).map(|_| http.stream("/v1/events?follow=true", &[])).collect();
    assert!(held.iter().all(|stream| stream.status() == 200));
    http.get("/v1/events?from=start").expect_problem(503, "too_many_streams");
    let consumer = json!({ "topics": ["orders"] }).to_string();
    http.send(reqwest::Method::PUT, "/v1/consumers/live", &[("content-type", "application/json")], consumer)
        .expect(201);
    http.get("/v1/consumers/live/stream").expect_problem(503, "too_many_streams");
    mesh[0].status();
    drop(held);
    let start = Instant::now();
    while http.get("/v1/events?from=start").status != 200 {
        assert!(start.elapsed() < DEADLINE, "refused for ever");
    }
}

#[test]
fn what_is_refused_over_tcp_is_counted_once() {
    let mesh = served();
    let (address, bearer) = (address(&mesh[0]), format!("Bearer {}", token(&mesh[0])));
    let (host, auth) = (("host", "localhost"), ("authorization", bearer.as_str()));
    assert_problem(&exchange(&address, &get(("/v1/status", &[host]))), 401, "unauthorized");
    assert_problem(&exchange(&address, &get(("/v1/status", &[("host", "evil.example"), auth]))), 403, "host_refused");
    let page = ("origin", "http://evil.example");
    assert_problem(&exchange(&address, &get(("/v1/status", &[host, auth, page]))), 403, "cross_site");
    assert_eq!(exchange(&address, &get(("/v1/holes", &[host, auth]))).0, 200);
    mesh[0].http().get("/v1/nothing").expect_problem(404, "not_found");
    let scrape = mesh[0].http().get("/metrics").expect(200).text();
    for series in [
        r#"roundelay_http_problems_total{code="unauthorized"} 1"#,
        r#"roundelay_http_problems_total{code="host_refused"} 1"#,
        r#"roundelay_http_problems_total{code="cross_site"} 1"#,
        r#"roundelay_http_problems_total{code="not_found"} 1"#,
        r#"roundelay_http_requests_total{route="/v1/status",method="GET",status="401"} 1"#,
        r#"roundelay_http_requests_total{route="/v1/status",method="GET",status="403"} 2"#,
        r#"roundelay_http_requests_total{route="/v1/holes",method="GET",status="200"} 1"#,
        r#"roundelay_http_requests_total{route="none",method="GET",status="404"} 1"#,
    ] {
        assert!(scrape.lines().any(|line| line == series), "no {series} in:\n{scrape}");
    }
}

#[test]
fn more_replays_in_order_of_time_than_there_may_be_are_told_so() {
    let mesh = served();
    let http = mesh[0].http();
    // More than what lies on the way of a client that takes nothing.
    let event =
        format!(r#"{{"specversion":"1.0","id":"ID","source":"/s","type":"t","data":"{}"}}"#, "x".repeat(60_000));
    for round in 0..20 {
        let events: Vec<_> = (0..16).map(|nth| event.replace("ID", &format!("{round}-{nth}"))).collect();
        let body = format!("[{}]", events.join(","));
        http.post("/v1/topics/a/events", "application/cloudevents-batch+json", body).expect(201);
    }
    let held: Vec<_> = (0..4).map(|_| http.stream("/v1/events?order=time", &[])).collect();
    assert!(held.iter().all(|stream| stream.status() == 200));
    http.get("/v1/events?order=time").expect_problem(503, "too_many_streams");
    assert_eq!(http.get("/v1/events?from=start&limit=2").expect(200).lines().len(), 2);
    drop(held);
    let start = Instant::now();
    while http.get("/v1/events?order=time&limit=1").status != 200 {
        assert!(start.elapsed() < DEADLINE, "refused for ever");
    }
}

#[test]
fn who_never_ends_its_headers_is_closed() {
    let mesh = served();
    let mut stream = TcpStream::connect(address(&mesh[0])).expect("a connection");
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n").expect("a beginning");
    stream.set_read_timeout(Some(Duration::from_secs(90))).expect("a time limit");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the node closes the connection");
    assert_answers(&mesh[0]);
}
