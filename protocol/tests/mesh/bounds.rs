//! What peers and authors can make a replica keep and do, and what is beyond it.

use roundelay_protocol::batch::{self, Link, VerifiedBatch};
use roundelay_protocol::event::Event;
use roundelay_protocol::frame::{Frame, MAX_RANGES, Range};
use roundelay_protocol::heads::{LogKey, Sum};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Author, Incarnation};
use roundelay_protocol::limits::MAX_TIPS;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::replica::{Effect, Input, Notice, Room, Source};
use roundelay_protocol::sign::Signer;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::wants::{INNER_ORPHAN_MS, MAX_PULLS_PER_PEER, MAX_WANTS, PULL_BYTES};

use crate::hostile::strip;
use crate::liars::{
    after, at, heads_of, hello, link_up, linked, linked_to, promises, proofs, pulls, seal, sent_away, some_hash, wanted,
};
use crate::node::{SimNode, Stamp};

/// The first batch of a log.
fn first_of(author: u8, topic: &str) -> VerifiedBatch {
    let event = Event { kind: "t".into(), id: "i".into(), source: "s".into(), ..Event::default() };
    let topic = Topic::new(topic).unwrap();
    let events = [event.encode().unwrap()];
    batch::seal(&Stamp::of(author), &topic, Incarnation(1), Link::default(), Hlc::from_ms(1), &events)
}

fn give(node: &mut SimNode, batch: VerifiedBatch) -> Vec<Effect> {
    node.handle(at(10), Input::Batch { batch, source: Source::Import })
}

fn gossip(node: &mut SimNode, now_ms: u64, from: Author, batch: VerifiedBatch) -> Vec<Effect> {
    node.handle(at(now_ms), Input::Batch { batch, source: Source::Gossip(from) })
}

/// Somewhere in a log, upon a batch that nobody has.
fn loose(author: &Stamp, seq: u64, parent: u64) -> VerifiedBatch {
    seal(author, 1, Link { seq, parent: some_hash(parent) }, "loose")
}

#[test]
fn logs_beyond_the_limits_of_an_author_of_a_topic_and_of_all_are_not_begun() {
    let limits = LogLimits { total: 5, per_author: 2, per_topic: 3 };
    let mut node = SimNode::limited(1, u64::MAX, limits);
    let taken = |node: &mut SimNode, author, topic| {
        let before = node.contents().len();
        give(node, first_of(author, topic));
        node.sync(at(20));
        node.contents().len() > before
    };
    assert!(taken(&mut node, 2, "a") && taken(&mut node, 2, "b"));
    assert!(!taken(&mut node, 2, "c"), "two of one author");
    assert!(taken(&mut node, 3, "a") && taken(&mut node, 4, "a"));
    assert!(!taken(&mut node, 5, "a"), "three in one topic");
    assert!(taken(&mut node, 5, "b"));
    assert!(!taken(&mut node, 6, "c"), "five in all");
    assert_eq!((node.replica.foreign_logs(), node.replica.refused_logs()), (5, 3));
    // What is here goes on.
    give(&mut node, seal(&Stamp::of(2), 1, after(&first_of(2, "a")), "more"));
    node.sync(at(30));
    assert_eq!(node.contents().len(), 6);
}

#[test]
fn heads_of_logs_beyond_the_limits_are_not_wanted_and_the_node_is_not_in_sync() {
    for (total, is_converged) in [(0, false), (1, true)] {
        let (mut node, peer) = linked_to(SimNode::limited(1, u64::MAX, LogLimits { total, ..LogLimits::default() }));
        // Where there is room for the log, gossip brings all of it, and the head tells nothing new.
        let batch = first_of(2, "a");
        gossip(&mut node, 10, peer, batch.clone());
        node.sync(at(15));
        node.frame(at(20), peer, heads_of(&[&batch]));
        assert_eq!(wanted(&node), 0);
        node.handle(at(1_000), Input::Tick);
        let mut effects = node.handle(at(1_010), Input::Probe { id: 1 });
        for frame in [Frame::ProbeSeen(1), Frame::ProbeDone(1)] {
            effects.extend(node.frame(at(1_020), peer, frame));
        }
        let probed = effects.iter().any(|effect| matches!(effect, Effect::Probed { id: 1, .. }));
        assert_eq!(probed, is_converged, "{total} logs are allowed");
    }
}

#[test]
fn brothers_that_waited_for_their_parent_together_prove_a_cheat() {
    let (author, mut node) = (Stamp::of(9), SimNode::new(1, u64::MAX));
    let first = seal(&author, 1, Link::default(), "first");
    let (one, other) = (seal(&author, 1, after(&first), "one"), seal(&author, 1, after(&first), "other"));
    let mut effects = Vec::new();
    for batch in [&one, &other, &first] {
        effects.extend(give(&mut node, batch.clone()));
    }
    let proofs: Vec<_> = proofs(&effects).into_iter().map(|[a, b]| [a.min(b), a.max(b)]).collect();
    assert_eq!(proofs, [[one.hash().min(other.hash()), one.hash().max(other.hash())]]);
    node.sync(at(20));
    assert_eq!(node.contents().len(), 3);
}

