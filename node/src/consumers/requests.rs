//! What is asked of consumers, but commits.

use std::time::{Duration, Instant};

use roundelay_protocol::consumer::{Place, Slot};
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::write_set::Mark;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::actor::Actor;
use super::config::{ConsumerConfig, check_name};
use super::error::ConsumersError;
use super::held::{Held, Waiter, log_error, parse_cursor, parse_place};
use super::types::{Acknowledged, ConsumerInfo, Lag, Letter, Which};
use super::writes::{Change, Written};
use super::{MAX_CONSUMERS, MAX_CURSORS, MAX_DELAY_MS, Reply, marks};
use crate::node::Node;

/// Those who wait for one consumer's events, at most.
const MAX_WAITERS: usize = 1_024;
/// How long one call counts events that were not read yet, for one consumer or for all.
const COUNTING_BUDGET: Duration = Duration::from_millis(200);
/// Letters that one write marks as redriven.
const REDRIVE_RUN: usize = 256;

/// An event that came of others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitEvent {
    /// Where it is published.
    pub topic: String,
    /// A CloudEvent in JSON. What it does not say is filled in, the id so that a repeated commit has the same.
    pub event: Box<RawValue>,
}

/// An event of a commit.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) topic: String,
    pub(crate) content: Content,
}

/// How an event of a commit is given.
#[derive(Debug)]
pub(crate) enum Content {
    /// As a CloudEvent in JSON, of which something may be missing.
    Json(Box<RawValue>),
    /// Whole.
    Whole(EncodedEvent),
}

impl From<CommitEvent> for Product {
    fn from(event: CommitEvent) -> Self {
        Self { topic: event.topic, content: Content::Json(event.event) }
    }
}

/// When an event is delivered again whose delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// After so many milliseconds.
    After(u64),
    /// By the consumer's own back-off.
    InTime,
    /// It goes to the dead letters.
    Never,
}

impl Actor {
    pub(super) fn held(&mut self, name: &str) -> Result<&mut Held, ConsumersError> {
        self.held.get_mut(name).ok_or_else(|| ConsumersError::NoConsumer(name.to_owned()))
    }

    pub(super) fn info(&mut self, name: &str) -> Result<ConsumerInfo, ConsumersError> {
        let until = Instant::now() + COUNTING_BUDGET;
        self.held(name)?.info(until)
    }

    pub(super) fn list(&mut self) -> Result<Vec<ConsumerInfo>, ConsumersError> {
        let until = Instant::now() + COUNTING_BUDGET;
        self.held.values_mut().map(|held| held.info(until)).collect()
    }

    // ---- set-up

