//! The contract of a log, held against a model that is too simple to be wrong. The sled log and the one in memory pass
//! the same suite.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod log_support;

use std::collections::BTreeMap;

use log_support::{CheapSigner, Line, batch, copy_dir, key_of, link, topic};
use proptest::prelude::*;
use roundelay::log::{LogOptions, MemoryStore, RewriteStep, SledStore, Snapshot, Store};
use roundelay_protocol::batch::{Link, VerifiedBatch};
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::ids::{Arrival, BatchHash, Chain, StoreEpoch};
use roundelay_protocol::limits::MAX_SEQ;
use roundelay_protocol::write_set::WriteSet;

const TOPICS: [&str; 3] = ["a", "b.c", "b.d"];

#[derive(Debug, Clone)]
enum Op {
    Append {
        batches: Vec<NewBatch>,
        record: bool,
        mark: Option<(u8, Option<u8>)>,
        prune: Vec<u16>,
    },
    Announce {
        log: u8,
        announced: u64,
    },
    Sync,
    Crash,
    /// Goes on with a rewrite, by so many steps of so many bytes.
    Rewrite {
        steps: usize,
        bytes: usize,
    },
    Read {
        place: u16,
        other: u16,
        batches: usize,
        bytes: usize,
    },
}

#[derive(Debug, Clone)]
struct NewBatch {
    log: u8,
    /// Where on the log it goes on: 0 is the last batch, more are further back.
    back: usize,
    events: usize,
    bytes: usize,
}

fn new_batch() -> impl Strategy<Value = NewBatch> {
    let bytes = prop_oneof![6 => 0usize..400, 2 => 400usize..3000, 1 => 10_000usize..60_000];
    (0u8..5, prop_oneof![5 => Just(0), 1 => 1usize..4], 1usize..4, bytes)
        .prop_map(|(log, back, events, bytes)| NewBatch { log, back, events, bytes })
}

fn op() -> impl Strategy<Value = Op> {
    let prune = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any::<u16>(), 1..6)];
    let mark = prop::option::of((0u8..6, prop::option::weighted(0.7, any::<u8>())));
    prop_oneof![
        6 => (prop::collection::vec(new_batch(), 0..4), any::<bool>(), mark, prune)
            .prop_map(|(batches, record, mark, prune)| Op::Append { batches, record, mark, prune }),
        1 => (0u8..5, 0..=MAX_SEQ).prop_map(|(log, announced)| Op::Announce { log, announced }),
        4 => Just(Op::Sync),
        1 => Just(Op::Crash),
        2 => (1usize..6, 1usize..4000).prop_map(|(steps, bytes)| Op::Rewrite { steps, bytes }),
        4 => (any::<u16>(), any::<u16>(), 0usize..6, 0usize..100_000)
            .prop_map(|(place, other, batches, bytes)| Op::Read { place, other, batches, bytes }),
    ]
}

fn log_key(log: u8) -> LogKey {
    LogKey { topic: topic(TOPICS[log as usize % 3]), author: roundelay_protocol::ids::Author([log; 32]) }
}

/// All write sets that ever were, and what follows from them.
#[derive(Clone, Default)]
struct Model {
    sets: Vec<WriteSet>,
}

/// What follows from some write sets.
#[derive(Default)]
struct View {
    rows: Vec<(Chain, Option<VerifiedBatch>)>,
    records: BTreeMap<LogKey, LogRecord>,
    marks: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    fn view(&self, sets: usize) -> View {
        let mut view = View::default();
        let mut chain = Chain::default();
        for set in &self.sets[..sets] {
            // Pruning comes first.
            for arrival in &set.pruned {
                if let Some(row) = (arrival.0 as usize).checked_sub(1).and_then(|at| view.rows.get_mut(at)) {
                    row.1 = None;
                }
            }
            let mut last = BTreeMap::new();
            for batch in &set.batches {
                chain = chain.extend(&batch.hash());
                view.rows.push((chain, Some(batch.clone())));
                last.insert(key_of(batch), Arrival(view.rows.len() as u64));
            }
            for record in &set.logs {
                let before = view.records.get(&record.key).map_or(Arrival(0), |record| record.last_arrival);
                view.records.insert(record.key.clone(), LogRecord { last_arrival: before, ..record.clone() });
            }
            for (key, arrival) in last {
                let record = view.records.entry(key.clone()).or_insert_with(|| LogRecord::new(key));
                record.last_arrival = arrival;
            }
            for (name, value) in &set.marks {
                match value {
                    Some(value) => view.marks.insert(name.clone(), value.clone()),
                    None => view.marks.remove(name),
                };
            }
        }
        view
    }
}

