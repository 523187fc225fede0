//! A node has one key and two names for it: the author of its events, and the peer id of its links.

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use roundelay_protocol::ids::Author;

/// The peer id of an author. `None` when the bytes are no ed25519 key.
#[must_use]
pub fn peer_id_of(author: &Author) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&author.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The author with a peer id. `None` for peer ids that are not made of an ed25519 key.
#[must_use]
pub fn author_of(peer: &PeerId) -> Option<Author> {
    Author::from_peer_id_bytes(&peer.to_bytes())
}

/// The text of an author's peer id, or its hexadecimal form where it has none.
#[must_use]
pub fn text_of(author: &Author) -> String {
    peer_id_of(author).map_or_else(|| author.to_string(), |peer| peer.to_base58())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_lead_to_each_other() {
        let keypair = libp2p::identity::Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let author = author_of(&peer).unwrap();
        assert_eq!(peer_id_of(&author), Some(peer));
        assert_eq!(text_of(&author), peer.to_base58());
        assert_eq!((author.peer_id(), Author::from_peer_id(&peer.to_base58())), (peer.to_base58(), Some(author)));
    }
}
