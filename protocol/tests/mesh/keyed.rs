//! Keyed topics: of each key the last event stays, everywhere, and what it supersedes goes and does not come back.

use std::collections::BTreeMap;

use roundelay_protocol::rules::Rule;

use super::SimMesh;

const TOPIC: &str = "prices";

fn keyed() -> Option<Rule> {
    Some(Rule { keyed: true, ..Rule::default() })
}

/// A mesh of so many nodes in a line, of which the first so many keep `TOPIC` by key.
fn mesh_of(nodes: usize, keyed_nodes: usize) -> SimMesh {
    let mut mesh = SimMesh::new(nodes);
    for index in 0..keyed_nodes {
        mesh.set_rule(index, TOPIC, keyed());
    }
    for index in 1..nodes {
        mesh.link(index - 1, index);
    }
    mesh
}

/// Publishes one event of each key, each in a batch of its own.
fn publish(mesh: &mut SimMesh, index: usize, keys: impl IntoIterator<Item = String>) {
    for key in keys {
        mesh.publish_keys(index, TOPIC, &[&key]);
        mesh.run(20);
    }
}

/// One cold key between every ten events of five hot ones: `cold` islands.
fn publish_islands(mesh: &mut SimMesh, index: usize, cold: usize) {
    for nth in 0..cold {
        publish(mesh, index, [format!("cold-{nth}")]);
        publish(mesh, index, (0..10).map(|hot| format!("hot-{}", hot % 5)));
    }
}

fn states(mesh: &SimMesh) -> Vec<BTreeMap<String, String>> {
    mesh.nodes.iter().map(|node| node.last_of_keys(TOPIC).0).collect()
}

fn assert_in_sync(mesh: &SimMesh) {
    for node in &mesh.nodes {
        assert_eq!(node.digests(), mesh.nodes[0].digests());
    }
    assert_links_in_sync(mesh);
}

fn assert_links_in_sync(mesh: &SimMesh) {
    for node in &mesh.nodes {
        assert!(node.replica.links().iter().all(|link| link.in_sync), "{:?}", node.replica.links());
    }
}

#[test]
fn of_each_key_the_last_event_stays_and_what_it_supersedes_goes() {
    let mut mesh = mesh_of(3, 2);
    publish_islands(&mut mesh, 0, 100);
    mesh.run(30_000);
    let (all, count) = mesh.nodes[2].last_of_keys(TOPIC);
    assert_eq!((all.len(), count), (105, 1_100));
    for node in &mesh.nodes[..2] {
        let (last, count) = node.last_of_keys(TOPIC);
        assert_eq!(last, all);
        // At most twice what the last walk left, and a hundred.
        assert!(count <= 2 * 105 + 100, "{count}");
        let recorded: u64 = node.replica.logs().map(|record| record.events).sum();
        assert_eq!(recorded, count as u64);
    }
    assert_in_sync(&mesh);
}

#[test]
fn a_newcomer_gets_the_last_event_of_each_key_through_any_number_of_islands() {
    for rule in [None, keyed()] {
        let mut mesh = mesh_of(3, 2);
        mesh.cut(1, 2);
        mesh.set_rule(2, TOPIC, rule.clone());
        publish_islands(&mut mesh, 0, 200);
        mesh.run(30_000);
        mesh.link(1, 2);
        mesh.run(60_000);
        let states = states(&mesh);
        assert_eq!(states[2].len(), 205);
        assert!(states.iter().all(|state| *state == states[0]));
        assert_links_in_sync(&mesh);
        if rule.is_some() {
            // It takes over the floor, and so ends with the same heads.
            assert_in_sync(&mesh);
        }
        // And it goes on from there.
        publish(&mut mesh, 0, (0..50).map(|nth| format!("later-{nth}")));
        mesh.run(10_000);
        assert_eq!(mesh.nodes[2].last_of_keys(TOPIC).0.len(), 255);
        assert_links_in_sync(&mesh);
    }
}

