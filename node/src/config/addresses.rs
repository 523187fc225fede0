//! Addresses as people write them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Reads a TCP multiaddr. To listen on, it has to be an address of this machine, without a peer.
pub(crate) fn parse_address(text: &str, to_listen: bool) -> Result<Multiaddr, String> {
    let example = if to_listen { "/ip4/0.0.0.0/tcp/4001" } else { "/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo..." };
    let address: Multiaddr =
        text.parse().map_err(|error| format!("'{text}' is no multiaddr ({error}): write one like {example}"))?;
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let (host, rest) = parts.split_first().ok_or_else(|| format!("an address is empty: write one like {example}"))?;
    let host_fits = match host {
        Protocol::Ip4(_) | Protocol::Ip6(_) => true,
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_) => !to_listen,
        _ => false,
    };
    let rest_fits = match rest {
        [Protocol::Tcp(_)] => true,
        [Protocol::Tcp(_), Protocol::P2p(_)] => !to_listen,
        _ => false,
    };
    if host_fits && rest_fits {
        Ok(address)
    } else {
        Err(format!("'{text}' is no address that this node can use: only TCP is spoken, as in {example}"))
    }
}

/// Reads where the API shall listen: a port alone is one of loopback.
pub(crate) fn parse_api_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port: Option<u16> = if digits { port.parse().ok() } else { None };
    let ip = match host {
        "" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .map_or_else(|| host.parse().ok().map(IpAddr::V4), |host| host.parse().ok().map(IpAddr::V6)),
    };
    ip.zip(port).map(SocketAddr::from).ok_or_else(|| {
        format!("'{text}' is no address: write a port, as in 7777, or an address and a port, as in 192.0.2.7:7777")
    })
}

/// An address with a port that is free now. It is kept in the file, so that the node can be found again.
pub(super) fn free_address() -> Result<Multiaddr, String> {
    let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|listener| listener.local_addr());
    let port = port.map_err(|error| format!("no free port was found ({error}): set listen"))?.port();
    Ok(Multiaddr::from(Ipv4Addr::UNSPECIFIED).with(Protocol::Tcp(port)))
}