impl View {
    fn batches(&self) -> Vec<(Arrival, VerifiedBatch)> {
        let rows = (1..).zip(&self.rows);
        rows.filter_map(|(at, (_, batch))| batch.clone().map(|batch| (Arrival(at), batch))).collect()
    }

    fn last(&self) -> Arrival {
        Arrival(self.rows.len() as u64)
    }

    /// Checks everything that a store says about itself when it is opened.
    fn matches(&self, snapshot: &Snapshot) -> bool {
        let mut records = snapshot.records.clone();
        records.sort_by(|a, b| a.key.cmp(&b.key));
        let bytes: usize = self.batches().iter().map(|(_, batch)| batch.bytes().len()).sum();
        snapshot.last_arrival == self.last()
            && snapshot.chain == self.rows.last().map(|(chain, _)| *chain).unwrap_or_default()
            && snapshot.batch_bytes == bytes as u64
            && records == self.records.values().cloned().collect::<Vec<_>>()
    }

    fn check_all(&self, store: &dyn Store) {
        self.check(store, 0, 0, usize::MAX, usize::MAX);
        let marks: Vec<_> = self.marks.clone().into_iter().collect();
        assert_eq!(store.marks(b"").unwrap(), marks);
        for log in 0..5 {
            assert_eq!(store.record(&log_key(log)).unwrap().as_ref(), self.records.get(&log_key(log)));
        }
        let floor = self.rows.iter().take_while(|(_, batch)| batch.is_none()).count();
        for at in 0..=self.rows.len() + 1 {
            let chain = match at {
                0 => (floor == 0).then(Chain::default),
                at if at < floor => None,
                at => self.rows.get(at - 1).map(|(chain, _)| *chain),
            };
            assert_eq!(store.chain_at(Arrival(at as u64)).unwrap(), chain, "chain at {at}, floor {floor}");
        }
        for (_, batch) in self.batches() {
            let found = store.find(&key_of(&batch), batch.header().last_seq(), &batch.hash()).unwrap();
            assert_eq!(found, Some(batch.tip()));
            self.check_children(store, &batch);
        }
    }

