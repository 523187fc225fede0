//! Disks that are replaced by an old copy, however that was made.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use crate::harness::{Event, Follower, Mesh, Stream, eventually, exit, ids, lines};
use crate::needs;

const TOPIC: &str = "orders.placed";

#[test]
fn a_home_copied_from_a_stopped_node_goes_on_as_a_second_line() {
    if !needs::has(&[]) {
        return;
    }
    let mesh = Mesh::star(3);
    mesh[2].publish_lines(TOPIC, &lines("in-the-copy", 100));
    mesh[2].stop();
    let copy = mesh[2].copy_home("copy");
    mesh[2].start();
    goes_on_from(&mesh, |mesh| mesh[2].restore_home(&copy));
}

#[test]
fn a_home_copied_while_it_is_written_to_goes_on_as_a_second_line() {
    if !needs::has(&[]) {
        return;
    }
    let mesh = Mesh::star(3);
    let stream = Stream::start(mesh.node(2), TOPIC, "in-the-copy", 500, &[]);
    stream.wait_for_more(500);
    let copy = mesh[2].copy_home("copy");
    stream.wait_for_more(100);
    stream.finish();
    goes_on_from(&mesh, |mesh| mesh[2].restore_home(&copy));
}

#[test]
fn a_backup_taken_under_load_goes_on_as_a_second_line() {
    if !needs::has(&[]) {
        return;
    }
    let mesh = Mesh::star(3);
    let stream = Stream::start(mesh.node(2), TOPIC, "in-the-copy", 500, &[]);
    stream.wait_for_more(500);
    let file = mesh.folder().join("backup.rdl");
    mesh[2].cli(&["log", "backup", path(&file)]).expect(exit::OK);
    stream.wait_for_more(100);
    stream.finish();
    goes_on_from(&mesh, |mesh| {
        std::fs::remove_dir_all(mesh[2].home.join("log")).expect("the lost log");
        mesh[2].cli(&["log", "restore", path(&file)]).expect(exit::OK);
    });
}

#[test]
fn a_node_that_was_away_gets_both_lines_at_once() {
    if !needs::has(&[]) {
        return;
    }
    let mesh = Mesh::star(3);
    let topics: Vec<String> = (0..20).map(|nth| format!("orders.{nth}")).collect();
    let publish = |what: &str| -> Vec<String> {
        topics.iter().flat_map(|topic| mesh[2].publish_lines(topic, &lines(what, 5))).collect()
    };
    let mut published = publish("in-the-copy");
    mesh[2].stop();
    let copy = mesh[2].copy_home("copy");
    mesh[2].start();
    published.extend(publish("after-the-copy"));
    mesh.converge(mesh.all());
    mesh[1].stop();
    published.extend(publish("while-one-is-away"));
    mesh.converge([0, 2]);
    mesh[2].kill();
    mesh[2].restore_home(&copy);
    mesh.network.cut(0, 2);
    mesh[2].start();
    published.extend(publish("alone"));
    mesh.network.heal();
    mesh.converge([0, 2]);
    // The one line forks off further down, the other goes on where it stopped.
    mesh[1].start();
    mesh.converge(mesh.all());
    let expected: BTreeSet<String> = published.into_iter().collect();
    for node in mesh.all() {
        assert_eq!(ids(&mesh[node].events("orders.*")), expected, "node {node}");
        mesh[node].verify();
    }
}

/// Node 2 loses its disk under load, and its copy publishes before and after it meets the others.
fn goes_on_from(mesh: &Mesh, restore: impl FnOnce(&Mesh)) {
    mesh.connected(mesh.all());
    let elsewhere: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let seen = elsewhere.clone();
    let follower = Follower::start(mesh.node(0), TOPIC, move |event| {
        seen.lock().expect("ids").insert(event.id.clone());
    });
    let (first, second) = (
        Stream::start(mesh.node(2), TOPIC, "after-the-copy", 200, &[]),
        Stream::start(mesh.node(1), TOPIC, "another-author", 200, &[]),
    );
    first.wait_for_more(200);
    mesh[2].kill();
    // Its disk goes, and with it what nobody else has.
    let on_that_disk: BTreeSet<String> = first.finish().into_iter().collect();
    eventually("what was on its way has arrived", || {
        let before = follower.count();
        std::thread::sleep(std::time::Duration::from_secs(1));
        second.count() > 0 && follower.count() > before
    });
    let survives: BTreeSet<String> = on_that_disk.intersection(&elsewhere.lock().expect("ids")).cloned().collect();
    assert!(!survives.is_empty());
    restore(mesh);
    mesh.network.partition(&[&[2], &[0, 1]]);
    mesh[2].start();
    let mut expected: BTreeSet<String> = mesh[2].publish_lines(TOPIC, &lines("alone", 100)).into_iter().collect();
    mesh.network.heal();
    mesh.connected(mesh.all());
    expected.extend(mesh[2].publish_lines(TOPIC, &lines("met", 100)));
    expected.extend(second.finish());
    expected.extend(survives);

    mesh.converge(mesh.all());
    let mut held = Vec::new();
    for node in mesh.all() {
        let events = mesh[node].events(TOPIC);
        let missing: Vec<String> = expected.difference(&ids(&events)).take(5).cloned().collect();
        assert!(missing.is_empty(), "node {node} lacks acknowledged events: {missing:?}");
        for word in ["in-the-copy", "after-the-copy", "another-author", "alone", "met"] {
            is_one_line(&events, word);
        }
        mesh[node].verify();
        held.push(ids(&events));
    }
    assert!(held.iter().all(|ids| *ids == held[0]), "all hold the same");
    eventually("a follower has all", || follower.count() == held[0].len() as u64);
    assert_eq!(follower.take_faults(), Vec::<String>::new());
    for node in mesh.all() {
        let remarks = mesh[node].status().remarks();
        assert!(remarks.contains("line"), "node {node} does not tell of the second line: {remarks}");
    }
}

/// What one run of a publisher sent stands in the order in which it was sent.
fn is_one_line(events: &[Event], word: &str) {
    let of_run = events.iter().filter(|event| event.begins_with(word));
    let numbers: Vec<u64> = of_run
        .map(|event| event.data.as_str().and_then(|data| data.rsplit_once('-')?.1.parse().ok()).expect("a number"))
        .collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{word}: {numbers:?}");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}
