//! Both halves of a partitioned mesh go on, and afterwards nothing is missing anywhere.

use std::thread;

use crate::harness::{Mesh, Subscriber, Way, assert_delivered, ids, lines};

const TOPIC: &str = "orders.placed";

/// Every node publishes some events, all nodes at the same time.
fn all_publish(mesh: &Mesh, word: &str, count: usize) -> Vec<String> {
    thread::scope(|scope| {
        let publish = |node: usize| move || mesh[node].publish_lines(TOPIC, &lines(&format!("{word}-{node}"), count));
        let publishers: Vec<_> = mesh.all().map(|node| scope.spawn(publish(node))).collect();
        publishers.into_iter().flat_map(|publisher| publisher.join().expect("a publisher")).collect()
    })
}

#[test]
fn two_halves_publish_and_heal() {
    let mesh = Mesh::star(4);
    mesh.connected(mesh.all());
    let subscribers: Vec<_> = mesh.all().map(|node| Subscriber::start(&mesh[node], "orders.>")).collect();
    let mut published = all_publish(&mesh, "before", 100);
    mesh.count(TOPIC, 400, mesh.all());

    mesh.network.partition(&[&[0, 1], &[2, 3]]);
    published.extend(all_publish(&mesh, "apart", 250));
    mesh.count(TOPIC, 900, mesh.all()); // 400 from before, 500 of its own half
    assert_ne!(mesh[0].digest(TOPIC), mesh[2].digest(TOPIC));

    mesh.network.heal();
    mesh.count(TOPIC, 1400, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
    for subscriber in subscribers {
        let events = subscriber.wait_for(published.len());
        assert_delivered(&events);
        assert_eq!(ids(&events), published.iter().cloned().collect());
    }
}

#[test]
fn a_silent_partition_is_one_too() {
    // Nobody is told that the links are dead, as when a cable is pulled.
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    for other in [0, 1] {
        mesh.network.both_ways(2, other, Way::Hold);
    }
    let published = all_publish(&mesh, "apart", 200);
    mesh.count(TOPIC, 400, [0, 1]);
    mesh.network.heal();
    mesh.count(TOPIC, 600, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn every_node_alone_and_together_again() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    mesh.network.partition(&[&[0], &[1], &[2]]);
    let published = all_publish(&mesh, "alone", 100);
    mesh.network.heal();
    mesh.count(TOPIC, 300, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}
