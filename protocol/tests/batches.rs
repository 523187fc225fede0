//! Whatever is encoded decodes to itself, and any flipped bit is refused.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use roundelay_protocol::batch::{BatchError, Link, ParsedBatch, VerifiedBatch, seal};
use roundelay_protocol::event::{Event, EventError, Item, Value};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{BatchHash, Incarnation};
use roundelay_protocol::limits::{MAX_BATCH_WIRE_BYTES, MAX_EVENT_BYTES};
use roundelay_protocol::sign::{Ed25519Signer, Ed25519Verifier};
use roundelay_protocol::topic::Topic;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        ".{0,40}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let texts = ("[a-z.]{1,20}", ".{1,40}", ".{1,40}", prop::option::of(".{0,20}"), prop::option::of(".{0,20}"));
    let rest = (
        prop::option::of("[a-z/]{1,20}"),
        prop::collection::vec(".{1,36}", 0..4),
        prop::option::of(".{0,20}"),
        prop::collection::vec(("[a-z0-9]{1,20}", value()), 0..4),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    (texts, rest).prop_map(
        |((kind, id, source, subject, key), (content_type, causes, correlation, extensions, data))| Event {
            kind,
            id,
            source,
            subject,
            key,
            content_type,
            causes,
            correlation,
            extensions,
            data: data.into(),
        },
    )
}

fn sealed(events: &[Event], link: Link) -> VerifiedBatch {
    let signer = Ed25519Signer::from_secret(&[7; 32]);
    let encoded: Vec<_> = events.iter().map(|event| event.encode().unwrap()).collect();
    seal(&signer, &Topic::new("a.b").unwrap(), Incarnation(9), link, Hlc(1 << 20), &encoded)
}

proptest! {
    #[test]
    fn what_is_sealed_is_read_back(events in prop::collection::vec(event(), 1..6), seq in 0u64..1000) {
        let parent = if seq == 0 { BatchHash::NONE } else { BatchHash([1; 32]) };
        let batch = sealed(&events, Link { seq, parent });
        let again = ParsedBatch::parse(batch.bytes().clone()).unwrap().verify(&Ed25519Verifier).unwrap();
        prop_assert_eq!(again.header(), batch.header());
        prop_assert_eq!(again.hash(), batch.hash());
        let read: Vec<_> = again.items().map(|(seq, item)| match item {
            Item::Event(view) => (seq, view.hlc, view.to_event()),
            Item::Dropped(_) => panic!("nothing was dropped"),
        }).collect();
        let expected: Vec<_> = (0..).zip(&events).map(|(i, event)| (seq + 1 + i, Hlc((1 << 20) + i), event.clone())).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn any_flipped_bit_is_refused(events in prop::collection::vec(event(), 1..3), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = sealed(&events, Link::default()).bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let outcome = ParsedBatch::parse(bytes.into()).and_then(|batch| batch.verify(&Ed25519Verifier));
        prop_assert!(outcome.is_err());
    }

    #[test]
    fn any_cut_or_addition_is_refused(events in prop::collection::vec(event(), 1..3), at in any::<prop::sample::Index>(), extra in any::<u8>()) {
        let whole = sealed(&events, Link::default()).bytes().clone();
        prop_assert!(ParsedBatch::parse(whole.slice(..at.index(whole.len()))).is_err());
        prop_assert!(ParsedBatch::parse([&whole[..], &[extra]].concat().into()).is_err());
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(ParsedBatch::parse(bytes.into()).is_err());
    }
}

#[test]
fn a_dropped_event_leaves_its_hash_and_the_rest_verifies() {
    let events: Vec<_> = (0..3).map(|i| plain(&format!("e{i}"))).collect();
    let batch = sealed(&events, Link::default());
    // The second item is replaced by its hash, the way a node that erases an event does it.
    let bytes = batch.bytes();
    let item_len = (bytes.len() - batch.bytes().len() + batch.header().body_len as usize) / 3;
    let body = bytes.len() - item_len * 3;
    let item = &bytes[body + item_len..body + 2 * item_len];
    let hash = *blake3::hash(item).as_bytes();
    let mut stripped = bytes[..body + item_len].to_vec();
    stripped.extend_from_slice(&[0x58, 32]);
    stripped.extend_from_slice(&hash);
    stripped.extend_from_slice(&bytes[body + 2 * item_len..]);
    let again = ParsedBatch::parse(stripped.clone().into()).unwrap().verify(&Ed25519Verifier).unwrap();
    assert_eq!(again.hash(), batch.hash());
    let ids: Vec<_> = again.items().map(|(_, item)| matches!(item, Item::Dropped(found) if found == hash)).collect();
    assert_eq!(ids, [false, true, false]);
    stripped[body + item_len + 5] ^= 1;
    assert!(ParsedBatch::parse(stripped.into()).is_err());
}

fn plain(id: &str) -> Event {
    Event { kind: "t".into(), id: id.into(), source: "s".into(), ..Event::default() }
}

#[test]
fn limits_are_kept() {
    let large = |len| Event { data: Bytes::from(vec![0; len]), ..plain("x") }.encode();
    assert!(large(MAX_EVENT_BYTES - 100).is_ok());
    assert!(matches!(large(MAX_EVENT_BYTES), Err(EventError::TooLarge { .. })));
    assert_eq!(plain("").encode(), Err(EventError::Missing("id")));
    let named = Event { extensions: vec![("Bad".into(), Value::Bool(true))], ..plain("x") };
    assert_eq!(named.encode(), Err(EventError::BadName("Bad".into())));
    let whole = sealed(&[Event { data: Bytes::from(vec![0; MAX_EVENT_BYTES - 100]), ..plain("x") }], Link::default());
    assert!(ParsedBatch::parse(whole.bytes().clone()).is_ok());
    let larger = vec![0; MAX_BATCH_WIRE_BYTES + 1];
    assert_eq!(ParsedBatch::parse(larger.into()).unwrap_err(), BatchError::TooLarge(MAX_BATCH_WIRE_BYTES + 1));
}

#[test]
fn no_event_is_stamped_beyond_the_year_2200() {
    let signer = Ed25519Signer::from_secret(&[7; 32]);
    let parse = |hlc: Hlc| {
        let events = [plain("x").encode().unwrap()];
        let batch = seal(&signer, &Topic::new("a.b").unwrap(), Incarnation(9), Link::default(), hlc, &events);
        ParsedBatch::parse(batch.bytes().clone()).map(drop)
    };
    assert_eq!(parse(Hlc::CEILING), Ok(()));
    assert_eq!(parse(Hlc(Hlc::CEILING.0 + 1)), Err(BatchError::Inconsistent));
}
