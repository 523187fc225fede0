//! One consumer as the node holds it: what it decides by, where it reads, and what of it is in the store.

mod loading;
mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

pub(super) use loading::{Found, Loaded};
use reading::Ahead;
use roundelay_protocol::consumer::{Consumer, Place, Slot, Snapshot, beginning};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Author, StoreEpoch};
use roundelay_protocol::topic::Pattern;
use roundelay_protocol::write_set::Mark;
use tokio::sync::oneshot;

use super::config::ConsumerConfig;
use super::error::ConsumersError;
use super::letters::Letters;
use super::marks;
use super::types::{Attempt, ConsumerInfo, Fetched, Lag, Letter, Missed};
use crate::clock::wall_ms;
use crate::cursor::Cursor;
use crate::log::{LogError, LogReader};
use crate::metrics::ConsumerFigures;
use crate::peer_id::text_of;
use crate::subscription::TopicMemory;

/// Failed deliveries that are kept of one event.
pub(super) const MAX_ATTEMPTS: usize = 64;

/// Marks of failed deliveries that one write removes because others did their events.
const MAX_STALE: usize = 1_024;

/// Somebody who waits for deliveries.
pub(super) struct Waiter {
    pub(super) member: u64,
    pub(super) max: usize,
    /// Events that it may have that are not answered.
    pub(super) bound: usize,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<Fetched, ConsumersError>>,
}

/// A consumer.
pub(super) struct Held {
    pub(super) name: String,
    /// Tells it from others of its name, and from what it was before a seek.
    pub(super) life: u64,
    pub(super) config: ConsumerConfig,
    pub(super) core: Consumer,
    pub(super) letters: Letters,
    pub(super) tries: BTreeMap<Slot, Vec<Attempt>>,
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) missed: Option<Missed>,
    /// What was missed is still to be told to a fetch.
    pub(super) missed_untold: bool,
    pub(super) state_pieces: usize,
    pub(super) commits: super::commits::Commits,
    pub(super) group: Option<super::group::Membership>,
    epoch: StoreEpoch,
    reader: LogReader,
    topics: TopicMemory,
    /// The last sequence number that was read of each log, to tell what was pruned before.
    seen: BTreeMap<LogKey, u64>,
    ahead: Ahead,
    /// Events that were handed out, and those of them that had been before.
    pub(super) handed_out: (u64, u64),
}

/// Where a set-up or a seek says that a consumer begins: a place, and a time before which nothing is for it.
pub(super) fn parse_place(text: &str, reader: &LogReader, epoch: StoreEpoch) -> Result<(Place, Hlc), ConsumersError> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    match text {
        "start" => Ok((beginning(), Hlc(0))),
        "end" => Ok((Place::end_of(reader.last_arrival()), Hlc(0))),
        _ => match text.strip_prefix('@').and_then(digits) {
            Some(ms) => Ok((beginning(), Hlc::from_ms(ms))),
            None => {
                let place = parse_cursor(text, epoch)?;
                let last = reader.last_arrival();
                if place.arrival > last {
                    return Err(ConsumersError::BadConfig(format!(
                        "cursor '{text}' is beyond the end of this node's log, whose last arrival number is {}: events \
                         in between would be skipped. Use 'end', or a cursor of an event that is here",
                        last.0
                    )));
                }
                Ok((place, Hlc(0)))
            }
        },
    }
}

pub(super) fn parse_cursor(text: &str, epoch: StoreEpoch) -> Result<Place, ConsumersError> {
    let cursor: Cursor = text.parse().map_err(|error: crate::cursor::BadCursor| {
        ConsumersError::BadConfig(format!("{error}; places are start, end, @MILLISECONDS and cursors"))
    })?;
    match cursor.epoch == epoch {
        true => Ok(Place { arrival: cursor.arrival, index: cursor.index }),
        false => Err(ConsumersError::OtherStore(text.to_owned())),
    }
}

/// A text that is known to be a pattern.
pub(super) fn pattern(text: &str) -> Option<Pattern> {
    Pattern::new(text).ok()
}

pub(super) fn log_error(error: &LogError) -> ConsumersError {
    match error {
        LogError::Closed => ConsumersError::Stopped,
        _ => ConsumersError::Log(error.to_string()),
    }
}

impl Held {
    /// Reads on in other topics.
    pub(super) fn turn_to(&mut self, patterns: Vec<Pattern>) {
        self.topics = TopicMemory::new(patterns);
        // What was counted is of the topics before.
        self.ahead = Ahead::default();
    }

