//! How fast the log is. Not part of the suite: `cargo test -p roundelay --test log_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a measurement, not a test

mod log_support;

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use log_support::Line;
use roundelay::log::{Log, LogEvent, LogOptions, Opened, SledStore, Store};
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::write_set::WriteSet;

/// Processor time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn sets(count: usize, events: usize) -> Vec<WriteSet> {
    let mut line = Line::new(1, "orders.placed");
    let mut one = || WriteSet {
        batches: vec![line.seal_next(events, 256)],
        logs: vec![line.record.clone()],
        ..WriteSet::default()
    };
    (0..count).map(|_| one()).collect()
}

async fn publish(opened: &mut Opened, sets: Vec<WriteSet>, in_flight: usize) {
    let mut waiting = 0;
    let mut sets = VecDeque::from(sets);
    while !sets.is_empty() || waiting > 0 {
        while waiting < in_flight
            && let Some(set) = sets.pop_front()
        {
            opened.log.submit(0, set).await.unwrap();
            waiting += 1;
        }
        assert!(matches!(opened.events.recv().await, Some(LogEvent::Stored { .. })));
        waiting -= 1;
    }
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput() {
    for (count, events, in_flight) in [(2500, 200, 1), (2500, 200, 3), (2500, 200, 16), (20_000, 1, 64)] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut opened = Log::open(home.path(), LogOptions::default()).unwrap();
        let sets = sets(count, events);
        let megabytes = sets.iter().map(WriteSet::batch_bytes).sum::<usize>() as f64 / 1e6;
        let (started, cpu_before) = (Instant::now(), cpu());
        publish(&mut opened, sets, in_flight).await;
        let (wall, cpu) = (started.elapsed().as_secs_f64(), (cpu() - cpu_before).as_secs_f64());
        eprintln!(
            "{events:3} events a batch, {in_flight:2} in flight: {:7.0} events/s, {:4.0} MB/s, {:4.0} MB per CPU second, file x{:.2}",
            (count * events) as f64 / wall,
            megabytes / wall,
            megabytes / cpu,
            opened.log.reader().size_on_disk() as f64 / 1e6 / megabytes,
        );
        let started = Instant::now();
        let mut after = Arrival(0);
        let (reader, mut read) = (opened.log.reader(), 0);
        while let Some((last, _)) = reader.scan(after, 64, 1 << 20).unwrap().last() {
            read += 1;
            after = *last;
        }
        eprintln!("    read back {:.0} MB/s in {read} calls", megabytes / started.elapsed().as_secs_f64());
        opened.log.close().await;
        let started = Instant::now();
        let again = Log::open(home.path(), LogOptions::default()).unwrap();
        eprintln!("    reopened in {:?}", started.elapsed());
        assert_eq!(std::fs::read_dir(home.path().join("blobs")).unwrap().count(), 0);
        again.log.close().await;
    }
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_events() {
    const COUNT: usize = 1500;
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut opened = Log::open(&home.path().join("log"), LogOptions::default()).unwrap();
    let mut file = std::fs::File::create(home.path().join("raw")).unwrap();
    let (mut store, _) = SledStore::open(&home.path().join("store"), &LogOptions::default()).unwrap();
    let (mut raw, mut log, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    for set in sets(COUNT, 1) {
        // Idle in between, as a node is that gets single events.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let started = Instant::now();
        file.write_all(set.batches[0].bytes()).unwrap();
        file.sync_data().unwrap();
        raw.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let copy = set.clone();
        let started = Instant::now();
        opened.log.submit(0, set).await.unwrap();
        opened.events.recv().await.unwrap();
        log.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let started = Instant::now();
        store.append(copy).unwrap();
        store.sync().unwrap();
        direct.push(started.elapsed());
    }
    raw.sort();
    log.sort();
    direct.sort();
    for (name, at) in [("median", COUNT / 2), ("p99", COUNT * 99 / 100)] {
        let ratio = log[at].as_secs_f64() / raw[at].as_secs_f64();
        eprintln!(
            "{name}: append and fdatasync {:?}, submit to stored {:?}, {ratio:.2} times; without the thread {:?}",
            raw[at], log[at], direct[at]
        );
    }
    opened.log.close().await;
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_space_is_used_again() {
    const KEPT: u64 = 800;
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut opened = Log::open(home.path(), LogOptions::default()).unwrap();
    let mut line = Line::new(1, "a");
    for at in 0..8000u64 {
        let pruned = at.checked_sub(KEPT).map(|gone| Arrival(gone + 1)).into_iter().collect();
        let batches = vec![line.seal_next(if at % 5 == 0 { 3 } else { 200 }, 256)];
        let set = WriteSet { batches, pruned, logs: vec![line.record.clone()], ..WriteSet::default() };
        opened.log.submit(0, set).await.unwrap();
        let Some(LogEvent::Stored { batch_bytes, .. }) = opened.events.recv().await else { panic!("failed") };
        if at % 1000 == 999 {
            let size = opened.log.reader().size_on_disk();
            eprintln!("after {at}: {} MB kept, {} MB on disk", batch_bytes / 1_000_000, size / 1_000_000);
        }
    }
    opened.log.close().await;
    assert_eq!(std::fs::read_dir(home.path().join("blobs")).unwrap().count(), 0);
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_space_comes_back() {
    for kept in [100u64, 4000, 40_000] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut opened = Log::open(home.path(), LogOptions::default()).unwrap();
        let (mut lines, mut arrival) = ((0..50).map(|author| Line::new(author, "a")).collect::<Vec<_>>(), 0u64);
        let (mut largest, mut size, mut rewrites) = (0, 0, 0);
        let (mut pauses, mut writing) = (Vec::new(), Duration::ZERO);
        let started = Instant::now();
        while arrival < 4 * kept.max(30_000) {
            let line = &mut lines[(arrival % 50) as usize];
            let batches = vec![line.seal_next(if arrival % 5 == 0 { 20 } else { 1 }, 256)];
            arrival += 1;
            let pruned = arrival.checked_sub(kept).filter(|gone| *gone > 0).map(Arrival).into_iter().collect();
            let set = WriteSet { batches, pruned, logs: vec![line.record.clone()], ..WriteSet::default() };
            let submitted = Instant::now();
            opened.log.submit(0, set).await.unwrap();
            let Some(LogEvent::Stored { .. }) = opened.events.recv().await else { panic!("failed") };
            pauses.push(submitted.elapsed());
            writing += submitted.elapsed();
            let now = opened.log.reader().size_on_disk();
            rewrites += u32::from(now < size);
            (size, largest) = (now, largest.max(now));
        }
        pauses.sort();
        let at = |part: f64| pauses[((pauses.len() - 1) as f64 * part) as usize];
        let bytes: u64 = opened
            .log
            .reader()
            .scan(Arrival(0), usize::MAX, usize::MAX)
            .unwrap()
            .iter()
            .map(|(_, batch)| batch.bytes().len() as u64)
            .sum();
        let before = opened.log.reader().size_on_disk();
        let asked = Instant::now();
        let report = opened.log.rewrite().await.unwrap();
        eprintln!(
            "{kept} batches kept, {} MB: at most {} MB on disk, {rewrites} rewrites in {:.0?}; a write takes {:.1?}, 99.9 % {:.1?}, at most {:.1?}; \
             asked for, from {} MB to {} MB in {:.1?}",
            bytes / 1_000_000,
            largest / 1_000_000,
            started.elapsed(),
            at(0.5),
            at(0.999),
            at(1.0),
            before / 1_000_000,
            report.bytes_after / 1_000_000,
            asked.elapsed(),
        );
        opened.log.close().await;
    }
}
