//! A process that stands still for half a minute.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Follower, Mesh, Stream, eventually};
use crate::needs;

const TOPIC: &str = "orders.placed";
const PAUSE: Duration = Duration::from_secs(30);

#[test]
fn a_node_that_stands_still_holds_nobody_up_and_catches_up() {
    if !needs::has(&[]) {
        return;
    }
    let mesh = Mesh::star(4);
    mesh.connected(mesh.all());
    let streams =
        [0, 2].map(|node| Stream::start(mesh.node(node), TOPIC, &format!("from-{node}"), 100, &["--acks", "1"]));
    let of_paused = Stream::start(mesh.node(1), TOPIC, "from-1", 100, &[]);
    let followers: Vec<_> = mesh.all().map(|node| Follower::start(mesh.node(node), TOPIC, |_| {})).collect();
    streams.iter().chain([&of_paused]).for_each(|stream| stream.wait_for_more(100));

    mesh[1].id();
    mesh[1].pause();
    let start = Instant::now();
    // The others publish, acknowledge for each other and deliver; and they notice.
    while start.elapsed() < PAUSE {
        let before = followers[3].count();
        streams.iter().for_each(|stream| stream.wait_for_more(40));
        eventually("the others are delivered events", || followers[3].count() > before);
    }
    for other in [0, 2, 3] {
        eventually(&format!("node {other} says that node 1 is behind, or away"), || {
            let peer = mesh[other].status().peer(mesh[1].id()).expect("a peer that it knows");
            !peer.connected || (peer.ahead > 0 && !peer.in_sync)
        });
        assert!(mesh[other].status().healthy(), "that is no trouble of node {other}");
    }
    mesh[1].resume();
    of_paused.wait_for_more(100);
    sleep(Duration::from_secs(1));

    let acknowledged: Vec<String> = streams.into_iter().chain([of_paused]).flat_map(Stream::finish).collect();
    mesh.converge(mesh.all());
    let delivered = mesh.holds(TOPIC, &acknowledged, mesh.all());
    for follower in &followers {
        eventually("a follower has all", || follower.count() == delivered[0].len() as u64);
        assert_eq!(follower.take_faults(), Vec::<String>::new());
    }
}
