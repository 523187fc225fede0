//! What this node says of its own logs, and what binds it afterwards.

use super::{Now, Replica};
use crate::heads::{LogKey, LogRecord};
use crate::heartbeat::{Heartbeat, MAX_HEARTBEAT_TOPICS, Silence};
use crate::hlc::{Clock, Hlc};
use crate::ids::Author;
use crate::limits::MAX_CLOCK_AHEAD_MS;
use crate::planted::Fault;
use crate::sign::Signer;
use crate::topic::HEARTBEATS_TOPIC;

/// Whether the log is that of a node's own heartbeats. What it publishes has later stamps than any of them promised,
/// whatever the wall clock says; of its other logs each rises by itself.
pub(super) fn binds(me: &Author, log: &LogKey) -> bool {
    log.author == *me && log.topic.as_str() == HEARTBEATS_TOPIC
}

/// The clock of a node that finds this in its store. A heartbeat is stamped later than what it promises, so its log's end
/// says what was promised last.
pub(super) fn clock_of<'a>(me: &Author, records: impl Iterator<Item = &'a LogRecord>, wall_ms: u64) -> Clock {
    let mut clock = Clock::default();
    for record in records {
        for tip in &record.tips {
            if binds(me, &record.key) {
                clock.keep(tip.hlc);
            } else {
                clock.observe(tip.hlc, wall_ms);
            }
        }
    }
    clock
}

impl<S: Signer> Replica<S> {
    /// The ends of this node's logs, as they are with what is on its way to the disk, at a stamp that is below all that it
    /// gives from now on. It has to be published to be of use, behind what was sealed before.
    ///
    /// # Errors
    /// When it is better not to promise anything: a promise binds this node for good, so one that was made by a clock that
    /// is days ahead would have it stamp days ahead from then on.
    pub fn heartbeat(&mut self, now: Now) -> Result<Heartbeat, Silence> {
        let wall_ms = now.wall_ms.saturating_add_signed(self.clock_offset_ms);
        let disputes = self.clock_disputes_at(now);
        if disputes > 0 {
            return Err(Silence::ClockDisputed(disputes));
        }
        let mut clock = self.clock;
        let mut upto = clock.stamp(wall_ms, 1).ok_or(Silence::ClockEnded)?;
        if upto.as_ms() > wall_ms.saturating_add(MAX_CLOCK_AHEAD_MS) {
            return Err(Silence::StampsAhead);
        }
        self.clock = clock;
        if self.planted.is(Fault::PromiseTooMuch) {
            upto = Hlc::from_ms(upto.as_ms() + 1_000);
        }
        let own = |key: &&LogKey| key.author == self.me && !key.topic.is_system();
        let keys = self.logs.keys().chain(self.latest.keys()).filter(own);
        let mut records: Vec<&LogRecord> = keys.filter_map(|key| self.latest(key)).collect();
        let newest = |record: &&LogRecord| std::cmp::Reverse(record.tips.iter().map(|tip| tip.hlc).max());
        records.sort_by_key(|record| (newest(record), &record.key));
        records.dedup_by_key(|record| &record.key);
        let is_whole = records.len() <= MAX_HEARTBEAT_TOPICS;
        let ends = records.into_iter().take(MAX_HEARTBEAT_TOPICS).map(|record| {
            let ends = record.tips.iter().map(|tip| (tip.seq, tip.hash)).collect();
            (record.key.topic.clone(), ends)
        });
        Ok(Heartbeat { upto, ends: ends.collect(), is_whole })
    }
}
