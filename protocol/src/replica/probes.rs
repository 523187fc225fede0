//! Probes: whether every head that existed at one moment is covered on both sides of every link.

use super::{Effect, Replica};
use crate::frame::Frame;
use crate::ids::Author;
use crate::link::Mark;
use crate::planted::Fault;
use crate::sign::Signer;

/// How far a probe has come with one peer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) sent: bool,
    /// The peer's heads were told; what was wanted then is to be settled, and what was being written to be durable.
    pub(super) seen: Option<Mark>,
    pub(super) done: bool,
}

impl<S: Signer> Replica<S> {
    pub(super) fn probe(&mut self, id: u64) {
        let peers = self.links.keys().map(|peer| (*peer, Progress::default())).collect();
        self.probes.insert(id, peers);
        for link in self.links.values_mut() {
            link.announce_at_ms = link.announce_at_ms.map(|_| self.now.mono_ms);
        }
    }

    pub(super) fn answer_probes(&mut self) {
        self.answer_peers_probes();
        let mut out = Vec::new();
        for (id, probe) in &mut self.probes {
            for (peer, progress) in probe.iter_mut().filter(|(_, progress)| !progress.sent) {
                // The peer must know our heads before it can say that it covers them.
                if self.links.get(peer).is_some_and(|link| link.is_live() && link.dirty.is_empty()) {
                    progress.sent = true;
                    out.push(Effect::Send { peer: *peer, frame: Frame::Probe(*id) });
                }
            }
        }
        let (wants, links, written) = (&self.wants, &self.links, self.written());
        self.probes.retain(|id, probe| {
            let settled = |(peer, progress): (&Author, &Progress)| {
                let refused = links.get(peer).is_some_and(|link| link.refused);
                let covered = |mark: Mark| !refused && mark.token <= written && !wants.has_since(peer, mark.serial);
                let early = progress.sent && self.planted.is(Fault::ProbeTooEarly);
                early || progress.done && progress.seen.is_some_and(covered)
            };
            let complete = probe.iter().all(settled);
            if complete {
                out.push(Effect::Probed { id: *id, links: probe.len() as u32 });
            }
            !complete
        });
        self.effects.append(&mut out);
    }

    /// The last write that is durable.
    pub(super) fn written(&self) -> u64 {
        self.writes.front().map_or(self.last_token, |write| write.token - 1)
    }

    fn answer_peers_probes(&mut self) {
        let mut out = Vec::new();
        let written = self.written();
        for (peer, link) in &mut self.links {
            let told = link.is_live() && link.dirty.is_empty();
            let (informed, refused) = (link.informed, link.refused);
            for probe in link.probes.iter_mut().filter(|probe| told && !probe.seen_sent) {
                probe.seen_sent = true;
                out.push(Effect::Send { peer: *peer, frame: Frame::ProbeSeen(probe.id) });
            }
            link.probes.retain(|probe| {
                let durable = probe.mark.token <= written && !self.wants.has_since(peer, probe.mark.serial);
                let done = probe.seen_sent && informed && durable && !refused;
                if done {
                    out.push(Effect::Send { peer: *peer, frame: Frame::ProbeDone(probe.id) });
                }
                !done
            });
        }
        self.effects.append(&mut out);
    }
}
