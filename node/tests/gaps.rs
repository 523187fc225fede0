//! What a reader of the log does not get is told where it would have come, and nothing else is.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod log_support;

use log_support::Line;
use roundelay::gaps::{Continuity, Gap, Reason};
use roundelay::log::{LogOptions, SledStore, Store};
use roundelay::subscription::Delivery;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::{Hole, LogRecord};
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::write_set::WriteSet;
use tempfile::{TempDir, tempdir};

struct Reader {
    store: SledStore,
    continuity: Continuity,
    after: Arrival,
    _folder: TempDir,
}

impl Reader {
    fn new(since: Option<Arrival>) -> Self {
        let folder = tempdir().unwrap();
        let (store, _) = SledStore::open(folder.path(), &LogOptions::default()).unwrap();
        let continuity = Continuity::new(store.reader(), since);
        Self { store, continuity, after: Arrival(0), _folder: folder }
    }

    fn write(&mut self, batches: Vec<VerifiedBatch>, record: &LogRecord, pruned: &[u64]) {
        let pruned = pruned.iter().map(|arrival| Arrival(*arrival)).collect();
        let logs = vec![record.clone()];
        self.store.append(WriteSet { batches, logs, pruned, ..WriteSet::default() }).unwrap();
        self.store.sync().unwrap();
    }

    /// Reads on to the end, as a stream does.
    fn gaps(&mut self) -> Vec<(Reason, Option<u64>, Option<u64>, bool)> {
        let reader = self.store.reader();
        let scan = reader.scan_topic(&|_| true, self.after, 1000, usize::MAX).unwrap();
        let mut gaps: Vec<Gap> = Vec::new();
        for (arrival, batch) in scan.batches {
            gaps.extend(self.continuity.before(&Delivery { arrival, batch, skip: 0 }).unwrap());
        }
        gaps.extend(self.continuity.between(self.after, scan.next, &|_| true).unwrap());
        self.after = scan.next;
        gaps.into_iter().map(|gap| (gap.reason, gap.from_seq, gap.to_seq, gap.certain)).collect()
    }
}

#[test]
fn a_hole_is_told_where_it_opens_and_out_of_order_on_a_second_reading() {
    let (mut reader, mut line) = (Reader::new(Some(Arrival(0))), Line::new(1, "a"));
    let (first, second, third) = (line.seal_next(3, 10), line.seal_next(2, 10), line.seal_next(1, 10));
    let holes = vec![Hole { from: 4, to: 5, anchor: second.hash() }];
    let open = LogRecord { holes, ..line.record.clone() };
    reader.write(vec![first], &open, &[]);
    assert_eq!(reader.gaps(), []);
    reader.write(vec![third], &open, &[]);
    assert_eq!(reader.gaps(), [(Reason::Missing, Some(4), Some(5), true)]);
    // It is filled, and the reader gets it late.
    reader.write(vec![second], &line.record.clone(), &[]);
    assert_eq!(reader.gaps(), []);
    reader.write(vec![line.seal_next(1, 10)], &line.record.clone(), &[]);
    assert_eq!(reader.gaps(), []);

    (reader.after, reader.continuity) = (Arrival(0), Continuity::new(reader.store.reader(), None));
    assert_eq!(reader.gaps(), [(Reason::ComesLater, Some(4), Some(5), true)]);
}

#[test]
fn what_is_pruned_before_it_is_read_is_told_also_at_the_end_of_a_log() {
    let (mut reader, mut line) = (Reader::new(Some(Arrival(0))), Line::new(1, "a"));
    let batches: Vec<_> = (0..4).map(|_| line.seal_next(2, 10)).collect();
    let mut record = line.record.clone();
    reader.write(batches[..1].to_vec(), &record, &[]);
    assert_eq!(reader.gaps(), []);
    reader.write(batches[1..].to_vec(), &record, &[]);
    record.floor = 6;
    reader.write(Vec::new(), &record, &[1, 2, 3]);
    assert_eq!(reader.gaps(), [(Reason::Pruned, Some(3), Some(6), true)]);
    // Even when nothing is left that would show it.
    reader.write(vec![line.seal_next(2, 10)], &line.record.clone(), &[]);
    let record = LogRecord { floor: 10, ..line.record.clone() };
    reader.write(Vec::new(), &record, &[5]);
    assert_eq!(reader.gaps(), [(Reason::Pruned, Some(9), Some(10), true)]);
    assert_eq!(reader.gaps(), []);
}

#[test]
fn a_reader_that_comes_back_is_told_what_it_may_have_missed_and_others_are_not() {
    let (mut reader, mut line, mut other) = (Reader::new(None), Line::new(1, "a"), Line::new(2, "b"));
    let first = (0..3).map(|_| line.seal_next(2, 10)).collect();
    reader.write(first, &line.record.clone(), &[]);
    reader.write(vec![other.seal_next(1, 10), other.seal_next(1, 10)], &other.record.clone(), &[]);
    let record = LogRecord { floor: 4, ..line.record.clone() };
    reader.write(Vec::new(), &record, &[1, 2]);
    // Who begins with what there is misses nothing.
    assert_eq!(reader.gaps(), []);
    // Who had the first batch may have missed the second.
    (reader.after, reader.continuity) = (Arrival(1), Continuity::new(reader.store.reader(), Some(Arrival(1))));
    assert_eq!(reader.gaps(), [(Reason::Pruned, None, Some(4), false)]);
    // Who had both has missed nothing, and neither has who follows from the end.
    for since in [2, 5] {
        let since = Arrival(since);
        (reader.after, reader.continuity) = (since, Continuity::new(reader.store.reader(), Some(since)));
        assert_eq!(reader.gaps(), [], "{since:?}");
    }
}

#[test]
fn the_first_batch_of_a_log_beyond_an_arrival_number_is_found() {
    let (mut reader, mut line, mut other) = (Reader::new(None), Line::new(1, "a"), Line::new(1, "b"));
    let mut arrived = Vec::new();
    for (arrival, count) in (1..).zip([2, 0, 1, 5, 0, 0, 3, 1, 1, 4, 0, 2]) {
        let from = if count == 0 { &mut other } else { &mut line };
        let batch = from.seal_next(count.max(1), 10);
        if count > 0 {
            arrived.push((arrival, batch.header().first_seq, batch.header().count));
        }
        let record = from.record.clone();
        reader.write(vec![batch], &record, &[]);
    }
    for gone in 0..4 {
        if gone > 0 {
            let (arrival, first, count) = arrived.remove(0);
            let record = LogRecord { floor: first + count - 1, ..line.record.clone() };
            reader.write(Vec::new(), &record, &[arrival]);
        }
        for after in 0..13 {
            let expected = arrived.iter().find(|(arrival, ..)| *arrival > after).map(|(_, first, _)| *first);
            let found = reader.store.reader().first_beyond(&line.record.key, Arrival(after)).unwrap();
            assert_eq!(found, expected, "after {after}, without the first {gone}");
        }
    }
}
