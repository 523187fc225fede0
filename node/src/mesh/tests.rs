//! Real nodes over loopback.

// Events that were not picked come back as the error.
#![allow(clippy::result_large_err)]

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::*;

#[path = "flood_tests.rs"]
mod flood;

const PATIENCE: Duration = Duration::from_secs(20);
const MESSAGE_BYTES: usize = 65 * 1024;

fn config(number: u8) -> MeshConfig {
    MeshConfig {
        keypair: Keypair::ed25519_from_bytes([number; 32]).unwrap(),
        mesh_name: "test".to_owned(),
        mesh_key: None,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        join: Vec::new(),
        advertise: Vec::new(),
        mdns: false,
        min_links: 5,
        max_links: 128,
        max_message_bytes: MESSAGE_BYTES,
    }
}

/// A node under test, with what it was told and did not look at yet.
struct Node {
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    passed: Vec<MeshEvent>,
}

struct Link {
    peer: PeerId,
    link: u64,
    outbound: LinkSender,
    inbound: mpsc::Receiver<Bytes>,
}

impl Node {
    async fn start(config: MeshConfig) -> Self {
        let (mesh, events) = Mesh::start(config, &mut super::Registry::default()).await.unwrap();
        Self { mesh, events, passed: Vec::new() }
    }

    async fn joining(number: u8, join: &[&Node]) -> Self {
        Self::start(MeshConfig { join: join.iter().map(|node| node.address()).collect(), ..config(number) }).await
    }

    fn address(&self) -> Multiaddr {
        self.mesh.addresses()[0].clone()
    }

    /// The first event that `pick` takes, now or soon; the others are kept.
    async fn expect<T>(&mut self, what: &str, pick: impl Fn(MeshEvent) -> Result<T, MeshEvent>) -> T {
        let mut skipped = Vec::new();
        let mut earlier = std::mem::take(&mut self.passed).into_iter();
        let found = timeout(PATIENCE, async {
            loop {
                let event = match earlier.next() {
                    Some(event) => event,
                    None => self.events.recv().await.expect("the mesh runs"),
                };
                match pick(event) {
                    Ok(found) => return found,
                    Err(event) => skipped.push(event),
                }
            }
        })
        .await;
        self.passed = skipped;
        self.passed.extend(earlier);
        found.unwrap_or_else(|_| panic!("{} waits in vain for {what}; saw {:?}", self.mesh.peer_id(), self.passed))
    }

    async fn link(&mut self) -> Link {
        let pick = |event| match event {
            MeshEvent::LinkUp { peer, link, outbound, inbound, .. } => Ok(Link { peer, link, outbound, inbound }),
            other => Err(other),
        };
        self.expect("a link", pick).await
    }

    async fn link_down(&mut self) -> (u64, String) {
        let pick = |event| match event {
            MeshEvent::LinkDown { link, reason, .. } => Ok((link, reason)),
            other => Err(other),
        };
        self.expect("the end of a link", pick).await
    }

    async fn gossip(&mut self) -> (GossipId, PeerId, Bytes) {
        let pick = |event| match event {
            MeshEvent::Gossip { from, id, data, .. } => Ok((id, from, data)),
            other => Err(other),
        };
        self.expect("gossip", pick).await
    }

    async fn notice<T>(&mut self, what: &str, pick: impl Fn(&Notice) -> Option<T>) -> T {
        let pick = |event| match event {
            MeshEvent::Notice(notice) => pick(&notice).ok_or(MeshEvent::Notice(notice)),
            other => Err(other),
        };
        self.expect(what, pick).await
    }

    async fn subscribe(&self, topic: &str) {
        self.mesh.send(MeshCommand::Subscribe(topic.to_owned())).await;
    }

