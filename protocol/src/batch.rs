//! Batches: a run of consecutive events of one log, and the unit of signing, durability, gossip and sync. The same
//! bytes all the way: what was signed is what is stored, gossiped and sent again.
//!
//! A batch passes through two types on its way in: [`ParsedBatch`] has a sound form and a body that fits its header;
//! [`VerifiedBatch`] was signed by its author as well. Only the latter can be stored.

use bytes::Bytes;

use crate::codec::{CodecError, Reader, Writer};
use crate::event::{EncodedEvent, Item};
use crate::hlc::Hlc;
use crate::ids::{Author, BatchHash, Incarnation};
use crate::limits::{
    MAX_BATCH_EVENTS, MAX_BATCH_WIRE_BYTES, MAX_EVENT_BYTES, MAX_HEADER_BYTES, MAX_SEQ, MAX_TOPIC_BYTES,
};
use crate::sign::{Signature, Signer, Verifier};
use crate::topic::Topic;

/// The format's version, first in every header.
const VERSION: u64 = 1;
/// Items of the tuple that a header is.
const HEADER_FIELDS: usize = 11;
/// What the signature covers before the header's bytes.
const SIGNATURE_DOMAIN: &[u8] = b"roundelay batch v1\0";

/// What an author signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Who published the events.
    pub author: Author,
    /// Where they were published.
    pub topic: Topic,
    /// Which life of the author's process sealed the batch.
    pub incarnation: Incarnation,
    /// Sequence number of the first event; a log starts at 1.
    pub first_seq: u64,
    /// Number of events, 1 to [`MAX_BATCH_EVENTS`].
    pub count: u64,
    /// Stamp of the first event.
    pub first_hlc: Hlc,
    /// Stamp of the last event.
    pub last_hlc: Hlc,
    /// The batch before this one on its line, or [`BatchHash::NONE`] for the first.
    pub parent: BatchHash,
    /// BLAKE3 over the hashes of the body's items.
    pub body_hash: [u8; 32],
    /// Bytes of the body when it was sealed. A body with dropped items has another length.
    pub body_len: u64,
}

impl Header {
    /// Sequence number of the last event.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.first_seq + (self.count - 1)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::on(Vec::with_capacity(256));
        writer.array(HEADER_FIELDS).uint(VERSION).bytes(&self.author.0).text(self.topic.as_str());
        writer.uint(self.incarnation.0).uint(self.first_seq).uint(self.count);
        writer.uint(self.first_hlc.0).uint(self.last_hlc.0);
        writer.bytes(&self.parent.0).bytes(&self.body_hash).uint(self.body_len);
        writer.finish()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, BatchError> {
        reader.tuple("header", HEADER_FIELDS)?;
        match reader.uint("version")? {
            VERSION => {}
            other => return Err(BatchError::Version(other)),
        }
        let author = Author(reader.fixed("author")?);
        let topic = reader.text("topic", MAX_TOPIC_BYTES)?;
        let header = Self {
            author,
            topic: Topic::new(topic).map_err(|_| CodecError::OutOfBounds("topic"))?,
            incarnation: Incarnation(reader.uint("incarnation")?),
            first_seq: reader.uint("first seq")?,
            count: reader.uint("count")?,
            first_hlc: Hlc(reader.uint("first HLC")?),
            last_hlc: Hlc(reader.uint("last HLC")?),
            parent: BatchHash(reader.fixed("parent")?),
            body_hash: reader.fixed("body hash")?,
            body_len: reader.uint("body length")?,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        let sound = self.first_seq >= 1
            && (1..=MAX_BATCH_EVENTS as u64).contains(&self.count)
            && self.first_seq <= MAX_SEQ - MAX_BATCH_EVENTS as u64
            && self.first_hlc <= self.last_hlc
            && self.last_hlc <= Hlc::CEILING
            && (self.count == 1) == (self.first_hlc == self.last_hlc)
            && self.last_hlc.0 - self.first_hlc.0 >= self.count - 1
            && (self.first_seq == 1) == (self.parent == BatchHash::NONE)
            && self.body_len <= MAX_EVENT_BYTES as u64;
        if sound { Ok(()) } else { Err(BatchError::Inconsistent) }
    }
}

/// Why bytes are no batch that may be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes are not of the form that batches have.
    #[error("not a batch: {0}")]
    Codec(#[from] CodecError),
    /// Larger than any batch may be.
    #[error("a batch of {0} bytes is too large: the limit is {MAX_BATCH_WIRE_BYTES}")]
    TooLarge(usize),
    /// A version of the format that this node does not know.
    #[error("batch format {0} is not known here: update this node")]
    Version(u64),
    /// Header fields that contradict each other.
    #[error("the header contradicts itself")]
    Inconsistent,
    /// Header bytes that are not the shortest encoding of what they say.
    #[error("the header is not in its canonical encoding")]
    NotCanonical,
    /// The body does not fit the header.
    #[error("the body does not fit the header")]
    BodyMismatch,
    /// The signature is not the author's.
    #[error("the signature is not the author's")]
    Signature,
}

/// A batch of sound form whose signature was not checked.
#[derive(Debug, Clone)]
pub struct ParsedBatch {
    header: Header,
    hash: BatchHash,
    bytes: Bytes,
    header_len: usize,
    dropped: u32,
}

impl ParsedBatch {
    /// Takes a batch apart and checks its form and that its body is the one that its header names.
    ///
    /// # Errors
    /// When anything is not as the format says. The bytes must not be stored then.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        let mut batch = Self::parse_head(bytes)?;
        batch.dropped = batch.check_body()?;
        Ok(batch)
    }

