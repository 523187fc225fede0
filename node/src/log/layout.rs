//! Keys and values, byte by byte. The head of [`super`] draws them.

use roundelay_protocol::codec::{CodecError, Reader, Writer};
use roundelay_protocol::heads::{Hole, LogKey, LogRecord, MAX_HOLES, Tip, Tips};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Chain, StoreEpoch};
use roundelay_protocol::limits::{MAX_HEADER_BYTES, MAX_SEQ, MAX_TIPS, MAX_TOPIC_BYTES};
use roundelay_protocol::sign::Signature;
use roundelay_protocol::topic::Topic;

/// The format that this program reads and writes.
pub(super) const FORMAT: u8 = 2;
/// The key of the one value that describes the store.
pub(super) const STORE_KEY: &[u8] = b"f";
/// Batches up to this size are one value. Larger ones have only their head in their row, so that rows stay quick to
/// walk.
pub(super) const INLINE_BYTES: usize = 2048;
/// What a row has of a larger batch: enough for every header and signature.
pub(super) const HEAD_BYTES: usize = MAX_HEADER_BYTES + Signature::BYTES;
/// Bytes of a chunk of a body. Together with the segment size it decides how fast sled is, and that a leaf of 17 such
/// values never becomes a blob file, which sled would not sync.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;

/// A log's number in one store: short, so that keys are.
pub(super) type LogId = u32;

/// What describes the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreRow {
    pub(super) epoch: StoreEpoch,
    /// Everything up to here was pruned, and no rows are left but the one here.
    pub(super) floor: Arrival,
    /// Bytes of all batches that were ever pruned.
    pub(super) pruned_bytes: u64,
    /// Up to here a batch that was pruned leaves no row.
    pub(super) thinned: Arrival,
}

impl StoreRow {
    pub(super) fn encode(&self) -> [u8; 33] {
        let mut value = [FORMAT; 33];
        value[1..9].copy_from_slice(&self.epoch.0.to_be_bytes());
        value[9..17].copy_from_slice(&self.floor.0.to_be_bytes());
        value[17..25].copy_from_slice(&self.pruned_bytes.to_be_bytes());
        value[25..].copy_from_slice(&self.thinned.0.to_be_bytes());
        value
    }

    /// `Err` holds the format of a store that is not of ours.
    pub(super) fn decode(value: &[u8]) -> Option<Result<Self, u8>> {
        let (&format, mut rest) = value.split_first()?;
        if format != FORMAT {
            return Some(Err(format));
        }
        let epoch = StoreEpoch(take_u64(&mut rest)?);
        let floor = Arrival(take_u64(&mut rest)?);
        let pruned_bytes = take_u64(&mut rest)?;
        let thinned = Arrival(take_u64(&mut rest)?);
        rest.is_empty().then_some(Ok(Self { epoch, floor, pruned_bytes, thinned }))
    }
}

/// The row of an arrival number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The chain after this batch.
    pub(super) chain: Chain,
    /// Bytes of all batches ever stored up to this one, pruned ones too.
    pub(super) total_bytes: u64,
    /// `None` when the batch was pruned.
    pub(super) batch: Option<RowBatch<'a>>,
}

/// What a row has of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowBatch<'a> {
    pub(super) log: LogId,
    /// Bytes of the whole batch.
    pub(super) len: u32,
    /// All of a small batch; the first [`HEAD_BYTES`] of a larger one.
    pub(super) head: &'a [u8],
}

impl RowBatch<'_> {
    /// Chunks that hold the rest.
    pub(super) fn chunks(&self) -> u16 {
        chunks_of((self.len as usize).saturating_sub(self.head.len()))
    }
}

/// Chunks that hold so many bytes.
pub(super) fn chunks_of(bytes: usize) -> u16 {
    u16::try_from(bytes.div_ceil(CHUNK_BYTES)).unwrap_or(u16::MAX)
}

impl<'a> Row<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(32 + self.batch.map_or(0, |batch| batch.head.len()));
        value.extend_from_slice(&self.chain.0);
        value.extend_from_slice(&self.total_bytes.to_be_bytes());
        if let Some(batch) = self.batch {
            value.extend_from_slice(&batch.log.to_be_bytes());
            value.extend_from_slice(&batch.len.to_be_bytes());
            value.extend_from_slice(batch.head);
        }
        value
    }

    pub(super) fn decode(mut value: &'a [u8]) -> Option<Self> {
        let chain = Chain(take(&mut value)?);
        let total_bytes = take_u64(&mut value)?;
        if value.is_empty() {
            return Some(Self { chain, total_bytes, batch: None });
        }
        let log = u32::from_be_bytes(take(&mut value)?);
        let len = u32::from_be_bytes(take(&mut value)?);
        let head_len = if len as usize <= INLINE_BYTES { len as usize } else { HEAD_BYTES };
        (value.len() == head_len).then_some(Self {
            chain,
            total_bytes,
            batch: Some(RowBatch { log, len, head: value }),
        })
    }
}

