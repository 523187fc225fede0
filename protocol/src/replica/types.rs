//! What goes into a replica and what comes out.

use smallvec::{SmallVec, smallvec};

use super::compact::KeyedBatch;
use crate::arrival_times::ArrivalTimes;
use crate::batch::VerifiedBatch;
use crate::event::EncodedEvent;
use crate::frame::{Frame, Memory, Missing, Position, Range};
use crate::heads::{Hole, LogKey, LogRecord, Tip};
use crate::hlc::Hlc;
use crate::ids::{Arrival, Author, BatchHash, Chain, Incarnation};
use crate::interest::Interest;
use crate::quota::LogLimits;
use crate::rules::Rules;
use crate::sequencer::Part;
use crate::topic::Topic;
use crate::write_set::{Mark, WriteSet};

/// The time, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; for timers.
    pub mono_ms: u64,
    /// Milliseconds since 1970 as this machine believes; for stamps.
    pub wall_ms: u64,
}

/// What a replica is born with.
#[derive(Debug, Clone)]
pub struct Config {
    /// A random number, new at each start.
    pub incarnation: Incarnation,
    /// What the store holds up to.
    pub position: Position,
    /// Bytes of batches in the store.
    pub batch_bytes: u64,
    /// Bytes of batches beyond which the oldest of others are pruned.
    pub cap_bytes: u64,
    /// How many logs of others are taken.
    pub log_limits: LogLimits,
    /// Largest batch that a gossip message carries, in bytes.
    pub max_gossip_bytes: usize,
    /// What the node takes part in. Who may publish follows from the rules.
    pub interest: Interest,
    /// What holds for which topics.
    pub rules: Rules,
    /// When what the store holds arrived, as [`super::ARRIVAL_TIMES_MARK`] has it.
    pub arrival_times: ArrivalTimes,
    /// Seed of the jitter.
    pub seed: u64,
}

/// How a batch came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A gossip message that this peer passed on.
    Gossip(Author),
    /// The answer to a pull.
    Pull {
        /// Who was asked.
        peer: Author,
        /// The pull.
        id: u64,
    },
    /// Brought by the operator.
    Import,
    /// Out of a damaged store of this node. Nobody can be asked for what is missing below it, so it is admitted above a
    /// hole at once.
    Salvage {
        /// Whether the store led to it. What it did not lead to may have been pruned.
        stored: bool,
    },
}

/// A stored batch, as pruning sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldBatch {
    /// Its place in the store.
    pub arrival: Arrival,
    /// Its log.
    pub log: LogKey,
    /// Sequence number of its first event.
    pub first_seq: u64,
    /// Sequence number of its last event.
    pub last_seq: u64,
    /// Its hash.
    pub hash: BatchHash,
    /// Stamp of its last event.
    pub last_hlc: Hlc,
    /// Bytes that it takes.
    pub bytes: u64,
}

impl OldBatch {
    /// A batch at its place in a store, of which `bytes` are stored. Of the batch itself only the header is looked at.
    #[must_use]
    pub fn of(arrival: Arrival, batch: &VerifiedBatch, bytes: u64) -> Self {
        let header = batch.header();
        Self {
            arrival,
            log: LogKey { topic: header.topic.clone(), author: header.author },
            first_seq: header.first_seq,
            last_seq: header.last_seq(),
            hash: batch.hash(),
            last_hlc: header.last_hlc,
            bytes,
        }
    }
}

/// Where one part of a publication went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Sequence number of its first event; the others follow by one.
    pub first_seq: u64,
    /// Stamp of its first event.
    pub first_hlc: Hlc,
}

/// Where the parts of a publication went.
pub type Places = SmallVec<[Place; 1]>;

