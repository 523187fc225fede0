//! A node joins with nothing but the address that another one prints, and from then on both have the same events.

use crate::harness::{Mesh, eventually, exit};

#[test]
fn the_printed_address_is_all_that_is_needed() {
    let mut mesh = Mesh::empty();
    let first = mesh.start(&[], &[]);
    eventually("it prints its address", || mesh[first].printed().contains(&mesh[first].address()));
    let second = mesh.start(&[first], &[]);
    mesh.connected([first, second]);

    let mut published = vec![mesh[first].publish("orders.placed", "one")];
    published.push(mesh[second].publish("orders.placed", "two"));
    mesh.count("orders.placed", 2, [first, second]);
    mesh.converge([first, second]);
    mesh.holds("orders.placed", &published, [first, second]);
}

#[test]
fn peers_add_joins_a_node_that_is_already_running() {
    let mut mesh = Mesh::empty();
    let (a, b) = (mesh.start(&[], &[]), mesh.start(&[], &[]));
    let before = mesh[a].publish("orders.placed", "alone");
    mesh[b].cli(&["peers", "add", &mesh[a].address()]).expect(exit::OK);
    mesh.connected([a, b]);
    mesh.count("orders.placed", 1, [b]);
    mesh.holds("orders.placed", [&before], [a, b]);
}

#[test]
fn a_node_keeps_trying_until_the_one_it_joins_is_there() {
    let mut mesh = Mesh::empty();
    let first = mesh.start(&[], &[]);
    let second = mesh.prepare(&[first], &[]);
    mesh[first].stop();
    mesh[second].start();
    mesh[second].publish("orders.placed", "nobody is here");
    mesh[first].start();
    mesh.connected([first, second]);
    mesh.count("orders.placed", 1, [first, second]);
    mesh.converge([first, second]);
}

#[test]
fn nodes_that_joined_through_one_find_each_other() {
    let mesh = Mesh::star(4);
    mesh.connected(mesh.all());
    mesh.network.assert_no_bypass();
}
