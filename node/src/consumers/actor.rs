//! What owns all consumers of a node, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use roundelay_protocol::consumer::{Expired, Failure, Slot};
use roundelay_protocol::ids::{Arrival, Author, StoreEpoch};
use roundelay_protocol::topic::Pattern;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::config::ConsumerConfig;
use super::held::{Held, Loaded, MAX_ATTEMPTS};
use super::letters::{MAX_LETTERS, plain_reason};
use super::types::{Attempt, Fetched};
use super::writes::Change;
use super::{Consumers, marks, push};
use crate::clock::wall_ms;
use crate::log::{LogError, LogReader};
use crate::metrics::ConsumerFigures;
use crate::node::{CallError, Committed, Node, Transaction};
use crate::peer_id::author_of;

/// Something that is to be done with it.
pub(super) type Order = Box<dyn FnOnce(&mut Actor) + Send>;
/// What it hears of a write.
type Outcome = Result<Option<Committed>, CallError>;

/// Changes that wait to be written before orders wait.
const MAX_QUEUED: usize = 4_096;
/// Between two looks at who is alive in groups.
const GROUP_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks for what was pruned.
const GAP_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at what is told to those who scrape, and how long one counts events that were not read yet.
const FIGURES_INTERVAL: Duration = Duration::from_secs(1);
const FIGURES_BUDGET: Duration = Duration::from_millis(20);
/// Marks that one write removes.
const REMOVE_RUN: usize = 4_096;

/// Its state.
pub(super) struct Actor {
    pub(super) node: Node,
    pub(super) reader: LogReader,
    pub(super) epoch: StoreEpoch,
    pub(super) me: Author,
    pub(super) held: BTreeMap<String, Held>,
    pub(super) queue: VecDeque<Change>,
    pub(super) writing: Vec<Change>,
    pub(super) written: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
    /// Commits that are being written, and who asked for the same again meanwhile.
    pub(super) committing: BTreeMap<(String, super::commits::Digest), Vec<super::Reply<super::CommitAnswer>>>,
    pub(super) lives: u64,
    /// Consumers whose remains are being removed from the store.
    pub(super) removing: BTreeSet<String>,
    handle: Consumers,
    pushes: BTreeMap<String, JoinHandle<()>>,
    members: (mpsc::Sender<Announced>, mpsc::Receiver<Announced>),
    started: Instant,
    looked_at_groups: Option<Instant>,
    looked_for_gaps: Instant,
    figures: Arc<Mutex<Vec<ConsumerFigures>>>,
    told_figures: Instant,
    /// Something may have changed since they were told.
    figures_are_old: bool,
}

/// A group's consumer, and the nodes whose records name the group, each with whether it is linked.
type Announced = (String, Vec<(Author, bool)>);

