//! Batches, as gossip, pulls and the store bring them.

use bytes::Bytes;
use roundelay_protocol::batch::{Link, ParsedBatch, VerifiedBatch, seal};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{BatchHash, Incarnation};
use roundelay_protocol::limits::{MAX_BATCH_EVENTS, MAX_CAUSES, MAX_EXTENSIONS, MAX_SEQ};
use roundelay_protocol::sign::Signature;
use roundelay_protocol::topic::Topic;

use super::script::Script;
use super::stand_in::{AnySignature, Stamp};
use super::within_memory;

/// Any bytes as a batch from a peer, as a batch from the store, and as the body of a batch whose header fits it.
pub fn batch(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    // Reading back what was stored looks at the header only; the items end where the body makes no sense.
    if let Ok(stored) = VerifiedBatch::from_store(whole.clone()) {
        assert_eq!(stored.bytes(), &whole);
        assert!(stored.items().count() <= MAX_BATCH_EVENTS);
    }
    if let Ok(parsed) = within_memory(bytes.len() * 24, || ParsedBatch::parse(whole.clone())) {
        judge(&parsed.verify(&AnySignature).expect("any signature will do"), &whole);
    }
    sound_header_over(bytes);
}

/// Gets past the hashes, which no fuzzer guesses: a header that fits whatever the bytes hold of items.
fn sound_header_over(bytes: &[u8]) {
    let mut script = Script::new(&bytes[..bytes.len().min(8)]);
    let body = &bytes[bytes.len().min(8)..];
    let count = 1 + script.below(8) as u64;
    let whole = framed(script.number().max(1), count, script.number(), &hash_of_items(body, count), body);
    match ParsedBatch::parse(whole.clone()) {
        Ok(parsed) => judge(&parsed.verify(&AnySignature).expect("any signature will do"), &whole),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What any accepted batch must be like.
fn judge(batch: &VerifiedBatch, bytes: &Bytes) {
    let header = batch.header();
    assert_eq!(batch.bytes(), bytes, "the bytes that came are the bytes that are kept");
    assert!(header.first_seq >= 1 && header.last_seq() <= MAX_SEQ, "sequence numbers keep to their limit");
    assert!(header.last_hlc <= Hlc::CEILING);
    assert_eq!(header.first_seq == 1, header.parent == BatchHash::NONE);
    let items: Vec<_> = batch.items().collect();
    assert_eq!(items.len() as u64, header.count, "every item is there");
    let seqs: Vec<u64> = items.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (header.first_seq..=header.last_seq()).collect::<Vec<_>>());
    let dropped = items.iter().filter(|(_, item)| matches!(item, Item::Dropped(_))).count();
    assert_eq!(dropped, batch.dropped() as usize);
    let stamps: Vec<Hlc> = items.iter().filter_map(|(_, item)| event(item)).map(|event| event.hlc).collect();
    assert!(stamps.is_sorted_by(|one, next| one < next), "stamps rise");
    assert!(stamps.iter().all(|hlc| (header.first_hlc..=header.last_hlc).contains(hlc)));
    for event in items.iter().filter_map(|(_, item)| event(item)) {
        assert!(!event.kind.is_empty() && !event.id.is_empty() && !event.source.is_empty());
        assert!(event.causes.len() <= MAX_CAUSES && event.extensions.len() <= MAX_EXTENSIONS);
        seal_again(event);
    }
    let again = VerifiedBatch::from_store(bytes.clone()).expect("what was accepted can be read back");
    assert_eq!((again.header(), again.hash()), (header, batch.hash()));
}

/// What others can publish, this node can publish too, and it reads back the same. Names of extensions are the exception:
/// they are checked where events are made, and only their length where they are read.
fn seal_again(view: &EventView<'_>) {
    let event = view.to_event();
    let named = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !event.extensions.iter().all(|(name, _)| named(name)) {
        assert!(event.encode().is_err());
        return;
    }
    // Only a body of padded encodings can be near the limit and become larger when it is sealed anew.
    let Ok(encoded) = event.encode() else { return };
    let topic = Topic::new("a").expect("a topic");
    let sealed = seal(&Stamp::of(7), &topic, Incarnation(1), Link::default(), Hlc(1 << 20), &[encoded]);
    let Some((1, Item::Event(again))) = sealed.items().next() else { panic!("one event was sealed") };
    assert_eq!(again.to_event(), event);
}

fn event<'i>(item: &'i Item<'_>) -> Option<&'i EventView<'i>> {
    match item {
        Item::Event(event) => Some(event),
        Item::Dropped(_) => None,
    }
}

/// A batch around a body: the header is sound, the signature is nobody's.
fn framed(first_seq: u64, count: u64, spread: u64, body_hash: &[u8; 32], body: &[u8]) -> Bytes {
    use roundelay_protocol::codec::Writer;
    let first_hlc = 1u64 << 40;
    let last_hlc = if count == 1 { first_hlc } else { first_hlc + (count - 1).max(spread.min(1 << 30)) };
    let parent = if first_seq == 1 { [0; 32] } else { [1; 32] };
    let mut writer = Writer::new();
    writer.array(11).uint(1).bytes(&[7; 32]).text("a.b").uint(3).uint(first_seq).uint(count);
    writer.uint(first_hlc).uint(last_hlc).bytes(&parent).bytes(body_hash).uint(body.len() as u64);
    let mut bytes = writer.finish();
    bytes.extend_from_slice(&[0; Signature::BYTES]);
    bytes.extend_from_slice(body);
    bytes.into()
}

/// BLAKE3 over the hashes of the items that a batch of these bytes would have; anything where they are none.
fn hash_of_items(body: &[u8], count: u64) -> [u8; 32] {
    let mut hashes = Vec::new();
    let mut rest = body;
    for _ in 0..count {
        let Some((item, after)) = split_value(rest, 0) else { break };
        match item.first() {
            Some(byte) if byte >> 5 == 2 && item.len() == 34 => hashes.extend_from_slice(&item[2..]),
            _ => hashes.extend_from_slice(blake3::hash(item).as_bytes()),
        }
        rest = after;
    }
    *blake3::hash(&hashes).as_bytes()
}

/// The first CBOR value and what follows it: a second reading of the format, as simple as can be.
fn split_value(bytes: &[u8], depth: usize) -> Option<(&[u8], &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let extra = match first & 31 {
        0..=23 => 0,
        24..=27 => 1usize << ((first & 31) - 24),
        _ => return None,
    };
    let (number, after) = rest.split_at_checked(extra)?;
    rest = after;
    let value = match extra {
        0 => u64::from(first & 31),
        _ => number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    };
    match first >> 5 {
        2 | 3 => rest = rest.split_at_checked(usize::try_from(value).ok()?)?.1,
        4 if depth < 4 => {
            for _ in 0..value.min(4096) {
                rest = split_value(rest, depth + 1)?.1;
            }
        }
        0 | 1 | 7 => {}
        _ => return None,
    }
    Some(bytes.split_at(bytes.len() - rest.len()))
}
