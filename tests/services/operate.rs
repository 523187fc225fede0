//! What those who run nodes see of them: health, metrics, and that the documents and the dashboard speak of metrics that
//! there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::consumers::{Service, numbered, publish};
use crate::harness::{Mesh, Node, eventually, lines};
use crate::needs;

#[test]
fn a_node_that_runs_is_alive_and_ready() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    assert_eq!(http.get("/livez").expect(200).json()["live"], true);
    let readiness = http.get("/readyz").expect(200).json();
    assert_eq!(readiness["ready"], true, "{readiness}");
    let names: Vec<&str> =
        readiness["checks"].as_array().expect("checks").iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["store", "listening", "engine"]);
}

#[test]
fn a_scrape_of_a_working_mesh_counts_what_happened() {
    let mesh = busy_mesh();
    let [author, reader] = [scrape(&mesh[0]), scrape(&mesh[1])];
    let of = |scrape: &Scrape, name: &str| scrape.value(name).unwrap_or_else(|| panic!("no {name}"));

    assert_eq!(of(&author, r#"roundelay_stored_events_total{topic="orders.placed",origin="own"}"#), 50.0);
    assert_eq!(of(&author, r#"roundelay_stored_events_total{topic="orders.placed",origin="peer"}"#), 0.0);
    assert_eq!(of(&reader, r#"roundelay_stored_events_total{topic="orders.placed",origin="peer"}"#), 50.0);
    assert_eq!(of(&reader, r#"roundelay_delivered_events_total{topic="orders.placed"}"#), 50.0);
    assert!(of(&reader, r#"roundelay_stored_bytes_total{topic="orders.placed",origin="peer"}"#) > 50.0 * 10.0);
    let published = of(&author, "roundelay_publish_duration_seconds_count");
    assert!(published >= 1.0 && of(&author, "roundelay_publications_total") == published);
    assert!(of(&author, "roundelay_publish_ack_duration_seconds_count") >= 1.0);
    assert!(of(&author, "roundelay_log_sync_duration_seconds_count") >= published.min(2.0));
    assert!(of(&reader, "roundelay_propagation_duration_seconds_count") >= 1.0);
    assert!(of(&reader, "roundelay_delivery_duration_seconds_count") >= 1.0);
    assert_eq!(of(&author, r#"roundelay_http_problems_total{code="bad_topic"}"#), 1.0);
    assert_eq!(
        of(&author, r#"roundelay_http_requests_total{route="/v1/status",method="GET",status="200"}"#).signum(),
        1.0
    );
    assert_eq!(of(&author, "roundelay_links"), 2.0);
    assert_eq!(of(&author, "roundelay_healthy"), 1.0);
    assert_eq!(of(&author, r#"roundelay_takes_events{origin="own"}"#), 1.0);
    assert!(of(&author, r#"roundelay_sync_frames_total{direction="in",kind="hello"}"#) >= 2.0);
    assert_eq!(of(&author, r#"roundelay_logs{origin="own"}"#), 2.0, "of orders.placed and of the node's record");
    let behind = author.names_with("roundelay_peer_behind_events");
    assert_eq!(behind.len(), 2, "one series a peer: {behind:?}");
    assert!(
        author.value("libp2p_swarm_connections_established_total").is_some()
            || author.families.contains("libp2p_swarm_connections_established_total")
    );
    eventually("both peers are in sync", || {
        let now = scrape(&mesh[0]);
        now.names_with("roundelay_peer_in_sync").iter().all(|name| now.value(name) == Some(1.0))
    });
}

#[test]
fn a_scrape_says_how_far_consumers_are() {
    let mesh = Mesh::star(1);
    let config = json!({ "topics": ["orders"], "max_deliver": 2, "backoff_ms": 1 });
    let service = Service::new(&mesh[0], "billing", &config);
    publish(&mesh[0], "orders", &numbered("o", 5));
    let out = service.fetch(3, 5_000);
    service.ack(&out[..1]);
    let refuse = || service.post("/nack", &json!({ "cursor": out[1]["rdlcursor"], "delay_ms": 0 })).expect(200);
    refuse();
    assert_eq!(service.fetch(1, 5_000)[0]["rdlattempt"], 2);
    refuse();
    let expected = [("lag_events", 3.0), ("in_flight_events", 1.0), ("dead_letters", 1.0), ("members", 0.0)];
    let counted = [("deliveries_total", 4.0), ("redeliveries_total", 1.0)];
    eventually("the scrape says what happened", || {
        let scrape = scrape(&mesh[0]);
        let of = |name: &str| scrape.value(&format!(r#"roundelay_consumer_{name}{{consumer="billing"}}"#));
        expected.iter().chain(&counted).all(|(name, value)| of(name) == Some(*value))
    });
}

#[test]
fn promtool_has_nothing_to_say_about_a_scrape() {
    if !needs::has_program("promtool") {
        return;
    }
    let mesh = busy_mesh();
    for node in 0..3 {
        let text = mesh[node].http().get("/metrics").expect(200).text();
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("promtool starts");
        child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("it reads");
        let done = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success() && said.is_empty(), "promtool says:\n{said}");
    }
}

#[test]
fn who_asks_for_open_metrics_gets_them() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let plain = http.get("/metrics").expect(200);
    assert_eq!(plain.content_type, "text/plain; version=0.0.4; charset=utf-8");
    let accept = [("accept", "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")];
    let open = http.send(reqwest::Method::GET, "/metrics", &accept, "").expect(200);
    assert_eq!(open.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text().ends_with("# EOF\n"));
}

#[test]
fn the_table_of_metrics_is_what_a_node_tells() {
    let mesh = busy_mesh();
    let told: BTreeMap<String, String> = scrape(&mesh[0]).described;
    let text = read("docs/operations.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `roundelay_"));
    let documented: BTreeMap<String, String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let name = cells[0].split(['`', '{']).next().unwrap_or_default();
            (format!("roundelay_{name}"), format!("{}: {}", cells[1], cells[2]))
        })
        .collect();
    let own: BTreeMap<String, String> = told.into_iter().filter(|(name, _)| name.starts_with("roundelay_")).collect();
    let table: Vec<String> = own
        .iter()
        .map(|(name, told)| {
            let (kind, help) = told.split_once(": ").expect("a type");
            format!("| `{name}` | {kind} | {help} |")
        })
        .collect();
    assert!(documented == own, "the table in docs/operations.md should be:\n{}", table.join("\n"));
}

#[test]
fn every_metric_of_the_dashboard_is_there() {
    let mesh = busy_mesh();
    let families = scrape(&mesh[0]).families;
    let dashboard: serde_json::Value = serde_json::from_str(&read("packaging/grafana/roundelay.json")).expect("JSON");
    let mut named = BTreeSet::new();
    expressions(&dashboard, &mut named);
    assert!(named.len() > 20, "{named:?}");
    let alerts = metrics_in(&read("packaging/prometheus/alerts.yml"));
    for name in named.iter().chain(&alerts) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(families.contains(name) || families.contains(family), "{name} is named, and is nowhere");
    }
    if needs::has_program("promtool") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus/alerts.yml");
        let done = Command::new("promtool").args(["check", "rules"]).arg(path).output().expect("promtool");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
    }
}

/// Three nodes that have done something of everything.
fn busy_mesh() -> Mesh {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let http = mesh[1].http();
    let mut stream = http.stream("/v1/events?topic=orders.placed&follow=true", &[]);
    mesh[0].publish_lines("orders.placed", &lines("order", 49));
    mesh[0].cli(&["pub", "orders.placed", "last", "--acks", "2"]).expect(0);
    mesh.converge(mesh.all());
    let mut followed = Vec::new();
    while followed.iter().filter(|byte| **byte == b'\n').count() < 50 {
        let Some(bytes) = stream.next_within(Duration::from_secs(60)) else { break };
        followed.extend(bytes);
    }
    mesh[0]
        .http()
        .post("/v1/topics/orders.*/events", "application/cloudevents+json", "{}")
        .expect_problem(400, "bad_topic");
    mesh
}

/// What a node tells at `/metrics`.
struct Scrape {
    /// Each series with its labels, as written.
    series: BTreeMap<String, f64>,
    families: BTreeSet<String>,
    /// Type and help of each family.
    described: BTreeMap<String, String>,
}

impl Scrape {
    fn value(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }

    fn names_with(&self, family: &str) -> Vec<String> {
        self.series.keys().filter(|name| name.split('{').next() == Some(family)).cloned().collect()
    }
}

#[track_caller]
fn scrape(node: &Node) -> Scrape {
    let text = node.http().get("/metrics").expect(200).text();
    let (mut series, mut families, mut helps, mut kinds) =
        (BTreeMap::new(), BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(helps.insert(name.to_owned(), help.to_owned()).is_none(), "{name} is there twice");
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.insert(name.to_owned());
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if let Some((name, value)) = line.rsplit_once(' ') {
            series.insert(name.to_owned(), value.parse().unwrap_or_else(|error| panic!("{line}: {error}")));
        }
    }
    let described = helps.into_iter().map(|(name, help)| {
        let kind = kinds.get(&name).cloned().unwrap_or_default();
        (name, format!("{kind}: {help}"))
    });
    Scrape { series, families, described: described.collect() }
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics that queries of a dashboard name.
fn expressions(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(text) if ["expr", "definition", "query"].contains(&name.as_str()) => {
                        found.extend(metrics_in(text))
                    }
                    _ => expressions(member, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let ours = words.filter(|word| ["roundelay_", "libp2p_", "process_"].iter().any(|prefix| word.starts_with(prefix)));
    ours.map(str::to_owned).collect()
}
