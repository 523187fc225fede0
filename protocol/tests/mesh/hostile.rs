//! What a peer, an author or bad luck can do to a replica. Each test states what must hold all the same.

use roundelay_protocol::frame::{Frame, Head, Hello};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::{BatchHash, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::{Input, Now, Room, Source};
use roundelay_protocol::topic::{Pattern, Topic};

use crate::SimMesh;
use crate::node::SimNode;

#[test]
fn a_head_at_the_end_of_all_numbers_does_no_harm() {
    let mut mesh = SimMesh::new(2);
    mesh.link(0, 1);
    mesh.publish(0, "a", 3);
    mesh.run(2_000);
    let author = mesh.nodes[1].author();
    for topic in ["x", "y"] {
        let log = LogKey { topic: Topic::new(topic).unwrap(), author };
        let head = Head { log, floor: 0, holes_to: 0, tips: vec![(u64::MAX, BatchHash([7; 32]))] };
        let now = mesh.now();
        let heads = Frame::Heads { heads: vec![head], upto: None, events: u64::MAX };
        drop(mesh.nodes[0].frame(now, author, heads));
    }
    assert_eq!(mesh.nodes[0].replica.links().len(), 1);
}

#[test]
fn one_wrong_clock_among_two_peers_does_not_move_ours() {
    const TEN_YEARS_MS: u64 = 10 * 365 * 24 * 3_600_000;
    let mut node = SimNode::new(1, u64::MAX);
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    for (number, ahead_ms) in [(2, 0), (3, TEN_YEARS_MS)] {
        let peer = SimNode::new(number, u64::MAX).author();
        node.link_ids.insert(peer, u64::from(number));
        node.handle(now, Input::LinkUp { peer, link: u64::from(number), nonce: 1, memory: None });
        let hello = Hello {
            process: u64::from(number),
            nonce: 2,
            epoch: StoreEpoch(9),
            clock_ms: now.wall_ms + ahead_ms,
            interest: Interest::new(vec![Pattern::all()], vec![]),
            memory: None,
        };
        drop(node.frame(now, peer, Frame::Hello(hello)));
    }
    assert_eq!(node.replica.clock_offset_ms(), 0);
}

#[test]
fn a_probe_is_not_answered_before_what_gossip_brought_is_durable() {
    let mut mesh = SimMesh::new(2);
    mesh.link(0, 1);
    mesh.run(2_000);
    mesh.publish(0, "a", 1);
    let now = mesh.now();
    // Gossip brings it to the other node, whose disk is slow; announcement and probe follow.
    let effects = mesh.nodes[0].sync(now);
    mesh.carry_out(0, effects);
    mesh.input(0, Input::Probe { id: 1 });
    for _ in 0..20 {
        mesh.now_ms += 10;
        mesh.input(0, Input::Tick);
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(frame) = mesh.frames.get_mut(&(from, to)).and_then(|frames| frames.pop_front()) {
                let (peer, now) = (mesh.nodes[from].author(), mesh.now());
                let effects = mesh.nodes[to].frame(now, peer, frame);
                mesh.carry_out(to, effects);
            }
        }
    }
    assert_eq!(mesh.nodes[1].contents().len(), 0);
    assert!(mesh.probed.is_empty(), "nothing is durable at the other node");
}

#[test]
fn many_probes_while_there_is_much_to_fetch_are_no_breach() {
    let mut mesh = SimMesh::new(2);
    mesh.gossip_works = false;
    for _ in 0..40 {
        mesh.publish(0, "a", 1_000);
        mesh.run(10);
    }
    mesh.link(0, 1);
    // Somebody asks "wait --converged" with a short patience, again and again.
    for id in 1..=80 {
        mesh.input(0, Input::Probe { id });
        mesh.run(10);
    }
    mesh.run(10_000);
    mesh.assert_converged();
}

