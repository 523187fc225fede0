//! Groups: nodes that share the work of one consumer by key, without a coordinator.
//!
//! A member is a node whose record subscribes to the group's topic and that is linked, or was heard a while ago. Each
//! member gives every key to one of those that it sees, by rendezvous hashing; what it does goes to the group's topic
//! with the acknowledgement, in one write set. A member delivers a key that it takes over only a while after it saw the
//! members change, when what the former owner did has come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roundelay_protocol::consumer::{Consumer, Identity, Share};
use roundelay_protocol::event::{EncodedEvent, Event, Item};
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::topic::Topic;

use super::config::ConsumerConfig;
use crate::log::{LogError, LogReader};
use crate::peer_id::text_of;

/// The type of the events that say what was done: their data are identities, 16 bytes each.
pub(super) const PROGRESS_KIND: &str = "roundelay.group.progress.v1";
/// The type of the events that only say that a member is there, where others have no link to it.
pub(super) const ALIVE_KIND: &str = "roundelay.group.alive.v1";
/// Identities that one event of progress has, at most.
pub(super) const MAX_IDENTITIES: usize = 16_384;
/// A member that was neither linked nor heard for so long is gone.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(15);
/// A key is delivered so long after a change of members gave it to this one.
const SETTLE: Duration = Duration::from_secs(2);
/// How often a member says that it is there, while somebody has no link to it.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Members that have not been heard for so long are not told any more.
const FORGET: Duration = Duration::from_secs(600);
/// Members of a group, at most: further ones have no share.
const MAX_MEMBERS: usize = 1_024;
const READ_BATCHES: usize = 256;
const READ_BYTES: usize = 1024 * 1024;

/// This node's membership in a group.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) topic: Topic,
    group: String,
    me: Author,
    members: Vec<[u8; 32]>,
    /// When each was last linked or heard.
    heard: BTreeMap<Author, Instant>,
    /// When the members last changed, until that has settled.
    changed: Option<Instant>,
    before: Vec<[u8; 32]>,
    read: Arrival,
    /// The progress of earlier lives is read up to here before anything is delivered.
    first: Arrival,
    alive_told: Option<Instant>,
    unlinked: bool,
    started: bool,
}

impl Membership {
    pub(super) fn of(config: &ConsumerConfig, me: Author) -> Option<Self> {
        Some(Self {
            topic: config.group_topic()?,
            group: config.group.clone()?,
            me,
            members: Vec::new(),
            heard: BTreeMap::new(),
            changed: None,
            before: Vec::new(),
            read: Arrival(0),
            first: Arrival(0),
            alive_told: None,
            unlinked: false,
            started: false,
        })
    }

    /// All that are alive, this one among them.
    pub(super) fn members(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.members.iter()
    }

    /// Whether what the group had done is known, so that deliveries may begin.
    pub(super) fn is_ready(&self) -> bool {
        self.started && self.read >= self.first
    }

    /// Reads what others have done. True when there may be more.
    pub(super) fn read_on(&mut self, reader: &LogReader, core: &mut Consumer, wall_ms: u64) -> Result<bool, LogError> {
        let last = reader.last_arrival();
        if self.first == Arrival(0) {
            self.first = last;
        }
        if self.read >= last {
            return Ok(false);
        }
        let scan = reader.scan_topic(&|topic| *topic == self.topic, self.read, READ_BATCHES, READ_BYTES)?;
        for (arrival, batch) in scan.batches {
            let header = batch.header();
            // What this process did it knows; what an earlier one did may be lost with an old copy of the store.
            let own = header.author == self.me;
            if !own && header.last_hlc.as_ms() + MEMBER_TIMEOUT.as_millis() as u64 > wall_ms {
                self.heard.insert(header.author, Instant::now());
            }
            if own && arrival > self.first {
                continue;
            }
            for (_, item) in batch.items() {
                let Item::Event(event) = item else { continue };
                if event.kind == PROGRESS_KIND {
                    for identity in event.data.chunks_exact(16) {
                        core.done_elsewhere(Identity(identity.try_into().unwrap_or_default()));
                    }
                }
            }
        }
        self.read = scan.next;
        Ok(scan.next < last)
    }

    /// Looks anew who is alive: those whose records name the group, and whether each is linked.
    pub(super) fn look_at(&mut self, announced: &[(Author, bool)], now: Instant) {
        let known: BTreeMap<Author, bool> =
            announced.iter().copied().filter(|(author, _)| *author != self.me).collect();
        for (author, linked) in known.iter().take(MAX_MEMBERS) {
            // After a start nobody is linked yet: whoever was there before is waited for.
            if *linked || !self.started {
                self.heard.insert(*author, now);
            }
        }
        self.started = true;
        self.heard.retain(|author, at| known.contains_key(author) && now - *at < FORGET);
        let alive = self.heard.iter().filter(|(_, at)| now - **at < MEMBER_TIMEOUT).map(|(author, _)| author.0);
        let mut members: Vec<[u8; 32]> = alive.take(MAX_MEMBERS).chain([self.me.0]).collect();
        members.sort_unstable();
        self.unlinked = self.heard.keys().any(|author| known.get(author) == Some(&false));
        if members != self.members {
            tracing::info!(group = self.group, members = members.len(), "the members of the group changed");
            // What is not settled yet is settled anew.
            if self.changed.is_none() {
                self.before = std::mem::take(&mut self.members);
            }
            self.members = members;
            self.changed = Some(now);
        }
        if self.changed.is_some_and(|at| now - at >= SETTLE) {
            self.changed = None;
        }
    }

    /// This member's share now.
    pub(super) fn share(&self) -> Share {
        Share {
            group: self.group.clone(),
            me: self.me.0,
            members: self.members.clone(),
            before: self.changed.map(|_| self.before.clone()),
        }
    }

    /// The event that says that this member is there, when it is due.
    pub(super) fn alive(&mut self, now: Instant) -> Option<EncodedEvent> {
        let due = self.alive_told.is_none_or(|at| now - at >= ALIVE_INTERVAL);
        if !self.unlinked || !due {
            return None;
        }
        self.alive_told = Some(now);
        self.event(ALIVE_KIND, Bytes::new())
    }

    /// The events that say what was done.
    pub(super) fn progress(&self, done: &[Identity]) -> Vec<EncodedEvent> {
        let event = |done: &[Identity]| {
            let data: Vec<u8> = done.iter().flat_map(|identity| identity.0).collect();
            self.event(PROGRESS_KIND, data.into())
        };
        done.chunks(MAX_IDENTITIES).filter_map(event).collect()
    }

    fn event(&self, kind: &str, data: Bytes) -> Option<EncodedEvent> {
        let source = format!("/nodes/{}", text_of(&self.me));
        let id = uuid::Uuid::now_v7().to_string();
        let content_type = Some("application/octet-stream".to_owned());
        Event { kind: kind.to_owned(), id, source, content_type, data, ..Event::default() }.encode().ok()
    }
}