    fn check_children(&self, store: &dyn Store, batch: &VerifiedBatch) {
        let parent = (batch.header().first_seq - 1, batch.header().parent);
        let follows = |other: &VerifiedBatch| {
            key_of(other) == key_of(batch) && (other.header().first_seq - 1, other.header().parent) == parent
        };
        let siblings = self.batches().into_iter().map(|(_, other)| other).filter(follows);
        let mut expected: Vec<_> = siblings.map(|other| (other.hash(), other.header().incarnation)).collect();
        let mut found = store.children(&key_of(batch), parent).unwrap();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    fn check(&self, store: &dyn Store, place: u16, other: u16, max_batches: usize, max_bytes: usize) {
        let last = self.last();
        assert_eq!(store.last_arrival(), last);
        let after = Arrival(u64::from(place) % (last.0 + 2));
        let beyond: Vec<_> = self.batches().into_iter().filter(|(arrival, _)| *arrival > after).collect();
        let found = store.scan(after, max_batches, max_bytes).unwrap();
        assert_same(&found, &bounded(&beyond, max_batches, max_bytes));
        let heads = store.oldest(after, max_batches).unwrap();
        assert_eq!(heads.len(), beyond.len().min(max_batches));
        for (head, (arrival, batch)) in heads.iter().zip(&beyond) {
            assert_eq!((head.arrival, head.hash, head.bytes), (*arrival, batch.hash(), batch.bytes().len() as u64));
            assert_eq!((&head.log, head.last_hlc), (&key_of(batch), batch.header().last_hlc));
            assert_eq!((head.first_seq, head.last_seq), (batch.header().first_seq, batch.header().last_seq()));
        }
        self.check_topics(store, after, other, max_batches.max(1), max_bytes);
        self.check_log(store, place, other, max_bytes);
        let name = [(other % 6) as u8];
        assert_eq!(store.mark(&name).unwrap().as_ref(), self.marks.get(&name[..]));
        let prefixed: Vec<_> = self.marks.clone().into_iter().filter(|(n, _)| n.starts_with(&name)).collect();
        assert_eq!(store.marks(&name).unwrap(), prefixed);
        assert_eq!(store.find(&log_key(0), u64::from(place), &BatchHash([1; 32])).unwrap(), None);
    }

    fn check_topics(&self, store: &dyn Store, place: Arrival, other: u16, max_batches: usize, max_bytes: usize) {
        let wanted = |topic: &roundelay_protocol::topic::Topic| {
            TOPICS.iter().position(|name| *name == topic.as_str()).is_some_and(|at| other >> at & 1 == 1)
        };
        let matching = |(_, batch): &(Arrival, VerifiedBatch)| wanted(&batch.header().topic);
        let beyond: Vec<_> = self.batches().into_iter().filter(|(at, _)| *at > place).filter(matching).collect();
        let (mut after, mut found) = (place, Vec::new());
        loop {
            let part = store.scan_topic(&wanted, after, max_batches, max_bytes).unwrap();
            assert_same(&part.batches, &bounded(&beyond[found.len()..], max_batches, max_bytes));
            assert!(part.batches.last().is_none_or(|(arrival, _)| *arrival <= part.next) && part.next >= after);
            found.extend(part.batches);
            after = part.next;
            if after >= self.last() {
                break;
            }
        }
        assert_same(&found, &beyond);
        let mut earlier: Vec<_> = self.batches().into_iter().filter(|(at, _)| *at < place).filter(matching).collect();
        earlier.reverse();
        let (mut before, mut found) = (place, Vec::new());
        while before > Arrival(1) {
            let part = store.scan_back(&wanted, before, max_batches, max_bytes).unwrap();
            assert_same(&part.batches, &bounded(&earlier[found.len()..], max_batches, max_bytes));
            assert!(part.next < before);
            found.extend(part.batches);
            before = part.next;
        }
        assert_same(&found, &earlier);
    }

    fn check_log(&self, store: &dyn Store, place: u16, other: u16, max_bytes: usize) {
        let key = log_key((other % 5) as u8);
        let (after, upto) = (u64::from(place % 40), u64::from(other % 60));
        for (after, upto) in [(after, upto), (0, u64::MAX)] {
            let mut expected: Vec<_> = self.batches().into_iter().filter(|(_, batch)| key_of(batch) == key).collect();
            expected.retain(|(_, batch)| batch.header().last_seq() > after && batch.header().first_seq <= upto);
            expected.sort_by_key(|(_, batch)| (batch.header().last_seq(), batch.hash()));
            let expected: Vec<_> = bounded(&expected, usize::MAX, max_bytes).iter().map(|(_, b)| b.hash()).collect();
            let found: Vec<_> = store.range(&key, after, upto, max_bytes).unwrap();
            assert_eq!(found.iter().map(VerifiedBatch::hash).collect::<Vec<_>>(), expected);
        }
    }
}

fn bounded(batches: &[(Arrival, VerifiedBatch)], max: usize, max_bytes: usize) -> Vec<(Arrival, VerifiedBatch)> {
    let mut bytes = 0;
    let fits = |(at, (_, batch)): &(usize, &(Arrival, VerifiedBatch))| {
        bytes += batch.bytes().len();
        *at < max && (*at == 0 || bytes <= max_bytes)
    };
    batches.iter().enumerate().take_while(fits).map(|(_, batch)| batch.clone()).collect()
}

fn assert_same(found: &[(Arrival, VerifiedBatch)], expected: &[(Arrival, VerifiedBatch)]) {
    let name = |(arrival, batch): &(Arrival, VerifiedBatch)| (*arrival, batch.bytes().clone());
    assert!(
        found.iter().map(name).eq(expected.iter().map(name)),
        "found {:?}, expected {:?}",
        found.iter().map(|(arrival, _)| arrival.0).collect::<Vec<_>>(),
        expected.iter().map(|(arrival, _)| arrival.0).collect::<Vec<_>>()
    );
}

/// A store that can lose what was not synced.
trait Crash {
    fn store(&mut self) -> &mut dyn Store;
    fn crash(&mut self) -> Snapshot;
    /// Does a part of a rewrite. Says whether everything is synced now.
    fn rewrite(&mut self, bytes: usize) -> bool;
}

impl Crash for MemoryStore {
    fn store(&mut self) -> &mut dyn Store {
        self
    }