    /// Waits until so many peers share a topic with us.
    async fn wait_for_common_topics(&self, peers: usize) {
        let shared = async {
            while self.mesh.links().await.iter().filter(|link| link.common_topics > 0).count() < peers {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, shared).await.expect("peers share topics");
    }
}

impl Link {
    async fn frame(&mut self) -> Bytes {
        timeout(PATIENCE, self.inbound.recv()).await.expect("a frame in time").expect("a frame")
    }
}

#[tokio::test]
async fn two_nodes_link_and_exchange_frames_both_ways() {
    let mut a = Node::start(config(1)).await;
    let mut b = Node::joining(2, &[&a]).await;
    let (mut to_b, mut to_a) = (a.link().await, b.link().await);
    assert_eq!((to_b.peer, to_a.peer), (b.mesh.peer_id(), a.mesh.peer_id()));
    let large = Bytes::from((0..1024 * 1024).map(|byte| byte as u8).collect::<Vec<_>>());
    for (from, to) in [(&to_b.outbound, &mut to_a.inbound), (&to_a.outbound, &mut to_b.inbound)] {
        for frame in [Bytes::new(), Bytes::from_static(b"small"), large.clone()] {
            from.try_send(frame.clone()).unwrap();
            assert_eq!(timeout(PATIENCE, to.recv()).await.unwrap().unwrap(), frame);
        }
    }
    let via = b.notice("joined", |notice| match notice {
        Notice::JoinedVia { address, .. } => Some(address.clone()),
        _ => None,
    });
    assert_eq!(via.await, a.address());
    assert_eq!(a.mesh.links().await.len(), 1);
    assert!(b.mesh.links().await[0].dialed);

    b.mesh.shutdown().await;
    assert_eq!(a.link_down().await.0, to_b.link);
    assert_eq!(b.link_down().await, (to_a.link, "this node shut down".to_owned()));
    assert!(b.events.recv().await.is_none());
}

#[tokio::test]
async fn a_link_pushes_back_and_says_when_it_is_full() {
    let mut a = Node::start(config(1)).await;
    let mut b = Node::joining(2, &[&a]).await;
    let (to_b, mut to_a) = (a.link().await, b.link().await);
    let frame = Bytes::from(vec![7; 512 * 1024]);
    let mut sent = 0;
    while to_b.outbound.try_send(frame.clone()).is_ok() {
        sent += 1;
        sleep(Duration::from_millis(1)).await;
        assert!(sent < 1_000, "nobody reads, so it fills up");
    }
    assert!(to_b.outbound.queued_bytes() <= limits::MAX_LINK_QUEUE_BYTES);
    for _ in 0..sent {
        assert_eq!(to_a.frame().await, frame);
    }
    assert_eq!(to_b.outbound.queued_bytes(), 0);
}

#[tokio::test]
async fn an_over_long_frame_ends_the_link_and_another_comes() {
    let mut a = Node::start(config(1)).await;
    let mut b = Node::joining(2, &[&a]).await;
    let (to_b, to_a) = (a.link().await, b.link().await);
    to_b.outbound.try_send(Bytes::from(vec![0; limits::MAX_FRAME_BYTES + 1])).unwrap();
    let (link, reason) = b.link_down().await;
    assert_eq!(link, to_a.link);
    assert!(reason.contains("1115137"), "{reason}");
    assert_eq!(a.link_down().await.0, to_b.link);
    let (to_b, mut to_a) = (a.link().await, b.link().await);
    to_b.outbound.try_send(Bytes::from_static(b"again")).unwrap();
    assert_eq!(to_a.frame().await, "again");
}

#[tokio::test]
async fn gossip_goes_down_a_chain_when_the_middle_accepts_it() {
    let mut middle = Node::start(config(1)).await;
    let first = Node::joining(2, &[&middle]).await;
    let mut last = Node::joining(3, &[&middle]).await;
    for node in [&first, &middle, &last] {
        node.subscribe("orders.placed").await;
    }
    first.wait_for_common_topics(1).await;
    middle.wait_for_common_topics(2).await;
    for (number, verdict) in [(0, Verdict::Ignore), (1, Verdict::Reject), (2, Verdict::Accept)] {
        assert!(first.mesh.try_publish("orders.placed", Bytes::from(vec![number; 100])));
        let (id, from, data) = middle.gossip().await;
        assert_eq!((data[0], from), (number, first.mesh.peer_id()));
        middle.mesh.verdict(id, from, verdict);
    }
    let (_, from, data) = last.gossip().await;
    assert_eq!((data[0], from), (2, middle.mesh.peer_id()), "only what the middle accepted");
    assert_eq!(middle.mesh.counters().gossip_messages_in, 3);
}

#[tokio::test]
async fn ten_thousand_topics_do_not_break_the_gossip_stream() {
    let mut a = Node::start(config(1)).await;
    let b = Node::start(config(2)).await;
    for number in 0..10_000 {
        let topic = format!("warehouse.shelf-{number}.moved");
        a.subscribe(&topic).await;
        b.subscribe(&topic).await;
    }
    b.mesh.send(MeshCommand::Join(a.address())).await;
    b.wait_for_common_topics(1).await;
    a.wait_for_common_topics(1).await;
    assert_eq!(a.mesh.links().await[0].common_topics, 10_000);
    assert!(b.mesh.try_publish("warehouse.shelf-9999.moved", Bytes::from_static(b"x")));
    assert_eq!(a.gossip().await.2, "x");
}

#[tokio::test]
async fn a_node_of_another_mesh_is_named_and_left_alone() {
    let mut a = Node::start(config(1)).await;
    let other = MeshConfig { mesh_name: "other".to_owned(), join: vec![a.address()], ..config(2) };
    let mut b = Node::start(other).await;
    let wrong = |notice: &Notice| match notice {
        Notice::WrongMesh { ours, theirs, .. } => Some((ours.clone(), theirs.clone())),
        _ => None,
    };
    assert_eq!(a.notice("wrong mesh", wrong).await, ("test".to_owned(), "other".to_owned()));
    assert_eq!(b.notice("wrong mesh", wrong).await, ("other".to_owned(), "test".to_owned()));
    sleep(Duration::from_secs(2)).await;
    assert!(a.mesh.links().await.is_empty());
    assert_eq!(b.mesh.counters().dials, 1);
    assert_eq!((a.mesh.counters().links_up, b.mesh.counters().links_up), (0, 0));
}

#[tokio::test]
async fn a_wrong_key_is_told_on_both_sides() {
    for (ours, theirs) in [(Some([1; 32]), Some([2; 32])), (Some([1; 32]), None), (None, Some([2; 32]))] {
        let mut a = Node::start(MeshConfig { mesh_key: ours, ..config(1) }).await;
        let mut b = Node::start(MeshConfig { mesh_key: theirs, join: vec![a.address()], ..config(2) }).await;
        let hint = |notice: &Notice| match notice {
            Notice::HandshakeFailed { hint, .. } => Some(hint.clone()),
            _ => None,
        };
        assert!(b.notice("a failed handshake", hint).await.contains("--mesh-key"));
        assert!(a.notice("a failed handshake", hint).await.contains("--mesh-key"));
    }
}

#[tokio::test]
async fn the_same_key_links() {
    let key = Some([9; 32]);
    let mut a = Node::start(MeshConfig { mesh_key: key, ..config(1) }).await;
    let mut b = Node::start(MeshConfig { mesh_key: key, join: vec![a.address()], ..config(2) }).await;
    let (to_b, mut to_a) = (a.link().await, b.link().await);
    to_b.outbound.try_send(Bytes::from(vec![3; 1024 * 1024])).unwrap();
    assert_eq!(to_a.frame().await.len(), 1024 * 1024);
}

#[tokio::test]
async fn offline_has_no_links_and_online_gets_them_back() {
    let mut a = Node::start(config(1)).await;
    let mut b = Node::joining(2, &[&a]).await;
    let mut held = [a.link().await, b.link().await];
    for offline in [1, 2] {
        let node = if offline == 1 { &a } else { &b };
        node.mesh.send(MeshCommand::SetOffline(true)).await;
        let ended = [a.link_down().await.0, b.link_down().await.0];
        assert_eq!(ended, [held[0].link, held[1].link]);
        let node = if offline == 1 { &a } else { &b };
        sleep(Duration::from_secs(1)).await;
        assert!(node.mesh.links().await.is_empty());
        node.mesh.send(MeshCommand::SetOffline(false)).await;
        held = [a.link().await, b.link().await];
    }
}

#[tokio::test]
async fn a_join_address_that_comes_up_late_is_joined() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let late: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", holder.local_addr().unwrap().port()).parse().unwrap();
    let taken =
        Mesh::start(MeshConfig { listen: vec![late.clone()], ..config(1) }, &mut super::Registry::default()).await;
    assert!(matches!(taken, Err(MeshError::Listen { addr, .. }) if addr == late), "the port is taken");
    drop(holder);
    let mut b = Node::start(MeshConfig { join: vec![late.clone()], ..config(2) }).await;
    let failed = |notice: &Notice| match notice {
        Notice::DialFailed { error, next_ms, .. } => Some((error.clone(), *next_ms)),
        _ => None,
    };
    let (error, next_ms) = b.notice("a failed dial", failed).await;
    assert!(error.contains("refused") && (500..=1_000).contains(&next_ms), "{error}, {next_ms}");
    let mut a = Node::start(MeshConfig { listen: vec![late], ..config(1) }).await;
    a.link().await;
    b.link().await;
}

