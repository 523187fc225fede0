//! Faults that can be planted in a replica, so that those who check it can be checked. They exist only in builds with
//! the feature `planted-faults`, which nothing but the workspace's own tests turns on; elsewhere `Planted::is` is
//! `false` for the compiler too.

/// A fault that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Publishers are told before their events are synced.
    AckBeforeSync,
    /// Own batches are gossiped before they are synced.
    GossipBeforeSync,
    /// What is here already is stored again.
    SkipDuplicateSuppression,
    /// After a restart a log begins anew.
    ReuseSequenceNumber,
    /// What a batch that came ahead lacks is not asked for.
    DropGapRequest,
    /// Of several tips that a peer announces only the first is heard.
    IgnoreSecondTip,
    /// Being in sync is claimed as soon as a peer has told its heads.
    ClaimSyncWithoutAudit,
    /// What is pruned is not recorded.
    PruneWithoutFloor,
    /// Batches that are admitted together are stored in reverse.
    DeliverOutOfOrder,
    /// Heads are announced before they are synced.
    AnnounceBeforeSync,
    /// A peer's word that it holds a batch is taken for the batches of the log above it too.
    CountAcksTooHigh,
    /// A probe is answered without waiting for the peer.
    ProbeTooEarly,
    /// In a keyed topic the event of a key that came last is taken for its last in the total order.
    SupersedeByArrival,
    /// After a restart a node whose clock is behind forgets what its heartbeats promised.
    ForgetPromise,
    /// A heartbeat promises more than the clock keeps.
    PromiseTooMuch,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 15] = [
        Self::AckBeforeSync,
        Self::GossipBeforeSync,
        Self::SkipDuplicateSuppression,
        Self::ReuseSequenceNumber,
        Self::DropGapRequest,
        Self::IgnoreSecondTip,
        Self::ClaimSyncWithoutAudit,
        Self::PruneWithoutFloor,
        Self::DeliverOutOfOrder,
        Self::AnnounceBeforeSync,
        Self::CountAcksTooHigh,
        Self::ProbeTooEarly,
        Self::SupersedeByArrival,
        Self::ForgetPromise,
        Self::PromiseTooMuch,
    ];
}

/// What is planted: nothing, unless a test says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted {
    #[cfg(feature = "planted-faults")]
    fault: Option<Fault>,
}

impl Planted {
    /// One fault.
    #[cfg(feature = "planted-faults")]
    #[must_use]
    pub fn one(fault: Fault) -> Self {
        Self { fault: Some(fault) }
    }

    /// Whether the fault is planted.
    #[must_use]
    #[cfg_attr(not(feature = "planted-faults"), allow(clippy::unused_self))]
    pub(crate) fn is(self, fault: Fault) -> bool {
        #[cfg(feature = "planted-faults")]
        return self.fault == Some(fault);
        #[cfg(not(feature = "planted-faults"))]
        {
            let _ = fault;
            false
        }
    }
}
