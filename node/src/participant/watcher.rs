//! What there is to do without a delivery: deadlines, what is owed, what was passed over and became a step, failures that
//! have to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use roundelay_protocol::choreography::conformance::{Conformance, Superseded};
use roundelay_protocol::choreography::participant::{GivingUp, Planned, Reason, Received};
use roundelay_protocol::hlc::Hlc;
use tokio::sync::broadcast::error::TryRecvError;
use tokio_util::sync::CancellationToken;

use super::{Lane, Notice, Stage, incoming, passed, wall_ms, worker};
use crate::choreography::Change;
use crate::consumers::Letter;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// Deadlines that are met in one look.
const MAX_MET: usize = 1_024;
/// Instances that are looked at in one look, of those that rest.
const MAX_LOOKED: usize = 4_096;
/// Replicas of a role meet a deadline one after the other, within this time, so that mostly one does.
const SPREAD_MS: u64 = 2_000;
/// Dead letters that are read at once.
const LETTERS: usize = 256;
/// Superseded events that were told, at most; beyond it some are told again.
const MAX_TOLD: usize = 65_536;

/// What is remembered between looks.
#[derive(Default)]
struct Watch {
    /// Instances that changed, and when.
    changed: BTreeMap<String, Instant>,
    told: BTreeSet<(String, String)>,
    /// How often the event of each dead letter was told to have been given up, by consumer and number.
    letters: BTreeMap<String, BTreeMap<u64, u32>>,
}

/// Looks until it is told to stop.
pub(super) async fn run(stage: Arc<Stage>, stop: CancellationToken) {
    let (mut watch, mut changes) = (Watch::default(), stage.observer.changes());
    watch.note_all(&stage);
    // Letters of before the start may not have been told.
    let mut buried = stage.consumers.buried();
    buried.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        loop {
            match changes.try_recv() {
                Ok(Change { choreography, .. }) if *choreography != *stage.participant.choreography() => {}
                Ok(Change { correlation: Some(correlation), .. }) => {
                    watch.changed.insert(correlation.to_string(), Instant::now());
                }
                Ok(Change { correlation: None, .. }) | Err(TryRecvError::Lagged(_)) => watch.note_all(&stage),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed) => return,
            }
        }
        meet_deadlines(&stage).await;
        watch.look_at_rested(&stage).await;
        if buried.has_changed().unwrap_or_default() {
            buried.mark_unchanged();
            if !watch.tell_failures(&stage).await {
                buried.mark_changed();
            }
        }
    }
}

/// Emits the events of deadlines that have passed.
async fn meet_deadlines(stage: &Stage) {
    let (participant, now_ms) = (&stage.participant, wall_ms());
    let plan = |conformance: &Conformance| -> Vec<Planned> {
        let overdue = participant.overdue(conformance, now_ms);
        let own = overdue.filter(|(_, due)| now_ms >= due.due_ms + turn_ms(stage, &due.id));
        own.take(MAX_MET).filter_map(|(correlation, due)| participant.expire(conformance, correlation, due)).collect()
    };
    let planned = stage.observer.look(participant.choreography(), plan).unwrap_or_default();
    if let Err(error) = stage.publish(planned).await {
        tracing::warn!(%error, role = participant.role(), "deadlines have passed and cannot be told: trying again");
    }
}

/// How long this replica waits for others to do what any of them may.
fn turn_ms(stage: &Stage, id: &str) -> u64 {
    if !stage.options.shared {
        return 0;
    }
    let mut hasher = blake3::Hasher::new_derive_key("roundelay turn of a replica v1");
    hasher.update(&stage.node.id().to_bytes()).update(id.as_bytes());
    let bytes = hasher.finalize();
    let weight = u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default());
    // Most of them at once would be no turn; the first one is not to wait long.
    (weight % 8) * (SPREAD_MS / 8)
}

impl Watch {
    /// Every instance may have changed.
    fn note_all(&mut self, stage: &Stage) {
        let all = stage.observer.look(stage.participant.choreography(), |conformance| {
            conformance.instances().map(|(correlation, _)| correlation.to_owned()).collect::<Vec<_>>()
        });
        let now = Instant::now();
        self.changed.extend(all.unwrap_or_default().into_iter().map(|correlation| (correlation, now)));
    }