    fn crash(&mut self) -> Snapshot {
        MemoryStore::crash(self);
        self.snapshot()
    }

    fn rewrite(&mut self, _bytes: usize) -> bool {
        false
    }
}

/// A sled store, whose files are copied away at a crash.
struct OnDisk {
    store: SledStore,
    dir: tempfile::TempDir,
    options: LogOptions,
    rewriting: bool,
}

impl OnDisk {
    fn new(tail_cache_bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { tail_cache_bytes, sled_cache_bytes: 1 << 20, ..LogOptions::default() };
        let (store, snapshot) = SledStore::open(&dir.path().join("log"), &options).unwrap();
        assert_eq!(snapshot.last_arrival, Arrival(0));
        Self { store, dir, options, rewriting: false }
    }
}

impl Crash for OnDisk {
    fn store(&mut self) -> &mut dyn Store {
        &mut self.store
    }

    fn crash(&mut self) -> Snapshot {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), copy.path());
        let (store, snapshot) = SledStore::open(&copy.path().join("log"), &self.options).unwrap();
        self.store = store;
        self.dir = copy;
        self.rewriting = false;
        assert!(!self.dir.path().join("log.rewriting").exists());
        assert_eq!(std::fs::read_dir(self.dir.path().join("log/blobs")).unwrap().count(), 0);
        snapshot
    }

    fn rewrite(&mut self, bytes: usize) -> bool {
        let begins = !std::mem::replace(&mut self.rewriting, true);
        match self.store.rewrite_step(bytes).unwrap() {
            RewriteStep::Copied | RewriteStep::Waiting => {}
            RewriteStep::Done(_) => self.rewriting = false,
            RewriteStep::GivenUp(why) => panic!("{why}"),
        }
        begins
    }
}

/// Makes write sets out of operations and remembers where logs go on.
#[derive(Default)]
struct Author {
    logs: BTreeMap<u8, Vec<VerifiedBatch>>,
    hlc: u64,
}

impl Author {
    fn write_set(&mut self, op: &Op, stored: u64) -> WriteSet {
        let mut set = WriteSet::default();
        match op {
            Op::Append { batches, record, mark, prune } => {
                for new in batches {
                    self.hlc += 100;
                    let line = self.logs.entry(new.log).or_default();
                    let at = line.len().checked_sub(1 + new.back.min(line.len().saturating_sub(1)));
                    let on = at.map_or(Link::default(), |at| link(&line[at]));
                    let topic = log_key(new.log).topic;
                    let batch = batch(&CheapSigner(new.log), &topic, on, self.hlc, new.events, new.bytes);
                    line.push(batch.clone());
                    if *record && !set.logs.iter().any(|record| record.key == key_of(&batch)) {
                        let record = LogRecord { floor: self.hlc, ..LogRecord::new(key_of(&batch)) };
                        set.logs.push(LogRecord { tips: [batch.tip()].into_iter().collect(), ..record });
                    }
                    set.batches.push(batch);
                }
                set.marks.extend(mark.map(|(name, value)| (vec![name], value.map(|value| vec![value; 9]))));
                set.pruned.extend(prune.iter().map(|place| Arrival(u64::from(*place) % (stored + 2))));
            }
            Op::Announce { log, announced } => {
                set.logs.push(LogRecord { announced: *announced, ..LogRecord::new(log_key(*log)) });
            }
            _ => {}
        }
        set
    }
}

