//! Heartbeats, and what machines take for stable by them: of what was, nothing turns up any more.

use roundelay::log::Store;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::heartbeat::{Heartbeats, received};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Author, Incarnation};
use roundelay_protocol::replica::Input;
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, Topic};

use super::checker::{Checker, Promise};
use super::machine::Machine;
use super::plan::TOPICS;
use super::world::{Event, World};

/// The heartbeats of a process.
#[derive(Default)]
pub(super) struct Beat {
    /// Something was written since the last.
    has_news: bool,
    /// The last one, while it is not durable.
    under_way: Option<u64>,
    /// The last of every author.
    pub(super) known: Heartbeats,
}

impl Beat {
    /// That of a process which begins with this store.
    pub(super) fn of(store: &impl Store, authors: impl Iterator<Item = Author>) -> Self {
        let mut known = Heartbeats::default();
        for author in authors {
            let log = LogKey { topic: Topic::heartbeats(), author };
            let tips = store.record(&log).ok().flatten().map(|record| record.tips).unwrap_or_default();
            for tip in tips {
                let found = store.range(&log, tip.seq - 1, tip.seq, usize::MAX).unwrap_or_default();
                found.iter().for_each(|batch| known.learn(batch));
            }
        }
        Self { has_news: true, under_way: None, known }
    }

    pub(super) fn note(&mut self, batch: &VerifiedBatch) {
        self.has_news |= !batch.header().topic.is_system();
    }

    pub(super) fn learn(&mut self, batch: &VerifiedBatch) {
        if batch.header().topic.as_str() == HEARTBEATS_TOPIC {
            self.known.learn(batch);
        }
    }

    fn end(&mut self, id: u64, is_durable: bool) {
        if self.under_way == Some(id) {
            self.under_way = None;
            self.has_news |= !is_durable;
        }
    }
}

impl Checker {
    /// Whether what an author says holds of what a process of it sealed: one that began before any disk of its author was
    /// lost, replaced by an older one, or copied.
    fn binds(&self, author: &Author, sealed_by: Incarnation) -> bool {
        self.impure_from.get(author).is_none_or(|from| sealed_by < *from)
    }
}

impl World<'_> {
    pub(super) fn beat_later(&mut self, machine: usize, incarnation: Incarnation) {
        if let Some(every_ms) = self.plan.heartbeat_ms {
            // Not all at once.
            let at_ms = self.now_ms + every_ms + 7 * machine as u64 % every_ms;
            self.at(at_ms, Event::Beat { machine, incarnation });
        }
    }

    pub(super) fn beat(&mut self, machine: usize) {
        let now = self.machines[machine].now(self.now_ms);
        let Some(process) = &mut self.machines[machine].process else { return };
        let incarnation = process.incarnation;
        if process.beat.has_news
            && process.beat.under_way.is_none()
            && let Ok(heartbeat) = process.replica.heartbeat(now)
            && let Ok(event) = heartbeat.to_event("/".to_owned()).encode()
        {
            process.last_id += 1;
            let id = process.last_id;
            (process.beat.has_news, process.beat.under_way) = (false, Some(id));
            self.feed(machine, Input::publish(id, Topic::heartbeats(), vec![event], 0));
        }
        self.beat_later(machine, incarnation);
    }

    /// A publication became durable, or was refused.
    pub(super) fn end_beat(&mut self, machine: usize, id: u64, is_durable: bool) {
        if let Some(process) = &mut self.machines[machine].process {
            process.beat.end(id, is_durable);
        }
    }

    /// Notes up to where a machine takes each author's logs for received.
    pub(super) fn note_stable(&mut self, machine: usize) {
        if self.plan.heartbeat_ms.is_none() {
            return;
        }
        let authors: Vec<Author> = self.machines[..self.plan.machines].iter().map(Machine::author).collect();
        // What is restored from a copy does not know of what it lost, so its heartbeats say nothing of that.
        let authors = authors.into_iter().filter(|author| !self.checker.impure_from.contains_key(author));
        let at = &mut self.machines[machine];
        let (me, Some(process)) = (at.author(), &at.process) else { return };
        for author in authors {
            for topic in TOPICS.iter().filter_map(|topic| Topic::new(topic).ok()) {
                let log = LogKey { topic, author };
                if !at.interest.holds(&me, &log) {
                    continue;
                }
                let heartbeat = process.beat.known.get(&author);
                let record = at.store.record(&log).ok().flatten();
                let holds = |(seq, hash): &_| at.store.find(&log, *seq, hash).map(|found| found.is_some());
                let upto = received(heartbeat, &log.topic, record.as_ref(), holds).unwrap_or_default();
                let stable = at.stable.entry(log).or_default();
                if *stable < upto {
                    *stable = upto;
                    self.report.became_stable += u64::from(heartbeat.is_some_and(|it| it.upto == upto));
                }
            }
        }
    }

    /// What turns up has to be later than what was stable.
    pub(super) fn check_stable(&mut self, machine: usize, log: &LogKey, batch: &VerifiedBatch) {
        let header = batch.header();
        let stable = self.machines[machine].stable.get(log).copied().unwrap_or(Hlc(0));
        if header.first_hlc <= stable && self.checker.binds(&log.author, header.incarnation) {
            let (seq, first) = (header.first_seq, header.first_hlc);
            let text = format!(
                "machine {machine} is given {seq} of {log:?}, of {first:?}, and took it for stable up to {stable:?}"
            );
            self.fail(Promise::StableIsFinal, text);
        }
    }
}
