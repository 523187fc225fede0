//! What people and programs write in arguments, queries, paths and settings.

use roundelay::api::types::From;
use roundelay::fuzzing::{address, duration, from_at, other_values, peer, streamed};
use roundelay::units::{format_bytes, parse_bytes};

/// The time on the clock of whoever types.
const NOW: &str = "2026-03-02T12:00:00+01:00[Europe/Berlin]";

/// Any text as a size, a span, a place, an address, a peer id, a query.
pub fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(size) = parse_bytes(text) {
        assert!(size <= 1 << 53);
        // Shown with three digits, so within a hundredth.
        let shown = parse_bytes(&format_bytes(size)).expect("what is shown can be typed");
        assert!(shown.abs_diff(size) <= size / 100, "{size} {shown}");
    }
    if let Some(span) = duration(text) {
        assert!(span.as_secs() <= i64::MAX as u64);
    }
    if let Ok(place) = text.parse::<From>() {
        assert_eq!(place.to_string().parse(), Ok(place), "a place reads back as it is written");
        let typed = from_at(text, NOW);
        assert!(typed.is_none_or(|typed| typed == place) || matches!(place, From::TimeMs(_)));
    }
    if let Some(place) = from_at(text, NOW) {
        assert_eq!(place.to_string().parse(), Ok(place));
    }
    for to_listen in [true, false] {
        if let Some(address) = address(text, to_listen) {
            assert_eq!(self::address(&address.to_string(), to_listen), Some(address));
        }
    }
    if let Some(peer) = peer(text) {
        assert_eq!(self::peer(&peer.to_base58()), Some(peer));
        if let Some(author) = roundelay::peer_id::author_of(&peer) {
            // Not every 32 bytes are a key; those that are lead back.
            assert!(roundelay::peer_id::peer_id_of(&author).is_none_or(|again| again == peer));
        }
    }
    if let Some((patterns, _)) = streamed(text) {
        assert!(!patterns.is_empty() && patterns.len() <= roundelay_protocol::limits::MAX_PATTERNS);
    }
    let [_, _, rate, _] = other_values(text);
    assert!(!rate || text.parse::<f64>().is_ok_and(|rate| rate > 0.0));
}
