//! Whose clock a node believes.

use roundelay_protocol::batch::{self, Link};
use roundelay_protocol::event::Event;
use roundelay_protocol::frame::{Frame, Head, Hello, Position};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::{Input, Now, Source};
use roundelay_protocol::sign::Signer;
use roundelay_protocol::topic::{Pattern, Topic};

use crate::liars::{WALL_MS, linked};
use crate::node::{SimNode, Stamp};

const YEAR_MS: i64 = 365 * 24 * 3_600_000;
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };

/// A node that met peers whose clocks are so far ahead, in a mesh where it hears of so many nodes that it is not linked
/// with.
fn met(ahead_ms: &[i64], others: u8) -> SimNode {
    let mut node = SimNode::new(1, u64::MAX);
    meet_all(&mut node, ahead_ms, others);
    node
}

fn meet_all(node: &mut SimNode, ahead_ms: &[i64], others: u8) {
    let linked: Vec<(u8, i64)> = (2..).zip(ahead_ms.iter().copied()).collect();
    for (number, ahead_ms) in &linked {
        let peer = meet(node, *number, *ahead_ms);
        let authors = linked.iter().map(|(number, _)| *number).chain((100..).take(others.into()));
        tell(node, peer, authors.map(|number| Stamp::of(number).author()).collect());
    }
}

fn meet(node: &mut SimNode, number: u8, ahead_ms: i64) -> Author {
    let peer = Stamp::of(number).author();
    node.link_ids.insert(peer, number.into());
    node.handle(NOW, Input::LinkUp { peer, link: number.into(), nonce: 1, memory: None });
    let hello = Hello {
        process: number.into(),
        nonce: 2,
        epoch: StoreEpoch(number.into()),
        clock_ms: NOW.wall_ms.saturating_add_signed(ahead_ms),
        interest: Interest::new(vec![Pattern::all()], vec![]),
        memory: None,
    };
    node.frame(NOW, peer, Frame::Hello(hello));
    node.frame(NOW, peer, Frame::Sums { topics: vec![], last: true });
    node.frame(NOW, peer, Frame::Want { topics: vec![], last: true });
    peer
}

/// The peer tells its heads: the records of these nodes.
fn tell(node: &mut SimNode, peer: Author, authors: Vec<Author>) {
    let head = |author: Author| Head {
        log: LogKey { topic: Topic::mesh(), author },
        floor: 0,
        holes_to: 0,
        tips: vec![(1, BatchHash(author.0))],
    };
    let upto = Position { epoch: StoreEpoch(2), arrival: Arrival(1), chain: Chain::default() };
    let heads = authors.into_iter().map(head).collect();
    node.frame(NOW, peer, Frame::Heads { heads, upto: Some(upto), events: 1 });
}

#[test]
fn most_of_a_small_mesh_is_believed() {
    let node = met(&[YEAR_MS, YEAR_MS + 5], 0);
    assert!((node.replica.clock_offset_ms() - YEAR_MS).abs() <= 5);
    assert_eq!(node.replica.clock_disputes(), 0, "it follows them");
}

#[test]
fn two_peers_that_agree_are_not_most_of_a_larger_mesh() {
    let mut node = met(&[YEAR_MS, YEAR_MS], 2);
    assert_eq!(node.replica.clock_offset_ms(), 0);
    assert_eq!(node.replica.clock_disputes(), 2, "which is told");
    // A third one that sees the same day is enough.
    let peer = meet(&mut node, 50, YEAR_MS);
    assert_eq!(node.replica.clock_offset_ms(), 0, "it has not told which nodes there are");
    tell(&mut node, peer, vec![]);
    assert_eq!(node.replica.clock_offset_ms(), YEAR_MS);
}