    pub(super) fn put(
        &mut self,
        name: &str,
        config: ConsumerConfig,
        may_turn: bool,
        reply: Reply<(ConsumerInfo, bool)>,
    ) {
        let created = match self.prepare(name, config, may_turn) {
            Ok(created) => created,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Some(held) = self.held.get(name) else { return };
        let (life, config) = (held.life, held.config.clone());
        let node = self.node.clone();
        let owned = name.to_owned();
        self.change(Change {
            marks: vec![(marks::config(name), marks::json(&config))],
            done: Box::new(move |actor, outcome| match outcome {
                Ok(_) => {
                    let info = actor.info(&owned).map(|info| (info, created));
                    tokio::spawn(async move {
                        let heard = hear(&node, &config).await;
                        let _ = reply.send(heard.and(info));
                    });
                }
                Err(error) => {
                    if created && actor.held.get(&owned).is_some_and(|held| held.life == life) {
                        actor.let_go(&owned);
                    }
                    let _ = reply.send(Err(error));
                }
            }),
            ..Change::of(name, life)
        });
    }

    /// Takes a set-up; says whether it made a new consumer.
    fn prepare(&mut self, name: &str, config: ConsumerConfig, may_turn: bool) -> Result<bool, ConsumersError> {
        check_name(name)?;
        config.check()?;
        if self.removing.contains(name) {
            return Err(ConsumersError::BeingRemoved(name.to_owned()));
        }
        if let Some(held) = self.held.get_mut(name) {
            if !held.config.takes_the_same_as(&config) {
                if !may_turn || (&held.config.from, &held.config.group) != (&config.from, &config.group) {
                    return Err(ConsumersError::Exists(name.to_owned()));
                }
                held.turn_to(config.patterns()?);
            }
            held.core.set_rules(config.rules());
            let webhook_changed =
                held.config.webhook != config.webhook || held.config.ack_wait_ms != config.ack_wait_ms;
            held.config = config.clone();
            if webhook_changed {
                self.push(name, &config);
            }
            return Ok(false);
        }
        if self.held.len() >= MAX_CONSUMERS {
            return Err(ConsumersError::TooMany(MAX_CONSUMERS));
        }
        let held = Held::begin(name, config, &self.reader, self.epoch, self.me)?;
        self.hold(held);
        Ok(true)
    }

    pub(super) fn remove(&mut self, name: &str, reply: Reply<bool>) {
        let Some(held) = self.let_go(name) else { return drop(reply.send(Ok(false))) };
        for waiter in held.waiters {
            let _ = waiter.reply.send(Err(ConsumersError::NoConsumer(name.to_owned())));
        }
        // What was asked of it before goes first, so that nothing of it is written after it is gone.
        self.removing.insert(name.to_owned());
        let topic = held.config.group_topic();
        let shared = self.held.values().any(|other| other.config.group == held.config.group);
        let node = self.node.clone();
        if let Some(pattern) = topic.filter(|_| !shared).and_then(|topic| super::held::pattern(topic.as_str())) {
            tokio::spawn(async move { node.leave_topics(pattern).await });
        }
        let owned = name.to_owned();
        let done = Box::new(move |actor: &mut Self, outcome: Written<'_>| {
            let swept = outcome.and_then(|_| actor.sweep(&owned).map_err(|error| log_error(&error)));
            if let Err(error) = swept {
                actor.removing.remove(&owned);
                return drop(reply.send(Err(error)));
            }
            let name = owned.clone();
            actor.change(Change::answer(&owned, move |actor, outcome| {
                actor.removing.remove(&name);
                let _ = reply.send(outcome.map(|_| true));
            }));
        });
        self.change(Change { done, ..Change::marks(name, vec![(marks::config(name), None)]) });
    }

    pub(super) fn seek(&mut self, name: &str, to: &str, reply: Reply<Lag>) {
        let (life, marks) = match self.try_seek(name, to) {
            Ok(sought) => sought,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let owned = name.to_owned();
        let done = Box::new(move |actor: &mut Self, outcome: Written<'_>| {
            let _ = reply.send(outcome.and_then(|_| actor.info(&owned).map(|info| info.lag)));
        });
        self.change(Change { marks, done, ..Change::of(name, life) });
    }

    fn try_seek(&mut self, name: &str, to: &str) -> Result<(u64, Vec<Mark>), ConsumersError> {
        let (place, not_before) = parse_place(to, &self.reader, self.epoch)?;
        self.lives += 1;
        let life = self.lives;
        let held = self.held(name)?;
        if held.group.is_some() {
            return Err(ConsumersError::GroupSeek(name.to_owned()));
        }
        held.life = life;
        Ok((life, held.seek(place, not_before).map_err(|error| log_error(&error))?))
    }

    // ---- deliveries

    pub(super) fn fetch(&mut self, name: &str, waiter: Waiter) {
        match self.held(name) {
            Ok(held) if held.waiters.len() >= MAX_WAITERS => {
                let _ = waiter.reply.send(Err(ConsumersError::TooManyWaiters(MAX_WAITERS)));
            }
            // The next turn serves it.
            Ok(held) => held.waiters.push_back(waiter),
            Err(error) => drop(waiter.reply.send(Err(error))),
        }
    }

    pub(super) fn leave(&mut self, name: &str, member: u64) {
        let now_ms = self.now_ms();
        let Some(held) = self.held.get_mut(name) else { return };
        let expired = held.core.release(now_ms, member);
        self.expire(name, expired, "gone");
    }

