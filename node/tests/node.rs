//! Nodes in one process over loopback: they meet, publish, deliver and converge.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use roundelay::mesh::Keypair;
use roundelay::node::{Node, NodeConfig};
use roundelay::subscription::From;
use roundelay_protocol::event::{EncodedEvent, Event};
use roundelay_protocol::topic::{Pattern, Topic};

fn config(home: &tempfile::TempDir, name: &str, join: Vec<libp2p::Multiaddr>) -> NodeConfig {
    NodeConfig {
        home: home.path().to_owned(),
        name: name.to_owned(),
        keypair: Keypair::generate_ed25519(),
        mesh_name: "default".to_owned(),
        mesh_key: None,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        join,
        advertise: Vec::new(),
        mdns: false,
        topics: vec![Pattern::all()],
        min_links: 5,
        max_links: 128,
        store_cap_bytes: 1 << 30,
        log_limits: roundelay_protocol::quota::LogLimits::default(),
        dedup_window: roundelay::node::DEFAULT_DEDUP_WINDOW,
        heartbeat: Duration::ZERO,
    }
}

fn event(id: usize) -> EncodedEvent {
    let event = Event {
        kind: "test".into(),
        id: id.to_string(),
        source: "test".into(),
        data: vec![b'x'; 200].into(),
        ..Event::default()
    };
    event.encode().unwrap()
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

async fn connected(node: &Node) -> usize {
    node.status().await.unwrap().peers.iter().filter(|peer| peer.connected).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_meet_publish_deliver_and_converge() {
    let homes: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = Node::start(config(&homes[0], "a", Vec::new())).await.unwrap();
    let second = Node::start(config(&homes[1], "b", first.addresses())).await.unwrap();
    let third = Node::start(config(&homes[2], "c", first.addresses())).await.unwrap();
    let nodes = [first, second, third];
    for node in &nodes {
        eventually("all are linked", async || connected(node).await == 2).await;
    }
    let topic = Topic::new("orders.placed").unwrap();
    let mut subscription = nodes[2].subscribe(vec![Pattern::new("orders.*").unwrap()], From::Start);
    let receipt = nodes[0].publish(topic.clone(), vec![event(0)], 2).await.unwrap();
    assert_eq!((receipt.places[0].seq, receipt.peers, receipt.links), (1, 2, 2));
    let mut publishes = tokio::task::JoinSet::new();
    for id in 1..2_000 {
        let (node, topic) = (nodes[id % 3].clone(), topic.clone());
        publishes.spawn(async move { node.publish(topic, vec![event(id)], 0).await.unwrap() });
    }
    publishes.join_all().await;
    let mut seen = 0;
    while seen < 2_000 {
        for delivery in subscription.next().await.unwrap() {
            seen += delivery.batch.header().count;
        }
    }
    let converged = tokio::time::timeout(Duration::from_secs(60), nodes[0].converged()).await.unwrap().unwrap();
    assert_eq!(converged.links, 2);
    let digest = async |node: &Node| {
        let status = node.status().await.unwrap();
        let topic = status.topics.into_iter().find(|topic| topic.topic == "orders.placed").unwrap();
        (topic.events, topic.digest)
    };
    let expected = digest(&nodes[0]).await;
    assert_eq!(expected.0, 2_000);
    for node in &nodes {
        eventually("digests are equal", async || digest(node).await == expected).await;
        eventually("links are in sync", async || {
            node.status().await.unwrap().peers.iter().all(|peer| peer.in_sync && peer.behind == 0 && peer.ahead == 0)
        })
        .await;
    }
    for node in &nodes {
        node.shutdown().await;
        assert_eq!(node.stopped().await, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stopped_is_not_ready_and_says_why() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(config(&home, "a", Vec::new())).await.unwrap();
    let readiness = node.readiness().await;
    assert!(readiness.ready && readiness.checks.iter().all(|check| check.ok), "{readiness:?}");
    node.shutdown().await;
    let readiness = node.readiness().await;
    let ok = |name: &str| readiness.checks.iter().find(|check| check.name == name).unwrap();
    assert!(!readiness.ready && !ok("store").ok && !ok("engine").ok, "{readiness:?}");
    assert!(ok("store").detail.is_some() && ok("engine").detail.is_some());
}
