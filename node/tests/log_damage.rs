//! Damage to a store: whatever bit flips, wherever it is cut off, nobody is handed anything that was not stored, and what
//! is lost is noticed.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod log_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use log_support::{Line, copy_dir};
use roundelay::log::{LogOptions, LogReader, Opened, SledStore, Store, open_or_salvage, verify};
use roundelay_protocol::ids::{Arrival, Author, BatchHash};
use roundelay_protocol::sign::{Ed25519Signer, Signer};
use roundelay_protocol::write_set::WriteSet;

/// Places that are damaged. `ROUNDELAY_DAMAGES` asks for more.
const DAMAGES: u64 = 24;
const SEED: u64 = 7;

type Stored = BTreeMap<BatchHash, Vec<u8>>;

/// xorshift64 (Marsaglia, 2003).
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn me() -> Author {
    Ed25519Signer::from_secret(&[1; 32]).author()
}

/// A store that was opened several times, pruned, and left as a killed process leaves it.
fn make_store(dir: &Path) -> Stored {
    let mut stored = Stored::new();
    let mut lines: Vec<Line> = (1..=3).flat_map(|author| ["a", "b.c"].map(|topic| Line::new(author, topic))).collect();
    let sizes = [20, 300, 1_500, 5_000, 20_000, 50_000];
    for life in 0..3u64 {
        let (mut store, _) = SledStore::open(dir, &LogOptions::default()).unwrap();
        for round in 0..80u64 {
            let mut set = WriteSet::default();
            for (at, line) in lines.iter_mut().enumerate() {
                let bytes = sizes[(round as usize * 7 + at) % sizes.len()];
                let batch = line.seal_next(1 + at % 3, bytes);
                stored.insert(batch.hash(), batch.bytes().to_vec());
                set.batches.push(batch);
                set.logs.push(line.record.clone());
            }
            set.marks.push((b"topics".to_vec(), Some(vec![life as u8; 100])));
            if life == 1 && round < 20 {
                // The beginning of the store goes, with what it says of its logs.
                for arrival in store.oldest(Arrival(0), 6).unwrap() {
                    stored.remove(&arrival.hash);
                    set.pruned.push(arrival.arrival);
                    let record = lines.iter_mut().map(|line| &mut line.record).find(|r| r.key == arrival.log).unwrap();
                    record.floor = arrival.last_seq;
                    record.floor_hlc = arrival.last_hlc;
                    record.events -= arrival.last_seq + 1 - arrival.first_seq;
                    record.bytes -= arrival.bytes;
                    let key = record.key.clone();
                    let record = record.clone();
                    *set.logs.iter_mut().find(|record| record.key == key).unwrap() = record;
                }
            }
            store.append(set).unwrap();
            store.sync().unwrap();
        }
    }
    stored
}

