//! Rows of batches that were pruned long ago go, also between batches that stay.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod log_support;

use log_support::Line;
use roundelay::log::{LogOptions, LogReader, SledStore, Store, verify};
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::write_set::WriteSet;

const KEPT_ROWS: u64 = 10;

fn stored(reader: &LogReader) -> Vec<u64> {
    let found = reader.scan(Arrival(0), usize::MAX, usize::MAX).unwrap();
    let each = (1..=reader.last_arrival().0).filter(|arrival| reader.batch(Arrival(*arrival)).unwrap().is_some());
    let arrivals: Vec<u64> = found.iter().map(|(arrival, _)| arrival.0).collect();
    assert!(each.eq(arrivals.iter().copied()));
    arrivals
}

/// The arrival numbers that have a row.
fn rows(reader: &LogReader) -> Vec<u64> {
    (1..=reader.last_arrival().0).filter(|arrival| reader.chain_at(Arrival(*arrival)).unwrap().is_some()).collect()
}

/// The last arrival number up to one that is not among those stored.
fn last_gone(stored: &[u64], upto: u64) -> Arrival {
    Arrival((1..=upto).rev().find(|arrival| !stored.contains(arrival)).unwrap_or(0))
}

#[test]
fn rows_between_batches_that_stay_go_and_nothing_takes_that_for_damage() {
    let folder = tempfile::tempdir().unwrap();
    let options = LogOptions { pruned_rows: KEPT_ROWS, tail_cache_bytes: 0, ..LogOptions::default() };
    let (mut quiet, mut busy) = (Line::new(1, "quiet"), Line::new(1, "busy"));
    let (mut store, _) = SledStore::open(folder.path(), &options).unwrap();
    let first = vec![quiet.seal_next(1, 10)];
    store.append(WriteSet { batches: first, logs: vec![quiet.record.clone()], ..WriteSet::default() }).unwrap();
    for round in 0..50 {
        let batches = vec![busy.seal_next(2, 10), busy.seal_next(2, 3_000)];
        let pruned = vec![Arrival(2 * round), Arrival(2 * round + 1)];
        let pruned: Vec<_> = pruned.into_iter().filter(|arrival| *arrival > Arrival(1)).collect();
        busy.record.events -= 2 * pruned.len() as u64;
        let gone: u64 = pruned.iter().map(|at| store.oldest(Arrival(at.0 - 1), 1).unwrap()[0].bytes).sum();
        busy.record.bytes -= gone;
        busy.record.floor += 2 * pruned.len() as u64;
        store.append(WriteSet { batches, logs: vec![busy.record.clone()], pruned, ..WriteSet::default() }).unwrap();
        store.sync().unwrap();
        let reader = store.reader();
        assert!(rows(&reader).len() as u64 <= 1 + KEPT_ROWS + 2, "{:?}", rows(&reader));
        let stored = stored(&reader);
        assert_eq!(stored.len(), 3);
        for upto in 0..=store.last_arrival().0 {
            let last = reader.last_pruned(Arrival(upto)).unwrap();
            assert_eq!(last, last_gone(&stored, upto), "up to {upto}: {stored:?}");
        }
    }
    let last = store.last_arrival().0;
    let expected = stored(&store.reader());
    assert_eq!(expected[0], 1);
    drop(store);
    let (mut store, snapshot) = SledStore::open(folder.path(), &options).unwrap();
    assert_eq!(snapshot.last_arrival.0, last);
    assert_eq!(stored(&store.reader()), expected);
    let report = verify(&store.reader(), |_, _| {}).unwrap();
    assert_eq!(report.problems, []);

    // The old batch goes at last, and the floor with it.
    let record = roundelay_protocol::heads::LogRecord { floor: 1, events: 0, bytes: 0, ..quiet.record.clone() };
    store.append(WriteSet { logs: vec![record], pruned: vec![Arrival(1)], ..WriteSet::default() }).unwrap();
    store.sync().unwrap();
    assert_eq!(stored(&store.reader()), expected[1..]);
    let report = verify(&store.reader(), |_, _| {}).unwrap();
    assert_eq!(report.problems, []);
    drop(store);
    let (store, _) = SledStore::open(folder.path(), &options).unwrap();
    assert_eq!(stored(&store.reader()), expected[1..]);
}
