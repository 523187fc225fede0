//! A disk without room: publishing is refused with a reason, everything else goes on, and it recovers by itself.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::{Mesh, Node, eventually, exit, lines, lines_of};
use crate::loop_disk::{self, LoopDisk};
use crate::needs;

const MIB: u64 = 1 << 20;

/// A node on a normal disk, and one that joined it and has a disk of its own.
fn pair() -> (Mesh, LoopDisk) {
    let mut mesh = Mesh::star(1);
    let node = mesh.prepare(&[0], &[]);
    let disk = LoopDisk::new(&mesh[node].home, 512);
    mesh[node].start();
    mesh.connected([0, 1]);
    (mesh, disk)
}

#[track_caller]
fn is_refused(node: &Node) -> bool {
    let done = node.cli(&["pub", "own", "refused", "--json"]);
    if done.code == Some(exit::OK) {
        return false;
    }
    let done = done.expect(exit::FAILURE).saying(&["free some space"]);
    assert!(done.stderr.contains("\"disk_full\""), "the code of the problem: {}", done.stderr);
    true
}

#[test]
fn a_full_disk_refuses_publishing_and_nothing_else_and_recovers_by_itself() {
    if !needs::has(&loop_disk::NEEDS) {
        return;
    }
    let (mut mesh, disk) = pair();
    let mut own = mesh[1].publish_lines("own", &lines_of("before", 500, 1_000));
    mesh.converge([0, 1]);

    disk.fill_but(20 * MIB);
    eventually("publishing is refused", || is_refused(&mesh[1]));
    let held = mesh[1].count("own");
    assert!(is_refused(&mesh[1]), "it is refused again");
    let status = mesh[1].status();
    assert!(!status.healthy() && status.takes() == "none", "{status:?}");
    // The other goes on; its events are left for later.
    let theirs = mesh[0].publish_lines("theirs", &lines_of("meanwhile", 2_000, 1_000));
    // Reading and serving peers go on, those who come now too.
    assert_eq!(mesh[1].events("own").len() as u64, held);
    let newcomer = mesh.start(&[1], &["--topic", "own"]);
    mesh[0].stop();
    mesh.count("own", held as usize, [newcomer]);
    mesh[0].start();
    assert_eq!(mesh[1].count("theirs"), 0);

    disk.empty();
    eventually("publishing goes on", || !is_refused(&mesh[1]));
    own.extend(mesh[1].publish_lines("own", &lines("after", 100)));
    mesh.count("theirs", theirs.len(), [1]);
    mesh.converge([0, 1]);
    mesh.holds("theirs", &theirs, [0, 1]);
    mesh.holds_at_least("own", &own, [0, 1, newcomer]);
    let status = mesh[1].status();
    assert!(status.healthy() && status.takes() == "all", "{status:?}");
    mesh[1].verify();
}

#[test]
fn the_last_room_on_the_disk_is_for_own_events() {
    if !needs::has(&loop_disk::NEEDS) {
        return;
    }
    let (mesh, disk) = pair();
    disk.fill_but(100 * MIB);
    eventually("events of others wait", || mesh[1].status().takes() == "own");
    let own = mesh[1].publish_lines("own", &lines_of("own", 500, 1_000));
    let theirs = mesh[0].publish_lines("theirs", &lines_of("theirs", 500, 1_000));
    mesh.count("own", own.len(), [0]);
    assert_eq!(mesh[1].count("theirs"), 0);
    assert!(mesh[1].status().healthy(), "a node with little room is well");
    disk.empty();
    mesh.count("theirs", theirs.len(), [1]);
    mesh.converge([0, 1]);
}

#[test]
fn a_start_on_a_disk_without_a_byte_says_so_and_loses_nothing() {
    if !needs::has(&loop_disk::NEEDS) {
        return;
    }
    let (mesh, disk) = pair();
    let own = mesh[1].publish_lines("own", &lines_of("before", 500, 1_000));
    mesh[1].stop();
    disk.fill();
    let names = || {
        let entries = fs::read_dir(&mesh[1].home).expect("a home").flatten();
        entries.map(|entry| entry.file_name()).collect::<BTreeSet<_>>()
    };
    let before = names();
    for _ in 0..3 {
        let done = mesh[1].cli(&["up", "--no-mdns"]).expect(exit::FAILURE).saying(&["No space left"]);
        assert!(done.stderr.contains("free space"), "a remedy: {}", done.stderr);
    }
    assert_eq!(names(), before, "a store that cannot be opened for want of room is not damaged");

    disk.empty();
    mesh[1].start();
    mesh[1].verify();
    mesh.count("own", own.len(), [0, 1]);
    mesh.holds("own", &own, [0, 1]);
    let status = mesh[1].status();
    assert!(status.healthy() && status.takes() == "all", "{status:?}");
}

#[test]
fn a_first_start_on_a_disk_without_a_byte_says_so_and_works_once_there_is_room() {
    if !needs::has(&loop_disk::NEEDS) {
        return;
    }
    let mut mesh = Mesh::star(1);
    let node = mesh.prepare(&[0], &[]);
    let disk = LoopDisk::new(&mesh[node].home, 512);
    disk.fill();
    let done = mesh[node].cli(&["up", "--no-mdns"]).expect(exit::FAILURE).saying(&["No space left"]);
    assert!(done.stderr.contains("has space"), "a remedy: {}", done.stderr);
    disk.empty();
    mesh[node].start();
    mesh.connected([0, node]);
}
