//! What can be done with a home whose node does not run: under its lock, so that none starts meanwhile.

use std::path::Path;

use crate::api::types::{BackedUp, Verified};
use crate::home::{Home, HomeLock};
use crate::log::{self, Log, LogOptions, LogReader};

use super::super::Context;
use super::super::error::CliError;

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