    /// Looks at instances that have changed and rest since: what is superseded of them stays so, as far as anybody knows.
    async fn look_at_rested(&mut self, stage: &Stage) {
        let (settle, now) = (Duration::from_millis(stage.options.settle_ms), Instant::now());
        let rested = self.changed.iter().filter(|(_, changed)| now.duration_since(**changed) >= settle);
        let rested: Vec<String> = rested.take(MAX_LOOKED).map(|(correlation, _)| correlation.clone()).collect();
        let stable = stable(stage, &rested).await;
        for correlation in rested {
            self.changed.remove(&correlation);
            self.tell_superseded(stage, &correlation);
            let undo_upto = if stage.options.undo_when_stable { stable } else { Hlc(u64::MAX) };
            let is_settled =
                undo_owed(stage, &correlation, undo_upto).await & resume_stalled(stage, &correlation, stable).await;
            if !is_settled {
                self.changed.insert(correlation, Instant::now());
            }
        }
    }

    fn tell_superseded(&mut self, stage: &Stage, correlation: &str) {
        let participant = &stage.participant;
        let superseded = stage.observer.look(participant.choreography(), |conformance| {
            let found = conformance.instance(correlation).map(|instance| instance.superseded.clone());
            let declaration = |found: &Superseded| {
                let version = conformance.instance(correlation)?.version?;
                Some(conformance.versions().get(version)?.emitter(&found.event.kind)? == participant.role())
            };
            let own = found.unwrap_or_default().into_iter().filter(|found| declaration(found) == Some(true));
            own.collect::<Vec<_>>()
        });
        for superseded in superseded.unwrap_or_default() {
            if self.told.len() >= MAX_TOLD {
                self.told.pop_first();
            }
            if self.told.insert((superseded.event.source.clone(), superseded.event.id.clone())) {
                // Nobody may be listening.
                let _ = stage.notices.send(Notice { correlation: correlation.to_owned(), superseded });
            }
        }
    }

    /// Publishes an event for each time that an event was given up and nobody was told. False: something is still to be told.
    async fn tell_failures(&mut self, stage: &Stage) -> bool {
        let mut are_told = true;
        for Lane { consumer, .. } in &stage.lanes {
            are_told &= self.tell_failures_of(stage, consumer).await;
        }
        are_told
    }

    async fn tell_failures_of(&mut self, stage: &Stage, consumer: &str) -> bool {
        let (told, mut after) = (self.letters.entry(consumer.to_owned()).or_default(), 0);
        let mut open = BTreeMap::new();
        loop {
            let Ok(letters) = stage.consumers.dead(consumer.to_owned(), after, LETTERS).await else { return false };
            let Some(last) = letters.last() else { break };
            after = last.number;
            open.extend(letters.into_iter().map(|letter| (letter.number, letter)));
        }
        // Of letters that are gone nothing has to be known.
        told.retain(|number, _| open.contains_key(number));
        for (number, letter) in open {
            let before = told.get(&number).copied().unwrap_or_default();
            if before >= letter.failures {
                continue;
            }
            let Ok((letter, json)) = stage.consumers.dead_letter(consumer.to_owned(), number).await else {
                return false;
            };
            let event = incoming::read(&json).and_then(|incoming| incoming.event);
            for time in before + 1..=letter.failures {
                if let Some(event) = &event
                    && let Err(error) = tell_failure(stage, event, &letter, time).await
                {
                    tracing::warn!(%error, consumer, "a failure cannot be told: trying again");
                    return false;
                }
                told.insert(number, time);
            }
        }
        true
    }
}

