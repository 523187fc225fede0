//! A replica among peers that say anything at all, in any order, over a disk that is slow and a power that fails.
//!
//! The bytes are a script. The driver around the replica is as honest as the node's: frames are encoded and decoded,
//! batches parsed, look-ups answered at once, writes reported in order. Everything else is up to the script.

mod disk;
mod driver;

use std::collections::BTreeMap;

use roundelay_protocol::batch::{Link, ParsedBatch, VerifiedBatch, seal};
use roundelay_protocol::event::{EncodedEvent, Event};
use roundelay_protocol::frame::{Frame, Head, Hello, Memory, Missing, Position, Range};
use roundelay_protocol::heads::{LogKey, Sum};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::limits::MAX_TIPS;
use roundelay_protocol::replica::{Input, Source};
use roundelay_protocol::rules::{Rule, Rules};
use roundelay_protocol::topic::{Pattern, Topic};

use super::script::Script;
use super::stand_in::{AnySignature, Stamp};
use driver::Driver;

/// Inputs of one script.
const MAX_STEPS: usize = 400;
/// Batches that a script can speak of.
const MAX_POOL: usize = 128;
/// The node's own number among the authors.
const ME: u8 = 1;
const AUTHORS: [u8; 5] = [2, 3, 4, 5, ME];
const PEERS: [u8; 3] = [2, 3, 4];
const TOPICS: [&str; 4] = ["a", "a.b", "c", "_mesh"];
const PATTERNS: [&[&str]; 5] = [&[">"], &["a"], &["a.>", "c"], &[], &["*"]];

/// Any bytes as the story of a replica.
pub fn replica(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let cap_bytes = [1 << 30, 4_000, 1_200][script.below(3)];
    let (interest, rules) = interest(&mut script);
    let mut story = Story { driver: Driver::new(cap_bytes, interest, rules), pool: Vec::new(), next_id: 0 };
    for _ in 0..MAX_STEPS {
        if script.is_empty() {
            break;
        }
        story.step(&mut script);
    }
    story.driver.finish();
}

struct Story {
    driver: Driver,
    pool: Vec<VerifiedBatch>,
    next_id: u64,
}

