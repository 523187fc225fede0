//! Two sides that only meet through a bridge node agree in the end, whenever the bridge or a side leaves.

use std::time::Duration;

use crate::harness::{Mesh, eventually, lines, lines_of};

const TOPIC: &str = "orders.placed";
const A: usize = 0;
const BRIDGE: usize = 1;
const C: usize = 2;

#[test]
fn the_bridge_passes_on_what_an_author_left_before_it_went() {
    let mesh = Mesh::row(3);
    mesh[C].stop();
    let published = mesh[A].publish_lines(TOPIC, &lines("left-behind", 500));
    mesh.count(TOPIC, 500, [BRIDGE]);
    mesh[A].stop();
    mesh[C].start();
    mesh.count(TOPIC, 500, [C]);
    mesh.converge([BRIDGE, C]);
    mesh.holds(TOPIC, &published, [BRIDGE, C]);
}

#[test]
fn the_bridge_is_away_while_both_sides_publish() {
    let mesh = Mesh::row(3);
    mesh[BRIDGE].stop();
    let mut published = mesh[A].publish_lines(TOPIC, &lines("a", 500));
    published.extend(mesh[C].publish_lines(TOPIC, &lines("c", 500)));
    mesh[BRIDGE].start();
    mesh.count(TOPIC, 1000, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn the_bridge_leaves_while_the_sides_still_differ_and_comes_back() {
    let (mesh, published) = with_half_of_it_across();
    mesh[BRIDGE].kill();
    assert!(mesh[C].count(TOPIC) < published.len() as u64, "they still differ");
    mesh[BRIDGE].start();
    mesh.count(TOPIC, published.len(), mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn the_bridge_leaves_for_good_and_the_sides_meet() {
    let (mesh, published) = with_half_of_it_across();
    mesh[BRIDGE].kill();
    mesh.network.heal();
    // They learnt of each other through the bridge.
    mesh.count(TOPIC, published.len(), [A, C]);
    mesh.converge([A, C]);
    mesh.holds(TOPIC, &published, [A, C]);
}

/// A row of three where some of A's events have reached C, and most have not.
fn with_half_of_it_across() -> (Mesh, Vec<String>) {
    let mesh = Mesh::row(3);
    let mut published = vec![mesh[C].publish(TOPIC, "from the other side")];
    mesh.count(TOPIC, 1, mesh.all());
    mesh.network.slow(BRIDGE, C, Duration::from_millis(20), Some(100_000));
    published.extend(mesh[A].publish_lines(TOPIC, &lines_of("bulk", 4000, 500)));
    eventually("some of it is across", || mesh[C].count(TOPIC) > 1);
    (mesh, published)
}
