//! A peer that speaks the protocols and follows no rules: an identity, libp2p's swarm, and the bytes that a test wants.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::bytes::{Bytes, BytesMut};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, gossipsub, identify, noise, ping, tcp, yamux};
use roundelay::peer_id::author_of;
use roundelay_protocol::frame::{Frame, Hello};
use roundelay_protocol::ids::{Author, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::sign::Ed25519Signer;
use roundelay_protocol::topic::Pattern;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Node};

const MESH: &str = "default";

/// Where all hostile peers of a test run live.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"))
}

/// Waits for something that has to happen.
#[track_caller]
pub(crate) fn block_on<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = runtime().block_on(async { timeout(DEADLINE, future).await });
    outcome.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

enum Order {
    Dial(PeerId, Multiaddr),
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Gossip(String, Vec<u8>),
    HangUp,
}

/// A hostile peer. It lives until it is dropped.
pub(crate) struct Hostile {
    pub(crate) id: PeerId,
    pub(crate) author: Author,
    pub(crate) signer: Ed25519Signer,
    control: libp2p_stream::Control,
    orders: mpsc::UnboundedSender<Order>,
    connected: watch::Receiver<BTreeSet<PeerId>>,
    subscribers: Arc<Mutex<BTreeSet<(PeerId, String)>>>,
}

/// The peer id of an honest node.
pub(crate) fn id_of(node: &Node) -> PeerId {
    node.id().parse().expect("a peer id")
}

impl Hostile {
    /// A peer whose id is smaller than those of `nodes`, so that it opens the sync streams.
    pub(crate) fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let others: Vec<Vec<u8>> = nodes.into_iter().map(|node| id_of(node).to_bytes()).collect();
        let (secret, keypair) = loop {
            let secret: [u8; 32] = *blake3::hash(&random_bytes()).as_bytes();
            let keypair = Keypair::ed25519_from_bytes(secret).expect("a key");
            let id = keypair.public().to_peer_id().to_bytes();
            if others.iter().all(|other| id < *other) {
                break (secret, keypair);
            }
        };
        let id = keypair.public().to_peer_id();
        let (orders, queue) = mpsc::unbounded_channel();
        let (connected_sender, connected) = watch::channel(BTreeSet::new());
        let subscribers = Arc::<Mutex<BTreeSet<_>>>::default();
        let _context = runtime().enter();
        let swarm = build(&keypair);
        let control = swarm.behaviour().streams.new_control();
        runtime().spawn(live(swarm, queue, connected_sender, subscribers.clone()));
        let author = author_of(&id).expect("an ed25519 key");
        Self { id, author, signer: Ed25519Signer::from_secret(&secret), control, orders, connected, subscribers }
    }

    fn order(&self, order: Order) {
        assert!(self.orders.send(order).is_ok(), "the hostile peer lives");
    }

    /// Dials a node past the proxies of the test network, once, without waiting.
    pub(crate) fn dial(&self, node: &Node) {
        let address = Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Tcp(node.hidden_port()));
        self.order(Order::Dial(id_of(node), address));
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected_to(&self, node: &Node) -> bool {
        self.connected.borrow().contains(&id_of(node))
    }

    /// Connects to a node, and tries until it is let in.
    #[track_caller]
    pub(crate) fn connect(&self, node: &Node) {
        crate::harness::eventually("a hostile peer is connected", || {
            if !self.is_connected_to(node) {
                self.dial(node);
                std::thread::sleep(Duration::from_millis(300));
            }
            self.is_connected_to(node)
        });
    }

    /// Waits until a node has hung up.
    #[track_caller]
    pub(crate) fn wait_for_the_end(&self, node: &Node) {
        let (mut connected, id) = (self.connected.clone(), id_of(node));
        drop(block_on("a node hangs up on a peer that breaks the rules", async {
            connected.wait_for(|connected| !connected.contains(&id)).await.map(drop)
        }));
    }

    /// Closes all connections.
    pub(crate) fn hang_up(&self) {
        self.order(Order::HangUp);
    }

    pub(crate) fn subscribe(&self, topics: Vec<String>) {
        self.order(Order::Subscribe(topics));
    }

    pub(crate) fn unsubscribe(&self, topics: Vec<String>) {
        self.order(Order::Unsubscribe(topics));
    }

    /// Gossips bytes under a topic, as soon as a neighbour hears it.
    pub(crate) fn gossip(&self, topic: &str, data: impl Into<Vec<u8>>) {
        self.order(Order::Gossip(topic.to_owned(), data.into()));
    }

    /// Waits until a node hears the gossip of a topic.
    #[track_caller]
    pub(crate) fn wait_for_subscriber(&self, node: &Node, topic: &str) {
        let wanted = (id_of(node), format!("{MESH}/{topic}"));
        crate::harness::eventually("a node subscribes", || {
            self.subscribers.lock().expect("subscribers").contains(&wanted)
        });
    }

    /// Opens a sync stream to a node and says nothing.
    #[track_caller]
    pub(crate) fn open(&self, node: &Node) -> Sync {
        let id = id_of(node);
        let mut control = self.control.clone();
        let protocol = StreamProtocol::try_from_owned(format!("/roundelay/{MESH}/sync/1")).expect("a protocol");
        let stream = block_on("a sync stream", async move { control.open_stream(id, protocol).await });
        Sync { stream: stream.expect("a sync stream"), buffer: BytesMut::new() }
    }

    /// Connects, opens a sync stream, and exchanges hellos, subscribing to all.
    #[track_caller]
    pub(crate) fn meet(&self, node: &Node) -> Sync {
        self.connect(node);
        let mut sync = self.open(node);
        sync.send(&hello());
        sync
    }
}

