//! A subscription is a cursor over the log and a wake-up, never a queue: live delivery and replay are one code path.

use std::sync::Arc;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Pattern;

use crate::log::{LogError, LogReader};

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the first event that is stored.
    Start,
    /// After the last.
    End,
    /// So many matching events before the end.
    Last(u64),
    /// At the first event to arrive whose stamp is at or after this.
    Time(Hlc),
    /// After this arrival number.
    After(Arrival),
}

/// What a subscription brings.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The arrival number of the batch.
    pub arrival: Arrival,
    /// The batch. Its matching events are those from `skip` on that are not earlier than the subscription's time.
    pub batch: VerifiedBatch,
    /// Events at the beginning of the batch that are not part of the delivery.
    pub skip: usize,
}

/// A cursor over the log.
pub struct Subscription {
    log: LogReader,
    patterns: Arc<[Pattern]>,
    #[allow(dead_code)]
    from: From,
}

#[allow(unused_variables, clippy::unused_async, clippy::unimplemented)]
impl Subscription {
    pub(crate) fn new(log: LogReader, patterns: Vec<Pattern>, from: From) -> Self {
        Self { log, patterns: patterns.into(), from }
    }

    /// The next batches, in order of arrival; waits while there are none. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, LogError> {
        unimplemented!()
    }

    /// Whether everything that is stored now was delivered.
    pub fn is_caught_up(&self) -> bool {
        unimplemented!()
    }
}
