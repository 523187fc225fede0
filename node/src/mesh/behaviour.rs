//! The parts of the swarm and how they are set up.

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::metrics::Registry;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{StreamProtocol, identify, mdns, ping};

use super::gate::Gate;
use super::gossip::{self, Gossip, TopicNames};
use super::{MeshConfig, MeshError, Shared, limits, transport};

/// A peer is asked so often whether it is still there, and has so long to answer.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_DEADLINE: Duration = Duration::from_secs(8);
/// A connection without a sync stream for so long is of no use to anybody.
const IDLE: Duration = Duration::from_secs(300);
/// Events of one connection that may wait for the swarm's task.
const CONNECTION_EVENTS: usize = 32;

#[derive(NetworkBehaviour)]
pub(crate) struct MeshBehaviour {
    // The gate comes first: what it denies, the others never see.
    pub(crate) gate: Gate,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) gossip: Gossip,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) streams: libp2p_stream::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// What identify says of a node of this mesh.
pub(crate) fn protocol_version(mesh_name: &str) -> String {
    format!("{PROTOCOL_PREFIX}{mesh_name}")
}

/// What identify's version starts with for every node of any mesh.
pub(crate) const PROTOCOL_PREFIX: &str = "roundelay/1/";

/// The protocol of the sync streams of this mesh.
pub(crate) fn sync_protocol(mesh_name: &str) -> Result<StreamProtocol, MeshError> {
    StreamProtocol::try_from_owned(format!("/roundelay/{mesh_name}/sync/1"))
        .map_err(|error| MeshError::Setup { what: "the sync protocol", reason: error.to_string() })
}

/// Builds the swarm; it listens and dials nowhere yet.
pub(crate) fn build_swarm(
    config: &MeshConfig,
    names: &TopicNames,
    shared: &Shared,
    registry: &mut Registry,
) -> Result<Swarm<MeshBehaviour>, MeshError> {
    let public = config.keypair.public();
    let me = public.to_peer_id();
    let links = u32::try_from(config.max_links).unwrap_or(u32::MAX);
    let connections = ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits::MAX_PENDING_INBOUND))
        .with_max_pending_outgoing(Some(2 * limits::MAX_DIALS as u32))
        .with_max_established_per_peer(Some(limits::MAX_CONNECTIONS_PER_PEER))
        .with_max_established(Some(links.saturating_mul(limits::MAX_CONNECTIONS_PER_PEER)));
    let identify = identify::Config::new(protocol_version(&config.mesh_name), public)
        .with_agent_version(format!("roundelay/{} {:016x}", env!("CARGO_PKG_VERSION"), rand::random::<u64>()))
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    let behaviour = MeshBehaviour {
        gate: Gate::new(config.max_links),
        limits: connection_limits::Behaviour::new(connections),
        gossip: gossip::build(names, config.max_message_bytes, registry)?,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_DEADLINE)),
        streams: libp2p_stream::Behaviour::new(),
        mdns: build_mdns(config).into(),
    };
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_per_connection_event_buffer_size(CONNECTION_EVENTS);
    let transport = transport::build(&config.keypair, config.mesh_key, shared)?;
    Ok(Swarm::new(transport, behaviour, me, swarm_config))
}

/// mDNS if it is wanted and the network lets us; a mesh works without.
fn build_mdns(config: &MeshConfig) -> Option<mdns::tokio::Behaviour> {
    if !config.mdns {
        return None;
    }
    mdns::tokio::Behaviour::new(mdns::Config::default(), config.keypair.public().to_peer_id())
        .inspect_err(|error| tracing::warn!(%error, "no mDNS here: neighbours are not found by themselves"))
        .ok()
}
