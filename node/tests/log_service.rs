//! The log on its thread: what is acknowledged is found again, failures are told, and tools see the same as readers.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod log_support;

use std::io::Write;
use std::path::Path;

use log_support::{Line, copy_dir};
use roundelay::log::{
    Log, LogError, LogEvent, LogOptions, LogReader, Opened, RewriteStep, SledStore, Store, SubmitError, backup,
    restore, verify,
};
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::write_set::WriteSet;
use tempfile::tempdir;

fn open(dir: &Path) -> Opened {
    Log::open(dir, LogOptions::default()).unwrap()
}

fn set(line: &mut Line, batches: usize, events: usize, bytes: usize) -> WriteSet {
    let batches = (0..batches).map(|_| line.seal_next(events, bytes)).collect();
    WriteSet { batches, logs: vec![line.record.clone()], ..WriteSet::default() }
}

async fn stored(opened: &mut Opened, expected: u64) -> Arrival {
    match opened.events.recv().await {
        Some(LogEvent::Stored { token, last_arrival, .. }) if token == expected => last_arrival,
        other => panic!("expected {expected} to be stored, got {other:?}"),
    }
}

#[tokio::test]
async fn what_is_stored_is_found_again_after_close_and_after_a_crash() {
    let home = tempdir().unwrap();
    let (dir, copy) = (home.path().join("log"), home.path().join("copy"));
    let mut opened = open(&dir);
    let epoch = opened.snapshot.epoch;
    let mut line = Line::new(1, "orders.placed");
    let reader = opened.log.reader();
    for token in 0..20 {
        opened.log.submit(token, set(&mut line, 2, 3, 5_000)).await.unwrap();
        assert_eq!(stored(&mut opened, token).await, Arrival(token * 2 + 2));
        assert_eq!(reader.last_arrival(), Arrival(token * 2 + 2));
    }
    copy_dir(&dir, &copy);
    opened.log.submit(99, set(&mut line, 1, 1, 10)).await.unwrap();
    opened.log.clone().close().await;
    assert!(matches!(opened.log.submit(100, WriteSet::default()).await, Err(LogError::Closed)));
    assert!(matches!(reader.scan(Arrival(0), 1, 1), Err(LogError::Closed)));
    assert_eq!(stored(&mut opened, 99).await, Arrival(41));
    for (dir, last) in [(&dir, 41), (&copy, 40)] {
        let again = open(dir);
        assert_eq!((again.snapshot.epoch, again.snapshot.last_arrival), (epoch, Arrival(last)));
        assert_eq!(again.log.reader().scan(Arrival(0), 100, usize::MAX).unwrap().len() as u64, last);
        assert_eq!(again.snapshot.records[0].last_arrival, Arrival(last));
        assert_eq!(verify(&again.log.reader(), |_, _| {}).unwrap().problem_count, 0);
        again.log.close().await;
    }
}

#[tokio::test]
async fn a_failed_sync_ends_the_log_and_shows_nothing_of_what_failed() {
    let home = tempdir().unwrap();
    let options = LogOptions { fail_after_syncs: Some(1), ..LogOptions::default() };
    let mut opened = Log::open(home.path(), options).unwrap();
    let mut line = Line::new(1, "a");
    let mark = |value: u8| vec![(b"cursor".to_vec(), Some(vec![value]))];
    opened.log.submit(1, WriteSet { marks: mark(1), ..set(&mut line, 1, 1, 10) }).await.unwrap();
    stored(&mut opened, 1).await;
    let durable = line.record.clone();
    opened.log.submit(2, WriteSet { marks: mark(2), ..set(&mut line, 1, 1, 10) }).await.unwrap();
    assert!(matches!(opened.events.recv().await, Some(LogEvent::Failed { error: LogError::Write { .. } })));
    assert!(opened.events.recv().await.is_none());
    assert!(matches!(opened.log.try_submit(3, WriteSet::default()), Err((_, SubmitError::Closed))));
    opened.log.close().await;
    let again = open(home.path());
    // Its outcome is unknown: here it was written, as only the sync failed.
    assert!(again.snapshot.last_arrival <= Arrival(2));
    assert!(again.snapshot.records[0].events >= durable.events);
    again.log.close().await;
}

