//! Answering pulls: reading ranges from the log and sending them, at the pace at which the peer takes them.

use std::time::Duration;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::frame::{Frame, Missing, Range};
use roundelay_protocol::ids::BatchHash;
use roundelay_protocol::limits::{MAX_BATCH_BYTES, MAX_BATCH_WIRE_BYTES, MAX_TIPS};

use crate::log::{LogError, LogReader};
use crate::mesh::LinkSender;
use crate::metrics::{EngineMeters, Way};

/// Bytes of batches in one frame, unless a single batch is larger.
const FRAME_BYTES: usize = 128 * 1024;
/// While so much waits to be written to the peer, no more is read from the log.
const QUEUED_BYTES: usize = 1024 * 1024;
/// Room in a read for the batches that the one before ended with, of the largest size.
const MAX_ROOM: usize = MAX_TIPS * MAX_BATCH_WIRE_BYTES;
/// How often a full queue is looked at again.
const POLL: Duration = Duration::from_millis(5);

/// A pull to be answered.
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) ranges: Vec<Range>,
    pub(super) max_bytes: u64,
    pub(super) missing: Vec<Missing>,
}

/// Sends what a pull asks for, up to its number of bytes, and what is missing of it.
pub(super) async fn serve(
    log: LogReader,
    outbound: LinkSender,
    order: Order,
    meters: &EngineMeters,
) -> Result<(), LogError> {
    let (mut left, mut served) = (order.max_bytes as usize, 0);
    'ranges: for range in &order.ranges {
        // On a forked log several batches may end where a read stopped, so the next one begins there once more.
        let (mut after, mut repeated) = (range.after, Vec::new());
        // Room for what comes again, and for at least one batch more.
        let mut room = 0;
        loop {
            if (left == 0 && repeated.is_empty()) || outbound.is_closed() {
                break 'ranges;
            }
            while outbound.queued_bytes() > QUEUED_BYTES && !outbound.is_closed() {
                tokio::time::sleep(POLL).await;
            }
            let (log, wanted, budget) = (log.clone(), range.clone(), left.clamp(1, FRAME_BYTES));
            let read = move || log.range(&wanted.log, after, wanted.upto, budget + room);
            let mut batches = tokio::task::spawn_blocking(read).await.unwrap_or(Err(LogError::Closed))?;
            let found = batches.len();
            // The asker goes on after what it got last, so all lines' batches that end there go together.
            let goes = |batch: &VerifiedBatch| left > 0 || batch.header().last_seq() == after + 1;
            let beyond = batches.iter().any(|batch| !goes(batch));
            batches.retain(|batch| goes(batch) && !repeated.contains(&batch.hash()));
            if batches.is_empty() && beyond {
                break 'ranges;
            }
            if batches.is_empty() && found > 0 && room < MAX_ROOM {
                room = MAX_ROOM;
                continue;
            }
            room = MAX_BATCH_BYTES;
            // Whole frames stay below the largest: a batch that does not fit goes alone.
            let mut bytes = 0;
            let fitting = batches.iter().take_while(|batch| {
                let first = bytes == 0;
                bytes += batch.bytes().len();
                first || bytes <= budget
            });
            batches.truncate(fitting.count());
            let Some(last) = batches.last() else { break };
            let reached = last.header().last_seq();
            let at_end = batches.iter().filter(|batch| batch.header().last_seq() == reached);
            let ends: Vec<BatchHash> = at_end.map(VerifiedBatch::hash).collect();
            repeated = if after + 1 == reached { [repeated, ends].concat() } else { ends };
            after = reached - 1;
            let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
            left = left.saturating_sub(bytes);
            meters.batches(Way::Out, batches.len(), bytes);
            let batches = batches.iter().map(|batch| batch.bytes().clone()).collect();
            send(&outbound, &Frame::Batches { id: order.id, batches }).await;
        }
        served += 1;
    }
    let end = Frame::PullEnd { id: order.id, served, missing: order.missing };
    meters.frame(Way::Out, &end);
    send(&outbound, &end).await;
    Ok(())
}

async fn send(outbound: &LinkSender, frame: &Frame) {
    let bytes = frame.encode();
    while outbound.try_send(bytes.clone()).is_err() {
        tokio::time::sleep(POLL).await;
    }
}
