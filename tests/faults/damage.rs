//! A store that is damaged: it is noticed, set aside and salvaged, the rest comes back from peers, and `status` tells.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::harness::{Mesh, Node, ids, lines, lines_of};
use crate::needs;

const TOPIC: &str = "orders.placed";
const LARGE: &str = "orders.large";

#[test]
fn a_flipped_bit_is_noticed_and_everything_comes_back() {
    let is_noticed = |db: &Path| {
        let mut bytes = fs::read(db).expect("the store");
        let wanted = b"from-2-late-7\"";
        let places: Vec<usize> =
            (0..bytes.len() - wanted.len()).filter(|at| bytes[*at..].starts_with(&wanted[..13])).collect();
        assert!(!places.is_empty(), "an event is in the store as it was published");
        for place in places {
            bytes[place + 3] ^= 0x10;
        }
        fs::write(db, bytes).expect("the store, damaged");
    };
    damaged(is_noticed);
}

#[test]
fn a_truncated_tail_is_noticed_and_everything_comes_back() {
    damaged(|db: &Path| {
        let file = OpenOptions::new().write(true).open(db).expect("the store");
        let length = file.metadata().expect("its length").len();
        file.set_len(length / 3).expect("cut off");
    });
}

#[test]
fn a_store_that_is_no_store_is_set_aside_and_everything_comes_back() {
    damaged(|db: &Path| {
        let length = fs::metadata(db).expect("the store").len() as usize;
        fs::write(db, vec![0xa5; length]).expect("the store, overwritten");
    });
}

fn damaged(damage: impl FnOnce(&Path)) {
    assert!(needs::has(&[]));
    let mesh = Mesh::star(3);
    mesh.connected([0, 1, 2]);
    let mut small = Vec::new();
    for node in mesh.all() {
        small.extend(mesh[node].publish_lines(TOPIC, &lines(&format!("from-{node}"), 300)));
    }
    let large = mesh[2].publish_lines(LARGE, &lines_of("large", 60, 30_000));
    small.extend(mesh[2].publish_lines(TOPIC, &lines("from-2-late", 20)));
    mesh.converge(mesh.all());
    mesh[2].cli(&["topics", "join", "weather.>"]).expect(0);
    mesh[2].stop();
    damage(&mesh[2].home.join("log/db"));

    mesh[2].start();
    assert!(mesh[2].said().contains("the log is damaged"), "{}", mesh[2].said());
    let aside = set_aside(&mesh[2]);
    assert!(aside.join("db").is_file());
    let after = mesh[2].publish_lines(TOPIC, &lines("after", 50));
    mesh.converge(mesh.all());
    small.extend(after);
    // What it published before peers brought back its last events is a second line: numbers come twice, events do not.
    for node in mesh.all() {
        for (topic, published) in [(TOPIC, &small), (LARGE, &large)] {
            let events = mesh[node].events(topic);
            let published: BTreeSet<String> = published.iter().cloned().collect();
            assert!(
                ids(&events) == published,
                "node {node} lacks events of {topic}, or has some that nobody published"
            );
            assert_eq!(events.len(), published.len(), "node {node} delivers an event of {topic} twice");
        }
    }
    mesh[2].verify();
    let status = mesh[2].cli(&["status"]).expect(0).stdout;
    println!("{}", status.lines().find(|line| line.contains("salvaged")).unwrap_or("?"));
    assert!(status.contains("salvaged") && status.contains(&aside.display().to_string()), "{status}");
    // It is no news at the next start, and no longer told when the old store is gone.
    mesh[2].stop();
    fs::remove_dir_all(&aside).expect("the old store");
    mesh[2].start();
    assert!(!mesh[2].cli(&["status"]).stdout.contains("salvaged"));
    mesh.converge(mesh.all());
}

#[track_caller]
fn set_aside(node: &Node) -> PathBuf {
    let entries = fs::read_dir(&node.home).expect("a home").flatten().map(|entry| entry.path());
    let aside = entries.filter(|path| path.to_string_lossy().contains("log.damaged-"));
    aside.last().unwrap_or_else(|| panic!("nothing was set aside:\n{}", node.said()))
}
