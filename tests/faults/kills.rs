//! kill -9 at random moments, under load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};

use crate::harness::{Dice, Follower, Mesh, Stream, assert_no_number_used_twice, eventually};
use crate::needs::{self, Need};
use crate::slow_disk::delay;

const TOPIC: &str = "orders.placed";

#[test]
fn a_hundred_kills_at_random_moments_lose_nothing_that_was_acknowledged() {
    if needs::has(&[]) {
        survive_kills(&Mesh::star(5), 100);
    }
}

#[test]
fn kills_between_an_event_and_its_write_lose_nothing_that_was_acknowledged() {
    if !needs::has(&[Need::Strace]) {
        return;
    }
    let mut mesh = Mesh::empty();
    for node in 0..3 {
        mesh.prepare(if node == 0 { &[] } else { &[0] }, &[]);
        // There is always something that is not written yet.
        delay(&mesh[node], "pwrite64", 50);
        mesh[node].start();
    }
    survive_kills(&mesh, 20);
}

/// Kills nodes under load, several at once, so many times in all.
fn survive_kills(mesh: &Mesh, limit: usize) {
    let mut dice = Dice::thrown();
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
            let (mut dice, kills) = (dice.another(), &kills);
            scope.spawn(move || {
                while kills.fetch_add(1, Ordering::Relaxed) < limit {
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
    println!("{limit} kills, {} events acknowledged, {} stored", acknowledged.len(), delivered[0].len());
    for follower in &followers {
        eventually("a follower has all", || follower.count() == delivered[0].len() as u64);
        assert_eq!(follower.take_faults(), Vec::<String>::new());
    }
    drop(followers);
    mesh.all().for_each(|node| mesh[node].verify());
    // And once more without the daemon, which may have repaired what it found.
    mesh.all().for_each(|node| mesh[node].stop());
    mesh.all().for_each(|node| mesh[node].verify());
}
