//! The frames of a sync stream: what two linked nodes tell each other about their heads, and how they fetch what they
//! lack. Each is a CBOR tuple whose first item is the frame's kind. ARCHITECTURE.md draws them all.

use bytes::Bytes;

use crate::codec::{CodecError, Reader, Writer};
use crate::heads::{LogKey, MAX_HOLES, Sum};
use crate::ids::{Arrival, Author, BatchHash, Chain, StoreEpoch};
use crate::interest::Interest;
use crate::limits::{MAX_BATCH_WIRE_BYTES, MAX_SEQ, MAX_TIPS, MAX_TOPIC_BYTES};
use crate::topic::Topic;

/// The version of the sync protocol, first in every hello.
pub const VERSION: u64 = 1;
/// Heads, sums, topics or ranges in one frame.
pub const MAX_PAGE: usize = 4096;
/// Ranges in one pull.
pub const MAX_RANGES: usize = 64;
/// Missing stretches that the end of a pull may name.
const MAX_MISSING: usize = MAX_RANGES * (MAX_HOLES + 2);
/// Batches in one frame.
const MAX_FRAME_BATCHES: usize = 4096;

/// A place in a peer's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The store.
    pub epoch: StoreEpoch,
    /// Everything up to this arrival number is meant.
    pub arrival: Arrival,
    /// The store's chain there.
    pub chain: Chain,
}

/// What one node remembers of another from when they met before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Up to here it knows the other's heads.
    pub position: Position,
    /// What the two had in common then: see [`Interest::fingerprint`].
    pub common: [u8; 8],
}

impl Memory {
    /// The bytes of a mark.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        write_memory(&mut writer, self);
        writer.finish()
    }

    /// Reads a mark's bytes.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let memory = read_memory(&mut reader)?;
        reader.end()?;
        Ok(memory)
    }
}

/// The first frame, from both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// A random number of this process: two live nodes with one identity differ in it.
    pub process: u64,
    /// A random number of this link; both ends' make the key of its sums.
    pub nonce: u64,
    /// The sender's store.
    pub epoch: StoreEpoch,
    /// The sender's wall clock in milliseconds since 1970.
    pub clock_ms: u64,
    /// What the sender takes part in.
    pub interest: Interest,
    /// What the sender remembers of the receiver.
    pub memory: Option<Memory>,
}

/// The tips of one log at the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The log.
    pub log: LogKey,
    /// The sender lacks the events up to this sequence number.
    pub floor: u64,
    /// Of the events up to this sequence number the sender may lack some that it never had: the end of its last hole.
    /// 0 when it has no hole.
    pub holes_to: u64,
    /// Its tips there: sequence number and hash of the last batch; sorted, each once.
    pub tips: Vec<(u64, BatchHash)>,
}

/// A range of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The log.
    pub log: LogKey,
    /// Events after this sequence number are wanted,
    pub after: u64,
    /// up to this one.
    pub upto: u64,
}

/// What the sender of a pulled range's end does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Which of the pull's ranges.
    pub range: u64,
    /// First missing sequence number.
    pub from: u64,
    /// Last missing sequence number.
    pub to: u64,
}

/// One message of a sync stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Who I am and what I remember of you.
    Hello(Hello),
    /// My subscriptions changed.
    Interest(Interest),
    /// My sums by topic, for a stranger to compare. The answer to the last page is [`Frame::Want`].
    Sums {
        /// A sum for each topic that we have in common and of which I hold logs.
        topics: Vec<(Topic, Sum)>,
        /// Whether this is the last page.
        last: bool,
    },
    /// Tell me your heads of these topics.
    Want {
        /// Topics whose sums differ.
        topics: Vec<Topic>,
        /// Whether this is the last page.
        last: bool,
    },
    /// My heads: those that changed, or all of a topic.
    Heads {
        /// At most [`MAX_PAGE`].
        heads: Vec<Head>,
        /// Set on the last page: with it you know all my heads up to there.
        upto: Option<Position>,
        /// How many events there are at my side in what we have in common.
        events: u64,
    },
    /// One sum over everything that we have in common.
    Audit {
        /// My sum.
        sum: Sum,
        /// How many events that is.
        events: u64,
    },
    /// Send me these ranges.
    Pull {
        /// Names the pull in the answers.
        id: u64,
        /// Bytes of batches that I can take now.
        max_bytes: u64,
        /// At most [`MAX_RANGES`].
        ranges: Vec<Range>,
    },
    /// Batches that were pulled.
    Batches {
        /// The pull.
        id: u64,
        /// Batches, of a log in rising order.
        batches: Vec<Bytes>,
    },
    /// All that there is to a pull was sent.
    PullEnd {
        /// The pull.
        id: u64,
        /// How many of its ranges were served to their end.
        served: u64,
        /// What the sender lacks in those.
        missing: Vec<Missing>,
    },
    /// Somebody here waits for your durable heads: announce them at once for a while.
    Hurry,
    /// Tell me when you have told me your heads, and when you have got all of mine that you know of now.
    Probe(u64),
    /// All my heads from before your probe are with you.
    ProbeSeen(u64),
    /// All your heads from before your probe are covered here, durably.
    ProbeDone(u64),
}

