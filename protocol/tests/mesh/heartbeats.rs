//! Heartbeats keep their word: who has the ends that one names has everything that its author stamped up to then.

use std::convert::Infallible;

use roundelay_protocol::heads::LogKey;
use roundelay_protocol::heartbeat::{Heartbeat, Heartbeats, Silence, received};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::replica::{Input, Now, Room};
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, Topic};

use crate::SimMesh;
use crate::node::SimNode;

const DAY_MS: u64 = 24 * 3_600_000;
/// When a node of these meshes starts, by its wall clock.
const START: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_001_000 };
const TOPICS: [&str; 3] = ["a", "b", "c"];

fn beat(mesh: &mut SimMesh, index: usize) {
    let now = mesh.now();
    let heartbeat = mesh.nodes[index].replica.heartbeat(now).expect("a clock");
    mesh.input(index, publication_of(&heartbeat, "/nodes/n"));
}

fn publication_of(heartbeat: &Heartbeat, key: &str) -> Input {
    let event = heartbeat.to_event(key.to_owned()).encode().expect("an event");
    Input::publish(1 << 40 | heartbeat.upto.0, Topic::heartbeats(), vec![event], 0)
}

/// The heartbeats that a node has, and up to which stamp it takes the author of each for received in a topic.
fn known(mesh: &SimMesh, index: usize) -> Heartbeats {
    let mut known = Heartbeats::default();
    for batch in mesh.nodes[index].batches().iter().filter(|batch| batch.header().topic.as_str() == HEARTBEATS_TOPIC) {
        known.learn(batch);
    }
    known
}

fn upto(mesh: &SimMesh, index: usize, known: &Heartbeats, key: &LogKey) -> Hlc {
    let node = &mesh.nodes[index];
    let batches = node.batches();
    let holds = |(seq, hash): &_| {
        let is_it = |batch: &&_| of(batch) == *key && batch.hash() == *hash && batch.header().last_seq() == *seq;
        Ok::<_, Infallible>(batches.iter().any(|batch| is_it(&batch)))
    };
    let record = node.replica.logs().find(|record| record.key == *key);
    received(known.get(&key.author), &key.topic, record, holds).expect("never fails")
}

