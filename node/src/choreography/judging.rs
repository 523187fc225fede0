//! The instances of one choreography, what was said of each, and which are forgotten to make room.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;

use roundelay_protocol::choreography::Observed;
use roundelay_protocol::choreography::conformance::{Conformance, Instance, Judgement, Versions};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;

use super::{MAX_EVENT_BYTES, MAX_EVENTS, MAX_INSTANCES};

/// Forgotten instances of one choreography that are known to be that, so that late events do not begin them anew.
const MAX_REMEMBERED: usize = 65_536;
/// What an event takes in memory besides its texts, roughly, and how often its texts are there.
const EVENT_OVERHEAD_BYTES: usize = 640;
const TEXT_COPIES: usize = 2;

/// What is said of an instance with an event that cannot be.
const VIOLATING: &str = "violating";

/// How much there is, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sizes {
    pub(super) instances: usize,
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Sizes {
    /// What a node may have.
    pub(super) const LIMIT: Self = Self { instances: MAX_INSTANCES, events: MAX_EVENTS, bytes: MAX_EVENT_BYTES };

    /// When room is made: before what one slice of events may need is missing.
    pub(super) const FULL: Self =
        Self { instances: MAX_INSTANCES / 64 * 63, events: MAX_EVENTS / 64 * 63, bytes: MAX_EVENT_BYTES / 64 * 63 };

    /// What is left then, so that room is not made for each event anew.
    pub(super) const TARGET: Self =
        Self { instances: MAX_INSTANCES / 32 * 31, events: MAX_EVENTS / 32 * 31, bytes: MAX_EVENT_BYTES / 32 * 31 };

    pub(super) fn exceed(&self, limit: &Self) -> bool {
        self.instances > limit.instances || self.events > limit.events || self.bytes > limit.bytes
    }

    /// What may still be taken.
    pub(super) fn room(&self) -> Self {
        Self {
            instances: Self::LIMIT.instances.saturating_sub(self.instances),
            events: Self::LIMIT.events.saturating_sub(self.events),
            bytes: Self::LIMIT.bytes.saturating_sub(self.bytes),
        }
    }
}

impl std::ops::Add for Sizes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            instances: self.instances + other.instances,
            events: self.events + other.events,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What could not be done as it should, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    /// Instances that had ended and were forgotten to make room.
    pub(super) forgotten: u64,
    /// Events of forgotten instances that came later, and were not taken.
    pub(super) after_forgotten: u64,
    /// Events that were not taken, as there was no room and nothing to forget.
    pub(super) refused: u64,
    /// Instances that were folded anew, since an event of theirs came late.
    pub(super) refolded: u64,
}

/// What some events have changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Correlation ids of the instances.
    pub(super) instances: BTreeSet<String>,
    /// Those of them that are violating and were not before.
    pub(super) violating: Vec<String>,
}

/// The instances of one choreography.
pub(super) struct Judging {
    pub(super) conformance: Conformance,
    pub(super) counts: Counts,
    /// Instances by what is said of them.
    pub(super) verdicts: BTreeMap<&'static str, usize>,
    /// The greatest stamp of what was pruned before it was read.
    pub(super) pruned_upto: Option<Hlc>,
    /// Everything that arrived up to here is in what is said.
    pub(super) folded: Arrival,
    /// The log was not read to its end yet, since the node began or since a version was published.
    pub(super) is_reading: bool,
    entries: HashMap<String, Entry>,
    /// By the stamp with which they ended.
    ended: BTreeSet<(Hlc, String)>,
    bytes: usize,
    forgotten: Forgotten,
}

struct Entry {
    bytes: usize,
    verdict: &'static str,
    ended: Option<Hlc>,
}

impl Judging {
    pub(super) fn new(versions: Versions) -> Self {
        Self {
            conformance: Conformance::new(versions),
            counts: Counts::default(),
            verdicts: ["conforming", "pending", "superseded", VIOLATING].map(|verdict| (verdict, 0)).into(),
            pruned_upto: None,
            folded: Arrival(0),
            is_reading: true,
            entries: HashMap::new(),
            ended: BTreeSet::new(),
            bytes: 0,
            forgotten: Forgotten::default(),
        }
    }

