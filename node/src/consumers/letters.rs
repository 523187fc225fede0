//! Dead letters: events that failed too often, each with a copy and every attempt.

use std::collections::BTreeMap;

use roundelay_protocol::consumer::{Identity, Key, Offer, Place};
use roundelay_protocol::ids::StoreEpoch;
use roundelay_protocol::write_set::Mark;
use serde::Deserialize;

use super::held::{Found, MAX_ATTEMPTS, parse_cursor};
use super::marks;
use super::types::{Attempt, Letter};
use crate::clock::wall_ms;
use crate::cursor::Cursor;
use crate::log::{LogError, LogReader};

/// Dead letters that one consumer keeps. While there are so many, events that fail too often are delivered again.
pub(super) const MAX_LETTERS: usize = 10_000;
/// Bytes of a text in a letter that says what an event is, or why it failed.
const MAX_TEXT_BYTES: usize = 256;
const MAX_REASON_BYTES: usize = 100;

/// The dead letters of one consumer, without their events.
#[derive(Debug, Default)]
pub(super) struct Letters {
    letters: BTreeMap<u64, Letter>,
    /// What they are recognised by and belong to, when they are delivered again.
    offers: BTreeMap<u64, Offer>,
    last: u64,
}

impl Letters {
    pub(super) fn read(reader: &LogReader, name: &str) -> Result<Self, LogError> {
        let mut letters = Self::default();
        for value in marks::read_letters(reader, name)? {
            let Ok(letter) = serde_json::from_slice::<Letter>(&value) else { continue };
            if letter.redriven
                && let Some(offer) = letters.offer_of(reader, name, &letter)?
            {
                letters.offers.insert(letter.number, offer);
            }
            letters.last = letters.last.max(letter.number);
            letters.letters.insert(letter.number, letter);
        }
        Ok(letters)
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Letter> {
        self.letters.values()
    }

    pub(super) fn get(&self, number: u64) -> Option<&Letter> {
        self.letters.get(&number)
    }

    /// A new letter, with the marks that keep it.
    pub(super) fn draw(
        &mut self,
        name: &str,
        found: &Found,
        cursor: String,
        tries: Vec<Attempt>,
    ) -> (Letter, Vec<Mark>) {
        self.last += 1;
        let letter = Letter {
            number: self.last,
            cursor,
            topic: found.topic.clone(),
            kind: plain(&found.kind, MAX_TEXT_BYTES),
            source: plain(&found.source, MAX_TEXT_BYTES),
            id: plain(&found.id, MAX_TEXT_BYTES),
            key: found.key.as_deref().map(|key| plain(key, MAX_TEXT_BYTES)),
            reason: reason(&tries),
            at_ms: wall_ms(),
            attempts: tries,
            failures: 1,
            redriven: false,
        };
        let mut marks = marks::event(name, letter.number, &found.json);
        marks.push((marks::letter(name, letter.number), marks::json(&letter)));
        (letter, marks)
    }

    /// A letter that was delivered again in vain, with the mark that keeps it.
    pub(super) fn fail_again(&self, name: &str, number: u64, tries: Vec<Attempt>) -> Option<(Letter, Mark)> {
        let mut letter = self.letters.get(&number)?.clone();
        letter.reason = reason(&tries);
        letter.attempts.extend(tries);
        letter.attempts.drain(..letter.attempts.len().saturating_sub(MAX_ATTEMPTS));
        (letter.redriven, letter.at_ms) = (false, wall_ms());
        letter.failures = letter.failures.saturating_add(1);
        let mark = (marks::letter(name, number), marks::json(&letter));
        Some((letter, mark))
    }

    /// What is written when a letter is delivered again, and what is then offered.
    pub(super) fn redrive(
        &self,
        reader: &LogReader,
        name: &str,
        number: u64,
    ) -> Result<Option<(Letter, Mark, Offer)>, LogError> {
        let Some(letter) = self.letters.get(&number) else { return Ok(None) };
        let letter = Letter { redriven: true, ..letter.clone() };
        let Some(offer) = self.offer_of(reader, name, &letter)? else { return Ok(None) };
        let mark = (marks::letter(name, number), marks::json(&letter));
        Ok(Some((letter, mark, offer)))
    }

    /// A letter was written.
    pub(super) fn put(&mut self, letter: Letter, offer: Option<Offer>) {
        match offer {
            Some(offer) => self.offers.insert(letter.number, offer),
            None => self.offers.remove(&letter.number),
        };
        self.letters.insert(letter.number, letter);
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.letters.remove(&number);
        self.offers.remove(&number);
    }

    /// Those that are being delivered again.
    pub(super) fn redriven(&self) -> Vec<(u64, Offer)> {
        self.offers.iter().map(|(number, offer)| (*number, *offer)).collect()
    }

    /// The event of a letter as a CloudEvent in JSON.
    pub(super) fn event(&self, reader: &LogReader, name: &str, number: u64) -> Result<Option<Vec<u8>>, LogError> {
        let json = marks::read_event(reader, name, number)?;
        Ok((!json.is_empty()).then_some(json))
    }

    fn offer_of(&self, reader: &LogReader, name: &str, letter: &Letter) -> Result<Option<Offer>, LogError> {
        #[derive(Deserialize)]
        struct Attributes {
            id: String,
            source: String,
            partitionkey: Option<String>,
        }
        let json = marks::read_event(reader, name, letter.number)?;
        let Ok(event) = serde_json::from_slice::<Attributes>(&json) else { return Ok(None) };
        let Some(place) = place_of(&letter.cursor) else { return Ok(None) };
        Ok(Some(Offer {
            place,
            key: event.partitionkey.as_deref().map(Key::new),
            identity: Identity::new(&letter.topic, &event.source, &event.id),
        }))
    }
}

fn place_of(cursor: &str) -> Option<Place> {
    let epoch: StoreEpoch = cursor.parse::<Cursor>().ok()?.epoch;
    parse_cursor(cursor, epoch).ok()
}

fn reason(tries: &[Attempt]) -> String {
    let last = tries.last().map(|attempt| match &attempt.reason {
        Some(reason) => format!("{}: {reason}", attempt.outcome),
        None => attempt.outcome.clone(),
    });
    let last = last.unwrap_or_default();
    match tries.len() {
        1 => format!("the delivery failed: {last}"),
        several => format!("{several} deliveries failed; the last one: {last}"),
    }
}

/// What was said of a failure, so that it fits a mark and a table.
pub(super) fn plain_reason(text: &str) -> String {
    plain(text, MAX_REASON_BYTES)
}

/// A text without what JSON would have to escape, cut to so many bytes.
fn plain(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('"', "'").replace(|c: char| c.is_control() || c == '\\', " ").trim().to_owned()
}
