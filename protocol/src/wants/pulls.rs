//! Pulls: which ranges are asked of whom, and how far they have come.

use std::collections::BTreeMap;

use super::{MAX_PULLS_PER_PEER, PULL_DEADLINE_MS, Place, Pull, Wants};
use crate::frame::{MAX_RANGES, Range};
use crate::heads::{LogKey, LogRecord};
use crate::hlc::Hlc;
use crate::ids::Author;

impl Wants {
    /// Ends a pull and returns it. Its logs can be pulled again.
    pub fn end(&mut self, id: u64) -> Option<Pull> {
        let pull = self.pulls.remove(&id)?;
        for range in &pull.ranges {
            if let Some(wants) = self.logs.get_mut(&range.log) {
                wants.pull = None;
            }
            self.tidy(&range.log);
        }
        Some(pull)
    }

    /// The peer brought something: the deadlines of its pulls move, as they share the way.
    pub fn progress(&mut self, peer: &Author, now_ms: u64) {
        self.silent_since_ms.remove(peer);
        for pull in self.pulls.values_mut().filter(|pull| pull.peer == *peer) {
            (pull.deadline_ms, pull.idle) = (now_ms + PULL_DEADLINE_MS, false);
        }
    }

    /// Whether this pull was asked of this peer.
    #[must_use]
    pub fn is_pulling(&self, id: u64, peer: &Author) -> bool {
        self.pulls.get(&id).is_some_and(|pull| pull.peer == *peer)
    }

    /// A pull from this peer brought a batch.
    pub fn brought(&mut self, log: &LogKey, place: &Place, peer: Author) {
        if let Some(wants) = self.logs.get_mut(log) {
            wants.reached = wants.reached.max(place.0);
            if let Some(want) = wants.places.get_mut(place) {
                want.brought_by = Some(peer);
            }
        }
    }

    /// How far the pulls of the log's present range have come.
    #[must_use]
    pub fn reached(&self, log: &LogKey) -> u64 {
        self.logs.get(log).map_or(0, |wants| wants.reached)
    }

    /// After which sequence number the log's present range begins.
    #[must_use]
    pub fn began(&self, log: &LogKey) -> u64 {
        self.logs.get(log).map_or(0, |wants| wants.began)
    }

    /// Once the present range was pulled to its end, the next one is to begin as far back as there is.
    pub fn begin_lower(&mut self, log: &LogKey) {
        if let Some(wants) = self.logs.get_mut(log) {
            wants.lower = true;
        }
    }

    /// What a pull brought does not connect to what is here.
    pub fn dangles(&mut self, log: &LogKey) {
        if let Some(wants) = self.logs.get_mut(log) {
            wants.loose = true;
        }
    }

    /// A range was pulled to its end. If what came did not connect, the next pull starts further back, and the answer
    /// is true, unless this one began as far back as there is.
    pub fn step_back(&mut self, log: &LogKey, upto: u64) -> bool {
        let Some(wants) = self.logs.get_mut(log) else { return false };
        wants.reached = 0;
        let loose = std::mem::take(&mut wants.loose) && wants.back < upto;
        if std::mem::take(&mut wants.lower) {
            wants.back = u64::MAX / 4;
            return true;
        }
        if loose {
            wants.back = (wants.back * 2).clamp(16, u64::MAX / 4);
        }
        loose
    }

