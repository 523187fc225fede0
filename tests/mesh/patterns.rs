//! A node has the topics that it subscribes to, those that appear later too, and no others.

use crate::harness::{Mesh, Way, exit};

fn topics(mesh: &Mesh, node: usize) -> Vec<String> {
    mesh[node].topics().into_keys().collect()
}

#[test]
fn a_pattern_takes_in_topics_as_they_appear() {
    let mut mesh = Mesh::star(1);
    mesh[0].publish("orders.placed", "before they join");
    let one_token = mesh.start(&[0], &["--topic", "orders.*"]);
    let the_rest = mesh.start(&[0], &["--topic", "orders.>", "--topic", "weather"]);
    mesh.count("orders.placed", 1, [one_token, the_rest]);

    for topic in ["orders.paid", "orders.paid.eu", "weather", "weather.eu", "invoices.sent"] {
        mesh[0].publish(topic, "after they joined");
    }
    mesh.count("orders.paid", 1, [one_token, the_rest]);
    mesh.count("orders.paid.eu", 1, [the_rest]);
    mesh.count("weather", 1, [the_rest]);
    mesh[one_token].cli(&["wait", "--converged", "--timeout", "120s"]).expect(exit::OK);
    assert_eq!(topics(&mesh, one_token), ["orders.paid", "orders.placed"]);
    assert_eq!(topics(&mesh, the_rest), ["orders.paid", "orders.paid.eu", "orders.placed", "weather"]);
    assert_eq!(mesh[one_token].digest("orders.paid"), mesh[the_rest].digest("orders.paid"));
}

#[test]
fn topics_not_subscribed_stay_away() {
    let mut mesh = Mesh::star(1);
    let other = mesh.start(&[0], &["--topic", "weather"]);
    mesh.connected([0, other]);
    let before = mesh.network.carried_bytes(0, other);
    let large = "x".repeat(50_000);
    for _ in 0..40 {
        mesh[0].publish("orders.placed", &large);
    }
    mesh[0].publish("weather", "rain");
    mesh.count("weather", 1, [other]);
    mesh[other].cli(&["wait", "--converged", "--timeout", "120s"]).expect(exit::OK);
    assert_eq!(topics(&mesh, other), ["weather"]);
    let carried = mesh.network.carried_bytes(0, other) - before;
    assert!(carried < 500_000, "{carried} bytes went to a node that wanted 4 of 2 million");
}

#[test]
fn a_topic_joined_later_comes_with_its_history_and_one_left_stops() {
    let mut mesh = Mesh::star(1);
    let other = mesh.start(&[0], &["--topic", "weather"]);
    mesh[0].publish("orders.placed", "first");
    mesh[other].cli(&["topics", "join", "orders.>"]).expect(exit::OK);
    mesh.count("orders.placed", 1, [other]);
    mesh[other].cli(&["topics", "leave", "orders.>"]).expect(exit::OK);
    mesh[0].publish("orders.placed", "second");
    mesh[0].publish("weather", "snow");
    mesh.count("weather", 1, [other]);
    assert!(mesh[other].count("orders.placed") <= 1, "it left before the second");
}

#[test]
fn a_topic_that_appears_during_a_partition_is_found_afterwards() {
    let mut mesh = Mesh::star(2);
    let late = mesh.start(&[1], &["--topic", "orders.>"]);
    for other in [0, 1] {
        mesh.network.both_ways(late, other, Way::Hold);
    }
    let published = mesh[0].publish("orders.cancelled", "while it was cut off");
    mesh.network.heal();
    mesh.count("orders.cancelled", 1, [late]);
    mesh.holds("orders.*", [&published], mesh.all());
}