#[test]
fn a_node_promises_nothing_while_half_of_its_peers_see_another_day() {
    use roundelay_protocol::heartbeat::Silence::ClockDisputed;
    let year_ms = YEAR_MS as u64;
    let (ahead, behind) =
        (Now { wall_ms: NOW.wall_ms + year_ms, ..NOW }, Now { wall_ms: NOW.wall_ms - year_ms, ..NOW });
    let says = |ahead_ms: &[i64], now| met(ahead_ms, 9).replica.heartbeat(now).map(drop);
    assert_eq!(says(&[], ahead), Ok(()), "nobody says that it is wrong");
    assert_eq!(says(&[0, 0, YEAR_MS], NOW), Ok(()));
    assert_eq!(says(&[0, YEAR_MS], NOW), Err(ClockDisputed(1)));
    // The clock was set since they met.
    assert_eq!(says(&[0, 0], ahead), Err(ClockDisputed(2)));
    assert_eq!(says(&[0, 0], behind), Err(ClockDisputed(2)));
    assert_eq!(says(&[YEAR_MS, YEAR_MS], ahead), Ok(()));
}

#[test]
fn peers_that_see_different_days_convince_nobody() {
    for ahead_ms in [[YEAR_MS, -YEAR_MS, 2 * YEAR_MS], [YEAR_MS, 0, -YEAR_MS]] {
        let node = met(&ahead_ms, 0);
        assert_eq!(node.replica.clock_offset_ms(), 0);
        assert!(node.replica.clock_disputes() > 0);
    }
}

/// What another life of the node published at this time of the wall clock turns up at another.
fn is_twin(published_ms: u64, now: Now) -> bool {
    is_twin_by(Hlc::from_ms(published_ms), now)
}

fn is_twin_by(stamp: Hlc, now: Now) -> bool {
    let (mut node, _) = linked(u64::MAX);
    let event = Event { kind: "t".into(), id: "1".into(), source: "s".into(), ..Event::default() };
    let topic = Topic::new("a").unwrap();
    let batch = batch::seal(&Stamp::of(1), &topic, Incarnation(7), Link::default(), stamp, &[event.encode().unwrap()]);
    node.handle(now, Input::Batch { batch, source: Source::Import });
    node.replica.twin().is_some()
}

#[test]
fn a_clock_that_runs_slow_or_is_set_back_makes_no_twin_of_an_earlier_life() {
    const HOUR_MS: u64 = 3_600_000;
    let slow = Now { mono_ms: 1_000, wall_ms: WALL_MS + 920 };
    assert!(!is_twin(WALL_MS - 5, slow));
    assert!(is_twin(WALL_MS + 900, slow));
    let set_back = Now { mono_ms: HOUR_MS + 60_000, wall_ms: WALL_MS + 60_000 };
    assert!(!is_twin(WALL_MS - 5, set_back));
    assert!(is_twin(WALL_MS + 5, set_back));
    // One that was behind at the start and was set right since: what was published before is earlier all the same.
    let set_right = Now { mono_ms: 60_000, wall_ms: WALL_MS + HOUR_MS };
    assert!(!is_twin(WALL_MS + HOUR_MS - 61_000, set_right));
    assert!(is_twin(WALL_MS + HOUR_MS - 59_000, set_right));
}

#[test]
fn what_the_store_held_at_the_start_makes_no_twin_though_the_clock_was_a_year_behind_then() {
    let mut node = SimNode::new(1, u64::MAX);
    // The peers' clocks, which it follows later, are a little behind the one that it had.
    let before = Now { wall_ms: NOW.wall_ms + YEAR_MS as u64 + 5, ..NOW };
    node.publish(before, "a", 1);
    node.sync(before);
    let batch = node.batches().pop().unwrap();
    node.restore(node.copy_disk());
    meet_all(&mut node, &[YEAR_MS, YEAR_MS, YEAR_MS], 0);
    assert_eq!(node.replica.clock_offset_ms(), YEAR_MS);
    node.handle(NOW, Input::Batch { batch, source: Source::Import });
    assert_eq!(node.replica.twin(), None);
}

#[test]
fn stamps_that_follow_those_of_a_clock_that_is_ahead_make_no_twin_of_an_earlier_life() {
    let now = Now { mono_ms: 120_000, wall_ms: WALL_MS + 120_000 };
    let carried = |ms: u64| Hlc(Hlc::from_ms(WALL_MS + ms).0 + 1);
    assert!(!is_twin_by(carried(250), now));
    assert!(!is_twin_by(carried(59_000), now));
    assert!(is_twin(WALL_MS + 250, now), "by its own clock it was stamped after our start");
    assert!(is_twin_by(carried(61_000), now), "no clock is believed to have been ahead so far");
}
