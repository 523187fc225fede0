//! TCP, an optional pre-shared key, noise and yamux, with names resolved in front.

use std::fmt;
use std::io;
use std::time::Duration;

use futures::TryFutureExt;
use futures::future::Either;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, TransportError, upgrade::Version};
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{PeerId, Transport, dns, noise, tcp, yamux};

use super::MeshError;

/// A connection that has not shaken hands by then is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How far a failed connection got. It travels inside the `io::Error` that the swarm reports.
#[derive(Debug)]
enum Stage {
    Connect(String),
    Handshake(String),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(reason) => write!(f, "{reason}"),
            Self::Handshake(reason) => write!(f, "the handshake failed: {reason}"),
        }
    }
}

impl std::error::Error for Stage {}

/// Builds the transport. It resolves names with the system's settings; if there are none, only IP addresses work.
pub(crate) fn build(
    keypair: &Keypair,
    mesh_key: Option<[u8; 32]>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, MeshError> {
    let noise = noise::Config::new(keypair)
        .map_err(|error| MeshError::Setup { what: "encryption", reason: error.to_string() })?;
    let tcp = || tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let named = dns::tokio::Transport::system(tcp()).unwrap_or_else(|error| {
        tracing::warn!(%error, "no usable DNS settings: addresses with names will not work");
        dns::tokio::Transport::custom(tcp(), dns::ResolverConfig::default(), dns::ResolverOpts::default())
    });
    let key = mesh_key.map(|key| PnetConfig::new(PreSharedKey::new(key)));
    let keyed = named.map_err(|error| Stage::Connect(deepest(&error))).and_then(move |socket, _| match key {
        Some(key) => {
            let shaken = key.handshake(socket).map_err(|error| Stage::Handshake(error.to_string()));
            Either::Left(shaken.map_ok(|socket| keyed_socket(Either::Left(socket))))
        }
        None => Either::Right(futures::future::ready(Ok(keyed_socket(Either::Right(socket))))),
    });
    let secured = keyed.map_err(|error| Stage::Connect(deepest(&error)));
    Ok(secured
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_DEADLINE)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

fn keyed_socket<A, B>(socket: Either<A, B>) -> Either<A, B> {
    socket
}

/// Whether a connection was made and failed only then, as it does when keys differ.
pub(crate) fn failed_in_handshake(error: &TransportError<io::Error>) -> bool {
    let TransportError::Other(error) = error else { return false };
    !chain(error).any(|cause| {
        let stage = cause.downcast_ref::<Stage>();
        matches!(stage, Some(Stage::Connect(_)))
    })
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
