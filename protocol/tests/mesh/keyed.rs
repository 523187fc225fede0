//! Keyed topics: of each key the last event stays, everywhere, and what it supersedes goes and does not come back.

use std::collections::BTreeMap;

use roundelay_protocol::arrival_times::ArrivalTimes;
use roundelay_protocol::frame::Position;
use roundelay_protocol::heads::{LogKey, LogRecord, Tip};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::replica::{Config, Effect, Input, KeyHash, KeyedBatch, MAX_WALKED_BATCHES, OldBatch, Replica};
use roundelay_protocol::rules::{Rule, Rules};
use roundelay_protocol::sign::Signer;
use roundelay_protocol::topic::{Pattern, Topic};

use super::SimMesh;
use super::liars::at;
use super::node::{SimNode, Stamp};

const TOPIC: &str = "prices";

fn keyed() -> Option<Rule> {
    Some(Rule { keyed: true, ..Rule::default() })
}

/// A mesh of so many nodes in a line, of which the first so many keep `TOPIC` by key.
fn mesh_of(nodes: usize, keyed_nodes: usize) -> SimMesh {
    let mut mesh = SimMesh::new(nodes);
    for index in 0..keyed_nodes {
        mesh.set_rule(index, TOPIC, keyed());
    }
    for index in 1..nodes {
        mesh.link(index - 1, index);
    }
    mesh
}

/// Publishes one event of each key, each in a batch of its own.
fn publish(mesh: &mut SimMesh, index: usize, keys: impl IntoIterator<Item = String>) {
    for key in keys {
        mesh.publish_keys(index, TOPIC, &[&key]);
        mesh.run(20);
    }
}

/// One cold key between every ten events of five hot ones: `cold` islands.
fn publish_islands(mesh: &mut SimMesh, index: usize, cold: usize) {
    for nth in 0..cold {
        publish(mesh, index, [format!("cold-{nth}")]);
        publish(mesh, index, (0..10).map(|hot| format!("hot-{}", hot % 5)));
    }
}

fn states(mesh: &SimMesh) -> Vec<BTreeMap<String, String>> {
    mesh.nodes.iter().map(|node| node.last_of_keys(TOPIC).0).collect()
}

fn assert_in_sync(mesh: &SimMesh) {
    for node in &mesh.nodes {
        assert_eq!(node.digests(), mesh.nodes[0].digests());
    }
    assert_links_in_sync(mesh);
}

fn assert_links_in_sync(mesh: &SimMesh) {
    for node in &mesh.nodes {
        assert!(node.replica.links().iter().all(|link| link.in_sync), "{:?}", node.replica.links());
    }
}

#[test]
fn of_each_key_the_last_event_stays_and_what_it_supersedes_goes() {
    let mut mesh = mesh_of(3, 2);
    publish_islands(&mut mesh, 0, 100);
    mesh.run(30_000);
    let (all, count) = mesh.nodes[2].last_of_keys(TOPIC);
    assert_eq!((all.len(), count), (105, 1_100));
    for node in &mesh.nodes[..2] {
        let (last, count) = node.last_of_keys(TOPIC);
        assert_eq!(last, all);
        // At most twice what the last walk left, and a hundred.
        assert!(count <= 2 * 105 + 100, "{count}");
        let recorded: u64 = node.replica.logs().map(|record| record.events).sum();
        assert_eq!(recorded, count as u64);
    }
    assert_in_sync(&mesh);
}

#[test]
fn a_newcomer_gets_the_last_event_of_each_key_through_any_number_of_islands() {
    for rule in [None, keyed()] {
        let mut mesh = mesh_of(3, 2);
        mesh.cut(1, 2);
        mesh.set_rule(2, TOPIC, rule.clone());
        publish_islands(&mut mesh, 0, 200);
        mesh.run(30_000);
        mesh.link(1, 2);
        mesh.run(60_000);
        let states = states(&mesh);
        assert_eq!(states[2].len(), 205);
        assert!(states.iter().all(|state| *state == states[0]));
        assert_links_in_sync(&mesh);
        if rule.is_some() {
            // It takes over the floor, and so ends with the same heads.
            assert_in_sync(&mesh);
        }
        // And it goes on from there.
        publish(&mut mesh, 0, (0..50).map(|nth| format!("later-{nth}")));
        mesh.run(10_000);
        assert_eq!(mesh.nodes[2].last_of_keys(TOPIC).0.len(), 255);
        assert_links_in_sync(&mesh);
    }
}

