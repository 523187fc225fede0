//! A node that was away gets all that it missed, however much, and whether it was stopped, killed or only paused.

use crate::harness::{Mesh, Subscriber, assert_delivered, lines, lines_of};

const TOPIC: &str = "orders.placed";

#[test]
fn a_node_misses_a_hundred_thousand_events() {
    let mesh = Mesh::star(3);
    let mut published = mesh[0].publish_lines(TOPIC, &lines("before", 10));
    mesh.count(TOPIC, 10, mesh.all());
    mesh[2].stop();
    published.extend(mesh[0].publish_lines(TOPIC, &lines_of("while-away", 100_000, 256)));
    mesh.count(TOPIC, 100_010, [0, 1]);
    mesh[2].start();
    mesh.count(TOPIC, 100_010, [2]);
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn a_node_that_was_killed_is_away_too_and_publishes_when_it_is_back() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    mesh[1].kill();
    let mut published = mesh[0].publish_lines(TOPIC, &lines("while-away", 5_000));
    mesh[1].start();
    published.extend(mesh[1].publish_lines(TOPIC, &lines("back", 100)));
    mesh.count(TOPIC, 5_100, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn a_paused_node_holds_nobody_up_and_catches_up() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let subscriber = Subscriber::start(&mesh[2], TOPIC);
    mesh[2].pause();
    let published = mesh[0].publish_lines(TOPIC, &lines_of("while-paused", 20_000, 256));
    mesh.count(TOPIC, 20_000, [0, 1]);
    mesh[2].resume();
    mesh.count(TOPIC, 20_000, [2]);
    mesh.converge(mesh.all());
    assert_delivered(&subscriber.wait_for(published.len()));
}
