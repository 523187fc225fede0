//! What comes in from peers, on its way to the engine: decoded, and its batches verified, off the engine's task. Each
//! link has a task of its own, so that what it brings stays in order and a slow engine slows the link down; all gossip
//! shares one.

use bytes::Bytes;
use libp2p::PeerId;
use roundelay_protocol::batch::{BatchError, ParsedBatch, VerifiedBatch};
use roundelay_protocol::frame::Frame;
use roundelay_protocol::ids::Author;
use roundelay_protocol::sign::Ed25519Verifier;
use tokio::sync::mpsc;

use super::pace::{Pace, Turn};
use crate::mesh::{GossipId, LinkSender, Mesh, MeshEvent, Verdict};
use crate::metrics::{EngineMeters, Way};
use crate::peer_id::author_of;

/// Things that may wait for the engine.
pub(super) const MAX_INBOX: usize = 256;
/// Batches that are verified before the task lets others run.
const VERIFY_RUN: usize = 16;

/// Something for the engine.
pub(super) enum Inbound {
    LinkUp { peer: Author, link: u64, outbound: LinkSender },
    LinkDown { peer: Author, link: u64, reason: String },
    Frame { peer: Author, link: u64, frame: Frame, turn: Turn },
    Pulled { peer: Author, id: u64, batches: Vec<VerifiedBatch> },
    Gossip { peer: Author, batch: VerifiedBatch },
    Breach { peer: Author, reason: String },
    Slip { peer: Author, reason: String },
    Served { peer: Author },
    Addresses,
    Notice(crate::mesh::Notice),
}

/// Takes what the mesh reports until it ends.
pub(super) async fn run(
    mesh: Mesh,
    mut events: mpsc::Receiver<MeshEvent>,
    inbox: mpsc::Sender<Inbound>,
    meters: EngineMeters,
) {
    while let Some(event) = events.recv().await {
        let inbound = match event {
            MeshEvent::Gossip { from, id, topic, data } => verify_gossip(&mesh, &meters, from, id, &topic, data),
            MeshEvent::LinkUp { peer, link, outbound, inbound, .. } => {
                let Some(author) = author_of(&peer) else { continue };
                let up = Inbound::LinkUp { peer: author, link, outbound };
                if inbox.send(up).await.is_err() {
                    return;
                }
                tokio::spawn(read_link(author, link, inbound, inbox.clone(), meters.clone()));
                None
            }
            MeshEvent::LinkDown { peer, link, reason } => {
                author_of(&peer).map(|peer| Inbound::LinkDown { peer, link, reason })
            }
            MeshEvent::Misconduct { peer, what: reason, breach } => author_of(&peer).map(|peer| match breach {
                true => Inbound::Breach { peer, reason },
                false => Inbound::Slip { peer, reason },
            }),
            MeshEvent::Addresses(_) => Some(Inbound::Addresses),
            MeshEvent::Notice(notice) => Some(Inbound::Notice(notice)),
        };
        if let Some(inbound) = inbound
            && inbox.send(inbound).await.is_err()
        {
            return;
        }
    }
}

/// A valid message is passed on at once; only what is kept waits for the disk.
fn verify_gossip(
    mesh: &Mesh,
    meters: &EngineMeters,
    from: PeerId,
    id: GossipId,
    topic: &str,
    data: Bytes,
) -> Option<Inbound> {
    let reject = |why: &str| {
        meters.invalid_gossip();
        reject(mesh, from, id, why)
    };
    match ParsedBatch::parse(data).and_then(|batch| batch.verify(&Ed25519Verifier)) {
        Ok(batch) if batch.dropped() > 0 => reject("events were taken out of it"),
        Ok(batch) if batch.header().topic.as_str() == topic => {
            mesh.verdict(id, from, Verdict::Accept);
            author_of(&from).map(|peer| Inbound::Gossip { peer, batch })
        }
        // A newer node's: whoever passed it on understands it, and this node does not.
        Err(BatchError::Version(_)) => {
            mesh.verdict(id, from, Verdict::Ignore);
            None
        }
        Ok(_) => reject("is of another topic than it says"),
        Err(error) => reject(&error.to_string()),
    }
}

/// Everybody verifies before passing on, so whoever sends what is not valid is to blame.
fn reject(mesh: &Mesh, from: PeerId, id: GossipId, why: &str) -> Option<Inbound> {
    tracing::debug!(%from, why, "refused a gossip message");
    mesh.verdict(id, from, Verdict::Reject);
    author_of(&from).map(|peer| Inbound::Slip { peer, reason: format!("gossiped what is not valid: {why}") })
}

async fn read_link(
    peer: Author,
    link: u64,
    mut frames: mpsc::Receiver<Bytes>,
    inbox: mpsc::Sender<Inbound>,
    meters: EngineMeters,
) {
    let pace = Pace::new();
    while let Some(bytes) = frames.recv().await {
        let inbound = match Frame::decode(&bytes) {
            Ok(Frame::Batches { id, batches }) => match verify_pulled(batches).await {
                Ok(batches) => {
                    let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
                    meters.batches(Way::In, batches.len(), bytes);
                    Inbound::Pulled { peer, id, batches }
                }
                Err(reason) => {
                    meters.invalid_pull();
                    Inbound::Breach { peer, reason }
                }
            },
            Ok(frame) => match pace.turn().await {
                Some(turn) => Inbound::Frame { peer, link, frame, turn },
                None => return,
            },
            Err(error) => Inbound::Breach { peer, reason: format!("sent a malformed frame: {error}") },
        };
        let breach = matches!(inbound, Inbound::Breach { .. });
        if inbox.send(inbound).await.is_err() || breach {
            return;
        }
    }
}

async fn verify_pulled(batches: Vec<Bytes>) -> Result<Vec<VerifiedBatch>, String> {
    let mut verified = Vec::with_capacity(batches.len());
    for (index, bytes) in batches.into_iter().enumerate() {
        // A copy of its own, so that one kept batch does not keep the whole frame in memory.
        let parsed = ParsedBatch::parse(Bytes::copy_from_slice(&bytes));
        let batch = parsed.and_then(|batch| batch.verify(&Ed25519Verifier));
        verified.push(batch.map_err(|error| format!("sent a batch that is not valid: {error}"))?);
        if index % VERIFY_RUN == VERIFY_RUN - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(verified)
}
