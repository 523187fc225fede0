//! Small meshes of replicas in one thread and virtual time: whatever the network loses, and whatever their logs looked
//! like before, linked replicas end with the same events.
#![allow(clippy::unwrap_used)]

mod bounds;
mod clocks;
mod floods;
mod heartbeats;
mod hostile;
mod keyed;
mod liars;
mod lines;
mod node;
mod rules;
mod transactions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use node::{SimNode, Stamp};
use proptest::prelude::*;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::Frame;
use roundelay_protocol::ids::{Author, BatchHash};
use roundelay_protocol::replica::{Effect, Input, MissingReason, Now, Source};
use roundelay_protocol::rules::Rule;
use roundelay_protocol::sign::Signer;
use roundelay_protocol::topic::Pattern;

/// A mesh whose links deliver in order, and whose gossip may be lost.
pub(crate) struct SimMesh {
    pub(crate) nodes: Vec<SimNode>,
    links: BTreeSet<(usize, usize)>,
    next_link: u64,
    frames: BTreeMap<(usize, usize), VecDeque<Frame>>,
    pub(crate) gossip_works: bool,
    pub(crate) now_ms: u64,
    pub(crate) bytes: usize,
    pub(crate) probed: Vec<u64>,
    /// Publications, and how many peers hold them.
    pub(crate) acked: Vec<(u64, u32)>,
    /// Loses and delays gossip, and delays frames and the disk, by this seed; 0 does not.
    rough: u64,
    /// A disk was replaced by an older copy: what only it held is known to some, and gone.
    lossy_disks: bool,
    gossip: Vec<(u64, usize, Author, VerifiedBatch)>,
    seen: BTreeSet<(usize, BatchHash)>,
    prunes: bool,
}

impl SimMesh {
    pub(crate) fn new(count: usize) -> Self {
        let nodes = (0..count).map(|index| SimNode::new(index as u8 + 1, u64::MAX)).collect();
        Self::of(nodes)
    }

    pub(crate) fn of(nodes: Vec<SimNode>) -> Self {
        let prunes = nodes.iter().any(|node| node.cap_bytes < u64::MAX);
        Self {
            nodes,
            links: BTreeSet::new(),
            next_link: 1,
            frames: BTreeMap::new(),
            gossip_works: true,
            now_ms: 1_000,
            bytes: 0,
            probed: Vec::new(),
            acked: Vec::new(),
            rough: 0,
            lossy_disks: false,
            gossip: Vec::new(),
            seen: BTreeSet::new(),
            prunes,
        }
    }

