//! Peers that promise what they do not have, authors that cheat or flood, and what a replica makes of them.

use roundelay_protocol::batch::{self, Link, VerifiedBatch};
use roundelay_protocol::event::Event;
use roundelay_protocol::frame::{Frame, Head, Hello, Missing, Position};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::{Effect, Input, MissingReason, Notice, Now, Source};
use roundelay_protocol::sign::Signer;
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::wants::{MAX_WANTS_OF_PEER, ORPHAN_MS};

use crate::SimMesh;
use crate::node::{SimNode, Stamp};

pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

pub(crate) fn at(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ms: WALL_MS + mono_ms }
}

/// A node with a link to a peer that has said hello and told that it has nothing.
pub(crate) fn linked(cap_bytes: u64) -> (SimNode, Author) {
    linked_to(SimNode::new(1, cap_bytes))
}

pub(crate) fn linked_to(mut node: SimNode) -> (SimNode, Author) {
    let peer = link_up(&mut node, 2);
    (node, peer)
}

/// The peer of this number is linked, says hello, and tells that it has nothing.
pub(crate) fn link_up(node: &mut SimNode, number: u8) -> Author {
    let (peer, link) = (Stamp::of(number).author(), u64::from(number) - 1);
    node.link_ids.insert(peer, link);
    node.handle(at(0), Input::LinkUp { peer, link, nonce: 1, memory: None });
    node.frame(at(0), peer, hello(number));
    node.frame(at(0), peer, Frame::Sums { topics: vec![], last: true });
    node.frame(at(0), peer, Frame::Want { topics: vec![], last: true });
    peer
}

pub(crate) fn hello(number: u8) -> Frame {
    let interest = Interest::new(vec![Pattern::all()], vec![]);
    let (process, epoch) = (number.into(), StoreEpoch(number.into()));
    Frame::Hello(Hello { process, nonce: 2, epoch, clock_ms: WALL_MS, interest, memory: None })
}

/// The heads of logs that end with these batches.
pub(crate) fn heads_of(batches: &[&VerifiedBatch]) -> Frame {
    let head = |batch: &&VerifiedBatch| Head {
        log: LogKey { topic: batch.header().topic.clone(), author: batch.header().author },
        floor: 0,
        holes_to: 0,
        tips: vec![(batch.tip().seq, batch.hash())],
    };
    let upto = Position { epoch: StoreEpoch(2), arrival: Arrival(1), chain: Chain::default() };
    Frame::Heads { heads: batches.iter().map(head).collect(), upto: Some(upto), events: 1 }
}

pub(crate) fn some_hash(number: u64) -> BatchHash {
    BatchHash(*blake3::hash(&number.to_be_bytes()).as_bytes())
}

/// Heads of logs that nobody ever began.
pub(crate) fn promises(numbers: std::ops::Range<u64>) -> Frame {
    let head = |number| Head {
        log: LogKey { topic: Topic::new("promised").unwrap(), author: Author(some_hash(number).0) },
        floor: 0,
        holes_to: 0,
        tips: vec![(1, some_hash(number))],
    };
    let upto = Position { epoch: StoreEpoch(2), arrival: Arrival(1), chain: Chain::default() };
    Frame::Heads { heads: numbers.map(head).collect(), upto: Some(upto), events: 1 }
}

pub(crate) fn pulls(effects: &[Effect]) -> Vec<(u64, u64)> {
    let pull = |effect: &Effect| match effect {
        Effect::Send { frame: Frame::Pull { id, ranges, .. }, .. } => Some((*id, ranges.len() as u64)),
        _ => None,
    };
    effects.iter().filter_map(pull).collect()
}

pub(crate) fn sent_away(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Disconnect { reason, .. } => Some(reason.as_str()),
        _ => None,
    })
}

pub(crate) fn wanted(node: &SimNode) -> usize {
    node.replica.missing().iter().filter(|range| range.reason == MissingReason::NotFetched).count()
}

#[test]
fn what_only_a_peer_that_is_gone_spoke_of_is_given_up() {
    let (mut node, peer) = linked(u64::MAX);
    node.frame(at(10), peer, promises(0..100));
    assert_eq!(wanted(&node), 100);
    node.handle(at(20), Input::LinkDown { peer, link: 1 });
    node.handle(at(5_100), Input::Tick);
    assert_eq!(wanted(&node), 100, "it may come back");
    node.handle(at(5_100 + ORPHAN_MS + 5_000), Input::Tick);
    assert_eq!(wanted(&node), 0);
}

#[test]
fn one_peer_has_us_want_no_more_than_its_share() {
    let (mut node, peer) = linked(u64::MAX);
    for page in 0..50 {
        node.frame(at(10 + page), peer, promises(page * 2_000..(page + 1) * 2_000));
    }
    assert_eq!(wanted(&node), MAX_WANTS_OF_PEER);
    // It is not in sync with that peer, and does not say so to anybody who waits.
    let effects = node.handle(at(100), Input::Probe { id: 1 });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Probed { .. })));
}