mod kind {
    pub(super) const HELLO: u64 = 0;
    pub(super) const INTEREST: u64 = 1;
    pub(super) const SUMS: u64 = 2;
    pub(super) const WANT: u64 = 3;
    pub(super) const HEADS: u64 = 4;
    pub(super) const AUDIT: u64 = 5;
    pub(super) const PULL: u64 = 6;
    pub(super) const BATCHES: u64 = 7;
    pub(super) const PULL_END: u64 = 8;
    pub(super) const HURRY: u64 = 9;
    pub(super) const PROBE: u64 = 10;
    pub(super) const PROBE_SEEN: u64 = 11;
    pub(super) const PROBE_DONE: u64 = 12;
}

impl Frame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        let w = &mut out;
        match self {
            Self::Hello(hello) => write_hello(w.array(8).uint(kind::HELLO), hello),
            Self::Interest(interest) => interest.write(w.array(1 + interest.items()).uint(kind::INTEREST)),
            Self::Sums { topics, last } => {
                w.array(3).uint(kind::SUMS).bool(*last).array(topics.len() * 2);
                for (topic, sum) in topics {
                    w.text(topic.as_str()).bytes(&sum.0.to_be_bytes());
                }
            }
            Self::Want { topics, last } => {
                w.array(3).uint(kind::WANT).bool(*last).array(topics.len());
                topics.iter().for_each(|topic| {
                    w.text(topic.as_str());
                });
            }
            Self::Heads { heads, upto, events } => {
                w.array(4).uint(kind::HEADS).uint(*events);
                write_maybe_position(w, upto.as_ref());
                write_heads(w, heads);
            }
            Self::Audit { sum, events } => {
                w.array(3).uint(kind::AUDIT).bytes(&sum.0.to_be_bytes()).uint(*events);
            }
            Self::Pull { id, max_bytes, ranges } => {
                w.array(4).uint(kind::PULL).uint(*id).uint(*max_bytes).array(ranges.len());
                for range in ranges {
                    w.array(4).text(range.log.topic.as_str()).bytes(&range.log.author.0);
                    w.uint(range.after).uint(range.upto);
                }
            }
            Self::Batches { id, batches } => {
                w.array(3).uint(kind::BATCHES).uint(*id).array(batches.len());
                batches.iter().for_each(|batch| {
                    w.bytes(batch);
                });
            }
            Self::PullEnd { id, served, missing } => {
                w.array(4).uint(kind::PULL_END).uint(*id).uint(*served).array(missing.len() * 3);
                for part in missing {
                    w.uint(part.range).uint(part.from).uint(part.to);
                }
            }
            Self::Hurry => {
                w.array(1).uint(kind::HURRY);
            }
            Self::Probe(id) => {
                w.array(2).uint(kind::PROBE).uint(*id);
            }
            Self::ProbeSeen(id) => {
                w.array(2).uint(kind::PROBE_SEEN).uint(*id);
            }
            Self::ProbeDone(id) => {
                w.array(2).uint(kind::PROBE_DONE).uint(*id);
            }
        }
        out.finish().into()
    }

    /// Reads a frame. Batches in it are slices of `bytes`; they are not parsed here.
    ///
    /// # Errors
    /// When the bytes are not a frame of this version: the peer breaks the protocol.
    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let fields = r.list("frame", 16)?;
        let kind = r.uint("frame kind")?;
        let frame = match (kind, fields) {
            (kind::HELLO, 8) => Self::Hello(read_hello(r)?),
            (kind::INTEREST, 3 | 4) => Self::Interest(Interest::read(r, fields - 1)?),
            (kind::SUMS, 3) => {
                let last = r.bool("last")?;
                let count = list_of(r, "sums", MAX_PAGE, 2)?;
                let read = |_| Ok((read_topic(r)?, Sum(u128::from_be_bytes(r.fixed("sum")?))));
                Self::Sums { topics: (0..count).map(read).collect::<Result<_, CodecError>>()?, last }
            }
            (kind::WANT, 3) => {
                let last = r.bool("last")?;
                let count = r.list("topics", MAX_PAGE)?;
                Self::Want { topics: (0..count).map(|_| read_topic(r)).collect::<Result<_, _>>()?, last }
            }
            (kind::HEADS, 4) => {
                let events = r.uint("events")?;
                let upto = if r.null() { None } else { Some(read_position(r)?) };
                Self::Heads { heads: read_heads(r)?, upto, events }
            }
            (kind::AUDIT, 3) => {
                let sum = Sum(u128::from_be_bytes(r.fixed("sum")?));
                Self::Audit { sum, events: r.uint("events")? }
            }
            (kind::PULL, 4) => {
                let (id, max_bytes) = (r.uint("pull")?, r.uint("bytes")?);
                let count = r.list("ranges", MAX_RANGES)?;
                Self::Pull { id, max_bytes, ranges: (0..count).map(|_| read_range(r)).collect::<Result<_, _>>()? }
            }
            (kind::BATCHES, 3) => {
                let id = r.uint("pull")?;
                let count = r.list("batches", MAX_FRAME_BATCHES)?;
                let read = |_| r.bytes("batch", MAX_BATCH_WIRE_BYTES).map(|batch| bytes.slice_ref(batch));
                Self::Batches { id, batches: (0..count).map(read).collect::<Result<_, _>>()? }
            }
            (kind::PULL_END, 4) => {
                let (id, served) = (r.uint("pull")?, r.uint("served")?);
                let count = list_of(r, "missing", MAX_MISSING, 3)?;
                let read = |_| read_missing(r);
                Self::PullEnd { id, served, missing: (0..count).map(read).collect::<Result<_, CodecError>>()? }
            }
            (kind::HURRY, 1) => Self::Hurry,
            (kind::PROBE, 2) => Self::Probe(r.uint("probe")?),
            (kind::PROBE_SEEN, 2) => Self::ProbeSeen(r.uint("probe")?),
            (kind::PROBE_DONE, 2) => Self::ProbeDone(r.uint("probe")?),
            _ => return Err(CodecError::OutOfBounds("frame kind")),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn write_hello(w: &mut Writer, hello: &Hello) {
    w.uint(VERSION).uint(hello.process).uint(hello.nonce).uint(hello.epoch.0).uint(hello.clock_ms);
    w.array(hello.interest.items());
    hello.interest.write(w);
    match &hello.memory {
        Some(memory) => write_memory(w, memory),
        None => {
            w.null();
        }
    }
}

fn read_hello(r: &mut Reader<'_>) -> Result<Hello, CodecError> {
    if r.uint("version")? != VERSION {
        return Err(CodecError::OutOfBounds("sync protocol version"));
    }
    let (process, nonce) = (r.uint("process")?, r.uint("nonce")?);
    let (epoch, clock_ms) = (StoreEpoch(r.uint("epoch")?), r.uint("clock")?);
    let items = r.list("interest", 3)?;
    let interest = Interest::read(r, items)?;
    let memory = if r.null() { None } else { Some(read_memory(r)?) };
    Ok(Hello { process, nonce, epoch, clock_ms, interest, memory })
}

fn write_memory(w: &mut Writer, memory: &Memory) {
    w.array(2);
    write_position(w, &memory.position);
    w.bytes(&memory.common);
}

fn read_memory(r: &mut Reader<'_>) -> Result<Memory, CodecError> {
    r.tuple("memory", 2)?;
    Ok(Memory { position: read_position(r)?, common: r.fixed("common")? })
}

fn write_maybe_position(w: &mut Writer, position: Option<&Position>) {
    match position {
        Some(position) => write_position(w, position),
        None => {
            w.null();
        }
    }
}

fn write_position(w: &mut Writer, position: &Position) {
    w.array(3).uint(position.epoch.0).uint(position.arrival.0).bytes(&position.chain.0);
}

fn read_position(r: &mut Reader<'_>) -> Result<Position, CodecError> {
    r.tuple("position", 3)?;
    Ok(Position {
        epoch: StoreEpoch(r.uint("epoch")?),
        arrival: Arrival(r.uint("arrival")?),
        chain: Chain(r.fixed("chain")?),
    })
}

/// Heads are grouped by topic, so that a topic's name is sent once for all its authors.
fn write_heads(w: &mut Writer, heads: &[Head]) {
    let groups: Vec<&[Head]> = heads.chunk_by(|one, other| one.log.topic == other.log.topic).collect();
    w.array(groups.len() * 2);
    for group in groups {
        w.text(group[0].log.topic.as_str()).array(group.len());
        for head in group {
            w.array(3 + head.tips.len() * 2).bytes(&head.log.author.0).uint(head.floor).uint(head.holes_to);
            for (seq, hash) in &head.tips {
                w.uint(*seq).bytes(&hash.0);
            }
        }
    }
}

fn read_heads(r: &mut Reader<'_>) -> Result<Vec<Head>, CodecError> {
    let mut heads = Vec::new();
    for _ in 0..list_of(r, "heads", MAX_PAGE, 2)? {
        let topic = read_topic(r)?;
        for _ in 0..r.list("heads", MAX_PAGE)? {
            let tips = r.list("head", 3 + MAX_TIPS * 2)?.checked_sub(3).filter(|items| items % 2 == 0);
            let tips = tips.ok_or(CodecError::Malformed("head"))? / 2;
            let log = LogKey { topic: topic.clone(), author: Author(r.fixed("author")?) };
            let (floor, holes_to) = (read_seq(r, "floor")?, read_seq(r, "holes")?);
            let tips: Vec<_> = (0..tips)
                .map(|_| Ok((read_seq(r, "seq")?, BatchHash(r.fixed("hash")?))))
                .collect::<Result<_, CodecError>>()?;
            // A batch ends at 1 or later.
            let sound = tips.first().is_none_or(|(seq, _)| *seq > 0) && tips.is_sorted_by(|one, next| one < next);
            if !sound {
                return Err(CodecError::OutOfBounds("tips"));
            }
            heads.push(Head { log, floor, holes_to, tips });
        }
        if heads.len() > MAX_PAGE {
            return Err(CodecError::OutOfBounds("heads"));
        }
    }
    Ok(heads)
}

fn read_range(r: &mut Reader<'_>) -> Result<Range, CodecError> {
    r.tuple("range", 4)?;
    let log = LogKey { topic: read_topic(r)?, author: Author(r.fixed("author")?) };
    let (after, upto) = (read_seq(r, "after")?, read_seq(r, "upto")?);
    if after < upto { Ok(Range { log, after, upto }) } else { Err(CodecError::OutOfBounds("range")) }
}

fn read_missing(r: &mut Reader<'_>) -> Result<Missing, CodecError> {
    let missing = Missing { range: r.uint("range")?, from: read_seq(r, "from")?, to: read_seq(r, "to")? };
    if missing.from <= missing.to { Ok(missing) } else { Err(CodecError::OutOfBounds("missing")) }
}

/// Opens a list of records that have so many items each, and says how many records.
fn list_of(r: &mut Reader<'_>, what: &'static str, max: usize, items: usize) -> Result<usize, CodecError> {
    let count = r.list(what, max * items)?;
    if count.is_multiple_of(items) { Ok(count / items) } else { Err(CodecError::Malformed(what)) }
}

fn read_seq(r: &mut Reader<'_>, what: &'static str) -> Result<u64, CodecError> {
    r.uint(what).and_then(|seq| if seq <= MAX_SEQ { Ok(seq) } else { Err(CodecError::OutOfBounds(what)) })
}

fn read_topic(r: &mut Reader<'_>) -> Result<Topic, CodecError> {
    Topic::new(r.text("topic", MAX_TOPIC_BYTES)?).map_err(|_| CodecError::OutOfBounds("topic"))
}
