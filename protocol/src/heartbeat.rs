//! Heartbeats: what an author says of its own logs, so that others know that nothing earlier is still to come.
//!
//! Stamps rise over all logs of an author, so whoever has them up to the ends that a heartbeat names has everything of
//! that author up to its stamp. Where an author's log goes on by itself, its last event says as much of that log; a
//! heartbeat says it where an author is quiet. See [`crate::choreography::frontier`] for what follows from all authors.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::batch::VerifiedBatch;
use crate::codec::{CodecError, Reader, Writer};
use crate::event::{Event, Item};
use crate::heads::LogRecord;
use crate::hlc::Hlc;
use crate::ids::{Author, BatchHash};
use crate::limits::{MAX_SEQ, MAX_TIPS, MAX_TOPIC_BYTES};
use crate::topic::Topic;

/// The type of the events that carry heartbeats.
pub const HEARTBEAT_KIND: &str = "roundelay.heartbeat.v1";
/// Topics whose ends one heartbeat names: those that the author published to last.
pub const MAX_HEARTBEAT_TOPICS: usize = 256;
/// Authors whose last heartbeats are kept.
pub const MAX_BEATING: usize = crate::choreography::frontier::MAX_AUTHORS;

/// The end of a line of a log: the sequence number of its last event, and its last batch.
pub type End = (u64, BatchHash);

/// Why a node promises nothing of its logs. It goes on all the same, and what is stable waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Half of the nodes that it is linked with see another day, or more.
    #[error("of the nodes that it is linked with {0} see another day: set the clock that is wrong")]
    ClockDisputed(usize),
    /// What it stamps is more than a day ahead of its clock.
    #[error(
        "its stamps are more than a day ahead of its clock: set the clock if it is behind; if it was ahead once, start the \
         node anew, and if that does not help, wait until its clock has come so far"
    )]
    StampsAhead,
    /// Nothing can be stamped any more.
    #[error("its clock is at its end")]
    ClockEnded,
}

/// What an author says of its logs at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heartbeat {
    /// What the author publishes from now on has greater stamps.
    pub upto: Hlc,
    /// Where its logs end, by topic, at most [`MAX_HEARTBEAT_TOPICS`].
    pub ends: BTreeMap<Topic, SmallVec<[End; 1]>>,
    /// Whether it published to no other topics. Otherwise nothing is said of those that are not named.
    pub is_whole: bool,
}

impl Heartbeat {
    /// The data of its event.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(3).uint(self.upto.0).bool(self.is_whole).array(2 * self.ends.len());
        for (topic, ends) in &self.ends {
            writer.text(topic.as_str()).array(2 * ends.len());
            for (seq, hash) in ends {
                writer.uint(*seq).bytes(&hash.0);
            }
        }
        writer.finish()
    }

    /// Reads an event's data.
    ///
    /// # Errors
    /// When it is no heartbeat, or beyond a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        reader.tuple("heartbeat", 3)?;
        let upto = Hlc(reader.uint("upto")?);
        let is_whole = reader.bool("is_whole")?;
        let mut ends = BTreeMap::new();
        for _ in 0..pairs(&mut reader, "topics", MAX_HEARTBEAT_TOPICS)? {
            let topic =
                Topic::new(reader.text("topic", MAX_TOPIC_BYTES)?).map_err(|_| CodecError::OutOfBounds("topic"))?;
            let mut of_topic = SmallVec::new();
            for _ in 0..pairs(&mut reader, "ends", MAX_TIPS)? {
                let seq = reader.uint("seq")?;
                if seq > MAX_SEQ {
                    return Err(CodecError::OutOfBounds("seq"));
                }
                of_topic.push((seq, BatchHash(reader.fixed("hash")?)));
            }
            if ends.insert(topic, of_topic).is_some() {
                return Err(CodecError::OutOfBounds("topics"));
            }
        }
        reader.end()?;
        if upto > Hlc::CEILING {
            return Err(CodecError::OutOfBounds("upto"));
        }
        Ok(Self { upto, ends, is_whole })
    }

    /// The event that tells it. `source` names its author, and is its key.
    #[must_use]
    pub fn to_event(&self, source: String) -> Event {
        Event {
            kind: HEARTBEAT_KIND.to_owned(),
            id: self.upto.0.to_string(),
            key: Some(source.clone()),
            source,
            content_type: Some("application/cbor".to_owned()),
            data: self.encode().into(),
            ..Event::default()
        }
    }

    /// Up to which stamp everything of the author is in its log of a topic, as far as this tells. `holds` says whether
    /// a batch is stored. Each line counts by itself: where its end is here, all of it is, and nothing else of it comes; where
    /// its end lies below the floor, it may never have been here, but what is not younger than what was pruned is not
    /// taken any more.
    fn covers<E>(
        &self,
        topic: &Topic,
        record: Option<&LogRecord>,
        mut holds: impl FnMut(&End) -> Result<bool, E>,
    ) -> Result<Hlc, E> {
        let Some(ends) = self.ends.get(topic) else { return Ok(if self.is_whole { self.upto } else { Hlc(0) }) };
        let (floor, floor_hlc) = record.map_or((0, Hlc(0)), |record| (record.floor, record.floor_hlc));
        let mut upto = self.upto;
        for end in ends {
            if record.is_some_and(|record| is_tip(record, end)) || holds(end)? {
                continue;
            }
            upto = upto.min(if end.0 <= floor { floor_hlc } else { Hlc(0) });
        }
        Ok(upto)
    }
}