impl Story {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(24) {
            0..=3 => self.make_batch(script),
            4..=8 => self.bring_batch(script),
            9..=14 => self.say(script),
            15 => self.driver.link_up(author(script, &PEERS)),
            16 => self.driver.link_down(author(script, &PEERS)),
            17 | 18 => self.driver.sync(1 + script.below(4)),
            19 => self.publish(script),
            20 => {
                const STEPS_MS: [u64; 8] = [1, 30, 250, 500, 3_000, 15_000, 61_000, 600_000];
                let wall_ms = [0, 0, 0, 0, 90_000_000_000, u64::MAX / 2, u64::MAX, 1][script.below(8)];
                self.driver.pass(*script.choose(&STEPS_MS), wall_ms);
            }
            21 => match script.below(4) {
                0 => self.driver.take(Input::Probe { id: 1 << 40 | script.below(16) as u64 }),
                1 => self.driver.take(Input::Cancel { id: script.number() }),
                2 => self.driver.take(Input::SetMarks(vec![(vec![b'x', script.byte()], Some(vec![1]))])),
                _ => self.driver.take(Input::Drained { peer: author(script, &PEERS) }),
            },
            22 => match script.below(8) {
                0 => self.driver.restart(),
                1 | 2 => {
                    let (interest, rules) = interest(script);
                    self.driver.set_interest(interest, rules);
                }
                _ => self.driver.served(),
            },
            _ => self.flood(script),
        }
    }

    /// Some author signs something: on top of another batch, or on top of nothing, with any number it likes.
    fn make_batch(&mut self, script: &mut Script<'_>) {
        let signer = Stamp(author(script, &AUTHORS));
        let topic = topic(script);
        let on: Vec<_> = self
            .pool
            .iter()
            .filter(|batch| batch.header().author == signer.0 && batch.header().topic == topic)
            .collect();
        let (mut link, mut hlc) = match on.len() {
            0 => (Link::default(), 1 << 40),
            len => {
                let below = on[len - 1 - script.below(len.min(4))];
                let tip = below.tip();
                (Link { seq: tip.seq, parent: tip.hash }, tip.hlc.0 + 1)
            }
        };
        match script.byte() {
            0..=159 => {}
            160..=175 => link = Link::default(),
            176..=191 => link = Link { seq: script.number().max(1), parent: BatchHash([script.byte() | 1; 32]) },
            192..=207 => link.seq = script.number(),
            208..=223 => hlc = script.number() << 33,
            // A gap: its parent is one that nobody has.
            _ => {
                link = Link {
                    seq: link.seq.saturating_add(script.number()).saturating_add(1),
                    parent: BatchHash([script.byte() | 1; 32]),
                }
            }
        }
        if self.pool.len() >= MAX_POOL || link.seq > 1 << 50 || hlc > Hlc::CEILING.0 {
            return;
        }
        let events: Vec<EncodedEvent> = (0..1 + script.below(3)).map(|index| event(index, script.byte())).collect();
        let incarnation = Incarnation(script.below(3) as u64);
        let sealed = seal(&signer, &topic, incarnation, link, Hlc(hlc), &events);
        if let Ok(parsed) = ParsedBatch::parse(sealed.bytes().clone()) {
            self.pool.push(parsed.verify(&AnySignature).expect("any signature will do"));
        }
    }

    fn bring_batch(&mut self, script: &mut Script<'_>) {
        let Some(batch) = self.batch(script) else { return };
        let peer = author(script, &PEERS);
        let source = match script.below(8) {
            0 => Source::Import,
            1..=3 => Source::Gossip(peer),
            _ => Source::Pull { peer, id: script.below(8) as u64 },
        };
        let batch = if script.below(8) == 7 { stripped(&batch).unwrap_or(batch) } else { batch };
        self.driver.take(Input::Batch { batch, source });
    }

    fn batch(&self, script: &mut Script<'_>) -> Option<VerifiedBatch> {
        let back = script.below(self.pool.len());
        self.pool.iter().rev().nth(back).cloned()
    }

    fn publish(&mut self, script: &mut Script<'_>) {
        self.next_id += 1;
        let events = (0..1 + script.below(4)).map(|index| event(index, script.byte())).collect();
        let topic = Topic::new(["a", "a.b", "c"][script.below(3)]).expect("a topic");
        self.driver.publish(self.next_id, topic, events, script.below(3) as u32);
    }

    /// A peer says something.
    fn say(&mut self, script: &mut Script<'_>) {
        let peer = author(script, &PEERS);
        let frame = self.frame(script);
        self.driver.frame(peer, script.below(16) != 15, &frame);
    }

    fn frame(&self, script: &mut Script<'_>) -> Frame {
        match script.below(20) {
            0..=3 => Frame::Hello(self.hello(script)),
            4 => Frame::Interest(interest(script).0),
            5 => Frame::Sums {
                topics: (0..script.below(4)).map(|_| (topic(script), Sum(u128::from(script.number())))).collect(),
                last: script.bool(),
            },
            6 | 7 => Frame::Want { topics: (0..script.below(5)).map(|_| topic(script)).collect(), last: script.bool() },
            8..=11 => Frame::Heads {
                heads: (0..script.below(4)).map(|_| self.head(script)).collect(),
                upto: script.bool().then(|| self.position(script)),
                events: script.number(),
            },
            12 => Frame::Audit { sum: Sum(u128::from(script.number())), events: script.number() },
            13 => Frame::Pull {
                id: script.number(),
                max_bytes: script.number(),
                ranges: (0..script.below(4)).map(|_| self.range(script)).collect(),
            },
            14..=16 => Frame::PullEnd {
                id: script.below(32) as u64,
                served: script.number(),
                missing: (0..script.below(4)).map(|_| self.missing(script)).collect(),
            },
            17 => Frame::Hurry,
            18 => Frame::Probe(script.number()),
            _ if script.bool() => Frame::ProbeSeen(1 << 40 | script.below(16) as u64),
            _ => Frame::ProbeDone(1 << 40 | script.below(16) as u64),
        }
    }

    fn hello(&self, script: &mut Script<'_>) -> Hello {
        let memory = match script.below(4) {
            0 | 1 => None,
            // What it would know if it had listened to everything so far.
            2 => Some(Memory { position: self.driver.position(), common: self.driver.common(&Pattern::all()) }),
            _ => Some(Memory { position: self.position(script), common: [script.byte(); 8] }),
        };
        Hello {
            process: script.number(),
            nonce: script.number(),
            epoch: StoreEpoch(script.number()),
            clock_ms: match script.below(4) {
                0 => script.number() << 40,
                _ => driver::START_MS,
            },
            interest: interest(script).0,
            memory,
        }
    }

    fn position(&self, script: &mut Script<'_>) -> Position {
        match script.bool() {
            true => self.driver.position(),
            false => Position {
                epoch: StoreEpoch(script.number()),
                arrival: Arrival(script.number()),
                chain: Chain([script.byte(); 16]),
            },
        }
    }

    fn head(&self, script: &mut Script<'_>) -> Head {
        let mut tips = Vec::new();
        let mut log = LogKey { topic: topic(script), author: author(script, &AUTHORS) };
        for _ in 0..script.below(4) {
            match self.batch(script) {
                Some(batch) if script.below(4) != 0 => {
                    log = disk::log_of(&batch);
                    tips.push((batch.header().last_seq(), batch.hash()));
                }
                _ => tips.push((script.number(), BatchHash([script.byte(); 32]))),
            }
        }
        if script.below(8) != 7 {
            tips.sort();
            tips.dedup();
        }
        Head {
            log,
            floor: if script.bool() { 0 } else { script.number() },
            holes_to: if script.bool() { 0 } else { script.number() },
            tips,
        }
    }

    fn range(&self, script: &mut Script<'_>) -> Range {
        let after = script.number();
        let log = LogKey { topic: topic(script), author: author(script, &AUTHORS) };
        Range { log, after, upto: after.saturating_add(script.number()).saturating_add(1) }
    }

    /// Mostly something about a batch that somebody may be waiting for.
    fn missing(&self, script: &mut Script<'_>) -> Missing {
        let range = script.below(4) as u64;
        match self.batch(script) {
            Some(batch) if script.below(4) != 0 => {
                let to = batch.header().first_seq - 1;
                Missing { range, from: to.saturating_sub(script.below(4) as u64), to }
            }
            _ => {
                let from = script.number();
                Missing { range, from, to: from.saturating_add(script.number()) }
            }
        }
    }

    /// Much of one thing, so that limits are reached.
    fn flood(&mut self, script: &mut Script<'_>) {
        let peer = author(script, &PEERS);
        let count = 1 + script.below(256) as u64;
        match script.below(4) {
            0 => (0..count).for_each(|id| self.driver.frame(peer, true, &Frame::Probe(id))),
            1 => {
                let head = |number: u64| {
                    let (topic, mut author) = (Topic::new("a").expect("a topic"), [9; 32]);
                    author[..8].copy_from_slice(&number.to_be_bytes());
                    let tips = (1..=1 + number % MAX_TIPS as u64).map(|seq| (seq, BatchHash([5; 32]))).collect();
                    Head { log: LogKey { topic, author: Author(author) }, floor: 0, holes_to: 0, tips }
                };
                self.driver.frame(
                    peer,
                    true,
                    &Frame::Heads { heads: (0..count).map(head).collect(), upto: None, events: 1 },
                );
            }
            2 => {
                for id in 0..count.min(64) {
                    let range = self.range(script);
                    self.driver.frame(peer, true, &Frame::Pull { id, max_bytes: 1, ranges: vec![range] });
                }
            }
            _ => {
                // Far ahead of anything that is here, each without the one before.
                for number in 0..count {
                    let link = Link { seq: 10 + number * 2, parent: BatchHash([3; 32]) };
                    let topic = Topic::new("a").expect("a topic");
                    let batch = seal(
                        &Stamp(author(&mut Script::new(&[]), &AUTHORS)),
                        &topic,
                        Incarnation(1),
                        link,
                        Hlc(1 << 41),
                        &[event(0, 1)],
                    );
                    self.driver.take(Input::Batch { batch, source: Source::Pull { peer, id: 1 } });
                }
            }
        }
    }
}

