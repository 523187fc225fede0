//! One consumer as the node holds it: what it decides by, where it reads, and what of it is in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::consumer::{
    Consumer, Delivery, Identity, Key, MAX_REMEMBERED, Offer, Place, Slot, Snapshot, beginning,
};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::heads::LogKey;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, StoreEpoch};
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::write_set::Mark;
use tokio::sync::oneshot;

use super::config::ConsumerConfig;
use super::error::ConsumersError;
use super::letters::Letters;
use super::marks;
use super::types::{Attempt, Fetched, Lag, Letter, Missed};
use crate::cloudevents::{self, write_event};
use crate::cursor::Cursor;
use crate::log::{LogError, LogReader};
use crate::peer_id::text_of;

/// Batches and bytes that one turn reads for a consumer, at most.
const READ_BATCHES: usize = 256;
const READ_BYTES: usize = 1024 * 1024;
/// Batches that are read back for what a consumer remembers of repeats.
const READ_BACK_BATCHES: usize = 4_096;
/// Events that are counted, beyond those that were looked at, for a consumer's lag.
const MAX_COUNTED: u64 = 1_000_000;
/// Topics whose match is remembered, and logs whose last sequence number is.
const MAX_REMEMBERED_LOGS: usize = 65_536;
/// Failed deliveries that are kept of one event.
pub(super) const MAX_ATTEMPTS: usize = 64;

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
    patterns: Vec<Pattern>,
    matching: HashMap<Topic, bool>,
    /// The last sequence number that was read of each log, to tell what was pruned before.
    seen: BTreeMap<LogKey, u64>,
}

/// An event that was read again, to be delivered or kept.
pub(super) struct Found {
    pub(super) json: Vec<u8>,
    pub(super) topic: String,
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) id: String,
    pub(super) key: Option<String>,
    pub(super) correlation: Option<String>,
}

