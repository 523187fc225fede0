//! Readings of a store from which events go before and after they were read.

use roundelay_protocol::batch::{Link, seal};
use roundelay_protocol::event::Event;
use roundelay_protocol::heads::{Hole, LogRecord};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{BatchHash, Incarnation};
use roundelay_protocol::sign::{Ed25519Signer, Signer as _};
use roundelay_protocol::write_set::WriteSet;

use super::*;
use crate::log::{LogOptions, SledStore, Store};

const TOPIC: &str = "stock.levels";

/// A store with one log, whose batches have one event each, and a reader of it.
struct Watched {
    store: SledStore,
    _folder: tempfile::TempDir,
    line: Vec<VerifiedBatch>,
    record: LogRecord,
    tail: Tail,
    read: usize,
}

impl Watched {
    fn new() -> Self {
        let signer = Ed25519Signer::from_secret(&[1; 32]);
        let topic = Topic::new(TOPIC).unwrap();
        let mut line: Vec<VerifiedBatch> = Vec::new();
        for seq in 1..=9 {
            let link = line.last().map_or(Link::default(), |last| Link { seq: seq - 1, parent: last.hash() });
            let (kind, source, id) = ("counted".into(), "/stock".into(), seq.to_string());
            let event = Event { kind, source, id, ..Event::default() };
            line.push(seal(&signer, &topic, Incarnation(1), link, Hlc(seq << 16), &[event.encode().unwrap()]));
        }
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = SledStore::open(folder.path(), &LogOptions::default()).unwrap();
        let record = LogRecord::new(LogKey { topic, author: signer.author() });
        Self { store, _folder: folder, line, record, tail: Tail::default(), read: 0 }
    }

    /// Stores batches, in this order.
    fn store(&mut self, seqs: impl IntoIterator<Item = usize>) {
        let batches: Vec<_> = seqs.into_iter().map(|seq| self.line[seq - 1].clone()).collect();
        let tips = self.record.tips.iter().copied().chain(batches.iter().map(VerifiedBatch::tip));
        self.record.tips = tips.max_by_key(|tip| tip.seq).into_iter().collect();
        self.append(WriteSet { batches, ..WriteSet::default() });
    }

    /// Removes what arrived so, and raises the floor.
    fn prune(&mut self, arrivals: &[u64], floor: u64) {
        self.record.floor = floor;
        self.record.holes.retain(|hole| hole.to > floor);
        let pruned = arrivals.iter().copied().map(Arrival).collect();
        self.append(WriteSet { pruned, ..WriteSet::default() });
    }

    fn append(&mut self, set: WriteSet) {
        let logs = vec![self.record.clone()];
        self.store.append(WriteSet { logs, ..set }).unwrap();
        self.store.sync().unwrap();
    }

    /// Reads what is new. How many batches were read by then, and whether others cannot be any more.
    fn look(&mut self) -> (usize, bool) {
        self.tail.read(&self.store.reader(), &|topic| topic.as_str() == TOPIC, |_, _| self.read += 1).unwrap();
        (self.read, self.tail.is_partial())
    }

    /// The same, of so many batches at most.
    fn look_once(&mut self, max: usize) -> (usize, bool) {
        let topics = |topic: &Topic| topic.as_str() == TOPIC;
        self.tail.read_next(&self.store.reader(), &topics, max, |_, _| self.read += 1).unwrap();
        (self.read, self.tail.is_partial())
    }

    fn miss(&mut self, from: u64, to: u64) {
        let anchor = BatchHash([9; 32]);
        self.record.holes.push(Hole { from, to, anchor });
    }
}

#[test]
fn what_is_pruned_after_it_was_read_is_no_loss() {
    let mut watched = Watched::new();
    watched.store(1..=6);
    assert_eq!(watched.look(), (6, false));
    watched.prune(&[1, 2, 3, 4], 4);
    assert_eq!(watched.look(), (6, false));
    watched.store([7]);
    watched.prune(&[5, 6], 6);
    assert_eq!(watched.look(), (7, false));
    watched.prune(&[7], 7);
    assert_eq!((watched.look(), watched.look()), ((7, false), (7, false)));
}

#[test]
fn what_is_pruned_before_it_is_read_is_told_wherever_it_was() {
    // The beginning, all there is, what came since, the last batch, and what is between two others.
    for (read, then, pruned, all) in [
        (0, 6, vec![1, 2], 4),
        (0, 6, vec![1, 2, 3, 4, 5, 6], 0),
        (2, 6, vec![1, 2, 3, 4], 4),
        (2, 6, vec![1, 2, 3], 5),
        (2, 6, vec![1, 2, 3, 4, 5, 6], 2),
        (5, 6, vec![1, 2, 3, 4, 5, 6], 5),
    ] {
        let mut watched = Watched::new();
        watched.store(1..=read);
        assert_eq!(watched.look(), (read, false));
        watched.store(read + 1..=then);
        watched.prune(&pruned, pruned.len() as u64);
        assert_eq!(watched.look(), (all, true), "{read} read, {pruned:?} pruned");
        watched.store([then + 1]);
        assert_eq!(watched.look(), (all + 1, true), "it stays so");
    }
}

#[test]
fn what_is_pruned_between_two_reads_of_one_look_is_told() {
    let mut watched = Watched::new();
    watched.store(1..=9);
    assert_eq!(watched.look_once(3), (3, false));
    watched.prune(&[1, 2, 3, 4, 5], 5);
    assert_eq!(watched.look(), (7, true));

    let mut watched = Watched::new();
    watched.store(1..=9);
    assert_eq!(watched.look_once(3), (3, false));
    watched.prune(&[1, 2, 3], 3);
    assert_eq!(watched.look(), (9, false));
}

#[test]
fn what_is_missing_is_told_once_a_floor_has_passed_it_though_nothing_was_written_there() {
    let mut watched = Watched::new();
    watched.miss(4, 5);
    watched.store([1, 2, 3, 6, 7]);
    assert_eq!((watched.look(), watched.look()), ((5, false), (5, false)));
    watched.prune(&[1, 2, 3], 3);
    assert_eq!(watched.look(), (5, false));
    watched.prune(&[4], 6);
    assert_eq!(watched.look(), (5, true));
}

#[test]
fn what_fills_a_hole_is_no_loss_when_it_is_read_and_one_when_it_was_pruned_before() {
    for is_read in [true, false] {
        let mut watched = Watched::new();
        watched.miss(2, 5);
        watched.store([1, 6, 7]);
        assert_eq!(watched.look(), (3, false));
        watched.store([3, 2]);
        assert_eq!(watched.look(), (5, false));
        watched.store([4, 5]);
        if is_read {
            assert_eq!(watched.look(), (7, false));
        }
        watched.prune(&[1, 2, 4, 5, 6, 7], 6);
        assert_eq!(watched.look(), (if is_read { 7 } else { 5 }, !is_read));
    }
}

#[test]
fn what_stays_below_a_floor_is_still_to_be_read() {
    let mut watched = Watched::new();
    watched.miss(2, 2);
    watched.store([1, 3]);
    assert_eq!(watched.look(), (2, false));
    // The last event of its key arrives, and what is above it goes.
    watched.store([2, 4]);
    watched.prune(&[1, 2], 3);
    assert_eq!(watched.look_once(0), (2, false));
    assert_eq!(watched.look(), (4, false));
}