/// What the index has of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) arrival: Arrival,
    pub(super) first_seq: u64,
    pub(super) last_hlc: Hlc,
    pub(super) len: u32,
}

impl IndexEntry {
    pub(super) fn encode(&self) -> [u8; 28] {
        let mut value = [0; 28];
        value[..8].copy_from_slice(&self.arrival.0.to_be_bytes());
        value[8..16].copy_from_slice(&self.first_seq.to_be_bytes());
        value[16..24].copy_from_slice(&self.last_hlc.0.to_be_bytes());
        value[24..].copy_from_slice(&self.len.to_be_bytes());
        value
    }

    pub(super) fn decode(mut value: &[u8]) -> Option<Self> {
        let arrival = Arrival(take_u64(&mut value)?);
        let first_seq = take_u64(&mut value)?;
        let last_hlc = Hlc(take_u64(&mut value)?);
        let len = u32::from_be_bytes(take(&mut value)?);
        value.is_empty().then_some(Self { arrival, first_seq, last_hlc, len })
    }
}

pub(super) fn row_key(arrival: Arrival) -> [u8; 9] {
    let mut key = [b'a'; 9];
    key[1..].copy_from_slice(&arrival.0.to_be_bytes());
    key
}

pub(super) fn row_arrival(key: &[u8]) -> Option<Arrival> {
    let mut rest = key.strip_prefix(b"a")?;
    let arrival = Arrival(take_u64(&mut rest)?);
    rest.is_empty().then_some(arrival)
}

