//! Where the observer of choreographies tells what it sees.

/// What is seen of one choreography.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChoreographyFigures {
    /// Its name.
    pub name: String,
    /// Its instances by verdict.
    pub instances: Vec<(&'static str, u64)>,
    /// Their events.
    pub events: u64,
    /// Instances that were folded anew.
    pub refolded: u64,
    /// Instances that were forgotten to make room.
    pub forgotten: u64,
    /// Events that were not taken.
    pub refused: u64,
}

/// Tells of all choreographies, at each scrape. It must not block for long.
pub type ChoreographySource = dyn Fn() -> Vec<ChoreographyFigures> + Send + Sync;
