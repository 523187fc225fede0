//! One node of a simulated mesh: its log, which a crash leaves, and what it makes of it, which a crash takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::conformance::{Conformance, Versions};
use super::super::observed::{Observed, ROLE_EXTENSION, VERSION_EXTENSION};
use super::super::participant::{Planned, Received};
use super::super::rank::Rank;
use super::cast::Part;
use crate::event::{Event, Value};
use crate::hlc::{Clock, Hlc};
use crate::ids::{Author, BatchHash};

/// An event in a log.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) author: usize,
    pub(super) rank: Rank,
    pub(super) planned: Arc<Planned>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    number: usize,
    pub(super) is_up: bool,
    /// Counts starts.
    pub(super) life: u64,
    pub(super) skew_ms: i64,
    /// In order of arrival.
    pub(super) log: Vec<Stored>,
    /// Places in the log by author.
    by_author: BTreeMap<usize, Vec<usize>>,
    clock: Clock,
    /// The last heartbeat of each author, of which everything before it is here: what it publishes afterwards has later stamps.
    beats: BTreeMap<usize, Hlc>,
    /// Whether it is to give one itself.
    pub(super) is_beat_due: bool,
    pub(super) conformance: Conformance,
    pub(super) parts: Vec<Part>,
}

impl Node {
    pub(super) fn new(name: &str, number: usize, versions: &Versions) -> Self {
        Self {
            name: name.to_owned(),
            number,
            is_up: true,
            life: 0,
            skew_ms: 0,
            log: Vec::new(),
            by_author: BTreeMap::new(),
            clock: Clock::default(),
            beats: BTreeMap::new(),
            is_beat_due: false,
            conformance: Conformance::new(versions.clone()),
            parts: Vec::new(),
        }
    }

    /// How many events of an author are here.
    pub(super) fn has(&self, author: usize) -> usize {
        self.by_author.get(&author).map_or(0, Vec::len)
    }

    /// Events of an author after the first so many.
    pub(super) fn after(&self, author: usize, count: usize) -> Vec<Stored> {
        let places = self.by_author.get(&author).map(Vec::as_slice).unwrap_or_default();
        places.iter().skip(count).map(|place| self.log[*place].clone()).collect()
    }

    pub(super) fn has_same_as(&self, other: &Self) -> bool {
        let counts = |node: &Self| node.by_author.iter().map(|(author, places)| (*author, places.len())).collect();
        let (here, there): (Vec<_>, Vec<_>) = (counts(self), counts(other));
        here == there
    }

    /// Says that all of the own log has earlier stamps than this, and all that follows later ones.
    pub(super) fn beat(&mut self, now_ms: u64) {
        if let Some(beat) = self.clock.stamp(now_ms, 1) {
            self.beats.insert(self.number, beat);
        }
    }

    pub(super) fn last_beat(&self, author: usize) -> Option<Hlc> {
        self.beats.get(&author).copied()
    }

    pub(super) fn take_beat(&mut self, author: usize, beat: Hlc, now_ms: u64) {
        // Or what is emitted here next could be earlier than what is stable.
        self.clock.observe(beat, now_ms);
        self.beats.insert(author, beat);
    }

    /// Up to when everything is here that these authors stamped: no event of theirs is still to come with this stamp or an
    /// earlier one. What a node emits itself is here.
    pub(super) fn stable(&self, authors: usize) -> Hlc {
        let others = (0..authors).filter(|author| *author != self.number);
        others.map(|author| self.received(author)).min().unwrap_or(Hlc(u64::MAX))
    }

    fn received(&self, author: usize) -> Hlc {
        let last = self.by_author.get(&author).and_then(|places| places.last());
        let by_events = last.map_or(Hlc(0), |place| self.log[*place].rank.stamp);
        self.last_beat(author).map_or(by_events, |beat| beat.max(by_events))
    }

    /// Own events with their stamps, as one batch.
    pub(super) fn seal(&mut self, planned: Vec<Planned>, now_ms: u64) -> Vec<Stored> {
        let Some(first) = self.clock.stamp(now_ms, planned.len() as u64) else { return Vec::new() };
        let mut hasher = blake3::Hasher::new_derive_key("roundelay simulated batch v1");
        hasher.update(&(self.number as u64).to_le_bytes()).update(&first.0.to_le_bytes());
        let batch = BatchHash(*hasher.finalize().as_bytes());
        let sealed = planned.into_iter().zip(0..).map(|(planned, index)| {
            let stamp = Hlc(first.0 + u64::from(index));
            Stored { author: self.number, rank: Rank { stamp, batch, index }, planned: Arc::new(planned) }
        });
        sealed.collect()
    }

    pub(super) fn store(&mut self, stored: Vec<Stored>, now_ms: u64) {
        let observed: Vec<Observed> = stored.iter().map(observe).collect();
        for stored in stored {
            self.clock.observe(stored.rank.stamp, now_ms);
            self.by_author.entry(stored.author).or_default().push(self.log.len());
            self.log.push(stored);
        }
        self.conformance.take(observed);
    }

    /// All that is not on the disk is gone.
    pub(super) fn crash(&mut self) {
        self.is_up = false;
        self.life += 1;
        self.is_beat_due = false;
        self.conformance = Conformance::new(self.conformance.versions().clone());
        self.parts.iter_mut().for_each(Part::crash);
    }

    pub(super) fn restart(&mut self) {
        self.is_up = true;
        self.conformance.take(self.log.iter().map(observe));
    }

    /// An event as a participant gets it. None when it is of no instance.
    pub(super) fn event(&self, place: usize) -> Option<Received> {
        let stored = self.log.get(place)?;
        let Planned { topic, event } = &*stored.planned;
        Some(Received {
            topic: topic.clone(),
            source: event.source.clone(),
            id: event.id.clone(),
            kind: event.kind.clone(),
            subject: event.subject.clone(),
            content_type: event.content_type.clone(),
            correlation: event.correlation.clone()?,
            stamp: stored.rank.stamp,
            data: event.data.clone(),
        })
    }

    /// The place of an event in the log.
    pub(super) fn find(&self, source: &str, id: &str) -> Option<usize> {
        self.log.iter().position(|stored| stored.planned.event.id == id && stored.planned.event.source == source)
    }
}

fn observe(stored: &Stored) -> Observed {
    let Planned { topic, event } = &*stored.planned;
    Observed {
        rank: stored.rank,
        topic: topic.clone(),
        // Nodes that a declaration names are not these.
        author: None,
        source: event.source.clone(),
        id: event.id.clone(),
        kind: event.kind.clone(),
        causes: event.causes.clone(),
        correlation: event.correlation.clone(),
        role: text(event, ROLE_EXTENSION),
        version: text(event, VERSION_EXTENSION),
    }
}

pub(super) fn author_of(number: usize) -> Author {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Author(bytes)
}

fn text(event: &Event, wanted: &str) -> Option<String> {
    event.extensions.iter().find_map(|(name, value)| match value {
        Value::Text(text) if name == wanted => Some(text.clone()),
        _ => None,
    })
}