fn is_tip(record: &LogRecord, (seq, hash): &End) -> bool {
    record.tips.iter().any(|tip| tip.seq == *seq && tip.hash == *hash)
}

fn pairs(reader: &mut Reader<'_>, what: &'static str, max: usize) -> Result<usize, CodecError> {
    let items = reader.list(what, 2 * max)?;
    if items.is_multiple_of(2) { Ok(items / 2) } else { Err(CodecError::OutOfBounds(what)) }
}

/// Up to which stamp everything that an author published to a topic is here, by its log and by its last heartbeat. Where
/// something of the log is missing, nothing is known.
///
/// # Errors
/// What `holds` says, which says whether a batch of the log is stored.
pub fn received<E>(
    heartbeat: Option<&Heartbeat>,
    topic: &Topic,
    record: Option<&LogRecord>,
    holds: impl FnMut(&End) -> Result<bool, E>,
) -> Result<Hlc, E> {
    if record.is_some_and(|record| !record.holes.is_empty()) {
        return Ok(Hlc(0));
    }
    // With several lines it is not known which of them goes on.
    let by_log = match record.map(|record| record.tips.as_slice()) {
        Some([tip]) => tip.hlc,
        _ => Hlc(0),
    };
    let told = heartbeat.map_or(Ok(Hlc(0)), |heartbeat| heartbeat.covers(topic, record, holds))?;
    Ok(by_log.max(told))
}

/// The last heartbeat of each author. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Heartbeats(BTreeMap<Author, Arc<Heartbeat>>);

impl Heartbeats {
    /// Takes the heartbeats of a batch of their topic.
    pub fn learn(&mut self, batch: &VerifiedBatch) {
        let author = batch.header().author;
        for (_, item) in batch.items() {
            let Item::Event(event) = item else { continue };
            if event.kind != HEARTBEAT_KIND || (self.0.len() >= MAX_BEATING && !self.0.contains_key(&author)) {
                continue;
            }
            let Ok(heartbeat) = Heartbeat::decode(event.data) else { continue };
            if self.0.get(&author).is_none_or(|known| known.upto < heartbeat.upto) {
                self.0.insert(author, Arc::new(heartbeat));
            }
        }
    }

    /// An author's last one.
    #[must_use]
    pub fn get(&self, author: &Author) -> Option<&Heartbeat> {
        self.0.get(author).map(Arc::as_ref)
    }

