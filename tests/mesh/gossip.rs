//! What gossip is known to lose without a word arrives all the same.

use crate::harness::{Mesh, Subscriber, assert_delivered, exit, lines, lines_of};

const TOPIC: &str = "orders.placed";

#[test]
fn events_close_to_the_size_limit_of_a_message_at_full_rate() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let subscriber = Subscriber::start(&mesh[2], TOPIC);
    let published = mesh[0].publish_lines(TOPIC, &lines_of("large", 500, 60 * 1024));
    mesh.count(TOPIC, 500, mesh.all());
    mesh.converge(mesh.all());
    assert_delivered(&subscriber.wait_for(published.len()));
}

#[test]
fn events_of_every_size_around_the_limit_of_a_message() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let sizes = (48..=80).flat_map(|kib| [kib * 1024 - 1, kib * 1024, kib * 1024 + 1]);
    let lines: Vec<String> = sizes.map(|size| "y".repeat(size)).collect();
    let published = mesh[0].publish_lines(TOPIC, &lines);
    mesh.count(TOPIC, published.len(), mesh.all());
    mesh.converge(mesh.all());
    let delivered = mesh.holds(TOPIC, &published, [1]);
    assert!(delivered[0].iter().zip(&lines).all(|(event, line)| event.data == line.as_str()), "byte for byte");
}

#[test]
fn leaves_outside_the_gossip_mesh_at_a_thousand_a_second() {
    // More neighbours than gossip keeps in its mesh, none of which reaches another.
    let mut mesh = Mesh::empty();
    let hub = mesh.start(&[], &[]);
    for leaf in 1..9 {
        (1..leaf).for_each(|other| mesh.network.cut(other, leaf));
        mesh.start(&[hub], &[]);
    }
    (1..9).for_each(|leaf| mesh.connected([hub, leaf]));
    let rate = ["pub", TOPIC, "tick", "--count", "5000", "--rate", "1000", "-q"];
    mesh[hub].cli(&rate).expect(exit::OK);
    mesh.count(TOPIC, 5000, mesh.all());
    mesh.converge(mesh.all());
}

#[test]
fn a_leaf_publishes_at_a_thousand_a_second() {
    let mesh = Mesh::row(3);
    let rate = ["pub", TOPIC, "tick", "--count", "5000", "--rate", "1000", "-q"];
    mesh[2].cli(&rate).expect(exit::OK);
    let more = mesh[0].publish_lines(TOPIC, &lines("from-the-other-end", 1000));
    mesh.count(TOPIC, 5000 + more.len(), mesh.all());
    mesh.converge(mesh.all());
}