    /// Plans the next pulls: the logs that are furthest behind in time first, each from one peer.
    pub fn plan(&mut self, now_ms: u64, record: impl Fn(&LogKey) -> LogRecord) -> Vec<(u64, Author, Vec<Range>)> {
        let mut busy: BTreeMap<Author, usize> = BTreeMap::new();
        for pull in self.pulls.values() {
            *busy.entry(pull.peer).or_default() += 1;
        }
        let mut due: Vec<(Hlc, Range, Author)> = Vec::new();
        for (log, wants) in self.logs.iter_mut().filter(|(_, wants)| wants.pull.is_none()) {
            let wanted = wants.places.iter().filter(|(_, want)| !want.arriving && want.due_ms <= now_ms);
            let asked = |peer: &&Author| wants.avoided.get(*peer).is_none_or(|(until, _)| *until <= now_ms);
            let free = |peer: &Author| busy.get(peer).copied().unwrap_or(0);
            let found = wanted.into_iter().find_map(|(place, want)| {
                let peer = want.peers.keys().filter(asked).min_by_key(|peer| free(peer))?;
                (free(peer) < MAX_PULLS_PER_PEER).then_some((place, *peer))
            });
            if let Some((place, peer)) = found {
                let record = record(log);
                let start = start_of(&record, place.0, wants.back);
                // A range that did not fit one pull goes on where the last one ended.
                let goes_on = wants.upto == place.0 && (start + 1..place.0).contains(&wants.reached);
                let after = if goes_on { wants.reached } else { start };
                let upto = place.0;
                if !goes_on {
                    wants.began = start;
                }
                let at = record.tips.iter().map(|tip| tip.hlc).max().unwrap_or_default();
                if after < upto {
                    due.push((at, Range { log: log.clone(), after, upto }, peer));
                }
            }
        }
        due.sort_by(|one, other| (one.0, &one.1.log).cmp(&(other.0, &other.1.log)));
        self.issue(due, busy, now_ms)
    }

    fn issue(
        &mut self,
        due: Vec<(Hlc, Range, Author)>,
        mut busy: BTreeMap<Author, usize>,
        now_ms: u64,
    ) -> Vec<(u64, Author, Vec<Range>)> {
        let mut by_peer: BTreeMap<Author, Vec<Range>> = BTreeMap::new();
        for (_, range, peer) in due {
            by_peer.entry(peer).or_default().push(range);
        }
        let mut issued = Vec::new();
        for (peer, ranges) in by_peer {
            let slots = MAX_PULLS_PER_PEER - busy.get(&peer).copied().unwrap_or(0).min(MAX_PULLS_PER_PEER);
            // Few logs are spread over the slots, so that their ranges come in parallel; many are packed.
            let size = ranges.len().div_ceil(slots.max(1)).clamp(1, MAX_RANGES);
            for ranges in ranges.chunks(size).take(slots) {
                self.last_pull += 1;
                let id = self.last_pull;
                for range in ranges {
                    if let Some(wants) = self.logs.get_mut(&range.log) {
                        wants.pull = Some(id);
                        if wants.upto != range.upto {
                            (wants.upto, wants.reached) = (range.upto, 0);
                        }
                    }
                }
                *busy.entry(peer).or_default() += 1;
                let deadline_ms = now_ms + PULL_DEADLINE_MS;
                self.silent_since_ms.entry(peer).or_insert(now_ms);
                self.pulls.insert(id, Pull { peer, ranges: ranges.to_vec(), idle: true, deadline_ms });
                issued.push((id, peer, ranges.to_vec()));
            }
        }
        issued
    }

    /// When something here needs attention next: a want becomes due or a pull runs out of time.
    #[must_use]
    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let idle = self.logs.values().filter(|wants| wants.pull.is_none());
        let due = idle.flat_map(|wants| {
            let avoided = wants.avoided.values().map(|(until, _)| *until).filter(move |until| *until > now_ms);
            let waiting = wants.places.values().filter(|want| !want.arriving && !want.peers.is_empty());
            waiting.map(|want| want.due_ms).filter(move |due| *due > now_ms).chain(avoided)
        });
        due.chain(self.pulls.values().map(|pull| pull.deadline_ms)).min()
    }

    /// Pulls under way.
    #[must_use]
    pub fn pulls(&self) -> usize {
        self.pulls.len()
    }
}

/// Where a pull that ends at `upto` starts: after what is here of the log, `back` events earlier.
fn start_of(record: &LogRecord, upto: u64, back: u64) -> u64 {
    let in_hole = record.holes.iter().find(|hole| (hole.from..=hole.to).contains(&upto));
    let below = record.tips.iter().map(|tip| tip.seq).filter(|seq| *seq < upto).max();
    let start = match (in_hole, below) {
        (Some(hole), _) => hole.from - 1,
        (None, Some(seq)) => seq,
        // Every tip here is further on: the log forked, not far below the wanted batch for all that is known.
        (None, None) if record.tips.is_empty() => 0,
        (None, None) => upto.saturating_sub(16),
    };
    start.saturating_sub(back).max(record.floor.min(upto.saturating_sub(1)))
}
