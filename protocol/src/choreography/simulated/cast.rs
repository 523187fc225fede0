//! Participants on simulated nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll, Waker};

use super::super::participant::{Call, Course, GivingUp, Outcome, Participant, Planned, Reason, Received};
use super::node::author_of;
use super::{Happening, LOOK_MS, Mesh, NodeId};
use crate::consumer::{Key, owner};

/// How long a handler takes at most, in milliseconds.
const MAX_WORK_MS: u64 = 20;
/// Before the second attempt; twice as long before each further one.
const BACKOFF_MS: u64 = 1_000;
const MAX_BACKOFF_MS: u64 = 60_000;
/// Attempts before an event is given up.
const MAX_ATTEMPTS: u32 = 10;
/// How long nothing of an instance may have come before what is owed is undone, so that not every event on its way has
/// a say.
const SETTLE_MS: u64 = 5_000;

/// An event that a participant gave up on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The role.
    pub role: String,
    /// The event.
    pub event: Received,
    /// What its handler said last.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub(super) struct Done {
    event: Received,
    outcome: Outcome,
    attempt: u32,
    /// It is the undoing of this event, and nothing that is done once.
    is_undoing: bool,
}

/// A participant on a node.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) participant: Participant,
    /// Events that are done, by source and id. On the disk.
    done: BTreeSet<(String, String)>,
    /// Failed attempts. On the disk.
    attempts: BTreeMap<(String, String), u32>,
    pub(super) letters: Vec<DeadLetter>,
    /// Events that a handler is at, or that are being undone.
    at_work: BTreeSet<(String, String)>,
    /// When it looks for deadlines and what it owes next.
    looks_at: Option<u64>,
}

impl Part {
    pub(super) fn new(participant: Participant) -> Self {
        let (done, attempts, at_work) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { participant, done, attempts, letters: Vec::new(), at_work, looks_at: None }
    }

    pub(super) fn crash(&mut self) {
        self.at_work.clear();
        self.looks_at = None;
    }
}

fn name_of(event: &Received) -> (String, String) {
    (event.source.clone(), event.id.clone())
}

impl Mesh {
    /// A participant begins, or begins anew: everything that it has not done is given to it.
    pub(super) fn wake(&mut self, node: usize, part: usize) {
        for event in 0..self.nodes[node].log.len() {
            self.offer(node, part, event);
        }
        self.look_in_time(node, part);
    }

    /// Sees to it that a participant looks when the next deadline is due, and soon when something else may be to do.
    pub(super) fn look_in_time(&mut self, node: usize, part: usize) {
        let (found, life, now_ms) = (&self.nodes[node], self.nodes[node].life, self.clock_ms(node));
        let (conformance, participant) = (&found.conformance, &found.parts[part].participant);
        let is_owed = conformance.instances().any(|(id, _)| participant.owed(conformance, id).next().is_some());
        let is_stalled = conformance.instances().any(|(id, _)| participant.stalled(conformance, id).is_some());
        let until_due_ms = conformance.next_due_ms().map(|due_ms| due_ms.saturating_sub(now_ms));
        let soon_ms = (is_owed || is_stalled).then_some(SETTLE_MS);
        let Some(after_ms) = until_due_ms.into_iter().chain(soon_ms).min() else { return };
        let at = self.now_ms + after_ms.max(LOOK_MS);
        if found.parts[part].looks_at.is_none_or(|looks_at| at < looks_at) {
            self.nodes[node].parts[part].looks_at = Some(at);
            self.schedule(at - self.now_ms, Happening::Look { node, life, part });
        }
    }

    pub(super) fn offer(&mut self, node: usize, part: usize, event: usize) {
        let (kind, life) = (&self.nodes[node].log[event].planned.event.kind, self.nodes[node].life);
        if self.nodes[node].parts[part].participant.handled().any(|handled| handled == kind) {
            let delay_ms = 1 + self.numbers.below(MAX_WORK_MS);
            self.schedule(delay_ms, Happening::Deliver { node, life, part, event });
        }
    }