impl Actor {
    /// Runs until the node stops.
    pub(super) async fn run(
        node: Node,
        mut inbox: mpsc::Receiver<Order>,
        handle: Consumers,
        figures: Arc<Mutex<Vec<ConsumerFigures>>>,
    ) {
        let Some(me) = author_of(&node.id()) else { return };
        let reader = node.log();
        let mut wake = reader.watch();
        let mut actor = Self {
            epoch: node.epoch(),
            me,
            held: BTreeMap::new(),
            queue: VecDeque::new(),
            writing: Vec::new(),
            written: mpsc::channel(1),
            committing: BTreeMap::new(),
            lives: 0,
            removing: BTreeSet::new(),
            handle,
            pushes: BTreeMap::new(),
            members: mpsc::channel(16),
            started: Instant::now(),
            looked_at_groups: None,
            looked_for_gaps: Instant::now(),
            figures,
            told_figures: Instant::now(),
            figures_are_old: true,
            reader,
            node: node.clone(),
        };
        if let Err(error) = actor.resume() {
            tracing::error!(%error, "the consumers cannot be read: there are none until the next start");
        }
        let stopped = node.stopped();
        tokio::pin!(stopped);
        loop {
            let more = actor.turn();
            actor.write();
            let deadline = if more { Instant::now() } else { actor.deadline() };
            let room = actor.queue.len() < MAX_QUEUED;
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(outcome) = actor.written.1.recv() => actor.end_write(outcome),
                Some((name, announced)) = actor.members.1.recv() => actor.take_members(&name, &announced),
                Some(order) = inbox.recv(), if room => order(&mut actor),
                () = tokio::time::sleep_until(deadline.into()) => {}
                changed = changed_beyond(&mut wake) => if changed.is_err() { break },
            }
        }
        actor.pushes.values().for_each(JoinHandle::abort);
    }

    pub(super) fn now_ms(&self) -> u64 {
        // Not 0: that means "at once".
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Goes on with the consumers that the store knows.
    fn resume(&mut self) -> Result<(), LogError> {
        for (name, config) in marks::all(&self.reader)? {
            let Some(config) = config else {
                // It was being removed when the process ended.
                self.sweep(&name)?;
                continue;
            };
            let read = serde_json::from_slice::<ConsumerConfig>(&config).map_err(|error| error.to_string());
            let held = read.and_then(|config| {
                let (reader, now_ms) = (&self.reader, self.now_ms());
                Held::resume(&name, config, reader, self.epoch, self.me, now_ms).map_err(|error| error.to_string())
            });
            match held {
                Ok(held) => self.hold(held),
                Err(error) => {
                    tracing::error!(consumer = name, %error, "this consumer cannot be read: it is left alone")
                }
            }
        }
        Ok(())
    }

    /// Takes a consumer in, in place of one of its name.
    pub(super) fn hold(&mut self, mut held: Held) {
        self.lives += 1;
        held.life = self.lives;
        self.push(&held.name, &held.config);
        self.held.insert(held.name.clone(), held);
    }

    /// Pushes to a consumer's webhook, if it has one, and no longer as it did before.
    pub(super) fn push(&mut self, name: &str, config: &ConsumerConfig) {
        if let Some(task) = self.pushes.remove(name) {
            task.abort();
        }
        if let Some(webhook) = &config.webhook {
            let worker = push::Worker::new(self.handle.clone(), name.to_owned(), webhook.clone(), config.ack_wait_ms);
            self.pushes.insert(name.to_owned(), tokio::spawn(worker.run()));
        }
    }

    /// Ends what works for a consumer that is no more.
    pub(super) fn let_go(&mut self, name: &str) -> Option<Held> {
        if let Some(task) = self.pushes.remove(name) {
            task.abort();
        }
        self.held.remove(name)
    }

    /// Removes all that a consumer has in the store, in writes that are not too large.
    pub(super) fn sweep(&mut self, name: &str) -> Result<(), LogError> {
        let removed = marks::remove(&self.reader, name)?;
        for marks in removed.chunks(REMOVE_RUN) {
            self.change(Change::marks(name, marks.to_vec()));
        }
        Ok(())
    }

    // ---- turns

    /// Lets every consumer go on for a while. True when any could go on at once.
    fn turn(&mut self) -> bool {
        let (now, now_ms, wall_ms) = (Instant::now(), self.now_ms(), wall_ms());
        let gaps = now - self.looked_for_gaps >= GAP_INTERVAL;
        if gaps {
            self.looked_for_gaps = now;
        }
        self.look_at_groups(now);
        let mut more = false;
        let names: Vec<String> = self.held.keys().cloned().collect();
        for name in names {
            let Some(held) = self.held.get_mut(&name) else { continue };
            match held.go_on(wall_ms, gaps) {
                Ok(further) => more |= further,
                Err(LogError::Closed) => {}
                Err(error) => tracing::error!(consumer = name, %error, "the log cannot be read"),
            }
            let expired = held.core.tick(now_ms, |rules, failures| rules.backoff_ms(failures, rand::random()));
            self.expire(&name, expired, "expired");
            self.serve(&name, now);
        }
        self.tell_figures(now);
        more
    }

    /// Tells those who scrape how far the consumers are, now and then.
    fn tell_figures(&mut self, now: Instant) {
        self.figures_are_old = now - self.told_figures < FIGURES_INTERVAL;
        if self.figures_are_old {
            return;
        }
        self.told_figures = now;
        let until = now + FIGURES_BUDGET;
        // One whose log cannot be read was told of when it was to go on.
        let figures = self.held.values_mut().filter_map(|held| held.figures(until).ok()).collect();
        *self.figures.lock() = figures;
    }

    fn deadline(&self) -> Instant {
        let far = Instant::now() + GAP_INTERVAL;
        let core = |held: &Held| held.core.deadline_ms().map(|ms| self.started + Duration::from_millis(ms));
        let waiters = |held: &Held| held.waiters.iter().map(|waiter| waiter.until).min();
        let group = self.held.values().any(|held| held.group.is_some()).then(|| Instant::now() + GROUP_INTERVAL);
        let all = self.held.values().flat_map(|held| [core(held), waiters(held)]);
        let figures = self.figures_are_old.then(|| self.told_figures + FIGURES_INTERVAL);
        all.chain([group, figures]).flatten().min().unwrap_or(far).min(far)
    }

    /// Answers those who wait for deliveries, as far as there are any.
    pub(super) fn serve(&mut self, name: &str, now: Instant) {
        let now_ms = self.now_ms();
        let Some(held) = self.held.get_mut(name) else { return };
        let mut gone_before = Vec::new();
        let mut waiters = std::mem::take(&mut held.waiters);
        let grouped = held.group.as_ref().is_none_or(super::group::Membership::is_ready);
        while let Some(waiter) = waiters.pop_front() {
            if waiter.reply.is_closed() {
                continue;
            }
            let ready = grouped && held.core.is_ready();
            let room = if ready { waiter.max.min(held.room_of(&waiter)) } else { 0 };
            if room == 0 && waiter.until > now {
                held.waiters.push_back(waiter);
                continue;
            }
            let deliveries = held.core.fetch(now_ms, waiter.member, room);
            let slots: Vec<Slot> = deliveries.iter().map(|delivery| delivery.slot).collect();
            let Loaded { events, again, gone, rest } = match held.load(&deliveries) {
                Ok(loaded) => loaded,
                Err(error) => {
                    held.core.take_back(&slots);
                    let _ = waiter.reply.send(Err(super::held::log_error(&error)));
                    continue;
                }
            };
            held.core.take_back(&rest);
            if !gone.is_empty() {
                held.miss(gone.len() as u64, false);
                gone_before.extend_from_slice(&gone);
                if events.is_empty() && waiter.until > now {
                    waiters.push_front(waiter);
                    continue;
                }
            }
            let gap = held.missed.filter(|_| std::mem::take(&mut held.missed_untold));
            let count = events.len() as u64;
            if waiter.reply.send(Ok(Fetched { events, gap })).is_ok() {
                held.handed_out = (held.handed_out.0 + count, held.handed_out.1 + again);
            } else {
                let kept: Vec<Slot> = slots.into_iter().filter(|slot| !gone.contains(slot)).collect();
                held.core.take_back(&kept);
                held.missed_untold |= gap.is_some();
            }
        }
        if !gone_before.is_empty() {
            let places: Vec<_> = gone_before.iter().map(|slot| slot.place).collect();
            let slots = held.core.settle(&places).begun;
            let life = held.life;
            self.change(Change { slots, ..Change::of(name, life) });
        }
    }

    // ---- failures

    pub(super) fn expire(&mut self, name: &str, expired: Vec<Expired>, outcome: &str) {
        for Expired { slot, failure } in expired {
            let change = self.fail(name, slot, failure, outcome, None);
            self.queue.extend(change);
        }
    }

    /// What is written of a delivery that failed.
    pub(super) fn fail(
        &mut self,
        name: &str,
        slot: Slot,
        failure: Failure,
        outcome: &str,
        reason: Option<&str>,
    ) -> Option<Change> {
        let later_ms = self.now_ms();
        let held = self.held.get_mut(name)?;
        let tries = held.tries.entry(slot).or_default();
        if tries.len() >= MAX_ATTEMPTS {
            tries.remove(0);
        }
        tries.push(Attempt { at_ms: wall_ms(), outcome: outcome.to_owned(), reason: reason.map(plain_reason) });
        let tries = tries.clone();
        let life = held.life;
        let mut change = Change::of(name, life);
        let later_ms = later_ms + held.config.rules().max_backoff_ms;
        match failure {
            Failure::Again { .. } if slot.letter > 0 => return None,
            Failure::Again { .. } => change.marks.push((marks::tries(name, slot.place), marks::json(&tries))),
            Failure::Dead => {
                let full = slot.letter == 0 && held.letters.len() >= MAX_LETTERS;
                if full {
                    tracing::warn!(
                        consumer = name,
                        "there is no room for more dead letters: an event that failed too often is tried again"
                    );
                    held.core.postpone(slot, later_ms);
                    return None;
                }
                let letter = match held.bury(slot, tries) {
                    Ok(letter) => letter,
                    Err(error) => {
                        tracing::error!(consumer = name, %error, "a dead letter cannot be made");
                        held.core.postpone(slot, later_ms);
                        return None;
                    }
                };
                change.slots.push(slot);
                let Some((letter, marks)) = letter else {
                    held.miss(1, false);
                    return Some(change);
                };
                change.marks = marks;
                let name = name.to_owned();
                change.done = Box::new(move |actor: &mut Self, outcome| {
                    let Some(held) = actor.held.get_mut(&name) else { return };
                    match outcome {
                        // It is in the store, also after a seek.
                        Ok(_) => {
                            held.letters.put(letter, None);
                            actor.handle.buried.send_modify(|count| *count += 1);
                        }
                        Err(_) if held.life == life => held.core.postpone(slot, later_ms),
                        Err(_) => {}
                    }
                });
            }
        }
        Some(change)
    }

    // ---- groups

    /// Asks now and then who is alive in the groups.
    fn look_at_groups(&mut self, now: Instant) {
        if self.looked_at_groups.is_some_and(|at| now - at < GROUP_INTERVAL) {
            return;
        }
        self.looked_at_groups = Some(now);
        for (name, held) in &self.held {
            let Some(group) = &held.group else { continue };
            let Ok(pattern) = Pattern::new(group.topic.as_str()) else { continue };
            let (node, name, found) = (self.node.clone(), name.clone(), self.members.0.clone());
            tokio::spawn(async move {
                if let Ok(members) = node.subscribers(pattern).await {
                    let _ = found.send((name, members)).await;
                }
            });
        }
    }

    fn take_members(&mut self, name: &str, announced: &[(Author, bool)]) {
        let now = Instant::now();
        let Some(held) = self.held.get_mut(name) else { return };
        let Some(group) = &mut held.group else { return };
        group.look_at(announced, now);
        held.core.set_share(Some(group.share()));
        if let Some(event) = group.alive(now) {
            let (node, topic) = (self.node.clone(), group.topic.clone());
            tokio::spawn(async move {
                let parts = vec![(topic, vec![event])];
                if let Err(error) = node.transact(Transaction { parts, ..Transaction::default() }).await {
                    tracing::debug!(%error, "the group was not told that this member is there");
                }
            });
        }
    }
}

/// Waits for something new in the log.
async fn changed_beyond(wake: &mut watch::Receiver<Arrival>) -> Result<(), watch::error::RecvError> {
    wake.changed().await?;
    wake.borrow_and_update();
    Ok(())
}
