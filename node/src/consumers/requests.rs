//! What is asked of consumers, but commits.

use roundelay_protocol::consumer::{Place, Slot};
use roundelay_protocol::write_set::Mark;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::actor::Actor;
use super::config::{ConsumerConfig, check_name};
use super::error::ConsumersError;
use super::held::{Held, Waiter, log_error, parse_cursor, parse_place};
use super::types::{Acknowledged, ConsumerInfo, Lag, Letter, Which};
use super::writes::Change;
use super::{MAX_CONSUMERS, MAX_CURSORS, Reply, marks};
use crate::node::Node;

/// Those who wait for one consumer's events, at most.
const MAX_WAITERS: usize = 1_024;
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

impl Actor {
    pub(super) fn held(&mut self, name: &str) -> Result<&mut Held, ConsumersError> {
        self.held.get_mut(name).ok_or_else(|| ConsumersError::NoConsumer(name.to_owned()))
    }

    pub(super) fn info(&mut self, name: &str) -> Result<ConsumerInfo, ConsumersError> {
        let held = self.held(name)?;
        let lag = held.lag().map_err(|error| log_error(&error))?;
        Ok(ConsumerInfo { name: name.to_owned(), config: held.config.clone(), lag })
    }

    pub(super) fn list(&mut self) -> Result<Vec<ConsumerInfo>, ConsumersError> {
        let names: Vec<String> = self.held.keys().cloned().collect();
        names.iter().map(|name| self.info(name)).collect()
    }

    // ---- set-up

