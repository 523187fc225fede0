//! What a consumer is told and what it answers.

use super::place::{Identity, Key, Place};

/// How a consumer delivers. All of it can be changed while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Milliseconds after which a delivery that was not answered has failed.
    pub ack_wait_ms: u64,
    /// Failed deliveries after which an event is dead.
    pub max_deliver: u32,
    /// Deliveries that may wait for an answer.
    pub max_in_flight: usize,
    /// Milliseconds between a first failure and the next delivery; twice as long after each further one.
    pub backoff_ms: u64,
    /// The longest of these.
    pub max_backoff_ms: u64,
    /// Events above the floor that are looked at.
    pub window: usize,
}

impl Rules {
    /// How long to wait after so many failures: between half and the whole of the doubled time, by `jitter`, so that
    /// what failed together is not tried together.
    #[must_use]
    pub fn backoff_ms(&self, failures: u32, jitter: u32) -> u64 {
        let doubled = self.backoff_ms.saturating_mul(1 << failures.saturating_sub(1).min(32)).min(self.max_backoff_ms);
        let half = doubled / 2;
        half + ((doubled - half) * u64::from(jitter)).checked_div(u64::from(u32::MAX)).unwrap_or(0)
    }
}

/// An event that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Where it stands.
    pub place: Place,
    /// Its key, if it has one.
    pub key: Option<Key>,
    /// What it is recognised by.
    pub identity: Identity,
}

/// Names an event that is to be delivered: from the log, or from a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Where it stands, or stood.
    pub place: Place,
    /// The number of its dead letter when it was redriven; 0 when it comes from the log.
    pub letter: u64,
}

/// What is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Which event.
    pub slot: Slot,
    /// The how-manieth time.
    pub attempt: u32,
}

/// What became of places that somebody called done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settling {
    /// To be written, and then confirmed or reverted.
    pub begun: Vec<Slot>,
    /// Done already, or on the way to be.
    pub already: Vec<Place>,
    /// Never offered here: beyond what was read, or not for this consumer.
    pub unknown: Vec<Place>,
}

/// What a failed delivery leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It is delivered again, not before this time of the clock that never goes back.
    Again {
        /// In milliseconds.
        until_ms: u64,
    },
    /// It failed too often: write its dead letter, then confirm it, or postpone it.
    Dead,
}

/// A delivery that ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Of which event.
    pub slot: Slot,
    /// What follows.
    pub failure: Failure,
}

/// How far a consumer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Everything at or before this place is done.
    pub floor: Place,
    /// Everything at or before this place was read.
    pub read: Place,
    /// Events that could be delivered, or wait for one of their key, or for their next delivery.
    pub waiting: usize,
    /// Events that were delivered and not answered.
    pub in_flight: usize,
    /// Events that belong to other members.
    pub foreign: usize,
    /// Events that are done above the floor.
    pub done: usize,
    /// The first event that is not done and is this member's.
    pub first: Option<Place>,
}