    /// A number below `below` from the seed; 0 on a smooth mesh.
    fn chance(&mut self, below: u64) -> u64 {
        if self.rough == 0 {
            return 0;
        }
        // xorshift64 (Marsaglia, 2003).
        self.rough ^= self.rough << 13;
        self.rough ^= self.rough >> 7;
        self.rough ^= self.rough << 17;
        self.rough % below
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms }
    }

    fn index(&self, author: &Author) -> usize {
        self.nodes.iter().position(|node| node.author() == *author).unwrap()
    }

    pub(crate) fn link(&mut self, a: usize, b: usize) {
        if !self.links.insert((a.min(b), a.max(b))) {
            return;
        }
        self.next_link += 1;
        for (from, to) in [(a, b), (b, a)] {
            let peer = self.nodes[to].author();
            let memory = self.nodes[from].memory_of(&peer);
            self.nodes[from].link_ids.insert(peer, self.next_link);
            let nonce = self.next_link * 2 + u64::from(from < to);
            self.input(from, Input::LinkUp { peer, link: self.next_link, nonce, memory });
        }
    }

    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        if !self.links.remove(&(a.min(b), a.max(b))) {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            self.frames.remove(&(from, to));
            let peer = self.nodes[to].author();
            let link = self.nodes[from].link_ids[&peer];
            self.input(from, Input::LinkDown { peer, link });
        }
    }

    pub(crate) fn input(&mut self, index: usize, input: Input) {
        let now = self.now();
        let effects = self.nodes[index].handle(now, input);
        self.carry_out(index, effects);
    }

    fn carry_out(&mut self, index: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { peer, frame } => {
                    let bytes = frame.encode();
                    self.bytes += bytes.len();
                    let to = self.index(&peer);
                    if self.links.contains(&(index.min(to), index.max(to))) {
                        // What is sent is what is read.
                        let frame = Frame::decode(&bytes).unwrap();
                        self.frames.entry((index, to)).or_default().push_back(frame);
                    }
                }
                Effect::Gossip(batch) if self.gossip_works => {
                    self.spread(index, &batch);
                    self.deliver_gossip();
                }
                Effect::Disconnect { reason, .. } => panic!("an honest node was called a cheat: {reason}"),
                Effect::Probed { id, .. } => self.probed.push(id),
                Effect::Acked { id, peers, .. } => self.acked.push((id, peers)),
                _ => {}
            }
        }
    }

    /// Gossip: to every neighbour that may not have it yet, some of it late, some of it never.
    fn spread(&mut self, index: usize, batch: &VerifiedBatch) {
        self.seen.insert((index, batch.hash()));
        let from = self.nodes[index].author();
        let ends = self.links.iter().filter_map(|&(a, b)| [(a, b), (b, a)].into_iter().find(|(x, _)| *x == index));
        let peers: Vec<usize> = ends.map(|(_, to)| to).collect();
        for to in peers {
            if self.chance(5) < 4 {
                let at_ms = self.now_ms + self.chance(400);
                self.gossip.push((at_ms, to, from, batch.clone()));
            }
        }
    }

    fn deliver_gossip(&mut self) {
        let now_ms = self.now_ms;
        let (due, later) = std::mem::take(&mut self.gossip).into_iter().partition(|(at_ms, ..)| *at_ms <= now_ms);
        self.gossip = later;
        let due: Vec<(u64, usize, Author, VerifiedBatch)> = due;
        for (_, to, from, batch) in due {
            if self.seen.contains(&(to, batch.hash())) {
                continue;
            }
            // What is valid is passed on before it is durable.
            self.spread(to, &batch);
            self.input(to, Input::Batch { batch, source: Source::Gossip(from) });
        }
    }

    /// Lets time pass until nothing moves any more, or for so long.
    pub(crate) fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms {
            self.now_ms += 10;
            self.deliver_gossip();
            for index in 0..self.nodes.len() {
                let now = self.now();
                if self.chance(4) == 0 {
                    let effects = self.nodes[index].sync(now);
                    self.carry_out(index, effects);
                }
                self.input(index, Input::Tick);
            }
            let ways: Vec<_> = self.frames.keys().copied().collect();
            for (from, to) in ways {
                let frames = 64 >> self.chance(8);
                for _ in 0..frames {
                    let Some(frame) = self.frames.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { break };
                    let peer = self.nodes[from].author();
                    let now = self.now();
                    let effects = self.nodes[to].frame(now, peer, frame);
                    self.carry_out(to, effects);
                }
                let (sender, peer) = (from, self.nodes[to].author());
                self.input(sender, Input::Drained { peer });
            }
        }
        self.assert_no_holes();
    }

    /// Where nothing is ever pruned nothing may be given up.
    fn assert_no_holes(&self) {
        for node in self.nodes.iter().filter(|_| !self.prunes) {
            let missing = node.replica.missing();
            assert!(missing.iter().all(|range| range.reason == MissingReason::NotFetched), "{missing:?}");
        }
    }

    pub(crate) fn publish(&mut self, index: usize, topic: &str, count: usize) {
        let now = self.now();
        let effects = self.nodes[index].publish(now, topic, count);
        self.carry_out(index, effects);
    }

    pub(crate) fn publish_keys(&mut self, index: usize, topic: &str, keys: &[&str]) {
        let now = self.now();
        let keys: Vec<_> = keys.iter().map(|key| (!key.is_empty()).then(|| (*key).to_owned())).collect();
        let effects = self.nodes[index].publish_keys(now, topic, &keys);
        self.carry_out(index, effects);
    }

    pub(crate) fn set_rule(&mut self, index: usize, pattern: &str, rule: Option<Rule>) {
        let (pattern, rules) = (Pattern::new(pattern).unwrap(), &mut self.nodes[index].rules);
        self.prunes |= rule.as_ref().is_some_and(|rule| rule.expires() || rule.keyed);
        match rule {
            Some(rule) => rules.set(pattern, rule).unwrap(),
            None => drop(rules.unset(&pattern)),
        }
        let rules = rules.clone();
        self.input(index, Input::SetRules(rules));
    }

    /// Lets only the nodes of these numbers write to a topic.
    fn set_writers(&mut self, index: usize, topic: &str, writers: Option<Vec<u8>>) {
        let writers = writers.map(|numbers| numbers.into_iter().map(|number| Stamp::of(number).author()).collect());
        let rule = writers.map(|writers| Rule { writers: Some(writers), ..Rule::default() });
        self.set_rule(index, topic, rule);
    }

    pub(crate) fn assert_converged(&self) {
        let first = self.nodes[0].contents();
        for node in &self.nodes[1..] {
            same(&node.contents(), &first);
            assert_eq!(node.digests(), self.nodes[0].digests());
        }
        for node in &self.nodes {
            let missing = node.replica.missing();
            assert!(self.lossy_disks || missing.is_empty(), "{missing:?}");
            for link in node.replica.links() {
                assert!(link.in_sync, "{link:?}");
                assert_eq!((link.behind, link.ahead), (0, 0));
            }
        }
    }
}

