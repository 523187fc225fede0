//! Heartbeats keep their word: who has the ends that one names has everything that its author stamped up to then.

use std::convert::Infallible;

use roundelay_protocol::heads::LogKey;
use roundelay_protocol::heartbeat::{Heartbeats, received};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::replica::Input;
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, Topic};

use crate::SimMesh;

const TOPICS: [&str; 3] = ["a", "b", "c"];

fn beat(mesh: &mut SimMesh, index: usize) {
    beat_as(mesh, index, "/nodes/n");
}

fn beat_as(mesh: &mut SimMesh, index: usize, key: &str) {
    let now = mesh.now();
    let node = &mut mesh.nodes[index];
    let heartbeat = node.replica.heartbeat(now).expect("a clock");
    let event = heartbeat.to_event(key.to_owned()).encode().expect("an event");
    mesh.input(index, Input::publish(1 << 40 | heartbeat.upto.0, Topic::heartbeats(), vec![event], 0));
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
fn of_each_author_the_last_heartbeat_stays_and_others_go_whatever_keys_they_have() {
    let mut mesh = SimMesh::new(2);
    mesh.prunes = true;
    mesh.link(0, 1);
    beat(&mut mesh, 1);
    mesh.run(1_000);
    for nth in 0..400 {
        beat_as(&mut mesh, 0, &format!("/another/{nth}"));
        mesh.run(20);
    }
    mesh.run(20_000);
    for index in [0, 1] {
        let batches = mesh.nodes[index].batches();
        assert!(batches.len() < 250, "{} heartbeats are left at {index}", batches.len());
        let known = known(&mesh, index);
        assert!((0..2).all(|author| known.get(&mesh.nodes[author].author()).is_some()), "at {index}");
    }
}