#[test]
fn a_peer_that_answers_pulls_with_nothing_is_sent_away_and_its_promises_are_forgotten() {
    let (mut node, peer) = linked(u64::MAX);
    let mut effects = node.frame(at(10), peer, promises(0..1_000));
    let mut now_ms = 20;
    let reason = loop {
        let (id, served) = pulls(&effects)[0];
        now_ms += 10;
        effects = node.frame(at(now_ms), peer, Frame::PullEnd { id, served, missing: vec![] });
        if let Some(reason) = sent_away(&effects) {
            break reason.to_owned();
        }
        assert!(now_ms < 60_000, "it is asked for ever");
    };
    assert_eq!(reason, "announces events that it does not have");
    assert_eq!(wanted(&node), 0);
    assert_eq!(node.replica.kept_away(now_ms).len(), 1);
}

#[test]
fn a_peer_that_never_answers_pulls_is_sent_away() {
    let (mut node, peer) = linked(u64::MAX);
    node.frame(at(10), peer, promises(0..1_000));
    let mut now_ms = 10;
    let reason = loop {
        now_ms += 1_000;
        let effects = node.handle(at(now_ms), Input::Tick);
        if let Some(reason) = sent_away(&effects) {
            break reason.to_owned();
        }
        assert!(now_ms < 200_000, "it is waited for for ever");
    };
    assert_eq!(reason, "does not answer pulls");
}

#[test]
fn what_one_peer_says_is_gone_is_asked_of_another_before_it_is_a_hole() {
    let (mut node, _) = linked(u64::MAX);
    link_up(&mut node, 3);
    let author = Stamp::of(9);
    let first = seal(&author, 1, Link::default(), "first");
    let second = seal(&author, 1, after(&first), "second");
    let asked = |effects: &[Effect]| {
        let pull = |effect: &Effect| match effect {
            Effect::Send { peer, frame: Frame::Pull { id, .. } } => Some((*peer, *id)),
            _ => None,
        };
        effects.iter().find_map(pull)
    };
    let mut effects = Vec::new();
    for number in [2, 3] {
        effects.extend(node.frame(at(10), Stamp::of(number).author(), heads_of(&[&second])));
    }
    let (liar, id) = asked(&effects).expect("a pull");
    node.frame(at(20), liar, Frame::Batches { id, batches: vec![second.bytes().clone()] });
    let gone = vec![Missing { range: 0, from: 1, to: 1 }];
    let effects = node.frame(at(20), liar, Frame::PullEnd { id, served: 1, missing: gone });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Notice(Notice::Hole { .. }))));
    let (other, id) = asked(&effects).expect("a pull from the other peer");
    assert_ne!(other, liar);
    node.frame(at(30), other, Frame::Batches { id, batches: vec![first.bytes().clone()] });
    node.frame(at(30), other, Frame::PullEnd { id, served: 1, missing: vec![] });
    node.sync(at(40));
    assert_eq!((node.contents().len(), node.replica.missing().len()), (2, 0));
}

#[test]
fn heads_that_were_not_asked_for_with_sums_are_not_told() {
    let (mut node, peer) = linked(u64::MAX);
    node.publish(at(10), "a", 1);
    node.sync(at(20));
    let told = |effects: &[Effect]| {
        let heads = effects.iter().filter_map(|effect| match effect {
            Effect::Send { frame: Frame::Heads { heads, .. }, .. } => Some(heads.len()),
            _ => None,
        });
        heads.sum::<usize>()
    };
    assert_eq!(told(&node.handle(at(1_000), Input::Tick)), 1, "what changed is announced once");
    node.frame(at(2_000), peer, Frame::Want { topics: vec![Topic::new("a").unwrap()], last: true });
    assert_eq!(told(&node.handle(at(3_000), Input::Tick)), 0);
}

#[test]
fn a_full_node_asks_what_peers_hold_of_its_events_once_in_a_while_however_often_they_say() {
    let (mut node, peer) = linked(4_000);
    for round in 0..50 {
        node.publish(at(10 + round), "a", 5);
        node.sync(at(10 + round));
        node.handle(at(10 + round), Input::Tick);
    }
    assert!(node.replica.is_full());
    let first = node.batches()[0].clone();
    let log = LogKey { topic: Topic::new("a").unwrap(), author: node.author() };
    let head = Head { log, floor: 0, holes_to: 0, tips: vec![(first.tip().seq, first.hash())] };
    let mut asked = 0;
    for round in 0..500 {
        let heads = Frame::Heads { heads: vec![head.clone()], upto: None, events: 5 };
        let mut effects = node.frame(at(100 + round), peer, heads);
        effects.extend(node.publish(at(100 + round), "a", 5));
        effects.extend(node.sync(at(100 + round)));
        effects.extend(node.handle(at(100 + round), Input::Tick));
        let is_question = |effect: &&Effect| matches!(effect, Effect::Send { frame: Frame::Want { .. }, .. });
        asked += effects.iter().filter(is_question).count();
    }
    assert!(asked <= 1, "{asked} questions in half a second");
}

