//! Two subscribers that know of each other only through a node that does not subscribe to their topic find each other.

use crate::harness::{Mesh, lines};

#[test]
fn two_subscribers_find_each_other_past_a_node_that_is_not_one() {
    let mut mesh = Mesh::empty();
    let a = mesh.start(&[], &["--topic", "orders.>"]);
    let between = mesh.start(&[a], &["--topic", "weather.>"]);
    let b = mesh.start(&[between], &["--topic", "orders.>"]);

    let mut published = mesh[a].publish_lines("orders.placed", &lines("a", 100));
    published.extend(mesh[b].publish_lines("orders.placed", &lines("b", 100)));
    mesh.count("orders.placed", 200, [a, b]);
    mesh.converge([a, b]);
    mesh.holds("orders.placed", &published, [a, b]);
    assert!(mesh[a].is_connected_to(&mesh[b]), "they dialled each other");
    assert!(mesh[between].topics().is_empty(), "the one between stores nothing: {:?}", mesh[between].topics());
}
