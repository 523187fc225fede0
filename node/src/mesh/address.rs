//! Which addresses of others can work from here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use libp2p::multiaddr::{Multiaddr, Protocol};

/// A tag that two processes share exactly when they share a loopback interface: the same boot of the same kernel and
/// the same network namespace. 0 where the system doesn't tell; 0 matches nobody, not even another 0.
pub fn host_tag() -> u64 {
    let Some((boot, namespace)) = read_host() else { return 0 };
    let mut hasher = blake3::Hasher::new();
    hasher.update(boot.trim().as_bytes()).update(&namespace.to_le_bytes());
    let mut tag = [0; 8];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(tag).max(1)
}

#[cfg(target_os = "linux")]
fn read_host() -> Option<(String, u64)> {
    use std::os::unix::fs::MetadataExt;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some((boot, std::fs::metadata("/proc/self/ns/net").ok()?.ino()))
}

#[cfg(not(target_os = "linux"))]
fn read_host() -> Option<(String, u64)> {
    None
}

/// The ranges that are private to a site. An address in one says something only to those who are in the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Site {
    Ten,
    OneSevenTwo,
    OneNineTwo,
    CarrierNat,
    UniqueLocal,
}

#[derive(Debug, PartialEq)]
enum Scope {
    Never,
    Loopback,
    Site(Site),
    Public,
}

fn scope_of(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => scope_of_v4(ip),
        IpAddr::V6(ip) => {
            if let Some(v4) = ip.to_ipv4_mapped() {
                return scope_of_v4(v4);
            }
            let first = ip.segments()[0];
            if ip.is_unspecified() || ip.is_multicast() || first & 0xffc0 == 0xfe80 {
                Scope::Never
            } else if ip.is_loopback() {
                Scope::Loopback
            } else if first & 0xfe00 == 0xfc00 {
                Scope::Site(Site::UniqueLocal)
            } else {
                Scope::Public
            }
        }
    }
}

fn scope_of_v4(ip: Ipv4Addr) -> Scope {
    let [a, b, ..] = ip.octets();
    match (a, b) {
        (0, _) | (169, 254) | (224.., _) => Scope::Never,
        (127, _) => Scope::Loopback,
        (10, _) => Scope::Site(Site::Ten),
        (172, 16..=31) => Scope::Site(Site::OneSevenTwo),
        (192, 168) => Scope::Site(Site::OneNineTwo),
        (100, 64..=127) => Scope::Site(Site::CarrierNat),
        _ => Scope::Public,
    }
}

/// Where an address leads: to a name, to an IP, or nowhere that this transport goes.
fn scope_of_address(address: &Multiaddr) -> Scope {
    let mut parts = address.iter();
    let scope = match parts.next() {
        Some(Protocol::Ip4(ip)) => scope_of(ip.into()),
        Some(Protocol::Ip6(ip)) => scope_of(ip.into()),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            if name == "localhost" || name.ends_with(".localhost") { Scope::Loopback } else { Scope::Public }
        }
        _ => return Scope::Never,
    };
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None | Some(Protocol::P2p(_)), None) if port != 0 => scope,
        _ => Scope::Never,
    }
}

/// What can be reached from here: our host, and the private ranges that our interfaces are in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    host_tag: u64,
    sites: BTreeSet<Site>,
}

impl Reach {
    /// Looks at the host and its interfaces. Interfaces come and go: look again now and then.
    pub(crate) fn look() -> Self {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        Self::new(host_tag(), interfaces.iter().map(|interface| interface.ip()))
    }

    fn new(host_tag: u64, own: impl Iterator<Item = IpAddr>) -> Self {
        let sites = own.filter_map(|ip| if let Scope::Site(site) = scope_of(ip) { Some(site) } else { None });
        Self { host_tag, sites: sites.collect() }
    }

    /// Whether an address that a peer with this tag claims can work from here.
    pub(crate) fn can_dial(&self, address: &Multiaddr, host_tag: u64) -> bool {
        match scope_of_address(address) {
            Scope::Never => false,
            Scope::Loopback => host_tag != 0 && host_tag == self.host_tag,
            Scope::Site(site) => self.sites.contains(&site),
            Scope::Public => true,
        }
    }
}

/// Whether others could make anything of it: an IP or a name, never 0.0.0.0 and never link-local.
pub(crate) fn can_advertise(address: &Multiaddr) -> bool {
    scope_of_address(address) != Scope::Never
}

/// The address without its `/p2p/PEER`, and the peer if there was one.
pub(crate) fn split_peer(address: &Multiaddr) -> (Multiaddr, Option<libp2p::PeerId>) {
    let mut bare = address.clone();
    match bare.pop() {
        Some(Protocol::P2p(peer)) => (bare, Some(peer)),
        _ => (address.clone(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn reach(own: &[&str]) -> Reach {
        Reach::new(7, own.iter().map(|ip| ip.parse().unwrap()))
    }

    #[test]
    fn loopback_only_on_the_same_host() {
        let reach = reach(&["127.0.0.1"]);
        for text in ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/dns4/localhost/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1"] {
            assert!(reach.can_dial(&address(text), 7), "{text}");
            assert!(!reach.can_dial(&address(text), 8), "{text}");
            assert!(!reach.can_dial(&address(text), 0), "{text}");
        }
    }

    #[test]
    fn private_only_from_the_same_range() {
        let here = reach(&["10.1.2.3", "fd00::1"]);
        for text in ["/ip4/10.200.0.1/tcp/1", "/ip6/fdab::1/tcp/1"] {
            assert!(here.can_dial(&address(text), 8), "{text}");
            assert!(!reach(&["192.168.0.1"]).can_dial(&address(text), 8), "{text}");
        }
        assert!(!here.can_dial(&address("/ip4/192.168.0.1/tcp/1"), 7));
        assert!(!here.can_dial(&address("/ip4/100.64.0.1/tcp/1"), 7));
        assert!(!here.can_dial(&address("/ip4/172.20.0.1/tcp/1"), 7));
    }

    #[test]
    fn public_and_names_always_and_nonsense_never() {
        let reach = reach(&[]);
        for text in ["/ip4/8.8.8.8/tcp/1", "/ip4/172.32.0.1/tcp/1", "/dns4/a.example/tcp/1", "/ip6/2001:db8::1/tcp/1"] {
            assert!(reach.can_dial(&address(text), 8), "{text}");
        }
        let never = ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip4/169.254.1.1/tcp/1", "/ip6/fe80::1/tcp/1"];
        for text in never.into_iter().chain(["/ip4/8.8.8.8/tcp/0", "/ip4/8.8.8.8/udp/1", "/memory/1", "/ip4/8.8.8.8"]) {
            assert!(!reach.can_dial(&address(text), 7), "{text}");
            assert!(!can_advertise(&address(text)), "{text}");
        }
    }

    #[test]
    fn the_host_has_a_tag() {
        assert_eq!(host_tag(), host_tag());
        assert!(!cfg!(target_os = "linux") || host_tag() != 0);
    }
}