    /// All, by author.
    pub fn iter(&self) -> impl Iterator<Item = (&Author, &Heartbeat)> {
        self.0.iter().map(|(author, heartbeat)| (author, heartbeat.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::heads::{Hole, LogKey, Tip, Tips};

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    fn end(seq: u64) -> End {
        (seq, BatchHash([seq as u8; 32]))
    }

    fn record(seqs: &[u64]) -> LogRecord {
        let tip = |seq: &u64| Tip { seq: *seq, hash: end(*seq).1, hlc: Hlc(*seq) };
        let key = LogKey { topic: topic("a"), author: Author([1; 32]) };
        LogRecord { tips: seqs.iter().map(tip).collect::<Tips>(), ..LogRecord::new(key) }
    }

    fn beat(upto: u64, ends: &[u64], is_whole: bool) -> Heartbeat {
        let ends = (!ends.is_empty()).then(|| (topic("a"), ends.iter().map(|seq| end(*seq)).collect()));
        Heartbeat { upto: Hlc(upto), ends: ends.into_iter().collect(), is_whole }
    }

    fn upto(heartbeat: Option<&Heartbeat>, record: Option<&LogRecord>, stored: &[u64]) -> u64 {
        let holds = |end: &End| Ok::<_, Infallible>(stored.contains(&end.0));
        received(heartbeat, &topic("a"), record, holds).unwrap().0
    }

    #[test]
    fn a_log_that_goes_on_speaks_for_itself_and_a_quiet_one_by_heartbeats() {
        assert_eq!(upto(None, None, &[]), 0);
        assert_eq!(upto(None, Some(&record(&[5])), &[]), 5);
        assert_eq!(upto(Some(&beat(90, &[5], true)), Some(&record(&[5])), &[]), 90);
        assert_eq!(upto(Some(&beat(90, &[7], true)), Some(&record(&[5])), &[]), 5, "7 is not here yet");
        assert_eq!(upto(Some(&beat(90, &[3], true)), Some(&record(&[5])), &[3]), 90, "it went on since");
        assert_eq!(upto(Some(&beat(4, &[3], true)), Some(&record(&[5])), &[3]), 5);
    }

    #[test]
    fn a_topic_that_is_not_named_has_nothing_or_is_not_spoken_of() {
        assert_eq!(upto(Some(&beat(90, &[], true)), None, &[]), 90);
        assert_eq!(upto(Some(&beat(90, &[], false)), None, &[]), 0);
        assert_eq!(upto(Some(&beat(90, &[], false)), Some(&record(&[5])), &[]), 5);
    }

    #[test]
    fn all_lines_count_and_what_was_pruned_was_here() {
        let two = record(&[5, 8]);
        assert_eq!(upto(None, Some(&two), &[]), 0, "who knows which goes on");
        assert_eq!(upto(Some(&beat(90, &[5, 8], true)), Some(&two), &[]), 90);
        assert_eq!(upto(Some(&beat(90, &[5, 9], true)), Some(&two), &[]), 0);
        let pruned = LogRecord { floor: 9, floor_hlc: Hlc(95), ..record(&[]) };
        assert_eq!(upto(Some(&beat(90, &[5, 9], true)), Some(&pruned), &[]), 90, "its like is not taken any more");
        // Of another line than the one that was pruned, what is younger may still come.
        let of_another = LogRecord { floor_hlc: Hlc(60), ..pruned };
        assert_eq!(upto(Some(&beat(90, &[5, 9], true)), Some(&of_another), &[]), 60);
        let (one_here, none_here) = (beat(90, &[8, 9], true), beat(90, &[9, 12], true));
        let with_tip = LogRecord { floor: 9, floor_hlc: Hlc(60), ..record(&[9, 20]) };
        assert_eq!(upto(Some(&one_here), Some(&with_tip), &[]), 60);
        assert_eq!(upto(Some(&none_here), Some(&with_tip), &[]), 0);
        assert_eq!(upto(Some(&none_here), Some(&with_tip), &[12]), 90);
        let hole = Hole { from: 1, to: 2, anchor: BatchHash::NONE };
        let holed = LogRecord { holes: vec![hole], ..record(&[5]) };
        assert_eq!(upto(Some(&beat(90, &[5], true)), Some(&holed), &[]), 0);
    }

    #[test]
    fn a_heartbeat_is_read_as_it_was_written() {
        for beat in [Heartbeat::default(), beat(90, &[5, 8], true), beat(u64::from(u32::MAX), &[], false)] {
            assert_eq!(Heartbeat::decode(&beat.encode()).unwrap(), beat);
        }
        let beyond = Heartbeat { upto: Hlc(Hlc::CEILING.0 + 1), ..Heartbeat::default() };
        assert!(Heartbeat::decode(&beyond.encode()).is_err());
        assert!(Heartbeat::decode(&[0x83, 0, 0xf5, 0x81, 0]).is_err(), "topics come with ends");
    }
}
