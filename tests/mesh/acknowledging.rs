//! An acknowledged event is on this disk; with `--acks N`, on N others too, or the publisher is told.

use crate::harness::{Mesh, exit};

const TOPIC: &str = "orders.placed";

#[test]
fn alone_an_event_is_stored_and_the_publisher_told_that_nobody_else_has_it() {
    let mesh = Mesh::star(1);
    mesh[0].cli(&["pub", TOPIC, "hello"]).expect(exit::OK).saying(&["nobody", "no peer", "not connected"]);
    assert_eq!(mesh[0].count(TOPIC), 1);
    mesh[0].kill();
    mesh[0].start();
    assert_eq!(mesh[0].count(TOPIC), 1, "it is on disk");
}

#[test]
fn alone_acks_time_out_and_the_event_stays() {
    let mut mesh = Mesh::star(1);
    mesh[0].cli(&["pub", TOPIC, "hello", "--acks", "1", "--timeout", "2s"]).expect(exit::TIMED_OUT).saying(&["ack"]);
    assert_eq!(mesh[0].count(TOPIC), 1, "stored all the same");
    let late = mesh.start(&[0], &[]);
    mesh.count(TOPIC, 1, [late]);
}

#[test]
fn with_acks_an_event_survives_its_author() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let acks = |count| ["pub", TOPIC, "hello", "--acks", count, "--timeout", "120s"];
    mesh[0].cli(&acks("2")).expect(exit::OK);
    mesh.all().for_each(|node| mesh[node].kill());
    for other in [1, 2] {
        mesh[other].start();
        assert_eq!(mesh[other].count(TOPIC), 1, "it was on the disk of node {other}");
    }
}
