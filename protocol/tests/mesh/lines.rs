//! Logs of several lines: what comes of the second one, whatever becomes of the first.

use roundelay_protocol::batch::{Link, VerifiedBatch};
use roundelay_protocol::frame::{Frame, Head, Missing, Position};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, StoreEpoch};
use roundelay_protocol::replica::{Effect, Input, MissingReason, Room, Source};
use roundelay_protocol::topic::Topic;

use crate::liars::{after, at, link_up, linked, seal};
use crate::node::{SimNode, Stamp};

/// A line of one event a batch. Lines of equal length have equal stamps.
fn line(author: &Stamp, incarnation: u64, length: usize) -> Vec<VerifiedBatch> {
    let mut line: Vec<VerifiedBatch> = Vec::new();
    for _ in 0..length {
        let link = line.last().map_or(Link::default(), after);
        line.push(seal(author, incarnation, link, "event"));
    }
    line
}

/// Up to where the node lacks something that it wants.
fn wanted_upto(node: &SimNode) -> Option<u64> {
    let missing = node.replica.missing();
    missing.iter().filter(|range| range.reason == MissingReason::NotFetched).map(|range| range.to).max()
}

/// The heads of a peer that has the log of these batches, up to those that it ends with.
fn told(ends: &[&VerifiedBatch], holes_to: u64) -> Frame {
    let log = LogKey { topic: Topic::new("a").unwrap(), author: ends[0].header().author };
    let mut tips: Vec<(u64, BatchHash)> = ends.iter().map(|end| (end.tip().seq, end.hash())).collect();
    tips.sort();
    let upto = Position { epoch: StoreEpoch(2), arrival: Arrival(4), chain: Chain::default() };
    Frame::Heads { heads: vec![Head { log, floor: 0, holes_to, tips }], upto: Some(upto), events: 5 }
}

/// What a peer that has these batches, and lacks a stretch of their log, answers to the pulls among the effects.
fn answer(
    node: &mut SimNode,
    now_ms: u64,
    peer: Author,
    effects: Vec<Effect>,
    has: &[VerifiedBatch],
    lacks: Option<(u64, u64)>,
) -> Vec<Effect> {
    let mut out = Vec::new();
    for effect in effects {
        let Effect::Send { peer: to, frame: Frame::Pull { id, ranges, .. } } = effect else { continue };
        assert_eq!((to, ranges.len()), (peer, 1));
        let (after, upto) = (ranges[0].after, ranges[0].upto);
        let within = |batch: &&VerifiedBatch| (after + 1..=upto).contains(&batch.tip().seq);
        let mut found: Vec<_> = has.iter().filter(within).collect();
        found.sort_by_key(|batch| (batch.tip().seq, batch.hash()));
        let batches = found.iter().map(|batch| batch.bytes().clone()).collect();
        let missing = lacks.map(|(from, to)| (from.max(after + 1), to.min(upto))).filter(|(from, to)| from <= to);
        let missing = missing.map(|(from, to)| Missing { range: 0, from, to }).into_iter().collect();
        out.extend(node.frame(at(now_ms), peer, Frame::Batches { id, batches }));
        out.extend(node.frame(at(now_ms), peer, Frame::PullEnd { id, served: 1, missing }));
    }
    out
}

/// Lets some seconds pass, in which the peer answers.
fn run(
    node: &mut SimNode,
    from_ms: u64,
    peer: Author,
    mut effects: Vec<Effect>,
    has: &[VerifiedBatch],
    lacks: Option<(u64, u64)>,
) {
    for now_ms in (from_ms..from_ms + 5_000).step_by(20) {
        effects = answer(node, now_ms, peer, effects, has, lacks);
        effects.extend(node.sync(at(now_ms)));
        effects.extend(node.handle(at(now_ms), Input::Tick));
    }
}

/// A node that has pruned the first events of an author's only line, its peer, that line, and the floor.
fn pruned(author: &Stamp) -> (SimNode, Author, Vec<VerifiedBatch>, usize) {
    let (mut node, peer) = linked(6_000);
    let line = line(author, 1, 40);
    for batch in line.iter().cloned() {
        node.handle(at(10), Input::Batch { batch, source: Source::Import });
    }
    for tick in 0..100 {
        node.sync(at(20 + tick));
        node.handle(at(20 + tick), Input::Tick);
    }
    let floor = node.replica.logs().next().unwrap().floor as usize;
    assert!((2..39).contains(&floor));
    (node, peer, line, floor)
}

fn has_tip(node: &SimNode, batch: &VerifiedBatch) -> bool {
    node.replica.logs().any(|record| record.tips.iter().any(|tip| tip.hash == batch.hash()))
}

#[test]
fn what_came_by_gossip_and_by_a_pull_is_wanted_until_it_is_durable() {
    let author = Stamp::of(9);
    let (mut node, peer) = linked(u64::MAX);
    let first = line(&author, 1, 2);
    let second = seal(&author, 2, after(&first[0]), "second");
    let third = seal(&author, 2, after(&second), "third");
    for batch in first.clone() {
        node.handle(at(10), Input::Batch { batch, source: Source::Import });
    }
    node.sync(at(20));
    // Gossip brings the end of another line, the peer says that it has it, and a pull brings all of it.
    node.handle(at(30), Input::Batch { batch: third.clone(), source: Source::Gossip(peer) });
    let log = LogKey { topic: Topic::new("a").unwrap(), author: first[0].header().author };
    let tips = vec![(2, first[1].hash()), (3, third.hash())];
    let upto = Position { epoch: StoreEpoch(2), arrival: Arrival(4), chain: Chain::default() };
    let head = Head { log, floor: 0, holes_to: 0, tips };
    node.frame(at(40), peer, Frame::Heads { heads: vec![head], upto: Some(upto), events: 5 });
    let batches = vec![second.bytes().clone(), third.bytes().clone()];
    node.frame(at(50), peer, Frame::Batches { id: 1, batches });
    assert_eq!(wanted_upto(&node), Some(3), "it is on its way to the disk");
    node.sync(at(60));
    assert_eq!(wanted_upto(&node), None);
    assert_eq!(node.contents().len(), 4);
}

