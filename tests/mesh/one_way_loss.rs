//! A direction that loses everything, while the other one works: the mesh goes around it, or waits until it is over.

use crate::harness::{Mesh, Way, lines};

const TOPIC: &str = "orders.placed";

#[test]
fn the_mesh_goes_around_a_direction_that_loses_everything() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    mesh.network.one_way(1, 2, Way::Swallow);
    let mut published = mesh[1].publish_lines(TOPIC, &lines("unheard", 200));
    published.extend(mesh[2].publish_lines(TOPIC, &lines("heard", 200)));
    mesh.count(TOPIC, 400, mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
    mesh.network.heal();
    mesh.converge(mesh.all());
}

#[test]
fn two_nodes_agree_once_a_lossy_direction_is_well() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    mesh.network.one_way(0, 1, Way::Swallow);
    let mut published = mesh[0].publish_lines(TOPIC, &lines("unheard", 200));
    published.extend(mesh[1].publish_lines(TOPIC, &lines("maybe-heard", 200)));
    assert_eq!(mesh[1].count(TOPIC), 200, "nothing comes through");
    mesh.network.heal();
    mesh.count(TOPIC, 400, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}
