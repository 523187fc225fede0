//! What one author or one topic may take of a node: how many logs, and which share of a full store.

use std::collections::BTreeMap;

use crate::heads::{LogKey, LogRecord};
use crate::ids::Author;
use crate::topic::Topic;

/// How many logs of others a node takes. Each costs memory and disk for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// In all.
    pub total: usize,
    /// Of one author.
    pub per_author: usize,
    /// In one topic.
    pub per_topic: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { total: 250_000, per_author: 20_000, per_topic: 20_000 }
    }
}

/// The logs of others that there are, counted.
#[derive(Debug)]
pub struct Census {
    me: Author,
    limits: LogLimits,
    total: usize,
    by_author: BTreeMap<Author, usize>,
    by_topic: BTreeMap<Topic, usize>,
    refused: u64,
}

impl Census {
    /// Counts the logs of a store.
    pub fn new<'a>(me: Author, limits: LogLimits, logs: impl Iterator<Item = &'a LogKey>) -> Self {
        let (by_author, by_topic) = (BTreeMap::new(), BTreeMap::new());
        let mut census = Self { me, limits, total: 0, by_author, by_topic, refused: 0 };
        logs.for_each(|log| census.add(log));
        census
    }

    /// A log begins. Own ones do not count.
    pub fn add(&mut self, log: &LogKey) {
        if log.author != self.me {
            self.total += 1;
            *self.by_author.entry(log.author).or_default() += 1;
            *self.by_topic.entry(log.topic.clone()).or_default() += 1;
        }
    }

    /// Whether one more log may begin. If not, it is counted.
    pub fn admits(&mut self, log: &LogKey) -> bool {
        let of_author = self.by_author.get(&log.author).copied().unwrap_or(0);
        let of_topic = self.by_topic.get(&log.topic).copied().unwrap_or(0);
        let room =
            self.total < self.limits.total && of_author < self.limits.per_author && of_topic < self.limits.per_topic;
        let admitted = room || log.author == self.me;
        self.refused += u64::from(!admitted);
        admitted
    }

    /// Logs of others.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Batches and heads that would have begun a log beyond the limits.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// The fair level of `amounts` when together they may have `whole`: who has less keeps all, and everybody else comes
/// down to the level (max-min fairness; Bertsekas and Gallager, "Data Networks", 1992).
#[must_use]
pub fn fair_level(mut amounts: Vec<u64>, whole: u64) -> u64 {
    amounts.sort_unstable();
    let mut left = whole;
    for (index, amount) in amounts.iter().enumerate() {
        let share = left / (amounts.len() - index) as u64;
        if *amount > share {
            return share;
        }
        left -= amount;
    }
    u64::MAX
}

/// How many bytes each log may keep when all together may have `whole`: the authors share it fairly, and each author's
/// topics share what the author has. Only logs that must give something up are named.
#[must_use]
pub fn shares<'a>(logs: impl Iterator<Item = &'a LogRecord>, whole: u64) -> BTreeMap<LogKey, u64> {
    let mut authors: BTreeMap<Author, Vec<&LogRecord>> = BTreeMap::new();
    for record in logs.filter(|record| record.bytes > 0) {
        authors.entry(record.key.author).or_default().push(record);
    }
    let bytes = |records: &Vec<&LogRecord>| records.iter().fold(0, |sum: u64, record| sum.saturating_add(record.bytes));
    let of_author = fair_level(authors.values().map(bytes).collect(), whole);
    let mut shares = BTreeMap::new();
    for records in authors.values().filter(|records| bytes(records) > of_author) {
        let of_topic = fair_level(records.iter().map(|record| record.bytes).collect(), of_author);
        let greedy = records.iter().filter(|record| record.bytes > of_topic);
        shares.extend(greedy.map(|record| (record.key.clone(), of_topic)));
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(author: u8, topic: &str) -> LogKey {
        LogKey { topic: Topic::new(topic).unwrap(), author: Author([author; 32]) }
    }

    fn record(author: u8, topic: &str, bytes: u64) -> LogRecord {
        LogRecord { bytes, ..LogRecord::new(key(author, topic)) }
    }

    proptest! {
        #[test]
        fn a_fair_level_uses_the_whole_and_no_more(
            amounts in prop::collection::vec(0u64..1_000_000, 1..50),
            whole in 0u64..10_000_000,
        ) {
            let sum: u64 = amounts.iter().sum();
            let level = fair_level(amounts.clone(), whole);
            let kept: u64 = amounts.iter().map(|amount| amount.min(&level)).sum();
            prop_assert!(kept <= whole.max(sum.min(whole)));
            prop_assert!(sum <= whole || kept + amounts.len() as u64 > whole, "{} of {} are used", kept, whole);
            prop_assert_eq!(level == u64::MAX, sum <= whole);
        }
    }

    #[test]
    fn who_floods_gives_way_and_nobody_else() {
        let logs = [record(1, "a", 100), record(2, "a", 50), record(3, "a", 5_000)];
        assert_eq!(shares(logs.iter(), 1_000), BTreeMap::from([(key(3, "a"), 850)]));
    }

    #[test]
    fn a_topic_that_floods_does_not_push_out_its_author_s_other_topics() {
        let logs = [record(1, "quiet", 100), record(1, "loud", 5_000), record(2, "a", 300)];
        assert_eq!(shares(logs.iter(), 1_000), BTreeMap::from([(key(1, "loud"), 600)]));
    }

    #[test]
    fn many_topics_are_no_larger_share() {
        let mut logs: Vec<_> = (0..100).map(|nth| record(1, &format!("t{nth}"), 100)).collect();
        logs.push(record(2, "a", 450));
        let shares = shares(logs.iter(), 1_000);
        assert_eq!(shares.len(), 100);
        assert!(shares.iter().all(|(key, share)| key.author == Author([1; 32]) && *share == 5));
    }

    #[test]
    fn logs_are_counted_by_author_and_topic_and_own_ones_are_not() {
        let limits = LogLimits { total: 5, per_author: 2, per_topic: 3 };
        let mut census = Census::new(Author([9; 32]), limits, [].iter());
        for log in [key(1, "a"), key(1, "b"), key(9, "a"), key(9, "c"), key(9, "d")] {
            assert!(census.admits(&log));
            census.add(&log);
        }
        assert!(!census.admits(&key(1, "c")), "two of one author");
        for log in [key(2, "a"), key(3, "a")] {
            assert!(census.admits(&log));
            census.add(&log);
        }
        assert!(!census.admits(&key(4, "a")), "three in one topic");
        census.add(&key(4, "b"));
        assert!(!census.admits(&key(5, "c")), "five in all");
        assert!(census.admits(&key(9, "e")));
        assert_eq!((census.total(), census.refused()), (5, 3));
    }
}