#[test]
fn who_signs_a_batch_that_does_not_follow_its_parent_is_sent_away_and_nobody_else() {
    let first = seal(&Stamp::of(2), 1, Link::default(), "first");
    let hlc = first.tip().hlc;
    let seal = |seq: u64, stamp: u64| {
        let event = Event { kind: "t".into(), id: "i".into(), source: "s".into(), ..Event::default() };
        let (topic, link) = (Topic::new("a").unwrap(), Link { seq, parent: first.hash() });
        batch::seal(&Stamp::of(2), &topic, Incarnation(1), link, Hlc(stamp), &[event.encode().unwrap()])
    };
    for wrong in [seal(1, hlc.0), seal(1, hlc.0 - 1), seal(2, hlc.0 + 1)] {
        let (mut node, author) = linked(u64::MAX);
        let other = link_up(&mut node, 3);
        gossip(&mut node, 10, other, first.clone());
        let effects = gossip(&mut node, 20, other, wrong);
        node.sync(at(30));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Notice(Notice::Invalid { .. }))));
        let away = effects.iter().filter_map(|effect| match effect {
            Effect::Disconnect { peer, .. } => Some(*peer),
            _ => None,
        });
        assert_eq!(away.collect::<Vec<_>>(), [author]);
        assert_eq!(node.contents().len(), 1);
    }
}

#[test]
fn a_log_has_no_more_lines_than_a_head_can_tell() {
    let (author, mut node) = (Stamp::of(9), SimNode::new(1, u64::MAX));
    let first = seal(&author, 1, Link::default(), "first");
    give(&mut node, first.clone());
    let mut told = 0;
    for life in 0..MAX_TIPS as u64 + 3 {
        let effects = give(&mut node, seal(&author, 2 + life, after(&first), "line"));
        told += effects.iter().filter(|effect| matches!(effect, Effect::Notice(Notice::TooManyLines { .. }))).count();
        node.sync(at(20));
    }
    assert_eq!((told, node.contents().len()), (3, 1 + MAX_TIPS));
}

#[test]
fn what_the_store_is_asked_at_once_is_bounded() {
    let (author, mut node) = (Stamp::of(9), SimNode::new(1, u64::MAX));
    let first = seal(&author, 1, Link::default(), "first");
    let second = seal(&author, 1, after(&first), "second");
    give(&mut node, first);
    give(&mut node, second);
    let inside = |parent| Input::Batch { batch: loose(&author, 1, parent), source: Source::Import };
    let asked = node.replica.handle_all(at(20), (0..5_000).map(inside));
    assert_eq!(asked.iter().filter(|effect| matches!(effect, Effect::Find { .. })).count(), 4_096);
    assert_eq!(node.replica.sizes().lookups, 4_096);
}

#[test]
fn of_the_probes_of_one_peer_few_wait() {
    let (mut node, peer) = linked(u64::MAX);
    node.frame(at(10), peer, promises(0..1));
    (0..1_000).for_each(|id| drop(node.frame(at(20), peer, Frame::Probe(id))));
    assert_eq!(node.replica.sizes().peer_probes, 64);
}

#[test]
fn gaps_in_one_log_are_wanted_up_to_a_bound_and_given_up_when_nobody_has_them() {
    let (author, mut node) = (Stamp::of(9), SimNode::new(1, u64::MAX));
    let stranger = Stamp::of(3).author();
    for seq in 0..2_000 {
        gossip(&mut node, 10, stranger, loose(&author, 2 * seq + 1, seq));
    }
    assert_eq!(node.replica.sizes().wants, 1_024);
    node.handle(at(5_010), Input::Tick);
    node.handle(at(INNER_ORPHAN_MS), Input::Tick);
    assert_eq!(node.replica.sizes().wants, 1_024, "somebody may come who has it");
    node.handle(at(5_010 + INNER_ORPHAN_MS + 5_000), Input::Tick);
    assert_eq!(node.replica.sizes().wants, 0);
}

#[test]
fn all_peers_together_have_us_want_no_more_than_there_is_room_for() {
    const EACH: u64 = 60_000;
    let (mut node, peer) = linked(u64::MAX);
    let peers: Vec<_> = [peer].into_iter().chain((3..7).map(|number| link_up(&mut node, number))).collect();
    for (nth, peer) in (0..).zip(peers) {
        for page in 0..EACH / 2_000 {
            let from = nth * EACH + page * 2_000;
            node.frame(at(10), peer, promises(from..from + 2_000));
        }
    }
    assert_eq!(wanted(&node), MAX_WANTS);
    // Nor does a gap that gossip leaves.
    gossip(&mut node, 20, Stamp::of(3).author(), loose(&Stamp::of(9), 1, 1));
    assert_eq!(wanted(&node), MAX_WANTS);
}

