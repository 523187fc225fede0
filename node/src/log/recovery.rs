//! Opens a node's log, and does not trust it blindly: what is damaged is set aside, and what verifies is salvaged.

use std::fs;
use std::path::Path;

use roundelay_protocol::ids::{Arrival, Author};

use super::disk::{self, Disk};
use super::error::LogError;
use super::last_run::{self, Durable};
use super::reader::LogReader;
use super::salvage::{salvage, salvaging_path};
use super::service::{Log, Opened};
use super::verify::{self, VerifyReport};
use super::{LogOptions, sync_parent};

/// The last batches, which are checked at each start: where damage hides best, as sled reads there what it has written
/// since it was last opened.
const CHECKED_BATCHES: u64 = 1024;

/// Opens the log of a node as [`Log::open`] does. Where it is found to be damaged, the folder is renamed and never
/// removed, and a new store with a new epoch is made of what verifies. Where the last run ended by a failure, everything
/// is read from the disk and checked before it is used. Blocks, for as long as that takes.
///
/// # Errors
/// When the folder cannot be used, is open elsewhere or has another format, or when there is no room for the new store.
pub fn open_or_salvage(dir: &Path, options: LogOptions, me: Author) -> Result<Opened, LogError> {
    let salvaging = salvaging_path(dir);
    if !dir.exists() && salvaging.exists() {
        // The old store is renamed only when the new one is whole.
        fs::rename(&salvaging, dir).and_then(|()| sync_parent(dir)).map_err(LogError::folder(dir))?;
    }
    let failure = last_run::failure(dir);
    if let Some(reason) = &failure {
        tracing::warn!("the last run ended by a failure ({reason}): checking the whole log before it is used");
        last_run::drop_cached_pages(dir);
    }
    let disk = match open_checked(dir, &options, failure.is_some()) {
        Ok(disk) => disk,
        Err(LogError::Damaged { detail, .. }) => {
            tracing::error!("the log is damaged: {detail}; setting it aside and salvaging what verifies");
            let salvaged = salvage(dir, &options, me, &detail)?;
            tracing::warn!("{salvaged}");
            disk::open(dir, &options)?
        }
        Err(error) => return Err(error),
    };
    last_run::forget_failure(dir);
    Log::start(disk, &options)
}

fn open_checked(dir: &Path, options: &LogOptions, thoroughly: bool) -> Result<Disk, LogError> {
    let disk = disk::open(dir, options)?;
    let reader = LogReader { shared: disk.shared.clone() };
    let checked = check(&reader, &disk, thoroughly);
    if checked.is_err() {
        reader.shared.close();
    }
    checked.map(|()| disk)
}

fn check(reader: &LogReader, disk: &Disk, thoroughly: bool) -> Result<(), LogError> {
    if let Some(durable) = Durable::read(&reader.shared.dir) {
        let found = disk.snapshot.last_arrival;
        if durable.epoch != disk.snapshot.epoch {
            return Err(reader.shared.damaged("it is another store than the one that was written last"));
        }
        if found < durable.arrival {
            let (found, durable) = (found.0, durable.arrival.0);
            return Err(reader.shared.damaged(format!("it ends at arrival {found} and was durable up to {durable}")));
        }
        if reader.chain_at(durable.arrival)?.is_some_and(|chain| chain != durable.chain) {
            return Err(reader.shared.damaged(format!("arrival {} is not what was stored", durable.arrival.0)));
        }
    }
    let report = if thoroughly {
        verify::verify(reader, |_, _| {})?
    } else {
        let last = reader.last_arrival();
        verify::verify_end(reader, Arrival(last.0.saturating_sub(CHECKED_BATCHES)))?
    };
    fail_on_problems(reader, &report)
}

fn fail_on_problems(reader: &LogReader, report: &VerifyReport) -> Result<(), LogError> {
    match report.problems.first() {
        Some(problem) if report.problem_count == 1 => Err(reader.shared.damaged(problem)),
        Some(problem) => {
            let more = report.problem_count - 1;
            Err(reader.shared.damaged(format!("{problem}, and {more} more problems")))
        }
        None => Ok(()),
    }
}