/// A hello without a memory.
pub(crate) fn hello() -> Frame {
    Frame::Hello(Hello {
        process: 7,
        nonce: 7,
        epoch: StoreEpoch(7),
        clock_ms: crate::forge::now_ms(),
        interest: Interest::new(vec![Pattern::all()], vec![]),
        memory: None,
    })
}

/// A sync stream in hostile hands.
pub(crate) struct Sync {
    stream: Stream,
    buffer: BytesMut,
}

impl Sync {
    /// Sends a frame. False when the stream is at its end.
    pub(crate) fn send(&mut self, frame: &Frame) -> bool {
        self.send_bytes(&frame.encode())
    }

    /// Sends bytes as a frame.
    pub(crate) fn send_bytes(&mut self, frame: &[u8]) -> bool {
        let length = u32::try_from(frame.len()).expect("a frame");
        self.write([&length.to_be_bytes(), frame].concat())
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        block_on("a node reads", async {
            let written = self.stream.write_all(bytes.as_ref()).await;
            written.is_ok() && self.stream.flush().await.is_ok()
        })
    }

    /// Writes as much as the node takes within a time. False when the stream is at its end.
    pub(crate) fn write_for(&mut self, patience: Duration, bytes: &[u8]) -> bool {
        let write = async { timeout(patience, self.stream.write_all(bytes)).await };
        !matches!(runtime().block_on(write), Ok(Err(_)))
    }

    /// The next frame within a time, if there is one.
    pub(crate) fn next(&mut self, patience: Duration) -> Option<Frame> {
        runtime().block_on(async { timeout(patience, self.read()).await.ok().flatten() })
    }

    /// The next frame that `pick` takes; none when the stream ends first.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, what: &str, pick: impl Fn(Frame) -> Option<T>) -> Option<T> {
        block_on(what, async {
            loop {
                if let Some(found) = pick(self.read().await?) {
                    return Some(found);
                }
            }
        })
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*prefix) as usize;
                if self.buffer.len() >= 4 + length {
                    let frame: Bytes = self.buffer.split_to(4 + length).freeze().slice(4..);
                    return Frame::decode(&frame).ok();
                }
            }
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

fn random_bytes() -> Vec<u8> {
    Keypair::generate_ed25519().to_protobuf_encoding().expect("a key")
}

fn build(keypair: &Keypair) -> libp2p::Swarm<Behaviour> {
    let gossip = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::None)
        .message_id_fn(|message: &gossipsub::Message| {
            let id = blake3::hash(&[message.topic.as_str().as_bytes(), &message.data].concat());
            gossipsub::MessageId::new(id.as_bytes())
        })
        .max_transmit_size(8 * 1024 * 1024)
        .max_control_message_size(8 * 1024 * 1024)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .flood_publish(true)
        .build()
        .expect("a config");
    let behaviour = |key: &Keypair| Behaviour {
        gossip: gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, gossip).expect("gossip"),
        identify: identify::Behaviour::new(identify::Config::new(format!("roundelay/1/{MESH}"), key.public())),
        ping: ping::Behaviour::default(),
        streams: libp2p_stream::Behaviour::new(),
    };
    libp2p::SwarmBuilder::with_existing_identity(keypair.clone())
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux::Config::default)
        .expect("a transport")
        .with_behaviour(behaviour)
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(DEADLINE))
        .build()
}

async fn live(
    mut swarm: libp2p::Swarm<Behaviour>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    connected: watch::Sender<BTreeSet<PeerId>>,
    subscribers: Arc<Mutex<BTreeSet<(PeerId, String)>>>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => obey(&mut swarm, order),
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    connected.send_if_modified(|connected| connected.insert(peer_id));
                }
                SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                    connected.send_if_modified(|connected| connected.remove(&peer_id));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Subscribed { peer_id, topic })) => {
                    subscribers.lock().expect("subscribers").insert((peer_id, topic.as_str().to_owned()));
                }
                _ => {}
            },
        }
    }
}

fn obey(swarm: &mut libp2p::Swarm<Behaviour>, order: Order) {
    let wire = |topic: &String| gossipsub::IdentTopic::new(format!("{MESH}/{topic}"));
    match order {
        Order::Dial(peer, address) => {
            let options = DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Always);
            drop(swarm.dial(options.allocate_new_port().build()));
        }
        Order::Subscribe(topics) => {
            topics.iter().for_each(|topic| drop(swarm.behaviour_mut().gossip.subscribe(&wire(topic))));
        }
        Order::Unsubscribe(topics) => {
            for topic in &topics {
                swarm.behaviour_mut().gossip.unsubscribe(&wire(topic));
            }
        }
        Order::Gossip(topic, data) => drop(swarm.behaviour_mut().gossip.publish(wire(&topic), data)),
        Order::HangUp => {
            let everyone: Vec<PeerId> = swarm.connected_peers().copied().collect();
            for peer in everyone {
                let _ = swarm.disconnect_peer_id(peer);
            }
        }
    }
}
