//! Addresses of other kinds than IPv4, and no more links than are allowed.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Mesh, lines};
use crate::needs;

const TOPIC: &str = "orders.placed";

#[test]
fn nodes_meet_over_ipv6() {
    if !needs::has(&[]) {
        return;
    }
    let mut mesh = Mesh::empty();
    let first = mesh.prepare_bare(&["--listen", "/ip6/::1/tcp/0"]);
    mesh[first].start();
    let address = mesh[first].address();
    assert!(address.starts_with("/ip6/::1/tcp/") && !address.contains("/tcp/0/"), "{address}");
    for _ in 0..2 {
        let node = mesh.prepare_bare(&["--listen", "/ip6/::1/tcp/0", "--join", &address]);
        mesh[node].start();
    }
    all_get_all(&mesh);
}

#[test]
fn nodes_meet_by_a_name() {
    if !needs::has(&[]) {
        return;
    }
    let mut mesh = Mesh::star(1);
    let by_name = mesh[0].address().replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    for _ in 0..2 {
        let node = mesh.prepare(&[], &["--join", &by_name]);
        mesh[node].start();
    }
    all_get_all(&mesh);
}

#[test]
fn a_node_keeps_to_its_limit_of_links_and_all_converge() {
    const MAX_LINKS: usize = 2;
    if !needs::has(&[]) {
        return;
    }
    let mut mesh = Mesh::empty();
    let limited = mesh.prepare(&[], &[]);
    let limit = format!("ROUNDELAY_MAX_LINKS={MAX_LINKS}");
    mesh[limited].run_through(&["env", &limit, "ROUNDELAY_MIN_LINKS=1"]);
    mesh[limited].start();
    mesh.start(&[limited], &[]);
    mesh.start(&[limited, 1], &[]);
    mesh.connected(mesh.all());
    // They learn of each other from the nodes that do have a link.
    mesh.start(&[limited, 1], &[]);
    mesh.start(&[limited, 2], &[]);
    mesh.connected(1..5);
    let mut published = Vec::new();
    for round in 0..5 {
        for node in mesh.all() {
            published.extend(mesh[node].publish_lines(TOPIC, &lines(&format!("{node}-{round}"), 20)));
            let links = mesh[limited].status().peers().len();
            assert!(links <= MAX_LINKS, "{links} links");
        }
        sleep(Duration::from_millis(500));
    }
    mesh.count(TOPIC, published.len(), mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());

    // A link that goes makes room for another.
    mesh[1].stop();
    let others = [limited, 2, 3, 4];
    published.extend(mesh[4].publish_lines(TOPIC, &lines("without-1", 20)));
    mesh.count(TOPIC, published.len(), others);
    mesh.converge(others);
    assert!(mesh[limited].status().peers().len() <= MAX_LINKS);
}

fn all_get_all(mesh: &Mesh) {
    mesh.connected(mesh.all());
    let mut published = Vec::new();
    for node in mesh.all() {
        published.extend(mesh[node].publish_lines(TOPIC, &lines(&format!("from-{node}"), 100)));
    }
    mesh.count(TOPIC, published.len(), mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}
