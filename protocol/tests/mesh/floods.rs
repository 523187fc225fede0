//! Floods over stores that are full: whoever stays within a fair share keeps everything, whatever a flood looks like.

use std::collections::BTreeSet;

use roundelay_protocol::ids::{Author, BatchHash};

use crate::SimMesh;
use crate::node::SimNode;

const HONEST: usize = 0;
const FLOOD: usize = 1;
const VICTIM: usize = 2;
/// Prunes much of the flood before it passes it on.
const SMALL: usize = 3;

type Events = BTreeSet<(Author, String, u64, BatchHash, String)>;

/// An honest author's events, far below a fair share, at a node with a cap of 100,000 bytes.
fn mesh() -> (SimMesh, Events) {
    let caps = [u64::MAX, u64::MAX, 100_000, 20_000];
    let nodes = (1..).zip(caps).map(|(number, cap_bytes)| SimNode::new(number, cap_bytes));
    let mut mesh = SimMesh::of(nodes.collect());
    mesh.link(HONEST, VICTIM);
    for _ in 0..20 {
        mesh.publish(HONEST, "orders", 5);
        mesh.run(50);
    }
    mesh.run(2_000);
    let honest = mesh.nodes[HONEST].contents();
    (mesh, honest)
}

#[track_caller]
fn nothing_honest_is_gone(mesh: &SimMesh, honest: &Events) {
    let victim = &mesh.nodes[VICTIM];
    let gone = honest.difference(&victim.contents()).count();
    assert_eq!(gone, 0, "of {} events within their share are gone", honest.len());
    assert!(victim.replica.batch_bytes() <= 100_000, "{} bytes", victim.replica.batch_bytes());
}

#[test]
fn a_flood_with_holes_pushes_nobody_else_out() {
    let (mut mesh, honest) = mesh();
    mesh.link(FLOOD, VICTIM);
    mesh.publish(FLOOD, "flood", 5);
    mesh.run(2_000);
    mesh.cut(FLOOD, VICTIM);
    // What follows reaches the victim by a node that keeps little of it.
    mesh.link(FLOOD, SMALL);
    for _ in 0..20 {
        mesh.publish(FLOOD, "flood", 200);
        mesh.run(50);
    }
    mesh.run(2_000);
    mesh.link(SMALL, VICTIM);
    mesh.run(20_000);
    assert_eq!(mesh.nodes[VICTIM].replica.missing().len(), 1, "what was pruned on the way");
    for _ in 0..40 {
        mesh.publish(FLOOD, "flood", 200);
        mesh.run(200);
    }
    mesh.run(20_000);
    nothing_honest_is_gone(&mesh, &honest);
}

#[test]
fn a_flood_of_logs_of_one_batch_pushes_nobody_else_out() {
    let (mut mesh, honest) = mesh();
    mesh.link(FLOOD, VICTIM);
    for topic in 0..60 {
        mesh.publish(FLOOD, &format!("flood.{topic}"), 200);
        mesh.run(50);
    }
    mesh.run(20_000);
    nothing_honest_is_gone(&mesh, &honest);
}

#[test]
fn declarations_of_choreographies_outlast_what_else_goes() {
    let (mut mesh, honest) = mesh();
    for _ in 0..5 {
        mesh.publish(HONEST, "_choreographies", 1);
        mesh.run(50);
    }
    mesh.run(2_000);
    let declared = |mesh: &SimMesh| {
        let contents = mesh.nodes[VICTIM].contents();
        contents.iter().filter(|(_, topic, ..)| topic == "_choreographies").count()
    };
    assert_eq!(declared(&mesh), 5);
    // What the node publishes itself while it is alone cannot go, so that everybody else's events have to.
    mesh.cut(HONEST, VICTIM);
    for _ in 0..60 {
        mesh.publish(VICTIM, "own", 200);
        mesh.run(200);
    }
    mesh.run(20_000);
    let left = honest.intersection(&mesh.nodes[VICTIM].contents()).count();
    assert!(left < honest.len(), "the store was too large to prune anything");
    assert_eq!(declared(&mesh), 5);
}