#[test]
fn a_log_that_a_peer_pruned_does_not_keep_a_newcomer_out_of_sync() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 20_000), SimNode::new(3, u64::MAX)]);
    mesh.link(0, 1);
    for _ in 0..10 {
        mesh.publish(0, "old", 5);
        mesh.run(1_000);
    }
    // As many topics of the same size that nothing is left of a fair share but last batches.
    for topic in 0..30 {
        for _ in 0..5 {
            mesh.publish(0, &format!("new.{topic}"), 5);
            mesh.run(20);
        }
    }
    mesh.run(20_000);
    mesh.cut(0, 1);
    // The last batch of a log stays, as the proof of its head.
    let kept = mesh.nodes[1].contents().iter().filter(|event| event.1 == "old").count();
    assert!((5..=15).contains(&kept), "{kept} of 50 events are kept");
    mesh.link(1, 2);
    mesh.run(60_000);
    assert_eq!(mesh.nodes[2].digests(), mesh.nodes[1].digests());
    assert!(mesh.nodes[2].replica.links().iter().all(|link| link.in_sync));
}

#[test]
fn the_tip_of_a_second_line_is_not_lost_in_a_hole_of_the_first() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 20_000), SimNode::new(3, u64::MAX)]);
    mesh.link(0, 1);
    for _ in 0..10 {
        mesh.publish(0, "a", 1);
        mesh.run(20);
    }
    let old = mesh.nodes[0].copy_disk();
    for _ in 0..100 {
        mesh.publish(0, "a", 5);
        mesh.run(20);
    }
    mesh.run(20_000);
    mesh.cut(0, 1);
    mesh.link(1, 2);
    mesh.run(20_000);
    assert_eq!(mesh.nodes[2].replica.missing().len(), 1, "what the other pruned");
    // The author comes back from an old copy, and goes on below the hole's end.
    mesh.nodes[0].restore(old);
    for _ in 0..5 {
        mesh.publish(0, "a", 1);
        mesh.run(20);
    }
    mesh.link(0, 2);
    mesh.run(30_000);
    mesh.publish(0, "a", 1);
    mesh.run(30_000);
    assert_eq!(mesh.nodes[2].digests(), mesh.nodes[0].digests());
    let tips = |node: usize| mesh.nodes[node].replica.logs().map(|log| log.tips.len()).collect::<Vec<_>>();
    assert_eq!((tips(0), tips(2)), (vec![2], vec![2]), "two lines on both");
}

#[test]
fn a_fork_below_a_floor_reaches_the_one_who_pruned() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 20_000)]);
    mesh.link(0, 1);
    for _ in 0..10 {
        mesh.publish(0, "a", 1);
        mesh.run(20);
    }
    let old = mesh.nodes[0].copy_disk();
    for _ in 0..100 {
        mesh.publish(0, "a", 5);
        mesh.run(20);
    }
    mesh.run(20_000);
    mesh.cut(0, 1);
    mesh.nodes[0].restore(old);
    mesh.publish(0, "a", 1);
    mesh.run(1_000);
    mesh.link(0, 1);
    mesh.run(60_000);
    let new: Vec<_> = mesh.nodes[0].contents().into_iter().filter(|event| event.4.starts_with("1-2-")).collect();
    assert_eq!(new.len(), 1);
    assert!(mesh.nodes[1].contents().contains(&new[0]), "a new event of the restored author");
}

#[test]
fn a_deep_fork_is_found_while_its_author_publishes() {
    let mut mesh = SimMesh::new(3);
    mesh.link(0, 1);
    for _ in 0..50 {
        mesh.publish(0, "a", 1);
        mesh.run(10);
    }
    let old = mesh.nodes[0].copy_disk();
    for _ in 0..300 {
        mesh.publish(0, "a", 1);
        mesh.run(10);
    }
    mesh.run(1_000);
    mesh.cut(0, 1);
    mesh.nodes[0].restore(old);
    for _ in 0..400 {
        mesh.publish(0, "a", 1);
        mesh.run(10);
    }
    mesh.link(0, 2);
    mesh.run(3_000);
    mesh.link(1, 2);
    for _ in 0..1_000 {
        mesh.publish(0, "a", 1);
        mesh.run(10);
    }
    let lost: Vec<_> = mesh.nodes[1].contents().difference(&mesh.nodes[2].contents()).cloned().collect();
    assert!(lost.is_empty(), "after ten seconds {} events of the old line are still away", lost.len());
}

