//! Several nodes in one process, on loopback, in a folder of their own.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Index;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use roundelay_protocol::event::Item;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Pattern;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::api::server::{Server, ServerError};
use crate::api::tcp::TcpError;
use crate::config::{ApiSettings, ConfigError, Settings};
use crate::home::{Home, HomeError, HomeLock};
use crate::identity::{self, KeyError};
use crate::log::LogError;
use crate::node::{CallError, Node, NodeError};
use crate::status::ApiInfo;

/// The mesh that they form.
const MESH: &str = "local";
/// Links that each node keeps, if there are enough nodes.
const MIN_LINKS: usize = 4;
/// Links that each node has at most.
const MAX_LINKS: usize = 64;
/// How long answers of a node's API may take to be sent after it has stopped.
const ANSWERS_LIMIT: Duration = Duration::from_secs(1);
/// A port of loopback that the system chooses.
const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);
/// Batches, and their bytes, that one look into a log reads.
const SCAN_BATCHES: usize = 256;
const SCAN_BYTES: usize = 4 * 1024 * 1024;

/// How to start a [`LocalMesh`].
#[derive(Debug, Clone)]
pub struct LocalMeshOptions {
    /// The nodes' names; each is also the name of the node's home. The first is the one that the others join.
    pub names: Vec<String>,
    /// What every node subscribes to.
    pub topics: Vec<Pattern>,
    /// Where the mesh's folder is made; without it, where the system keeps temporary files.
    pub parent: Option<PathBuf>,
    /// Bytes that each store may take before the oldest events of others are pruned.
    pub store_cap_bytes: u64,
    /// Serve each node's API over TCP on loopback, too.
    pub api: bool,
    /// Between two heartbeats of each node; zero for none.
    pub heartbeat: Duration,
}

impl LocalMeshOptions {
    /// Nodes of these names that subscribe to everything.
    pub fn new<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            names: names.into_iter().map(Into::into).collect(),
            topics: vec![Pattern::all()],
            parent: None,
            store_cap_bytes: 10 << 30,
            api: false,
            heartbeat: Duration::ZERO,
        }
    }
}

/// Why a mesh in this process does not come about. Nodes that had started are stopped with the process.
#[derive(Debug, thiserror::Error)]
pub enum LocalMeshError {
    /// No folder for the homes.
    #[error("cannot make a folder for the nodes: {0}; name another place, or set TMPDIR")]
    Folder(#[source] std::io::Error),
    /// A node's home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A node's config cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node's identity cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A node did not start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A node's API cannot be served.
    #[error(transparent)]
    Api(#[from] ServerError),
    /// A node's API cannot be served over TCP.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// A node ended meanwhile.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The nodes run and did not find each other.
    #[error("after {0} s the nodes are not linked: look whether something keeps TCP on 127.0.0.1 from working")]
    NotLinked(u64),
}

/// One node of a [`LocalMesh`].
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// Its home.
    pub home: PathBuf,
    /// The running node.
    pub node: Node,
    /// How its API is reached over TCP, if it is.
    pub api: Option<ApiInfo>,
    server: Server,
    _lock: HomeLock,
}

/// Several nodes in this process. Dropping it removes the homes, unless [`LocalMesh::keep`] was called.
pub struct LocalMesh {
    nodes: Vec<LocalNode>,
    folder: TempDir,
}

impl LocalMesh {
    /// Starts the nodes, each joined to the first, and returns when they are linked.
    ///
    /// # Errors
    /// When there is no folder for them, one does not start, or they do not find each other within 30 s.
    pub async fn start(options: LocalMeshOptions) -> Result<Self, LocalMeshError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("roundelay-");
        let folder = match &options.parent {
            Some(parent) => std::fs::create_dir_all(parent).and_then(|()| builder.tempdir_in(parent)),
            None => builder.tempdir(),
        };
        let mut mesh = Self { nodes: Vec::new(), folder: folder.map_err(LocalMeshError::Folder)? };
        for name in &options.names {
            mesh.add(name, &options).await?;
        }
        mesh.linked(Duration::from_secs(30)).await?;
        Ok(mesh)
    }