    pub(super) fn places(&self, cursors: &[String]) -> Result<Vec<Place>, ConsumersError> {
        if cursors.is_empty() {
            return Err(ConsumersError::BadCall("no cursor is named: give the rdlcursor of one event at least".into()));
        }
        if cursors.len() > MAX_CURSORS {
            return Err(ConsumersError::TooLarge(format!("a call names at most {MAX_CURSORS} cursors")));
        }
        let mut places: Vec<Place> =
            cursors.iter().map(|text| parse_cursor(text, self.epoch)).collect::<Result<_, _>>()?;
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    /// The places of events that were delivered.
    fn delivered(&mut self, name: &str, cursors: &[String]) -> Result<Vec<Place>, ConsumersError> {
        let places = self.places(cursors)?;
        let held = self.held(name)?;
        match places.iter().find(|place| !held.core.knows(**place)) {
            Some(place) => Err(ConsumersError::NotDelivered(held.cursor(*place), name.to_owned())),
            None => Ok(places),
        }
    }

    /// Begins to call events done, all or none. The second part are those that are done, or on the way to be.
    pub(super) fn settle(&mut self, name: &str, places: &[Place]) -> Result<(Vec<Slot>, Vec<Place>), ConsumersError> {
        let held = self.held(name)?;
        let settling = held.core.settle(places);
        if let Some(place) = settling.unknown.first() {
            let cursor = held.cursor(*place);
            held.core.revert(&settling.begun);
            return Err(ConsumersError::NotDelivered(cursor, name.to_owned()));
        }
        Ok((settling.begun, settling.already))
    }

    /// The change that calls events done. Dead letters that were delivered again go with it. When it cannot be made,
    /// the events are as before.
    pub(super) fn done_with(&mut self, name: &str, slots: Vec<Slot>) -> Result<Change, ConsumersError> {
        let letters: Vec<u64> = slots.iter().map(|slot| slot.letter).filter(|letter| *letter > 0).collect();
        let removed: Result<Vec<Vec<Mark>>, _> =
            letters.iter().map(|letter| marks::remove_letter(&self.reader, name, *letter)).collect();
        let held = self.held(name)?;
        let removed = removed.map_err(|error| {
            held.core.revert(&slots);
            log_error(&error)
        })?;
        let owned = name.to_owned();
        let done = Box::new(move |actor: &mut Self, outcome: Written<'_>| {
            if let (Ok(_), Some(held)) = (outcome, actor.held.get_mut(&owned)) {
                letters.iter().for_each(|letter| held.letters.remove(*letter));
            }
        });
        Ok(Change { slots, marks: removed.concat(), done, ..Change::of(name, held.life) })
    }

