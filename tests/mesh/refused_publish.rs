//! What cannot be an event is refused with a reason, and leaves nothing behind.

use crate::harness::{Mesh, exit};

#[test]
fn an_event_over_a_mebibyte() {
    let mesh = Mesh::star(2);
    let from_stdin = ["pub", "orders.placed", "-", "--send-on", "eof"];
    let too_large = mesh[0].cli_with_input(&from_stdin, "x".repeat(1024 * 1024 + 1));
    too_large.expect(exit::USAGE).saying(&["1 MiB", "1048576", "1,048,576", "too large"]);
    assert!(mesh[0].topics().is_empty(), "it left something behind");

    // The limit is for the whole event, so leave room for its attributes.
    mesh[0].cli_with_input(&from_stdin, "x".repeat(1020 * 1024)).expect(exit::OK);
    mesh.count("orders.placed", 1, [0, 1]);
    mesh.converge([0, 1]);
    assert_eq!(mesh[1].events("orders.placed")[0].data.as_str().map(str::len), Some(1020 * 1024));
}

#[test]
fn bad_topic_names() {
    let mesh = Mesh::star(1);
    let too_long = "x".repeat(256);
    let bad = ["", ".", ".orders", "orders.", "orders..placed", "orders placed", "orders/placed", "bestellungen.größe"];
    for topic in bad.into_iter().chain([too_long.as_str()]) {
        mesh[0].cli(&["pub", topic, "data"]).expect(exit::USAGE).saying(&["topic"]);
    }
    for pattern in ["orders.*", "orders.>", ">"] {
        mesh[0].cli(&["pub", pattern, "data"]).expect(exit::USAGE).saying(&["topic", "pattern"]);
    }
    mesh[0].cli(&["pub", "_mesh", "I am everyone"]).expect(exit::USAGE).saying(&["_mesh"]);
    assert!(mesh[0].topics().is_empty(), "it left something behind");
    mesh[0].cli(&["pub", &"x".repeat(255), "data"]).expect(exit::OK);
}
