//! kill -9 at random moments, under load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};

use crate::dice::Dice;
use crate::harness::{Follower, Mesh, Stream, assert_no_number_used_twice};
use crate::needs;

const TOPIC: &str = "orders.placed";
const KILLS: usize = 100;
const NODES: usize = 5;

#[test]
fn a_hundred_kills_at_random_moments_lose_nothing_that_was_acknowledged() {
    if !needs::has(&[]) {
        return;
    }
    let mut dice = Dice::thrown();
    let mesh = Mesh::star(NODES);
    mesh.connected(mesh.all());
    let streams: Vec<_> = mesh
        .all()
        .map(|node| {
            let acks: &[&str] = if node % 2 == 0 { &[] } else { &["--acks", "1"] };
            Stream::start(mesh.node(node), TOPIC, &format!("from-{node}"), 200, acks)
        })
        .collect();
    let followers: Vec<_> = mesh.all().map(|node| Follower::start(mesh.node(node), TOPIC, |_| {})).collect();

    let kills = AtomicUsize::new(0);
    thread::scope(|scope| {
        for node in mesh.all() {
            let (mut dice, mesh, kills) = (dice.another(), &mesh, &kills);
            scope.spawn(move || {
                while kills.fetch_add(1, Ordering::Relaxed) < KILLS {
                    sleep(dice.time(50, 1500));
                    mesh[node].kill();
                    sleep(dice.time(0, 300));
                    mesh[node].start();
                }
            });
        }
    });
    // All live again, and everybody gets to publish.
    streams.iter().for_each(|stream| stream.wait_for_more(50));
    let acknowledged: Vec<String> = streams.into_iter().flat_map(Stream::finish).collect();

    mesh.converge(mesh.all());
    let delivered = mesh.holds_at_least(TOPIC, &acknowledged, mesh.all());
    assert_no_number_used_twice(delivered.iter().flatten());
    println!("{KILLS} kills, {} events acknowledged, {} stored", acknowledged.len(), delivered[0].len());
    for follower in &followers {
        crate::harness::eventually("a follower has all", || follower.count() == delivered[0].len() as u64);
        assert_eq!(follower.take_faults(), Vec::<String>::new());
    }
    drop(followers);
    mesh.all().for_each(|node| mesh[node].verify());
    // And once more without the daemon, which may have repaired what it found.
    mesh.all().for_each(|node| mesh[node].stop());
    mesh.all().for_each(|node| mesh[node].verify());
}
