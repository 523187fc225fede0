//! Too much of everything: events, logs, topics, subscriptions, identities.

use std::time::{Duration, Instant};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::Frame;
use roundelay_protocol::interest::Interest;
use roundelay_protocol::sign::Ed25519Signer;
use roundelay_protocol::topic::Pattern;

use crate::arena::{Arena, TOPIC, pause};
use crate::forge::{Line, event};
use crate::harness::eventually;
use crate::peer::{Hostile, Sync};

/// Pushes batches to a node that did not ask for them.
fn push(sync: &mut Sync, batches: &[VerifiedBatch]) {
    for run in batches.chunks(if batches[0].bytes().len() > 10_000 { 10 } else { 64 }) {
        let batches = run.iter().map(|batch| batch.bytes().clone()).collect();
        assert!(sync.send(&Frame::Batches { id: 0, batches }), "the link is up");
        // What the node says is of no interest, but must not pile up.
        while sync.next(Duration::ZERO).is_some() {}
    }
}

fn author(number: u64) -> Ed25519Signer {
    Ed25519Signer::from_secret(blake3::hash(&number.to_be_bytes()).as_bytes())
}

#[test]
fn a_flood_of_valid_events_pushes_nobody_else_s_out_of_a_full_store() {
    // 16 MiB hold 8 MiB of batches.
    let mut arena = Arena::with("store.cap = '16 MiB'\n");
    let peer = arena.hostile();
    let mut sync = peer.meet(&arena.mesh[0]);
    let mut line = Line::new(&peer.signer, "flood.events");
    for _ in 0..50 {
        let batches: Vec<_> = (0..20).map(|nth| line.seal(&[event(&format!("flood-{nth}"), 60_000)])).collect();
        push(&mut sync, &batches);
    }
    arena.goes_on();
    for node in arena.mesh.all() {
        eventually("the flood is pruned", || {
            let held = arena.mesh[node].count("flood.events");
            0 < held && held < 300
        });
    }
    drop(sync);
    peer.hang_up();
    arena.expect_pruning();
    arena
        .ends_well("60 MB of valid events into stores that hold 8 MB", "pruned the flood, and nothing of anybody else");
}

#[test]
fn many_tiny_logs_of_many_authors_cost_little_memory_each() {
    const AUTHORS: u64 = 5;
    const TOPICS: u64 = 4_000;
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let mut sync = peer.meet(&arena.mesh[0]);
    let before = arena.mesh[0].memory_bytes().0;
    for nth in 0..AUTHORS {
        let signer = author(nth);
        let batches: Vec<_> =
            (0..TOPICS).map(|topic| Line::new(&signer, &format!("tiny.t{topic}")).one("tiny")).collect();
        push(&mut sync, &batches);
    }
    let logs = AUTHORS * TOPICS;
    eventually("the logs are there", || {
        let topics = arena.mesh[0].topics();
        topics.iter().filter(|(name, _)| name.starts_with("tiny.")).map(|(_, topic)| topic.events).sum::<u64>() == logs
    });
    arena.goes_on();
    drop(sync);
    peer.hang_up();
    let each = arena.mesh[0].memory_bytes().0.saturating_sub(before) / logs;
    assert!(each < 20_000, "{each} bytes a log");
    arena.ends_well(
        &format!("{logs} logs of one event, {TOPICS} topics"),
        &format!("took them: {:.1} KiB of memory a log at the node that was pushed", each as f64 / 1024.0),
    );
}

#[test]
fn logs_beyond_the_limits_are_refused_and_told() {
    let mut arena = Arena::with("limits.logs_per_author = 100\n");
    let peer = arena.hostile();
    let mut syncs: Vec<Sync> = arena.mesh.all().map(|node| peer.meet(&arena.mesh[node])).collect();
    let batches: Vec<_> = (0..1_000).map(|nth| Line::new(&peer.signer, &format!("many.t{nth}")).one("one")).collect();
    syncs.iter_mut().for_each(|sync| push(sync, &batches));
    for node in arena.mesh.all() {
        eventually("the limit is told", || arena.warnings(node).contains("of further logs were refused"));
        let held = arena.mesh[node].topics().into_iter().filter(|(name, _)| name.starts_with("many.")).count();
        assert_eq!(held, 100);
    }
    arena.goes_on();
    drop(syncs);
    peer.hang_up();
    arena.ends_well("1,000 logs of an author who may have 100", "took 100, refused the rest, and said so in `status`");
}

