//! Meshes stay apart: by name, and by key against those who want in.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Mesh, eventually, exit};

const TOPIC: &str = "orders.placed";

#[test]
fn the_wrong_mesh_name_is_named() {
    let mut mesh = Mesh::empty();
    let east = mesh.start(&[], &["--mesh", "eastern"]);
    let west = mesh.start(&[east], &["--mesh", "western"]);
    eventually("the joiner names the mesh it met", || mesh[west].said().contains("eastern"));
    eventually("so does peers", || {
        let peers = mesh[west].cli(&["peers"]).expect(exit::OK);
        peers.stdout.contains("eastern") || peers.stderr.contains("eastern")
    });
    stay_apart(&mesh, east, west);
}

#[test]
fn the_wrong_mesh_key_keeps_out_and_the_joiner_is_told() {
    let mut mesh = Mesh::empty();
    let (key, other_key) = (mesh_key(&mesh, "1b"), mesh_key(&mesh, "2c"));
    let member = mesh.start(&[], &["--mesh-key", &key]);
    let stranger = mesh.start(&[member], &["--mesh-key", &other_key]);
    let keyless = mesh.start(&[member], &[]);
    for joiner in [stranger, keyless] {
        eventually("the joiner is told", || mesh[joiner].said().replace('-', " ").contains("mesh key"));
        stay_apart(&mesh, member, joiner);
    }
}

#[test]
fn the_right_name_and_key_let_in() {
    let mut mesh = Mesh::empty();
    let key = mesh_key(&mesh, "1b");
    let flags = ["--mesh", "eastern", "--mesh-key", &key];
    let a = mesh.start(&[], &flags);
    let b = mesh.start(&[a], &flags);
    mesh.connected([a, b]);
    let published = mesh[a].publish(TOPIC, "among us");
    mesh.count(TOPIC, 1, [b]);
    mesh.holds(TOPIC, [&published], [a, b]);
}

fn stay_apart(mesh: &Mesh, a: usize, b: usize) {
    mesh[a].publish(TOPIC, "not for strangers");
    let before = mesh[b].count(TOPIC);
    sleep(Duration::from_secs(3));
    assert_eq!(mesh[b].count(TOPIC), before, "an event crossed");
    assert!(!mesh[a].is_connected_to(&mesh[b]) && !mesh[b].is_connected_to(&mesh[a]));
}

/// A pre-shared key of 32 equal bytes in the usual format, as a file that only its owner can read.
fn mesh_key(mesh: &Mesh, byte: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path: PathBuf = mesh.folder().join(format!("{byte}.key"));
    fs::write(&path, format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", byte.repeat(32))).expect("write a key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    path.to_str().expect("a plain path").to_owned()
}
