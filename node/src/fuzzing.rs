//! Doors to readers that are private otherwise, for the entries in `tests/fuzzing`. No part of the library.

use std::time::Duration;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::topic::{Pattern, Topic};

use crate::api::fuzzing as api;
use crate::api::types::From;
use crate::cli::values;
use crate::log;

/// Decodes an entry of the store and encodes it again.
#[must_use]
pub fn recode_entry(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    log::recode_entry(key, value)
}

/// The record of a log from its bytes.
#[must_use]
pub fn decode_record(value: &[u8]) -> Option<LogRecord> {
    log::decode_record(value)
}

/// A key in a backup, and its value unless it is to be removed.
pub type BackupEntry = (Vec<u8>, Option<Vec<u8>>);

/// The entries of a backup after its first line.
#[must_use]
pub fn backup_entries(bytes: &[u8]) -> Option<Vec<BackupEntry>> {
    log::backup_entries(bytes).ok()
}

/// The events of a request to publish, with their ids, and whether what they lack may be filled in.
#[must_use]
pub fn published(
    source: &str,
    headers: &[(&str, &[u8])],
    body: Bytes,
    fill: bool,
) -> Option<(Vec<String>, Vec<EncodedEvent>)> {
    api::published(source, headers, body, fill)
}

/// An event of an import, and its topic.
#[must_use]
pub fn imported(line: &[u8]) -> Option<(Topic, EncodedEvent)> {
    api::imported(line)
}

/// The lines of a body that comes in chunks.
#[must_use]
pub fn lines(chunks: Vec<Bytes>) -> Vec<Bytes> {
    api::lines(chunks)
}

/// What a query asks of the stream of events.
#[must_use]
pub fn streamed(query: &str) -> Option<(Vec<Pattern>, From)> {
    api::streamed(query)
}

/// A peer id in a path.
#[must_use]
pub fn peer(text: &str) -> Option<PeerId> {
    api::peer(text)
}

/// An address in a file, a flag or a request.
#[must_use]
pub fn address(text: &str, to_listen: bool) -> Option<Multiaddr> {
    crate::config::parse_address(text, to_listen).ok()
}

/// A span of time on the command line.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    values::duration(text).ok()
}

/// A place to begin at on the command line, `now` being a time with a zone.
#[must_use]
pub fn from_at(text: &str, now: &str) -> Option<From> {
    values::from_at(text, &now.parse().ok()?).ok()
}

/// The other values on the command line: whether each is taken.
#[must_use]
pub fn other_values(text: &str) -> [bool; 4] {
    let rate = values::rate(text).is_ok_and(|rate| rate > 0.0);
    let (pair, count) = (values::attribute(text).is_ok(), values::topic_count(text).is_ok());
    [values::multiaddr(text).is_ok(), pair, rate, count]
}