    /// A consumer that begins.
    pub(super) fn begin(
        name: &str,
        config: ConsumerConfig,
        reader: &LogReader,
        epoch: StoreEpoch,
        me: Author,
    ) -> Result<Self, ConsumersError> {
        let (floor, not_before) = parse_place(&config.from, reader, epoch)?;
        let snapshot = Snapshot { floor, not_before, done: Vec::new() };
        let core = Consumer::new(config.rules(), snapshot, BTreeMap::new());
        let mut held = Self {
            name: name.to_owned(),
            life: 0,
            topics: TopicMemory::new(config.patterns()?),
            group: super::group::Membership::of(&config, me),
            config,
            core,
            letters: Letters::default(),
            tries: BTreeMap::new(),
            waiters: VecDeque::new(),
            missed: None,
            missed_untold: false,
            state_pieces: 0,
            commits: super::commits::Commits::default(),
            epoch,
            reader: reader.clone(),
            seen: BTreeMap::new(),
            ahead: Ahead::default(),
            handed_out: (0, 0),
        };
        held.read_back().map_err(|error| log_error(&error))?;
        Ok(held)
    }

    /// A consumer that goes on from what the store knows of it.
    pub(super) fn resume(
        name: &str,
        config: ConsumerConfig,
        reader: &LogReader,
        epoch: StoreEpoch,
        me: Author,
        now_ms: u64,
    ) -> Result<Self, ConsumersError> {
        let read = |error: LogError| log_error(&error);
        let mut held = Self::begin(name, ConsumerConfig { from: "start".into(), ..config.clone() }, reader, epoch, me)?;
        held.config = config;
        let (snapshot, pieces) = marks::read_snapshot(reader, name).map_err(read)?;
        held.state_pieces = pieces;
        let floor = snapshot.as_ref().map_or(beginning(), |snapshot| snapshot.floor);
        let mut failures = BTreeMap::new();
        for (place, value) in marks::read_tries(reader, name).map_err(read)? {
            let attempts: Vec<Attempt> = serde_json::from_slice(&value).unwrap_or_default();
            let failed = attempts.len() as u32;
            // How long it has waited already is not known any more.
            let wait_ms = held.config.rules().backoff_ms(failed, rand::random());
            if place > floor {
                failures.insert(place, (failed, now_ms + wait_ms));
            }
            // What is not above the floor goes with the next write.
            held.tries.insert(Slot { place, letter: 0 }, attempts);
        }
        let missing = snapshot.is_none();
        held.core = Consumer::new(held.config.rules(), snapshot.unwrap_or_default(), failures);
        if missing {
            tracing::warn!(consumer = name, "what it had done is not known: it begins anew");
        }
        held.letters = Letters::read(reader, name).map_err(read)?;
        held.commits = super::commits::Commits::read(reader, name).map_err(read)?;
        let missed = reader.mark(&marks::missed(name)).map_err(read)?;
        held.missed = missed.and_then(|value| serde_json::from_slice(&value).ok());
        held.seen.clear();
        held.read_back().map_err(read)?;
        held.look_below();
        held.redrive_again();
        Ok(held)
    }

    /// Offers dead letters that are being delivered again.
    pub(super) fn redrive_again(&mut self) {
        for (number, offer) in self.letters.redriven() {
            self.core.redrive(number, offer);
        }
    }

    pub(super) fn miss(&mut self, events: u64, more: bool) {
        if events == 0 && !more {
            return;
        }
        let missed = self.missed.get_or_insert_default();
        missed.events = missed.events.saturating_add(events);
        missed.more |= more;
        missed.at_ms = wall_ms();
        self.missed_untold = true;
        tracing::warn!(consumer = self.name, events, "events were pruned before this consumer had done them");
    }

    /// Goes on from elsewhere. What is to be removed from the store with that.
    pub(super) fn seek(&mut self, place: Place, not_before: Hlc) -> Result<Vec<Mark>, LogError> {
        self.core.seek(place, not_before);
        let tries = std::mem::take(&mut self.tries);
        let marks =
            tries.keys().filter(|slot| slot.letter == 0).map(|slot| (marks::tries(&self.name, slot.place), None));
        let marks = marks.collect();
        self.seen.clear();
        self.ahead = Ahead::default();
        self.read_back()?;
        self.look_below();
        self.redrive_again();
        Ok(marks)
    }

