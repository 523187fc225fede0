//! The power goes in the middle of publishing: whatever was acknowledged is there afterwards, and all of it verifies.

use crate::harness::{Mesh, Node, Publisher, lines_of};
use crate::loop_disk::{self, LoopDisk};
use crate::needs;

const TOPIC: &str = "orders.placed";
const CUTS: usize = 10;

#[test]
fn a_new_store_survives_power_cuts() {
    if !needs::has(&loop_disk::NEEDS) {
        return;
    }
    let mut mesh = Mesh::empty();
    let node = mesh.prepare(&[], &[]);
    let disk = LoopDisk::new(&mesh[node].home, 512);
    mesh[node].start();
    cut_again_and_again(&mesh[node], &disk);
}

#[test]
fn a_store_aged_by_pruning_survives_power_cuts() {
    if !needs::has(&loop_disk::NEEDS) {
        return;
    }
    let mut mesh = Mesh::star(1);
    let node = mesh.prepare(&[0], &["--store-cap", "16MiB"]);
    let disk = LoopDisk::new(&mesh[node].home, 1024);
    mesh[node].start();
    for round in 0..8 {
        mesh[node].publish_lines(TOPIC, &lines_of(&format!("old-{round}"), 2_500, 2_000));
    }
    mesh.count(TOPIC, 8 * 2_500, [0]);
    assert!(mesh[node].count(TOPIC) < 8 * 2_500, "nothing was pruned, so the store is not aged");
    // What is published from now on no peer has, so it may not be pruned.
    mesh[0].stop();
    cut_again_and_again(&mesh[node], &disk);
}

fn cut_again_and_again(node: &Node, disk: &LoopDisk) {
    let mut acknowledged: Vec<String> = Vec::new();
    for cut in 0..CUTS {
        let publisher = Publisher::start(node, TOPIC, &format!("cut-{cut}"), 2_000);
        publisher.wait_for_more(100 + 37 * cut);
        disk.cut_power();
        node.kill();
        acknowledged.extend(publisher.finish_without_node());
        disk.unmount();
        disk.mount();
        node.verify();
        let found = node.exported(TOPIC);
        let lost: Vec<_> = acknowledged.iter().filter(|id| !found.contains(*id)).take(5).collect();
        assert!(
            lost.is_empty(),
            "cut {cut}: of {} acknowledged these, or more, are lost: {lost:?}",
            acknowledged.len()
        );
        node.start();
    }
    println!("{CUTS} cuts, {} acknowledged events, none lost", acknowledged.len());
}