    pub(super) fn ack(&mut self, name: &str, which: Which, reply: Reply<Acknowledged>) {
        let places = match which {
            Which::Each(cursors) => self.places(&cursors),
            Which::UpTo(cursor) => parse_cursor(&cursor, self.epoch)
                .and_then(|upto| self.held(name).map(|held| held.core.delivered_upto(upto))),
        };
        match places {
            Ok(places) => self.ack_places(name, &places, Acknowledged::default(), reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Acknowledges, beside what the same call has acknowledged already.
    fn ack_places(&mut self, name: &str, places: &[Place], before: Acknowledged, reply: Reply<Acknowledged>) {
        let begun = self.settle(name, places);
        let begun = begun.and_then(|(slots, already)| {
            let events = before.events + slots.len() as u64;
            Ok((self.done_with(name, slots)?, events, already))
        });
        let (change, events, already) = match begun {
            Ok(begun) => begun,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (then, life, owned) = (change.done, change.life, name.to_owned());
        let done = Box::new(move |actor: &mut Self, outcome: Written<'_>| {
            let told = outcome.clone().map(drop);
            then(actor, outcome);
            // What was on the way to be done may have been refused meanwhile.
            let held = actor.held.get(&owned).filter(|held| held.life == life && told.is_ok());
            let open: Vec<Place> = held.map_or_else(Vec::new, |held| {
                already.iter().copied().filter(|place| held.core.is_open(*place)).collect()
            });
            let acknowledged = Acknowledged { events, already: (already.len() - open.len()) as u64 + before.already };
            if open.is_empty() {
                let _ = reply.send(told.map(|()| acknowledged));
            } else {
                actor.ack_places(&owned, &open, acknowledged, reply);
            }
        });
        self.change(Change { done, ..change });
    }

    pub(super) fn nack(
        &mut self,
        name: &str,
        cursors: &[String],
        again: Again,
        reason: Option<&str>,
        reply: Reply<Acknowledged>,
    ) {
        let delay_ms = match again {
            Again::After(delay_ms) => Some(delay_ms),
            Again::InTime | Again::Never => None,
        };
        let too_long = delay_ms.is_some_and(|delay_ms| delay_ms > MAX_DELAY_MS);
        let places = match too_long {
            true => Err(ConsumersError::BadCall(format!("delay_ms is at most {MAX_DELAY_MS}, which is a day"))),
            false => self.delivered(name, cursors),
        };
        let places = match places {
            Ok(places) => places,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let now_ms = self.now_ms();
        let mut acknowledged = Acknowledged::default();
        for place in places {
            let Some(held) = self.held.get_mut(name) else { break };
            let failures = held.core.failures(place) + 1;
            let backoff_ms = held.core.rules().backoff_ms(failures, rand::random());
            let failed = match again {
                Again::Never => held.core.give_up(now_ms, place),
                _ => held.core.fail(now_ms, place, delay_ms.unwrap_or(backoff_ms)),
            };
            match failed {
                Some((slot, failure)) => {
                    acknowledged.events += 1;
                    let change = self.fail(name, slot, failure, "refused", reason);
                    self.queue.extend(change);
                }
                None => acknowledged.already += 1,
            }
        }
        self.change(Change::answer(name, move |_, outcome| drop(reply.send(outcome.map(|_| acknowledged)))));
    }

    pub(super) fn extend(&mut self, name: &str, cursors: &[String]) -> Result<Acknowledged, ConsumersError> {
        let places = self.delivered(name, cursors)?;
        let now_ms = self.now_ms();
        let extended = self.held(name)?.core.extend(now_ms, &places);
        Ok(Acknowledged { events: extended as u64, already: (places.len() - extended) as u64 })
    }

    // ---- dead letters

    pub(super) fn dead(&mut self, name: &str, after: u64, max: usize) -> Result<Vec<Letter>, ConsumersError> {
        let letters = self.held(name)?.letters.iter();
        Ok(letters.filter(|letter| letter.number > after).take(max).cloned().collect())
    }

    pub(super) fn dead_letter(&mut self, name: &str, number: u64) -> Result<(Letter, Vec<u8>), ConsumersError> {
        let reader = self.reader.clone();
        let held = self.held(name)?;
        let letter = held.letters.get(number).cloned();
        let event = held.letters.event(&reader, name, number).map_err(|error| log_error(&error))?;
        letter.zip(event).ok_or_else(|| ConsumersError::NoLetter(name.to_owned(), number))
    }

    pub(super) fn redrive(&mut self, name: &str, number: Option<u64>, reply: Reply<u64>) {
        let prepared = self.prepare_redrive(name, number);
        let letters = match prepared {
            Ok(letters) => letters,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let count = letters.len() as u64;
        let Some(life) = self.held.get(name).map(|held| held.life) else { return };
        let mut letters = letters.into_iter().peekable();
        while letters.peek().is_some() {
            let run: Vec<_> = letters.by_ref().take(REDRIVE_RUN).collect();
            let marks = run.iter().map(|(_, mark, _)| mark.clone()).collect();
            let owned = name.to_owned();
            let done = Box::new(move |actor: &mut Self, outcome: Written<'_>| {
                let Some(held) = actor.held.get_mut(&owned).filter(|_| outcome.is_ok()) else { return };
                for (letter, _, offer) in run {
                    held.core.redrive(letter.number, offer);
                    held.letters.put(letter, Some(offer));
                }
            });
            self.change(Change { marks, done, ..Change::of(name, life) });
        }
        self.change(Change::answer(name, move |_, outcome| drop(reply.send(outcome.map(|_| count)))));
    }

    #[allow(clippy::type_complexity)]
    fn prepare_redrive(
        &mut self,
        name: &str,
        number: Option<u64>,
    ) -> Result<Vec<(Letter, Mark, roundelay_protocol::consumer::Offer)>, ConsumersError> {
        let reader = self.reader.clone();
        let held = self.held(name)?;
        let wanted = |letter: &&Letter| !letter.redriven && number.is_none_or(|number| number == letter.number);
        let numbers: Vec<u64> = held.letters.iter().filter(wanted).map(|letter| letter.number).collect();
        if let Some(number) = number.filter(|number| held.letters.get(*number).is_none()) {
            return Err(ConsumersError::NoLetter(name.to_owned(), number));
        }
        let mut prepared = Vec::new();
        for number in numbers {
            prepared.extend(held.letters.redrive(&reader, name, number).map_err(|error| log_error(&error))?);
        }
        Ok(prepared)
    }
}

/// Subscribes the node to what a consumer takes and to its group's topic, where it does not subscribe to it yet.
async fn hear(node: &Node, config: &ConsumerConfig) -> Result<(), ConsumersError> {
    let mut patterns = config.patterns()?;
    patterns.extend(config.group_topic().and_then(|topic| super::held::pattern(topic.as_str())));
    for pattern in patterns {
        node.cover(pattern).await?;
    }
    Ok(())
}
