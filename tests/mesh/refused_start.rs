//! A daemon that cannot start says why in a sentence, and ends with the right code.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Mesh, exit};

#[test]
fn the_port_is_taken() {
    let mut mesh = Mesh::empty();
    let node = mesh.prepare(&[], &[]);
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, mesh[node].hidden_port())).expect("the port");
    let port = mesh[node].hidden_port().to_string();
    mesh[node].run_to_its_end().expect(exit::FAILURE).saying(&["in use", "taken"]).saying(&[&port]);
}

#[test]
fn the_port_is_taken_by_another_node() {
    let mut mesh = Mesh::star(1);
    let taken = format!("/ip4/127.0.0.1/tcp/{}", mesh[0].hidden_port());
    let node = mesh.prepare(&[], &["--listen", &taken]);
    mesh[node].run_to_its_end().expect(exit::FAILURE).saying(&["in use", "taken"]);
}

#[test]
fn a_second_daemon_on_one_home() {
    let mesh = Mesh::star(1);
    mesh[0].run_to_its_end().expect(exit::FAILURE).saying(&["already", "another"]);
    assert!(mesh[0].status().healthy(), "the first is not disturbed");
}

#[test]
fn a_key_file_that_others_can_read() {
    let mesh = Mesh::star(1);
    mesh[0].stop();
    let key = mesh[0].file("key");
    assert_eq!(fs::metadata(&key).expect("the key").permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("its mode");
    mesh[0].run_to_its_end().expect(exit::FAILURE).saying(&["permission", "mode", "644", "0600"]).saying(&["key"]);
}

#[test]
fn a_key_file_that_makes_no_sense() {
    let mesh = Mesh::star(1);
    mesh[0].stop();
    let key = mesh[0].file("key");
    let before = "no key at all";
    fs::write(&key, before).expect("write the key");
    mesh[0].run_to_its_end().expect(exit::FAILURE).saying(&["key"]);
    assert_eq!(fs::read_to_string(&key).expect("the key"), before, "it is not replaced");
}

#[test]
fn a_mesh_key_that_is_not_there() {
    let mut mesh = Mesh::empty();
    let missing = mesh.folder().join("missing.key").to_str().expect("a plain path").to_owned();
    let node = mesh.prepare(&[], &["--mesh-key", &missing]);
    mesh[node].run_to_its_end().expect(exit::FAILURE).saying(&["missing.key"]);
}

#[test]
fn a_corrupt_config() {
    let mesh = Mesh::star(1);
    mesh[0].stop();
    let config = mesh[0].file(".toml");
    let good = fs::read_to_string(&config).expect("the config");
    assert!(good.contains('#'), "it is written with comments:\n{good}");
    fs::write(&config, "listen = [\nthis is = no toml").expect("write the config");
    let name = config.file_name().and_then(|name| name.to_str()).expect("a plain name");
    mesh[0].run_to_its_end().expect(exit::USAGE).saying(&[name]);
    fs::write(&config, format!("{good}\nno_such_setting = 1\n")).expect("write the config");
    mesh[0].run_to_its_end().expect(exit::USAGE).saying(&["no_such_setting"]);
    fs::write(&config, good).expect("write the config");
    mesh[0].start();
}

#[test]
fn bad_multiaddrs() {
    let mut mesh = Mesh::empty();
    for (flag, address) in [
        ("--join", "127.0.0.1:4001"),
        ("--join", "/ip4/127.0.0.1/tcp/notaport"),
        ("--join", "/ip4/127.0.0.1/tcp/4001/p2p/nobody"),
        ("--listen", "/ip4/300.0.0.1/tcp/0"),
        ("--advertise", "http://example.org"),
    ] {
        let node = mesh.prepare(&[], &[flag, address]);
        mesh[node].run_to_its_end().expect(exit::USAGE).saying(&[address]);
    }
}

#[test]
fn bad_patterns() {
    let mut mesh = Mesh::empty();
    for pattern in ["orders..placed", "orders.>.placed", "orders.pla*"] {
        let node = mesh.prepare(&[], &["--topic", pattern]);
        mesh[node].run_to_its_end().expect(exit::USAGE).saying(&[pattern]);
    }
}
