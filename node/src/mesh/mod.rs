//! The mesh: libp2p connections, gossip, dialling, and one sync stream per pair of peers. The only place that imports
//! libp2p's swarm.
//!
//! One task owns the swarm and never waits. [`Mesh`] hands it commands over bounded queues; what happens comes back as
//! [`MeshEvent`]s. Gossip may be lost anywhere; a link's frames arrive in order until its `LinkDown`.

mod address;
mod backoff;
mod behaviour;
mod connections;
mod counters;
mod dial;
mod driver;
mod events;
mod flow;
mod gate;
mod gossip;
pub mod limits;
mod link;
mod outbox;
mod peers;
mod sync;
mod traffic;
mod transport;
mod twin;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
pub use libp2p::{Multiaddr, PeerId, identity::Keypair};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};

pub use address::host_tag;
use counters::Counters;
pub use counters::MeshCounters;
use driver::Driver;
pub use events::{Candidate, GossipId, LinkInfo, MeshCommand, MeshEvent, Notice, Verdict};
use flow::Flow;
pub use libp2p::metrics::Registry;
pub use link::{LinkFull, LinkSender};

/// How to take part in a mesh.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Who we are. No two live nodes may share it.
    pub keypair: Keypair,
    /// Which mesh. Nodes of different names do not link.
    pub mesh_name: String,
    /// A key that every node of the mesh has. Whoever lacks it does not get through the handshake.
    pub mesh_key: Option<[u8; 32]>,
    /// Where to listen. Port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// Whom to join, with or without `/p2p/PEER`; tried for ever.
    pub join: Vec<Multiaddr>,
    /// If not empty, only these addresses are told to others.
    pub advertise: Vec<Multiaddr>,
    /// Find neighbours by mDNS. Only for a mesh with a name or key of its own, or strangers' logs merge.
    pub mdns: bool,
    /// Links to keep, if there are enough peers.
    pub min_links: usize,
    /// Links to have at most: beyond it, inbound connections are refused.
    pub max_links: usize,
    /// Bytes of the largest gossip message. Larger ones are neither published nor taken.
    pub max_message_bytes: usize,
}

/// Why the mesh could not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// An address to listen on is taken, not ours, or of no kind that we can listen on.
    #[error("cannot listen on {addr}: {source}; choose another address or port, or stop what uses it")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system did not report the addresses of a listener in time.
    #[error("listening, but no address was reported within 5 s; look at the network interfaces")]
    NoAddresses,
    /// A part could not be set up.
    #[error("cannot set up {what}: {reason}; check the mesh name, and that the system has network interfaces")]
    Setup {
        /// Which part.
        what: &'static str,
        /// What it says.
        reason: String,
    },
}

/// What the handles and the swarm's task share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    counters: Arc<Counters>,
    flow: Arc<Flow>,
    publish_bytes: AtomicUsize,
    /// One entry for each message that is judged and not yet looked at: never more than were handed out.
    verdicts: Mutex<Vec<(GossipId, PeerId, Verdict)>>,
    verdict_came: Notify,
    addresses: RwLock<Vec<Multiaddr>>,
}

#[derive(Debug)]
pub(crate) struct Publish {
    topic: String,
    data: Bytes,
}

#[derive(Debug)]
pub(crate) enum Request {
    Command(MeshCommand),
    Links(oneshot::Sender<Vec<LinkInfo>>),
    Shutdown(oneshot::Sender<()>),
}

/// A handle to the mesh. Clones share one swarm, which ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Mesh {
    peer_id: PeerId,
    max_message_bytes: usize,
    requests: mpsc::Sender<Request>,
    publishes: mpsc::Sender<Publish>,
    shared: Arc<Shared>,
}

impl Mesh {
    /// Starts the swarm's task on the current tokio runtime and listens. Returns once every listener has reported its
    /// addresses. What libp2p measures goes to the registry, under names that begin with `libp2p`.
    ///
    /// # Errors
    /// If an address cannot be listened on, or none is reported within 5 s.
    pub async fn start(
        config: MeshConfig,
        registry: &mut Registry,
    ) -> Result<(Self, mpsc::Receiver<MeshEvent>), MeshError> {
        let (requests, request_queue) = mpsc::channel(limits::MAX_COMMAND_QUEUE);
        let (publishes, publish_queue) = mpsc::channel(limits::MAX_PUBLISH_QUEUE_MESSAGES);
        let (event_sender, events) = mpsc::channel(limits::MAX_EVENT_QUEUE);
        let shared = Arc::new(Shared::default());
        let mesh = Self {
            peer_id: config.keypair.public().to_peer_id(),
            max_message_bytes: config.max_message_bytes,
            requests,
            publishes,
            shared: shared.clone(),
        };
        let mut driver = Driver::new(config, shared, event_sender, registry)?;
        driver.listen().await?;
        tokio::spawn(driver.run(request_queue, publish_queue));
        Ok((mesh, events))
    }

    /// Who we are.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Our addresses as of now: what the last [`MeshEvent::Addresses`] said.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.shared.addresses.read().clone()
    }

    /// Gives a command. Waits while the queue of commands is full; after the end of the swarm's task it does nothing.
    pub async fn send(&self, command: MeshCommand) {
        // A mesh that has ended takes no commands; whoever sends them learns of the end from the event channel.
        let _ = self.requests.send(Request::Command(command)).await;
    }

    /// Publishes a message to those who subscribe to the topic. False if it was dropped, because it is too large or
    /// the queue is full; reconciliation brings its batches then.
    pub fn try_publish(&self, topic: &str, data: Bytes) -> bool {
        let bytes = data.len();
        let queued = self.shared.publish_bytes.fetch_add(bytes, Relaxed) + bytes;
        let fits = bytes <= self.max_message_bytes && queued <= limits::MAX_PUBLISH_QUEUE_BYTES;
        let taken = fits && self.publishes.try_send(Publish { topic: topic.to_owned(), data }).is_ok();
        if !taken {
            self.shared.publish_bytes.fetch_sub(bytes, Relaxed);
            self.shared.counters.publishes_dropped.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Judges a gossip message: exactly once each, within two seconds, or it is not forwarded.
    pub fn verdict(&self, id: GossipId, from: PeerId, verdict: Verdict) {
        self.shared.verdicts.lock().push((id, from, verdict));
        self.shared.verdict_came.notify_one();
    }

    /// What waits in the queues of commands, of messages to be gossiped, and how much each takes.
    pub(crate) fn queues(&self) -> [(usize, usize); 2] {
        let publishes = (self.publishes.max_capacity() - self.publishes.capacity(), self.publishes.max_capacity());
        [(self.requests.max_capacity() - self.requests.capacity(), self.requests.max_capacity()), publishes]
    }

    /// The peers with a connection, as of now.
    pub async fn links(&self) -> Vec<LinkInfo> {
        let (answer, links) = oneshot::channel();
        if self.requests.send(Request::Links(answer)).await.is_err() {
            return Vec::new();
        }
        links.await.unwrap_or_default()
    }

    /// What happened since the start.
    pub fn counters(&self) -> MeshCounters {
        self.shared.counters.read()
    }

    /// Writes out what links have queued, closes every connection and listener, and ends the swarm's task. Takes about
    /// a second at most.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.requests.send(Request::Shutdown(done)).await.is_ok() {
            let _ = ended.await;
        }
    }
}

#[cfg(test)]
mod tests;
