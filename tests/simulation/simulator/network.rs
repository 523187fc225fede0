//! The network: links carry frames in order until they break; gossip is lost, repeated and late.

use std::collections::{BTreeMap, BTreeSet};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::Frame;
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::replica::{Input, Source};

use super::world::{Event, World};

/// What happens to bytes in one direction between two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Links break, and none is made.
    Cut,
    /// Frames wait and gossip is lost, and nobody is told; after a while the link is given up.
    Stuck,
}

/// A link that is up, by its smaller and its greater machine.
pub(super) struct Link {
    pub(super) id: u64,
    /// When the last frame of each direction arrives: they stay in order.
    last_at_ms: [u64; 2],
    held: [Vec<Packet>; 2],
}

/// A frame under way, with what the checker wants to know about it.
pub(super) struct Packet {
    pub(super) frame: Frame,
    /// For an audit: what the sender has in common with the receiver.
    pub(super) told: Option<Vec<LogRecord>>,
}

#[derive(Default)]
pub(super) struct Network {
    pub(super) pairs: BTreeSet<(usize, usize)>,
    links: BTreeMap<(usize, usize), Link>,
    ways: BTreeMap<(usize, usize), Way>,
    dialling: BTreeSet<(usize, usize)>,
    last_link: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn side(from: usize, to: usize) -> usize {
    usize::from(from > to)
}

impl Network {
    pub(super) fn way(&self, from: usize, to: usize) -> Option<Way> {
        self.ways.get(&(from, to)).copied()
    }

    pub(super) fn is_linked(&self, a: usize, b: usize, id: u64) -> bool {
        self.links.get(&pair(a, b)).is_some_and(|link| link.id == id)
    }

    fn linked_to(&self, machine: usize) -> Vec<usize> {
        let ends = self.links.keys().filter(|(a, b)| *a == machine || *b == machine);
        ends.map(|(a, b)| if *a == machine { *b } else { *a }).collect()
    }
}

impl World<'_> {
    /// Dials a pair that should be linked, some time from now.
    pub(super) fn dial_later(&mut self, a: usize, b: usize, from_ms: u64, to_ms: u64) {
        let (a, b) = pair(a, b);
        if self.network.pairs.contains(&(a, b)) && self.network.dialling.insert((a, b)) {
            let at_ms = self.now_ms + self.between(from_ms..to_ms);
            self.at(at_ms, Event::Dial(a, b));
        }
    }

    pub(super) fn dial(&mut self, a: usize, b: usize) {
        self.network.dialling.remove(&(a, b));
        if self.machines[a].gone || self.machines[b].gone || self.network.links.contains_key(&(a, b)) {
            return;
        }
        if !self.may_link(a, b) {
            return self.dial_later(a, b, 300, 1_500);
        }
        self.network.last_link += 1;
        let id = self.network.last_link;
        let link = Link { id, last_at_ms: [0; 2], held: [Vec::new(), Vec::new()] };
        self.network.links.insert((a, b), link);
        for (from, to) in [(a, b), (b, a)] {
            let peer = self.machines[to].author();
            let memory = self.machines[from].memory_of(&peer);
            let nonce = self.random();
            if let Some(process) = &mut self.machines[from].process {
                process.links.insert(peer, (id, to));
            }
            self.feed(from, Input::LinkUp { peer, link: id, nonce, memory });
        }
    }

    fn may_link(&self, a: usize, b: usize) -> bool {
        let open = |from, to| self.network.way(from, to).is_none();
        let (one, other) = (&self.machines[a], &self.machines[b]);
        // Where two processes have one identity, a peer is linked to one of them.
        let free = |from: usize, to: usize| {
            let (process, peer) = (self.machines[from].process.as_ref(), self.machines[to].author());
            process.is_some_and(|process| process.links.get(&peer).is_none_or(|(_, machine)| *machine == to))
        };
        let welcome = !one.interest.excludes(&other.author()) && !other.interest.excludes(&one.author());
        open(a, b) && open(b, a) && one.author() != other.author() && free(a, b) && free(b, a) && welcome
    }