/// Everything that a reader is shown, or that a read fails.
fn shown(reader: &LogReader) -> Option<Stored> {
    let (mut all, mut after) = (Stored::new(), Arrival(0));
    loop {
        let batches = reader.scan(after, 64, 1 << 20).ok()?;
        let Some((last, _)) = batches.last() else { return Some(all) };
        after = *last;
        all.extend(batches.iter().map(|(_, batch)| (batch.hash(), batch.bytes().to_vec())));
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    /// Noticed at the start, and salvaged.
    Salvaged,
    /// Noticed by a read or by `verify`, and salvaged at the next start.
    FoundLater,
    /// Where nothing was stored any more.
    Harmless,
}

/// Opens a damaged store, twice if need be, and says how the damage was noticed. Panics when anybody is handed what was
/// not stored, or misses something without a word.
fn judge(dir: &Path, stored: &Stored, what: &str) -> (Outcome, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let close = |opened: Opened| runtime.block_on(opened.log.close());
    let parent = dir.parent().unwrap();
    let is_set_aside =
        || fs::read_dir(parent).unwrap().flatten().any(|e| e.file_name().to_string_lossy().contains("damaged"));
    let opened = open_or_salvage(dir, LogOptions::default(), me()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut outcome = if is_set_aside() { Outcome::Salvaged } else { Outcome::Harmless };
    let reader = opened.log.reader();
    let mut found = shown(&reader);
    // Where it cannot even be walked, `verify` says so.
    let clean = verify(&reader, |_, _| {}).is_ok_and(|report| report.problem_count == 0);
    if let Some(found) = &found {
        let strange = found.iter().find(|(hash, bytes)| stored.get(*hash) != Some(*bytes));
        // A store that says no more what it pruned may bring back what it finds of it; it verifies all the same.
        assert!(strange.is_none() || outcome == Outcome::Salvaged, "{what}: a reader is shown what was not stored");
        let lost = stored.len() - found.keys().filter(|hash| stored.contains_key(*hash)).count();
        assert!(lost == 0 || outcome == Outcome::Salvaged || !clean, "{what}: SILENT, {lost} batches are missing");
    }
    if outcome == Outcome::Harmless && (found.is_none() || !clean) {
        close(opened);
        // A read left word; `verify` alone does when it cannot read. The operator's remedy is the same: start again.
        fs::write(dir.join("failed"), "found by verify").unwrap();
        let opened =
            open_or_salvage(dir, LogOptions::default(), me()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(is_set_aside(), "{what}: found and not salvaged");
        outcome = Outcome::FoundLater;
        found = shown(&opened.log.reader());
        assert_eq!(verify(&opened.log.reader(), |_, _| {}).unwrap().problems, [], "{what}");
        close(opened);
    } else {
        assert!(clean, "{what}: {:?}", verify(&reader, |_, _| {}).unwrap().problems);
        close(opened);
    }
    let kept = found.unwrap_or_else(|| panic!("{what}: what was salvaged cannot be read"));
    (outcome, kept.keys().filter(|hash| stored.contains_key(*hash)).count())
}

#[test]
fn a_flipped_bit_is_never_silent() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("whole");
    let stored = make_store(&dir);
    let damages = std::env::var("ROUNDELAY_DAMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(DAMAGES);
    let (mut seed, mut outcomes) = (SEED, BTreeMap::<Outcome, (u64, usize)>::new());
    for damage in 0..damages {
        let copy = home.path().join(format!("copy-{damage}"));
        copy_dir(&dir, &copy.join("log"));
        let mut files: Vec<_> = fs::read_dir(copy.join("log")).unwrap().flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.is_file() && !path.ends_with("durable"));
        files.sort();
        // Mostly in sled's log, now and then in its other files.
        let db = copy.join("log/db");
        let file = if damage % 6 == 5 { &files[next(&mut seed) as usize % files.len()] } else { &db };
        let mut bytes = fs::read(file).unwrap();
        let (at, bit) = ((next(&mut seed) % bytes.len() as u64) as usize, next(&mut seed) % 8);
        bytes[at] ^= 1 << bit;
        fs::write(file, bytes).unwrap();
        let what = format!("bit {bit} of byte {at} of {}", file.file_name().unwrap().display());
        let (outcome, kept) = judge(&copy.join("log"), &stored, &what);
        println!("{what}: {outcome:?}, {kept} of {} batches kept", stored.len());
        let entry = outcomes.entry(outcome).or_insert((0, usize::MAX));
        *entry = (entry.0 + 1, entry.1.min(kept));
        fs::remove_dir_all(&copy).unwrap();
    }
    println!("{damages} flipped bits, seed {SEED}; how often, and the least that was kept: {outcomes:?}");
}

#[test]
fn a_store_that_is_cut_off_anywhere_is_noticed_and_salvaged() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("whole");
    let stored = make_store(&dir);
    let length = fs::metadata(dir.join("db")).unwrap().len();
    for part in 0..6 {
        let copy = home.path().join(format!("copy-{part}"));
        copy_dir(&dir, &copy.join("log"));
        fs::OpenOptions::new().write(true).open(copy.join("log/db")).unwrap().set_len(length * part / 6).unwrap();
        let (outcome, kept) = judge(&copy.join("log"), &stored, &format!("cut off after {part} sixths"));
        println!("cut off after {part} sixths: {outcome:?}, {kept} of {} batches kept", stored.len());
        assert_ne!(outcome, Outcome::Harmless);
    }
}

#[test]
fn a_salvage_keeps_marks_floors_and_all_that_verifies() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    let stored = make_store(&dir);
    fs::write(dir.join("failed"), "nothing is wrong").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let opened = open_or_salvage(&dir, LogOptions::default(), me()).unwrap();
    let before = opened.snapshot.clone();
    runtime.block_on(opened.log.close());
    assert!(!dir.join("failed").exists(), "a whole store is used as it is");
    // Another epoch in the witness: the store is whole, and not to be trusted.
    fs::remove_file(dir.join("durable")).unwrap();
    let other = home.path().join("other");
    make_store(&other);
    fs::copy(other.join("durable"), dir.join("durable")).unwrap();
    let opened = open_or_salvage(&dir, LogOptions::default(), me()).unwrap();
    let reader = opened.log.reader();
    assert_ne!(opened.snapshot.epoch, before.epoch);
    assert_eq!(shown(&reader).unwrap(), stored);
    assert_eq!(reader.mark(b"topics").unwrap(), Some(vec![2; 100]));
    let salvaged = reader.salvaged().unwrap().unwrap();
    assert_eq!((salvaged.lost_events, salvaged.set_aside.exists()), (Some(0), true));
    let floors = |snapshot: &roundelay::log::Snapshot| -> BTreeSet<String> {
        let line = |r: &roundelay_protocol::heads::LogRecord| {
            format!("{:?} {:?} {} {} {:?}", r.key, r.tips, r.floor, r.events, r.holes)
        };
        snapshot.records.iter().map(line).collect()
    };
    assert_eq!(floors(&opened.snapshot), floors(&before));
    runtime.block_on(opened.log.close());
}