    /// Takes apart a batch that was checked before it was stored.
    ///
    /// # Errors
    /// When the bytes are not what was stored.
    fn parse_head(bytes: Bytes) -> Result<Self, BatchError> {
        if bytes.len() > MAX_BATCH_WIRE_BYTES {
            return Err(BatchError::TooLarge(bytes.len()));
        }
        let mut reader = Reader::new(&bytes);
        let header = Header::decode(&mut reader)?;
        let header_len = bytes.len() - reader.rest().len();
        reader.take("signature", Signature::BYTES)?;
        if header_len > MAX_HEADER_BYTES || header.encode() != bytes[..header_len] {
            return Err(BatchError::NotCanonical);
        }
        let hash = BatchHash(*blake3::hash(&bytes[..header_len]).as_bytes());
        Ok(Self { header, hash, bytes, header_len, dropped: 0 })
    }

    fn check_body(&self) -> Result<u32, BatchError> {
        let body = self.body();
        let mut reader = Reader::new(body);
        let mut hashes = Vec::with_capacity(self.header.count as usize * 32);
        let (mut dropped, mut last_hlc) = (0, None);
        for index in 0..self.header.count {
            let before = reader.rest();
            match Item::read(&mut reader, self.header.first_hlc)? {
                Item::Dropped(hash) => {
                    hashes.extend_from_slice(&hash);
                    dropped += 1;
                }
                Item::Event(event) => {
                    let item = &before[..before.len() - reader.rest().len()];
                    hashes.extend_from_slice(blake3::hash(item).as_bytes());
                    let at_end = index != 0 || event.hlc == self.header.first_hlc;
                    let in_order = last_hlc < Some(event.hlc) && event.hlc <= self.header.last_hlc;
                    if !at_end || !in_order {
                        return Err(BatchError::BodyMismatch);
                    }
                    last_hlc = Some(event.hlc);
                }
            }
        }
        reader.end()?;
        let whole = dropped > 0 || body.len() as u64 == self.header.body_len;
        if !whole || *blake3::hash(&hashes).as_bytes() != self.header.body_hash {
            return Err(BatchError::BodyMismatch);
        }
        Ok(dropped)
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.header_len + Signature::BYTES..]
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// When it is not the author's.
    pub fn verify(self, verifier: &impl Verifier) -> Result<VerifiedBatch, BatchError> {
        let (header, rest) = self.bytes.split_at(self.header_len);
        let mut signature = [0; Signature::BYTES];
        signature.copy_from_slice(&rest[..Signature::BYTES]);
        if verifier.verify(&self.header.author, &signed_bytes(header), &Signature(signature)) {
            Ok(VerifiedBatch(self))
        } else {
            Err(BatchError::Signature)
        }
    }

