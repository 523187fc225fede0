//! What can be done with a home whose node does not run: under its lock, so that none starts meanwhile.

use std::path::Path;

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::event::Item;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::topic::Pattern;

use crate::api::types::{BackedUp, Compacted, Verified};
use crate::cloudevents::{Place, write_event};
use crate::home::{Home, HomeLock};
use crate::log::{self, Log, LogOptions, LogReader};
use crate::peer_id::text_of;

use super::super::Context;
use super::super::error::CliError;

/// Batches, and bytes of them, that are read at once.
const SCAN_BATCHES: usize = 1024;
const SCAN_BYTES: usize = 4 * 1024 * 1024;

/// Checks the log of a home whose node does not run.
pub(super) async fn verify(context: &Context) -> Result<Verified, CliError> {
    let bar = context.output.progress();
    with_log(context, move |reader| {
        let report = log::verify(reader, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        Ok(report.into())
    })
    .await
}

/// Copies the log of a home whose node does not run.
pub(super) async fn backup(context: &Context, file: &Path) -> Result<BackedUp, CliError> {
    let file = file.to_owned();
    with_log(context, move |reader| {
        let report = log::backup(reader, &file)?;
        Ok(BackedUp { file: file.display().to_string(), bytes: report.bytes, last_arrival: report.last_arrival.0 })
    })
    .await
}

/// Rewrites the log of a home whose node does not run.
pub(super) async fn compact(context: &Context) -> Result<Compacted, CliError> {
    let home = context.home()?;
    let opened = blocking(move || {
        let lock = lock_existing(&home)?;
        Ok((lock, Log::open(&home.log_path(), LogOptions::default())?))
    });
    let (lock, opened) = opened.await?;
    drop(opened.events);
    let done = opened.log.rewrite().await;
    opened.log.close().await;
    drop(lock);
    Ok(done?.into())
}

/// Prints the events of a home whose node does not run. Returns how many there were.
pub(super) async fn export(context: &Context, pattern: Pattern) -> Result<u64, CliError> {
    let output = context.output.clone();
    with_log(context, move |reader| {
        let (mut after, mut events, mut lines) = (Arrival(0), 0, Vec::new());
        loop {
            let batches = reader.scan(after, SCAN_BATCHES, SCAN_BYTES)?;
            let Some((last, _)) = batches.last() else { return Ok(events) };
            after = *last;
            for (arrival, batch) in batches.iter().filter(|(_, batch)| pattern.matches(&batch.header().topic)) {
                events += write_batch(*arrival, batch, &mut lines);
            }
            output.bytes(&lines)?;
            lines.clear();
        }
    })
    .await
}

fn write_batch(arrival: Arrival, batch: &VerifiedBatch, lines: &mut Vec<u8>) -> u64 {
    let header = batch.header();
    let author = text_of(&header.author);
    let mut events = 0;
    for (seq, item) in batch.items() {
        if let Item::Event(event) = item {
            let place = Place { topic: header.topic.as_str(), author: &author, seq, arrival };
            write_event(lines, &event, &place);
            lines.push(b'\n');
            events += 1;
        }
    }
    events
}

/// Does `work` with the log of a home that nobody else uses meanwhile.
async fn with_log<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce(&LogReader) -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let home = context.home()?;
    let opened = blocking(move || {
        let lock = lock_existing(&home)?;
        Ok((lock, Log::open(&home.log_path(), LogOptions::default())?))
    });
    let (lock, opened) = opened.await?;
    let reader = opened.log.reader();
    // Nothing is submitted, so nothing is reported.
    drop(opened.events);
    let done = blocking(move || work(&reader)).await;
    opened.log.close().await;
    drop(lock);
    done
}

fn lock_existing(home: &Home) -> Result<HomeLock, CliError> {
    let folder = home.log_path();
    if !folder.is_dir() {
        return Err(CliError::failure(
            format!("there is no log in {}", home.path().display()),
            Some("name the home of a node that was started once, with --home"),
        ));
    }
    Ok(home.lock()?)
}

/// Runs work that blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(CliError::failure(format!("the work broke off: {error}"), None)))
}
