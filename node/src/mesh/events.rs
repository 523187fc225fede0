//! What goes in and out of the mesh layer.

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::LinkSender;

/// The id of a gossip message: a hash over its topic and all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipId(pub [u8; 16]);

/// What is to become of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is good: pass it on.
    Accept,
    /// Drop it, nobody is to blame.
    Ignore,
    /// Drop it, whoever sent it should not have.
    Reject,
}

/// What the node knows of a peer from its signed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// Where it says it can be reached.
    pub addresses: Vec<Multiaddr>,
    /// Its [`host_tag`](super::host_tag).
    pub host_tag: u64,
    /// We want a link to it, because it subscribes to what we do.
    pub wanted: bool,
}

/// What the mesh is told to do.
#[derive(Clone, Debug)]
pub enum MeshCommand {
    /// Hear the gossip of a topic.
    Subscribe(String),
    /// Hear it no more.
    Unsubscribe(String),
    /// What is known of all peers. Replaces what was said before.
    Candidates(Vec<Candidate>),
    /// Join through an address, with or without `/p2p/PEER`, and keep trying.
    Join(Multiaddr),
    /// Drop the join addresses and all memory of a peer. Its connection stays.
    Forget(PeerId),
    /// Keep a peer away no longer.
    LetIn(PeerId),
    /// Close its connections and have none with it.
    Block(PeerId),
    /// Deal with it again.
    Unblock(PeerId),
    /// Close its connections.
    Disconnect {
        /// Whose.
        peer: PeerId,
        /// Why; `LinkDown` repeats it.
        reason: String,
        /// Have no connections with it for so long.
        keep_away_ms: u64,
    },
    /// True: close every connection and have none, until false.
    SetOffline(bool),
}

/// What happened.
#[derive(Debug)]
pub enum MeshEvent {
    /// A link is ready. A peer has at most one at a time, and each has exactly one `LinkDown`.
    LinkUp {
        /// With whom.
        peer: PeerId,
        /// Names this link; unique in this process.
        link: u64,
        /// Takes encoded frames, without length prefix.
        outbound: LinkSender,
        /// Gives encoded frames. Not reading them slows the peer down.
        inbound: mpsc::Receiver<Bytes>,
        /// Where the peer is.
        address: Multiaddr,
        /// Whether we dialled.
        dialed: bool,
    },
    /// A link is gone.
    LinkDown {
        /// With whom.
        peer: PeerId,
        /// Which.
        link: u64,
        /// Why.
        reason: String,
    },
    /// A gossip message. It wants exactly one verdict.
    Gossip {
        /// Who passed it on, who need not be the author.
        from: PeerId,
        /// Names it in the verdict.
        id: GossipId,
        /// Its topic.
        topic: String,
        /// Its bytes.
        data: Bytes,
    },
    /// A peer did on the wire what the protocol does not allow.
    Misconduct {
        /// Who.
        peer: PeerId,
        /// What, for people.
        what: String,
        /// Whether no honest peer ever does that. Else it may happen once in a while.
        breach: bool,
    },
    /// The addresses that others may dial, without `/p2p/PEER`, have changed.
    Addresses(Vec<Multiaddr>),
    /// Something that the operator should hear of.
    Notice(Notice),
}

/// Something that the operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A node of another mesh is there. It is left alone for some minutes.
    WrongMesh {
        /// Where.
        address: Multiaddr,
        /// Who.
        peer: PeerId,
        /// Our mesh's name.
        ours: String,
        /// Theirs, or the protocol that it speaks if it is no node at all.
        theirs: String,
    },
    /// A connection was made, but the handshake failed.
    HandshakeFailed {
        /// With whom: the address that we dialled, or that it came from.
        address: Multiaddr,
        /// What it may come from.
        hint: String,
    },
    /// Another live node has our identity.
    TwinSeen {
        /// Where: the address that we dialled, or that it came from.
        address: Multiaddr,
    },
    /// A join address leads to this very node. It is left alone for some minutes.
    Ourselves {
        /// The address.
        address: Multiaddr,
    },
    /// A join address could not be reached.
    DialFailed {
        /// The address.
        address: Multiaddr,
        /// Why.
        error: String,
        /// When it is tried again.
        next_ms: u64,
    },
    /// A join address answered.
    JoinedVia {
        /// The address.
        address: Multiaddr,
        /// Who answered.
        peer: PeerId,
    },
}

/// A peer with a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkInfo {
    /// Who.
    pub peer: PeerId,
    /// The running link, if the sync stream is up.
    pub link: Option<u64>,
    /// Where it is.
    pub address: Multiaddr,
    /// Whether we dialled.
    pub dialed: bool,
    /// The last round trip.
    pub rtt_ms: Option<f64>,
    /// What it says it runs; empty until it said so.
    pub agent: String,
    /// Since when there is a connection, in milliseconds of the Unix epoch.
    pub connected_since_unix_ms: u64,
    /// Gossip topics that both subscribe to.
    pub common_topics: usize,
}
