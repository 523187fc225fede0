//! Events cross nodes between: first and last of a chain never meet and still hold the same.

use crate::harness::{Mesh, lines};

#[test]
fn first_and_last_never_meet() {
    let mesh = Mesh::row(3);
    let mut published = mesh[0].publish_lines("orders.placed", &lines("first", 300));
    published.extend(mesh[2].publish_lines("orders.placed", &lines("last", 300)));
    mesh.count("orders.placed", 600, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds("orders.placed", &published, mesh.all());
    assert!(!mesh[0].is_connected_to(&mesh[2]), "the network keeps them apart");
    assert_eq!(mesh.network.carried_bytes(0, 2) + mesh.network.carried_bytes(2, 0), 0);
}

#[test]
fn a_chain_of_five_carries_both_ways() {
    let mesh = Mesh::row(5);
    let mut published = mesh[0].publish_lines("orders.placed", &lines("first", 50));
    published.extend(mesh[2].publish_lines("orders.paid", &lines("middle", 50)));
    published.extend(mesh[4].publish_lines("orders.placed", &lines("last", 50)));
    mesh.count("orders.placed", 100, mesh.all());
    mesh.count("orders.paid", 50, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds("orders.*", &published, mesh.all());
}
