//! The thread that follows the log for all choreographies of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roundelay_protocol::choreography::Observed;
use roundelay_protocol::choreography::conformance::Versions;
use roundelay_protocol::topic::{CHOREOGRAPHIES_TOPIC, Topic};
use tokio::sync::watch;

use super::judging::{Judging, Touched};
use super::observer::Change;
use super::reading::{READ_BATCHES, READ_BYTES, Reading};
use super::state::Shared;
use super::warnings::Warnings;
use crate::log::{LogError, LogReader};
use crate::node::Node;

/// Events that are judged before those who ask have a turn.
const SLICE: usize = 512;
/// After a failed read of the log.
const RETRY: Duration = Duration::from_secs(5);

/// Reads, judges, and tells.
pub(super) struct Actor {
    node: Node,
    log: LogReader,
    shared: Arc<Shared>,
    turns: watch::Sender<u64>,
    readings: BTreeMap<String, Reading>,
    /// A choreography whose log is read again, beside what is said of it. One at a time, as each takes memory.
    again: Option<Again>,
    warnings: Warnings,
}

struct Again {
    name: String,
    reading: Reading,
    judging: Judging,
}

impl Actor {
    pub(super) fn new(node: Node, shared: Arc<Shared>, turns: watch::Sender<u64>) -> Self {
        let (readings, warnings) = (BTreeMap::new(), Warnings::default());
        Self { log: node.log(), node, shared, turns, readings, again: None, warnings }
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let node = self.node.clone();
        let stopped = node.stopped();
        tokio::pin!(stopped);
        let mut wake = self.log.watch();
        loop {
            let (more, pause) = match self.turn() {
                Ok(more) => (more, Duration::ZERO),
                Err(LogError::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read for choreographies: it is tried again");
                    (true, RETRY)
                }
            };
            self.turns.send_modify(|turn| *turn += 1);
            self.warnings.tell(&self.shared);
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = rest(pause), if more => {}
                () = self.warnings.due(), if !more => {}
                changed = wake.changed(), if !more => if changed.is_err() { return },
            }
        }
    }

    /// Goes on by one read for each choreography. True when any could go on at once.
    fn turn(&mut self) -> Result<bool, LogError> {
        self.read_declarations()?;
        let mut more = false;
        let names: Vec<String> = self.readings.keys().cloned().collect();
        for name in names {
            more |= self.read_on(&name)?;
        }
        more |= self.read_again()?;
        Ok(more)
    }

    // ---- declarations

    fn read_declarations(&mut self) -> Result<(), LogError> {
        let wanted = |topic: &Topic| topic.as_str() == CHOREOGRAPHIES_TOPIC;
        let mut names = BTreeSet::new();
        let mut after = self.shared.state.read().catalog_upto;
        loop {
            let scan = self.log.scan_topic(&wanted, after, READ_BATCHES, READ_BYTES)?;
            after = scan.next;
            let mut state = self.shared.state.write();
            for (_, batch) in &scan.batches {
                let learnt = state.catalog.learn(batch);
                state.rereading.extend(learnt.iter().filter(|name| self.readings.contains_key(*name)).cloned());
                names.extend(learnt);
            }
            if after >= self.log.last_arrival() {
                break;
            }
        }
        names.into_iter().try_for_each(|name| self.begin(name))?;
        // Only now: it tells that whatever was declared before is looked after.
        self.shared.state.write().catalog_upto = after;
        Ok(())
    }

    /// Begins to look after a choreography, or once more when a version of it was published.
    fn begin(&mut self, name: String) -> Result<(), LogError> {
        let is_judged = self.shared.state.read().judged.get(&name).is_some_and(|judging| !judging.is_reading);
        if is_judged {
            self.again.take_if(|again| again.name == name);
            return Ok(());
        }
        let Some((reading, judging)) = self.begin_anew(&name)? else { return Ok(()) };
        let mut state = self.shared.state.write();
        state.rereading.remove(&name);
        state.judged.insert(name.clone(), judging);
        self.readings.insert(name, reading);
        Ok(())
    }

    fn begin_anew(&self, name: &str) -> Result<Option<(Reading, Judging)>, LogError> {
        let (versions, patterns) = {
            let state = self.shared.state.read();
            let Some(versions) = state.catalog.versions(name) else { return Ok(None) };
            (versions, state.catalog.patterns(name))
        };
        let kinds = kinds_of(&versions);
        Ok(Some((Reading::new(&self.log, patterns, kinds)?, Judging::new(versions))))
    }

    // ---- instances

    /// Reads on for one choreography. True when there is more.
    fn read_on(&mut self, name: &str) -> Result<bool, LogError> {
        let Some(reading) = self.readings.get_mut(name) else { return Ok(false) };
        let events = reading.next(&self.log)?;
        let (position, pruned_upto) = (reading.position(), reading.pruned_upto());
        let is_caught_up = reading.is_caught_up(&self.log);
        for slice in slices(events) {
            let (touched, is_reading) = {
                let mut state = self.shared.state.write();
                state.make_room();
                let room = state.sizes().room();
                let Some(judging) = state.judged.get_mut(name) else { return Ok(false) };
                // What may be missing is told from the first answer on.
                judging.pruned_upto = pruned_upto;
                (judging.take(slice, room), judging.is_reading)
            };
            self.tell(name, touched, is_reading);
        }
        let mut state = self.shared.state.write();
        let (is_reread, declared) = (state.rereading.contains(name), state.catalog_upto);
        let Some(judging) = state.judged.get_mut(name) else { return Ok(false) };
        judging.pruned_upto = pruned_upto;
        if !is_reread {
            // Beyond that there may be a version by which all would be judged otherwise.
            judging.folded = judging.folded.max(position.min(declared));
        }
        let has_ended = judging.is_reading && is_caught_up;
        judging.is_reading &= !is_caught_up;
        let violating = judging.verdicts.get("violating").copied().unwrap_or(0);
        drop(state);
        if has_ended {
            warn_of_all(name, violating);
            // Without anybody who listens there is nobody to tell, here and below.
            let _ = self.shared.changes.send(Change { choreography: name.into(), correlation: None });
        }
        Ok(!is_caught_up)
    }

    /// Reads on for a choreography of which a version was published, and puts what comes of it in the place of what was
    /// said before once it has come as far. True when there is more.
    fn read_again(&mut self) -> Result<bool, LogError> {
        if self.again.is_none() {
            let Some(name) = self.shared.state.read().rereading.first().cloned() else { return Ok(false) };
            match self.begin_anew(&name)? {
                Some((reading, judging)) => self.again = Some(Again { name, reading, judging }),
                None => drop(self.shared.state.write().rereading.remove(&name)),
            }
        }
        let Some(Again { reading, judging, .. }) = &mut self.again else { return Ok(true) };
        for slice in slices(reading.next(&self.log)?) {
            judging.make_room();
            let room = judging.sizes().room();
            judging.take(slice, room);
        }
        if reading.is_caught_up(&self.log) {
            self.replace();
        }
        Ok(true)
    }

    fn replace(&mut self) {
        let Some(Again { name, reading, mut judging }) = self.again.take() else { return };
        (judging.pruned_upto, judging.is_reading) = (reading.pruned_upto(), false);
        let violating = judging.verdicts.get("violating").copied().unwrap_or(0);
        {
            let mut state = self.shared.state.write();
            judging.folded = reading.position().min(state.catalog_upto);
            if let Some(before) = state.judged.get(&name) {
                judging.folded = judging.folded.max(before.folded);
                judging.counts.refolded += before.counts.refolded + before.sizes().instances as u64;
            }
            state.rereading.remove(&name);
            state.judged.insert(name.clone(), judging);
            state.make_room();
        }
        warn_of_all(&name, violating);
        self.readings.insert(name.clone(), reading);
        let _ = self.shared.changes.send(Change { choreography: name.into(), correlation: None });
    }

    // ---- what is told

    fn tell(&mut self, name: &str, touched: Touched, is_reading: bool) {
        let choreography: Arc<str> = name.into();
        for correlation in touched.instances {
            let change = Change { choreography: choreography.clone(), correlation: Some(correlation.into()) };
            if self.shared.changes.send(change).is_err() {
                break;
            }
        }
        if !is_reading {
            touched.violating.into_iter().for_each(|correlation| self.warnings.note(name, correlation));
        }
    }
}