#[tokio::test]
async fn two_processes_of_one_identity_are_noticed_and_oneself_is_not_a_twin() {
    let mut a = Node::start(config(1)).await;
    let mut twin = Node::joining(1, &[&a]).await;
    let seen = |notice: &Notice| matches!(notice, Notice::TwinSeen { .. }).then_some(());
    twin.notice("its twin", seen).await;
    a.notice("its twin", seen).await;

    let mut alone = Node::start(config(3)).await;
    let ourselves = |notice: &Notice| matches!(notice, Notice::Ourselves { .. }).then_some(());
    alone.mesh.send(MeshCommand::Join(alone.address())).await;
    alone.notice("itself", ourselves).await;
    let port = alone.address().to_string().rsplit('/').next().unwrap().to_owned();
    // Another name for the same place: only the handshake tells.
    alone.mesh.send(MeshCommand::Join(format!("/dns4/localhost/tcp/{port}").parse().unwrap())).await;
    alone.notice("itself by name", ourselves).await;
    sleep(Duration::from_secs(5)).await;
    while let Ok(event) = alone.events.try_recv() {
        assert!(!matches!(event, MeshEvent::Notice(Notice::TwinSeen { .. })), "{event:?}");
    }
    assert_eq!(alone.mesh.counters().dials, 2);
}

