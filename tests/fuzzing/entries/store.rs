//! What is read back from the store, and from a backup of one.

use roundelay::fuzzing::{backup_entries, decode_record, recode_entry};
use roundelay_protocol::frame::{Frame, Head, Hello, Position};
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, Incarnation, StoreEpoch};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::{Config, Input, Now, Replica};
use roundelay_protocol::topic::Pattern;

use super::stand_in::Stamp;
use super::within_memory;

/// Any bytes as a key and its value, as the record of a log, and as the entries of a backup.
pub fn store(bytes: &[u8]) {
    let (key_len, rest) = bytes.split_first().map_or((0, bytes), |(len, rest)| (usize::from(*len), rest));
    let (key, value) = rest.split_at(key_len.min(rest.len()));
    if let Some((key_again, value_again)) = recode_entry(key, value) {
        assert_eq!(key_again, key);
        // Numbers in a record may have been written longer than need be; nothing else has two forms.
        if key.first() == Some(&b'l') {
            let twice = recode_entry(&key_again, &value_again).expect("what was encoded decodes");
            assert_eq!(twice, (key_again, value_again));
        } else {
            assert_eq!(value_again, value);
        }
    }
    for bytes in [bytes, value] {
        if let Some(record) = decode_record(bytes) {
            live_with(record);
        }
    }
    if let Some(entries) = within_memory(bytes.len() * 24, || backup_entries(bytes)) {
        let length = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| 9 + key.len() + value.as_ref().map_or(0, Vec::len);
        assert!(entries.iter().map(length).sum::<usize>() < bytes.len(), "entries are cut from the file");
    }
}

/// A node starts over a store with this record, and meets a peer that knows the log.
fn live_with(record: LogRecord) {
    let interest = Interest::new(vec![Pattern::all()], vec![]);
    let position = Position { epoch: StoreEpoch(1), arrival: Arrival(9), chain: Chain([1; 16]) };
    let config = Config {
        incarnation: Incarnation(1),
        position,
        batch_bytes: 1,
        cap_bytes: 1 << 30,
        log_limits: roundelay_protocol::quota::LogLimits::default(),
        max_gossip_bytes: 1 << 16,
        interest: interest.clone(),
        rules: roundelay_protocol::rules::Rules::default(),
        arrival_times: roundelay_protocol::arrival_times::ArrivalTimes::default(),
        seed: 1,
    };
    let log = record.key.clone();
    let mut now = Now { mono_ms: 1, wall_ms: 1_700_000_000_000 };
    let mut replica = Replica::new(Stamp(log.author), config, vec![record], now);
    let peer = Author([200; 32]);
    let hello = Hello { process: 1, nonce: 1, epoch: StoreEpoch(2), clock_ms: now.wall_ms, interest, memory: None };
    let tips = vec![(5, BatchHash([1; 32])), (1 << 40, BatchHash([2; 32]))];
    let heads =
        Frame::Heads { heads: vec![Head { log, floor: 0, holes_to: 0, tips }], upto: Some(position), events: 9 };
    replica.handle(now, Input::LinkUp { peer, link: 1, nonce: 2, memory: None });
    for frame in [Frame::Hello(hello), Frame::Want { topics: vec![], last: true }, heads] {
        replica.handle(now, Input::Frame { peer, link: 1, frame, chain: None });
        now.mono_ms += 1_000;
        replica.handle(now, Input::Tick);
    }
    assert!(replica.missing().iter().all(|range| 1 <= range.from && range.from <= range.to));
    assert_eq!(replica.links().len(), 1);
}
