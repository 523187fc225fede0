//! What a node finds in its store when it starts.

use libp2p::Multiaddr;
use roundelay_protocol::arrival_times::ArrivalTimes;
use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::heartbeat::Heartbeats;
use roundelay_protocol::ids::Author;
use roundelay_protocol::interest::Interest;
use roundelay_protocol::replica::ARRIVAL_TIMES_MARK;
use roundelay_protocol::rules::{Rule, Rules};
use roundelay_protocol::topic::{HEARTBEATS_TOPIC, MESH_TOPIC, Pattern};

use super::NodeConfig;
use crate::engine::{BLOCK_MARK, JOIN_MARK, RULE_MARK, TOPICS_MARK};
use crate::log::{LogError, LogReader};
use crate::record::Directory;

/// Bytes of batches that are read to find a node's last record.
const MAX_RECORD_READ: usize = 1024 * 1024;

/// What the store knows from earlier lives.
pub(super) struct Known {
    pub(super) interest: Interest,
    pub(super) rules: Rules,
    pub(super) arrival_times: ArrivalTimes,
    pub(super) joins: Vec<Multiaddr>,
    pub(super) directory: Directory,
    pub(super) heartbeats: Heartbeats,
}

impl Known {
    pub(super) fn read(reader: &LogReader, records: &[LogRecord], config: &NodeConfig) -> Result<Self, LogError> {
        let (mut directory, mut heartbeats) = (Directory::default(), Heartbeats::default());
        let of_topic = |topic: &'static str| records.iter().filter(move |record| record.key.topic.as_str() == topic);
        for_last_batches(reader, of_topic(MESH_TOPIC), |batch| {
            directory.learn(batch);
        })?;
        for_last_batches(reader, of_topic(HEARTBEATS_TOPIC), |batch| heartbeats.learn(batch))?;
        let remembered = reader.mark(TOPICS_MARK)?.and_then(|bytes| serde_json::from_slice::<Vec<String>>(&bytes).ok());
        let patterns = match remembered {
            Some(texts) => texts.iter().filter_map(|text| Pattern::new(text).ok()).collect(),
            None => config.topics.clone(),
        };
        let blocked = reader.marks(BLOCK_MARK)?;
        let authors = blocked.iter().filter_map(|(name, _)| Some(Author(name[BLOCK_MARK.len()..].try_into().ok()?)));
        let interest = Interest::new(patterns, authors.collect());
        let joins = reader.marks(JOIN_MARK)?;
        let text = |name: &[u8]| String::from_utf8_lossy(&name[JOIN_MARK.len()..]).parse().ok();
        let arrival_times = reader.mark(ARRIVAL_TIMES_MARK)?.and_then(|mark| ArrivalTimes::decode(&mark).ok());
        let (rules, arrival_times) = (read_rules(reader)?, arrival_times.unwrap_or_default());
        Ok(Self {
            interest,
            rules,
            arrival_times,
            joins: joins.iter().filter_map(|(name, _)| text(name)).collect(),
            directory,
            heartbeats,
        })
    }
}

/// Reads the batches at the ends of logs, one log after the other.
fn for_last_batches<'a>(
    reader: &LogReader,
    records: impl Iterator<Item = &'a LogRecord>,
    mut learn: impl FnMut(&VerifiedBatch),
) -> Result<(), LogError> {
    for record in records {
        for tip in &record.tips {
            reader.range(&record.key, tip.seq - 1, tip.seq, MAX_RECORD_READ)?.iter().for_each(&mut learn);
        }
    }
    Ok(())
}

/// The rules that the store keeps.
fn read_rules(reader: &LogReader) -> Result<Rules, LogError> {
    let mut rules = Rules::default();
    for (name, value) in reader.marks(RULE_MARK)? {
        let text = String::from_utf8_lossy(&name[RULE_MARK.len()..]).into_owned();
        let taken = match (Pattern::new(&text), Rule::decode(&value)) {
            (Ok(pattern), Ok(rule)) => rules.set(pattern, rule).is_ok(),
            _ => false,
        };
        if !taken {
            tracing::warn!("the rule of '{text}' in the store is none that this program knows: it does not hold");
        }
    }
    Ok(rules)
}