#[test]
fn the_last_event_of_a_key_is_the_last_of_any_author() {
    let mut mesh = mesh_of(3, 3);
    for round in 0..60 {
        publish(&mut mesh, round % 3, (0..5).map(|key| key.to_string()));
    }
    mesh.run(30_000);
    let (last, count) = mesh.nodes[1].last_of_keys(TOPIC);
    assert!(last.values().all(|id| id.starts_with("3-")), "{last:?}");
    assert!(count <= 2 * 5 + 100 + 3, "{count}");
    assert!(states(&mesh).iter().all(|state| *state == last));
    assert_in_sync(&mesh);
}

#[test]
fn what_was_superseded_does_not_come_back_when_a_partition_heals() {
    let mut mesh = mesh_of(3, 2);
    publish_islands(&mut mesh, 0, 30);
    mesh.run(5_000);
    mesh.cut(1, 2);
    publish_islands(&mut mesh, 0, 30);
    publish(&mut mesh, 2, (0..40).map(|nth| format!("hot-{}", nth % 5)));
    mesh.run(20_000);
    let before = mesh.nodes[0].last_of_keys(TOPIC).1;
    mesh.link(1, 2);
    mesh.run(30_000);
    // The other side's forty and nothing else.
    assert!(mesh.nodes[0].last_of_keys(TOPIC).1 <= before + 40);
    let states = states(&mesh);
    assert!(states.iter().all(|state| *state == states[0]));
    assert_links_in_sync(&mesh);
}

#[test]
fn own_events_that_nobody_has_stay_and_go_once_somebody_has_them() {
    let mut mesh = mesh_of(2, 1);
    mesh.cut(0, 1);
    publish(&mut mesh, 0, (0..500).map(|nth| format!("hot-{}", nth % 5)));
    mesh.run(20_000);
    assert_eq!(mesh.nodes[0].last_of_keys(TOPIC).1, 500);
    mesh.link(0, 1);
    mesh.run(20_000);
    let (last, count) = mesh.nodes[0].last_of_keys(TOPIC);
    assert!(last.len() == 5 && count <= 110, "{count}");
    assert_eq!(mesh.nodes[1].last_of_keys(TOPIC), (last, 500));
}

#[test]
fn batches_with_an_event_that_lasts_or_has_no_key_stay_whole() {
    let mut mesh = mesh_of(2, 1);
    mesh.publish_keys(0, TOPIC, &["hot", "cold", "hot"]);
    mesh.run(100);
    mesh.publish_keys(0, TOPIC, &["hot", "", "hot"]);
    mesh.run(100);
    for _ in 0..100 {
        mesh.publish_keys(0, TOPIC, &["hot", "hot", "hot"]);
        mesh.run(100);
    }
    mesh.run(20_000);
    let stored = mesh.nodes[0].batches();
    assert!(stored.iter().take(2).map(|batch| batch.header().first_seq).eq([1, 4]));
    assert!(stored.len() < 50, "{}", stored.len());
    assert_in_sync(&mesh);
}

#[test]
fn a_log_goes_on_by_key_after_restarts_and_forks() {
    let mut mesh = mesh_of(2, 2);
    publish_islands(&mut mesh, 0, 20);
    mesh.run(10_000);
    let old = mesh.nodes[0].copy_disk();
    publish_islands(&mut mesh, 0, 20);
    mesh.run(10_000);
    mesh.cut(0, 1);
    mesh.nodes[0].restore(old);
    publish(&mut mesh, 0, (0..30).map(|nth| format!("hot-{}", nth % 5)));
    mesh.link(0, 1);
    mesh.run(30_000);
    publish_islands(&mut mesh, 0, 20);
    mesh.run(30_000);
    let states = states(&mesh);
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0].len(), 25);
    // The author's own floor stays below the end of its line, so that the digests may differ.
    assert_links_in_sync(&mesh);
}

#[test]
fn at_the_limits_of_a_rule_what_is_superseded_goes_before_what_lasts() {
    let limits = [(Some(40), None), (None, Some(9_000))];
    for (max_events, max_bytes) in limits {
        let mut mesh = mesh_of(2, 0);
        for index in 0..2 {
            mesh.set_rule(index, TOPIC, Some(Rule { keyed: true, max_events, max_bytes, ..Rule::default() }));
        }
        publish(&mut mesh, 0, (0..20).map(|nth| format!("cold-{nth}")));
        for _ in 0..10 {
            publish(&mut mesh, 0, (0..40).map(|nth| format!("hot-{}", nth % 5)));
            mesh.run(5_000);
            for node in &mesh.nodes {
                let (last, count) = node.last_of_keys(TOPIC);
                assert_eq!(last.len(), 25);
                assert!(max_events.is_none_or(|max| count as u64 <= max), "{count}");
                let bytes: usize = node.batches().iter().map(|batch| batch.bytes().len()).sum();
                assert!(max_bytes.is_none_or(|max| bytes as u64 <= max), "{bytes}");
            }
        }
        assert_in_sync(&mesh);
    }
}

