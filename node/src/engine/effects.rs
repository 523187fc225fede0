//! What the replica says is done here: writes are gathered, frames sent, and questions to the store answered.

use std::collections::{BTreeMap, VecDeque};

use roundelay_protocol::frame::Frame;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::ids::{Arrival, Author, BatchHash};
use roundelay_protocol::replica::{Effect, Input, KeyedBatch};
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, MESH_TOPIC, Topic};
use roundelay_protocol::write_set::WriteSet;

use super::inbox::Inbound;
use super::{Engine, serve};
use crate::log::{LogError, Scan};
use crate::mesh::MeshCommand;
use crate::metrics::Way;
use crate::peer_id::peer_id_of;

/// Stored batches that one look for prunable ones brings.
const OLDEST_RUN: usize = 4_096;
/// Batches of a keyed topic, and bytes of them, that are read at once for their keys.
const KEYS_RUN: usize = 1_024;
const KEYS_RUN_BYTES: usize = 256 * 1024;
/// Bytes of batches that are gathered before they go to the log.
const GATHER_BYTES: usize = 1024 * 1024;

/// Write sets of one turn, merged: what is written together is acknowledged together.
#[derive(Default)]
pub(super) struct Gathered {
    token: u64,
    set: WriteSet,
    logs: BTreeMap<LogKey, LogRecord>,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, token: u64, set: WriteSet) {
        debug_assert!(token > self.token, "write {token} after {}", self.token);
        self.token = token;
        self.bytes += set.batch_bytes();
        self.set.batches.extend(set.batches);
        self.set.pruned.extend(set.pruned);
        self.set.marks.extend(set.marks);
        self.logs.extend(set.logs.into_iter().map(|record| (record.key.clone(), record)));
    }

    fn take(&mut self) -> Option<(u64, WriteSet)> {
        let Self { token, mut set, logs, .. } = std::mem::take(self);
        set.logs = logs.into_values().collect();
        (token > 0).then_some((token, set))
    }
}

impl Engine {
    pub(super) async fn feed(&mut self, input: Input) {
        self.feed_all([input]).await;
    }

    pub(super) async fn feed_all(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let now = self.now();
        let room = self.disk.look(&self.reader);
        let mut todo = VecDeque::from(self.replica.handle_all(now, room.into_iter().chain(inputs)));
        while let Some(effect) = todo.pop_front() {
            if let Some(answer) = self.carry_out(effect).await {
                // The replica asked the store, and hears the answer before anything else. What follows from it comes
                // behind what is still to be done: write sets build on each other, and must be written in their order.
                todo.extend(self.replica.handle(now, answer));
            }
        }
        self.submit_gathered().await;
    }

