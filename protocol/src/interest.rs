//! What a node takes part in, and what two nodes therefore have in common.

use crate::codec::{CodecError, Reader, Writer};
use crate::heads::LogKey;
use crate::ids::Author;
use crate::limits::{MAX_EXCLUDED, MAX_PATTERNS, MAX_TOPIC_BYTES};
use crate::rules::Writers;
use crate::topic::{CHOREOGRAPHIES_TOPIC, HEARTBEATS_TOPIC, MESH_TOPIC, Pattern, Topic};

/// The topics that a node subscribes to and the authors that it leaves out. Every node takes part in
/// `_mesh`, `_choreographies` and `_heartbeats`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    /// Patterns of the topics it stores and pulls; at most [`MAX_PATTERNS`], sorted.
    pub patterns: Vec<Pattern>,
    /// Authors whose events it neither stores nor serves; at most [`MAX_EXCLUDED`], sorted.
    pub excluded: Vec<Author>,
    /// Who may publish what: it neither stores nor serves what others publish.
    pub writers: Writers,
}

impl Interest {
    /// An interest in the topics that match any of `patterns`.
    #[must_use]
    pub fn new(mut patterns: Vec<Pattern>, mut excluded: Vec<Author>) -> Self {
        patterns.sort();
        patterns.dedup();
        patterns.truncate(MAX_PATTERNS);
        excluded.sort();
        excluded.dedup();
        excluded.truncate(MAX_EXCLUDED);
        Self { patterns, excluded, writers: Writers::default() }
    }

    /// Whether events of the topic are stored by a node of this interest, whoever published them.
    #[must_use]
    pub fn covers(&self, topic: &Topic) -> bool {
        matches!(topic.as_str(), MESH_TOPIC | CHOREOGRAPHIES_TOPIC | HEARTBEATS_TOPIC)
            || self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether the author is left out.
    #[must_use]
    pub fn excludes(&self, author: &Author) -> bool {
        self.excluded.binary_search(author).is_ok()
    }

    /// Whether a node of this interest, being `owner`, holds the log: it subscribes to the topic or is the author, and
    /// leaves the author out neither everywhere nor in this topic.
    #[must_use]
    pub fn holds(&self, owner: &Author, log: &LogKey) -> bool {
        (log.author == *owner || self.covers(&log.topic))
            && !self.excludes(&log.author)
            && self.writers.allow(&log.topic, &log.author)
    }

    /// How many items it is written as: writers are left out where nobody is limited.
    pub(crate) fn items(&self) -> usize {
        if self.writers.is_empty() { 2 } else { 3 }
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.array(self.patterns.len());
        for pattern in &self.patterns {
            writer.text(pattern.as_str());
        }
        writer.array(self.excluded.len());
        for author in &self.excluded {
            writer.bytes(&author.0);
        }
        if !self.writers.is_empty() {
            self.writers.write(writer);
        }
    }

    /// Reads what was written as two items or three.
    pub(crate) fn read(reader: &mut Reader<'_>, items: usize) -> Result<Self, CodecError> {
        let count = reader.list("patterns", MAX_PATTERNS)?;
        let mut patterns = Vec::with_capacity(count);
        for _ in 0..count {
            let text = reader.text("pattern", MAX_TOPIC_BYTES)?;
            patterns.push(Pattern::new(text).map_err(|_| CodecError::OutOfBounds("pattern"))?);
        }
        let count = reader.list("excluded", MAX_EXCLUDED)?;
        let excluded = (0..count).map(|_| reader.fixed("author").map(Author)).collect::<Result<_, _>>()?;
        let writers = match items {
            2 => Writers::default(),
            3 => Writers::read(reader)?,
            _ => return Err(CodecError::OutOfBounds("interest")),
        };
        Ok(Self { writers, ..Self::new(patterns, excluded) })
    }

    /// A fingerprint of what two nodes have in common; the same from either side.
    #[must_use]
    pub fn fingerprint(&self, other: &Self) -> [u8; 8] {
        let encode = |interest: &Self| {
            let mut writer = Writer::new();
            interest.write(&mut writer);
            writer.finish()
        };
        let (one, two) = (encode(self), encode(other));
        let mut hasher = blake3::Hasher::new();
        hasher.update(one.as_slice().min(&two)).update(one.as_slice().max(&two));
        let mut print = [0; 8];
        print.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        print
    }
}
