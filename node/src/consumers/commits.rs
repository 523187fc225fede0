//! Commits that were made, so that a repeated call is recognised and answered as the first was.

use std::collections::BTreeMap;

use roundelay_protocol::event::Item;
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::Mark;
use serde::{Deserialize, Serialize};

use super::marks;
use super::types::{CommitAnswer, CommittedEvent};
use crate::log::{LogError, LogReader};
use crate::node::PartPlace;

/// Commits that a consumer remembers, those that were refused counted. An older one that is repeated is refused, as what
/// it processed is done.
const MAX_COMMITS: u64 = 1_024;
/// Arrival numbers that are looked at for the events of a commit from before a restart.
const MAX_LOOKED: u64 = 65_536;
const READ_BATCHES: usize = 256;
const READ_BYTES: usize = 1024 * 1024;

/// What a commit is recognised by: a hash over all that was given.
pub(super) type Digest = [u8; 16];

/// The events of a commit: each one's topic and id, in the order in which they were given.
pub(super) type Given = Vec<(Topic, String)>;

/// A commit that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Made {
    number: u64,
    digest: Digest,
    /// From which ids are derived.
    base: [u8; 16],
    processed: u64,
    /// Its events arrived after this number.
    after: u64,
    /// The sequence numbers of its events; looked for after a restart.
    #[serde(skip)]
    seqs: Vec<Option<u64>>,
}

/// The commits of one consumer.
#[derive(Debug, Default)]
pub(super) struct Commits {
    made: BTreeMap<Digest, Made>,
    order: BTreeMap<u64, Digest>,
    last: u64,
}

impl Commits {
    pub(super) fn read(reader: &LogReader, name: &str) -> Result<Self, LogError> {
        let found = marks::read_commits(reader, name)?;
        let mut made: Vec<Made> = found.iter().filter_map(|value| serde_json::from_slice(value).ok()).collect();
        made.sort_by_key(|made| made.number);
        let mut commits = Self::default();
        for made in made {
            commits.last = made.number;
            commits.insert(made);
        }
        Ok(commits)
    }

    fn insert(&mut self, made: Made) {
        self.order.insert(made.number, made.digest);
        // The same again after a seek.
        if let Some(before) = self.made.insert(made.digest, made) {
            self.order.remove(&before.number);
        }
        // In the store it has the place of a later one.
        while let Some((number, digest)) = self.order.first_key_value()
            && number + MAX_COMMITS <= self.last
        {
            self.made.remove(digest);
            self.order.pop_first();
        }
    }

    /// From which the ids of a commit that was made before were derived.
    pub(super) fn base(&self, digest: &Digest) -> Option<[u8; 16]> {
        self.made.get(digest).map(|made| made.base)
    }

    /// The answer to a commit that was made before.
    pub(super) fn answer(
        &mut self,
        reader: &LogReader,
        me: Author,
        digest: &Digest,
        given: &Given,
    ) -> Result<Option<CommitAnswer>, LogError> {
        let Some(made) = self.made.get_mut(digest) else { return Ok(None) };
        if made.seqs.len() < given.len() {
            made.seqs = find(reader, me, Arrival(made.after), given)?;
        }
        Ok(Some(answer(made, given, true)))
    }

    /// A new commit, with the mark that keeps it.
    pub(super) fn draw(
        &mut self,
        name: &str,
        digest: Digest,
        base: [u8; 16],
        processed: u64,
        after: Arrival,
    ) -> (Made, Mark) {
        self.last += 1;
        let made = Made { number: self.last, digest, base, processed, after: after.0, seqs: Vec::new() };
        let mark = (marks::commit(name, self.last % MAX_COMMITS), marks::json(&made));
        (made, mark)
    }

    /// A commit is durable.
    pub(super) fn put(&mut self, mut made: Made, places: &BTreeMap<Topic, PartPlace>, given: &Given) -> CommitAnswer {
        let mut events: BTreeMap<&Topic, _> =
            places.iter().map(|(topic, place)| (topic, place.events.iter())).collect();
        let seq = |(topic, _): &(Topic, String)| events.get_mut(topic)?.next().map(|event| event.seq);
        made.seqs = given.iter().map(seq).collect();
        let answer = answer(&made, given, false);
        self.insert(made);
        answer
    }
}

fn answer(made: &Made, given: &Given, duplicate: bool) -> CommitAnswer {
    let seqs = made.seqs.iter().copied().chain(std::iter::repeat(None));
    let event = |((topic, id), seq): (&(Topic, String), Option<u64>)| CommittedEvent {
        topic: topic.to_string(),
        id: id.clone(),
        seq,
    };
    CommitAnswer { processed: made.processed, events: given.iter().zip(seqs).map(event).collect(), duplicate }
}

/// Finds the events that a commit published. Those that were pruned since, or had been published before, are not found.
fn find(reader: &LogReader, me: Author, after: Arrival, given: &Given) -> Result<Vec<Option<u64>>, LogError> {
    let mut missing: BTreeMap<&Topic, BTreeMap<&str, usize>> = BTreeMap::new();
    for ((topic, id), number) in given.iter().zip(0..) {
        missing.entry(topic).or_default().insert(id, number);
    }
    let (mut seqs, mut left, begin) = (vec![None; given.len()], given.len(), after);
    let mut after = begin;
    // Also a read that finds nothing has looked at what it passed over.
    while left > 0 && after < reader.last_arrival() && after.0 - begin.0 < MAX_LOOKED {
        let scan = reader.scan_topic(&|topic| missing.contains_key(topic), after, READ_BATCHES, READ_BYTES)?;
        after = scan.next;
        for (_, batch) in scan.batches.iter().filter(|(_, batch)| batch.header().author == me) {
            let Some(missing) = missing.get_mut(&batch.header().topic) else { continue };
            for (seq, item) in batch.items() {
                let Item::Event(event) = item else { continue };
                if let Some(number) = missing.remove(event.id) {
                    seqs[number] = Some(seq);
                    left -= 1;
                }
            }
        }
    }
    Ok(seqs)
}