pub(crate) fn seal(signer: &Stamp, incarnation: u64, link: Link, id: &str) -> VerifiedBatch {
    let event = Event { kind: "t".into(), id: id.into(), source: "s".into(), ..Event::default() };
    let stamp = Hlc(Hlc::from_ms(WALL_MS).0 + link.seq + 1);
    let topic = Topic::new("a").unwrap();
    batch::seal(signer, &topic, Incarnation(incarnation), link, stamp, &[event.encode().unwrap()])
}

pub(crate) fn after(batch: &VerifiedBatch) -> Link {
    Link { seq: batch.tip().seq, parent: batch.hash() }
}

pub(crate) fn proofs(effects: &[Effect]) -> Vec<[BatchHash; 2]> {
    let proof = |effect: &Effect| match effect {
        Effect::Notice(Notice::Cheat { batches, .. }) => Some(*batches),
        _ => None,
    };
    effects.iter().filter_map(proof).collect()
}

#[test]
fn two_batches_of_one_incarnation_upon_one_parent_prove_a_cheat_once() {
    let author = Stamp::of(9);
    let first = seal(&author, 1, Link::default(), "first");
    let (one, other) = (seal(&author, 1, after(&first), "one"), seal(&author, 1, after(&first), "other"));
    let third = seal(&author, 1, after(&first), "third");
    // Whether all is on the disk when the second comes, or on its way.
    for synced in [false, true] {
        let mut node = SimNode::new(1, u64::MAX);
        let mut effects = Vec::new();
        for batch in [&first, &one, &other, &third] {
            let source = Source::Gossip(Stamp::of(2).author());
            effects.extend(node.handle(at(10), Input::Batch { batch: batch.clone(), source }));
            if synced {
                effects.extend(node.sync(at(20)));
            }
        }
        effects.extend(node.sync(at(30)));
        assert_eq!(proofs(&effects), [[one.hash(), other.hash()]], "synced: {synced}");
        effects.extend(node.sync(at(40)));
        assert_eq!(node.contents().len(), 4, "all lines are kept");
    }
}

#[test]
fn a_restored_author_is_no_cheat() {
    let author = Stamp::of(9);
    let first = seal(&author, 1, Link::default(), "first");
    let mut node = SimNode::new(1, u64::MAX);
    let mut effects = Vec::new();
    for batch in [first.clone(), seal(&author, 1, after(&first), "one"), seal(&author, 2, after(&first), "restored")] {
        let source = Source::Gossip(Stamp::of(2).author());
        effects.extend(node.handle(at(10), Input::Batch { batch, source }));
        effects.extend(node.sync(at(20)));
    }
    assert!(proofs(&effects).is_empty());
    assert_eq!(node.contents().len(), 3);
}

#[test]
fn a_second_line_is_told_of_once_while_the_disk_is_slow() {
    let author = Stamp::of(9);
    let first = seal(&author, 1, Link::default(), "first");
    let (one, second) = (seal(&author, 1, after(&first), "one"), seal(&author, 2, after(&first), "second"));
    let more = [seal(&author, 1, after(&one), "one more"), seal(&author, 2, after(&second), "second more")];
    let mut node = SimNode::new(1, u64::MAX);
    let source = Source::Gossip(Stamp::of(2).author());
    node.handle(at(10), Input::Batch { batch: first, source });
    node.sync(at(20));
    let mut effects = Vec::new();
    for batch in [vec![one, second], more.to_vec()].concat() {
        effects.extend(node.handle(at(30), Input::Batch { batch, source }));
    }
    effects.extend(node.sync(at(40)));
    let told = effects.iter().filter(|effect| matches!(effect, Effect::Notice(Notice::Forked { tips: 2, .. })));
    assert_eq!((told.count(), node.contents().len()), (1, 5));
}

#[test]
fn a_flood_is_pruned_before_anybody_else_s_events() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, u64::MAX), SimNode::new(3, 60_000)]);
    mesh.link(0, 2);
    mesh.link(1, 2);
    for round in 0..200 {
        // One author speaks now and then, in two topics; the other never stops.
        if round % 20 == 0 {
            mesh.publish(0, "quiet", 5);
        }
        mesh.publish(1, "loud", 10);
        if round % 20 == 0 {
            mesh.publish(1, "rare", 1);
        }
        mesh.run(20);
    }
    mesh.run(5_000);
    let kept = |topic: &str| mesh.nodes[2].contents().iter().filter(|event| event.1 == topic).count();
    assert_eq!((kept("quiet"), kept("rare")), (50, 10), "none of these is lost");
    assert!((1..1_900).contains(&kept("loud")), "{} events of the flood are kept", kept("loud"));
    assert!(mesh.nodes[2].replica.batch_bytes() <= 60_000);
}
