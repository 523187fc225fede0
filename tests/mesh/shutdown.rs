//! SIGTERM ends a node soon and well, whatever it is doing, and nothing is left to repair.

use std::time::Duration;

use crate::harness::{Mesh, Publisher, lines};

const TOPIC: &str = "orders.placed";

#[test]
fn a_quiet_node_ends_within_five_seconds() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let published = mesh[1].publish_lines(TOPIC, &lines("event", 100));
    mesh[1].stop_within(Duration::from_secs(5));
    mesh[1].verify();
    mesh[1].start();
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn a_node_under_load_ends_well_too() {
    let mesh = Mesh::star(2);
    let publisher = Publisher::start(&mesh[1], TOPIC, "event", 2000);
    publisher.wait_for_more(1000);
    mesh[1].stop();
    let acknowledged = publisher.finish_without_node();
    mesh[1].verify();
    mesh[1].start();
    mesh.converge(mesh.all());
    mesh.holds_at_least(TOPIC, &acknowledged, mesh.all());
}

#[test]
fn a_node_whose_peers_are_silent_ends_well_too() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    mesh[0].pause();
    mesh[1].publish_lines(TOPIC, &lines("event", 100));
    mesh[1].stop();
}
