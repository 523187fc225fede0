//! Consumers, dead letters and handlers from the command line.

use serde_json::{Value, json};

use super::consumers::{Service, publish};
use crate::harness::{Mesh, eventually, exit};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_consumer_is_added_listed_moved_and_removed() {
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    publish(node, "orders.placed", &["1", "2"].map(str::to_owned));
    let added = node.cli(&["consumer", "add", "billing", "orders.*", "--max-deliver", "2", "--json"]).expect(exit::OK);
    assert_eq!(json_of(&added.stdout)["config"]["max_deliver"], 2);
    eventually("both are to do", || {
        json_of(&node.cli(&["consumer", "lag", "billing", "--json"]).expect(exit::OK).stdout)["events"] == 2
    });
    let listed = node.cli(&["consumer", "ls"]).expect(exit::OK);
    assert!(listed.stdout.contains("billing") && listed.stdout.contains("orders.*"), "{}", listed.stdout);
    node.cli(&["consumer", "add", "billing", "weather"]).expect(exit::FAILURE).saying(&["exists"]);
    node.cli(&["consumer", "seek", "billing", "end"]).expect(exit::OK);
    let lag = node.cli(&["consumer", "lag", "billing", "--json"]).expect(exit::OK);
    assert_eq!(json_of(&lag.stdout)["events"], 0);
    node.cli(&["consumer", "rm", "billing"]).expect(exit::OK);
    node.cli(&["consumer", "rm", "billing"]).expect(exit::FAILURE).saying(&["no consumer"]);
    // One of the same name begins anew.
    node.cli(&["consumer", "add", "billing", "orders.*"]).expect(exit::OK);
    eventually("both are to do again", || {
        json_of(&node.cli(&["consumer", "lag", "billing", "--json"]).expect(exit::OK).stdout)["events"] == 2
    });
}

#[test]
fn a_handler_gets_events_and_what_it_prints_is_published_as_caused_by_them() {
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    publish(node, "orders", &["a:1", "a:2", "b:1"].map(str::to_owned));
    let script =
        r#"test "$CE_ID" = b:1 && exit 7; grep -q '"data":"'"$CE_ID"'"' && echo "{\"of\":\"$CE_ID\"}" && echo plain"#;
    let args = ["on", "orders", "--durable", "ship", "--concurrency", "2", "--emit", "shipped", "--emit-type", "sent"];
    let args = [&args[..], &["--count", "2", "--json", "--", "sh", "-c", script]].concat();
    let ran = node.cli(&args).expect(exit::OK);
    assert!(ran.stdout.lines().map(json_of).any(|line| line["id"] == "a:1" && line["emitted"] == 2), "{}", ran.stdout);
    let events = node.cli(&["sub", "shipped", "--from", "start", "--count", "4", "--json"]).expect(exit::OK);
    let events: Vec<Value> = events.stdout.lines().map(json_of).collect();
    for event in &events {
        assert_eq!(event["causationid"], event["correlationid"]);
        assert_eq!(event["type"], "sent");
    }
    assert_eq!((&events[0]["data"], &events[1]["data"]), (&json!({ "of": "a:1" }), &json!("plain")));
    assert_eq!(events[2]["causationid"], "a:2");
}

#[test]
fn dead_letters_are_listed_shown_and_delivered_again() {
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    publish(node, "orders", &["a:1"].map(str::to_owned));
    node.cli(&["consumer", "add", "ship", "orders", "--max-deliver", "2", "--backoff", "10ms"]).expect(exit::OK);
    let failing = ["on", "orders", "--durable", "ship", "--timeout", "6s", "--", "false"];
    node.cli(&failing).expect(exit::TIMED_OUT);
    let listed = json_of(&node.cli(&["dlq", "ls", "ship", "--json"]).expect(exit::OK).stdout);
    let number = listed[0]["number"].to_string();
    assert_eq!(listed[0]["attempts"].as_array().map(Vec::len), Some(2), "{listed}");
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.contains("exit code 1")), "{listed}");
    assert!(node.cli(&["dlq", "ls", "ship"]).expect(exit::OK).stdout.contains("exit code 1"));
    let shown = json_of(&node.cli(&["dlq", "show", "ship", &number, "--json"]).expect(exit::OK).stdout);
    assert_eq!(shown["event"]["data"], "a:1");
    node.cli(&["dlq", "show", "ship", "99"]).expect(exit::FAILURE).saying(&["no dead letter"]);
    node.cli(&["dlq", "redrive", "ship", &number]).expect(exit::OK);
    node.cli(&["on", "orders", "--durable", "ship", "--count", "1", "--", "true"]).expect(exit::OK);
    let service = Service::new(node, "ship", &json!({ "topics": ["orders"], "max_deliver": 2 }));
    assert_eq!(service.get("/dead"), json!([]));
}

#[test]
fn a_handler_goes_on_when_one_of_its_events_is_refused_or_done_elsewhere() {
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    publish(node, "orders", &["a:1", "b:1", "c:1"].map(str::to_owned));
    let config = json!({ "topics": ["orders"], "max_deliver": 1 });
    let service = Service::new(node, "ship", &config);
    let cursors = tempfile::tempdir().expect("a folder");
    let (told, go_on) = (cursors.path().join("cursor"), cursors.path().join("go on"));
    // Of the first too much comes for one event, and the second is acknowledged while its command runs.
    let script = format!(
        r#"case "$CE_ID" in
             a:1) head -c 1100000 /dev/zero | tr '\0' x ;;
             b:1) echo "$CE_RDLCURSOR" >'{told}.new' && mv '{told}.new' '{told}'; until test -e '{go_on}'; do sleep 0.1; done ;;
           esac; echo "$CE_ID""#,
        told = told.display(),
        go_on = go_on.display(),
    );
    let args = ["on", "orders", "--durable", "ship", "--emit", "shipped", "--count", "1", "--json", "--", "sh", "-c"];
    let ran = std::thread::scope(|scope| {
        let ran = scope.spawn(|| node.cli(&[&args[..], &[&script]].concat()));
        eventually("the second command runs", || told.exists());
        let cursor = std::fs::read_to_string(&told).expect("a cursor");
        assert_eq!(service.post("/ack", &json!({ "cursor": cursor.trim() })).expect(200).json()["events"], 1);
        std::fs::write(&go_on, "").expect("a file");
        ran.join().expect("it ran")
    });
    let ran = ran.expect(exit::OK);
    let outcomes: Vec<Value> = ran.stdout.lines().map(|line| json_of(line)["outcome"].clone()).collect();
    assert_eq!(outcomes, ["failed", "done elsewhere", "acknowledged"], "{}", ran.stdout);
    let dead = service.get("/dead");
    assert_eq!((&dead[0]["id"], dead.as_array().map(Vec::len)), (&json!("a:1"), Some(1)), "{dead}");
    assert_eq!(node.count("shipped"), 1);
}
