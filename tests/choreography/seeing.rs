//! Every node sees the same instances, wherever their events were published, and says what is wrong with them.

use serde_json::json;

use super::orders::{NAME, declare, instances, json, judged, publish};
use crate::harness::{Mesh, eventually, exit};

#[test]
fn instances_are_judged_alike_on_every_node_and_after_a_restart() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    declare(&mesh[0], [&mesh[0], &mesh[1]]);
    publish(&mesh[0], "o-1", &[("order.placed", "1", "")]);
    publish(&mesh[1], "o-1", &[("stock.reserved", "2", "1")]);
    publish(&mesh[0], "o-1", &[("payment.accepted", "3", "2"), ("shipping.sent", "4", "3")]);
    publish(&mesh[1], "o-2", &[("order.placed", "5", ""), ("stock.reserved", "6", "5")]);
    publish(&mesh[0], "o-3", &[("order.placed", "7", ""), ("shipping.sent", "8", "7")]);
    mesh.converge(mesh.all());

    for node in [&mesh[0], &mesh[1]] {
        assert_eq!(judged(node, "o-1"), ("shipped".into(), "conforming".into()));
        assert_eq!(judged(node, "o-2"), ("reserved".into(), "pending".into()));
        assert_eq!(judged(node, "o-3"), ("placed".into(), "violating".into()));
        let violating = node.cli(&["instances", NAME, "--verdict", "violating"]).expect(exit::OK);
        let why = "shipping.sent (8 of /shipping): unexpected: it is not possible in 'placed'";
        assert!(violating.stdout.contains(why) && violating.stdout.lines().count() == 2, "{}", violating.stdout);
        let waiting = json(node, &["instances", NAME, "--state", "reserved"]);
        assert_eq!((&waiting["instances"][0]["correlation"], &waiting["next"]), (&json!("o-2"), &json!(null)));
        assert_eq!(waiting["instances"][0]["due"]["type"], "order.unpaid");
        eventually("the violation is told in the node's log", || {
            node.said().contains("an instance violates its choreography")
        });
        let counts = &json(node, &["choreography", "ls"])["choreographies"][0]["instances"];
        assert_eq!(*counts, json!({"conforming": 1, "pending": 1, "superseded": 0, "violating": 1}));
    }
    let before = instances(&mesh[0]);
    assert_eq!(before, instances(&mesh[1]));

    mesh[1].stop();
    mesh[1].start();
    assert_eq!(instances(&mesh[1]), before);
    let metrics = mesh[1].http().get("/metrics").expect(200).text();
    let series = r#"roundelay_choreography_instances{choreography="order-saga",verdict="violating"} 1"#;
    assert!(metrics.contains(series), "{metrics}");
}

#[test]
fn instances_are_listed_by_page_and_by_age() {
    let mesh = Mesh::star(1);
    declare(&mesh[0], []);
    for order in ["o-1", "o-2", "o-3"] {
        publish(&mesh[0], order, &[("order.placed", order, "")]);
    }
    let http = mesh[0].http();
    let page = |query: &str| {
        let page = http.get(&format!("/v1/choreographies/order-saga/instances?{query}")).expect(200).json();
        let found = page["instances"].as_array().expect("a list").clone();
        let ids: Vec<String> = found.iter().map(|it| it["correlation"].as_str().expect("an id").to_owned()).collect();
        (ids.join(" "), page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(page("limit=2"), ("o-1 o-2".into(), Some("o-2".into())));
    assert_eq!(page("limit=2&after=o-2"), ("o-3".into(), None));
    assert_eq!(page("older_than=1h"), (String::new(), None));
    assert_eq!(page("older_than=1ms&state=placed&verdict=pending").0, "o-1 o-2 o-3");
    let limited = mesh[0].cli(&["instances", NAME, "--limit", "1"]).expect(exit::OK);
    assert!(limited.stderr.contains("--after o-1"), "{}", limited.stderr);
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    node.cli(&["instances", NAME]).expect(exit::FAILURE).saying(&["no choreography 'order-saga'", "publish"]);
    declare(node, []);
    let wrong = node.cli(&["instances", "order", "--json"]).expect(exit::FAILURE);
    assert!(wrong.stderr.contains("known are order-saga"), "{}", wrong.stderr);
    node.cli(&["instances", NAME, "o-9"]).expect(exit::FAILURE).saying(&["no instance 'o-9'", "correlation"]);
    node.cli(&["instances", NAME, "--state", "payed"]).expect(exit::USAGE).saying(&["'payed'", "paid", "placed"]);
    node.cli(&["trace", "o-9"]).expect(exit::FAILURE).saying(&["'o-9'", "correlation"]);
    node.cli(&["why", "nothing"]).expect(exit::FAILURE).saying(&["'nothing'"]);
    node.cli(&["flow", "--choreography", "order"]).expect(exit::FAILURE).saying(&["known are order-saga"]);
    let http = node.http();
    http.get("/v1/choreographies/order-saga/instances?verdict=good").expect_problem(400, "bad_request");
    http.get("/v1/choreographies/order-saga/instances?limit=0").expect_problem(400, "bad_request");
    http.get("/v1/flow?since=soon").expect_problem(400, "bad_request");
}

#[test]
fn a_node_says_which_topics_of_a_choreography_it_does_not_get() {
    let mut mesh = Mesh::star(1);
    let other = mesh.start(&[0], &["--topic", "orders.placed", "--topic", "orders.stock"]);
    mesh.connected(mesh.all());
    declare(&mesh[0], [&mesh[other]]);
    let status = &json(&mesh[other], &["choreography", "ls"])["choreographies"][0];
    assert_eq!(status["not_subscribed"], json!(["orders.payment", "orders.shipping"]));
    let listed = mesh[other].cli(&["instances", NAME]).expect(exit::OK);
    assert!(listed.stderr.contains("does not subscribe to orders.payment orders.shipping"), "{}", listed.stderr);
}
