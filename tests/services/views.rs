//! Views: the last value of each key of a topic, the same on every node.

use serde_json::{Value, json};

use crate::harness::{Http, Mesh, Node, eventually, exit};

const TOPIC: &str = "stock.levels";

#[track_caller]
fn set(node: &Node, key: &str, id: &str, level: &str) {
    node.cli(&["pub", TOPIC, level, "--key", key, "--id", id, "--source", "/stock"]).expect(exit::OK);
}

#[track_caller]
fn get(node: &Node, key: &str) -> String {
    node.cli(&["view", TOPIC, key]).expect(exit::OK).stdout.trim_end().to_owned()
}

fn page(http: &Http, query: &str) -> Value {
    http.get(&format!("/v1/views/{TOPIC}{query}")).expect(200).json()
}

/// Keys of a page, with the data of their events.
fn values(page: &Value) -> Vec<(String, Value)> {
    let entries = page["entries"].as_array().expect("a list");
    entries.iter().map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry["event"]["data"].clone())).collect()
}

#[test]
fn both_sides_of_a_partition_show_the_last_value_of_each_key_once_they_meet() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    set(&mesh[0], "apples", "1", "12");
    mesh.converge(mesh.all());
    assert_eq!((get(&mesh[0], "apples"), get(&mesh[1], "apples")), ("12".into(), "12".into()));

    mesh.network.partition(&[&[0], &[1]]);
    set(&mesh[1], "apples", "2", "11");
    set(&mesh[0], "pears", "3", "5");
    set(&mesh[0], "apples", "4", "10");
    // Published again by the other node, behind what replaced it: it counts where it was first.
    set(&mesh[1], "apples", "1", "12");
    assert_eq!((get(&mesh[0], "apples"), get(&mesh[1], "apples")), ("10".into(), "11".into()));
    mesh[1].cli(&["view", TOPIC, "pears"]).expect(exit::FAILURE).saying(&["'pears' has no value", "roundelay view"]);

    mesh.network.heal();
    mesh.converge(mesh.all());
    for node in [&mesh[0], &mesh[1]] {
        let page = page(&node.http(), "");
        assert_eq!(values(&page), [("apples".to_owned(), json!(10)), ("pears".to_owned(), json!(5))]);
        let whole = ["is_subscribed", "is_partial", "is_up_to_date"].map(|name| page[name].as_bool().unwrap());
        assert_eq!((whole, &page["keys"], &page["next"]), ([true, false, true], &json!(2), &Value::Null));
        assert_eq!(page["entries"][0]["event"]["id"], "4");
        // Who said so is told by name, and to programs by the id.
        assert_eq!(page["entries"][0]["event"]["rdlauthor"], mesh[0].id());
        let listed = node.cli(&["view", TOPIC]).expect(exit::OK).stdout;
        let authors: Vec<_> = listed.lines().skip(1).map(|line| line.split_whitespace().rev().nth(1)).collect();
        assert_eq!(authors, [Some("node-0"); 2], "{listed}");
    }
}

