//! An event that is published again is acknowledged again, and stored once.

use serde_json::{Value, json};

use super::publish::events;
use crate::harness::{Http, Mesh, exit};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";
const URL: &str = "/v1/topics/orders.placed/events";

fn event(id: &str, data: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "placed", "data": data})
}

/// Publishes an event and returns what is said of it.
fn publish(http: &Http, event: &Value) -> Value {
    http.post(URL, STRUCTURED, event.to_string()).expect(201).json()["events"][0].take()
}

fn assert_repeat(of: &Value, again: &Value) {
    assert_eq!((&of["id"], &of["seq"], &of["cursor"]), (&again["id"], &again["seq"], &again["cursor"]));
    assert_eq!(again["duplicate"], true, "{again}");
}

#[test]
fn it_is_told_where_it_is_also_after_a_restart_and_a_crash() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let first = publish(&http, &event("1", "x"));
    assert_eq!(first["duplicate"], false, "{first}");
    publish(&http, &event("2", "x"));
    assert_repeat(&first, &publish(&http, &event("1", "x")));
    mesh[0].stop();
    mesh[0].start();
    assert_repeat(&first, &publish(&mesh[0].http(), &event("1", "x")));
    mesh[0].kill();
    mesh[0].start();
    let http = mesh[0].http();
    assert_repeat(&first, &publish(&http, &event("1", "x")));
    // Its cursor leads to what comes after it.
    let later = format!("/v1/events?from={}", first["cursor"].as_str().expect("a cursor"));
    if http.get(&later).status == 200 {
        assert_eq!(http.get(&later).lines().iter().map(|event| event["id"].clone()).collect::<Vec<_>>(), ["2"]);
    }
    assert_eq!(events(&http).len(), 2);
    let elsewhere = http.post("/v1/topics/orders.other/events", STRUCTURED, event("1", "x").to_string()).expect(201);
    assert_eq!(elsewhere.json()["events"][0]["duplicate"], false, "another topic is another event");
}

#[test]
fn of_many_at_once_one_is_stored() {
    let mesh = Mesh::star(1);
    let places: Vec<Value> = std::thread::scope(|scope| {
        let publishers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| publish(&mesh[0].http(), &event("same", "x")))).collect();
        publishers.into_iter().map(|publisher| publisher.join().expect("it was acknowledged")).collect()
    });
    let new: Vec<&Value> = places.iter().filter(|place| place["duplicate"] == false).collect();
    assert_eq!(new.len(), 1, "{places:?}");
    places.iter().filter(|place| place["duplicate"] == true).for_each(|again| assert_repeat(new[0], again));
    assert_eq!(events(&mesh[0].http()).len(), 1);
}

#[test]
fn with_other_content_it_is_a_conflict_and_its_batch_is_not_stored() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    publish(&http, &event("1", "x"));
    let conflict = |answer: crate::harness::Answer| {
        let problem = answer.expect_problem(409, "id_taken");
        assert!(problem["hint"].is_string(), "{problem}");
    };
    conflict(http.post(URL, STRUCTURED, event("1", "y").to_string()));
    conflict(http.post(URL, BATCHED, json!([event("2", "x"), event("1", "y")]).to_string()));
    conflict(http.post(URL, BATCHED, json!([event("3", "x"), event("3", "y")]).to_string()));
    let line = mesh[0].cli(&["pub", "orders.placed", "y", "--id", "1", "--source", "/shop", "--type", "placed"]);
    line.expect(exit::FAILURE).saying(&["other content"]);
    assert_eq!(events(&http).len(), 1);

    let batch = json!([event("4", "x"), event("1", "x"), event("4", "x")]);
    let answer = http.post(URL, BATCHED, batch.to_string()).expect(201).json();
    let duplicates: Vec<&Value> =
        answer["events"].as_array().expect("events").iter().map(|event| &event["duplicate"]).collect();
    assert_eq!(duplicates, [&json!(false), &json!(true), &json!(true)]);
    assert_repeat(&answer["events"][0], &answer["events"][2]);
    assert_eq!(events(&http).len(), 2);
}

#[test]
fn acks_of_what_was_published_before_are_counted_too() {
    let mesh = Mesh::star(3);
    mesh.connected([0, 1, 2]);
    let http = mesh[0].http();
    let first = publish(&http, &event("1", "x"));
    mesh.count("orders.placed", 1, [0, 1, 2]);
    let url = format!("{URL}?acks=2&timeout=60s");
    let answer = http.post(&url, STRUCTURED, event("1", "x").to_string()).expect(201).json();
    assert_repeat(&first, &answer["events"][0]);
    assert_eq!(answer["peers"], 2);
}

#[test]
fn an_import_that_is_tried_again_stores_the_rest() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let lines = |ids: &[&str]| {
        let line = |id: &&str| {
            let mut event = event(id, "x");
            event["rdltopic"] = json!("orders.placed");
            event.to_string() + "\n"
        };
        ids.iter().map(line).collect::<String>()
    };
    let import = |ids: &[&str]| http.post("/v1/log/import", "", lines(ids)).expect(200).json()["events"].clone();
    assert_eq!(import(&["1", "2"]), 2);
    assert_eq!(import(&["1", "2", "3"]), 1);
    assert_eq!(events(&http).len(), 3);
}
