//! Commits that were made, so that a repeated call is recognised and answered as the first was.

use std::collections::{BTreeMap, VecDeque};

use roundelay_protocol::event::Item;
use roundelay_protocol::ids::{Arrival, Author};
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::Mark;
use serde::{Deserialize, Serialize};

use super::marks;
use super::types::{CommitAnswer, CommittedEvent};
use crate::log::{LogError, LogReader};

/// Commits that a consumer remembers. An older one that is repeated is refused, as what it processed is done.
const MAX_COMMITS: u64 = 1_024;
/// Batches that are looked at for the events of a commit from before a restart.
const MAX_LOOKED: usize = 65_536;
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
    /// The first sequence number of its events in each topic; found again after a restart.
    #[serde(skip)]
    firsts: BTreeMap<Topic, u64>,
}

/// The commits of one consumer.
#[derive(Debug, Default)]
pub(super) struct Commits {
    made: BTreeMap<Digest, Made>,
    order: VecDeque<Digest>,
    last: u64,
}

impl Commits {
    pub(super) fn read(reader: &LogReader, name: &str) -> Result<Self, LogError> {
        let found = marks::read_commits(reader, name)?;
        let mut made: Vec<Made> = found.iter().filter_map(|value| serde_json::from_slice(value).ok()).collect();
        made.sort_by_key(|made| made.number);
        Ok(Self {
            last: made.last().map_or(0, |made| made.number),
            order: made.iter().map(|made| made.digest).collect(),
            made: made.into_iter().map(|made| (made.digest, made)).collect(),
        })
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
        if made.firsts.is_empty() && !given.is_empty() {
            made.firsts = find(reader, me, Arrival(made.after), given)?;
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
        let made = Made { number: self.last, digest, base, processed, after: after.0, firsts: BTreeMap::new() };
        let mark = (marks::commit(name, self.last % MAX_COMMITS), marks::json(&made));
        (made, mark)
    }

    /// A commit is durable.
    pub(super) fn put(&mut self, mut made: Made, firsts: BTreeMap<Topic, u64>, given: &Given) -> CommitAnswer {
        made.firsts = firsts;
        let answer = answer(&made, given, false);
        self.order.push_back(made.digest);
        self.made.insert(made.digest, made);
        if self.order.len() as u64 > MAX_COMMITS
            && let Some(oldest) = self.order.pop_front()
        {
            self.made.remove(&oldest);
        }
        answer
    }
}

fn answer(made: &Made, given: &Given, duplicate: bool) -> CommitAnswer {
    let mut next = made.firsts.clone();
    let events = given.iter().map(|(topic, id)| {
        let seq = next.get_mut(topic).map(|seq| {
            *seq += 1;
            *seq - 1
        });
        CommittedEvent { topic: topic.to_string(), id: id.clone(), seq }
    });
    CommitAnswer { processed: made.processed, events: events.collect(), duplicate }
}

/// Finds the first event that a commit put into each topic. What was pruned since is not found.
fn find(reader: &LogReader, me: Author, after: Arrival, given: &Given) -> Result<BTreeMap<Topic, u64>, LogError> {
    let mut wanted: BTreeMap<&Topic, &str> = BTreeMap::new();
    for (topic, id) in given {
        wanted.entry(topic).or_insert(id);
    }
    let (mut found, mut after, mut looked) = (BTreeMap::new(), after, 0);
    while found.len() < wanted.len() && after < reader.last_arrival() && looked < MAX_LOOKED {
        let scan = reader.scan_topic(&|topic| wanted.contains_key(topic), after, READ_BATCHES, READ_BYTES)?;
        after = scan.next;
        looked += scan.batches.len();
        for (_, batch) in scan.batches.iter().filter(|(_, batch)| batch.header().author == me) {
            let topic = &batch.header().topic;
            let is_first = |item: &Item<'_>| matches!(item, Item::Event(event) if wanted.get(topic) == Some(&event.id));
            if !found.contains_key(topic)
                && let Some((seq, _)) = batch.items().find(|(_, item)| is_first(item))
            {
                found.insert(topic.clone(), seq);
            }
        }
    }
    Ok(found)
}