#[test]
fn a_view_is_listed_by_page_and_prefix_and_what_has_no_data_takes_a_value_away() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let event = |n: usize| {
        json!({"specversion": "1.0", "id": n.to_string(), "source": "/stock", "type": "counted",
            "partitionkey": format!("{}/{n:04}", if n.is_multiple_of(2) { "eu" } else { "us" }), "data": {"level": n}})
    };
    let events: Vec<Value> = (0..2_500).map(event).collect();
    for some in events.chunks(500) {
        let body = Value::from(some).to_string();
        http.post(&format!("/v1/topics/{TOPIC}/events"), "application/cloudevents-batch+json", body).expect(201);
    }
    let (mut seen, mut query) = (Vec::new(), "?prefix=eu/&limit=1000".to_owned());
    loop {
        let page = page(&http, &query);
        assert_eq!(page["keys"], 2_500);
        seen.extend(values(&page));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?prefix=eu/&limit=1000&after={next}");
    }
    let expected: Vec<_> = (0..2_500).step_by(2).map(|n| (format!("eu/{n:04}"), json!({"level": n}))).collect();
    assert_eq!(seen, expected);
    let listed = mesh[0].cli(&["view", TOPIC, "--prefix", "us/", "--limit", "2"]).expect(exit::OK);
    assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.stdout);
    assert!(listed.stderr.contains("go on with --after us/0003"), "{}", listed.stderr);

    // A key is any text, also in a path.
    let one = http.get(&format!("/v1/views/{TOPIC}/eu%2F0002")).expect(200).json();
    assert_eq!((&one["key"], &one["event"]["data"]["level"]), (&json!("eu/0002"), &json!(2)));
    let gone =
        json!({"specversion": "1.0", "id": "gone", "source": "/stock", "type": "removed", "partitionkey": "eu/0002"});
    http.post(&format!("/v1/topics/{TOPIC}/events"), "application/cloudevents+json", gone.to_string()).expect(201);
    http.get(&format!("/v1/views/{TOPIC}/eu%2F0002")).expect_problem(404, "not_found");
    assert_eq!(page(&http, "?prefix=eu/0002")["entries"], json!([]));
    assert_eq!(page(&http, "")["keys"], 2_499);

    mesh[0].publish(TOPIC, "no key");
    assert_eq!(page(&http, "?limit=1")["without_key"], 1);
    let said = mesh[0].cli(&["view", TOPIC, "--limit", "1"]).expect(exit::OK).stderr;
    assert!(said.contains("left out: 1 event without a key"), "{said}");
    http.get(&format!("/v1/views/{TOPIC}?limit=0")).expect_problem(400, "bad_request");
    http.get("/v1/views/stock.*").expect_problem(400, "bad_topic");
}

#[test]
fn a_view_says_when_it_may_be_wrong() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let http = mesh[0].http();
    assert_eq!(page(&http, "")["entries"], json!([]));
    for n in 0..200 {
        set(&mesh[0], &format!("k{}", n % 4), &n.to_string(), &n.to_string());
    }
    mesh.converge(mesh.all());
    // What was read before it was pruned is no loss to the view, except that the event itself is gone.
    assert_eq!(values(&page(&http, "")).len(), 4);
    mesh[0].cli(&["topics", "set", TOPIC, "--max-events", "2"]).expect(exit::OK);
    eventually("old events are gone", || mesh[0].count(TOPIC) <= 2);
    let shown = page(&http, "");
    assert_eq!((&shown["is_partial"], &shown["keys"]), (&json!(false), &json!(4)));
    assert_eq!(shown["entries"][0]["event"], Value::Null);
    let problem = http.get(&format!("/v1/views/{TOPIC}/k0")).expect_problem(404, "not_found");
    assert!(problem["detail"].as_str().unwrap().contains("pruned"), "{problem}");
    // A view that begins above the floor knows that it does not know.
    mesh[0].stop();
    mesh[0].start();
    let shown = page(&mesh[0].http(), "");
    assert_eq!((&shown["is_partial"], &shown["keys"]), (&json!(true), &json!(2)));
    let said = mesh[0].cli(&["view", TOPIC]).expect(exit::OK).stderr;
    assert!(said.contains("partial: events of stock.levels were pruned"), "{said}");

    mesh[0].cli(&["topics", "leave", ">"]).expect(exit::OK);
    let said = mesh[0].cli(&["view", "elsewhere"]).expect(exit::OK).stderr;
    assert!(said.contains("does not subscribe to elsewhere"), "{said}");
}

#[test]
fn a_keyed_topic_is_whole_however_much_it_lets_go() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    mesh[0].cli(&["topics", "set", TOPIC, "--keyed"]).expect(exit::OK);
    let http = mesh[0].http();
    for n in 0..400 {
        let event = json!({"specversion": "1.0", "id": n.to_string(), "source": "/stock", "type": "counted",
            "partitionkey": format!("k{}", n % 3), "data": n});
        http.post(&format!("/v1/topics/{TOPIC}/events"), "application/cloudevents+json", event.to_string()).expect(201);
    }
    eventually("superseded events are gone", || mesh[0].count(TOPIC) < 200);
    mesh[0].stop();
    mesh[0].start();
    let shown = page(&mesh[0].http(), "");
    assert_eq!(shown["is_partial"], json!(false));
    let expected = [("k0", 399), ("k1", 397), ("k2", 398)].map(|(key, level)| (key.to_owned(), json!(level)));
    assert_eq!(values(&shown), expected);
}
