//! TCP, an optional pre-shared key, noise and yamux, with names resolved in front.

use std::io;
use std::time::Duration;

use futures::TryFutureExt;
use futures::future::Either;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, TransportError, upgrade::Version};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{Multiaddr, PeerId, Transport, dns, noise, tcp, yamux};

use super::{MeshError, Shared};

/// A connection that has not shaken hands by then is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// No connection was made at all. Anything else that fails, fails in the handshake.
///
/// libp2p wraps it in `Either`s, which pass on the source of what they hold but never what they hold: so it is a
/// source itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unreached(#[source] NoConnection);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoConnection(String);

/// Builds the transport. It resolves names with the system's settings; if there are none, only IP addresses work.
pub(crate) fn build(
    keypair: &Keypair,
    mesh_key: Option<[u8; 32]>,
    shared: &Shared,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, MeshError> {
    let noise = noise::Config::new(keypair)
        .map_err(|error| MeshError::Setup { what: "encryption", reason: error.to_string() })?;
    let tcp = || tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let named = dns::tokio::Transport::system(tcp()).unwrap_or_else(|error| {
        tracing::warn!(%error, "no usable DNS settings: addresses with names will not work");
        dns::tokio::Transport::custom(tcp(), dns::ResolverConfig::default(), dns::ResolverOpts::default())
    });
    let key = mesh_key.map(|key| PnetConfig::new(PreSharedKey::new(key)));
    let reached = named.map_err(|error| Unreached(NoConnection(deepest(&error))));
    let keyed = reached.and_then(move |socket, _| match key {
        Some(key) => Either::Left(key.handshake(socket).map_ok(Either::Left)),
        None => Either::Right(futures::future::ready(Ok(Either::Right(socket)))),
    });
    let (flow, counters) = (shared.flow.clone(), shared.counters.clone());
    Ok(keyed
        .upgrade(Version::V1)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_DEADLINE)
        .map(move |(peer, muxer), _| (peer, flow.watch(peer, StreamMuxerBox::new(muxer), counters)))
        .boxed())
}

/// Whether a connection was made and failed only then, as it does when keys differ.
pub(crate) fn failed_in_handshake(error: &TransportError<io::Error>) -> bool {
    let TransportError::Other(error) = error else { return false };
    !chain(error).any(|cause| cause.is::<NoConnection>())
}

/// What went wrong, without the wrappers' repetitions.
pub(crate) fn describe(error: &TransportError<io::Error>) -> String {
    match error {
        TransportError::MultiaddrNotSupported(address) => format!("{address} is not an address that can be dialled"),
        TransportError::Other(error) => deepest(error),
    }
}

fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| match error.downcast_ref::<io::Error>() {
        // An io::Error's source is that of what it wraps, which would skip the wrapped error itself.
        Some(outer) => outer.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
        None => error.source(),
    })
}

/// Why nobody else could listen on an address, if so.
pub(crate) fn port_in_use(address: &Multiaddr) -> Option<std::io::Error> {
    let mut parts = address.iter();
    let ip: std::net::IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else { return None };
    std::net::TcpListener::bind((ip, port)).err().filter(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}