async fn tell_failure(stage: &Stage, event: &Received, letter: &Letter, time: u32) -> Result<(), super::EmitError> {
    let participant = &stage.participant;
    let said_last = letter.attempts.last().and_then(|attempt| attempt.reason.as_ref());
    let reason = said_last.unwrap_or(&letter.reason).clone();
    let gave_up = GivingUp { reason, attempts: letter.attempts.len() as u32, time };
    let planned = stage.observer.look(participant.choreography(), |conformance| {
        let planned = participant.failed(conformance, event, &gave_up)?;
        let fold = conformance.fold(&event.correlation);
        let is_told = fold.is_some_and(|fold| fold.find(&planned.event.source, &planned.event.id).is_some());
        (!is_told).then_some(planned)
    });
    stage.publish(planned.flatten().into_iter().collect()).await
}

/// Up to when nothing can come any more, where something of these instances may wait for that.
async fn stable(stage: &Stage, rested: &[String]) -> Hlc {
    let is_patient = stage.lanes.iter().any(|lane| lane.is_patient);
    let waits =
        |correlation: &String| stage.options.undo_when_stable || (is_patient && stage.passed.lock().has(correlation));
    if !rested.iter().any(waits) {
        return Hlc(0);
    }
    match stage.stable().await {
        Ok((stable, _)) => stable,
        Err(error) => {
            tracing::warn!(%error, role = stage.participant.role(), "it is not known what is stable: nothing is undone yet");
            Hlc(0)
        }
    }
}

/// Undoes what superseded events of this role did. False: something is still owed.
async fn undo_owed(stage: &Stage, correlation: &str, undo_upto: Hlc) -> bool {
    let participant = &stage.participant;
    let owed = stage.observer.look(participant.choreography(), |conformance| {
        let owed = participant.owed(conformance, correlation);
        owed.map(|(event, superseded)| (event, superseded.clone())).collect::<Vec<_>>()
    });
    let owed = owed.unwrap_or_default();
    let is_settled = owed.is_empty();
    for (event, superseded) in owed {
        let now_ms = wall_ms();
        if event.stamp > undo_upto || now_ms < event.at_ms() + stage.options.settle_ms + turn_ms(stage, &event.id) {
            continue;
        }
        let undone = worker::respond(stage, event, Reason::Undo(Box::new(superseded)), 1).await;
        match undone {
            Ok(planned) => {
                if let Err(error) = stage.publish(planned).await {
                    tracing::warn!(%error, correlation, "what was undone cannot be told: trying again");
                }
            }
            Err(failure) => tracing::warn!(correlation, reason = failure.reason, "undoing failed: trying again"),
        }
    }
    is_settled
}

/// An event that was passed over, unless it was pruned since.
fn find_passed(stage: &Stage, correlation: &str, source: &str, id: &str) -> Option<Received> {
    let arrival = stage.passed.lock().find(correlation, source, id)?;
    let found = passed::read(&stage.node.log(), arrival, source, id);
    found.unwrap_or_else(|error| {
        tracing::warn!(%error, correlation, "an event that was passed over cannot be read");
        None
    })
}

/// Answers an event that was passed over and is a step by now. False: that is to be tried again.
async fn resume_stalled(stage: &Stage, correlation: &str, stable: Hlc) -> bool {
    let participant = &stage.participant;
    if !stage.passed.lock().has(correlation) {
        return true;
    }
    let stalled = stage.observer.look(participant.choreography(), |conformance| {
        let has_ended = conformance.instance(correlation).is_none_or(|instance| instance.end.is_some());
        let stalled = participant.stalled(conformance, correlation);
        (has_ended, stalled.map(|event| (event.source.clone(), event.id.clone())))
    });
    let (has_ended, stalled) = stalled.unwrap_or((true, None));
    if has_ended {
        // What is not forgotten now is found again at the next start.
        let marks = stage.passed.lock().forget(correlation);
        return stage.mark(marks).await.is_ok();
    }
    let Some(event) = stalled.and_then(|(source, id)| find_passed(stage, correlation, &source, &id)) else {
        return true;
    };
    if participant.is_patient(&event.kind) && event.stamp > stable {
        return false;
    }
    match worker::respond(stage, event, Reason::Step, 1).await {
        Ok(planned) => stage.publish(planned).await.is_ok(),
        Err(failure) => {
            tracing::warn!(
                correlation,
                reason = failure.reason,
                "an event that was passed over cannot be answered yet"
            );
            failure.is_terminal
        }
    }
}
