//! Frames of a sync stream, and what of them is kept in the store.

use bytes::Bytes;
use roundelay_protocol::batch::ParsedBatch;
use roundelay_protocol::frame::{Frame, MAX_PAGE, MAX_RANGES, Memory};
use roundelay_protocol::limits::{MAX_EXCLUDED, MAX_FRAME_BYTES, MAX_PATTERNS, MAX_SEQ, MAX_TIPS};

use super::within_memory;

/// Any bytes as a frame, and as what is remembered of a peer.
pub fn frame(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    if let Ok(frame) = within_memory(bytes.len() * 24, || Frame::decode(&whole)) {
        judge(&frame);
        // Long encodings of numbers are taken, so the bytes may differ once; what they say may not.
        let encoded = frame.encode();
        assert!(encoded.len() <= MAX_FRAME_BYTES.max(bytes.len()));
        let again = Frame::decode(&encoded).expect("what was encoded decodes");
        assert_eq!(again, frame);
        assert_eq!(again.encode(), encoded);
        if let Frame::Batches { batches, .. } = &frame {
            batches.iter().for_each(|batch| drop(ParsedBatch::parse(batch.clone())));
        }
    }
    if let Ok(memory) = Memory::decode(bytes) {
        assert_eq!(Memory::decode(&memory.encode()), Ok(memory));
    }
}

/// What the replica may rely on in any frame that was decoded.
fn judge(frame: &Frame) {
    match frame {
        Frame::Hello(hello) => {
            assert!(hello.interest.patterns.len() <= MAX_PATTERNS && hello.interest.excluded.len() <= MAX_EXCLUDED);
        }
        Frame::Interest(interest) => {
            assert!(interest.patterns.len() <= MAX_PATTERNS && interest.excluded.len() <= MAX_EXCLUDED);
            assert!(interest.patterns.is_sorted() && interest.excluded.is_sorted());
        }
        Frame::Sums { topics, .. } => assert!(topics.len() <= MAX_PAGE),
        Frame::Want { topics, .. } => assert!(topics.len() <= MAX_PAGE),
        Frame::Heads { heads, .. } => {
            assert!(heads.len() <= MAX_PAGE);
            for head in heads {
                assert!(head.tips.len() <= MAX_TIPS && head.floor <= MAX_SEQ);
                assert!(head.tips.iter().all(|(seq, _)| (1..=MAX_SEQ).contains(seq)), "a batch ends at 1 or later");
                assert!(head.tips.is_sorted_by(|one, next| one < next), "tips are sorted, each once");
            }
        }
        Frame::Pull { ranges, .. } => {
            assert!(ranges.len() <= MAX_RANGES);
            assert!(ranges.iter().all(|range| range.after < range.upto && range.upto <= MAX_SEQ));
        }
        Frame::PullEnd { missing, .. } => {
            assert!(
                missing.iter().all(|part| part.from <= part.to && part.to <= MAX_SEQ),
                "what is missing is a range"
            );
        }
        Frame::Audit { .. } | Frame::Batches { .. } | Frame::Hurry => {}
        Frame::Probe(_) | Frame::ProbeSeen(_) | Frame::ProbeDone(_) => {}
    }
}
