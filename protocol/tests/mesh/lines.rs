//! Logs of several lines: what comes of the second one, whatever becomes of the first.

use roundelay_protocol::batch::{Link, VerifiedBatch};
use roundelay_protocol::frame::{Frame, Head, Position};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::{Arrival, Chain, StoreEpoch};
use roundelay_protocol::replica::{Input, MissingReason, Source};
use roundelay_protocol::topic::Topic;

use crate::liars::{after, at, linked, seal};
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