#[test]
fn subscriptions_that_change_all_the_time() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let mut syncs: Vec<Sync> = arena.mesh.all().map(|node| peer.meet(&arena.mesh[node])).collect();
    let before: Vec<f64> = arena.mesh.all().map(|node| arena.mesh[node].cpu_seconds()).collect();
    for round in 0..40 {
        let topics: Vec<String> = (0..1_000).map(|nth| format!("subscribed.r{}.t{nth}", round % 4)).collect();
        peer.subscribe(topics.clone());
        let patterns = topics.iter().map(|topic| Pattern::new(topic).expect("a pattern")).collect();
        let interest = Interest::new(patterns, vec![]);
        for sync in &mut syncs {
            sync.send(&Frame::Interest(interest.clone()));
            while sync.next(Duration::ZERO).is_some() {}
        }
        pause(50);
        peer.unsubscribe(topics);
    }
    arena.goes_on();
    let spent = |node: usize| arena.mesh[node].cpu_seconds() - before[node];
    let busiest = arena.mesh.all().map(spent).fold(0.0, f64::max);
    drop(syncs);
    peer.hang_up();
    arena.ends_well(
        "40 rounds of 1,000 subscriptions, in gossip and in frames",
        &format!("followed them, {busiest:.1} s of CPU at most"),
    );
}

#[test]
fn many_identities_that_each_do_a_little() {
    let mut arena = Arena::new();
    let sybils: Vec<Hostile> = (0..30).map(|_| arena.hostile()).collect();
    let mut syncs = Vec::new();
    for (nth, sybil) in sybils.iter().enumerate() {
        let node = nth % 3;
        let mut sync = sybil.meet(&arena.mesh[node]);
        let mut line = Line::new(&sybil.signer, TOPIC);
        push(&mut sync, &(0..5).map(|event| line.one(&format!("sybil-{nth}-{event}"))).collect::<Vec<_>>());
        syncs.push(sync);
    }
    arena.expect_foreign(30 * 5);
    arena.goes_on();
    // A newcomer finds its way in among them.
    let newcomer = arena.mesh.start(&[0], &[]);
    eventually("a newcomer holds what honest nodes hold", || {
        arena.mesh[newcomer].count(TOPIC) > 30 * 5 && arena.mesh[newcomer].is_connected_to(&arena.mesh[0])
    });
    arena.mesh[newcomer].stop();
    drop(syncs);
    sybils.iter().for_each(Hostile::hang_up);
    arena
        .ends_well("30 identities that each publish a little", "stored what they signed; a newcomer joined among them");
}

#[test]
fn half_open_handshakes_and_bytes_that_trickle() {
    let mut arena = Arena::new();
    let port = arena.mesh[0].hidden_port();
    let open = || std::net::TcpStream::connect(("127.0.0.1", port));
    let half_open: Vec<_> = (0..100).filter_map(|_| open().ok()).collect();
    let peer = arena.hostile();
    let mut sync = peer.meet(&arena.mesh[1]);
    // A frame of a megabyte, a byte at a time.
    sync.write((1_000_000_u32).to_be_bytes());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert!(sync.write([0x84]), "nobody minds a slow link for a while");
        pause(50);
    }
    arena.goes_on();
    // The places of those who never shake hands are free again before long.
    let newcomer = arena.mesh.start(&[0], &[]);
    eventually("a newcomer gets in", || arena.mesh[newcomer].is_connected_to(&arena.mesh[0]));
    arena.mesh[newcomer].stop();
    drop((half_open, sync));
    peer.hang_up();
    arena.ends_well("100 half-open handshakes, and a frame a byte at a time", "went on; a newcomer got in after 10 s");
}