    /// Whether an instance is a node's to go on with, of all that play the role and that it can reach.
    fn is_owner(&self, node: usize, role: &str, correlation: &str) -> bool {
        let plays = |other: &usize| {
            let found = &self.nodes[*other];
            found.is_up && found.parts.iter().any(|part| part.participant.role() == role)
        };
        let is_linked = |other: &usize| *other == node || !self.cut.contains(&(node.min(*other), node.max(*other)));
        let members: Vec<[u8; 32]> =
            (0..self.nodes.len()).filter(plays).filter(is_linked).map(|other| author_of(other).0).collect();
        owner(role, &members, &Key::new(correlation).0) == Some(&author_of(node).0)
    }

    pub(super) fn deliver(&mut self, node: usize, part: usize, place: usize) {
        let (found, life) = (&self.nodes[node], self.nodes[node].life);
        let Some(event) = found.event(place) else { return };
        let (name, playing) = (name_of(&event), &found.parts[part]);
        if playing.done.contains(&name) || playing.at_work.contains(&name) {
            return;
        }
        let participant = playing.participant.clone();
        match participant.course(&found.conformance, &event) {
            Course::Done | Course::PassOver => drop(self.nodes[node].parts[part].done.insert(name)),
            Course::Handle if participant.is_patient(&event.kind) && !self.is_stable(node, &event) => {
                self.schedule(LOOK_MS, Happening::Deliver { node, life, part, event: place });
            }
            Course::Handle if self.is_owner(node, participant.role(), &event.correlation) => {
                let attempt = playing.attempts.get(&name).copied().unwrap_or_default() + 1;
                self.work(node, part, event, Reason::Step, attempt);
            }
            // Another has it, unless that one goes: then it is answered, or not, when this one looks again.
            Course::Handle | Course::Unknown => {
                self.schedule(LOOK_MS, Happening::Deliver { node, life, part, event: place });
            }
        }
    }

    fn work(&mut self, node: usize, part: usize, event: Received, reason: Reason, attempt: u32) {
        let (found, life) = (&self.nodes[node], self.nodes[node].life);
        let participant = found.parts[part].participant.clone();
        let is_undoing = matches!(reason, Reason::Undo(_));
        let Some(call) = participant.call(&found.conformance, event.clone(), reason, attempt) else { return };
        let Some(outcome) = finish(&participant, call) else { return };
        self.nodes[node].parts[part].at_work.insert(name_of(&event));
        let done = Done { event, outcome, attempt, is_undoing };
        let delay_ms = 1 + self.numbers.below(MAX_WORK_MS);
        self.schedule(delay_ms, Happening::Commit { node, life, part, done: Box::new(done) });
    }

    /// What was answered and what is emitted, in one write.
    pub(super) fn commit(&mut self, node: usize, part: usize, done: Done) {
        let Done { event, outcome, attempt, is_undoing } = done;
        let (name, now_ms) = (name_of(&event), self.clock_ms(node));
        self.nodes[node].parts[part].at_work.remove(&name);
        let found = &self.nodes[node];
        let participant = found.parts[part].participant.clone();
        let planned = match outcome {
            Ok(wanted) => participant.answer(&found.conformance, &event, wanted, now_ms).map_err(|refused| {
                // It would be refused again.
                (refused.to_string(), true)
            }),
            Err(failure) => Err((failure.reason, failure.is_terminal)),
        };
        match planned {
            Ok(planned) => {
                if !is_undoing {
                    self.nodes[node].parts[part].done.insert(name);
                }
                self.append(node, planned);
            }
            Err((reason, is_terminal)) if is_terminal || attempt >= MAX_ATTEMPTS => {
                let gave_up = GivingUp { reason: reason.clone(), attempts: attempt, time: 1 };
                let failed = participant.failed(&found.conformance, &event, &gave_up);
                let role = participant.role().to_owned();
                let playing = &mut self.nodes[node].parts[part];
                playing.done.insert(name);
                playing.letters.push(DeadLetter { role, event, reason, attempts: attempt });
                self.append(node, failed.into_iter().collect());
            }
            Err(_) => {
                self.nodes[node].parts[part].attempts.insert(name, attempt);
                if let Some(place) = self.nodes[node].find(&event.source, &event.id).filter(|_| !is_undoing) {
                    let (life, delay_ms) = (self.nodes[node].life, (BACKOFF_MS << (attempt - 1)).min(MAX_BACKOFF_MS));
                    self.schedule(delay_ms, Happening::Deliver { node, life, part, event: place });
                }
            }
        }
    }

