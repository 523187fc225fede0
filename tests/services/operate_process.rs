//! A node as a process under others' supervision: what it tells systemd, and what it logs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{DEADLINE, Mesh};

/// What systemd hears.
struct Listener(UnixDatagram);

impl Listener {
    fn bind(mesh: &Mesh) -> (Self, String) {
        let path = mesh.folder().join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        (Self(socket), format!("NOTIFY_SOCKET={}", path.display()))
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("something is told in time");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

#[test]
fn systemd_is_told_that_a_node_is_ready_and_that_it_stops() {
    let mut mesh = Mesh::empty();
    let (listener, variable) = Listener::bind(&mesh);
    let node = mesh.prepare(&[], &[]);
    mesh[node].run_through(&["env", &variable]);
    mesh[node].start();
    let ready = listener.next();
    assert!(ready.contains("READY=1\n") && ready.contains("STATUS=listening on /ip4/"), "{ready}");
    mesh[node].http().get("/readyz").expect(200);
    mesh[node].stop();
    let stopping = listener.next();
    assert!(stopping.contains("STOPPING=1\n"), "{stopping}");
    listener.0.set_nonblocking(true).expect("no waiting");
    assert!(listener.0.recv(&mut [0; 16]).is_err(), "without a watchdog nothing else is told");
}

#[test]
fn the_watchdog_is_fed_while_the_engine_answers() {
    let mut mesh = Mesh::empty();
    let (listener, variable) = Listener::bind(&mesh);
    let node = mesh.prepare(&[], &[]);
    // Long enough for a busy machine: it is fed twice in this time.
    mesh[node].run_through(&["env", &variable, "WATCHDOG_USEC=2000000"]);
    mesh[node].start();
    assert!(listener.next().contains("READY=1"));
    for _ in 0..2 {
        assert_eq!(listener.next().trim_end(), "WATCHDOG=1");
    }
    mesh[node].pause();
    listener.0.set_read_timeout(Some(Duration::from_secs(3))).expect("a deadline");
    // One may have been underway.
    let fed = std::iter::from_fn(|| listener.0.recv(&mut [0; 64]).ok()).take(3).count();
    assert!(fed <= 1, "a process that stands still does not feed its watchdog, and told {fed} times");
    mesh[node].resume();
    listener.0.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    assert_eq!(listener.next().trim_end(), "WATCHDOG=1");
    mesh[node].stop();
}

#[test]
fn logs_are_json_when_they_should_be_and_hold_no_secrets() {
    let mut mesh = Mesh::empty();
    let key = "5ec2e70123456789abcdef0123456789abcdef0123456789abcdef0123456789";
    let key_file = mesh.folder().join("mesh.key");
    fs::write(&key_file, format!("{key}\n")).expect("a key file");
    fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let path = key_file.display().to_string();
    let flags = ["--mesh", "closed", "--mesh-key", path.as_str()];
    let first = mesh.prepare(&[], &flags);
    mesh[first].run_through(&["env", "ROUNDELAY_LOG_FORMAT=json", "ROUNDELAY_LOG=trace"]);
    mesh[first].start();
    let second = mesh.prepare(&[first], &flags);
    mesh[second].run_through(&["env", "ROUNDELAY_LOG=roundelay=debug"]);
    mesh[second].start();
    mesh.connected([first, second]);
    mesh[first].publish("orders", "a letter that only subscribers read");
    mesh.converge([first, second]);
    mesh[second].stop();
    mesh[first].stop();

    let said = mesh[first].said();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() > 20, "it says much: {}", lines.len());
    for line in &lines {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for member in ["timestamp", "level", "target"] {
            assert!(line[member].is_string(), "no {member}: {line}");
        }
    }
    assert!(mesh[second].said().contains(" INFO "), "text for people:\n{}", mesh[second].last_words());
    let identity = fs::read(mesh[first].home.join("identity.key")).expect("the identity");
    let secret = String::from_utf8_lossy(&identity).trim().to_owned();
    for said in [said, mesh[second].said()] {
        assert!(!said.contains(key), "the mesh key is in a log");
        assert!(secret.len() < 16 || !said.contains(&secret), "the identity's secret is in a log");
    }
}
