//! A link that goes and comes back all the time costs time and nothing else.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Mesh, Publisher, Way};

const TOPIC: &str = "orders.placed";

#[test]
fn a_partition_that_flaps_while_publishing() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let publishers: Vec<_> =
        mesh.all().map(|node| Publisher::start(&mesh[node], TOPIC, &format!("from-{node}"), 200)).collect();
    for alone in mesh.all().cycle().take(12) {
        let others: Vec<usize> = mesh.all().filter(|node| *node != alone).collect();
        mesh.network.partition(&[&[alone], &others]);
        sleep(Duration::from_millis(700));
        mesh.network.heal();
        sleep(Duration::from_millis(700));
    }
    let published: Vec<String> = publishers.into_iter().flat_map(Publisher::finish).collect();
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

#[test]
fn the_only_link_flaps_in_every_way_there_is() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let publisher = Publisher::start(&mesh[0], TOPIC, "event", 300);
    for way in [Way::Cut, Way::Hold, Way::Swallow].into_iter().cycle().take(9) {
        mesh.network.both_ways(0, 1, way);
        sleep(Duration::from_millis(500));
        mesh.network.heal();
        sleep(Duration::from_millis(1000));
    }
    let published = publisher.finish();
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}