pub(super) fn chunk_key(arrival: Arrival, chunk: u16) -> [u8; 11] {
    let mut key = [b'b'; 11];
    key[1..9].copy_from_slice(&arrival.0.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

pub(super) fn index_key(log: LogId, last_seq: u64, hash: &BatchHash) -> [u8; 45] {
    let mut key = [b'i'; 45];
    key[1..5].copy_from_slice(&log.to_be_bytes());
    key[5..13].copy_from_slice(&last_seq.to_be_bytes());
    key[13..].copy_from_slice(&hash.0);
    key
}

/// Log, last sequence number and hash of an index key.
pub(super) fn index_parts(key: &[u8]) -> Option<(LogId, u64, BatchHash)> {
    let mut rest = key.strip_prefix(b"i")?;
    let log = u32::from_be_bytes(take(&mut rest)?);
    let last_seq = take_u64(&mut rest)?;
    let hash = BatchHash(take(&mut rest)?);
    rest.is_empty().then_some((log, last_seq, hash))
}

pub(super) fn record_key(log: LogId) -> [u8; 5] {
    let mut key = [b'l'; 5];
    key[1..].copy_from_slice(&log.to_be_bytes());
    key
}

pub(super) fn record_id(key: &[u8]) -> Option<LogId> {
    key.strip_prefix(b"l")?.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn mark_key(name: &[u8]) -> Vec<u8> {
    [b"m", name].concat()
}

pub(super) fn encode_record(record: &LogRecord) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(10).text(record.key.topic.as_str()).bytes(&record.key.author.0);
    writer.array(record.tips.len());
    for tip in &record.tips {
        writer.array(3).uint(tip.seq).bytes(&tip.hash.0).uint(tip.hlc.0);
    }
    writer.uint(record.floor).uint(record.floor_hlc.0);
    writer.array(record.holes.len());
    for hole in &record.holes {
        writer.array(3).uint(hole.from).uint(hole.to).bytes(&hole.anchor.0);
    }
    writer.uint(record.announced).uint(record.last_arrival.0).uint(record.events).uint(record.bytes);
    writer.finish()
}

pub(super) fn decode_record(value: &[u8]) -> Result<LogRecord, CodecError> {
    let mut reader = Reader::new(value);
    reader.tuple("log record", 10)?;
    let topic = Topic::new(reader.text("topic", MAX_TOPIC_BYTES)?).map_err(|_| CodecError::OutOfBounds("topic"))?;
    let author = Author(reader.fixed("author")?);
    let tips = (0..reader.list("tips", 4 * MAX_TIPS)?)
        .map(|_| {
            reader.tuple("tip", 3)?;
            let seq = reader.uint("tip")?;
            Ok(Tip { seq, hash: BatchHash(reader.fixed("tip")?), hlc: Hlc(reader.uint("tip")?) })
        })
        .collect::<Result<Tips, CodecError>>()?;
    let (floor, floor_hlc) = (reader.uint("floor")?, Hlc(reader.uint("floor")?));
    let holes = (0..reader.list("holes", MAX_HOLES)?)
        .map(|_| {
            reader.tuple("hole", 3)?;
            let (from, to) = (reader.uint("hole")?, reader.uint("hole")?);
            Ok(Hole { from, to, anchor: BatchHash(reader.fixed("hole")?) })
        })
        .collect::<Result<Vec<_>, CodecError>>()?;
    let announced = reader.uint("announced")?;
    let last_arrival = Arrival(reader.uint("last arrival")?);
    let (events, bytes) = (reader.uint("events")?, reader.uint("bytes")?);
    reader.end()?;
    let key = LogKey { topic, author };
    let record = LogRecord { key, tips, floor, floor_hlc, holes, announced, last_arrival, events, bytes };
    if is_sound(&record) { Ok(record) } else { Err(CodecError::OutOfBounds("log record")) }
}

/// Whether a record says what the replica can have said: it counts on that.
fn is_sound(record: &LogRecord) -> bool {
    let within = |seq: u64| seq <= MAX_SEQ;
    record.tips.iter().all(|tip| tip.seq > 0 && within(tip.seq))
        && record.holes.iter().all(|hole| 0 < hole.from && hole.from <= hole.to && within(hole.to))
        && within(record.floor)
        && within(record.announced)
}

/// Decodes an entry of the store and encodes it again. `None` when it is none.
pub(super) fn recode(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (key, value) = match key.first()? {
        b'a' => (row_key(row_arrival(key)?).to_vec(), Row::decode(value)?.encode()),
        b'i' => {
            let (log, last_seq, hash) = index_parts(key)?;
            (index_key(log, last_seq, &hash).to_vec(), IndexEntry::decode(value)?.encode().to_vec())
        }
        b'l' => (record_key(record_id(key)?).to_vec(), encode_record(&decode_record(value).ok()?)),
        _ if key == STORE_KEY => (STORE_KEY.to_vec(), StoreRow::decode(value)?.ok()?.encode().to_vec()),
        _ => return None,
    };
    Some((key, value))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_index_and_keys_decode_to_themselves(
            (a, b, c, d) in any::<(u64, u64, u64, u32)>(),
            hash in any::<[u8; 32]>(),
            head in prop::collection::vec(any::<u8>(), 1..INLINE_BYTES),
            large in any::<bool>(),
        ) {
            let full = vec![7; HEAD_BYTES];
            let (len, head) = if large { (INLINE_BYTES as u32 + 1 + d % 1_000_000, &full) } else { (head.len() as u32, &head) };
            let row = Row { chain: Chain([d as u8; 16]), total_bytes: a, batch: Some(RowBatch { log: d, len, head }) };
            let value = row.encode();
            prop_assert_eq!(Row::decode(&value), Some(row));
            let gone = Row { batch: None, ..row };
            let value = gone.encode();
            prop_assert_eq!(Row::decode(&value), Some(gone));
            let entry = IndexEntry { arrival: Arrival(a), first_seq: b, last_hlc: Hlc(c), len: d };
            prop_assert_eq!(IndexEntry::decode(&entry.encode()), Some(entry));
            let store = StoreRow { epoch: StoreEpoch(a), floor: Arrival(b), pruned_bytes: c, thinned: Arrival(b) };
            prop_assert_eq!(StoreRow::decode(&store.encode()), Some(Ok(store)));
            prop_assert_eq!(row_arrival(&row_key(Arrival(a))), Some(Arrival(a)));
            prop_assert_eq!(record_id(&record_key(d)), Some(d));
            prop_assert_eq!(index_parts(&index_key(d, a, &BatchHash(hash))), Some((d, a, BatchHash(hash))));
        }

        #[test]
        fn records_decode_to_themselves_and_garbage_never_panics(
            numbers in (0..=MAX_SEQ, 0..=MAX_SEQ, any::<[u64; 4]>()),
            tips in prop::collection::vec((1..=MAX_SEQ, any::<[u8; 32]>(), any::<u64>()), 0..MAX_TIPS),
            holes in prop::collection::vec((1..=MAX_SEQ, 1..=MAX_SEQ, any::<[u8; 32]>()), 0..MAX_HOLES),
            garbage in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut record = LogRecord::new(LogKey { topic: Topic::new("a.b").unwrap(), author: Author([3; 32]) });
            record.tips = tips.into_iter().map(|(seq, hash, hlc)| Tip { seq, hash: BatchHash(hash), hlc: Hlc(hlc) }).collect();
            record.holes = holes.into_iter().map(|(from, to, hash)| Hole { from: from.min(to), to: from.max(to), anchor: BatchHash(hash) }).collect();
            (record.floor, record.announced, [record.last_arrival.0, record.events, record.bytes, record.floor_hlc.0]) = numbers;
            prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
            let _ = (decode_record(&garbage), Row::decode(&garbage), IndexEntry::decode(&garbage), StoreRow::decode(&garbage));
        }
    }
}
