//! The harness itself: its network does to connections what it promises, whoever they belong to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{Network, Way, eventually};

/// A dialler in this process (node 0), and a listener (node 1) behind its proxy.
struct Pair {
    network: Network,
    listener: TcpListener,
    public_port: u16,
}

impl Pair {
    fn new() -> Self {
        let network = Network::new();
        let (dialler, _, _) = network.add();
        let (_, hidden_port, public_port) = network.add();
        network.set_pid(dialler, Some(std::process::id()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, hidden_port)).expect("the hidden port");
        Self { network, listener, public_port }
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.public_port)).expect("the proxy");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream
    }

    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = self.dial();
        let (server, _) = self.listener.accept().expect("the proxy connects");
        server.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        (client, server)
    }
}

fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("bytes arrive");
    String::from_utf8(bytes).expect("text")
}

fn nothing_arrives(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let outcome = stream.read(&mut [0; 1]);
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    outcome.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn is_reset(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_pass_both_ways_and_are_counted() {
    let pair = Pair::new();
    let (mut client, mut server) = pair.connect();
    client.write_all(b"hello").expect("write");
    assert_eq!(read(&mut server, 5), "hello");
    server.write_all(b"you too").expect("write");
    assert_eq!(read(&mut client, 7), "you too");
    eventually("both are counted", || pair.network.carried_bytes(0, 1) == 5 && pair.network.carried_bytes(1, 0) == 7);
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).expect("a farewell"), 0);
}

#[test]
fn a_cut_resets_what_is_open_and_refuses_what_is_new() {
    let pair = Pair::new();
    let (mut client, mut server) = pair.connect();
    pair.network.cut(0, 1);
    assert!(is_reset(&mut client) && is_reset(&mut server));
    assert!(is_reset(&mut pair.dial()));
    pair.network.heal();
    let (mut client, mut server) = pair.connect();
    client.write_all(b"again").expect("write");
    assert_eq!(read(&mut server, 5), "again");
}

#[test]
fn what_is_held_arrives_later_and_what_is_swallowed_never() {
    let pair = Pair::new();
    let (mut client, mut server) = pair.connect();
    pair.network.one_way(0, 1, Way::Hold);
    client.write_all(b"late").expect("write");
    assert!(nothing_arrives(&mut server));
    server.write_all(b"back").expect("write");
    assert_eq!(read(&mut client, 4), "back");
    pair.network.heal();
    assert_eq!(read(&mut server, 4), "late");

    pair.network.one_way(0, 1, Way::Swallow);
    client.write_all(b"lost").expect("write");
    assert!(nothing_arrives(&mut server));
    pair.network.heal();
    assert!(is_reset(&mut client), "a stream with a hole in it cannot go on");
}

#[test]
fn a_slow_link_takes_its_time_without_losing_anything() {
    let pair = Pair::new();
    pair.network.slow(0, 1, Duration::from_millis(200), Some(1_000_000));
    let (mut client, mut server) = pair.connect();
    let start = std::time::Instant::now();
    let sent = "x".repeat(300_000);
    client.write_all(sent.as_bytes()).expect("write");
    assert_eq!(read(&mut server, sent.len()), sent);
    assert!(start.elapsed() >= Duration::from_millis(400), "it took {:?}", start.elapsed());
}

#[test]
fn each_connection_is_known_by_the_process_that_dialled() {
    let pair = Pair::new();
    let (third, _, _) = pair.network.add();
    let mut other = Dialler::start(pair.public_port);
    pair.network.set_pid(third, Some(other.0.id()));
    other.go();
    let (mut from_other, _) = pair.listener.accept().expect("the proxy connects");
    assert_eq!(read(&mut from_other, 3), "hi\n");
    let (mut client, _server) = pair.connect();
    eventually("its bytes are its own", || pair.network.carried_bytes(third, 1) == 3);
    assert_eq!(pair.network.carried_bytes(0, 1), 0);
    pair.network.cut(third, 1);
    assert!(is_reset(&mut from_other));
    assert!(nothing_arrives(&mut client), "only the other one was cut off");
}

#[test]
#[should_panic(expected = "past its proxy")]
fn a_connection_past_the_proxy_is_noticed() {
    let pair = Pair::new();
    let mut other = Dialler::start(pair.listener.local_addr().expect("its address").port());
    pair.network.set_pid(0, Some(other.0.id()));
    other.go();
    let _direct = pair.listener.accept().expect("it connects");
    pair.network.assert_no_bypass();
}

/// Another process that connects once it is told to.
struct Dialler(Child);

impl Dialler {
    fn start(port: u16) -> Self {
        let script = format!("read go; exec 3<>/dev/tcp/127.0.0.1/{port}; echo hi >&3; cat <&3");
        let child = Command::new("bash").arg("-c").arg(script).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
        Self(child.expect("bash"))
    }

    fn go(&mut self) {
        self.0.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}
