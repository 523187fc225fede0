//! Promises: heads, floors and sums that nothing stands behind, and pulls that are answered badly or not at all.

use std::time::Duration;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::{Frame, Head, Missing};
use roundelay_protocol::heads::{LogKey, Sum};
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, StoreEpoch};
use roundelay_protocol::topic::Topic;

use crate::arena::{Arena, TOPIC, pause};
use crate::forge::{self, Line};
use crate::harness::eventually;
use crate::peer::Sync;

fn log(topic: &str, author: Author) -> LogKey {
    LogKey { topic: Topic::new(topic).expect("a topic"), author }
}

fn some_hash(number: u64) -> BatchHash {
    BatchHash(*blake3::hash(&number.to_be_bytes()).as_bytes())
}

fn heads(heads: Vec<Head>) -> Frame {
    let epoch = StoreEpoch(7);
    let upto = roundelay_protocol::frame::Position { epoch, arrival: Arrival(1), chain: Chain::default() };
    Frame::Heads { heads, upto: Some(upto), events: 1_000 }
}

fn promise(topic: &str, number: u64) -> Head {
    let author = Author(some_hash(number).0);
    Head { log: log(topic, author), floor: 0, holes_to: 0, tips: vec![(1 + number, some_hash(number))] }
}

fn head_of(batch: &VerifiedBatch) -> Head {
    let header = batch.header();
    let log = LogKey { topic: header.topic.clone(), author: header.author };
    Head { log, floor: 0, holes_to: 0, tips: vec![(header.last_seq(), batch.hash())] }
}

/// The next pull that a node asks for.
fn next_pull(sync: &mut Sync) -> Option<(u64, usize)> {
    sync.wait_for("a node pulls what was announced", |frame| match frame {
        Frame::Pull { id, ranges, .. } => Some((id, ranges.len())),
        _ => None,
    })
}

#[test]
fn a_peer_that_announces_what_it_does_not_have_is_found_out() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let mut sync = peer.meet(&arena.mesh[0]);
    for page in 0..10 {
        sync.send(&heads((0..2_000).map(|nth| promise("promised.events", page * 2_000 + nth)).collect()));
    }
    arena.goes_on();
    // It answers every pull: all served, and nothing there.
    while let Some((id, ranges)) = next_pull(&mut sync) {
        if !sync.send(&Frame::PullEnd { id, served: ranges as u64, missing: vec![] }) {
            break;
        }
    }
    arena.is_kept_away(0, &peer, "announces events that it does not have");
    arena.ends_well("20,000 heads whose events never come", "forgot them, and kept the peer away for 10 s");
}

#[test]
fn a_peer_that_announces_on_and_on_and_never_answers_costs_no_more_than_its_share() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let mut sync = peer.meet(&arena.mesh[0]);
    // More than one peer may have a node want.
    for page in 0..50 {
        sync.send(&heads((0..2_000).map(|nth| promise("promised.events", page * 2_000 + nth)).collect()));
    }
    arena.goes_on();
    arena.goes_on();
    peer.hang_up();
    peer.wait_for_the_end(&arena.mesh[0]);
    arena.ends_well("100,000 heads, and no answer to any pull", "wanted 65,536 of them at most, and forgot them");
}

#[test]
fn pulls_answered_with_what_is_not_valid_cost_the_link() {
    let arena = Arena::new();
    let peer = arena.hostile();
    for node in arena.mesh.all() {
        let mut sync = peer.meet(&arena.mesh[node]);
        let batch = Line::new(&peer.signer, "false.events").one("false");
        sync.send(&heads(vec![head_of(&batch)]));
        let (id, _) = next_pull(&mut sync).expect("a pull");
        sync.send(&Frame::Batches { id, batches: vec![forge::with_forged_signature(&batch).into()] });
        arena.is_kept_away(node, &peer, "sent a batch that is not valid");
    }
    arena.ends_well("forged batches in answer to pulls", "kept them out, and the peer away for 10 s");
}

#[test]
fn events_taken_out_of_what_a_peer_serves_are_not_lost_for_good() {
    let mut arena = Arena::new();
    let author = arena.hostile();
    let thief = arena.hostile();
    let batch = Line::new(&author.signer, "rare.events").one("rare");
    // The thief alone announces the log, and serves it without its event.
    let mut sync = thief.meet(&arena.mesh[0]);
    sync.send(&heads(vec![head_of(&batch)]));
    let (id, _) = next_pull(&mut sync).expect("a pull");
    sync.send(&Frame::Batches { id, batches: vec![forge::stripped(&batch).into()] });
    sync.send(&Frame::PullEnd { id, served: 1, missing: vec![] });
    arena.goes_on();
    thief.hang_up();
    thief.wait_for_the_end(&arena.mesh[0]);
    // Somebody comes who has it whole.
    author.connect(&arena.mesh[0]);
    author.wait_for_subscriber(&arena.mesh[0], TOPIC);
    let mut sync = author.meet(&arena.mesh[0]);
    sync.send(&heads(vec![head_of(&batch)]));
    let served = next_pull(&mut sync);
    let (id, _) = served.expect("the whole batch is asked for");
    sync.send(&Frame::Batches { id, batches: vec![batch.bytes().clone()] });
    sync.send(&Frame::PullEnd { id, served: 1, missing: vec![] });
    for node in arena.mesh.all() {
        eventually("the event is there", || arena.mesh[node].events("rare.events").len() == 1);
    }
    author.hang_up();
    author.wait_for_the_end(&arena.mesh[0]);
    arena.ends_well("stripped events, served", "did not take the batch until somebody had it whole");
}

