//! What people ask of a replica.

use super::{KeptAway, LinkStatus, MissingRange, MissingReason, Replica, Room};
use crate::frame::Position;
use crate::heads::{LogKey, LogRecord};
use crate::hlc::Hlc;
use crate::ids::{Author, Incarnation};
use crate::interest::Interest;
use crate::sign::Signer;
use crate::topic::Topic;

/// How much a replica keeps of what its bounds are about. For tests.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Look-ups under way.
    pub lookups: usize,
    /// Logs with wants.
    pub wanted_logs: usize,
    /// Wants of the log that has the most.
    pub wants: usize,
    /// Pulls under way.
    pub pulls: usize,
    /// Unanswered probes of peers.
    pub peer_probes: usize,
}

impl<S: Signer> Replica<S> {
    /// How much is kept. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            lookups: self.lookups.len(),
            wanted_logs: self.wants.iter().count(),
            wants: self.wants.iter().map(|(log, _)| self.wants.places(log).len()).max().unwrap_or(0),
            pulls: self.wants.pulls(),
            peer_probes: self.links.values().map(|link| link.probes.len()).sum(),
        }
    }

    /// Who this node is.
    #[must_use]
    pub fn author(&self) -> Author {
        self.me
    }

    /// What the batches that this process seals are told by.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What it takes part in.
    #[must_use]
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// The durable logs, in order.
    pub fn logs(&self) -> impl Iterator<Item = &LogRecord> {
        self.logs.values()
    }

    /// Those of a topic.
    pub fn logs_of<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = &'a LogRecord> {
        let first = LogKey { topic: topic.clone(), author: Author([0; 32]) };
        self.logs.range(first..).take_while(move |(log, _)| log.topic == *topic).map(|(_, record)| record)
    }

    /// Another live process with this node's identity, if one was noticed.
    #[must_use]
    pub fn twin(&self) -> Option<Incarnation> {
        self.twin
    }

    /// How far this machine's clock is off, in milliseconds, when most peers say that it is more than a day.
    #[must_use]
    pub fn clock_offset_ms(&self) -> i64 {
        self.clock_offset_ms
    }

    /// The greatest stamp given out or merged.
    #[must_use]
    pub fn clock(&self) -> Hlc {
        self.clock.greatest()
    }

    /// Whether publications are refused because the store is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.store_is_full()
    }

    /// Whether events of others are taken. Those that are not stay wanted, and are pulled later.
    #[must_use]
    pub fn takes_others(&self) -> bool {
        self.room == Room::Ample && !self.pruning.is_tight()
    }

    /// How much room the disk has, as the driver said last.
    #[must_use]
    pub fn room(&self) -> Room {
        self.room
    }

    /// Logs of others.
    #[must_use]
    pub fn foreign_logs(&self) -> usize {
        self.census.total()
    }

    /// Batches and heads that were refused because they would have begun a log beyond the limits.
    #[must_use]
    pub fn refused_logs(&self) -> u64 {
        self.census.refused()
    }

    /// Audits of peers since the start: those that found both sides equal, and those that found a difference.
    #[must_use]
    pub fn audits(&self) -> [u64; 2] {
        self.audits
    }

    /// What the store holds up to.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes of batches in the store.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    /// Writes on their way to the disk.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of batches that wait for the ones they follow.
    #[must_use]
    pub fn ahead_bytes(&self) -> usize {
        self.ahead.bytes()
    }

    /// The links, by peer.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        let status = |(peer, link): (&Author, &crate::link::Link)| {
            let behind = self.wants.behind(peer, |log| self.latest(log).map_or(0, LogRecord::last_seq));
            LinkStatus {
                peer: *peer,
                met: link.informed && link.is_live(),
                in_sync: link.in_sync,
                behind,
                ahead: link.events.saturating_add(behind).saturating_sub(link.peer_events),
                clock_ahead_ms: link.peer.as_ref().map_or(0, |known| known.clock_ahead_ms),
            }
        };
        self.links.iter().map(status).collect()
    }

    /// The peers that are kept away because they broke the rules, at a time of the monotonic clock.
    #[must_use]
    pub fn kept_away(&self, now_ms: u64) -> Vec<KeptAway> {
        let away = self.conduct.kept_away(now_ms);
        away.map(|(peer, reason, until_ms)| KeptAway {
            peer: *peer,
            reason: reason.to_owned(),
            left_ms: until_ms - now_ms,
        })
        .collect()
    }

    /// What is known to be missing, in order of the logs.
    #[must_use]
    pub fn missing(&self) -> Vec<MissingRange> {
        let mut missing = Vec::new();
        for record in self.logs.values() {
            let mut add = |from, to, reason| missing.push(MissingRange { log: record.key.clone(), from, to, reason });
            if record.floor > 0 {
                add(1, record.floor, MissingReason::Pruned);
            }
            for hole in &record.holes {
                add(hole.from, hole.to, MissingReason::Unavailable);
            }
        }
        let here = |log: &LogKey| self.logs.get(log).map_or(0, LogRecord::last_seq);
        for (log, to) in self.wants.iter() {
            let from = here(log).min(to.saturating_sub(1)) + 1;
            missing.push(MissingRange { log: log.clone(), from, to, reason: MissingReason::NotFetched });
        }
        missing
    }
}