/// Equality that does not print thousands of events when it fails.
fn same<T: Ord + std::fmt::Debug>(one: &BTreeSet<T>, other: &BTreeSet<T>) {
    let first = one.symmetric_difference(other).next();
    assert!(first.is_none(), "{} and {} events; the first that differs: {first:?}", one.len(), other.len());
}

#[test]
fn what_is_published_reaches_everyone_without_gossip() {
    let mut mesh = SimMesh::new(3);
    mesh.gossip_works = false;
    mesh.link(0, 1);
    mesh.link(1, 2);
    mesh.publish(0, "a", 5);
    mesh.publish(2, "b", 300);
    mesh.run(5_000);
    assert_eq!(mesh.nodes[1].contents().len(), 305);
    mesh.assert_converged();
}

#[test]
fn an_old_copy_that_goes_on_makes_a_second_tip_and_nothing_is_lost() {
    let mut mesh = SimMesh::new(3);
    mesh.link(0, 1);
    mesh.link(1, 2);
    mesh.publish(0, "a", 50);
    mesh.run(2_000);
    let old = mesh.nodes[0].copy_disk();
    for _ in 0..200 {
        mesh.publish(0, "a", 1);
        mesh.run(10);
    }
    mesh.run(2_000);
    mesh.cut(0, 1);
    mesh.nodes[0].restore(old);
    mesh.publish(0, "a", 7);
    mesh.run(1_000);
    mesh.link(0, 1);
    mesh.run(20_000);
    assert_eq!(mesh.nodes[2].contents().len(), 257);
    mesh.assert_converged();
    mesh.publish(0, "a", 3);
    mesh.run(20_000);
    assert_eq!(mesh.nodes[2].contents().len(), 260);
    mesh.assert_converged();
}

#[test]
fn peers_that_met_before_exchange_only_what_changed() {
    let mut mesh = SimMesh::new(2);
    mesh.link(0, 1);
    for topic in 0..10_000 {
        mesh.publish(0, &format!("t{topic}"), 1);
        if topic % 500 == 0 {
            mesh.run(50);
        }
    }
    mesh.run(30_000);
    mesh.assert_converged();
    mesh.cut(0, 1);
    mesh.run(1_000);
    for topic in 0..10 {
        mesh.publish(0, &format!("t{}", topic * 997), 1);
        mesh.run(50);
    }
    let (before, pulled) = (mesh.bytes, mesh.nodes[0].served_bytes);
    mesh.link(0, 1);
    while mesh.nodes[1].contents().len() < 10_010 {
        mesh.run(10);
    }
    let spent = mesh.bytes - before - (mesh.nodes[0].served_bytes - pulled);
    println!("ten changed logs among 10,000 cost {spent} bytes beside the events");
    assert!(spent < 2_048, "{spent}");
    mesh.run(3_000);
    mesh.assert_converged();
}

#[test]
fn an_audit_in_sync_is_small() {
    let mut mesh = SimMesh::new(2);
    mesh.link(0, 1);
    mesh.publish(0, "a", 10);
    mesh.run(20_000);
    let before = mesh.bytes;
    mesh.run(120_000);
    let spent = mesh.bytes - before;
    println!("{spent} bytes in two quiet minutes, both ways");
    assert!(spent <= 64 * 2 * 11, "{spent}");
}

