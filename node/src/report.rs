//! Turns what the engine and the mesh know into what people and programs read.

use std::collections::BTreeMap;

use roundelay_protocol::heads::{LogRecord, Sum};
use roundelay_protocol::ids::Author;
use roundelay_protocol::replica::{MissingReason, digest};
use roundelay_protocol::topic::Topic;

use crate::engine::Facts;
use crate::mesh::LinkInfo;
use crate::peer_id::{author_of, text_of};
use crate::status::{HoleStatus, NodeInfo, NodeStatus, PeerStatus, STATUS_SCHEMA, StoreStatus, TopicStatus};

pub(crate) fn status(facts: &Facts, links: &[LinkInfo], node: NodeInfo, store: StoreStatus) -> NodeStatus {
    let me = node.id.clone();
    NodeStatus {
        schema: STATUS_SCHEMA.to_owned(),
        healthy: facts.problems.is_empty(),
        problems: facts.problems.clone(),
        warnings: facts.warnings.clone(),
        node,
        peers: peers(facts, links).into_iter().filter(|peer| peer.id != me).collect(),
        topics: topics(facts),
        store,
    }
}

/// Connected peers first, then those that are only known, each by name.
fn peers(facts: &Facts, links: &[LinkInfo]) -> Vec<PeerStatus> {
    let mut peers: BTreeMap<Author, PeerStatus> = BTreeMap::new();
    for (author, known) in facts.directory.iter() {
        let peer = peers.entry(*author).or_insert_with(|| unknown(author));
        peer.name = Some(known.record.name.clone());
        peer.address = known.record.addresses.first().cloned();
    }
    for author in &facts.interest.excluded {
        peers.entry(*author).or_insert_with(|| unknown(author)).blocked = true;
    }
    for (author, note) in &facts.notes {
        peers.entry(*author).or_insert_with(|| unknown(author)).note = Some(note.clone());
    }
    for (until_ms, away) in &facts.kept_away {
        let peer = peers.entry(away.peer).or_insert_with(|| unknown(&away.peer));
        (peer.kept_away_until_ms, peer.note) = (Some(*until_ms), Some(away.reason.clone()));
    }
    for link in links {
        let Some(author) = author_of(&link.peer) else { continue };
        let peer = peers.entry(author).or_insert_with(|| unknown(&author));
        peer.connected = link.link.is_some();
        peer.address = Some(link.address.to_string());
        peer.direction = Some(if link.dialed { "outbound" } else { "inbound" }.to_owned());
        peer.rtt_ms = link.rtt_ms;
    }
    for link in &facts.links {
        if let Some(peer) = peers.get_mut(&link.peer) {
            peer.behind = link.behind;
            peer.ahead = link.ahead;
            peer.in_sync = link.in_sync;
            peer.clock_ahead_ms = link.clock_ahead_ms;
        }
    }
    let mut peers: Vec<PeerStatus> = peers.into_values().collect();
    peers.sort_by(|one, other| (!one.connected, &one.name, &one.id).cmp(&(!other.connected, &other.name, &other.id)));
    peers
}

fn unknown(author: &Author) -> PeerStatus {
    PeerStatus {
        id: text_of(author),
        name: None,
        connected: false,
        address: None,
        direction: None,
        rtt_ms: None,
        behind: 0,
        ahead: 0,
        in_sync: false,
        clock_ahead_ms: 0,
        blocked: false,
        kept_away_until_ms: None,
        note: None,
    }
}

fn topics(facts: &Facts) -> Vec<TopicStatus> {
    let mut topics: BTreeMap<&Topic, Vec<&LogRecord>> = BTreeMap::new();
    for record in facts.records.iter().filter(|record| !facts.interest.excludes(&record.key.author)) {
        topics.entry(&record.key.topic).or_default().push(record);
    }
    let status = |(topic, records): (&Topic, Vec<&LogRecord>)| TopicStatus {
        topic: topic.to_string(),
        events: records.iter().map(|record| record.events).sum(),
        bytes: records.iter().map(|record| record.bytes).sum(),
        authors: records.len() as u64,
        last_event_ms: records.iter().flat_map(|record| &record.tips).map(|tip| tip.hlc.as_ms()).max(),
        digest: hex(digest(records.iter().copied())),
        subscribed: facts.interest.covers(topic),
    };
    topics.into_iter().map(status).collect()
}

fn hex(sum: Sum) -> String {
    format!("{:032x}", sum.0)
}

pub(crate) fn holes(facts: &Facts) -> Vec<HoleStatus> {
    let hole = |missing: &roundelay_protocol::replica::MissingRange| HoleStatus {
        topic: missing.log.topic.to_string(),
        author: text_of(&missing.log.author),
        author_name: facts.directory.name(&missing.log.author),
        from: missing.from,
        to: missing.to,
        reason: match missing.reason {
            MissingReason::Pruned => "pruned",
            MissingReason::Unavailable => "unavailable",
            MissingReason::NotFetched => "not_fetched",
        }
        .to_owned(),
    };
    facts.missing.iter().map(hole).collect()
}
