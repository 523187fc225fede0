//! A disk that takes its time, and a newcomer that has a lot to catch up with.

use crate::harness::{Follower, Mesh, Node, Stream, eventually, lines_of};
use crate::needs::{self, Need};

const TOPIC: &str = "orders.placed";

#[test]
fn a_slow_disk_slows_its_own_publishers_and_nobody_else() {
    const MEMORY_LIMIT_KIB: u64 = 400 * 1024;
    if !needs::has(&[Need::Strace]) {
        return;
    }
    let mut mesh = Mesh::star(2);
    let slow = mesh.prepare(&[0, 1], &[]);
    slow_down(&mesh[slow]);
    mesh[slow].start();
    mesh.connected(mesh.all());
    let healthy = Stream::start(mesh.node(0), TOPIC, "from-0", 400, &["--acks", "1"]);
    let hindered = Stream::start(mesh.node(slow), TOPIC, "from-slow", 400, &[]);
    let follower = Follower::start(mesh.node(1), TOPIC, |_| {});

    // More at once than its disk takes, from one who does not wait, while the others go on.
    let mut most_kib = 0;
    let flood = std::thread::scope(|scope| {
        let flood = scope.spawn(|| mesh[slow].publish_lines(TOPIC, &lines_of("flood", 20_000, 1024)));
        while !flood.is_finished() {
            healthy.wait_for_more(20);
            most_kib = most_kib.max(mesh[slow].memory_kib());
        }
        flood.join().expect("its publisher waits, and gets through")
    });
    println!("the node with the slow disk used {most_kib} KiB");
    assert!(most_kib < MEMORY_LIMIT_KIB, "{most_kib} KiB");
    let acknowledged: Vec<String> = [healthy, hindered].into_iter().flat_map(Stream::finish).chain(flood).collect();
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &acknowledged, mesh.all());
    eventually("a follower has all", || follower.count() == acknowledged.len() as u64);
    assert_eq!(follower.take_faults(), Vec::<String>::new());
}

#[test]
fn a_newcomer_catches_up_with_a_long_history_under_load() {
    const HISTORY: usize = 100_000;
    if !needs::has(&[]) {
        return;
    }
    let mut mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let mut acknowledged = mesh[0].publish_lines(TOPIC, &lines_of("history", HISTORY, 256));
    let streams =
        [1, 2].map(|node| Stream::start(mesh.node(node), TOPIC, &format!("from-{node}"), 200, &["--acks", "1"]));
    let follower = Follower::start(mesh.node(1), TOPIC, |_| {});
    streams.iter().for_each(|stream| stream.wait_for_more(100));
    let late = mesh.start(&[0], &[]);
    eventually("the newcomer has the history", || {
        streams.iter().for_each(|stream| stream.wait_for_more(20));
        mesh[late].count(TOPIC) > HISTORY as u64
    });
    acknowledged.extend(streams.into_iter().flat_map(Stream::finish));
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, &acknowledged, mesh.all());
    eventually("a follower has all", || follower.count() == acknowledged.len() as u64);
    assert_eq!(follower.take_faults(), Vec::<String>::new());
}

/// From its next start on each sync of a node takes 200 ms more.
pub(crate) fn slow_down(node: &Node) {
    delay(node, "fdatasync", 200);
}

/// From its next start on system calls of a node take longer.
pub(crate) fn delay(node: &Node, calls: &str, by_ms: u64) {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:delay_enter={}", by_ms * 1000));
    node.run_through(&["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
}
