//! Batches for the tests of the log.
#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::collections::VecDeque;
use std::path::Path;

use bytes::Bytes;
use roundelay_protocol::batch::{Link, VerifiedBatch, seal};
use roundelay_protocol::event::Event;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Author, Incarnation};
use roundelay_protocol::sign::{Ed25519Signer, Signature, Signer};
use roundelay_protocol::topic::Topic;

/// Signs for nobody, quickly.
pub struct CheapSigner(pub u8);

impl Signer for CheapSigner {
    fn author(&self) -> Author {
        Author([self.0; 32])
    }

    fn sign(&self, _message: &[u8]) -> Signature {
        Signature([self.0; 64])
    }
}

pub fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// One batch of `count` events with `bytes` of data each.
pub fn batch(signer: &impl Signer, topic: &Topic, link: Link, hlc: u64, count: usize, bytes: usize) -> VerifiedBatch {
    let event = |at: usize| Event {
        kind: "test".into(),
        id: format!("{hlc}-{at}"),
        source: "/test".into(),
        data: Bytes::from((0..bytes).map(|byte| (byte * 7 + at) as u8).collect::<Vec<_>>()),
        ..Event::default()
    };
    let events: Vec<_> = (0..count).map(|at| event(at).encode().unwrap()).collect();
    seal(signer, topic, Incarnation(1), link, Hlc(hlc), &events)
}

pub fn link(batch: &VerifiedBatch) -> Link {
    Link { seq: batch.header().last_seq(), parent: batch.hash() }
}

pub fn key_of(batch: &VerifiedBatch) -> LogKey {
    LogKey { topic: batch.header().topic.clone(), author: batch.header().author }
}

/// One signed line of a log, with its record kept as a caller of the store does.
pub struct Line {
    pub signer: Ed25519Signer,
    pub topic: Topic,
    pub link: Link,
    pub record: LogRecord,
    /// Bytes of the batches that were sealed, for those who prune them.
    pub sizes: VecDeque<u64>,
    hlc: u64,
}

impl Line {
    pub fn new(author: u8, name: &str) -> Self {
        let signer = Ed25519Signer::from_secret(&[author; 32]);
        let record = LogRecord::new(LogKey { topic: topic(name), author: signer.author() });
        Self { signer, topic: topic(name), link: Link::default(), record, sizes: VecDeque::new(), hlc: 1 << 16 }
    }

    pub fn seal_next(&mut self, count: usize, bytes: usize) -> VerifiedBatch {
        let batch = batch(&self.signer, &self.topic, self.link, self.hlc, count, bytes);
        self.hlc += 10_000;
        self.link = link(&batch);
        self.record.tips = [batch.tip()].into_iter().collect();
        self.record.events += count as u64;
        self.record.bytes += batch.bytes().len() as u64;
        self.sizes.push_back(batch.bytes().len() as u64);
        batch
    }
}

/// What is left of a store when the power goes: its files as they are.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if entry.path().exists() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
