//! What is published again is stored once, by whichever door of the library it comes.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::future::join_all;
use roundelay::mesh::Keypair;
use roundelay::node::{CallError, DEFAULT_DEDUP_WINDOW, Node, NodeConfig};
use roundelay::subscription::From;
use roundelay_protocol::event::{EncodedEvent, Event};
use roundelay_protocol::replica::Refusal;
use roundelay_protocol::topic::{Pattern, Topic};

fn config(home: &tempfile::TempDir, keypair: &Keypair) -> NodeConfig {
    NodeConfig {
        home: home.path().to_owned(),
        name: "a".to_owned(),
        keypair: keypair.clone(),
        mesh_name: "default".to_owned(),
        mesh_key: None,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        join: Vec::new(),
        advertise: Vec::new(),
        mdns: false,
        topics: vec![Pattern::all()],
        min_links: 5,
        max_links: 128,
        store_cap_bytes: 1 << 30,
        log_limits: roundelay_protocol::quota::LogLimits::default(),
        dedup_window: DEFAULT_DEDUP_WINDOW,
        heartbeat: Duration::ZERO,
    }
}

fn event(id: &str, data: impl Into<String>) -> EncodedEvent {
    let (kind, source) = ("test".to_owned(), "/test".to_owned());
    Event { kind, source, id: id.to_owned(), data: data.into().into(), ..Event::default() }.encode().unwrap()
}

async fn count(node: &Node) -> usize {
    let mut events = node.subscribe(vec![Pattern::all()], From::Start);
    let mut count = 0;
    loop {
        let found = events.next_stored().await.unwrap();
        if found.is_empty() {
            return count;
        }
        count += found.iter().map(|delivery| delivery.batch.items().count()).sum::<usize>();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_come_at_once_one_is_stored_and_all_are_told_where() {
    let (home, keypair) = (tempfile::tempdir().unwrap(), Keypair::generate_ed25519());
    let node = Node::start(config(&home, &keypair)).await.unwrap();
    let topic = Topic::new("a").unwrap();
    for round in 0..20 {
        let (id, other) = (format!("{round}"), format!("other {round}"));
        // Some come in company, so that what is new of them has to wait for what is not.
        let publish = |n: usize| match n % 3 {
            0 => vec![event(&id, "x")],
            1 => vec![event(&format!("{other} {n}"), "y"), event(&id, "x")],
            _ => vec![event(&id, "x"), event(&id, "x")],
        };
        let receipts = join_all((0..30).map(|n| node.publish(topic.clone(), publish(n), 0))).await;
        let places: Vec<_> = (0..30)
            .zip(receipts)
            .flat_map(|(n, receipt)| receipt.unwrap().places.into_iter().skip(usize::from(n % 3 == 1)))
            .collect();
        assert_eq!(places.iter().filter(|place| !place.duplicate).count(), 1, "{places:?}");
        let at = |place: &roundelay::node::EventPlace| (place.seq, place.arrival, place.index);
        assert!(places.iter().all(|place| at(place) == at(&places[0])), "{places:?}");
    }
    assert_eq!(count(&node).await, 20 * 11);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_those_of_the_store() {
    let (home, keypair) = (tempfile::tempdir().unwrap(), Keypair::generate_ed25519());
    let node = Node::start(config(&home, &keypair)).await.unwrap();
    // Several batches a publication, and several publications a write.
    let publish = |topic: usize| {
        let events = (0..700).map(|n| event(&n.to_string(), format!("{topic:>200}"))).collect();
        node.publish(Topic::new(&format!("t{}", topic % 3)).unwrap(), events, 0)
    };
    let receipts = join_all((0..3).map(publish)).await;
    let mut events = node.subscribe(vec![Pattern::all()], From::Start);
    let mut stored = Vec::new();
    while let found = events.next_stored().await.unwrap()
        && !found.is_empty()
    {
        for delivery in found {
            let topic = delivery.batch.header().topic.to_string();
            stored.extend(
                (0..)
                    .zip(delivery.batch.items())
                    .map(|(index, (seq, _))| (topic.clone(), seq, delivery.arrival, index)),
            );
        }
    }
    for (topic, receipt) in receipts.into_iter().enumerate() {
        let mut expected = stored.iter().filter(|(name, ..)| *name == format!("t{topic}"));
        for place in receipt.unwrap().places {
            let (_, seq, arrival, index) = expected.next().unwrap();
            assert_eq!((place.seq, place.arrival, place.index), (*seq, *arrival, *index));
        }
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_first_is_refused_so_is_the_second() {
    let (home, keypair) = (tempfile::tempdir().unwrap(), Keypair::generate_ed25519());
    let node = Node::start(NodeConfig { store_cap_bytes: 4096, ..config(&home, &keypair) }).await.unwrap();
    let topic = Topic::new("a").unwrap();
    let fill = |n: usize| node.publish(topic.clone(), vec![event(&n.to_string(), "x".repeat(1000))], 0);
    while fill(rand::random_range(0..usize::MAX)).await.is_ok() {}
    let company = || vec![event("new", "y"), event("same", "x")];
    let outcomes = tokio::join!(
        node.publish(topic.clone(), vec![event("same", "x")], 0),
        node.publish(topic.clone(), company(), 0),
        node.publish(topic.clone(), company(), 0),
    );
    for outcome in [outcomes.0, outcomes.1, outcomes.2] {
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::StoreFull))), "{outcome:?}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_ends() {
    let (home, keypair) = (tempfile::tempdir().unwrap(), Keypair::generate_ed25519());
    let window = |window| NodeConfig { dedup_window: Duration::from_millis(window), ..config(&home, &keypair) };
    let topic = Topic::new("a").unwrap();
    for (window_ms, duplicate) in [(600_000, true), (1, false), (0, false)] {
        let node = Node::start(window(window_ms)).await.unwrap();
        let id = format!("window {window_ms}");
        node.publish(topic.clone(), vec![event(&id, "x")], 0).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let again = node.publish(topic.clone(), vec![event(&id, "x")], 0).await.unwrap();
        assert_eq!(again.places[0].duplicate, duplicate, "{window_ms} ms");
        node.shutdown().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let node = Node::start(window(window_ms)).await.unwrap();
        let again = node.publish(topic.clone(), vec![event(&id, "x")], 0).await.unwrap();
        assert_eq!(again.places[0].duplicate, duplicate, "{window_ms} ms, after a restart");
        node.shutdown().await;
    }
}
