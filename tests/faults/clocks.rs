//! A clock that is a year off.

use crate::harness::{Mesh, Node, eventually, exit, lines};
use crate::needs::{self, Need};

const TOPIC: &str = "orders.placed";
const DAY_MS: u64 = 24 * 3600 * 1000;

#[test]
fn a_clock_a_year_ahead_drags_nobody_along() {
    a_clock_is_off("+365d", false);
}

#[test]
fn a_clock_a_year_behind_hides_no_events() {
    a_clock_is_off("-365d", true);
}

/// With a clock that is put right by what its peers say. A node's own stamps never go back, so that one which has been
/// ahead goes on from there.
fn a_clock_is_off(offset: &str, is_put_right: bool) {
    if !needs::has(&[Need::Faketime]) {
        return;
    }
    let mut mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let odd = mesh.prepare(&[], &[]);
    set_off(&mesh[odd], offset);
    mesh[odd].start();
    // Before it meets anybody who could tell it.
    let mut published = mesh[odd].publish_lines(TOPIC, &lines("alone", 50));
    for event in mesh[odd].events(TOPIC) {
        assert!(event.days_off() > 300, "the fault is there: {event:?}");
    }

    for other in 0..3 {
        mesh[odd].cli(&["peers", "add", &mesh[other].address()]).expect(exit::OK);
    }
    mesh.connected(mesh.all());
    eventually("it says that its clock is off", || mesh[odd].status().remarks().contains("clock"));
    assert!(!mesh[odd].status().healthy());
    for other in 0..3 {
        let status = mesh[other].status();
        assert!(status.healthy(), "node {other} has a good clock: {}", status.remarks());
        let peer = status.peer(mesh[odd].id()).expect("a peer");
        assert!(peer.clock_ahead_ms.unsigned_abs() > 300 * DAY_MS, "node {other} sees it: {peer:?}");
    }
    published.extend(mesh[odd].publish_lines(TOPIC, &lines("met", 50)));
    mesh.count(TOPIC, 100, mesh.all());
    for other in 0..3 {
        published.extend(mesh[other].publish_lines(TOPIC, &lines(&format!("honest-{other}"), 50)));
    }
    let elsewhere = mesh[odd].publish_lines("orders.paid", &lines("elsewhere", 50));

    mesh.count(TOPIC, 250, mesh.all());
    mesh.converge(mesh.all());
    let delivered = mesh.holds(TOPIC, &published, mesh.all());
    for event in delivered.iter().flatten().filter(|event| event.begins_with("honest")) {
        assert_eq!(event.days_off(), 0, "dragged along: {event:?}");
    }
    let delivered = mesh.holds("orders.paid", &elsewhere, mesh.all());
    for event in delivered.iter().flatten().filter(|_| is_put_right) {
        assert_eq!(event.days_off(), 0, "stamped by a clock that it knows to be wrong: {event:?}");
    }
}

#[test]
fn a_wrong_clock_makes_no_twin_of_a_disk_that_was_replaced() {
    if !needs::has(&[Need::Faketime]) {
        return;
    }
    let mut mesh = Mesh::star(3);
    let odd = mesh.prepare(&[0, 1, 2], &[]);
    let file = mesh.folder().join("backup.rdl");
    let file = file.to_str().expect("text");
    mesh[odd].start();
    mesh.connected(mesh.all());
    let mut published = mesh[odd].publish_lines(TOPIC, &lines("in-the-copy", 50));
    mesh[odd].cli(&["log", "backup", file]).expect(exit::OK);
    published.extend(mesh[odd].publish_lines(TOPIC, &lines("after-the-copy", 50)));
    mesh.count(TOPIC, 100, mesh.all());
    mesh[odd].kill();
    std::fs::remove_dir_all(mesh[odd].home.join("log")).expect("the lost log");
    mesh[odd].cli(&["log", "restore", file]).expect(exit::OK);
    set_off(&mesh[odd], "-365d");
    mesh[odd].start();
    mesh.connected(mesh.all());
    published.extend(mesh[odd].publish_lines(TOPIC, &lines("after-the-restore", 50)));
    mesh.count(TOPIC, 150, mesh.all());
    mesh.converge(mesh.all());
    let remarks = mesh[odd].status().remarks();
    assert!(remarks.contains("clock") && remarks.contains("lines"), "{remarks}");
    assert!(!remarks.contains("identity"), "there is one live process only: {remarks}");
}

/// From its next start on a node's clock is off by `offset`; times that only measure how long something takes are not.
pub(crate) fn set_off(node: &Node, offset: &str) {
    let library = needs::faketime_library().expect("it was found");
    node.run_through(&[
        "env",
        &format!("LD_PRELOAD={}", library.display()),
        &format!("FAKETIME={offset}"),
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    ]);
}