    /// What the author signed.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The hash that names the batch.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        self.hash
    }
}

fn signed_bytes(header: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, header].concat()
}

/// A batch that its author signed and whose body fits: the only thing that may be stored. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedBatch(ParsedBatch);

impl VerifiedBatch {
    /// Reads back a batch that was verified before it was stored. Its form is checked again, its signature is not.
    ///
    /// # Errors
    /// When the bytes are not what was stored: the store is damaged.
    pub fn from_store(bytes: Bytes) -> Result<Self, BatchError> {
        ParsedBatch::parse_head(bytes).map(Self)
    }

    /// Like [`Self::from_store`], for bytes with their body, which is checked against the header: damage shows.
    ///
    /// # Errors
    /// When the bytes are not what was stored: the store is damaged.
    pub fn from_store_whole(bytes: Bytes) -> Result<Self, BatchError> {
        ParsedBatch::parse(bytes).map(Self)
    }

    /// What the author signed.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// The hash that names the batch.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        self.0.hash
    }

    /// The bytes, as they are signed, stored, gossiped and sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// Events of which only the hash is left. Not known of a batch that was read from a store.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        self.0.dropped
    }

    /// The batch as the tip of its line.
    #[must_use]
    pub fn tip(&self) -> crate::heads::Tip {
        let header = self.header();
        crate::heads::Tip { seq: header.last_seq(), hash: self.hash(), hlc: header.last_hlc }
    }

    /// The items of the body with their sequence numbers, in order.
    pub fn items(&self) -> impl Iterator<Item = (u64, Item<'_>)> {
        let mut reader = Reader::new(self.0.body());
        let header = self.header();
        let seqs = header.first_seq..=header.last_seq();
        // The body was checked when the batch was parsed, so reading cannot fail; a damaged store ends the iteration.
        seqs.map_while(move |seq| Item::read(&mut reader, header.first_hlc).ok().map(|item| (seq, item)))
    }
}

/// Where a new batch goes on: the last batch on the line, or nothing for a log's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Sequence number of the last event on the line.
    pub seq: u64,
    /// The last batch on the line.
    pub parent: BatchHash,
}

/// Seals events into a signed batch. `first_hlc` stamps the first event; each further one is stamped one higher.
///
/// The caller keeps to [`MAX_BATCH_EVENTS`] and [`crate::limits::MAX_BATCH_BYTES`]; `events` must not be empty.
#[must_use]
pub fn seal(
    signer: &impl Signer,
    topic: &Topic,
    incarnation: Incarnation,
    link: Link,
    first_hlc: Hlc,
    events: &[EncodedEvent],
) -> VerifiedBatch {
    let mut body = Vec::with_capacity(events.iter().map(EncodedEvent::item_bytes).sum());
    let mut hashes = Vec::with_capacity(events.len() * 32);
    for (delta, event) in (0..).zip(events) {
        let start = body.len();
        body = event.write_item(body, delta);
        hashes.extend_from_slice(blake3::hash(&body[start..]).as_bytes());
    }
    let count = events.len().max(1) as u64;
    let header = Header {
        author: signer.author(),
        topic: topic.clone(),
        incarnation,
        first_seq: link.seq + 1,
        count,
        first_hlc,
        last_hlc: Hlc(first_hlc.0 + (count - 1)),
        parent: link.parent,
        body_hash: *blake3::hash(&hashes).as_bytes(),
        body_len: body.len() as u64,
    };
    let mut bytes = header.encode();
    let header_len = bytes.len();
    let hash = BatchHash(*blake3::hash(&bytes).as_bytes());
    let signature = signer.sign(&signed_bytes(&bytes));
    bytes.reserve_exact(Signature::BYTES + body.len());
    bytes.extend_from_slice(&signature.0);
    bytes.extend_from_slice(&body);
    VerifiedBatch(ParsedBatch { header, hash, bytes: bytes.into(), header_len, dropped: 0 })
}