#[test]
fn a_limit_below_what_lasts_is_kept_all_the_same_also_while_events_come() {
    let mut mesh = mesh_of(2, 0);
    for index in 0..2 {
        mesh.set_rule(index, TOPIC, Some(Rule { keyed: true, max_events: Some(50), ..Rule::default() }));
    }
    for nth in 0..1_000 {
        publish(&mut mesh, 0, [format!("key-{nth}")]);
        let most = mesh.nodes.iter().map(|node| node.last_of_keys(TOPIC).1).max();
        // One comes every 20 ms, it is looked every 2 s, and a walk over these takes less than a second.
        assert!(most <= Some(50 + 150), "{most:?} after {nth}");
    }
    mesh.run(10_000);
    for node in &mesh.nodes {
        let (last, count) = node.last_of_keys(TOPIC);
        assert!(count <= 50 && last.contains_key("key-999"), "{count}");
    }
}

#[test]
fn at_the_cap_what_is_superseded_goes_before_what_lasts() {
    const CAP_BYTES: usize = 60_000;
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, CAP_BYTES as u64)]);
    mesh.set_rule(1, TOPIC, keyed());
    mesh.link(0, 1);
    publish(&mut mesh, 0, (0..20).map(|nth| format!("cold-{nth}")));
    for _ in 0..60 {
        publish(&mut mesh, 0, (0..10).map(|nth| format!("hot-{}", nth % 5)));
        mesh.publish(0, "other", 20);
        mesh.run(2_500);
        assert_eq!(mesh.nodes[1].last_of_keys(TOPIC).0.len(), 25);
        let bytes: usize = mesh.nodes[1].batches().iter().map(|batch| batch.bytes().len()).sum();
        assert!(bytes <= CAP_BYTES, "{bytes}");
    }
    // What lasts goes where nothing else is left.
    publish(&mut mesh, 0, (0..400).map(|nth| format!("many-{nth}")));
    mesh.run(10_000);
    let bytes: usize = mesh.nodes[1].batches().iter().map(|batch| batch.bytes().len()).sum();
    assert!(bytes <= CAP_BYTES, "{bytes}");
}

#[test]
fn what_lies_behind_more_batches_than_a_walk_remembers_is_looked_at_too() {
    const SUPERSEDED: u64 = 100;
    let log = LogKey { topic: Topic::new(TOPIC).unwrap(), author: Stamp::of(2).author() };
    let most = MAX_WALKED_BATCHES as u64;
    let batch = |seq: u64, key: &str| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&seq.to_be_bytes());
        let last_hlc = Hlc::from_ms(1_000 + seq);
        let (arrival, log, hash) = (Arrival(seq), log.clone(), BatchHash(hash));
        let batch = OldBatch { arrival, log, first_seq: seq, last_seq: seq, hash, last_hlc, bytes: 1 };
        KeyedBatch { batch, keys: [(KeyHash::of(key), last_hlc)].into(), keyless: false }
    };
    // Superseded ones first, and behind them as many that last as are remembered.
    let mut batches: Vec<_> = (1..=SUPERSEDED).map(|seq| batch(seq, "hot")).collect();
    batches.extend((1..most).map(|nth| batch(SUPERSEDED + nth, &format!("cold-{nth}"))));
    batches.push(batch(SUPERSEDED + most, "hot"));
    let last = batches.last().unwrap().batch.clone();
    let mut record = LogRecord::new(log.clone());
    record.tips = [Tip { seq: last.last_seq, hash: last.hash, hlc: last.last_hlc }].into_iter().collect();
    (record.last_arrival, record.events, record.bytes) = (last.arrival, last.last_seq, last.last_seq);

    let mut rules = Rules::default();
    rules.set(Pattern::new(TOPIC).unwrap(), keyed().unwrap()).unwrap();
    let config = Config {
        incarnation: Incarnation(1),
        position: Position { epoch: StoreEpoch(1), arrival: last.arrival, chain: Chain::default() },
        batch_bytes: record.bytes,
        cap_bytes: u64::MAX,
        log_limits: LogLimits::default(),
        max_gossip_bytes: 65_536,
        interest: Interest::new(vec![Pattern::all()], vec![]),
        rules,
        arrival_times: ArrivalTimes::default(),
        seed: 1,
    };
    let mut replica = Replica::new(Stamp::of(1), config, vec![record], at(0));
    let (mut pruned, mut now_ms, mut looked) = (Vec::new(), 0, 0);
    while now_ms < 20_000 {
        now_ms += 10;
        let mut effects = replica.handle(at(now_ms), Input::Tick);
        while let Some(effect) = effects.pop() {
            let answer = match effect {
                Effect::ListKeys { before, .. } => {
                    let earlier = batches.iter().rev().filter(|old| old.batch.arrival < before);
                    let found: Vec<_> = earlier.take(8_192).cloned().collect();
                    looked += found.len();
                    let next = found.last().map_or(Arrival(0), |old| old.batch.arrival);
                    Input::Keys { batches: found, next, end: next <= Arrival(1) }
                }
                Effect::Append { token, set } => {
                    pruned.extend(set.pruned.iter().map(|arrival| arrival.0));
                    let position = Position { epoch: StoreEpoch(1), arrival: last.arrival, chain: Chain::default() };
                    Input::Stored { token, position, batch_bytes: 1 }
                }
                _ => continue,
            };
            effects.extend(replica.handle(at(now_ms), answer));
        }
    }
    pruned.sort_unstable();
    assert!(pruned.iter().copied().eq(1..=SUPERSEDED), "{} went", pruned.len());
    assert_eq!(looked as u64, SUPERSEDED + most, "each is looked at once");
}

