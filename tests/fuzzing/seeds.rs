//! Makes the seeds that no text editor can: run it after a format has changed, with
//! `cargo test --test fuzzing -- --ignored seeds`.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use roundelay_protocol::batch::{Link, VerifiedBatch, seal};
use roundelay_protocol::codec::Writer;
use roundelay_protocol::event::{Event, Value};
use roundelay_protocol::frame::{Frame, Head, Hello, Memory, Missing, Position, Range};
use roundelay_protocol::heads::{LogKey, Sum};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::rules::{Rule, Rules, Writers};
use roundelay_protocol::sign::Ed25519Signer;
use roundelay_protocol::topic::{Pattern, Topic};

#[test]
#[ignore = "writes seeds of batches, frames and stores to fuzz/seeds"]
fn seeds_are_written() {
    let sealed = [batch(1, Link::default()), batch(3, Link { seq: 4, parent: BatchHash([2; 32]) })];
    for (number, batch) in sealed.iter().enumerate() {
        write("batch", &format!("sealed-{number}"), batch.bytes());
        let body = &batch.bytes()[batch.bytes().len() - batch.header().body_len as usize..];
        let choices = [batch.header().count as u8 - 1, 1, 4, 0, 0, 0, 0, 0];
        write("batch", &format!("body-{number}"), &[&choices, body].concat());
    }
    for (name, frame) in frames(&sealed) {
        write("frame", name, &frame.encode());
    }
    for (name, key, value) in store_entries() {
        write("store", name, &[&[key.len() as u8], &key[..], &value].concat());
        let lengths = [(key.len() as u32).to_be_bytes(), (value.len() as u32).to_be_bytes()].concat();
        let removed = [&[0][..], &(key.len() as u32).to_be_bytes(), &[0; 4], &key].concat();
        write("store", &format!("backup-{name}"), &[&[1][..], &lengths, &key, &value, &removed, &[2]].concat());
    }
}

/// Entries of a store as ARCHITECTURE.md draws them.
fn store_entries() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let (arrival, log) = (7u64.to_be_bytes(), 3u32.to_be_bytes());
    let mut record = Writer::new();
    record.array(10).text("a.b").bytes(&[7; 32]).array(1).array(3).uint(9).bytes(&[1; 32]).uint(1 << 40);
    record.uint(2).uint(1 << 39).array(1).array(3).uint(3).uint(5).bytes(&[2; 32]);
    record.uint(0).uint(7).uint(4).uint(900);
    let pruned = [&[4; 16][..], &900u64.to_be_bytes()].concat();
    let row = [&pruned[..], &log, &5u32.to_be_bytes(), b"batch"].concat();
    vec![
        ("store", b"f".to_vec(), [&[1][..], &arrival, &[0; 16]].concat()),
        ("pruned", [b"a", &arrival[..]].concat(), pruned),
        ("row", [b"a", &arrival[..]].concat(), row),
        ("index", [b"i", &log[..], &arrival, &[9; 32]].concat(), [&[0; 24][..], &5u32.to_be_bytes()].concat()),
        ("record", [b"l", &log[..]].concat(), record.finish()),
    ]
}

fn write(entry: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(entry);
    fs::create_dir_all(&folder).expect("the folder of the seeds");
    fs::write(folder.join(name), bytes).expect("a seed is written");
}

fn batch(count: usize, link: Link) -> VerifiedBatch {
    let event = |index: usize| Event {
        kind: "order.placed".into(),
        id: format!("id-{index}"),
        source: "/shop".into(),
        subject: (index == 1).then(|| "cart".into()),
        key: (index == 1).then(|| "customer-7".into()),
        content_type: (index == 2).then(|| "application/json".into()),
        causes: vec!["cause".into(); index],
        correlation: (index == 2).then(|| "process".into()),
        extensions: vec![
            ("a".into(), Value::Bool(true)),
            ("b".into(), Value::Int(-300)),
            ("c".into(), Value::Text("text".into())),
            ("d".into(), Value::Bytes(vec![0, 255])),
        ],
        data: Bytes::from_static(b"{\"total\": 9.5}"),
    };
    let events: Vec<_> = (0..count).map(|index| event(index).encode().expect("an event")).collect();
    let signer = Ed25519Signer::from_secret(&[7; 32]);
    seal(&signer, &Topic::new("orders.placed").expect("a topic"), Incarnation(9), link, Hlc(1 << 40), &events)
}

fn writers() -> Writers {
    let mut rules = Rules::default();
    let rule = |writers: Option<Vec<Author>>| Rule { writers, ..Rule::default() };
    rules.set(Pattern::new("orders.>").expect("a pattern"), rule(Some(vec![Author([7; 32])]))).expect("a rule");
    rules.set(Pattern::new("orders.free").expect("a pattern"), rule(None)).expect("a rule");
    rules.writers()
}

fn frames(batches: &[VerifiedBatch]) -> Vec<(&'static str, Frame)> {
    let topic = || Topic::new("orders.placed").expect("a topic");
    let log = LogKey { topic: topic(), author: Author([7; 32]) };
    let position = Position { epoch: StoreEpoch(7), arrival: Arrival(300), chain: Chain([5; 16]) };
    let patterns = [">", "orders.*", "a.b"].map(|text| Pattern::new(text).expect("a pattern")).to_vec();
    let interest = Interest::new(patterns, vec![Author([1; 32])]);
    let hello = Hello {
        process: 1,
        nonce: u64::MAX,
        epoch: StoreEpoch(7),
        clock_ms: 1_700_000_000_000,
        interest: interest.clone(),
        memory: None,
    };
    let remembering = Hello { memory: Some(Memory { position, common: [8; 8] }), ..hello.clone() };
    let head = |tips: &[u64]| Head {
        log: log.clone(),
        floor: 2,
        holes_to: 3,
        tips: tips.iter().map(|seq| (*seq, BatchHash([3; 32]))).collect(),
    };
    vec![
        ("hello", Frame::Hello(hello)),
        ("hello-memory", Frame::Hello(remembering)),
        ("interest", Frame::Interest(interest.clone())),
        ("interest-writers", Frame::Interest(Interest { writers: writers(), ..interest })),
        ("sums", Frame::Sums { topics: vec![(topic(), Sum(1 << 100)), (topic(), Sum(0))], last: true }),
        ("want", Frame::Want { topics: vec![topic(); 3], last: false }),
        ("heads", Frame::Heads { heads: vec![head(&[4]), head(&[4, 9, 1000])], upto: Some(position), events: 13 }),
        ("heads-page", Frame::Heads { heads: vec![head(&[])], upto: None, events: 0 }),
        ("audit", Frame::Audit { sum: Sum(u128::MAX), events: 5 }),
        ("pull", Frame::Pull { id: 1, max_bytes: 1 << 20, ranges: vec![Range { log, after: 4, upto: 1000 }] }),
        ("batches", Frame::Batches { id: 1, batches: batches.iter().map(|batch| batch.bytes().clone()).collect() }),
        ("pull-end", Frame::PullEnd { id: 1, served: 1, missing: vec![Missing { range: 0, from: 5, to: 70_000 }] }),
        ("hurry", Frame::Hurry),
        ("probe", Frame::Probe(1 << 40)),
        ("probe-seen", Frame::ProbeSeen(3)),
        ("probe-done", Frame::ProbeDone(u64::MAX)),
    ]
}
