//! What consumers keep in the store, as marks.
//!
//! | mark | value |
//! | --- | --- |
//! | `consumer/NAME` | how it is set up, in JSON; without it the others are remains |
//! | `consumer/NAME/state/N` | a piece of the snapshot; N in two hexadecimal digits |
//! | `consumer/NAME/tries/PLACE` | the failed deliveries of an event that is not done, in JSON |
//! | `consumer/NAME/commit/N` | a commit that was made, in JSON; N in four hexadecimal digits, used in turn |
//! | `consumer/NAME/missed` | what was pruned before it was done, in JSON |
//! | `dead/NAME/letter/N` | a dead letter without its event, in JSON; N in 16 hexadecimal digits |
//! | `dead/NAME/event/N/M` | a piece of its event as a CloudEvent in JSON; M in four hexadecimal digits |

use std::collections::BTreeMap;

use roundelay_protocol::consumer::{Place, Snapshot};
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::write_set::Mark;
use serde::Serialize;

use crate::log::{LogError, LogReader};

/// Bytes of one mark's value: larger leaves of the store would be written beside it.
const PIECE_BYTES: usize = 16_000;

/// Marks of set-ups, and all else of consumers.
pub(super) const CONSUMERS: &str = "consumer/";
/// Marks of dead letters.
pub(super) const DEAD: &str = "dead/";

pub(super) fn config(name: &str) -> Vec<u8> {
    format!("{CONSUMERS}{name}").into_bytes()
}

/// The names of all consumers that have marks, with their set-ups where there is one.
pub(super) fn all(reader: &LogReader) -> Result<BTreeMap<String, Option<Vec<u8>>>, LogError> {
    let mut found: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for (mark, value) in reader.marks(CONSUMERS.as_bytes())? {
        let text = String::from_utf8_lossy(&mark).into_owned();
        let mut parts = text[CONSUMERS.len()..].splitn(2, '/');
        let name = parts.next().unwrap_or_default().to_owned();
        let entry = found.entry(name).or_default();
        if parts.next().is_none() {
            *entry = Some(value);
        }
    }
    Ok(found)
}

/// Removes everything that a consumer has, the set-up first.
pub(super) fn remove(reader: &LogReader, name: &str) -> Result<Vec<Mark>, LogError> {
    let mut marks = vec![(config(name), None)];
    for prefix in [format!("{CONSUMERS}{name}/"), format!("{DEAD}{name}/")] {
        marks.extend(reader.marks(prefix.as_bytes())?.into_iter().map(|(mark, _)| (mark, None)));
    }
    Ok(marks)
}

/// A snapshot in pieces, and the removal of pieces that an earlier one had.
pub(super) fn snapshot(name: &str, snapshot: &Snapshot, pieces_before: usize) -> (Vec<Mark>, usize) {
    let bytes = snapshot.encode();
    let mark = |number: usize| format!("{CONSUMERS}{name}/state/{number:02x}").into_bytes();
    let mut marks: Vec<Mark> =
        bytes.chunks(PIECE_BYTES).enumerate().map(|(number, piece)| (mark(number), Some(piece.to_vec()))).collect();
    let pieces = marks.len();
    marks.extend((pieces..pieces_before).map(|number| (mark(number), None)));
    (marks, pieces)
}

pub(super) fn read_snapshot(reader: &LogReader, name: &str) -> Result<(Option<Snapshot>, usize), LogError> {
    let pieces = reader.marks(format!("{CONSUMERS}{name}/state/").as_bytes())?;
    let bytes: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.iter().copied()).collect();
    Ok((Snapshot::decode(&bytes).ok(), pieces.len()))
}

pub(super) fn tries(name: &str, place: Place) -> Vec<u8> {
    format!("{CONSUMERS}{name}/tries/{:016x}{:08x}", place.arrival.0, place.index).into_bytes()
}

/// The failed deliveries of a consumer, in JSON, by place.
pub(super) fn read_tries(reader: &LogReader, name: &str) -> Result<Vec<(Place, Vec<u8>)>, LogError> {
    let prefix = format!("{CONSUMERS}{name}/tries/");
    let place = |mark: &[u8]| {
        let digits = std::str::from_utf8(mark.get(prefix.len()..)?).ok()?;
        let (arrival, index) = digits.split_at_checked(16)?;
        let arrival = Arrival(u64::from_str_radix(arrival, 16).ok()?);
        Some(Place { arrival, index: u32::from_str_radix(index, 16).ok()? })
    };
    let found = reader.marks(prefix.as_bytes())?;
    Ok(found.into_iter().filter_map(|(mark, value)| Some((place(&mark)?, value))).collect())
}

pub(super) fn commit(name: &str, number: u64) -> Vec<u8> {
    format!("{CONSUMERS}{name}/commit/{number:04x}").into_bytes()
}

pub(super) fn read_commits(reader: &LogReader, name: &str) -> Result<Vec<Vec<u8>>, LogError> {
    let found = reader.marks(format!("{CONSUMERS}{name}/commit/").as_bytes())?;
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

pub(super) fn missed(name: &str) -> Vec<u8> {
    format!("{CONSUMERS}{name}/missed").into_bytes()
}

pub(super) fn letter(name: &str, number: u64) -> Vec<u8> {
    format!("{DEAD}{name}/letter/{number:016x}").into_bytes()
}

pub(super) fn read_letters(reader: &LogReader, name: &str) -> Result<Vec<Vec<u8>>, LogError> {
    let found = reader.marks(format!("{DEAD}{name}/letter/").as_bytes())?;
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

fn letter_event(name: &str, number: u64) -> String {
    format!("{DEAD}{name}/event/{number:016x}/")
}

/// The event of a dead letter in pieces.
pub(super) fn event(name: &str, number: u64, event: &[u8]) -> Vec<Mark> {
    let prefix = letter_event(name, number);
    let piece = |(piece, bytes): (usize, &[u8])| (format!("{prefix}{piece:04x}").into_bytes(), Some(bytes.to_vec()));
    event.chunks(PIECE_BYTES).enumerate().map(piece).collect()
}

pub(super) fn read_event(reader: &LogReader, name: &str, number: u64) -> Result<Vec<u8>, LogError> {
    let pieces = reader.marks(letter_event(name, number).as_bytes())?;
    Ok(pieces.into_iter().flat_map(|(_, piece)| piece).collect())
}

/// Removes a dead letter with its event.
pub(super) fn remove_letter(reader: &LogReader, name: &str, number: u64) -> Result<Vec<Mark>, LogError> {
    let pieces = reader.marks(letter_event(name, number).as_bytes())?;
    let removed = pieces.into_iter().map(|(mark, _)| (mark, None));
    Ok(removed.chain([(letter(name, number), None)]).collect())
}

/// A value in JSON: what is written so has nothing that JSON cannot say.
pub(super) fn json(value: &impl Serialize) -> Option<Vec<u8>> {
    Some(serde_json::to_vec(value).unwrap_or_default())
}