#[test]
fn one_peer_is_asked_for_little_at_once() {
    let (mut node, peer) = linked(u64::MAX);
    let asked = pulls(&node.frame(at(10), peer, promises(0..1_000)));
    assert_eq!(asked.len(), MAX_PULLS_PER_PEER);
    assert!(asked.iter().all(|(_, ranges)| *ranges == MAX_RANGES as u64), "{asked:?}");
    assert!(pulls(&node.handle(at(5_000), Input::Tick)).is_empty());
}

#[test]
fn nothing_is_pulled_while_much_waits_for_the_disk() {
    let (mut node, peer) = linked(u64::MAX);
    (0..300).for_each(|nth| drop(give(&mut node, first_of(9, &format!("t.{nth}")))));
    let mut effects = node.frame(at(10), peer, promises(0..10));
    effects.extend(node.handle(at(20), Input::Tick));
    assert!(pulls(&effects).is_empty());
    node.sync(at(30));
    assert_eq!(node.replica.sizes().pulls, 4);
}

#[test]
fn a_pull_is_answered_with_a_mebibyte_and_who_asks_on_without_reading_is_sent_away() {
    let (mut node, peer) = linked(u64::MAX);
    let log = LogKey { topic: Topic::new("a").unwrap(), author: node.author() };
    let mut answered = 0;
    let reason = loop {
        let ranges = vec![Range { log: log.clone(), after: 0, upto: 10 }];
        let frame = Frame::Pull { id: answered, max_bytes: u64::MAX, ranges };
        // None of them is served to its end.
        let effects = node.replica.handle(at(10), Input::Frame { peer, link: 1, frame, chain: None });
        if let Some(reason) = sent_away(&effects) {
            break reason.to_owned();
        }
        let bytes = effects.iter().find_map(|effect| match effect {
            Effect::Serve { max_bytes, .. } => Some(*max_bytes),
            _ => None,
        });
        assert_eq!(bytes, Some(PULL_BYTES));
        answered += 1;
        assert!(answered < 1_000, "it is served for ever");
    };
    assert_eq!((reason.as_str(), answered), ("asked for more at once than the protocol allows", 32));
}

#[test]
fn who_serves_a_batch_without_its_events_is_not_asked_for_it_again() {
    let (mut node, thief) = linked(u64::MAX);
    let whole = seal(&Stamp::of(9), 1, Link::default(), "whole");
    let effects = node.frame(at(10), thief, heads_of(&[&whole]));
    let (id, _) = pulls(&effects)[0];
    let batches = vec![strip(&whole).bytes().clone()];
    node.frame(at(20), thief, Frame::Batches { id, batches });
    let mut effects = node.frame(at(20), thief, Frame::PullEnd { id, served: 1, missing: vec![] });
    (0..50).for_each(|second| effects.extend(node.handle(at(100 + second * 1_000), Input::Tick)));
    assert!(pulls(&effects).is_empty() && sent_away(&effects).is_none());
    // Somebody who has it whole is.
    let honest = link_up(&mut node, 3);
    let effects = node.frame(at(60_000), honest, heads_of(&[&whole]));
    assert_eq!(pulls(&effects).len(), 1);
}

#[test]
fn a_hello_is_said_first_and_once() {
    let (mut node, peer) = linked(u64::MAX);
    let again = node.frame(at(10), peer, hello(2));
    assert_eq!(sent_away(&again), Some("said hello twice"));
    let mut node = SimNode::new(1, u64::MAX);
    node.link_ids.insert(peer, 1);
    node.handle(at(0), Input::LinkUp { peer, link: 1, nonce: 1, memory: None });
    let early = node.frame(at(10), peer, Frame::Hurry);
    assert_eq!(sent_away(&early), Some("spoke before saying hello"));
}

#[test]
fn slips_are_overlooked_a_few_times_and_breaches_never() {
    let (mut node, peer) = linked(u64::MAX);
    let slip = |node: &mut SimNode| {
        let effects = node.handle(at(10), Input::Slip { peer, reason: "erred".into() });
        sent_away(&effects).map(str::to_owned)
    };
    assert!((0..8).all(|_| slip(&mut node).is_none()));
    assert_eq!(slip(&mut node).as_deref(), Some("erred"));
    let (mut node, peer) = linked(u64::MAX);
    let effects = node.handle(at(10), Input::Breach { peer, reason: "lied".into() });
    let away_ms = effects.iter().find_map(|effect| match effect {
        Effect::Disconnect { keep_away_ms, .. } => Some(*keep_away_ms),
        _ => None,
    });
    assert_eq!(away_ms, Some(10_000));
}

#[test]
fn a_node_without_room_compares_with_a_peer_all_the_same() {
    let (mut node, peer) = linked(u64::MAX);
    node.handle(at(5), Input::Room(Room::OwnOnly));
    node.frame(at(10), peer, promises(0..1));
    // What it wants of the peer may be long in coming, and the peer may lack what was never told to it.
    let compares = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Send { frame: Frame::Sums { .. }, .. }))
    };
    let audit = || Frame::Audit { sum: Sum(1), events: 1 };
    assert!(!compares(&node.frame(at(1_000), peer, audit())));
    assert!(compares(&node.frame(at(4_500), peer, audit())));
}
