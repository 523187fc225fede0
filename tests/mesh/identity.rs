//! One identity is one node: two that live at once say so, and one that comes back from an old copy loses nothing.

use crate::harness::{Event, Mesh, Way, assert_delivered, eventually, exit, ids, lines};

const TOPIC: &str = "orders.placed";

#[test]
fn two_live_nodes_with_one_identity_that_meet() {
    let mut mesh = Mesh::star(1);
    let copy = mesh[0].copy_home("copy");
    let twin = mesh.prepare(&[0], &[]);
    mesh[twin].restore_home(&copy);
    mesh[twin].start();
    both_say_so(&mesh, 0, twin);
}

#[test]
fn two_live_nodes_with_one_identity_and_a_third_between() {
    let mut mesh = Mesh::star(2);
    mesh.connected([0, 1]);
    let twin = twin_of_1_apart(&mut mesh);
    mesh.network.both_ways(0, twin, Way::Open);
    both_say_so(&mesh, 1, twin);
}

#[test]
fn a_twin_that_is_met_only_after_the_first_went_away() {
    let mut mesh = Mesh::star(2);
    mesh.connected([0, 1]);
    let mut published = mesh[1].publish_lines(TOPIC, &lines("in-the-copy", 20));
    let twin = twin_of_1_apart(&mut mesh);
    // Both live, and neither has heard of the other.
    published.extend(mesh[1].publish_lines(TOPIC, &lines("first", 20)));
    published.extend(mesh[twin].publish_lines(TOPIC, &lines("twin", 20)));
    mesh.count(TOPIC, 40, [0]);
    mesh[1].stop();
    assert!(mesh[twin].status().healthy());
    mesh.network.both_ways(0, twin, Way::Open);

    says_so(&mesh, twin);
    mesh.count(TOPIC, 60, [0, twin]);
    mesh.converge([0, twin]);
    for node in [0, twin] {
        assert_eq!(ids(&mesh[node].events(TOPIC)), published.iter().cloned().collect(), "node {node}");
        mesh[node].verify();
    }
    // What it was told to do: the other is gone for good, and it starts anew.
    mesh[twin].stop();
    mesh[twin].start();
    mesh.converge([0, twin]);
    assert!(mesh[twin].status().healthy(), "{}", mesh[twin].status().remarks());
}

/// A running copy of node 1 that reaches nobody yet, and will never reach node 1.
fn twin_of_1_apart(mesh: &mut Mesh) -> usize {
    let copy = mesh[1].copy_home("copy");
    let twin = mesh.prepare(&[0], &[]);
    mesh.network.cut(0, twin);
    mesh.network.cut(1, twin);
    mesh[twin].restore_home(&copy);
    mesh[twin].start();
    twin
}

fn both_say_so(mesh: &Mesh, original: usize, twin: usize) {
    for node in [original, twin] {
        says_so(mesh, node);
    }
}

fn says_so(mesh: &Mesh, node: usize) {
    eventually(&format!("node {node} is unhealthy"), || !mesh[node].status().healthy());
    let status = mesh[node].cli(&["status"]).expect(exit::UNHEALTHY);
    let said = format!("{}{}", status.stdout, status.stderr).to_lowercase();
    assert!(said.contains("identity"), "status does not say why:\n{said}");
    assert!(mesh[node].said().to_lowercase().contains("identity"), "nor does the daemon:\n{}", mesh[node].said());
}

#[test]
fn a_node_restored_from_an_old_copy_keeps_both_lines() {
    let mesh = Mesh::star(2);
    let mut published = mesh[1].publish_lines(TOPIC, &lines("in-the-copy", 100));
    mesh[1].stop();
    let copy = mesh[1].copy_home("copy");
    mesh[1].start();
    published.extend(mesh[1].publish_lines(TOPIC, &lines("after-the-copy", 100)));
    mesh.count(TOPIC, 200, mesh.all());

    mesh[1].kill();
    mesh[1].restore_home(&copy);
    mesh.network.cut(0, 1);
    mesh[1].start();
    assert_eq!(mesh[1].count(TOPIC), 100, "it knows nothing of what came after the copy");
    published.extend(mesh[1].publish_lines(TOPIC, &lines("after-the-restore", 100)));
    mesh.network.heal();

    mesh.count(TOPIC, 300, mesh.all());
    mesh.converge(mesh.all());
    for node in mesh.all() {
        // Two lines of one author: each in order, but not one after the other.
        let events = mesh[node].events(TOPIC);
        assert_eq!((events.len(), ids(&events)), (300, published.iter().cloned().collect()));
        for word in ["in-the-copy", "after-the-copy", "after-the-restore"] {
            let of_one_line = |event: &&_| says(event, word);
            assert_delivered(&events.iter().filter(of_one_line).cloned().collect::<Vec<_>>());
        }
        mesh[node].verify();
    }
}

fn says(event: &Event, word: &str) -> bool {
    event.data.as_str().is_some_and(|data| data.starts_with(word))
}
