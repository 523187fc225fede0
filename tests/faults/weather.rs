//! Networks that lose packets, are slow, or fall apart without telling.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Mesh, Stream, exit, lines, lines_of, within};
use crate::needs::{self, Need};

const TOPIC: &str = "orders.placed";
/// What a bad network may take to bring everything.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn with_a_third_of_all_packets_lost_everything_arrives() {
    if !needs::has(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let mut mesh = Mesh::apart().with(4);
    mesh.connected(mesh.all());
    mesh.all().for_each(|node| mesh.lan().lose(node, 30));
    let streams: Vec<_> = (0..3)
        .map(|node| {
            let acks: &[&str] = if node == 0 { &[] } else { &["--acks", "1", "--timeout", "200s"] };
            Stream::start(mesh.node(node), TOPIC, &format!("from-{node}"), 40, acks)
        })
        .collect();
    let late = mesh.prepare(&[0, 1, 2], &[]);
    mesh[late].start();
    mesh.lan().lose(late, 30);
    sleep(Duration::from_secs(20));
    let acknowledged: Vec<String> = streams.into_iter().flat_map(Stream::finish).collect();
    assert!(!acknowledged.is_empty());
    all_arrive(&mesh);
    links_are_steady(&mesh);
    mesh.holds_at_least(TOPIC, &acknowledged, mesh.all());
}

#[test]
fn a_narrow_link_brings_everything_and_holds_nobody_up() {
    if !needs::has(&[Need::Namespaces, Need::Program("nft"), Need::Program("tc")]) {
        return;
    }
    let mesh = Mesh::apart().with(3);
    mesh.connected(mesh.all());
    mesh.lan().limit(2, Some(256));
    let mut published = mesh[0].publish_lines(TOPIC, &lines_of("event", 2000, 256));
    mesh.count(TOPIC, 2000, [0, 1]);
    let acks = ["pub", TOPIC, "hello", "--acks", "2", "--timeout", "200s", "--json"];
    let done = mesh[0].cli(&acks).expect(exit::OK);
    assert_eq!(mesh[2].count(TOPIC), 2001, "it acknowledged all up to there:\n{}", done.stderr);
    published.extend(mesh[2].publish_lines(TOPIC, &lines_of("back", 500, 256)));
    within(PATIENCE, "all is everywhere", || mesh.all().all(|node| mesh[node].count(TOPIC) == 2501));
    links_are_steady(&mesh);
    mesh.converge(mesh.all());
    let known = mesh[1].events(TOPIC);
    assert_eq!(known.len(), 2501);
    published.iter().for_each(|id| assert!(known.iter().any(|event| event.id == *id), "{id} is missing"));
}

#[test]
fn far_away_nodes_acknowledge_and_converge() {
    if !needs::has(&[]) {
        return;
    }
    let mut mesh = Mesh::star(2);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        mesh.network.slow(a, b, Duration::from_millis(200), None);
    }
    let far = mesh.start(&[0], &[]);
    assert_eq!(far, 2);
    mesh.connected(mesh.all());
    let streams: Vec<_> = mesh
        .all()
        .map(|node| Stream::start(mesh.node(node), TOPIC, &format!("from-{node}"), 100, &["--acks", "2"]))
        .collect();
    streams.iter().for_each(|stream| stream.wait_for_more(200));
    let acknowledged: Vec<String> = streams.into_iter().flat_map(Stream::finish).collect();
    mesh.converge(mesh.all());
    links_are_steady(&mesh);
    mesh.holds(TOPIC, &acknowledged, mesh.all());
}

#[test]
fn halves_that_nobody_told_of_each_others_absence_go_on_and_heal() {
    if !needs::has(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let mesh = Mesh::apart().with(4);
    mesh.connected(mesh.all());
    let mut published = mesh[0].publish_lines(TOPIC, &lines("before", 100));
    mesh.count(TOPIC, 100, mesh.all());
    mesh.lan().partition(&[&[0, 1], &[2, 3]]);
    for node in mesh.all() {
        published.extend(mesh[node].publish_lines(TOPIC, &lines(&format!("apart-{node}"), 200)));
    }
    mesh.count(TOPIC, 500, mesh.all());
    // Longer than TCP retries at once, so that links are given up or held in long pauses.
    sleep(Duration::from_secs(15));
    for node in mesh.all() {
        assert_eq!(mesh[node].count(TOPIC), 500, "the halves are apart");
    }
    mesh.lan().heal();
    mesh.count(TOPIC, 900, mesh.all());
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &published, mesh.all());
}

/// Waits until all nodes hold the same.
#[track_caller]
fn all_arrive(mesh: &Mesh) {
    within(PATIENCE, "equal digests everywhere", || {
        let first = mesh[0].topics();
        mesh.all().all(|node| mesh[node].topics() == first)
    });
}

/// Links stay up for a while that is longer than one attempt to make one.
#[track_caller]
fn links_are_steady(mesh: &Mesh) {
    let links = || -> Vec<_> { mesh.all().map(|node| mesh[node].status().peers()).collect() };
    let hold = Duration::from_secs(12);
    within(PATIENCE, "links that stay up", || {
        let (start, before) = (Instant::now(), links());
        while start.elapsed() < hold {
            if links() != before {
                return false;
            }
            sleep(Duration::from_secs(1));
        }
        before.iter().all(|peers| !peers.is_empty())
    });
}