    /// Does what the replica says. Questions to the store are answered at once.
    async fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Append { token, set } => self.append(token, set).await,
            Effect::Gossip(batch) => {
                self.mesh.try_publish(batch.header().topic.as_str(), batch.bytes().clone());
            }
            Effect::Send { peer, frame } => return self.send(peer, &frame),
            Effect::Find { log, place, parent } => {
                return match self.find(&log, place, parent) {
                    Ok(found) => Some(found),
                    Err(error) => {
                        self.fail(&error);
                        None
                    }
                };
            }
            Effect::Check(check) => {
                let find = |place: &(u64, _)| self.reader.find(&check.log, place.0, &place.1).ok().flatten();
                let known = check.places.iter().filter_map(find).collect();
                return Some(Input::Checked { check, known });
            }
            Effect::Serve { peer, id, ranges, max_bytes, missing } => {
                self.serve(peer, serve::Order { id, ranges, max_bytes, missing });
            }
            Effect::ListOldest { after } => match self.reader.oldest(after, OLDEST_RUN) {
                Ok(batches) => {
                    let end = batches.len() < OLDEST_RUN;
                    return Some(Input::Oldest { batches, end });
                }
                Err(error) => self.fail(&error),
            },
            Effect::ListKeys { topic, before } => match self.list_keys(&topic, before) {
                Ok(found) => return Some(found),
                Err(error) => self.fail(&error),
            },
            Effect::Published { id, places, arrival } => self.published(id, &places, arrival),
            Effect::Acked { id, peers, complete } => self.acked(id, peers, complete),
            Effect::Refused { id, refusal } => self.refused(id, &refusal),
            Effect::TopicSeen(topic) => self.hear(topic).await,
            Effect::Disconnect { peer, reason, keep_away_ms } => self.disconnect(peer, reason, keep_away_ms).await,
            Effect::Probed { id, links } => {
                if let Some(reply) = self.probes.remove(&id) {
                    let _ = reply.send(links);
                }
            }
            Effect::Notice(notice) => self.peers.take_replica_notice(&notice),
        }
        None
    }

    fn list_keys(&self, topic: &Topic, before: Arrival) -> Result<Input, LogError> {
        let Scan { batches, next } = if topic.as_str() == HEARTBEATS_TOPIC {
            // Every node has few of them, beside what else it stores.
            let logs = self.replica.logs_of(topic).map(|record| &record.key);
            self.reader.scan_logs_back(logs, before, KEYS_RUN, KEYS_RUN_BYTES)?
        } else {
            self.reader.scan_back(&|other| other == topic, before, KEYS_RUN, KEYS_RUN_BYTES)?
        };
        let batches = batches.iter().map(|(arrival, batch)| KeyedBatch::of(*arrival, batch)).collect();
        Ok(Input::Keys { batches, next, end: next <= Arrival(1) })
    }

    fn find(&self, log: &LogKey, place: (u64, BatchHash), parent: (u64, BatchHash)) -> Result<Input, LogError> {
        let known = self.reader.find(log, place.0, &place.1)?.is_some();
        // Repeats are the rule, and of no further interest.
        let siblings = if known { Vec::new() } else { self.reader.children(log, parent)? };
        let parent = self.reader.find(log, parent.0, &parent.1)?;
        Ok(Input::Found { hash: place.1, known, parent, siblings })
    }

    /// Writes of one turn go to the log together.
    async fn append(&mut self, token: u64, set: WriteSet) {
        set.batches.iter().for_each(|batch| self.beat.note(batch));
        let is_told = |topic: &Topic| [MESH_TOPIC, HEARTBEATS_TOPIC].contains(&topic.as_str());
        let records = set.batches.iter().filter(|batch| is_told(&batch.header().topic));
        self.records.extend(records.map(|batch| (token, batch.clone())));
        if !set.batches.is_empty() {
            let me = self.replica.author();
            self.writing.push_back((token, self.meters.on_their_way(&me, set.batches.iter())));
        }
        self.gathered.add(token, set);
        if self.gathered.bytes >= GATHER_BYTES {
            self.submit_gathered().await;
        }
    }

    /// Waits while the log's queue is full. That slows down everything that feeds the engine, as it should; but what
    /// the log reports must be taken meanwhile, or both would wait for each other.
    async fn submit_gathered(&mut self) {
        let Some((token, set)) = self.gathered.take() else { return };
        self.own_writes.note(token, &set.batches, self.replica.incarnation());
        let log = self.log.clone();
        let mut submission = std::pin::pin!(log.submit(token, set));
        let outcome = loop {
            tokio::select! {
                outcome = &mut submission => break outcome,
                Some(event) = self.log_events.recv() => self.backlog.push_back(event),
            }
        };
        if let Err(error) = outcome {
            self.fail(&error);
        }
    }

    /// What there is to say to the replica if the peer does not take it.
    fn send(&mut self, peer: Author, frame: &Frame) -> Option<Input> {
        let known = self.links.get_mut(&peer)?;
        if matches!(frame, Frame::Heads { .. }) {
            known.filling = true;
        }
        self.meters.frame(Way::Out, frame);
        let full = known.outbound.try_send(frame.encode()).is_err();
        full.then(|| Input::Breach { peer, reason: "does not take what is sent to it".to_owned() })
    }

    fn serve(&mut self, peer: Author, order: serve::Order) {
        let Some(known) = self.links.get(&peer) else { return };
        let (reader, outbound, inbox) = (self.reader.clone(), known.outbound.clone(), self.to_inbox.clone());
        let meters = self.meters.clone();
        tokio::spawn(async move {
            if let Err(error) = serve::serve(reader, outbound, order, &meters).await {
                tracing::warn!(%error, "a pull was not answered");
            }
            let _ = inbox.send(Inbound::Served { peer }).await;
        });
    }

    async fn disconnect(&mut self, peer: Author, reason: String, keep_away_ms: u64) {
        self.meters.kept_away();
        tracing::warn!(
            peer = %crate::peer_id::text_of(&peer),
            %reason,
            for_s = keep_away_ms / 1000,
            "disconnecting a peer, and keeping it away"
        );
        if let Some(peer) = peer_id_of(&peer) {
            self.mesh.send(MeshCommand::Disconnect { peer, reason, keep_away_ms }).await;
        }
    }
}