#[test]
fn what_an_author_publishes_on_a_line_below_a_floor_reaches_who_comes_back_later() {
    for rule in [None, keyed()] {
        let mut mesh = mesh_of(3, 2);
        mesh.set_rule(0, TOPIC, None);
        mesh.set_rule(2, TOPIC, rule);
        publish(&mut mesh, 0, (0..30).map(|nth| format!("hot-{}", nth % 5)));
        mesh.run(2_000);
        let old = mesh.nodes[0].copy_disk();
        publish(&mut mesh, 0, (0..30).map(|nth| format!("hot-{}", nth % 5)));
        mesh.run(2_000);
        mesh.cut(1, 2);
        publish(&mut mesh, 0, (0..300).map(|nth| format!("hot-{}", nth % 5)));
        mesh.run(10_000);
        mesh.cut(0, 1);
        mesh.nodes[0].restore(old);
        publish(&mut mesh, 0, (0..10).map(|nth| format!("cold-{nth}")));
        mesh.link(0, 1);
        mesh.run(30_000);
        assert!(mesh.nodes[1].replica.logs().any(|record| record.floor > 100));
        assert_eq!(mesh.nodes[1].last_of_keys(TOPIC).0.len(), 15);
        // Only who keeps the topic by key is left to tell of it.
        mesh.cut(0, 1);
        mesh.link(1, 2);
        mesh.run(30_000);
        assert_eq!(states(&mesh)[2], states(&mesh)[1]);
        assert_links_in_sync(&mesh);
    }
}

#[test]
fn an_author_that_was_restored_gets_its_own_islands_back_and_goes_on_above_the_floor() {
    let mut mesh = mesh_of(2, 2);
    publish_islands(&mut mesh, 0, 10);
    mesh.run(10_000);
    let old = mesh.nodes[0].copy_disk();
    publish_islands(&mut mesh, 0, 100);
    mesh.run(10_000);
    mesh.cut(0, 1);
    mesh.nodes[0].restore(old);
    publish(&mut mesh, 0, (0..30).map(|nth| format!("hot-{}", nth % 5)));
    mesh.link(0, 1);
    mesh.run(30_000);
    for round in 0..3 {
        publish(&mut mesh, 0, (0..40).map(|nth| format!("later-{round}-{nth}")));
        mesh.run(30_000);
        let states = states(&mesh);
        assert_eq!(states[0].len(), 105 + (round + 1) * 40);
        assert_eq!(states[0], states[1]);
        // Where a peer says that it has what comes.
        let last = mesh.nodes[0].batches().into_iter().max_by_key(|batch| batch.header().last_hlc).unwrap();
        assert!(mesh.nodes[1].replica.logs().all(|record| record.floor < last.header().first_seq));
    }
    assert_links_in_sync(&mesh);
}