    /// Breaks a link; each side notices in its own time.
    pub(super) fn break_link(&mut self, a: usize, b: usize) {
        let (a, b) = pair(a, b);
        let Some(link) = self.network.links.remove(&(a, b)) else { return };
        for (from, to) in [(a, b), (b, a)] {
            let peer = self.machines[to].author();
            let at_ms = self.now_ms + self.between(0..1_000);
            self.at(at_ms, Event::LinkDown { machine: from, peer, link: link.id });
        }
        self.dial_later(a, b, 100, 2_000);
    }

    pub(super) fn break_all_links(&mut self, machine: usize) {
        for other in self.network.linked_to(machine) {
            self.break_link(machine, other);
        }
    }

    pub(super) fn set_way(&mut self, from: usize, to: usize, way: Way) {
        self.network.ways.insert((from, to), way);
        let Some(link) = self.network.links.get(&pair(from, to)) else { return };
        match way {
            Way::Cut => self.break_link(from, to),
            Way::Stuck => {
                let (id, at_ms) = (link.id, self.now_ms + self.between(3_000..20_000));
                self.at(at_ms, Event::GiveUp { from, to, link: id });
            }
        }
    }

    /// The far end has not answered for too long.
    pub(super) fn give_up(&mut self, from: usize, to: usize, link: u64) {
        if self.network.way(from, to) == Some(Way::Stuck) && self.network.is_linked(from, to, link) {
            self.break_link(from, to);
        }
    }

    /// Opens every way.
    pub(super) fn mend(&mut self) {
        self.network.ways.clear();
        let ends: Vec<_> = self.network.links.keys().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        for (from, to) in ends {
            let Some(link) = self.network.links.get_mut(&pair(from, to)) else { continue };
            for packet in std::mem::take(&mut link.held[side(from, to)]) {
                self.send(from, to, packet);
            }
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let delay_ms = self.between(self.plan.weather.frame_ms.clone());
        let stuck = self.network.way(from, to) == Some(Way::Stuck);
        let Some(link) = self.network.links.get_mut(&pair(from, to)) else { return };
        if stuck {
            return link.held[side(from, to)].push(packet);
        }
        let at_ms = (self.now_ms + delay_ms).max(link.last_at_ms[side(from, to)]);
        link.last_at_ms[side(from, to)] = at_ms;
        let id = link.id;
        let heads = matches!(packet.frame, Frame::Heads { .. });
        self.at(at_ms, Event::Frame { from, to, link: id, packet });
        if heads {
            self.at(at_ms, Event::Drained { from, to });
        }
    }

    /// Passes a batch on to all neighbours that hear its topic.
    pub(super) fn spread(&mut self, from: usize, batch: &VerifiedBatch) {
        if let Some(process) = &mut self.machines[from].process {
            process.gossip_seen.insert(batch.hash());
        }
        for to in self.network.linked_to(from) {
            let hears = self.machines[to].interest.covers(&batch.header().topic);
            if !hears || self.network.way(from, to).is_some() {
                continue;
            }
            let copies = if self.percent(self.plan.weather.gossip_repeated) { 2 } else { 1 };
            for _ in 0..copies {
                if !self.percent(self.plan.weather.gossip_lost) {
                    let at_ms = self.now_ms + self.between(self.plan.weather.gossip_ms.clone());
                    self.at(at_ms, Event::Gossip { from, to, batch: batch.clone() });
                }
            }
        }
    }

    /// What is valid is passed on before it is durable.
    pub(super) fn gossip(&mut self, from: usize, to: usize, batch: VerifiedBatch) {
        let peer = self.machines[from].author();
        let Some(process) = &self.machines[to].process else { return };
        let fresh = !process.gossip_seen.contains(&batch.hash());
        if fresh && self.machines[to].interest.covers(&batch.header().topic) {
            self.spread(to, &batch);
            self.feed(to, Input::Batch { batch, source: Source::Gossip(peer) });
        }
    }
}
