//! Every list in a frame has a bound: so many are read, and with one more it is no frame.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use roundelay_protocol::frame::{Frame, Head, Hello, MAX_PAGE, MAX_RANGES, Missing, Range};
use roundelay_protocol::heads::{LogKey, MAX_HOLES, Sum};
use roundelay_protocol::ids::{Author, BatchHash, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::limits::{MAX_EXCLUDED, MAX_PATTERNS, MAX_SEQ, MAX_TIPS};
use roundelay_protocol::topic::{Pattern, Topic};

fn reads(frame: &Frame) -> bool {
    Frame::decode(&frame.encode()).is_ok()
}

#[track_caller]
fn at_most(most: usize, what: &str, make: impl Fn(usize) -> Frame) {
    assert!(reads(&make(most)), "{most} {what} are read");
    assert!(!reads(&make(most + 1)), "{} {what} are refused", most + 1);
}

fn topic(number: usize) -> Topic {
    Topic::new(&format!("t.{number}")).unwrap()
}

fn author(number: usize) -> Author {
    let mut author = [0; 32];
    author[..8].copy_from_slice(&number.to_be_bytes());
    Author(author)
}

fn head(topic_number: usize, number: usize, tips: Vec<(u64, BatchHash)>) -> Head {
    let log = LogKey { topic: topic(topic_number), author: author(number) };
    Head { log, floor: 0, holes_to: 0, tips }
}

fn heads(heads: Vec<Head>) -> Frame {
    Frame::Heads { heads, upto: None, events: 0 }
}

#[test]
fn sums_topics_and_heads_fit_a_page() {
    at_most(MAX_PAGE, "sums", |count| Frame::Sums {
        topics: (0..count).map(|number| (topic(number), Sum(1))).collect(),
        last: true,
    });
    at_most(MAX_PAGE, "topics", |count| Frame::Want { topics: (0..count).map(topic).collect(), last: true });
    at_most(MAX_PAGE, "heads of one topic", |count| heads((0..count).map(|number| head(0, number, vec![])).collect()));
    at_most(MAX_PAGE, "heads of many topics", |count| {
        heads((0..count).map(|number| head(number, 0, vec![])).collect())
    });
    at_most(MAX_PAGE, "heads of two topics", |count| {
        heads((0..count).map(|number| head(usize::from(number < count / 2), number, vec![])).collect())
    });
}

#[test]
fn a_head_has_few_tips_sorted_and_each_once_below_the_end_of_all_numbers() {
    let tip = |seq: usize| (seq as u64, BatchHash([1; 32]));
    at_most(MAX_TIPS, "tips", |count| heads(vec![head(0, 0, (1..=count).map(tip).collect())]));
    at_most(MAX_SEQ as usize, "events", |count| heads(vec![head(0, 0, vec![tip(count)])]));
    for tips in [vec![tip(2), tip(1)], vec![tip(1), tip(1)], vec![tip(0)]] {
        assert!(!reads(&heads(vec![head(0, 0, tips.clone())])), "{tips:?}");
    }
}

#[test]
fn a_pull_and_its_answer_have_as_many_parts_as_a_node_asks_for() {
    let log = LogKey { topic: topic(0), author: author(0) };
    at_most(MAX_RANGES, "ranges", |count| {
        let ranges = vec![Range { log: log.clone(), after: 0, upto: 1 }; count];
        Frame::Pull { id: 1, max_bytes: 1, ranges }
    });
    at_most(4_096, "batches", |count| Frame::Batches { id: 1, batches: vec![Bytes::new(); count] });
    at_most(MAX_RANGES * (MAX_HOLES + 2), "missing stretches", |count| {
        let missing = vec![Missing { range: 0, from: 1, to: 1 }; count];
        Frame::PullEnd { id: 1, served: 1, missing }
    });
}

#[test]
fn an_interest_names_so_many_patterns_and_authors() {
    let pattern = |number| Pattern::new(&format!("t.{number}")).unwrap();
    let patterns = |count| Interest { patterns: (0..count).map(pattern).collect(), ..Interest::default() };
    let excluded = |count| Interest { excluded: (0..count).map(author).collect(), ..Interest::default() };
    let hello = |interest| {
        Frame::Hello(Hello { process: 1, nonce: 1, epoch: StoreEpoch(1), clock_ms: 1, interest, memory: None })
    };
    at_most(MAX_PATTERNS, "patterns", |count| Frame::Interest(patterns(count)));
    at_most(MAX_PATTERNS, "patterns in a hello", |count| hello(patterns(count)));
    at_most(MAX_EXCLUDED, "excluded authors", |count| Frame::Interest(excluded(count)));
    at_most(MAX_EXCLUDED, "excluded authors in a hello", |count| hello(excluded(count)));
}
