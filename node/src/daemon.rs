//! What `roundelay up` runs: a node on a home, with its API, until somebody stops it.

use std::io;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::server::{Server, ServerError};
use crate::api::tcp::TcpError;
use crate::config::{ConfigError, Options, Settings};
use crate::home::{Home, HomeError};
use crate::identity::{self, KeyError};
use crate::node::{Node, NodeError};
use crate::status::ApiInfo;
use crate::supervisor;

/// How long a node may take to finish its writes and say good-bye.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(15);
/// How long answers may take to be sent after the node has stopped.
const ANSWERS_LIMIT: Duration = Duration::from_secs(1);

/// Why a daemon did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The identity or the mesh key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The node could not start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Its API could not be served.
    #[error(transparent)]
    Api(#[from] ServerError),
    /// Its API could not be served over TCP.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The system does not tell of signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// The node stopped by itself. What was acknowledged is stored.
    #[error("the node stopped: {0}; what was acknowledged is stored, and the store is checked at the next start")]
    Stopped(String),
    /// The node did not stop in time and is left to the system.
    #[error("the node did not stop within {} s and is ended; what was acknowledged is stored", SHUTDOWN_LIMIT.as_secs())]
    Stuck,
}

impl DaemonError {
    /// Whether the operator has to write something else, rather than the system being in trouble.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config(error) => error.is_usage(),
            Self::Home(error) => matches!(error, HomeError::PathTooLong { .. } | HomeError::Unknown),
            _ => false,
        }
    }
}

/// A node that is up.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Who it is.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// Its mesh.
    pub mesh: String,
    /// Full multiaddrs, to be pasted after `--join`.
    pub addresses: Vec<Multiaddr>,
    /// Its home.
    pub home: Home,
    /// How its API is reached over TCP, if it is.
    pub api: Option<ApiInfo>,
}

/// Runs a node on a home until SIGINT, SIGTERM or a request of its API, and closes everything. Calls `ready` once it
/// answers.
///
/// # Errors
/// When it cannot start, or stops by itself.
pub async fn run(home: &Home, options: &Options, ready: impl FnOnce(&Ready)) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    home.create()?;
    let _lock = home.lock()?;
    let settings = Settings::load(home, options)?;
    let keypair = identity::load_or_create(&home.identity_path())?;
    let node = Node::start(settings.node_config(home, keypair)?).await?;
    let outcome = serve(home, &settings, &node, &mut signals, ready).await;
    // After a failure to serve the node still runs; after its own end this returns at once.
    let stopped = tokio::time::timeout(SHUTDOWN_LIMIT, node.shutdown()).await;
    outcome.and(stopped.map_err(|_| DaemonError::Stuck))
}

async fn serve(
    home: &Home,
    settings: &Settings,
    node: &Node,
    signals: &mut Signals,
    ready: impl FnOnce(&Ready),
) -> Result<(), DaemonError> {
    settings.write_first(home)?;
    let server = Server::start(&home.socket_path(), node.clone())?;
    let api = match settings.api.tcp(home) {
        Some(options) => Some(server.listen(&options).await?),
        None => None,
    };
    ready(&Ready {
        id: node.id(),
        name: settings.name.clone(),
        mesh: settings.mesh.clone(),
        addresses: node.addresses(),
        home: home.clone(),
        api,
    });
    supervisor::ready(node);
    let watchdog = tokio::spawn({
        let node = node.clone();
        async move { supervisor::feed_watchdog(&node).await }
    });
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!("stopping after {name}");
            Ok(())
        }
        () = server.asked_to_stop() => {
            tracing::info!("stopping, as was asked");
            Ok(())
        }
        reason = node.stopped() => Err(DaemonError::Stopped(reason)),
    };
    watchdog.abort();
    supervisor::stopping(outcome.as_ref().err().map_or("stopping", |_| "stopping after a failure"));
    server.close();
    // Answers that wait for the node come when it stops.
    if tokio::time::timeout(SHUTDOWN_LIMIT, node.shutdown()).await.is_err() {
        return outcome.and(Err(DaemonError::Stuck));
    }
    server.finish(ANSWERS_LIMIT).await;
    outcome
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