#[tokio::test]
async fn what_is_not_durable_is_not_shown() {
    let home = tempdir().unwrap();
    let (mut store, _) = SledStore::open(home.path(), &LogOptions::default()).unwrap();
    let mut line = Line::new(1, "a");
    let mark = |value: u8| vec![(b"m".to_vec(), Some(vec![value]))];
    store.append(WriteSet { marks: mark(1), ..set(&mut line, 1, 1, 10) }).unwrap();
    store.sync().unwrap();
    let before = store.record(&line.record.key).unwrap();
    store.append(WriteSet { marks: mark(2), ..set(&mut line, 1, 1, 10) }).unwrap();
    // The next one has to look at what is there, which gives sled the one before.
    store.append(WriteSet { pruned: vec![Arrival(77)], ..WriteSet::default() }).unwrap();
    assert_eq!(store.record(&line.record.key).unwrap(), before);
    assert_eq!(store.mark(b"m").unwrap(), Some(vec![1]));
    assert_eq!(store.marks(b"").unwrap(), vec![(b"m".to_vec(), vec![1])]);
    assert_eq!(store.range(&line.record.key, 0, u64::MAX, usize::MAX).unwrap().len(), 1);
    assert_eq!(store.find(&line.record.key, 2, &line.link.parent).unwrap(), None);
    store.sync().unwrap();
    assert_eq!(store.mark(b"m").unwrap(), Some(vec![2]));
    assert!(store.find(&line.record.key, 2, &line.link.parent).unwrap().is_some());
}

#[tokio::test]
async fn a_full_queue_refuses_and_goes_on() {
    let home = tempdir().unwrap();
    let options = LogOptions { queue_bytes: 10_000, ..LogOptions::default() };
    let mut opened = Log::open(home.path(), options).unwrap();
    let mut line = Line::new(1, "a");
    let (mut taken, mut refused) = (0, 0);
    while refused == 0 {
        match opened.log.try_submit(taken, set(&mut line, 1, 1, 30_000)) {
            Ok(()) => taken += 1,
            Err((set, SubmitError::Full)) => {
                assert_eq!(set.batches.len(), 1);
                refused += 1;
            }
            Err((_, SubmitError::Closed)) => panic!("closed"),
        }
    }
    for token in 0..taken {
        stored(&mut opened, token).await;
    }
    opened.log.close().await;
}

#[tokio::test]
async fn a_second_log_on_one_folder_is_refused() {
    let home = tempdir().unwrap();
    let first = open(home.path());
    assert!(matches!(Log::open(home.path(), LogOptions::default()), Err(LogError::InUse { .. })));
    first.log.close().await;
}

#[tokio::test]
async fn a_backup_taken_under_load_restores_to_a_store_that_verifies() {
    let home = tempdir().unwrap();
    let (file, dir) = (home.path().join("backup"), home.path().join("restored"));
    let mut opened = open(&home.path().join("log"));
    let epoch = opened.snapshot.epoch;
    let reader = opened.log.reader();
    let log = opened.log.clone();
    let writing = tokio::spawn(async move {
        let mut line = Line::new(1, "a");
        let mut sizes = vec![];
        for token in 0..600u64 {
            let mut set = set(&mut line, 1, 2, if token % 3 == 0 { 20_000 } else { 100 });
            sizes.push(set.batches[0].bytes().len() as u64);
            if token >= 100 {
                // Keeps a window of fifty batches.
                let gone = token as usize - 100;
                line.record.floor = 2 * (gone as u64 + 1);
                line.record.events -= 2;
                line.record.bytes -= sizes[gone];
                set.logs = vec![line.record.clone()];
                set.pruned = vec![Arrival(gone as u64 + 1)];
            }
            log.submit(token, set).await.unwrap();
        }
    });
    for token in 0..200 {
        stored(&mut opened, token).await;
    }
    let copying = tokio::task::spawn_blocking({
        let (reader, file) = (reader.clone(), file.clone());
        move || backup(&reader, &file).unwrap()
    });
    let drain = tokio::spawn(async move { while opened.events.recv().await.is_some() {} });
    let report = copying.await.unwrap();
    writing.await.unwrap();
    opened.log.close().await;
    drain.await.unwrap();
    assert!(report.last_arrival >= Arrival(200));
    restore(&file, &dir).unwrap();
    assert!(matches!(restore(&file, &dir), Err(LogError::NotEmpty { .. })));
    let restored = open(&dir);
    assert_eq!((restored.snapshot.epoch, restored.snapshot.last_arrival), (epoch, report.last_arrival));
    let checked = verify(&restored.log.reader(), |_, _| {}).unwrap();
    assert_eq!(checked.problems, vec![]);
    assert_eq!(checked.batches, 100);
    assert_eq!(checked.bytes, restored.snapshot.batch_bytes);
    restored.log.close().await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::File::create(&file).unwrap().write_all(&bytes).unwrap();
    assert!(matches!(restore(&file, &home.path().join("other")), Err(LogError::BackupDamaged { .. })));
}