#[test]
fn what_a_full_store_pruned_is_a_hole_for_a_newcomer_and_the_rest_converges() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, 20_000), SimNode::new(3, u64::MAX)]);
    mesh.link(0, 1);
    for _ in 0..100 {
        mesh.publish(0, "a", 5);
        mesh.run(20);
    }
    mesh.run(20_000);
    mesh.cut(0, 1);
    let kept = mesh.nodes[1].contents().len();
    assert!(kept < 500, "{kept}");
    mesh.link(1, 2);
    mesh.run(20_000);
    same(&mesh.nodes[2].contents(), &mesh.nodes[1].contents());
    assert_eq!(mesh.nodes[2].digests(), mesh.nodes[0].digests());
    assert_eq!(mesh.nodes[2].replica.missing().len(), 1);
    // Whoever still has it fills the hole.
    mesh.link(0, 2);
    mesh.run(20_000);
    same(&mesh.nodes[2].contents(), &mesh.nodes[0].contents());
    assert!(mesh.nodes[2].replica.missing().is_empty());
}

#[test]
fn own_events_that_nobody_has_are_kept_and_publishing_is_refused() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, 20_000), SimNode::new(2, u64::MAX)]);
    for _ in 0..100 {
        mesh.publish(0, "a", 5);
        mesh.run(20);
    }
    let stored = mesh.nodes[0].contents().len();
    assert!(mesh.nodes[0].refused > 0);
    assert_eq!(stored + mesh.nodes[0].refused * 5, 500);
    // Once a peer has them there is room again.
    mesh.link(0, 1);
    mesh.run(20_000);
    let refused = mesh.nodes[0].refused;
    mesh.publish(0, "a", 5);
    mesh.run(2_000);
    assert_eq!(mesh.nodes[0].refused, refused);
    assert_eq!(mesh.nodes[1].contents().len(), stored + 5);
}

#[test]
fn topics_that_are_not_subscribed_stay_away() {
    let mut mesh = SimMesh::new(3);
    let now = mesh.now();
    mesh.nodes[1].subscribe(now, &["a.*"]);
    mesh.link(0, 1);
    mesh.link(1, 2);
    mesh.publish(0, "a.x", 5);
    mesh.publish(0, "b", 5);
    mesh.run(5_000);
    assert_eq!(mesh.nodes[1].contents().len(), 5);
    let now = mesh.now();
    let effects = mesh.nodes[1].subscribe(now, &["a.*", "b"]);
    mesh.carry_out(1, effects);
    mesh.run(10_000);
    mesh.assert_converged();
}

#[test]
fn a_probe_is_answered_when_both_sides_cover_what_was_there() {
    let mut mesh = SimMesh::new(2);
    mesh.publish(0, "a", 500);
    mesh.publish(1, "a", 500);
    mesh.run(1_000);
    mesh.link(0, 1);
    mesh.input(0, Input::Probe { id: 1 });
    assert!(mesh.probed.is_empty());
    mesh.run(5_000);
    assert_eq!(mesh.probed, [1]);
    mesh.assert_converged();
}

#[test]
fn twins_are_noticed_by_both() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, u64::MAX)]);
    mesh.link(0, 1);
    mesh.publish(0, "a", 3);
    mesh.run(1_000);
    let mut twin = SimMesh::new(1);
    twin.nodes[0].restore(mesh.nodes[0].copy_disk());
    twin.now_ms = mesh.now_ms + 100;
    twin.publish(0, "a", 1);
    twin.run(100);
    for batch in twin.nodes[0].batches() {
        mesh.input(0, Input::Batch { batch, source: Source::Import });
    }
    assert!(mesh.nodes[0].replica.twin().is_some());
}

