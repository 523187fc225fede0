//! Where durable consumers tell how far they are.

/// How far one durable consumer is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerFigures {
    /// Its name.
    pub name: String,
    /// Events that match and are not acknowledged, as far as they were counted.
    pub lag_events: u64,
    /// Events that were handed out and not acknowledged yet.
    pub in_flight_events: u64,
    /// Events among its dead letters.
    pub dead_letters: u64,
    /// Events that were handed out since the node started, each time counted.
    pub deliveries: u64,
    /// Of these, the ones that had been handed out before.
    pub redeliveries: u64,
    /// Members of its group that are alive; 0 without a group.
    pub members: u64,
}

/// Tells of all durable consumers, at each scrape. It must not block for long.
pub type ConsumerSource = dyn Fn() -> Vec<ConsumerFigures> + Send + Sync;