#[test]
fn slow_writes_do_not_make_pruning_remove_more_than_its_share() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 100_000)]);
    mesh.link(0, 1);
    mesh.run(1_000);
    for round in 0..600 {
        mesh.publish(0, "a", 5);
        let now = mesh.now();
        let effects = mesh.nodes[0].sync(now);
        mesh.carry_out(0, effects);
        // The other disk is slow: fifty writes are under way at a time.
        if round % 50 == 49 {
            mesh.run(10);
        }
    }
    mesh.run(5_000);
    let kept = mesh.nodes[1].replica.batch_bytes();
    assert!((80_000..=100_000).contains(&kept), "{kept} of 100,000 bytes are used");
}

#[test]
fn a_batch_that_somebody_stripped_does_not_shut_the_whole_one_out() {
    let mut mesh = SimMesh::new(1);
    mesh.publish(0, "a", 3);
    mesh.run(100);
    let whole = mesh.nodes[0].batches().remove(0);
    let stripped = strip(&whole);
    let mut node = SimNode::new(2, u64::MAX);
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let from = mesh.nodes[0].author();
    for batch in [stripped, whole] {
        node.handle(now, Input::Batch { batch, source: Source::Gossip(from) });
        node.sync(now);
    }
    assert_eq!(node.contents().len(), 3);
}

/// What any peer can make of a batch: it verifies, and has no event.
pub(crate) fn strip(whole: &roundelay_protocol::batch::VerifiedBatch) -> roundelay_protocol::batch::VerifiedBatch {
    let body_len = whole.header().body_len as usize;
    let bytes = whole.bytes();
    let (head, body) = bytes.split_at(bytes.len() - body_len);
    let mut stripped = head.to_vec();
    let mut rest = body;
    let size = body.len() / whole.header().count as usize;
    while !rest.is_empty() {
        // The events of the test are of one size.
        let (item, more) = rest.split_at(size);
        stripped.extend_from_slice(&[0x58, 32]);
        stripped.extend_from_slice(blake3::hash(item).as_bytes());
        rest = more;
    }
    let parsed = roundelay_protocol::batch::ParsedBatch::parse(stripped.into()).unwrap();
    parsed.verify(&crate::node::StampVerifier).unwrap()
}

#[test]
fn many_logs_of_one_batch_do_not_fill_a_store_for_ever() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 20_000)]);
    mesh.link(0, 1);
    for order in 0..200 {
        mesh.publish(0, &format!("orders.{order}"), 1);
        mesh.run(20);
    }
    mesh.run(10_000);
    mesh.publish(0, "news", 1);
    mesh.publish(1, "reply", 1);
    mesh.run(10_000);
    assert_eq!(mesh.nodes[1].refused, 0, "the oldest events of others go first");
    assert!(mesh.nodes[1].contents().iter().any(|event| event.1 == "news"));
}

#[test]
fn one_wrong_clock_among_three_peers_does_not_move_ours() {
    let mut node = SimNode::new(1, u64::MAX);
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    for (number, clock_ms) in [(2, now.wall_ms), (3, u64::MAX), (4, now.wall_ms)] {
        let peer = SimNode::new(number, u64::MAX).author();
        node.link_ids.insert(peer, u64::from(number));
        node.handle(now, Input::LinkUp { peer, link: u64::from(number), nonce: 1, memory: None });
        let interest = Interest::new(vec![Pattern::all()], vec![]);
        let hello = Hello { process: 1, nonce: 2, epoch: StoreEpoch(9), clock_ms, interest, memory: None };
        drop(node.frame(now, peer, Frame::Hello(hello)));
    }
    assert_eq!(node.replica.clock_offset_ms(), 0);
}