fn author(script: &mut Script<'_>, among: &[u8]) -> Author {
    Author([*script.choose(among); 32])
}

fn topic(script: &mut Script<'_>) -> Topic {
    Topic::new(TOPICS[script.below(TOPICS.len())]).expect("a topic")
}

/// An interest, and the rules that its writers follow from.
fn interest(script: &mut Script<'_>) -> (Interest, Rules) {
    let patterns = script.choose(&PATTERNS).iter().map(|text| Pattern::new(text).expect("a pattern")).collect();
    let mut rules = Rules::default();
    let excluded = match script.below(8) {
        7 => vec![author(script, &AUTHORS)],
        6 => {
            let rule = Rule { writers: Some(vec![author(script, &AUTHORS)]), ..Rule::default() };
            rules.set(Pattern::all(), rule).expect("a rule");
            Vec::new()
        }
        _ => Vec::new(),
    };
    (Interest { writers: rules.writers(), ..Interest::new(patterns, excluded) }, rules)
}

fn event(index: usize, size: u8) -> EncodedEvent {
    let data = vec![index as u8; usize::from(size) * 2];
    let event =
        Event { kind: "t".into(), id: format!("{index}"), source: "s".into(), data: data.into(), ..Event::default() };
    event.encode().expect("an event within all limits")
}

/// The batch as someone sends it on who has dropped its last event.
fn stripped(batch: &VerifiedBatch) -> Option<VerifiedBatch> {
    let whole = batch.bytes();
    let body = &whole[whole.len().checked_sub(batch.header().body_len as usize)?..];
    let mut kept = BTreeMap::new();
    // Where items begin is found by reading them one by one from what is left.
    for at in 0..body.len() {
        let mut bytes = whole[..whole.len() - body.len() + at].to_vec();
        bytes.extend_from_slice(&[0x58, 32]);
        bytes.extend_from_slice(blake3::hash(&body[at..]).as_bytes());
        if let Ok(parsed) = ParsedBatch::parse(bytes.into()) {
            kept.insert(at, parsed.verify(&AnySignature).expect("any signature will do"));
            break;
        }
    }
    kept.into_values().next()
}