    /// Takes events as far as there is room.
    pub(super) fn take(&mut self, events: Vec<Observed>, mut room: Sizes) -> Touched {
        let mut bytes_of: HashMap<String, usize> = HashMap::new();
        let mut wanted = Vec::with_capacity(events.len());
        for event in events {
            let Some(correlation) = &event.correlation else { continue };
            if self.forgotten.has(correlation) {
                self.counts.after_forgotten += 1;
                continue;
            }
            let is_new = !self.entries.contains_key(correlation) && !bytes_of.contains_key(correlation);
            let bytes = weigh(&event);
            if room.events == 0 || room.bytes < bytes || (is_new && room.instances == 0) {
                self.counts.refused += 1;
                continue;
            }
            room.instances -= usize::from(is_new);
            (room.events, room.bytes) = (room.events - 1, room.bytes - bytes);
            *bytes_of.entry(correlation.clone()).or_default() += bytes;
            wanted.push(event);
        }
        let taken = self.conformance.take(wanted);
        self.counts.refused += taken.refused as u64;
        self.counts.refolded += taken.refolded as u64;
        let mut violating = Vec::new();
        for correlation in &taken.touched {
            let bytes = bytes_of.get(correlation).copied().unwrap_or(0);
            if self.note(correlation, bytes) {
                violating.push(correlation.clone());
            }
        }
        Touched { instances: taken.touched, violating }
    }

    /// Keeps the books of an instance that has changed. True when it is violating and was not before.
    fn note(&mut self, correlation: &str, more_bytes: usize) -> bool {
        let Some(instance) = self.conformance.instance(correlation) else { return false };
        let ended = instance.end.and(instance.last_step.as_ref()).map(|step| step.rank.stamp);
        let now = Entry { bytes: more_bytes, verdict: instance.verdict().as_str(), ended };
        let is_violating = now.verdict == VIOLATING;
        self.bytes += more_bytes;
        *self.verdicts.entry(now.verdict).or_default() += 1;
        self.ended.extend(ended.map(|ended| (ended, correlation.to_owned())));
        let Some(entry) = self.entries.get_mut(correlation) else {
            self.entries.insert(correlation.to_owned(), now);
            return is_violating;
        };
        let before = std::mem::replace(entry, now);
        entry.bytes += before.bytes;
        if let Some(count) = self.verdicts.get_mut(before.verdict) {
            *count -= 1;
        }
        if let Some(left) = before.ended.filter(|before| Some(*before) != ended) {
            self.ended.remove(&(left, correlation.to_owned()));
        }
        is_violating && before.verdict != VIOLATING
    }

    pub(super) fn sizes(&self) -> Sizes {
        let (instances, events) = self.conformance.sizes();
        Sizes { instances, events, bytes: self.bytes }
    }

    /// When that instance ended which would be forgotten next.
    pub(super) fn first_end(&self) -> Option<Hlc> {
        self.ended.first().map(|(ended, _)| *ended)
    }

    /// Forgets the instance that ended longest ago.
    pub(super) fn forget_first(&mut self) {
        let Some((_, correlation)) = self.ended.pop_first() else { return };
        self.conformance.forget(&correlation);
        if let Some(entry) = self.entries.remove(&correlation) {
            self.bytes -= entry.bytes;
            if let Some(count) = self.verdicts.get_mut(entry.verdict) {
                *count -= 1;
            }
        }
        self.forgotten.add(&correlation);
        self.counts.forgotten += 1;
    }

    /// Forgets what it must to keep to the limits by itself.
    pub(super) fn make_room(&mut self) {
        if self.sizes().exceed(&Sizes::FULL) {
            while self.sizes().exceed(&Sizes::TARGET) && self.first_end().is_some() {
                self.forget_first();
            }
        }
    }

    /// Whether an instance was forgotten, as far as that is remembered.
    pub(super) fn has_forgotten(&self, correlation: &str) -> bool {
        self.forgotten.has(correlation)
    }

    /// Whether something of an instance may have been pruned before it was read.
    pub(super) fn is_partial(&self, correlation: &str) -> bool {
        let first = self.conformance.fold(correlation).and_then(|fold| fold.judged().first());
        let (Some(upto), Some((first, judgement))) = (self.pruned_upto, first) else { return false };
        // Whatever begins above that with what an instance begins with has its beginning here.
        first.rank.stamp <= upto || !matches!(judgement, Judgement::Step { .. })
    }

    pub(super) fn instance(&self, correlation: &str) -> Option<&Instance> {
        self.conformance.instance(correlation)
    }
}

/// What an event takes in memory, roughly.
fn weigh(event: &Observed) -> usize {
    let optional = [&event.correlation, &event.role, &event.version].into_iter().flatten();
    let texts = [&event.source, &event.id, &event.kind].into_iter().chain(optional).chain(&event.causes);
    EVENT_OVERHEAD_BYTES + TEXT_COPIES * texts.map(String::len).sum::<usize>()
}

