//! Pulls: asking for what is missing, serving what others miss.

use super::{Effect, MAX_WRITES, Replica};
use crate::frame::{Frame, Missing, Range};
use crate::heads::LogRecord;
use crate::ids::Author;
use crate::planted::Fault;
use crate::sign::Signer;
use crate::wants::{MAX_PULLS_PER_PEER, PULL_BYTES, Place};

impl<S: Signer> Replica<S> {
    pub(super) fn pull_due(&mut self) {
        let (logs, latest) = (&self.logs, &self.latest);
        let record = |key: &crate::heads::LogKey| {
            let found = latest.get(key).map(|latest| &latest.record).or_else(|| logs.get(key));
            found.cloned().unwrap_or_else(|| LogRecord::new(key.clone()))
        };
        // The disk comes first: what is on its way to it must not pile up.
        if self.writes.len() > MAX_WRITES || !self.takes_others() {
            return;
        }
        for (id, peer, ranges) in self.wants.plan(self.now.mono_ms, record) {
            self.send(peer, Frame::Pull { id, max_bytes: PULL_BYTES, ranges });
        }
    }

    pub(super) fn serve(&mut self, peer: Author, id: u64, max_bytes: u64, ranges: Vec<Range>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        // A peer may give a slow answer up and ask anew, but not for ever.
        if link.serving as usize >= MAX_PULLS_PER_PEER * 8 {
            return self.breach(peer, "asked for more at once than the protocol allows");
        }
        link.serving += 1;
        let mut missing = Vec::new();
        for (index, range) in (0..).zip(&ranges) {
            let record = self.logs.get(&range.log);
            let shared =
                self.links.get(&peer).is_some_and(|link| link.shares(&self.me, &self.interest, &peer, &range.log));
            // Only what is gone is called missing; what is not here yet may still come.
            let Some(record) = record.filter(|_| shared) else { continue };
            let holes = record.holes.iter().map(|hole| (hole.from, hole.to));
            for (from, to) in [(1, record.floor)].into_iter().chain(holes) {
                let (from, to) = (from.max(range.after + 1), to.min(range.upto));
                if from <= to {
                    missing.push(Missing { range: index, from, to });
                }
            }
        }
        self.effects.push(Effect::Serve { peer, id, ranges, max_bytes: max_bytes.min(PULL_BYTES), missing });
    }

    pub(super) fn pull_ended(&mut self, peer: Author, id: u64, served: u64, missing: &[Missing]) {
        if !self.wants.is_pulling(id, &peer) {
            return;
        }
        let Some(pull) = self.wants.end(id) else { return };
        self.wants.progress(&peer, self.now.mono_ms);
        self.plan_pending = true;
        for (index, range) in (0u64..).zip(&pull.ranges) {
            let reached = self.wants.reached(&range.log);
            let of_range = missing.iter().filter(|part| part.range == index).map(|part| (part.from, part.to));
            // Cut short behind its end, a range brought all that it was asked for.
            if index < served || (index == served && reached >= range.upto) {
                self.range_ended(peer, range, &of_range.collect::<Vec<_>>());
                continue;
            }
            if index == served && pull.idle {
                self.wants.avoid(&range.log, peer, self.now.mono_ms);
            } else if index == served {
                // The next pull begins behind what this one brought, and is not told of what is missing before.
                let passed = of_range.map(|(from, to)| (from, to.min(reached)));
                let passed: Vec<_> = passed.filter(|(from, to)| from <= to).collect();
                self.skip_missing(range, peer, &passed);
            }
            break;
        }
    }

    fn range_ended(&mut self, peer: Author, range: &Range, missing: &[(u64, u64)]) {
        if !missing.is_empty() {
            self.skip_missing(range, peer, missing);
        }
        let open: Vec<_> = self.wants.open(&range.log).into_iter().filter(|place| place.0 == range.upto).collect();
        let stepped = self.wants.step_back(&range.log, range.upto);
        for place in open {
            // What it waits for may have nobody left who was known to have it: whoever serves what follows must.
            let gap = self.ahead.gap_below(&range.log, place);
            // No pull begins below the floor, so what is missing there is asked for by itself, of each who serves what follows.
            let is_below = gap != place && self.latest(&range.log).is_some_and(|record| gap.0 <= record.floor);
            let stepped = stepped || is_below;
            let asks = stepped && gap != place && gap.0 > 0 && !self.planted.is(Fault::DropGapRequest);
            if asks && !self.wants.was_denied(&range.log, &gap, &peer) {
                self.wants.add_inner(&range.log, gap, [peer], self.now.mono_ms);
            } else if asks && is_below {
                // It was asked in vain before this came, and from the floor here on nobody is asked for it again.
                self.skip_missing(range, peer, &[(gap.0, gap.0)]);
            }
            let broken = self.wants.is_promised(&range.log, &place, &peer) && !self.wants.came(&range.log, &place);
            let in_hole =
                self.latest(&range.log).is_some_and(|record| record.holes.iter().any(|hole| hole.anchor == place.1));
            let gone = missing.iter().any(|(from, to)| (*from..=*to).contains(&place.0));
            if gone || in_hole {
                // It lacks what it was asked for: the hole stays, and is reported.
                self.wants.deny(&range.log, &place, &peer);
                if in_hole && self.wants.sources(&range.log, &place).is_empty() {
                    self.wants.settle(&range.log, &place);
                }
            } else if !stepped && self.was_turned_away(range, &place, &peer) {
                self.wants.avoid(&range.log, peer, self.now.mono_ms);
            } else if !stepped {
                self.wants.lacks(&range.log, &place, peer, self.now.mono_ms);
                if broken {
                    self.slip(peer, "announces events that it does not have");
                }
            }
        }
    }

    /// Whether the peer brought a batch for which there was no room here: it has it, and is asked again once there is. What
    /// waits for its parent has its place.
    fn was_turned_away(&self, range: &Range, place: &Place, peer: &Author) -> bool {
        let refused = || self.wants.was_denied(&range.log, place, peer);
        self.wants.came_from(&range.log, place, peer) && !self.ahead.contains_parent(&range.log, place) && !refused()
    }

    /// Gives up what came too late, or is not to be had from anybody any more.
    pub(super) fn expire_wants(&mut self) {
        for peer in self.wants.expire(self.now.mono_ms) {
            self.breach(peer, "does not answer pulls");
        }
    }
}
