//! Batches as a hostile author makes them.

use std::time::{SystemTime, UNIX_EPOCH};

use roundelay_protocol::batch::{self, Link, VerifiedBatch};
use roundelay_protocol::event::{EncodedEvent, Event};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Incarnation;
use roundelay_protocol::sign::Ed25519Signer;
use roundelay_protocol::topic::Topic;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// A stamp of now.
pub(crate) fn now() -> Hlc {
    Hlc::from_ms(now_ms())
}

/// An event with so many bytes of data.
pub(crate) fn event(id: &str, bytes: usize) -> EncodedEvent {
    let event = Event {
        kind: "hostile".to_owned(),
        id: id.to_owned(),
        source: "/hostile".to_owned(),
        content_type: Some("text/plain".to_owned()),
        data: vec![b'x'; bytes].into(),
        ..Event::default()
    };
    event.encode().expect("an event")
}

/// One line of batches by an author, in one topic.
pub(crate) struct Line<'a> {
    signer: &'a Ed25519Signer,
    topic: Topic,
    pub(crate) incarnation: Incarnation,
    pub(crate) link: Link,
    pub(crate) next: Hlc,
}

impl<'a> Line<'a> {
    pub(crate) fn new(signer: &'a Ed25519Signer, topic: &str) -> Self {
        let topic = Topic::new(topic).expect("a topic");
        Self { signer, topic, incarnation: Incarnation(1), link: Link::default(), next: now() }
    }

    /// Seals one more batch.
    pub(crate) fn seal(&mut self, events: &[EncodedEvent]) -> VerifiedBatch {
        let batch = self.seal_aside(events);
        let tip = batch.tip();
        self.link = Link { seq: tip.seq, parent: tip.hash };
        self.next = Hlc(tip.hlc.0 + 1);
        batch
    }

    /// Seals a batch that could come next, and does not go on from it.
    pub(crate) fn seal_aside(&self, events: &[EncodedEvent]) -> VerifiedBatch {
        batch::seal(self.signer, &self.topic, self.incarnation, self.link, self.next, events)
    }

    /// Seals one more batch of one event.
    pub(crate) fn one(&mut self, id: &str) -> VerifiedBatch {
        self.seal(&[event(id, 16)])
    }
}

/// Where the signature of a batch begins.
fn header_len(batch: &VerifiedBatch) -> usize {
    batch.bytes().len() - batch.header().body_len as usize - 64
}

/// The batch under a signature that is not its author's.
pub(crate) fn with_forged_signature(batch: &VerifiedBatch) -> Vec<u8> {
    let mut bytes = batch.bytes().to_vec();
    bytes[header_len(batch) + 5] ^= 1;
    bytes
}

/// The batch's header and signature over another body.
pub(crate) fn with_false_body(batch: &VerifiedBatch) -> Vec<u8> {
    let mut bytes = batch.bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bytes
}

/// The batch with the only event that it has replaced by its hash: it still verifies.
pub(crate) fn stripped(batch: &VerifiedBatch) -> Vec<u8> {
    assert_eq!(batch.header().count, 1);
    let (head, item) = batch.bytes().split_at(header_len(batch) + 64);
    [head, &[0x58, 32], blake3::hash(item).as_bytes()].concat()
}

/// The batch's header in which `author` takes the place of the true one; signed by nobody.
pub(crate) fn in_the_name_of(batch: &VerifiedBatch, author: &[u8; 32]) -> Vec<u8> {
    let mut bytes = batch.bytes().to_vec();
    let own = batch.header().author.0;
    let at = bytes.windows(32).position(|window| window == own).expect("the author");
    bytes[at..at + 32].copy_from_slice(author);
    bytes
}