/// Names of instances, as numbers that others cannot choose.
#[derive(Default)]
struct Forgotten {
    keys: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Forgotten {
    fn add(&mut self, correlation: &str) {
        let hash = self.keys.hash_one(correlation);
        if !self.known.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn has(&self, correlation: &str) -> bool {
        !self.known.is_empty() && self.known.contains(&self.keys.hash_one(correlation))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use roundelay_protocol::choreography::declaration::End;
    use roundelay_protocol::choreography::{Draft, Rank};
    use roundelay_protocol::ids::BatchHash;
    use roundelay_protocol::topic::Topic;

    use super::*;

    /// `asked`, and then `answered`, which ends it.
    pub(in super::super) fn judging() -> Judging {
        let draft = Draft::new("question", "new").role("a", &["answered"]).role("b", &["asked"]);
        let draft = draft.event("asked", "a").event("answered", "b").on("new", "asked", "open");
        let draft = draft.on("open", "answered", "over").end("over", End::Success);
        Judging::new(Versions::new(draft.declare().unwrap()))
    }

    pub(in super::super) fn event(at_ms: u64, kind: &str, correlation: &str) -> Observed {
        Observed {
            rank: Rank { stamp: Hlc::from_ms(at_ms), batch: BatchHash([0; 32]), index: 0 },
            topic: Topic::new("questions").unwrap(),
            author: None,
            source: "/".to_owned(),
            id: format!("{correlation}-{kind}"),
            kind: kind.to_owned(),
            causes: Vec::new(),
            correlation: Some(correlation.to_owned()),
            role: None,
            version: None,
        }
    }

    fn take(judging: &mut Judging, events: impl IntoIterator<Item = Observed>) -> Touched {
        judging.take(events.into_iter().collect(), Sizes::LIMIT)
    }

    #[test]
    fn what_ended_longest_ago_is_forgotten_first_and_does_not_begin_anew() {
        let mut judging = judging();
        take(&mut judging, [event(1, "asked", "x"), event(2, "asked", "y"), event(3, "asked", "open")]);
        take(&mut judging, [event(5, "answered", "x"), event(4, "answered", "y")]);
        let full = judging.sizes();
        judging.forget_first();
        assert!(judging.instance("y").is_none() && judging.has_forgotten("y") && !judging.has_forgotten("x"));
        assert!(judging.sizes().bytes < full.bytes && judging.sizes().events == 3);
        assert_eq!((judging.verdicts["conforming"], judging.verdicts["pending"]), (1, 1));
        take(&mut judging, [event(6, "answered", "y")]);
        assert!(judging.instance("y").is_none());
        assert_eq!((judging.counts.forgotten, judging.counts.after_forgotten), (1, 1));
        judging.forget_first();
        assert_eq!(judging.first_end(), None, "what is open is not forgotten");
        judging.forget_first();
        assert!(judging.instance("open").is_some());
    }

    #[test]
    fn what_there_is_no_room_for_is_refused_and_counted() {
        let mut judging = judging();
        let room = Sizes { instances: 1, ..Sizes::LIMIT };
        judging.take(vec![event(1, "asked", "x"), event(2, "asked", "y"), event(3, "answered", "x")], room);
        assert_eq!((judging.counts.refused, judging.sizes().events), (1, 2));
        judging.take(vec![event(4, "asked", "z")], Sizes { events: 0, ..Sizes::LIMIT });
        judging.take(vec![event(4, "asked", "z")], Sizes { bytes: 10, ..Sizes::LIMIT });
        assert_eq!((judging.counts.refused, judging.sizes().instances), (3, 1));
    }

    #[test]
    fn an_instance_is_told_as_violating_once() {
        let mut judging = judging();
        let touched = take(&mut judging, [event(1, "asked", "x"), event(3, "asked", "x")]);
        assert_eq!(touched.violating.len(), 0, "a repeat");
        let other = |at_ms, id: &str| Observed { id: id.to_owned(), ..event(at_ms, "asked", "x") };
        assert_eq!(take(&mut judging, [other(4, "other")]).violating, ["x"]);
        assert_eq!(take(&mut judging, [other(5, "third")]).violating.len(), 0);
        assert_eq!(judging.verdicts["violating"], 1);
        // An event that comes late can make good again what seemed to be wrong, and wrong what was good.
        let late = take(&mut judging, [event(5, "answered", "y")]);
        assert_eq!(late.violating.len(), 1);
        take(&mut judging, [event(4, "asked", "y")]);
        assert_eq!((judging.verdicts["violating"], judging.verdicts["conforming"]), (1, 1));
        assert_eq!(judging.counts.refolded, 1);
    }

    #[test]
    fn an_instance_is_partial_when_its_beginning_may_have_been_pruned() {
        let mut judging = judging();
        take(&mut judging, [event(1, "asked", "old"), event(9, "asked", "new"), event(8, "answered", "cut")]);
        let partial = |judging: &Judging| ["old", "new", "cut"].map(|id| judging.is_partial(id));
        assert_eq!(partial(&judging), [false; 3]);
        judging.pruned_upto = Some(Hlc::from_ms(5));
        assert_eq!(partial(&judging), [true, false, true]);
    }
}
