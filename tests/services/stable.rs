//! What is stable: views say so, who is silent is named and can be left out, and exceptions are counted.

use reqwest::Method;
use serde_json::Value;

use crate::harness::{Mesh, Node, eventually, exit};

const TOPIC: &str = "stock.levels";
const FLAGS: [&str; 2] = ["--heartbeat", "200ms"];

fn mesh_of(count: usize) -> Mesh {
    let mut mesh = Mesh::star(0);
    for nth in 0..count {
        mesh.start(if nth == 0 { &[] } else { &[0] }, &FLAGS);
    }
    mesh.connected(mesh.all());
    mesh
}

#[track_caller]
fn set(node: &Node, key: &str, level: &str) {
    node.cli(&["pub", TOPIC, level, "--key", key, "--source", "/stock"]).expect(exit::OK);
}

fn json(node: &Node, arguments: &[&str]) -> Value {
    let said = node.cli(&[&["--json"], arguments].concat()).expect(exit::OK).stdout;
    serde_json::from_str(&said).expect("JSON")
}

fn is_stable(node: &Node, key: &str) -> bool {
    let page = json(node, &["view", TOPIC]);
    page["entries"].as_array().expect("a list").iter().any(|entry| entry["key"] == key && entry["is_stable"] == true)
}

#[test]
fn a_value_is_stable_once_every_node_was_heard_beyond_it_or_is_left_out() {
    let mesh = mesh_of(3);
    set(&mesh[0], "apples", "12");
    mesh.converge(mesh.all());
    for node in mesh.all() {
        eventually("the value is stable", || is_stable(&mesh[node], "apples"));
    }

    // A node that is cut off may have published something earlier.
    mesh.network.partition(&[&[0, 1], &[2]]);
    set(&mesh[2], "apples", "10");
    set(&mesh[0], "apples", "11");
    eventually("it is here", || json(&mesh[1], &["view", TOPIC])["entries"][0]["event"]["data"] == 11);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(!is_stable(&mesh[1], "apples"));
    let stability = json(&mesh[1], &["stable", TOPIC]);
    let silent = &stability["nodes"][0];
    assert_eq!((&silent["id"], &silent["received_ms"]), (&mesh[2].id().into(), &stability["stable_ms"]));
    let shown = mesh[1].cli(&["stable"]).expect(exit::OK).stdout;
    assert!(shown.contains("stable up to") && shown.contains("holds it up"), "{shown}");

    let declared = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/declarations/order_saga.toml");
    mesh[1].cli(&["topics", "join", "orders.>"]).expect(exit::OK);
    mesh[1].cli(&["choreography", "publish", declared]).expect(exit::OK);
    let of_orders = || mesh[1].cli(&["--json", "stable", "--choreography", "order-saga"]).expect(exit::OK).stdout;
    assert_eq!(serde_json::from_str::<Value>(&of_orders()).expect("JSON")["nodes"].as_array().map(Vec::len), Some(3));
    mesh[1].cli(&["stable", "--choreography", "odrer-saga"]).expect(exit::FAILURE).saying(&["order-saga"]);
    mesh[1].cli(&["stable", TOPIC, "--choreography", "order-saga"]).expect(exit::USAGE);

    let order = ["--type", "order.placed", "--correlation", "o-1", "-H", "role=shop"];
    mesh[1].cli(&[&["pub", "orders.placed", "{}"], &order[..]].concat()).expect(exit::OK);
    let placed = || json(&mesh[1], &["instances", "order-saga"])["instances"][0].clone();
    eventually("the order is there", || placed()["state"] == "placed");
    assert_eq!(placed()["is_stable"], false, "the silent node may have placed it before");

    mesh[1].cli(&["stable", "--leave-out", mesh[2].id()]).expect(exit::OK).saying(&["left out"]);
    eventually("it is stable without the silent node", || is_stable(&mesh[1], "apples"));
    eventually("so is the order", || placed()["is_stable"] == true);
    assert!(!is_stable(&mesh[0], "apples"), "each node decides for itself");
    assert_eq!(json(&mesh[1], &["view", TOPIC])["exceptions"], 0);

    // What it had published comes earlier than what was called stable.
    mesh.network.heal();
    mesh.converge(mesh.all());
    let page = json(&mesh[1], &["view", TOPIC]);
    assert_eq!((&page["exceptions"], &page["entries"][0]["event"]["data"]), (&1.into(), &11.into()), "{page}");
    let said = mesh[1].cli(&["view", TOPIC]).expect(exit::OK).stderr;
    assert!(said.contains("1 event came at or before what was stable"), "{said}");
    mesh[1].cli(&["stable", "--count", mesh[2].id()]).expect(exit::OK);
    eventually("all count, and all is stable", || mesh.all().all(|node| is_stable(&mesh[node], "apples")));

    // Left out or not, it is known after a restart.
    mesh[1].cli(&["stable", "--leave-out", mesh[2].id()]).expect(exit::OK);
    mesh[1].stop();
    mesh[1].start();
    let nodes = json(&mesh[1], &["stable"])["nodes"].clone();
    let left_out = nodes.as_array().expect("a list").iter().filter(|node| node["is_left_out"] == true);
    assert_eq!(left_out.map(|node| node["id"].as_str().unwrap()).collect::<Vec<_>>(), [mesh[2].id()]);

    // An id, but of another kind of key than nodes have.
    let foreign = "/v1/stability/left-out/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
    for method in [Method::PUT, Method::DELETE] {
        mesh[1].http().send(method, foreign, &[], "").expect_problem(400, "bad_peer");
    }
}

#[test]
fn nothing_is_stable_without_heartbeats_and_a_quiet_mesh_gives_none() {
    let mut mesh = mesh_of(2);
    // Nobody knows what is still to come, of topics that nobody has heard of either.
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis();
    for pattern in [">", "stock.>", TOPIC] {
        let stable_ms = json(&mesh[0], &["stable", pattern])["stable_ms"].as_u64().expect("a number");
        assert!(u128::from(stable_ms) <= now_ms + 10_000, "{pattern}: {stable_ms}");
    }
    set(&mesh[0], "apples", "12");
    eventually("the value is stable", || is_stable(&mesh[1], "apples"));
    mesh.converge(mesh.all());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let beats = || mesh[0].count("_heartbeats");
    let before = beats();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(beats(), before, "nothing was published");

    let quiet = mesh.start(&[0], &[]);
    mesh.connected(mesh.all());
    set(&mesh[0], "pears", "5");
    mesh.converge(mesh.all());
    std::thread::sleep(std::time::Duration::from_secs(2));
    let page = json(&mesh[1], &["view", TOPIC]);
    assert_eq!((&page["entries"][0]["is_stable"], &page["entries"][1]["is_stable"]), (&true.into(), &false.into()));
    let stability = json(&mesh[1], &["stable"]);
    assert_eq!((&stability["stable_ms"], &stability["nodes"][0]["id"]), (&0.into(), &mesh[quiet].id().into()));
    let shown = mesh[1].cli(&["stable"]).expect(exit::OK).stdout;
    assert!(shown.contains("stable up to -") && shown.contains("does it set `heartbeat`"), "{shown}");
    mesh[1].cli(&["topics", "join", "other.>"]).expect(exit::OK);
    mesh[1].cli(&["topics", "leave", ">"]).expect(exit::OK);
    // Of all that it subscribes to, unless it is told of what.
    mesh[1].cli(&["stable"]).expect(exit::OK);
    mesh[1].cli(&["stable", TOPIC]).expect(exit::USAGE).saying(&["does not subscribe", "roundelay topics join"]);
}