#[test]
fn a_peer_that_prunes_does_not_hold_up_one_that_has_all() {
    for seed in 1..12 {
        let nodes = vec![SimNode::new(1, u64::MAX), SimNode::new(2, 30_000), SimNode::new(3, u64::MAX)];
        let mut mesh = SimMesh::of(nodes);
        mesh.rough = seed * 0x9e37_79b9;
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            mesh.link(a, b);
        }
        for _ in 0..3 {
            for _ in 0..400 {
                mesh.publish(0, "a", 4);
                mesh.run(10);
            }
            mesh.run(20_000);
            let (has, all) = (mesh.nodes[2].contents().len(), mesh.nodes[0].contents().len());
            assert_eq!(has, all, "seed {seed}: {:?}", mesh.nodes[2].replica.missing());
        }
    }
}

#[test]
fn a_publisher_without_a_pause_is_followed_without_gossip() {
    let mut mesh = SimMesh::new(2);
    mesh.gossip_works = false;
    mesh.link(0, 1);
    mesh.run(1_000);
    for _ in 0..1_000 {
        mesh.publish(0, "a", 1);
        mesh.run(10);
    }
    let behind = mesh.nodes[0].contents().len() - mesh.nodes[1].contents().len();
    assert!(behind < 100, "{behind} of 1,000 events are still away");
}

#[test]
fn a_full_store_makes_publishers_wait_while_a_peer_takes_what_fills_it() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, 3_000), SimNode::new(2, u64::MAX)]);
    mesh.link(0, 1);
    mesh.run(1_000);
    for _ in 0..400 {
        mesh.publish(0, "a", 5);
        mesh.run(10);
    }
    mesh.run(20_000);
    assert_eq!(mesh.nodes[0].refused, 0);
    assert_eq!(mesh.nodes[1].contents().len(), 2_000);
}

#[test]
fn what_finds_no_room_on_the_disk_comes_once_there_is_some() {
    let mut mesh = SimMesh::new(2);
    mesh.link(0, 1);
    mesh.run(1_000);
    mesh.publish(0, "a", 5);
    mesh.run(1_000);
    mesh.input(1, Input::Room(Room::OwnOnly));
    mesh.publish(0, "a", 5);
    mesh.publish(1, "b", 5);
    mesh.run(60_000);
    assert_eq!((mesh.nodes[0].contents().len(), mesh.nodes[1].contents().len()), (15, 10));
    mesh.input(1, Input::Room(Room::None));
    mesh.publish(1, "b", 5);
    mesh.publish(0, "a", 5);
    mesh.run(60_000);
    assert_eq!(mesh.nodes[1].refused, 1);
    assert_eq!((mesh.nodes[0].contents().len(), mesh.nodes[1].contents().len()), (20, 10));
    mesh.input(1, Input::Room(Room::Ample));
    mesh.publish(1, "b", 5);
    mesh.run(60_000);
    assert_eq!(mesh.nodes[0].contents(), mesh.nodes[1].contents());
    assert_eq!(mesh.nodes[0].contents().len(), 25);
}

#[test]
fn the_end_of_a_store_is_for_own_events() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 100_000)]);
    let now = mesh.now();
    let effects = mesh.nodes[0].subscribe(now, &["a"]);
    mesh.carry_out(0, effects);
    // No peer will announce these, so they cannot be pruned.
    while mesh.nodes[1].replica.batch_bytes() < 98_000 {
        mesh.publish(1, "own", 5);
        mesh.run(10);
    }
    mesh.link(0, 1);
    for _ in 0..100 {
        mesh.publish(0, "a", 5);
        mesh.run(10);
    }
    mesh.run(20_000);
    assert!(!mesh.nodes[1].replica.takes_others() && !mesh.nodes[1].replica.is_full());
    for _ in 0..5 {
        mesh.publish(1, "own", 5);
        mesh.run(1_000);
    }
    assert_eq!(mesh.nodes[1].refused, 0);
}