/// Own events of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The topic.
    pub topic: Topic,
    /// Sequence number of the first.
    pub first_seq: u64,
    /// Sequence number of the last.
    pub last_seq: u64,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A service publishes: events of any number of topics, and marks with them, all or nothing.
    Publish {
        /// The caller's name for it, in the effects that answer.
        id: u64,
        /// The events. They keep their place among publications with the same first topic.
        parts: SmallVec<[Part; 1]>,
        /// Marks to write with them.
        marks: Vec<Mark>,
        /// How many peers must hold them before [`Effect::Acked`].
        acks: u32,
    },
    /// Somebody published again what is durable here: the peers that hold it are counted.
    CountAcks {
        /// The caller's name for it, in the effects that answer.
        id: u64,
        /// What it is.
        spans: SmallVec<[Span; 1]>,
        /// How many peers must hold it before [`Effect::Acked`] is complete.
        acks: u32,
    },
    /// Nobody waits for these acknowledgements, or for the answer to this probe, any more.
    Cancel {
        /// The publication or the probe.
        id: u64,
    },
    /// A verified batch.
    Batch {
        /// The batch.
        batch: VerifiedBatch,
        /// How it came.
        source: Source,
    },
    /// The answer to [`Effect::Find`].
    Found {
        /// The batch that was asked about.
        hash: BatchHash,
        /// Whether the store has it.
        known: bool,
        /// Its parent, if the store has that.
        parent: Option<Tip>,
        /// Stored batches that follow the same parent, and the incarnations that sealed them; may be left out when the
        /// batch is known.
        siblings: Vec<(BatchHash, Incarnation)>,
    },
    /// The answer to [`Effect::Check`].
    Checked {
        /// What was asked.
        check: Check,
        /// Those of the places that are stored.
        known: Vec<Tip>,
    },
    /// A write set is durable.
    Stored {
        /// Its token.
        token: u64,
        /// The store's position with it.
        position: Position,
        /// Bytes of batches in the store.
        batch_bytes: u64,
    },
    /// A link to a peer is ready.
    LinkUp {
        /// The peer.
        peer: Author,
        /// The driver's number for the link.
        link: u64,
        /// A random number for the link.
        nonce: u64,
        /// What the store remembers of the peer.
        memory: Option<Memory>,
    },
    /// A link is gone.
    LinkDown {
        /// The peer.
        peer: Author,
        /// The driver's number for the link.
        link: u64,
    },
    /// A peer says something.
    Frame {
        /// The peer.
        peer: Author,
        /// The driver's number for the link.
        link: u64,
        /// What it says.
        frame: Frame,
        /// For a hello with a memory: the chain of this store at that arrival number, if it is known.
        chain: Option<Chain>,
    },
    /// The queue to the peer has room again.
    Drained {
        /// The peer.
        peer: Author,
    },
    /// All of a pull by the peer was sent.
    Served {
        /// The peer.
        peer: Author,
    },
    /// The answer to [`Effect::ListOldest`].
    Oldest {
        /// Batches in order of arrival.
        batches: Vec<OldBatch>,
        /// Whether there are no more behind them.
        end: bool,
    },
    /// The answer to [`Effect::ListKeys`].
    Keys {
        /// Batches of the topic, the last to arrive first.
        batches: Vec<KeyedBatch>,
        /// What arrived before this was not looked at yet.
        next: Arrival,
        /// Whether there is nothing of it.
        end: bool,
    },
    /// A peer broke the rules, as the driver saw.
    Breach {
        /// The peer.
        peer: Author,
        /// What it did, for people.
        reason: String,
    },
    /// A peer did what an honest one may do once in a while, and no more: see [`crate::conduct`].
    Slip {
        /// The peer.
        peer: Author,
        /// What it did, for people.
        reason: String,
    },
    /// What a peer did is forgotten: the operator says so.
    Pardon {
        /// The peer.
        peer: Author,
    },
    /// The node takes part in something else from now on. Who may publish follows from the rules.
    SetInterest(Interest),
    /// Other rules hold from now on.
    SetRules(Rules),
    /// Somebody waits until every head that exists now is covered on both sides of every link.
    Probe {
        /// The caller's name for it.
        id: u64,
    },
    /// Small values to be kept: the driver's own.
    SetMarks(Vec<Mark>),
    /// How much room the disk has from now on.
    Room(Room),
    /// Time has passed.
    Tick,
}

impl Input {
    /// A publication of events of one topic.
    #[must_use]
    pub fn publish(id: u64, topic: Topic, events: Vec<EncodedEvent>, acks: u32) -> Self {
        Self::Publish { id, parts: smallvec![Part { topic, events }], marks: Vec::new(), acks }
    }
}

/// How much room the disk that holds the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Room {
    /// Enough for everybody's events.
    #[default]
    Ample,
    /// What is left is kept for the node's own events: those of others are left for later.
    OwnOnly,
    /// Not enough to write any event safely.
    None,
}

/// Why a publication was refused. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The store is full of events that no peer has yet.
    #[error(
        "the store is full of events that no other node has yet: connect a peer that subscribes to them, or raise store.cap"
    )]
    StoreFull,
    /// The disk that holds the store is full.
    #[error(
        "the disk that holds the store is full, and nothing was stored: free some space on it; publishing goes on by itself then"
    )]
    DiskFull,
    /// This node's own rule for the topic does not let it publish there.
    #[error(
        "the rule of '{0}' on this node names its writers, and this node is none of them: publish on one that is, or change the rule"
    )]
    NotWriter(Topic),
    /// The clock is at the end of time.
    #[error("the clock is past the year 2200: set it right and restart the node")]
    Clock,
}