    /// Deadlines that have passed, and what is owed.
    pub(super) fn look(&mut self, node: usize, part: usize) {
        let now_ms = self.clock_ms(node);
        self.nodes[node].parts[part].looks_at = None;
        let found = &self.nodes[node];
        let participant = found.parts[part].participant.clone();
        let due = participant.overdue(&found.conformance, now_ms);
        let due: Vec<Planned> = due
            .filter(|(correlation, _)| self.is_owner(node, participant.role(), correlation))
            .filter_map(|(correlation, due)| participant.expire(&found.conformance, correlation, due))
            .collect();
        let (owed, stalled) = (self.find_owed(node, part), self.find_stalled(node, part));
        self.append(node, due);
        for name in stalled {
            self.nodes[node].parts[part].done.remove(&name);
            if let Some(place) = self.nodes[node].find(&name.0, &name.1) {
                self.offer(node, part, place);
            }
        }
        for (event, reason) in owed {
            let attempt = self.nodes[node].parts[part].attempts.get(&name_of(&event)).copied().unwrap_or_default() + 1;
            self.work(node, part, event, reason, attempt);
        }
        self.look_in_time(node, part);
    }

    /// Events that were passed over, and for whose answer instances wait that rest.
    fn find_stalled(&self, node: usize, part: usize) -> Vec<(String, String)> {
        let (found, playing) = (&self.nodes[node], &self.nodes[node].parts[part]);
        let open = found.conformance.instances().filter(|(_, instance)| instance.end.is_none());
        let resting = open.filter(|(correlation, _)| self.rests(node, correlation));
        let stalled =
            resting.filter_map(|(correlation, _)| playing.participant.stalled(&found.conformance, correlation));
        let names = stalled.map(|event| (event.source.clone(), event.id.clone()));
        let is_dead = |name: &(String, String)| playing.letters.iter().any(|letter| name_of(&letter.event) == *name);
        names.filter(|name| playing.done.contains(name) && !is_dead(name)).collect()
    }

    /// Whether no event can come any more that is before this one in total order.
    fn is_stable(&self, node: usize, event: &Received) -> bool {
        event.stamp <= self.stable(NodeId(node))
    }

    fn rests(&self, node: usize, correlation: &str) -> bool {
        let judged = self.nodes[node].conformance.fold(correlation).map(|fold| fold.judged());
        let last_ms = judged.and_then(<[_]>::last).map_or(0, |(event, _)| event.at_ms());
        self.clock_ms(node).saturating_sub(last_ms) >= SETTLE_MS
    }

    fn find_owed(&self, node: usize, part: usize) -> Vec<(Received, Reason)> {
        let (found, mut owed) = (&self.nodes[node], Vec::new());
        let playing = &found.parts[part];
        for (correlation, _) in found.conformance.instances().filter(|(_, found)| !found.owed.is_empty()) {
            if !self.rests(node, correlation) || !self.is_owner(node, playing.participant.role(), correlation) {
                continue;
            }
            let events = playing.participant.owed(&found.conformance, correlation);
            let is_due = |event: &Received| !self.undoes_when_stable || self.is_stable(node, event);
            let idle = events.filter(|(event, _)| !playing.at_work.contains(&name_of(event)) && is_due(event));
            owed.extend(idle.map(|(event, superseded)| (event, Reason::Undo(Box::new(superseded.clone())))));
        }
        owed
    }
}

/// Runs a handler to its end, in no time.
fn finish(participant: &Participant, call: Call) -> Option<Outcome> {
    let mut handling = participant.handle(call)?;
    let mut context = Context::from_waker(Waker::noop());
    match handling.as_mut().poll(&mut context) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => Some(Err(super::super::participant::Failure::terminal(
            "the handler waits for something outside, which there is not in a simulated mesh: give it what it waits for",
        ))),
    }
}