#[test]
fn the_last_event_of_a_key_is_the_last_of_any_author() {
    let mut mesh = mesh_of(3, 3);
    for round in 0..60 {
        publish(&mut mesh, round % 3, (0..5).map(|key| key.to_string()));
    }
    mesh.run(30_000);
    let (last, count) = mesh.nodes[1].last_of_keys(TOPIC);
    assert!(last.values().all(|id| id.starts_with("3-")), "{last:?}");
    assert!(count <= 2 * 5 + 100 + 3, "{count}");
    assert!(states(&mesh).iter().all(|state| *state == last));
    assert_in_sync(&mesh);
}

#[test]
fn what_was_superseded_does_not_come_back_when_a_partition_heals() {
    let mut mesh = mesh_of(3, 2);
    publish_islands(&mut mesh, 0, 30);
    mesh.run(5_000);
    mesh.cut(1, 2);
    publish_islands(&mut mesh, 0, 30);
    publish(&mut mesh, 2, (0..40).map(|nth| format!("hot-{}", nth % 5)));
    mesh.run(20_000);
    let before = mesh.nodes[0].last_of_keys(TOPIC).1;
    mesh.link(1, 2);
    mesh.run(30_000);
    // The other side's forty and nothing else.
    assert!(mesh.nodes[0].last_of_keys(TOPIC).1 <= before + 40);
    let states = states(&mesh);
    assert!(states.iter().all(|state| *state == states[0]));
    assert_links_in_sync(&mesh);
}

#[test]
fn own_events_that_nobody_has_stay_and_go_once_somebody_has_them() {
    let mut mesh = mesh_of(2, 1);
    mesh.cut(0, 1);
    publish(&mut mesh, 0, (0..500).map(|nth| format!("hot-{}", nth % 5)));
    mesh.run(20_000);
    assert_eq!(mesh.nodes[0].last_of_keys(TOPIC).1, 500);
    mesh.link(0, 1);
    mesh.run(20_000);
    let (last, count) = mesh.nodes[0].last_of_keys(TOPIC);
    assert!(last.len() == 5 && count <= 110, "{count}");
    assert_eq!(mesh.nodes[1].last_of_keys(TOPIC), (last, 500));
}

#[test]
fn batches_with_an_event_that_lasts_or_has_no_key_stay_whole() {
    let mut mesh = mesh_of(2, 1);
    mesh.publish_keys(0, TOPIC, &["hot", "cold", "hot"]);
    mesh.run(100);
    mesh.publish_keys(0, TOPIC, &["hot", "", "hot"]);
    mesh.run(100);
    for _ in 0..100 {
        mesh.publish_keys(0, TOPIC, &["hot", "hot", "hot"]);
        mesh.run(100);
    }
    mesh.run(20_000);
    let stored = mesh.nodes[0].batches();
    assert!(stored.iter().take(2).map(|batch| batch.header().first_seq).eq([1, 4]));
    assert!(stored.len() < 50, "{}", stored.len());
    assert_in_sync(&mesh);
}

#[test]
fn a_log_goes_on_by_key_after_restarts_and_forks() {
    let mut mesh = mesh_of(2, 2);
    publish_islands(&mut mesh, 0, 20);
    mesh.run(10_000);
    let old = mesh.nodes[0].copy_disk();
    publish_islands(&mut mesh, 0, 20);
    mesh.run(10_000);
    mesh.cut(0, 1);
    mesh.nodes[0].restore(old);
    publish(&mut mesh, 0, (0..30).map(|nth| format!("hot-{}", nth % 5)));
    mesh.link(0, 1);
    mesh.run(30_000);
    publish_islands(&mut mesh, 0, 20);
    mesh.run(30_000);
    let states = states(&mesh);
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0].len(), 25);
    // The author's own floor stays below the end of its line, so that the digests may differ.
    assert_links_in_sync(&mesh);
}
