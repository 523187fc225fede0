//! Logs, their tips, and sums over them.
//!
//! A log is one author's events of one topic. Its batches form a line, or a tree where the author's store was ever
//! restored from an old copy; the ends of its lines are its tips. Two nodes hold the same events of a log (above their
//! floors) exactly when they have the same tips, so nodes compare tips and never events.

use std::fmt;

use smallvec::SmallVec;

use crate::hlc::Hlc;
use crate::ids::{Arrival, Author, BatchHash};
use crate::topic::Topic;

/// Names a log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// Where the events were published.
    pub topic: Topic,
    /// Who published them.
    pub author: Author,
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.topic, self.author)
    }
}

/// The end of a line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tip {
    /// Sequence number of the last event.
    pub seq: u64,
    /// The last batch.
    pub hash: BatchHash,
    /// Stamp of the last event.
    pub hlc: Hlc,
}

/// A log's tips, sorted. One, for all but restored authors.
pub type Tips = SmallVec<[Tip; 1]>;

/// A range of a log that the node knows of and does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hole {
    /// First missing sequence number.
    pub from: u64,
    /// Last missing sequence number.
    pub to: u64,
    /// The missing batch that ends at `to`: the parent of the batch above the hole.
    pub anchor: BatchHash,
}

/// What a store keeps about a log beside its batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The log.
    pub key: LogKey,
    /// Its tips here.
    pub tips: Tips,
    /// Events up to this sequence number were pruned here; 0 when none were.
    pub floor: u64,
    /// The greatest stamp of what was pruned. A line that a restored author began below the floor has greater ones.
    pub floor_hlc: Hlc,
    /// Ranges above the floor that are missing, sorted, at most [`MAX_HOLES`].
    pub holes: Vec<Hole>,
    /// For logs of this node: up to this sequence number some peer has announced to hold them.
    pub announced: u64,
    /// Arrival number of the last batch that was stored of this log.
    pub last_arrival: Arrival,
    /// Events stored here.
    pub events: u64,
    /// Bytes of the batches stored here.
    pub bytes: u64,
}

/// Holes that one log may have; batches that would make more are not admitted until some are filled.
pub const MAX_HOLES: usize = 64;

impl LogRecord {
    /// A log of which nothing is stored.
    #[must_use]
    pub fn new(key: LogKey) -> Self {
        Self {
            key,
            tips: Tips::new(),
            floor: 0,
            floor_hlc: Hlc(0),
            holes: Vec::new(),
            announced: 0,
            last_arrival: Arrival(0),
            events: 0,
            bytes: 0,
        }
    }

    /// The tips that lie above a floor, and above the record's own: those of lines of which something may be left.
    #[must_use]
    pub fn tips_above(&self, floor: u64) -> Tips {
        let floor = floor.max(self.floor);
        self.tips.iter().filter(|tip| tip.seq > floor).copied().collect()
    }

    /// How many lines the log has above its floor, as far as is known: what ends right below a hole is taken to go on
    /// above it.
    #[must_use]
    pub fn lines(&self) -> usize {
        let tips = self.tips_above(0);
        let goes_on = |hole: &&Hole| tips.iter().any(|tip| tip.seq + 1 == hole.from);
        tips.len() - self.holes.iter().filter(goes_on).count().min(tips.len())
    }

    /// The greatest sequence number of any tip; 0 for an empty log.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.tips.iter().map(|tip| tip.seq).max().unwrap_or(0)
    }
}

/// A sum over tips, in which order does not matter and a changed tip is one subtraction and one addition: keyed BLAKE3
/// of each, added modulo 2^128 (the incremental hashing of Bellare and Micciancio, 1997). The key is the link's, so that
/// nobody can prepare logs whose sums collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(pub u128);

impl Sum {
    /// Adds a log's tips.
    pub fn add(&mut self, key: &SumKey, log: &LogKey, tips: &[Tip]) {
        for tip in tips {
            self.0 = self.0.wrapping_add(key.hash(log, tip));
        }
    }

    /// Takes a log's tips away again.
    pub fn remove(&mut self, key: &SumKey, log: &LogKey, tips: &[Tip]) {
        for tip in tips {
            self.0 = self.0.wrapping_sub(key.hash(log, tip));
        }
    }
}

/// The key of a link's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumKey([u8; 32]);

impl SumKey {
    /// The key that digests in reports use: the same everywhere, so that people can compare nodes.
    pub const REPORT: Self = Self(*b"roundelay digest of topics, v1.\0");

    /// The key of a link, from both ends' nonces.
    #[must_use]
    pub fn of_link(one: u64, other: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("roundelay link sums v1");
        hasher.update(&one.min(other).to_be_bytes());
        hasher.update(&one.max(other).to_be_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    fn hash(&self, log: &LogKey, tip: &Tip) -> u128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&log.author.0);
        hasher.update(&tip.seq.to_be_bytes());
        hasher.update(&tip.hash.0);
        hasher.update(log.topic.as_str().as_bytes());
        let mut sum = [0; 16];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_be_bytes(sum)
    }
}
