//! Every bound of the mesh layer, with what happens beyond it.

/// Bytes of the largest sync frame, without its length prefix. A peer that announces more loses the link.
pub const MAX_FRAME_BYTES: usize = 1_115_136;
/// Bytes that may wait in one [`LinkSender`](super::LinkSender). Beyond it, `try_send` says full.
pub const MAX_LINK_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Frames that may wait in one [`LinkSender`](super::LinkSender). Beyond it, `try_send` says full.
pub const MAX_LINK_QUEUE_FRAMES: usize = 4096;
/// Frames that wait between a link's reader and the engine. Beyond it, the reader stops and TCP slows the peer down.
pub const MAX_LINK_INBOUND_FRAMES: usize = 32;
/// Bytes of gossip that wait to be published. Beyond it, `try_publish` says no and reconciliation brings the batch.
pub const MAX_PUBLISH_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Messages that wait to be published.
pub const MAX_PUBLISH_QUEUE_MESSAGES: usize = 1024;
/// Events in the channel to the engine.
pub const MAX_EVENT_QUEUE: usize = 256;
/// Bytes of gossip that wait for room in the channel to the engine. Beyond it, new messages are ignored and counted.
pub const MAX_PENDING_GOSSIP_BYTES: usize = 16 * 1024 * 1024;
/// Gossip messages that wait for room in the channel to the engine.
pub const MAX_PENDING_GOSSIP_MESSAGES: usize = 4096;
/// Notices that wait for room in the channel to the engine. Beyond it, the oldest notice goes.
pub const MAX_PENDING_NOTICES: usize = 512;
/// Commands and questions that wait for the swarm's task. Beyond it, `send` waits.
pub const MAX_COMMAND_QUEUE: usize = 256;
/// Dials under way at once. Beyond it, the others wait for the next turn.
pub const MAX_DIALS: usize = 8;
/// Addresses of one peer that one dial tries.
pub const MAX_ADDRESSES_PER_DIAL: usize = 8;
/// Join addresses, and as many mDNS hints again. Beyond it, further ones are not taken.
pub const MAX_JOINS: usize = 256;
/// Candidates in the table. Beyond it, the rest of the list is not looked at.
pub const MAX_CANDIDATES: usize = 10_000;
/// Peers that are kept away. Beyond it, those whose time is up soonest go first.
pub const MAX_KEPT_AWAY: usize = 10_000;
/// Connections to one peer: two, because both may dial at once.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 2;
/// Inbound connections that are still shaking hands. Beyond it, new ones are closed.
pub const MAX_PENDING_INBOUND: u32 = 64;
/// Gossip topics of one peer. Beyond it, its further subscriptions are not heard.
pub const MAX_TOPICS_PER_PEER: usize = 100_000;
/// Bytes of all control messages in one gossip packet. The whole list of a node's topics goes in one packet when a
/// link comes up, and one that is over the limit closes the gossip stream without a word.
pub const MAX_CONTROL_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of our own list of topics, as gossipsub encodes it. Topics beyond it go without gossip, by sync alone.
pub const MAX_SUBSCRIPTION_BYTES: usize = 3 * 1024 * 1024;
/// What the packet limit must exceed the largest message by: messages closer to it get lost when pipelined.
pub const GOSSIP_HEADROOM_BYTES: usize = 16 * 1024;
/// Gossip messages that wait for one peer's connection. Beyond it, gossipsub drops them for that peer.
pub const GOSSIP_QUEUE_MESSAGES: usize = 256;
/// Bytes of a topic's name.
pub const MAX_TOPIC_BYTES: usize = 255;
