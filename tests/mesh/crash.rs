//! kill -9 at any moment loses nothing that was acknowledged, and no sequence number is used for two events.

use crate::harness::{Mesh, Publisher, assert_no_number_used_twice, lines};

const TOPIC: &str = "orders.placed";

#[test]
fn a_publisher_is_killed_under_load() {
    let mesh = Mesh::star(2);
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let publisher = Publisher::start(&mesh[1], TOPIC, &format!("round-{round}"), 2000);
        publisher.wait_for_more(500);
        mesh[1].kill();
        acknowledged.extend(publisher.finish_without_node());
        mesh[1].start();
    }
    acknowledged.extend(mesh[1].publish_lines(TOPIC, &lines("afterwards", 100)));
    is_clean(&mesh, &acknowledged);
}

#[test]
fn a_receiver_is_killed_under_load() {
    let mesh = Mesh::star(2);
    let publisher = Publisher::start(&mesh[0], TOPIC, "event", 1000);
    for _ in 0..4 {
        publisher.wait_for_more(500);
        mesh[1].kill();
        publisher.wait_for_more(200);
        mesh[1].start();
    }
    let acknowledged = publisher.finish();
    is_clean(&mesh, &acknowledged);
}

#[test]
fn all_nodes_are_killed_at_once() {
    let mesh = Mesh::star(3);
    let publishers: Vec<_> =
        mesh.all().map(|node| Publisher::start(&mesh[node], TOPIC, &format!("from-{node}"), 500)).collect();
    publishers.iter().for_each(|publisher| publisher.wait_for_more(500));
    mesh.all().for_each(|node| mesh[node].kill());
    let acknowledged: Vec<String> = publishers.into_iter().flat_map(Publisher::finish_without_node).collect();
    mesh.all().for_each(|node| mesh[node].start());
    is_clean(&mesh, &acknowledged);
}

fn is_clean(mesh: &Mesh, acknowledged: &[String]) {
    mesh.converge(mesh.all());
    let delivered = mesh.holds_at_least(TOPIC, acknowledged, mesh.all());
    assert_no_number_used_twice(delivered.iter().flatten());
    mesh.all().for_each(|node| mesh[node].verify());
    // And once more without the daemon, which may have repaired what it found.
    mesh.all().for_each(|node| mesh[node].stop());
    mesh.all().for_each(|node| mesh[node].verify());
}
