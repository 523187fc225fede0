//! What this node says of its own logs.

use super::{Now, Replica};
use crate::heads::{LogKey, LogRecord};
use crate::heartbeat::{Heartbeat, MAX_HEARTBEAT_TOPICS};
use crate::sign::Signer;

impl<S: Signer> Replica<S> {
    /// The ends of this node's logs, as they are with what is on its way to the disk, at a stamp that is below all that it
    /// gives from now on. It has to be published to be of use, behind what was sealed before.
    ///
    /// `None` when the clock is at its end.
    pub fn heartbeat(&mut self, now: Now) -> Option<Heartbeat> {
        let wall_ms = now.wall_ms.saturating_add_signed(self.clock_offset_ms);
        let upto = self.clock.stamp(wall_ms, 1)?;
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
        Some(Heartbeat { upto, ends: ends.collect(), is_whole })
    }
}