#[test]
fn what_a_replaced_disk_held_is_no_twin_though_its_clock_was_ahead() {
    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
    let mut mesh = SimMesh::of(vec![SimNode::new(1, u64::MAX), SimNode::new(2, u64::MAX)]);
    mesh.link(0, 1);
    mesh.publish(0, "a", 3);
    mesh.run(1_000);
    let mut replaced = SimMesh::new(1);
    replaced.nodes[0].restore(mesh.nodes[0].copy_disk());
    replaced.now_ms = mesh.now_ms + YEAR_MS;
    replaced.publish(0, "a", 1);
    replaced.run(100);
    for batch in replaced.nodes[0].batches() {
        mesh.input(0, Input::Batch { batch, source: Source::Import });
    }
    mesh.run(1_000);
    assert_eq!(mesh.nodes[0].replica.logs().map(|log| log.tips.len()).max(), Some(1));
    assert_eq!(mesh.nodes[0].replica.twin(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        node: usize,
        topic: usize,
        count: usize,
    },
    Link(usize, usize),
    Cut(usize, usize),
    Gossip(bool),
    Run(u64),
    Copy(usize),
    Restore(usize),
    Restart(usize),
    /// A node lets only these write to a topic; nobody in particular: everybody.
    Writers(usize, usize, Option<Vec<u8>>),
}

fn step(nodes: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..nodes, 0..3usize, 1..40usize).prop_map(|(node, topic, count)| Step::Publish { node, topic, count }),
        3 => (0..nodes, 0..nodes).prop_map(|(a, b)| Step::Link(a, b)),
        2 => (0..nodes, 0..nodes).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => any::<bool>().prop_map(Step::Gossip),
        4 => (10..2_000u64).prop_map(Step::Run),
        1 => (0..nodes).prop_map(Step::Copy),
        1 => (0..nodes).prop_map(Step::Restore),
        1 => (0..nodes).prop_map(Step::Restart),
        1 => (0..nodes, 0..3usize, prop::option::of(prop::collection::vec(1..=nodes as u8, 0..3)))
            .prop_map(|(node, topic, writers)| Step::Writers(node, topic, writers)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn any_history_converges_once_all_are_linked(steps in prop::collection::vec(step(4), 1..60), rough in any::<u64>()) {
        let mut mesh = SimMesh::new(4);
        mesh.rough = rough;
        let mut copies = BTreeMap::new();
        for step in steps {
            match step {
                Step::Publish { node, topic, count } => mesh.publish(node, &format!("t{topic}"), count),
                Step::Link(a, b) if a != b => mesh.link(a, b),
                Step::Cut(a, b) if a != b => mesh.cut(a, b),
                Step::Link(..) | Step::Cut(..) => {}
                Step::Gossip(works) => mesh.gossip_works = works,
                Step::Run(ms) => mesh.run(ms),
                Step::Writers(node, topic, writers) => mesh.set_writers(node, &format!("t{topic}"), writers),
                Step::Copy(node) => { copies.insert(node, mesh.nodes[node].copy_disk()); }
                Step::Restart(node) => {
                    for other in 0..4 { if other != node { mesh.cut(node, other); } }
                    let disk = mesh.nodes[node].copy_disk();
                    mesh.nodes[node].restore(disk);
                }
                Step::Restore(node) => if let Some(disk) = copies.remove(&node) {
                    mesh.lossy_disks = true;
                    for other in 0..4 { if other != node { mesh.cut(node, other); } }
                    mesh.nodes[node].restore(disk);
                }
            }
        }
        for (node, topic) in (0..4).flat_map(|node| (0..3).map(move |topic| (node, topic))) {
            mesh.set_writers(node, &format!("t{topic}"), None);
        }
        // Acknowledged events that only a restored-over disk held are gone with it; all else must be everywhere.
        let mut all = BTreeSet::new();
        for node in &mesh.nodes { all.extend(node.contents()); }
        for (a, b) in [(0, 1), (1, 2), (2, 3)] { mesh.link(a, b); }
        mesh.run(60_000);
        mesh.assert_converged();
        prop_assert!(all.is_subset(&mesh.nodes[0].contents()));
    }
}

#[test]
fn what_a_peer_does_not_have_yet_is_waited_for_and_not_given_up() {
    for seed in 1..20 {
        let mut mesh = SimMesh::new(4);
        mesh.rough = seed * 0x9e37_79b9;
        for (a, b) in [(0, 1), (1, 2), (2, 3)] {
            mesh.link(a, b);
        }
        mesh.publish(0, "a", 1);
        mesh.run(3_000);
        for _ in 0..100 {
            mesh.publish(0, "a", 1);
            mesh.run(20);
        }
        mesh.run(20_000);
        mesh.assert_converged();
    }
}
