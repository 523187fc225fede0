//! Every limit that the formats and the replica obey, in one place. ARCHITECTURE.md lists them with what happens beyond.

/// Bytes of the largest event: the encoded item, with all attributes and data.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;
/// Bytes up to which a batch is filled. Only a single larger event exceeds it.
pub const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Bytes of the largest batch that is accepted from anyone: one event of the largest size and its envelope.
pub const MAX_BATCH_WIRE_BYTES: usize = MAX_EVENT_BYTES + 1024;
/// Events in a batch.
pub const MAX_BATCH_EVENTS: usize = 1024;
/// Bytes of a header: version, author, topic and the fixed fields fit with room to spare.
pub const MAX_HEADER_BYTES: usize = 512;
/// Bytes of a topic or a pattern.
pub const MAX_TOPIC_BYTES: usize = 255;
/// Bytes of each of an event's text attributes (type, id, source, subject, key, content type, correlation).
pub const MAX_ATTRIBUTE_BYTES: usize = 1024;
/// Causes that one event may name.
pub const MAX_CAUSES: usize = 64;
/// Extension attributes of one event.
pub const MAX_EXTENSIONS: usize = 64;
/// Bytes of the largest frame on a sync stream: one batch of the largest size, or several smaller ones.
pub const MAX_FRAME_BYTES: usize = MAX_BATCH_WIRE_BYTES + 64 * 1024;
/// Tips that one log may have. An honest author makes one for each restore of an old copy.
pub const MAX_TIPS: usize = 16;
/// Largest sequence number: more than any node publishes, and sums of them do not overflow.
pub const MAX_SEQ: u64 = 1 << 48;
/// Largest HLC that a batch may carry: the first millisecond of the year 2200. Anything beyond is invalid for everyone.
pub const HLC_CEILING_MS: u64 = 7_258_118_400_000;
/// Clocks further ahead of ours than this are not merged into it: 24 hours.
pub const MAX_CLOCK_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;
/// Patterns that one node subscribes to.
pub const MAX_PATTERNS: usize = 1024;
/// Blocked authors that one node leaves out of reconciliation.
pub const MAX_EXCLUDED: usize = 1024;
/// Rules by topic of one node.
pub const MAX_RULES: usize = 256;
/// Writers that one rule names. Its mark stays small enough for a leaf of the store.
pub const MAX_RULE_WRITERS: usize = 256;
/// Writers that all rules of one node name together, so that they fit a frame.
pub const MAX_WRITERS: usize = 4096;