/// Something the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Another live process publishes with this node's identity.
    Twin {
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A log has more than one line: its author's store was restored from an old copy, or copied.
    Forked {
        /// The log.
        log: LogKey,
        /// Its tips here.
        tips: usize,
    },
    /// One life of the author's process sealed two batches upon the same one, which no honest process does: the author
    /// cheats, or its process was copied while it ran. Both lines are kept. Told once a log.
    Cheat {
        /// The log.
        log: LogKey,
        /// The two batches: with their headers and signatures, the proof.
        batches: [BatchHash; 2],
    },
    /// An author makes more lines than a log may have: its node is broken, or it cheats. Further ones are refused.
    TooManyLines {
        /// The log.
        log: LogKey,
    },
    /// A batch breaks the rules against its parent and is refused.
    Invalid {
        /// The log.
        log: LogKey,
    },
    /// Events were skipped, because every peer that was asked lacks them.
    Hole {
        /// The log.
        log: LogKey,
        /// The range.
        hole: Hole,
    },
}

/// Tips that a peer announced and that may be here, inside a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The peer that announced.
    pub peer: Author,
    /// The log.
    pub log: LogKey,
    /// The peer's floor.
    pub floor: u64,
    /// The tips: last sequence number and hash.
    pub places: Vec<(u64, BatchHash)>,
    /// From when on what is absent is pulled.
    pub due_ms: u64,
}

/// Something to be done, in the order in which it comes. What follows from the answer to a question is done behind what
/// came with the question: write sets build on each other.
#[derive(Debug)]
pub enum Effect {
    /// Write this and answer with [`Input::Stored`], in the order of the tokens.
    Append {
        /// Names the write.
        token: u64,
        /// What to write.
        set: WriteSet,
    },
    /// Gossip an own batch, which is durable.
    Gossip(VerifiedBatch),
    /// Send a frame to a peer.
    Send {
        /// The peer.
        peer: Author,
        /// The frame.
        frame: Frame,
    },
    /// Look a batch, its parent and what else follows that up; answer with [`Input::Found`], before any other input.
    Find {
        /// The log.
        log: LogKey,
        /// The batch's last sequence number and hash.
        place: (u64, BatchHash),
        /// The parent's.
        parent: (u64, BatchHash),
    },
    /// Look announced tips up; answer with [`Input::Checked`], before any other input.
    Check(Check),
    /// Send these ranges as [`Frame::Batches`], then [`Frame::PullEnd`]; then [`Input::Served`].
    Serve {
        /// The peer.
        peer: Author,
        /// The pull.
        id: u64,
        /// What it wants.
        ranges: Vec<Range>,
        /// Bytes that it takes.
        max_bytes: u64,
        /// What is known to be missing here.
        missing: Vec<Missing>,
    },
    /// List the oldest stored batches after this arrival number; answer with [`Input::Oldest`].
    ListOldest {
        /// Where to begin.
        after: Arrival,
    },
    /// List stored batches of a topic that arrived before this one, the last first, with the keys of their events; answer
    /// with [`Input::Keys`].
    ListKeys {
        /// The topic.
        topic: Topic,
        /// Where to begin, without it.
        before: Arrival,
    },
    /// A publication is durable here.
    Published {
        /// The publication.
        id: u64,
        /// Where its parts went, in their order.
        places: Places,
        /// The store's arrival number with it.
        arrival: Arrival,
    },
    /// So many peers hold a publication.
    Acked {
        /// The publication.
        id: u64,
        /// The peers.
        peers: u32,
        /// Whether it is as many as were asked for.
        complete: bool,
    },
    /// A publication was not taken.
    Refused {
        /// The publication.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// A topic that the node takes part in exists in the mesh.
    TopicSeen(Topic),
    /// End the link, and have none for a while.
    Disconnect {
        /// The peer.
        peer: Author,
        /// Why, for people.
        reason: String,
        /// For how long, in milliseconds.
        keep_away_ms: u64,
    },
    /// A probe is answered.
    Probed {
        /// The probe.
        id: u64,
        /// Links that were up all the time and agreed.
        links: u32,
    },
    /// Tell the operator.
    Notice(Notice),
}

/// What a link looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The peer.
    pub peer: Author,
    /// Whether both have told each other their heads.
    pub met: bool,
    /// Whether the last audit found both sides equal and nothing changed since.
    pub in_sync: bool,
    /// Events that the peer has and this node lacks.
    pub behind: u64,
    /// Events that this node has and the peer has not announced.
    pub ahead: u64,
    /// The peer's clock less ours, in milliseconds.
    pub clock_ahead_ms: i64,
}

/// A peer that broke the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAway {
    /// The peer.
    pub peer: Author,
    /// What it did.
    pub reason: String,
    /// For how much longer there are no links with it, in milliseconds.
    pub left_ms: u64,
}

/// What is known to be missing of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRange {
    /// The log.
    pub log: LogKey,
    /// First missing sequence number.
    pub from: u64,
    /// Last missing sequence number.
    pub to: u64,
    /// Why.
    pub reason: MissingReason,
}

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingReason {
    /// This node pruned them.
    Pruned,
    /// Every peer that was asked lacks them.
    Unavailable,
    /// They are on their way, or wait for a peer that has them.
    NotFetched,
}

/// A log's record with what is on its way to the disk.
pub(crate) struct Latest {
    pub(crate) record: LogRecord,
    pub(crate) writes: usize,
}
