//! Durable consumers that are moved, asked for what is not there, and given more than fits.

use serde_json::{Value, json};

use super::consumers::{Service, ids, numbered, publish};
use crate::harness::{Mesh, eventually, exit};

fn shipped(order: &Value) -> Value {
    json!([{ "topic": "shipped", "event": { "type": "shipped", "data": order["id"] } },
           { "topic": "shipped", "event": { "type": "weighed", "data": order["id"] } }])
}

#[test]
fn the_same_work_after_a_seek_is_committed_again_and_done() {
    let mesh = Mesh::star(1);
    let service = Service::new(&mesh[0], "shipping", &json!({ "topics": ["orders"] }));
    publish(&mesh[0], "orders", &numbered("o", 3));
    let work = || -> Vec<Value> {
        let orders = service.fetch(3, 5_000);
        assert_eq!(ids(&orders), numbered("o", 3));
        orders.iter().map(|order| service.commit(order, &shipped(order)).expect(200).json()).collect()
    };
    let first = work();
    service.post("/seek", &json!({ "to": "start" })).expect(200);
    let again = work();
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((&again["duplicate"], &again["processed"]), (&json!(false), &json!(1)), "{again}");
        assert_eq!(again["events"], first["events"], "they are the same events, where they were");
    }
    let seqs: Vec<&Value> = first.iter().flat_map(|answer| [0, 1].map(|at| &answer["events"][at]["seq"])).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    let lag = service.get("/lag");
    assert_eq!((&lag["events"], &lag["in_flight"]), (&json!(0), &json!(0)), "{lag}");
    assert_eq!(mesh[0].count("shipped"), 6, "what came of them is published once");
}

#[test]
fn a_cursor_that_was_never_delivered_is_refused_whatever_is_said_of_it() {
    let mesh = Mesh::star(1);
    let service = Service::new(&mesh[0], "billing", &json!({ "topics": ["orders"], "max_deliver": 2 }));
    publish(&mesh[0], "orders", &numbered("o", 1));
    let delivered = service.fetch(1, 5_000).remove(0)["rdlcursor"].clone();
    let epoch = delivered.as_str().and_then(|cursor| cursor.split('-').next()).expect("an epoch").to_owned();
    let beyond = format!("{epoch}-4000000-0");
    for call in ["/ack", "/nack", "/extend"] {
        let answer = service.post(call, &json!({ "cursors": [delivered, beyond] }));
        answer.expect_problem(409, "not_delivered");
        service.post(call, &json!({ "cursors": [] })).expect_problem(400, "bad_request");
    }
    let delay = json!({ "cursor": delivered, "delay_ms": 86_400_001 });
    service.post("/nack", &delay).expect_problem(400, "bad_request");
    service.post("/extend", &json!({ "up_to": delivered })).expect_problem(400, "bad_request");
    let lag = service.get("/lag");
    assert_eq!((&lag["in_flight"], &lag["events"]), (&json!(1), &json!(1)), "nothing was done: {lag}");

    // Whoever begins there would skip what comes before it.
    service.post("/seek", &json!({ "to": beyond })).expect_problem(400, "bad_request");
    assert_eq!(service.get("/lag")["events"], 1);
    let other = Service::new(&mesh[0], "late", &json!({ "topics": ["orders"], "from": delivered }));
    assert_eq!(other.get("/lag")["events"], 0);
    let config = json!({ "topics": ["orders"], "from": beyond });
    mesh[0].cli(&["consumer", "rm", "late"]).expect(exit::OK);
    other.put(&config).expect_problem(400, "bad_request");
}

#[test]
fn a_fetch_brings_no_more_than_fits_and_the_next_one_the_rest() {
    const COUNT: usize = 12;
    let mesh = Mesh::star(1);
    let service = Service::new(&mesh[0], "large", &json!({ "topics": ["photos"] }));
    let photo = "x".repeat(900_000);
    let photos: Vec<Value> = (0..COUNT)
        .map(|number| json!({ "specversion": "1.0", "id": number.to_string(), "source": "/t", "type": "t", "data": photo }))
        .collect();
    mesh[0]
        .http()
        .post("/v1/topics/photos/events", "application/cloudevents-batch+json", json!(photos).to_string())
        .expect(201);
    let mut brought = Vec::new();
    eventually("all are brought", || {
        let some = service.fetch(100, 1_000);
        assert!(some.len() <= 4, "{} events of 900 kB in one answer", some.len());
        assert!(some.iter().all(|event| event["rdlattempt"] == 1), "what was left out counts as delivered");
        service.ack(&some);
        brought.extend(ids(&some));
        brought.len() >= COUNT
    });
    let all: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    assert_eq!(brought, all);
}