fn of(batch: &roundelay_protocol::batch::VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

/// Checks what node `index` takes for received against what the others have; returns how many heartbeats said more than
/// the logs did.
fn check(mesh: &SimMesh, index: usize) -> usize {
    let (known, here, mut told) = (known(mesh, index), mesh.nodes[index].batches(), 0);
    for author in 0..mesh.nodes.len() {
        for topic in TOPICS {
            let key = LogKey { topic: Topic::new(topic).unwrap(), author: mesh.nodes[author].author() };
            let upto = upto(mesh, index, &known, &key);
            told += usize::from(known.get(&key.author).is_some_and(|heartbeat| heartbeat.upto == upto));
            for batch in mesh.nodes[author].batches().iter().filter(|batch| of(batch) == key) {
                let is_here = here.iter().any(|other| other.hash() == batch.hash());
                let first = batch.header().first_hlc;
                assert!(
                    is_here || first > upto,
                    "{first:?} of {key:?} is not at {index}, which has all up to {upto:?}"
                );
            }
        }
    }
    told
}

#[test]
fn whoever_has_the_ends_that_a_heartbeat_names_has_everything_up_to_it() {
    let mut told = 0;
    for seed in 0..20_u64 {
        let mut mesh = SimMesh { rough: 0x9e37_79b9 + seed, ..SimMesh::new(3) };
        mesh.link(0, 1);
        mesh.link(1, 2);
        for step in 0..60 {
            let index = mesh.chance(3) as usize;
            match mesh.chance(4) {
                0 => beat(&mut mesh, index),
                1 if step % 7 == 0 => mesh.cut(0, 1),
                1 => mesh.link(0, 1),
                _ => {
                    let topic = TOPICS[mesh.chance(3) as usize];
                    let count = 1 + mesh.chance(5) as usize;
                    mesh.publish(index, topic, count);
                }
            }
            let for_ms = 10 * mesh.chance(6);
            mesh.run(for_ms);
            told += (0..3).map(|index| check(&mesh, index)).sum::<usize>();
        }
        // In the end everybody has all of everybody.
        mesh.link(0, 1);
        mesh.run(5_000);
        (0..3).for_each(|index| beat(&mut mesh, index));
        mesh.run(5_000);
        let known = known(&mesh, 0);
        for author in 0..3 {
            let key = LogKey { topic: Topic::new("a").unwrap(), author: mesh.nodes[author].author() };
            assert_eq!(upto(&mesh, 0, &known, &key), known.get(&key.author).expect("a heartbeat").upto);
        }
    }
    assert!(told > 100, "heartbeats say more than logs: {told}");
}

#[test]
fn of_each_author_the_last_heartbeat_stays_and_others_go_whatever_keys_and_clocks_they_have() {
    for ahead_ms in [0, 10 * DAY_MS] {
        let mut mesh = SimMesh::new(2);
        mesh.prunes = true;
        mesh.link(0, 1);
        beat(&mut mesh, 1);
        mesh.run(1_000);
        for nth in 0..400 {
            let now = Now { wall_ms: mesh.now().wall_ms + ahead_ms, ..mesh.now() };
            let heartbeat = Heartbeat { upto: Hlc::from_ms(now.wall_ms - 1), ..Heartbeat::default() };
            let effects = mesh.nodes[0].handle(now, publication_of(&heartbeat, &format!("/another/{nth}")));
            mesh.carry_out(0, effects);
            mesh.run(20);
        }
        mesh.run(20_000);
        for index in [0, 1] {
            let batches = mesh.nodes[index].batches();
            assert!(batches.len() < 250, "{} heartbeats are left at {index}, {ahead_ms} ms ahead", batches.len());
            let known = known(&mesh, index);
            assert!((0..2).all(|author| known.get(&mesh.nodes[author].author()).is_some()), "at {index}");
        }
    }
}

/// A node that published, and gave a heartbeat if it `beats`, when its clock said so many days more than when it starts
/// anew; and what it published to `topic` then.
fn restarted(days: u64, beats: bool) -> (SimNode, Hlc) {
    let mut node = SimNode::new(1, u64::MAX);
    let ahead = Now { wall_ms: START.wall_ms + days * DAY_MS, ..START };
    node.publish(ahead, "a", 1);
    let heartbeat = node.replica.heartbeat(ahead).expect("a clock");
    if beats {
        node.handle(ahead, publication_of(&heartbeat, "/nodes/n"));
    }
    node.sync(ahead);
    node.restore(node.copy_disk());
    node.publish(START, "b", 1);
    node.sync(START);
    (node, heartbeat.upto)
}

fn first_of_b(node: &SimNode) -> Hlc {
    let batches = node.batches();
    batches.iter().find(|batch| batch.header().topic.as_str() == "b").expect("it was published").header().first_hlc
}

#[test]
fn what_a_node_promised_it_keeps_however_far_its_clock_is_behind_when_it_starts() {
    for days in [0, 2, 300, 30_000] {
        let (mut node, promised) = restarted(days, true);
        assert!(first_of_b(&node) > promised, "{days} days");
        let silence = node.replica.heartbeat(START).err();
        assert_eq!(silence, (days > 1).then_some(Silence::StampsAhead), "{days} days");
        // When its clock has come so far, all is as before.
        let later = Now { wall_ms: START.wall_ms + days * DAY_MS, ..START };
        assert!(node.replica.heartbeat(later).expect("a clock").upto > promised);
    }
}

#[test]
fn a_node_that_promised_nothing_follows_its_clock_when_that_was_set_right() {
    let (mut node, _) = restarted(300, false);
    assert_eq!(first_of_b(&node).as_ms(), START.wall_ms);
    assert!(node.replica.heartbeat(START).is_ok());
}

#[test]
fn heartbeats_do_not_wake_a_node_whose_disk_is_full() {
    let mut node = SimNode::new(1, u64::MAX);
    let heartbeat = node.replica.heartbeat(START).expect("a clock");
    node.handle(START, publication_of(&heartbeat, "/nodes/n"));
    node.sync(START);
    for waited_ms in [0, 10_000] {
        let now = Now { mono_ms: START.mono_ms + waited_ms, ..START };
        node.handle(now, Input::Room(Room::None));
        node.handle(Now { mono_ms: now.mono_ms + 1, ..now }, Input::Tick);
        assert!(node.replica.deadline_ms() > now.mono_ms + 1_000, "after {waited_ms} ms");
    }
}