#[test]
fn invented_floors_take_nothing_away() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let victims: Vec<Author> = arena.mesh.all().map(|node| author_of(&arena, node)).collect();
    let mut line = Line::new(&peer.signer, "pruned.events");
    let (first, second) = (line.one("first"), line.one("second"));
    for node in arena.mesh.all() {
        let mut sync = peer.meet(&arena.mesh[node]);
        // Everything of the honest authors is gone, it says, and more than there ever was.
        let invented = |author: &Author| Head { log: log(TOPIC, *author), floor: 1 << 40, holes_to: 0, tips: vec![] };
        sync.send(&heads(victims.iter().map(invented).collect()));
        sync.send(&heads(vec![head_of(&second)]));
        let (id, _) = next_pull(&mut sync).expect("a pull");
        // The first event of this log is gone too; the second is there.
        sync.send(&Frame::Batches { id, batches: vec![second.bytes().clone()] });
        sync.send(&Frame::PullEnd { id, served: 1, missing: vec![Missing { range: 0, from: 1, to: 1 }] });
    }
    arena.goes_on();
    peer.hang_up();
    for node in arena.mesh.all() {
        peer.wait_for_the_end(&arena.mesh[node]);
    }
    // Whoever is met and has the first event fills the hole.
    for node in arena.mesh.all() {
        if arena.mesh[node].count("pruned.events") == 2 {
            continue;
        }
        let mut sync = peer.meet(&arena.mesh[node]);
        sync.send(&heads(vec![head_of(&second)]));
        let (id, _) = next_pull(&mut sync).expect("a pull of the hole");
        sync.send(&Frame::Batches { id, batches: vec![first.bytes().clone(), second.bytes().clone()] });
        sync.send(&Frame::PullEnd { id, served: 1, missing: vec![] });
        eventually("the hole is filled", || arena.mesh[node].count("pruned.events") == 2);
    }
    peer.hang_up();
    arena.mesh.all().for_each(|node| peer.wait_for_the_end(&arena.mesh[node]));
    arena.ends_well("invented floors", "recorded a hole in the peer's own log, and lost nothing of others'");
}

fn author_of(arena: &Arena, node: usize) -> Author {
    roundelay::peer_id::author_of(&crate::peer::id_of(&arena.mesh[node])).expect("an ed25519 key")
}

#[test]
fn sums_that_never_agree_make_no_node_busy() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let mut syncs: Vec<Sync> = arena.mesh.all().map(|node| peer.meet(&arena.mesh[node])).collect();
    let before: Vec<f64> = arena.mesh.all().map(|node| arena.mesh[node].cpu_seconds()).collect();
    let topic = Topic::new(TOPIC).expect("a topic");
    let mut frames = 0;
    for round in 0..200_u64 {
        for sync in &mut syncs {
            sync.send(&Frame::Sums { topics: vec![(topic.clone(), Sum(u128::from(round)))], last: true });
            sync.send(&Frame::Audit { sum: Sum(u128::from(round)), events: round });
            while sync.next(Duration::from_millis(5)).is_some() {
                frames += 1;
            }
        }
        pause(10);
    }
    arena.goes_on();
    let spent = |node: usize| arena.mesh[node].cpu_seconds() - before[node];
    let busiest = arena.mesh.all().map(spent).fold(0.0, f64::max);
    for node in arena.mesh.all() {
        let status = arena.peer(node, &peer);
        assert!(status.is_some(), "an argument is no breach");
    }
    peer.hang_up();
    arena.mesh.all().for_each(|node| peer.wait_for_the_end(&arena.mesh[node]));
    let what = format!("answered ({frames} frames), {busiest:.1} s of CPU at most, and never said to be in sync");
    arena.ends_well("200 sums that never agree, to each", &what);
}

#[test]
fn pulls_without_end_whose_answers_are_never_read() {
    let arena = Arena::new();
    let peer = arena.hostile();
    let victims: Vec<Author> = arena.mesh.all().map(|node| author_of(&arena, node)).collect();
    for node in arena.mesh.all() {
        let mut sync = peer.meet(&arena.mesh[node]);
        let ranges: Vec<_> = victims
            .iter()
            .cycle()
            .take(64)
            .map(|author| roundelay_protocol::frame::Range { log: log(TOPIC, *author), after: 0, upto: 1 << 40 })
            .collect();
        for id in 0..2_000 {
            let pull = Frame::Pull { id, max_bytes: u64::MAX, ranges: ranges.clone() };
            let length = (pull.encode().len() as u32).to_be_bytes();
            let frame = [&length[..], &pull.encode()].concat();
            if !sync.write_for(Duration::from_millis(100), &frame) || !peer.is_connected_to(&arena.mesh[node]) {
                break;
            }
        }
        arena.is_kept_away(node, &peer, "asked for more at once than the protocol allows");
    }
    arena.ends_well("pulls without end, answers never read", "cut it off, and kept it away for 10 s");
}
