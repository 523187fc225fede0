//! What happened since the start, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the mesh layer has done since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MeshCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> MeshCounters {
                MeshCounters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Gossip messages that gossipsub took for at least one peer.
    gossip_messages_out,
    /// Their bytes, counted once however many peers they went to.
    gossip_bytes_out,
    /// Gossip messages that arrived and were no duplicates.
    gossip_messages_in,
    /// Their bytes.
    gossip_bytes_in,
    /// Messages that were not published because our own queue was full.
    publishes_dropped,
    /// Messages that nobody connected subscribes to.
    publishes_without_peers,
    /// Messages that gossipsub had seen before.
    publishes_duplicate,
    /// Messages that no peer's queue had room for.
    publishes_queues_full,
    /// Messages that gossipsub dropped for some slow peer, one for each peer.
    gossip_dropped_for_slow_peers,
    /// Messages that were ignored because the engine did not keep up.
    gossip_dropped_here,
    /// Messages that were refused here because they were too large or of no topic of this mesh.
    gossip_refused,
    /// Verdicts that came too late: the message was gone from gossipsub's memory.
    verdicts_too_late,
    /// Topics that go without gossip because the list of topics would not fit one packet.
    topics_without_gossip,
    /// Dials that were begun.
    dials,
    /// Dials that failed.
    dials_failed,
    /// Links that came up.
    links_up,
    /// Links that went down.
    links_down,
    /// Bytes of all streams written: sync, gossip, and the rest; without what encryption and TCP add.
    stream_bytes_out,
    /// Bytes of all streams read.
    stream_bytes_in,
    /// Bytes of sync streams written, prefixes included.
    sync_bytes_out,
    /// Bytes of sync streams read.
    sync_bytes_in,
    /// Notices that were dropped because nobody took them.
    notices_dropped,
}
