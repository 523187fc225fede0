//! Authors that sign what they should not: true signatures under lies and floods.

use roundelay_protocol::batch::{Link, VerifiedBatch};
use roundelay_protocol::frame::Frame;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::limits::HLC_CEILING_MS;

use crate::arena::{Arena, TOPIC, pause};
use crate::forge::{self, Line, event};
use crate::harness::eventually;
use crate::peer::Hostile;

/// Connected to every node, which all hear the topic.
fn hostile_in(arena: &Arena) -> Hostile {
    let peer = arena.hostile();
    arena.mesh.all().for_each(|node| peer.connect(&arena.mesh[node]));
    arena.mesh.all().for_each(|node| peer.wait_for_subscriber(&arena.mesh[node], TOPIC));
    peer
}

#[test]
fn two_histories_of_one_log_are_kept_and_proven() {
    let arena = Arena::new();
    let peer = hostile_in(&arena);
    // Whoever subscribes to both lines sees each number twice, so it is another topic than the one that is checked.
    let topic = "histories.two";
    let mut line = Line::new(&peer.signer, topic);
    let first = line.one("first");
    let one = line.seal_aside(&[event("one-history", 8)]);
    let other = line.seal_aside(&[event("another-history", 8)]);
    let mut sync = peer.meet(&arena.mesh[0]);
    for batch in [&first, &one, &other] {
        sync.send(&Frame::Batches { id: 0, batches: vec![batch.bytes().clone()] });
    }
    for node in arena.mesh.all() {
        eventually("the cheat is proven", || arena.warnings(node).contains("signed two histories"));
        let warnings = arena.warnings(node);
        for batch in [&one, &other] {
            assert!(warnings.contains(&batch.hash().to_string()), "{warnings}");
        }
    }
    for node in arena.mesh.all() {
        eventually("both histories are kept", || arena.mesh[node].count(topic) == 3);
    }
    drop(sync);
    peer.hang_up();
    arena.ends_well("two histories of one log", "kept both, and named the proof in `status`");
}

#[test]
fn two_lines_that_come_in_one_frame_are_both_kept() {
    let arena = Arena::new();
    let peer = arena.hostile();
    let mut sync = peer.meet(&arena.mesh[0]);
    let topic = "histories.at-once";
    let mut line = Line::new(&peer.signer, topic);
    let (first, old) = (line.one("first"), line.seal_aside(&[event("another-line", 8)]));
    let second = line.one("second");
    let tip = |nth: usize| format!("{topic}-{nth}");
    let mut push = |batches: &[&VerifiedBatch]| {
        let batches = batches.iter().map(|batch| batch.bytes().clone()).collect();
        assert!(sync.send(&Frame::Batches { id: 0, batches }), "the link is up");
    };
    push(&[&first, &second]);
    eventually("the first line is there", || arena.mesh[0].count(topic) == 2);
    // The store is asked for the first of these, and has not answered when the next ones are to be written.
    let rest: Vec<_> = (0..20).map(|nth| line.one(&tip(nth))).collect();
    push(&[&old].into_iter().chain(&rest).collect::<Vec<_>>());
    eventually("both lines are kept", || arena.mesh[0].count(topic) == 23);
    eventually("two lines are told", || arena.warnings(0).contains("has 2 lines"));
    drop(sync);
    peer.hang_up();
    for node in arena.mesh.all() {
        eventually("both lines are everywhere", || arena.mesh[node].count(topic) == 23);
        arena.mesh[node].verify();
    }
    arena.ends_well("two lines in one frame", "kept both, with one head of two tips");
}

#[test]
fn replays_are_stored_once() {
    let mut arena = Arena::new();
    let peer = hostile_in(&arena);
    let mut line = Line::new(&peer.signer, TOPIC);
    let batches: Vec<_> = (0..20).map(|nth| line.one(&format!("replayed-{nth}"))).collect();
    for _ in 0..20 {
        for batch in &batches {
            peer.gossip(TOPIC, batch.bytes().to_vec());
        }
        pause(50);
    }
    arena.goes_on();
    arena.expect_foreign(20);
    peer.hang_up();
    arena.ends_well("20 batches, 20 times each", "stored and delivered each once");
}

#[test]
fn stamps_years_ahead_do_not_drag_honest_clocks_along() {
    let mut arena = Arena::new();
    let peer = hostile_in(&arena);
    let mut line = Line::new(&peer.signer, TOPIC);
    line.next = Hlc::from_ms(forge::now_ms() + 20 * 365 * 86_400_000);
    peer.gossip(TOPIC, line.one("in-twenty-years").bytes().to_vec());
    line.next = Hlc::from_ms(HLC_CEILING_MS);
    peer.gossip(TOPIC, line.one("at-the-end-of-time").bytes().to_vec());
    arena.expect_foreign(2);
    arena.goes_on();
    let latest = forge::now_ms() + 86_400_000;
    for stamp_ms in arena.honest_stamps_ms() {
        assert!(stamp_ms < latest, "an honest stamp is dragged to {stamp_ms}");
    }
    peer.hang_up();
    arena.ends_well("stamps years ahead", "stored the events, and stamped their own by their clocks");
}

#[test]
fn a_batch_that_breaks_the_rules_against_its_parent_is_blamed_on_its_author() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let syncs: Vec<_> = arena.mesh.all().map(|node| peer.meet(&arena.mesh[node])).collect();
    arena.mesh.all().for_each(|node| peer.wait_for_subscriber(&arena.mesh[node], TOPIC));
    let mut line = Line::new(&peer.signer, TOPIC);
    let first = line.one("first");
    let parent = Link { seq: line.link.seq, parent: line.link.parent };
    line.next = Hlc(first.tip().hlc.0 - 1);
    line.link = parent;
    let earlier = line.one("stamped-before-its-parent");
    peer.gossip(TOPIC, first.bytes().to_vec());
    pause(500);
    peer.gossip(TOPIC, earlier.bytes().to_vec());
    for node in arena.mesh.all() {
        arena.is_kept_away(node, &peer, "breaks the rules against the one it follows");
    }
    drop(syncs);
    arena.expect_foreign(1);
    arena.ends_well("a stamp below its parent's", "refused the batch, and kept its author away for 10 s");
}