    pub(super) fn put(&mut self, name: &str, config: ConsumerConfig, reply: Reply<(ConsumerInfo, bool)>) {
        let created = match self.prepare(name, config) {
            Ok(created) => created,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Some(held) = self.held.get(name) else { return };
        let (life, config) = (held.life, held.config.clone());
        let node = self.node.clone();
        let owned = name.to_owned();
        self.change(Change {
            consumer: name.to_owned(),
            life,
            slots: Vec::new(),
            marks: vec![(marks::config(name), marks::json(&config))],
            parts: Vec::new(),
            alone: false,
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
        });
    }

    /// Takes a set-up; says whether it made a new consumer.
    fn prepare(&mut self, name: &str, config: ConsumerConfig) -> Result<bool, ConsumersError> {
        check_name(name)?;
        config.check()?;
        if self.removing.contains(name) {
            return Err(ConsumersError::BeingRemoved(name.to_owned()));
        }
        if let Some(held) = self.held.get_mut(name) {
            if !held.config.takes_the_same_as(&config) {
                return Err(ConsumersError::Exists(name.to_owned()));
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
        self.change(Change {
            consumer: name.to_owned(),
            life: 0,
            slots: Vec::new(),
            marks: vec![(marks::config(name), None)],
            parts: Vec::new(),
            alone: false,
            done: Box::new(move |actor, outcome| {
                let swept = outcome.and_then(|_| actor.sweep(&owned).map_err(|error| log_error(&error)));
                let Err(error) = swept else {
                    return actor.change(Change {
                        consumer: owned.clone(),
                        life: 0,
                        slots: Vec::new(),
                        marks: Vec::new(),
                        parts: Vec::new(),
                        alone: false,
                        done: Box::new(move |actor, outcome| {
                            actor.removing.remove(&owned);
                            let _ = reply.send(outcome.map(|_| true));
                        }),
                    });
                };
                actor.removing.remove(&owned);
                let _ = reply.send(Err(error));
            }),
        });
    }

    pub(super) fn seek(&mut self, name: &str, to: &str, reply: Reply<Lag>) {
        let sought = self.try_seek(name, to);
        let change = match sought {
            Ok((life, marks)) => (life, marks),
            Err(error) => return drop(reply.send(Err(error))),
        };
        let owned = name.to_owned();
        self.change(Change {
            consumer: name.to_owned(),
            life: change.0,
            slots: Vec::new(),
            marks: change.1,
            parts: Vec::new(),
            alone: false,
            done: Box::new(move |actor, outcome| {
                let _ = reply.send(outcome.and_then(|_| actor.info(&owned).map(|info| info.lag)));
            }),
        });
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
                let words = format!("{MAX_WAITERS} calls wait for events of this consumer already: ask again later");
                let _ = waiter.reply.send(Err(ConsumersError::TooLarge(words)));
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
        if cursors.is_empty() || cursors.len() > MAX_CURSORS {
            return Err(ConsumersError::TooLarge(format!("a call names 1 to {MAX_CURSORS} cursors")));
        }
        let mut places: Vec<Place> =
            cursors.iter().map(|text| parse_cursor(text, self.epoch)).collect::<Result<_, _>>()?;
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    /// Begins to call events done, all or none.
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

    /// The change that calls events done. Dead letters that were delivered again go with it.
    pub(super) fn done_with(&mut self, name: &str, slots: Vec<Slot>) -> Result<Change, ConsumersError> {
        let reader = self.reader.clone();
        let mut removed = Vec::new();
        for slot in slots.iter().filter(|slot| slot.letter > 0) {
            removed.extend(marks::remove_letter(&reader, name, slot.letter).map_err(|error| log_error(&error))?);
        }
        let life = self.held(name)?.life;
        let letters: Vec<u64> = slots.iter().map(|slot| slot.letter).filter(|letter| *letter > 0).collect();
        let owned = name.to_owned();
        Ok(Change {
            consumer: name.to_owned(),
            life,
            slots,
            marks: removed,
            parts: Vec::new(),
            alone: false,
            done: Box::new(move |actor, outcome| {
                if let (Ok(_), Some(held)) = (outcome, actor.held.get_mut(&owned)) {
                    letters.iter().for_each(|letter| held.letters.remove(*letter));
                }
            }),
        })
    }

    pub(super) fn ack(&mut self, name: &str, which: Which, reply: Reply<Acknowledged>) {
        let change = self.try_ack(name, which);
        let (change, acknowledged) = match change {
            Ok(change) => change,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let then = change.done;
        let done = Box::new(move |actor: &mut Self, outcome: Result<&[u64], ConsumersError>| {
            let told = outcome.clone().map(|_| acknowledged);
            then(actor, outcome);
            let _ = reply.send(told);
        });
        self.change(Change { done, ..change });
    }

    fn try_ack(&mut self, name: &str, which: Which) -> Result<(Change, Acknowledged), ConsumersError> {
        let places = match which {
            Which::Each(cursors) => self.places(&cursors)?,
            Which::UpTo(cursor) => {
                let upto = parse_cursor(&cursor, self.epoch)?;
                self.held(name)?.core.delivered_upto(upto)
            }
        };
        let (slots, already) = self.settle(name, &places)?;
        let acknowledged = Acknowledged { events: slots.len() as u64, already: already.len() as u64 };
        Ok((self.done_with(name, slots)?, acknowledged))
    }

    pub(super) fn nack(
        &mut self,
        name: &str,
        cursors: &[String],
        delay_ms: Option<u64>,
        reason: Option<&str>,
        reply: Reply<Acknowledged>,
    ) {
        let places = match self.places(cursors).and_then(|places| self.held(name).map(|_| places)) {
            Ok(places) => places,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let now_ms = self.now_ms();
        let mut acknowledged = Acknowledged::default();
        for place in places {
            let Some(held) = self.held.get_mut(name) else { break };
            let failures = held.core.failures(place) + 1;
            let backoff_ms = held.core.rules().backoff_ms(failures, rand::random());
            match held.core.fail(now_ms, place, delay_ms.unwrap_or(backoff_ms)) {
                Some((slot, failure)) => {
                    acknowledged.events += 1;
                    let change = self.fail(name, slot, failure, "refused", reason);
                    self.queue.extend(change);
                }
                None => acknowledged.already += 1,
            }
        }
        // Answered behind what was queued now.
        self.change(Change {
            consumer: name.to_owned(),
            life: 0,
            slots: Vec::new(),
            marks: Vec::new(),
            parts: Vec::new(),
            alone: false,
            done: Box::new(move |_, outcome| drop(reply.send(outcome.map(|_| acknowledged)))),
        });
    }

    pub(super) fn extend(&mut self, name: &str, cursors: &[String]) -> Result<Acknowledged, ConsumersError> {
        let places = self.places(cursors)?;
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
            self.change(Change {
                consumer: name.to_owned(),
                life,
                slots: Vec::new(),
                marks,
                parts: Vec::new(),
                alone: false,
                done: Box::new(move |actor, outcome| {
                    let Some(held) = actor.held.get_mut(&owned).filter(|_| outcome.is_ok()) else { return };
                    for (letter, _, offer) in run {
                        held.core.redrive(letter.number, offer);
                        held.letters.put(letter, Some(offer));
                    }
                }),
            });
        }
        self.change(Change {
            consumer: name.to_owned(),
            life: 0,
            slots: Vec::new(),
            marks: Vec::new(),
            parts: Vec::new(),
            alone: false,
            done: Box::new(move |_, outcome| drop(reply.send(outcome.map(|_| count)))),
        });
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
