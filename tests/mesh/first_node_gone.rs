//! The node through which all joined is nothing special: the others find each other without it, also after a restart.

use crate::harness::{Mesh, lines};

const TOPIC: &str = "orders.placed";

#[test]
fn the_others_find_each_other_after_a_restart() {
    let mesh = Mesh::star(4);
    mesh.connected(mesh.all());
    mesh[0].stop();
    let others = [1, 2, 3];
    others.iter().for_each(|node| mesh[*node].stop());
    for node in others {
        mesh[node].forget_joins();
        mesh[node].start();
    }
    mesh.connected(others);
    let published: Vec<String> =
        others.iter().flat_map(|node| mesh[*node].publish_lines(TOPIC, &lines(&format!("from-{node}"), 100))).collect();
    mesh.count(TOPIC, 300, others);
    mesh.converge(others);
    mesh.holds(TOPIC, &published, others);
}

#[test]
fn the_others_go_on_when_it_is_killed() {
    let mesh = Mesh::star(4);
    mesh.connected(mesh.all());
    mesh[0].kill();
    let published = mesh[1].publish_lines(TOPIC, &lines("without-it", 500));
    mesh.count(TOPIC, 500, [1, 2, 3]);
    mesh.converge([1, 2, 3]);
    mesh.holds(TOPIC, &published, [1, 2, 3]);
}
