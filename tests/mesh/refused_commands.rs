//! A command that cannot do its work ends with the code that scripts can rely on.

use crate::harness::{Mesh, exit};

const COMMANDS: [&[&str]; 6] = [
    &["status"],
    &["peers"],
    &["topics"],
    &["pub", "orders.placed", "data"],
    &["sub", "orders.placed"],
    &["wait", "--peers", "1"],
];

#[test]
fn no_daemon_at_all() {
    let mut mesh = Mesh::empty();
    let node = mesh.prepare(&[], &[]);
    for command in COMMANDS {
        mesh[node].cli(command).expect(exit::UNREACHABLE).saying(&["roundelay up", "running", "reach"]);
    }
}

#[test]
fn a_daemon_that_was_killed() {
    let mesh = Mesh::star(1);
    mesh[0].kill();
    for command in COMMANDS {
        mesh[0].cli(command).expect(exit::UNREACHABLE).saying(&["roundelay up", "running", "reach"]);
    }
    mesh[0].start();
    mesh[0].cli(&["status"]).expect(exit::OK);
}

#[test]
fn bad_usage() {
    let mesh = Mesh::star(1);
    for (command, word) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["pub", "orders.placed", "data", "--count", "many"], "many"),
        (&["pub", "orders.placed", "data", "--send-on", "sunday"], "sunday"),
        (&["sub", "orders..placed"], "orders..placed"),
        (&["sub", "orders.placed", "--from", "somewhere"], "somewhere"),
        (&["sub", "orders.placed", "--wait", "soon"], "soon"),
        (&["peers", "add", "127.0.0.1:4001"], "127.0.0.1:4001"),
        (&["topics", "join", "orders..placed"], "orders..placed"),
        (&["wait", "--events", "orders.placed"], "orders.placed"),
    ] {
        mesh[0].cli(command).expect(exit::USAGE).saying(&[word]);
    }
}

#[test]
fn waiting_ends_in_time() {
    let mesh = Mesh::star(1);
    mesh[0].publish("orders.placed", "one");
    mesh[0].cli(&["wait", "--events", "orders.placed=1", "--timeout", "60s"]).expect(exit::OK);
    mesh[0].cli(&["wait", "--events", "orders.placed=2", "--timeout", "1s"]).expect(exit::TIMED_OUT);
    mesh[0].cli(&["wait", "--peers", "1", "--timeout", "1s"]).expect(exit::TIMED_OUT);
    mesh[0].cli(&["sub", "orders.placed", "--from", "end", "--wait", "1s"]).expect(exit::TIMED_OUT);
    mesh[0].cli(&["sub", "orders.placed", "--from", "start", "--count", "1"]).expect(exit::OK);
}