    /// Makes a dead letter, or changes one whose event was delivered again in vain. `None`: its event is gone.
    pub(super) fn bury(&mut self, slot: Slot, tries: Vec<Attempt>) -> Result<Option<(Letter, Vec<Mark>)>, LogError> {
        if slot.letter > 0 {
            let failed = self.letters.fail_again(&self.name, slot.letter, tries);
            return Ok(failed.map(|(letter, mark)| (letter, vec![mark])));
        }
        let Some(found) = self.find(slot.place)? else { return Ok(None) };
        Ok(Some(self.letters.draw(&self.name, &found, self.cursor(slot.place), tries)))
    }

    /// The id and the correlation of an event that is being processed.
    pub(super) fn id_of(&self, slot: &Slot) -> Result<Option<(String, Option<String>)>, LogError> {
        if slot.letter == 0 {
            return Ok(self.find(slot.place)?.map(|found| (found.id, found.correlation)));
        }
        #[derive(serde::Deserialize)]
        struct Attributes {
            id: String,
            correlationid: Option<String>,
        }
        let json = self.letters.event(&self.reader, &self.name, slot.letter)?;
        let read = json.and_then(|json| serde_json::from_slice::<Attributes>(&json).ok());
        Ok(read.map(|event| (event.id, event.correlationid)))
    }

    pub(super) fn cursor(&self, place: Place) -> String {
        Cursor { epoch: self.epoch, arrival: place.arrival, index: place.index }.to_string()
    }

    /// Events that somebody may get beside those that it has.
    pub(super) fn room_of(&self, waiter: &Waiter) -> usize {
        match waiter.bound {
            usize::MAX => usize::MAX,
            bound => bound.saturating_sub(self.core.delivered_to(waiter.member)),
        }
    }

    // ---- what is known of it

    /// All of it; counts what was not read yet until a time.
    pub(super) fn info(&mut self, until: Instant) -> Result<ConsumerInfo, ConsumersError> {
        let lag = self.lag(until).map_err(|error| log_error(&error))?;
        Ok(ConsumerInfo { name: self.name.clone(), config: self.config.clone(), lag })
    }

    /// How far it is; counts what was not read yet until a time.
    fn lag(&mut self, until: Instant) -> Result<Lag, LogError> {
        let all = self.count_ahead(until)?;
        let progress = self.core.progress();
        let oldest = match progress.first {
            Some(place) => self.reader.batch(place.arrival)?.map(|batch| batch.header().first_hlc.as_ms()),
            None => None,
        };
        let members = self.group.iter().flat_map(|group| group.members().map(|member| text_of(&Author(*member))));
        Ok(Lag {
            events: self.core.undone() as u64 + self.ahead.events,
            more: !all,
            waiting: progress.waiting as u64,
            in_flight: progress.in_flight as u64,
            of_other_members: progress.foreign as u64,
            oldest_ms: oldest,
            cursor: self.cursor(progress.floor),
            dead: self.letters.len() as u64,
            missed: self.missed,
            members: members.collect(),
        })
    }

    /// The same for those who scrape: what costs little.
    pub(super) fn figures(&mut self, until: Instant) -> Result<ConsumerFigures, LogError> {
        self.count_ahead(until)?;
        let (deliveries, redeliveries) = self.handed_out;
        Ok(ConsumerFigures {
            name: self.name.clone(),
            lag_events: self.core.undone() as u64 + self.ahead.events,
            in_flight_events: self.core.in_flight() as u64,
            dead_letters: self.letters.len() as u64,
            deliveries,
            redeliveries,
            members: self.group.as_ref().map_or(0, |group| group.members().count() as u64),
        })
    }

    /// Everything about it that is written with an acknowledgement.
    pub(super) fn state(&mut self, settled: &BTreeSet<Slot>) -> Vec<Mark> {
        let (mut marks, pieces) = marks::snapshot(&self.name, &self.core.snapshot(settled), self.state_pieces);
        self.state_pieces = pieces.max(self.state_pieces);
        if let Some(missed) = &self.missed {
            marks.push((marks::missed(&self.name), marks::json(missed)));
        }
        for slot in settled.iter().filter(|slot| slot.letter == 0 && self.tries.contains_key(slot)) {
            marks.push((marks::tries(&self.name, slot.place), None));
        }
        // Another member of the group did these, or did them before a restart.
        let done = ..=Slot { place: self.core.floor(), letter: u64::MAX };
        let stale = self.tries.range(done).map(|(slot, _)| *slot).filter(|slot| slot.letter == 0);
        for slot in stale.take(MAX_STALE).collect::<Vec<_>>() {
            self.tries.remove(&slot);
            marks.push((marks::tries(&self.name, slot.place), None));
        }
        marks
    }
}