/// Lets others have their turn, and waits where something failed.
async fn rest(pause: Duration) {
    if pause.is_zero() { tokio::task::yield_now().await } else { tokio::time::sleep(pause).await }
}

fn slices(mut events: Vec<Observed>) -> impl Iterator<Item = Vec<Observed>> {
    std::iter::from_fn(move || {
        let rest = events.split_off(events.len().min(SLICE));
        let slice = std::mem::replace(&mut events, rest);
        (!slice.is_empty()).then_some(slice)
    })
}

fn kinds_of(versions: &Versions) -> BTreeSet<String> {
    versions.declarations().flat_map(|declaration| declaration.events().keys().cloned()).collect()
}

/// Tells of what was violating already when the log was read.
fn warn_of_all(choreography: &str, violating: usize) {
    if violating > 0 {
        let what = tell_count(violating);
        tracing::warn!(choreography, "{what}: see `roundelay instances {choreography} --verdict violating`");
    }
}

fn tell_count(violating: usize) -> String {
    match violating {
        1 => "1 instance violates its choreography".to_owned(),
        more => format!("{more} instances violate their choreography"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instance_violates_and_several_violate() {
        assert_eq!(tell_count(1), "1 instance violates its choreography");
        assert_eq!(tell_count(2), "2 instances violate their choreography");
    }
}