/// Whichever side opens the link, each process that shares an identity gets it when it took over the connection.
#[tokio::test]
async fn twins_take_turns_at_the_link_of_a_third() {
    for (hub, twins) in [(1, 2), (2, 1)] {
        let hub = Node::start(config(hub)).await;
        let (mut one, mut other) = (Node::joining(twins, &[&hub]).await, Node::joining(twins, &[&hub]).await);
        for _ in 0..4 {
            one.link().await;
            other.link().await;
        }
    }
}

#[tokio::test]
async fn both_dial_at_once_and_there_is_one_link() {
    let (mut a, mut b) = (Node::start(config(1)).await, Node::start(config(2)).await);
    a.mesh.send(MeshCommand::Join(b.address())).await;
    b.mesh.send(MeshCommand::Join(a.address())).await;
    let (to_b, mut to_a) = (a.link().await, b.link().await);
    to_b.outbound.try_send(Bytes::from_static(b"one")).unwrap();
    assert_eq!(to_a.frame().await, "one");
    sleep(Duration::from_secs(2)).await;
    assert_eq!((a.mesh.counters().links_up, b.mesh.counters().links_up), (1, 1));
}

#[tokio::test]
async fn a_peer_that_is_kept_away_stays_away_so_long_and_a_blocked_one_for_good() {
    let mut a = Node::start(config(1)).await;
    let mut b = Node::joining(2, &[&a]).await;
    let peer = b.mesh.peer_id();
    let _held = (a.link().await, b.link().await);
    a.mesh.send(MeshCommand::Disconnect { peer, reason: "enough".to_owned(), keep_away_ms: 2_000 }).await;
    let left = std::time::Instant::now();
    assert_eq!(a.link_down().await.1, "enough");
    let _held = (a.link().await, b.link().await);
    assert!(left.elapsed() >= Duration::from_secs(2));
    a.mesh.send(MeshCommand::Block(peer)).await;
    a.link_down().await;
    sleep(Duration::from_secs(3)).await;
    assert!(a.mesh.links().await.is_empty());
    a.mesh.send(MeshCommand::Unblock(peer)).await;
    a.link().await;
}

/// Needs a network with multicast, which not every sandbox has.
#[tokio::test]
#[ignore = "needs multicast"]
async fn neighbours_find_each_other_by_mdns() {
    let listen = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
    let mut a = Node::start(MeshConfig { mdns: true, listen: listen.clone(), ..config(1) }).await;
    let mut b = Node::start(MeshConfig { mdns: true, listen, ..config(2) }).await;
    assert_eq!(a.link().await.peer, b.mesh.peer_id());
    b.link().await;
}