#[tokio::test]
async fn verify_finds_a_missing_parent_and_a_wrong_count() {
    let home = tempdir().unwrap();
    let mut opened = open(home.path());
    let mut line = Line::new(1, "a");
    line.seal_next(1, 10);
    opened.log.submit(1, set(&mut line, 3, 1, 10)).await.unwrap();
    stored(&mut opened, 1).await;
    let report = verify(&opened.log.reader(), |_, _| {}).unwrap();
    assert_eq!((report.batches, report.problem_count), (3, 3), "{:?}", report.problems);
    opened.log.close().await;
}

#[tokio::test]
async fn damage_is_told_and_never_a_panic() {
    let home = tempdir().unwrap();
    let dir = home.path().join("log");
    let mut opened = open(&dir);
    let mut line = Line::new(1, "a");
    opened.log.submit(1, set(&mut line, 40, 4, 3000)).await.unwrap();
    stored(&mut opened, 1).await;
    opened.log.close().await;
    let sound = std::fs::read(dir.join("db")).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for part in 0..12 {
        let mut bytes = sound.clone();
        bytes[used * part / 12 + 5] ^= 0x10;
        let copy = home.path().join(format!("copy{part}"));
        copy_dir(&dir, &copy);
        std::fs::write(copy.join("db"), bytes).unwrap();
        match Log::open(&copy, LogOptions { tail_cache_bytes: 0, ..LogOptions::default() }) {
            Ok(opened) => {
                let read = verify(&opened.log.reader(), |_, _| {});
                assert!(matches!(read, Ok(_) | Err(LogError::Damaged { .. } | LogError::Read { .. })), "{read:?}");
                opened.log.close().await;
            }
            Err(LogError::Damaged { .. } | LogError::Folder { .. } | LogError::Read { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn no_mix_of_sizes_and_prunes_makes_blob_files() {
    let home = tempdir().unwrap();
    let mut opened = open(home.path());
    let mut lines: Vec<Line> = (0..30).map(|author| Line::new(author, &format!("topic{author}"))).collect();
    for token in 0..700u64 {
        let line = &mut lines[(token * 7 % 30) as usize];
        let mut set = match token % 10 {
            0 => set(line, 1, 1, if token % 100 == 0 { 1_000_000 } else { 17_000 }),
            1..4 => set(line, 2, 16, 3_900),
            _ => set(line, 1, 1, (token * 37 % 3000) as usize),
        };
        if token % 3 == 0 {
            set.pruned = (1..6).map(|back| Arrival((token + 20) * back / 7)).collect();
        }
        set.marks = vec![(format!("mark{}", token % 50).into_bytes(), Some(vec![7; (token % 4000) as usize]))];
        opened.log.submit(token, set).await.unwrap();
        stored(&mut opened, token).await;
    }
    assert_eq!(std::fs::read_dir(home.path().join("blobs")).unwrap().count(), 0);
    opened.log.close().await;
    let again = open(home.path());
    let report = verify(&again.log.reader(), |_, _| {}).unwrap();
    let sound = |problem: &roundelay::log::Problem| {
        // The records here are not told of prunes.
        use roundelay::log::Problem::{Count, Parent, Tip};
        matches!(problem, Count { .. } | Parent(_) | Tip { .. })
    };
    assert!(report.problems.iter().all(sound), "{:?}", report.problems);
    again.log.close().await;
}

/// All that a store has: batches, records and marks, the chain and what was pruned.
fn contents(reader: &LogReader, line: &Line) -> (Vec<(Arrival, bytes::Bytes)>, String) {
    let last = reader.last_arrival();
    let batches = reader.scan(Arrival(0), usize::MAX, usize::MAX).unwrap();
    let rest = format!(
        "{:?} {:?} {:?} {:?}",
        reader.record(&line.record.key).unwrap(),
        reader.marks(b"").unwrap(),
        reader.range(&line.record.key, 0, u64::MAX, usize::MAX).unwrap().len(),
        (0..=last.0).map(|at| reader.chain_at(Arrival(at)).unwrap()).collect::<Vec<_>>(),
    );
    (batches.into_iter().map(|(arrival, batch)| (arrival, batch.bytes().clone())).collect(), rest)
}

/// A write set that prunes the batch before the last `kept`, as the replica would.
fn set_and_prune(line: &mut Line, pruned: u64) -> WriteSet {
    line.record.events -= 2;
    line.record.floor += 2;
    line.record.bytes -= line.sizes.pop_front().unwrap();
    let set = set(line, 1, 2, if pruned.is_multiple_of(3) { 20_000 } else { 100 });
    let marks = vec![(
        format!("mark{}", pruned % 7).into_bytes(),
        (!pruned.is_multiple_of(5)).then(|| vec![pruned as u8; 100]),
    )];
    WriteSet { pruned: vec![Arrival(pruned)], marks, ..set }
}

#[test]
fn power_lost_at_any_step_of_a_rewrite_leaves_one_whole_store() {
    let home = tempdir().unwrap();
    let dir = home.path().join("log");
    let options = LogOptions { tail_cache_bytes: 0, ..LogOptions::default() };
    let (mut store, snapshot) = SledStore::open(&dir, &options).unwrap();
    let reader = store.reader();
    let mut line = Line::new(1, "a");
    for token in 0..40 {
        store.append(set(&mut line, 1, 2, if token % 3 == 0 { 20_000 } else { 100 })).unwrap();
    }
    store.sync().unwrap();
    let judge = |line: &Line, what: &str| {
        let copies = tempdir().unwrap();
        copy_dir(home.path(), copies.path());
        let (copy, found) = SledStore::open(&copies.path().join("log"), &options).unwrap();
        assert!(!copies.path().join("log.rewriting").exists(), "{what}");
        assert_eq!((found.epoch, found.last_arrival), (snapshot.epoch, reader.last_arrival()), "{what}");
        assert!(contents(&copy.reader(), line) == contents(&reader, line), "{what}");
        assert_eq!(verify(&copy.reader(), |_, _| {}).unwrap().problems, [], "{what}");
    };
    let mut steps = 0;
    for pruned in 1.. {
        let step = store.rewrite_step(50_000).unwrap();
        steps += 1;
        judge(&line, &format!("{steps} steps"));
        match step {
            RewriteStep::Copied | RewriteStep::Waiting => {}
            RewriteStep::Done(_) => break,
            RewriteStep::GivenUp(why) => panic!("{why}"),
        }
        store.append(set_and_prune(&mut line, pruned)).unwrap();
        store.sync().unwrap();
        judge(&line, &format!("a write after {steps} steps"));
    }
    assert!(steps > 5, "{steps}");
    store.append(set(&mut line, 1, 1, 10)).unwrap();
    store.sync().unwrap();
    judge(&line, "a write afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_rewritten_while_it_is_written_read_and_backed_up() {
    let home = tempdir().unwrap();
    let dir = home.path().join("log");
    let options = LogOptions { tail_cache_bytes: 0, ..LogOptions::default() };
    let mut opened = Log::open(&dir, options.clone()).unwrap();
    let mut line = Line::new(1, "a");
    opened.log.submit(0, set(&mut line, 300, 2, 20_000)).await.unwrap();
    stored(&mut opened, 0).await;
    let reader = opened.log.reader();
    let reading = std::thread::spawn({
        let (reader, key) = (reader.clone(), line.record.key.clone());
        move || {
            let mut rounds = 0;
            while reader.last_arrival() < Arrival(1200) {
                let found = reader.scan(Arrival(900), 1000, usize::MAX).unwrap();
                let range = reader.range(&key, 900, 1000, usize::MAX).unwrap();
                assert!(range.windows(2).all(|pair| pair[0].tip().seq < pair[1].tip().seq));
                assert!(found.iter().zip(901..).all(|((arrival, _), at)| arrival.0 == at));
                rounds += 1;
            }
            rounds
        }
    });
    let rewriting: Vec<_> = (0..3)
        .map(|_| {
            tokio::spawn({
                let log = opened.log.clone();
                async move { log.rewrite().await.unwrap() }
            })
        })
        .collect();
    for token in 1..=900 {
        opened.log.submit(token, set_and_prune(&mut line, token)).await.unwrap();
        stored(&mut opened, token).await;
        if token == 100 {
            backup(&reader, &home.path().join("backup")).unwrap();
        }
    }
    for rewriting in rewriting {
        rewriting.await.unwrap();
    }
    assert!(reading.join().unwrap() > 0);
    let before = contents(&reader, &line);
    let report = opened.log.rewrite().await.unwrap();
    assert!(report.bytes_after < report.bytes_before, "{report:?}");
    assert_eq!(reader.size_on_disk(), report.bytes_after);
    assert!(contents(&reader, &line) == before);
    assert_eq!(verify(&reader, |_, _| {}).unwrap().problems, []);
    opened.log.close().await;
    assert!(!home.path().join("log.rewriting").exists());
    let again = Log::open(&dir, options).unwrap();
    assert_eq!(again.snapshot.epoch, opened.snapshot.epoch);
    assert!(contents(&again.log.reader(), &line) == before);
    again.log.close().await;
}