    /// Starts one more node that joins the first.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add(&mut self, name: &str, options: &LocalMeshOptions) -> Result<&LocalNode, LocalMeshError> {
        let home = Home::at(self.folder.path().join(name));
        home.create()?;
        let lock = home.lock()?;
        let keypair = identity::load_or_create(&home.identity_path())?;
        // Not from the environment, whose variables are meant for daemons.
        let settings = Settings {
            name: name.to_owned(),
            mesh: MESH.to_owned(),
            mesh_key_file: None,
            listen: vec![Multiaddr::empty().with(Protocol::Ip4([127, 0, 0, 1].into())).with(Protocol::Tcp(0))],
            join: self.nodes.first().map(|first| first.node.addresses()).unwrap_or_default(),
            advertise: Vec::new(),
            topics: options.topics.clone(),
            mdns: false,
            min_links: MIN_LINKS,
            max_links: MAX_LINKS,
            store_cap_bytes: options.store_cap_bytes,
            log_limits: roundelay_protocol::quota::LogLimits::default(),
            api: ApiSettings { listen: options.api.then_some(FREE_PORT), ..ApiSettings::default() },
            dedup_window: crate::node::DEFAULT_DEDUP_WINDOW,
            heartbeat: options.heartbeat,
        };
        let node = Node::start(settings.node_config(&home, keypair)?).await?;
        settings.write_first(&home)?;
        let server = Server::start(&home.socket_path(), node.clone())?;
        let api = match settings.api.tcp(&home) {
            Some(tcp) => Some(server.listen(&tcp).await?),
            None => None,
        };
        let home = home.path().to_owned();
        self.nodes.push(LocalNode { name: name.to_owned(), home, node, api, server, _lock: lock });
        Ok(&self.nodes[self.nodes.len() - 1])
    }

    /// Waits until every node has as many links as it strives for.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or a node has stopped.
    pub async fn linked(&self, limit: Duration) -> Result<(), LocalMeshError> {
        let wanted = MIN_LINKS.min(self.nodes.len().saturating_sub(1));
        let start = Instant::now();
        for node in &self.nodes {
            while node.links().await? < wanted {
                if start.elapsed() > limit {
                    return Err(LocalMeshError::NotLinked(limit.as_secs()));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The nodes, in the order of their names.
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// The folder that holds the homes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the homes where they are.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// Stops all nodes.
    pub async fn shutdown(self) {
        let stop = |node: LocalNode| async move {
            node.server.close();
            node.node.shutdown().await;
            node.server.finish(ANSWERS_LIMIT).await;
        };
        futures::future::join_all(self.nodes.into_iter().map(stop)).await;
    }
}

impl Index<usize> for LocalMesh {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.nodes[index].node
    }
}

impl LocalNode {
    /// Its links now.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn links(&self) -> Result<usize, CallError> {
        Ok(self.node.status().await?.peers.iter().filter(|peer| peer.connected).count())
    }
}

/// Waits until nodes hold the same logs to the same place. False when `limit` has passed before.
///
/// # Errors
/// When a node has stopped.
pub async fn agreed<'a, I>(nodes: I, limit: Duration) -> Result<bool, CallError>
where
    I: IntoIterator<Item = &'a LocalNode>,
{
    let (nodes, start): (Vec<_>, _) = (nodes.into_iter().collect(), Instant::now());
    while !agree(&nodes).await? {
        if start.elapsed() > limit {
            return Ok(false);
        }
        sleep(POLL).await;
    }
    Ok(true)
}

async fn agree(nodes: &[&LocalNode]) -> Result<bool, CallError> {
    let mut known = None;
    for node in nodes {
        let digests = topic_digests(&node.node).await?;
        if *known.get_or_insert_with(|| digests.clone()) != digests {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The digest of each topic that a node holds events of, without the system's.
///
/// # Errors
/// When the node has stopped.
pub async fn topic_digests(node: &Node) -> Result<BTreeMap<String, String>, CallError> {
    let topics = node.status().await?.topics.into_iter();
    let held = topics.filter(|topic| topic.events > 0 && !topic.topic.starts_with('_'));
    Ok(held.map(|topic| (topic.topic, topic.digest)).collect())
}

/// The ids of all events that match a pattern, read from a node's log on disk, and how many events that were.
///
/// # Errors
/// When the log cannot be read.
pub async fn held_ids(node: &Node, pattern: Pattern) -> Result<(HashSet<String>, u64), LogError> {
    let log = node.log();
    let read = tokio::task::spawn_blocking(move || {
        let (mut ids, mut events, mut after) = (HashSet::new(), 0, Arrival(0));
        loop {
            let last = log.last_arrival();
            let scan = log.scan_topic(&|topic| pattern.matches(topic), after, SCAN_BATCHES, SCAN_BYTES)?;
            for (_, batch) in &scan.batches {
                for (_, item) in batch.items() {
                    if let Item::Event(event) = item {
                        ids.insert(event.id.to_owned());
                        events += 1;
                    }
                }
            }
            after = scan.next;
            if scan.batches.is_empty() && after >= last {
                return Ok((ids, events));
            }
        }
    });
    read.await.unwrap_or(Err(LogError::Closed))
}