#[test]
fn a_peer_is_remembered_up_to_what_is_here_of_its_second_lines_too() {
    let author = Stamp::of(9);
    let (mut node, peer) = linked(u64::MAX);
    let (one, other) = (line(&author, 1, 3), line(&author, 2, 2));
    for batch in one.iter().cloned() {
        node.handle(at(10), Input::Batch { batch, source: Source::Import });
    }
    node.sync(at(20));
    // The store has to be asked whether the end of the other line is here.
    node.frame(at(30), peer, told(&[&one[2], &other[1]], 0));
    node.handle(at(40), Input::LinkDown { peer, link: 1 });
    node.sync(at(50));
    assert_eq!(node.memory_of(&peer), None);
}

#[test]
fn a_line_whose_beginning_nobody_has_goes_on_above_the_floor() {
    let author = Stamp::of(9);
    let (mut node, peer) = linked(6_000);
    let (one, other) = (line(&author, 1, 40), line(&author, 2, 40));
    // Of the other line everything came but its first batch, and whoever has that is gone.
    for batch in one.iter().chain(&other[1..]).cloned() {
        node.handle(at(10), Input::Batch { batch, source: Source::Gossip(peer) });
    }
    node.handle(at(20), Input::LinkDown { peer, link: 1 });
    assert_eq!(wanted_upto(&node), Some(1));
    // The store is above its cap: the beginning of the log goes.
    for tick in 0..100 {
        node.sync(at(30 + tick));
        node.handle(at(30 + tick), Input::Tick);
    }
    let record = node.replica.logs().next().unwrap();
    assert!(record.floor > 0);
    let ends: Vec<_> = record.tips.iter().map(|tip| tip.hash).collect();
    assert!(ends.contains(&one[39].hash()) && ends.contains(&other[39].hash()), "{record:?}");
    assert_eq!(wanted_upto(&node), None);
}

#[test]
fn what_found_no_room_is_asked_for_again_once_there_is() {
    let author = Stamp::of(9);
    let (mut node, peer, one, floor) = pruned(&author);
    // Another line ends right above the floor: what it goes on from has to be seen, to know that it counts as pruned.
    let other = line(&author, 2, floor + 1);
    let has: Vec<_> = one.iter().chain(&other).cloned().collect();
    let asked = node.frame(at(200), peer, told(&[&one[39], &other[floor]], 0));
    let asked = answer(&mut node, 210, peer, asked, &has, None);
    // The answer finds a disk without room.
    node.handle(at(220), Input::Room(Room::OwnOnly));
    answer(&mut node, 230, peer, asked, &has, None);
    assert!(!has_tip(&node, &other[floor]));
    let effects = node.handle(at(240), Input::Room(Room::Ample));
    run(&mut node, 250, peer, effects, &has, None);
    assert!(has_tip(&node, &other[floor]));
    assert_eq!(wanted_upto(&node), None);
}

#[test]
fn a_line_whose_beginning_nobody_has_does_not_stop_another_above_a_hole() {
    let author = Stamp::of(9);
    let (mut node, peer) = linked(u64::MAX);
    let (one, other) = (line(&author, 1, 40), line(&author, 2, 2));
    for batch in one[..2].iter().cloned() {
        node.handle(at(10), Input::Batch { batch, source: Source::Import });
    }
    node.sync(at(20));
    // What a second line goes on from is gone with the only one who had it.
    let gone = link_up(&mut node, 3);
    node.handle(at(30), Input::Batch { batch: other[1].clone(), source: Source::Gossip(gone) });
    node.handle(at(40), Input::LinkDown { peer: gone, link: 2 });
    let has: Vec<_> = one[..2].iter().chain(&one[30..]).cloned().collect();
    let effects = node.frame(at(50), peer, told(&[&one[39]], 30));
    run(&mut node, 60, peer, effects, &has, Some((3, 30)));
    assert!(has_tip(&node, &one[39]));
    let record = node.replica.logs().next().unwrap();
    assert_eq!(record.holes.iter().map(|hole| (hole.from, hole.to)).collect::<Vec<_>>(), [(3, 30)]);
}

#[test]
fn what_was_asked_in_vain_below_the_floor_does_not_stop_what_follows_it_later() {
    let author = Stamp::of(9);
    let (mut node, peer, one, floor) = pruned(&author);
    let other = line(&author, 2, floor + 1);
    let (below, above) = (&other[floor - 1], &other[floor]);
    let has: Vec<_> = one.iter().chain([above]).cloned().collect();
    let effects = node.frame(at(200), peer, told(&[&one[39], below], 0));
    answer(&mut node, 210, peer, effects, &has, Some((floor as u64, floor as u64)));
    let effects = node.frame(at(300), peer, told(&[&one[39], above], 0));
    run(&mut node, 310, peer, effects, &has, None);
    assert!(has_tip(&node, above));
}