fn run(crash: &mut dyn Crash, ops: &[Op]) {
    let (mut model, mut durable, mut author) = (Model::default(), 0, Author::default());
    for op in ops {
        match op {
            Op::Append { .. } | Op::Announce { .. } => {
                let before = model.view(model.sets.len());
                let set = author.write_set(op, before.last().0);
                model.sets.push(set.clone());
                let appended = crash.store().append(set).unwrap();
                let after = model.view(model.sets.len());
                assert_eq!(appended.first_arrival, Arrival(before.last().0 + 1));
                assert_eq!(appended.last_arrival, after.last());
                assert_eq!(appended.chain, after.rows.last().map(|(chain, _)| *chain).unwrap_or_default());
                let bytes: usize = after.batches().iter().map(|(_, batch)| batch.bytes().len()).sum();
                assert_eq!(appended.batch_bytes, bytes as u64);
            }
            Op::Sync => {
                crash.store().sync().unwrap();
                durable = model.sets.len();
                model.view(durable).check_all(crash.store());
            }
            Op::Rewrite { steps, bytes } => {
                for _ in 0..*steps {
                    if crash.rewrite(*bytes) {
                        durable = model.sets.len();
                    }
                }
            }
            Op::Crash => {
                let snapshot = crash.crash();
                let marks = crash.store().marks(b"").unwrap();
                // Whole sets from the front may have made it.
                let found = (durable..=model.sets.len()).find(|sets| {
                    let view = model.view(*sets);
                    view.matches(&snapshot) && view.marks.clone().into_iter().eq(marks.iter().cloned())
                });
                durable = found.expect("what is found after a crash is no prefix of what was written");
                model.sets.truncate(durable);
                let view = model.view(durable);
                view.check_all(crash.store());
                // The author goes on from what it finds.
                let kept: Vec<_> = model.sets.iter().flat_map(|set| &set.batches).map(VerifiedBatch::hash).collect();
                author.logs.values_mut().for_each(|line| line.retain(|batch| kept.contains(&batch.hash())));
            }
            Op::Read { place, other, batches, bytes } => {
                if model.sets[durable..].iter().all(|set| set.pruned.is_empty()) {
                    model.view(durable).check(crash.store(), *place, *other, *batches, *bytes);
                }
            }
        }
    }
    crash.store().sync().unwrap();
    model.view(model.sets.len()).check_all(crash.store());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_keeps_the_contract(ops in prop::collection::vec(op(), 1..60)) {
        run(&mut MemoryStore::new(StoreEpoch(1)), &ops);
    }

    #[test]
    fn the_sled_store_keeps_the_contract(ops in prop::collection::vec(op(), 1..60), tail in prop_oneof![Just(0usize), 0usize..200_000]) {
        run(&mut OnDisk::new(tail), &ops);
    }
}

#[test]
fn logs_that_are_walked_by_their_indexes_give_what_a_walk_over_the_store_does() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SledStore::open(folder.path(), &LogOptions::default()).unwrap();
    let mut lines: Vec<Line> = (1..5).flat_map(|author| [Line::new(author, "a"), Line::new(author, "b.c")]).collect();
    for nth in 0..60_usize {
        let line = &mut lines[(nth * 5 + nth / 7) % 8];
        let pruned = (nth % 9 == 8).then(|| Arrival(nth as u64 - 3));
        let set = WriteSet {
            batches: vec![line.seal_next(1, 10 + nth)],
            logs: vec![line.record.clone()],
            pruned: pruned.into_iter().collect(),
            ..WriteSet::default()
        };
        store.append(set).unwrap();
        store.sync().unwrap();
    }
    let (reader, wanted) = (store.reader(), topic("a"));
    let keys: Vec<LogKey> =
        lines.iter().map(|line| line.record.key.clone()).filter(|key| key.topic == wanted).collect();
    for before in [Arrival(1), Arrival(31), Arrival(u64::MAX)] {
        for (max_batches, max_bytes) in [(1, usize::MAX), (7, usize::MAX), (100, 900), (100, usize::MAX)] {
            let (mut by_logs, mut by_store) = ((before, Vec::new()), (before, Vec::new()));
            while by_logs.0 > Arrival(1) {
                let part = reader.scan_logs_back(keys.iter(), by_logs.0, max_batches, max_bytes).unwrap();
                assert_same(&part.batches, &bounded(&part.batches, max_batches, max_bytes));
                by_logs.1.extend(part.batches);
                by_logs.0 = part.next;
            }
            while by_store.0 > Arrival(1) {
                let part = reader.scan_back(&|other| *other == wanted, by_store.0, max_batches, max_bytes).unwrap();
                by_store.1.extend(part.batches);
                by_store.0 = part.next;
            }
            assert_same(&by_logs.1, &by_store.1);
        }
    }
}
