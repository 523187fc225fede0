//! Makes a new store of what verifies in a damaged one.
//!
//! Batches are taken one by one, in order of arrival, through the one door: a replica, which links them, cuts holes where
//! parents are lost, and keeps floors. What sled cannot lead to any more is looked for in its file byte by byte; there only
//! batches of up to 2,048 bytes lie in one piece. Marks survive, but for what was known of peers: that told what is covered
//! here, which is true no more. Then the folders change their names.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use roundelay_protocol::heads::LogRecord;
use roundelay_protocol::ids::Author;
use roundelay_protocol::replica::MEMORY_MARK;
use serde::{Deserialize, Serialize};

use super::error::LogError;
use super::salvage_sink::Sink;
use super::salvage_source::{Source, find_in_file};
use super::store::Mark;
use super::{LogOptions, disk, sync_parent, with_suffix};
use crate::clock::wall_ms;

/// The mark under which a new store keeps what became of the old one, in JSON.
pub(super) const SALVAGED_MARK: &[u8] = b"salvaged";

/// What became of a damaged store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Salvaged {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was found to be damaged.
    pub reason: String,
    /// Events that were salvaged.
    pub events: u64,
    /// Events that were stored and could not be salvaged, if the old store still says how many it had. Peers bring back
    /// what they have of them.
    pub lost_events: Option<u64>,
    /// Where the damaged store is. It is not used any more, and never removed.
    #[schema(value_type = String)]
    pub set_aside: PathBuf,
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, events, lost_events, set_aside, .. } = self;
        let lost = match lost_events {
            Some(lost) => format!("{lost} were lost"),
            None => "how many were lost is not known".to_owned(),
        };
        write!(
            f,
            "the store was damaged ({reason}): {events} events were salvaged, {lost}, and peers bring back what they \
             have of them; the damaged store is in {}",
            set_aside.display()
        )
    }
}

/// Where a new store is made before it takes the place of the old one.
pub(super) fn salvaging_path(dir: &Path) -> PathBuf {
    with_suffix(dir, ".salvaging")
}

/// Makes a new store in the place of a damaged one, which is set aside. `me` is the author whose logs are the node's own.
pub(super) fn salvage(dir: &Path, options: &LogOptions, me: Author, reason: &str) -> Result<Salvaged, LogError> {
    let salvaging = salvaging_path(dir);
    if salvaging.exists() {
        // Of an attempt that was broken off.
        fs::remove_dir_all(&salvaging).map_err(LogError::folder(&salvaging))?;
    }
    let at_ms = wall_ms();
    let found = find_in_file(dir);
    let source = Source::open(dir);
    let records = source.records();
    let known_events = records
        .as_ref()
        .filter(|_| !source.is_rolled_back())
        .map(|records| records.iter().map(|record| record.events).sum::<u64>());
    let mut sink = Sink::create(&salvaging, options, me, records.unwrap_or_default(), at_ms)?;
    for arrival in source.arrivals() {
        if let Some(batch) = source.batch(arrival) {
            sink.take(batch)?;
        }
    }
    sink.sync()?;
    for bytes in found {
        sink.take_found(bytes)?;
    }
    let mut marks: Vec<Mark> = source.marks();
    marks.retain(|(name, _)| !name.starts_with(MEMORY_MARK) && name != SALVAGED_MARK);
    drop(source);
    let set_aside = name_for(dir, at_ms);
    let events = sink.events();
    let lost_events = known_events.map(|known| known.saturating_sub(events));
    let salvaged = Salvaged { at_ms, reason: reason.to_owned(), events, lost_events, set_aside };
    // Numbers and texts are always JSON.
    marks.push((SALVAGED_MARK.to_vec(), serde_json::to_vec(&salvaged).unwrap_or_default()));
    sink.finish(marks)?;
    disk::sync_folder(&salvaging).map_err(LogError::folder(&salvaging))?;
    let swap = || -> std::io::Result<()> {
        fs::rename(dir, &salvaged.set_aside)?;
        fs::rename(&salvaging, dir)?;
        sync_parent(dir)
    };
    swap().map_err(LogError::folder(dir))?;
    Ok(salvaged)
}

/// A name for the damaged store that nothing has yet.
fn name_for(dir: &Path, at_ms: u64) -> PathBuf {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at_ms).unwrap_or_default()).unwrap_or_default();
    let name = format!(".damaged-{}", at.strftime("%Y%m%dT%H%M%SZ"));
    let free = |path: &PathBuf| !path.exists();
    let numbered = (2u32..).map(|number| with_suffix(dir, &format!("{name}-{number}")));
    [with_suffix(dir, &name)].into_iter().chain(numbered).find(free).unwrap_or_else(|| with_suffix(dir, &name))
}

/// A log's record as it is before any of its batches is salvaged.
pub(super) fn emptied(record: &LogRecord) -> LogRecord {
    let mut tips = record.tips.clone();
    // Tips that were pruned are known, and never stored.
    tips.retain(|tip| tip.seq <= record.floor);
    LogRecord {
        tips,
        floor: record.floor,
        floor_hlc: record.floor_hlc,
        announced: record.announced,
        ..LogRecord::new(record.key.clone())
    }
}