/// Where a set-up or a seek says that a consumer begins: a place, and a time before which nothing is for it.
pub(super) fn parse_place(text: &str, reader: &LogReader, epoch: StoreEpoch) -> Result<(Place, Hlc), ConsumersError> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    match text {
        "start" => Ok((beginning(), Hlc(0))),
        "end" => Ok((Place::end_of(reader.last_arrival()), Hlc(0))),
        _ => match text.strip_prefix('@').and_then(digits) {
            Some(ms) => Ok((beginning(), Hlc::from_ms(ms))),
            None => Ok((parse_cursor(text, epoch)?, Hlc(0))),
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
            patterns: config.patterns()?,
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
            matching: HashMap::new(),
            seen: BTreeMap::new(),
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
        let mut failures = BTreeMap::new();
        for (place, value) in marks::read_tries(reader, name).map_err(read)? {
            let attempts: Vec<Attempt> = serde_json::from_slice(&value).unwrap_or_default();
            let failed = attempts.len() as u32;
            // How long it has waited already is not known any more.
            let wait_ms = held.config.rules().backoff_ms(failed, rand::random());
            failures.insert(place, (failed, now_ms + wait_ms));
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

    fn is_wanted(&mut self, topic: &Topic) -> bool {
        if let Some(known) = self.matching.get(topic) {
            return *known;
        }
        if self.matching.len() >= MAX_REMEMBERED_LOGS {
            self.matching.clear();
        }
        let wanted = self.patterns.iter().any(|pattern| pattern.matches(topic));
        self.matching.insert(topic.clone(), wanted);
        wanted
    }

    fn takes(&self, event: &EventView<'_>) -> bool {
        let kinds = &self.config.types;
        event.hlc >= self.core.not_before() && (kinds.is_empty() || kinds.iter().any(|kind| kind == event.kind))
    }

    // ---- reading

    /// Reads on for one turn. True when there may be more.
    pub(super) fn read_on(&mut self) -> Result<bool, LogError> {
        let last = self.reader.last_arrival();
        let read = self.core.read();
        let after = if read.index == u32::MAX { read.arrival } else { Arrival(read.arrival.0.saturating_sub(1)) };
        if after >= last || self.core.room() == 0 {
            return Ok(false);
        }
        let reader = self.reader.clone();
        let this = std::cell::RefCell::new(&mut *self);
        let scan = reader.scan_topic(&|topic| this.borrow_mut().is_wanted(topic), after, READ_BATCHES, READ_BYTES)?;
        for (arrival, batch) in scan.batches {
            if self.core.room() == 0 {
                return Ok(false);
            }
            self.note_gap(&batch);
            let topic = batch.header().topic.as_str();
            for ((_, item), index) in batch.items().zip(0..) {
                if let Item::Event(event) = item
                    && self.takes(&event)
                {
                    self.core.offer(offer(topic, &event, Place { arrival, index }));
                }
            }
            self.core.pass(Place::end_of(arrival));
        }
        self.core.pass(Place::end_of(scan.next));
        Ok(scan.next < last)
    }

    /// Remembers what came last before the floor, so that repeats of it are recognised.
    fn read_back(&mut self) -> Result<(), LogError> {
        let floor = self.core.read();
        let mut before = Arrival(floor.arrival.0.saturating_add(1));
        let (mut identities, mut batches) = (Vec::new(), 0);
        while before.0 > 1 && identities.len() < MAX_REMEMBERED && batches < READ_BACK_BATCHES {
            let reader = self.reader.clone();
            let this = std::cell::RefCell::new(&mut *self);
            let wanted = |topic: &Topic| this.borrow_mut().is_wanted(topic);
            let scan = reader.scan_back(&wanted, before, READ_BATCHES, READ_BYTES)?;
            before = scan.next;
            batches += scan.batches.len();
            for (arrival, batch) in scan.batches {
                let header = batch.header();
                let seen = self.seen.entry(LogKey { topic: header.topic.clone(), author: header.author }).or_default();
                *seen = header.last_seq().max(*seen);
                let topic = header.topic.as_str();
                let events = batch.items().zip(0..).filter_map(|((_, item), index)| match item {
                    Item::Event(event) if Place { arrival, index } <= floor && self.takes(&event) => {
                        Some(Identity::new(topic, event.source, event.id))
                    }
                    _ => None,
                });
                identities.extend(events.collect::<Vec<_>>().into_iter().rev());
            }
        }
        identities.truncate(MAX_REMEMBERED);
        identities.into_iter().rev().for_each(|identity| self.core.remember(identity));
        Ok(())
    }

    // ---- what was pruned first

    /// Events of a log between what was read last and this batch are lost when the log's floor says so.
    fn note_gap(&mut self, batch: &VerifiedBatch) {
        let header = batch.header();
        let key = LogKey { topic: header.topic.clone(), author: header.author };
        let read = self.seen.get(&key).copied().unwrap_or(0);
        if header.first_seq > read + 1 {
            let floor = self.reader.record(&key).ok().flatten().map_or(0, |record| record.floor);
            self.miss(floor.min(header.first_seq - 1).saturating_sub(read), false);
        }
        if self.seen.len() < MAX_REMEMBERED_LOGS || self.seen.contains_key(&key) {
            self.seen.insert(key, header.last_seq().max(read));
        }
    }

    /// Looks whether logs were pruned beyond what was read of them.
    pub(super) fn look_for_gaps(&mut self) {
        let mut lost = 0;
        for (key, read) in &mut self.seen {
            let floor = self.reader.record(key).ok().flatten().map_or(0, |record| record.floor);
            if floor > *read {
                lost += floor - *read;
                *read = floor;
            }
        }
        self.miss(lost, false);
    }

    /// After a start: whether the place to go on from is below everything that is left here.
    fn look_below(&mut self) {
        let floor = self.core.read().arrival;
        if floor.0 > 0 && self.reader.last_arrival() > floor && matches!(self.reader.chain_at(floor), Ok(None)) {
            self.miss(0, true);
        }
    }

    pub(super) fn miss(&mut self, events: u64, more: bool) {
        if events == 0 && !more {
            return;
        }
        let missed = self.missed.get_or_insert_default();
        missed.events = missed.events.saturating_add(events);
        missed.more |= more;
        missed.at_ms = super::wall_ms();
        self.missed_untold = true;
        tracing::warn!(consumer = self.name, events, "events were pruned before this consumer had done them");
    }

    /// Reads on, and looks for what was pruned now and then. True when there may be more.
    pub(super) fn go_on(&mut self, wall_ms: u64, look_for_gaps: bool) -> Result<bool, LogError> {
        let mut more = false;
        if let Some(group) = &mut self.group {
            more |= group.read_on(&self.reader, &mut self.core, wall_ms)?;
        }
        if look_for_gaps && self.core.read().arrival < self.reader.last_arrival() {
            self.look_for_gaps();
        }
        Ok(self.read_on()? || more)
    }

    /// Goes on from elsewhere. What is to be removed from the store with that.
    pub(super) fn seek(&mut self, place: Place, not_before: Hlc) -> Result<Vec<Mark>, LogError> {
        self.core.seek(place, not_before);
        let tries = std::mem::take(&mut self.tries);
        let marks =
            tries.keys().filter(|slot| slot.letter == 0).map(|slot| (marks::tries(&self.name, slot.place), None));
        let marks = marks.collect();
        self.seen.clear();
        self.read_back()?;
        self.redrive_again();
        Ok(marks)
    }

    /// Makes a dead letter, or changes one whose event was delivered again in vain. `None`: its event is gone.
    #[allow(clippy::type_complexity)]
    pub(super) fn bury(
        &mut self,
        slot: Slot,
        tries: Vec<Attempt>,
    ) -> Result<Option<((String, u64, Letter), Vec<Mark>)>, LogError> {
        if slot.letter > 0 {
            let failed = self.letters.fail_again(&self.name, slot.letter, tries);
            return Ok(failed.map(|(letter, mark)| ((self.name.clone(), self.life, letter), vec![mark])));
        }
        let Some(found) = self.find(slot.place)? else { return Ok(None) };
        let (letter, marks) = self.letters.draw(&self.name, &found, self.cursor(slot.place), tries);
        Ok(Some(((self.name.clone(), self.life, letter), marks)))
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

    // ---- deliveries

    /// Reads deliveries back from the log. Those that are gone are told apart.
    pub(super) fn load(&self, deliveries: &[Delivery]) -> Result<(Vec<Vec<u8>>, Vec<Slot>), LogError> {
        let (mut events, mut gone) = (Vec::new(), Vec::new());
        let mut batch: Option<(Arrival, Option<VerifiedBatch>)> = None;
        for Delivery { slot, attempt } in deliveries {
            let found = if slot.letter > 0 {
                self.letters.event(&self.reader, &self.name, slot.letter)?
            } else {
                let arrival = slot.place.arrival;
                if batch.as_ref().is_none_or(|(at, _)| *at != arrival) {
                    batch = Some((arrival, self.batch_at(arrival)?));
                }
                let batch = batch.as_ref().and_then(|(_, batch)| batch.as_ref());
                batch.and_then(|batch| self.render(batch, slot.place)).map(|found| found.json)
            };
            match found {
                Some(json) => events.push(with_delivery(json, &self.cursor(slot.place), *attempt)),
                None => gone.push(*slot),
            }
        }
        Ok((events, gone))
    }

    /// An event as it is in the log.
    pub(super) fn find(&self, place: Place) -> Result<Option<Found>, LogError> {
        Ok(self.batch_at(place.arrival)?.and_then(|batch| self.render(&batch, place)))
    }

    fn batch_at(&self, arrival: Arrival) -> Result<Option<VerifiedBatch>, LogError> {
        let before = Arrival(arrival.0.saturating_sub(1));
        let found = self.reader.scan(before, 1, READ_BYTES)?.into_iter().next();
        Ok(found.filter(|(at, _)| *at == arrival).map(|(_, batch)| batch))
    }

    fn render(&self, batch: &VerifiedBatch, place: Place) -> Option<Found> {
        let (seq, item) = batch.items().nth(place.index as usize)?;
        let Item::Event(event) = item else { return None };
        let header = batch.header();
        let author = text_of(&header.author);
        let at = cloudevents::Place { topic: header.topic.as_str(), author: &author, seq, arrival: place.arrival };
        let mut json = Vec::with_capacity(event.data.len() + 512);
        write_event(&mut json, &event, &at);
        Some(Found {
            json,
            topic: header.topic.to_string(),
            kind: event.kind.to_owned(),
            source: event.source.to_owned(),
            id: event.id.to_owned(),
            key: event.key.map(str::to_owned),
            correlation: event.correlation.map(str::to_owned),
        })
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

    pub(super) fn lag(&mut self) -> Result<Lag, LogError> {
        let progress = self.core.progress();
        let (ahead, more) = self.count_ahead(progress.read)?;
        let oldest = match progress.first {
            Some(place) => self.batch_at(place.arrival)?.map(|batch| batch.header().first_hlc.as_ms()),
            None => None,
        };
        let members = self.group.iter().flat_map(|group| group.members().map(|member| text_of(&Author(*member))));
        Ok(Lag {
            events: (progress.waiting + progress.in_flight + progress.foreign) as u64 + ahead,
            more,
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

    /// Counts what matches beyond what was read.
    fn count_ahead(&mut self, read: Place) -> Result<(u64, bool), LogError> {
        let (mut after, mut events) = (read.arrival, 0);
        let reader = self.reader.clone();
        let began = Instant::now();
        while after < reader.last_arrival() {
            if events >= MAX_COUNTED || began.elapsed() > Duration::from_millis(200) {
                return Ok((events, true));
            }
            let this = std::cell::RefCell::new(&mut *self);
            let wanted = |topic: &Topic| this.borrow_mut().is_wanted(topic);
            let scan = reader.scan_topic(&wanted, after, READ_BATCHES, READ_BYTES)?;
            after = scan.next;
            for (_, batch) in scan.batches {
                let all = self.config.types.is_empty() && batch.header().first_hlc >= self.core.not_before();
                events += match all {
                    true => batch.header().count - u64::from(batch.dropped()),
                    false => {
                        batch.items().filter(|(_, item)| matches!(item, Item::Event(e) if self.takes(e))).count() as u64
                    }
                };
            }
        }
        Ok((events, false))
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
        marks
    }
}

/// The offer of an event.
pub(super) fn offer(topic: &str, event: &EventView<'_>, place: Place) -> Offer {
    Offer { place, key: event.key.map(Key::new), identity: Identity::new(topic, event.source, event.id) }
}

/// Adds to an event in JSON what is known of its delivery.
fn with_delivery(mut json: Vec<u8>, cursor: &str, attempt: u32) -> Vec<u8> {
    if json.last() == Some(&b'}') {
        json.pop();
        json.extend_from_slice(format!(r#","rdlcursor":"{cursor}","rdlattempt":{attempt}}}"#).as_bytes());
    }
    json
}
