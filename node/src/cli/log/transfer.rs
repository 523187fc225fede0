//! Events out and in, and whole logs out and in.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use roundelay_protocol::topic::Pattern;
use serde_json::json;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::api::client::{Client, ClientError, LineStream};
use crate::log::LogError;

use super::super::error::CliError;
use super::super::table::{bytes, many};
use super::super::{Context, Output};
use super::offline;

/// Lines that are written at once, if so many are there.
const MAX_CHUNK: usize = 256;
/// Bytes that are read from a file at once.
const READ_BYTES: usize = 64 * 1024;

pub(super) async fn export(context: &Context, client: &Client, pattern: Option<Pattern>) -> Result<(), CliError> {
    let output = &context.output;
    let events = match client.export(pattern.as_ref().map(Pattern::as_str)).await {
        Ok(stream) => copy_lines(stream, output).await?,
        Err(ClientError::NotReachable { .. }) => offline::export(context, pattern.unwrap_or_else(Pattern::all)).await?,
        Err(error) => return Err(error.into()),
    };
    output.flush()?;
    if !output.is_json() {
        output.note(&format!("exported {}", many(events, "event")));
    }
    Ok(())
}

/// Returns how many there were.
async fn copy_lines(stream: LineStream, output: &Output) -> Result<u64, CliError> {
    let mut chunks = stream.ready_chunks(MAX_CHUNK);
    let mut lines = 0;
    while let Some(chunk) = chunks.next().await {
        for line in chunk {
            output.bytes(&line?)?;
            output.bytes(b"\n")?;
            lines += 1;
        }
    }
    Ok(lines)
}

pub(super) async fn import(context: &Context, client: &Client, file: Option<PathBuf>) -> Result<(), CliError> {
    let imported = match file.filter(|file| file.as_os_str() != "-") {
        Some(path) => {
            let file = tokio::fs::File::open(&path).await.map_err(CliError::io(path.display()))?;
            client.import(chunks(file)).await?
        }
        None => client.import(chunks(tokio::io::stdin())).await?,
    };
    let output = &context.output;
    if output.is_json() {
        return output.json(&imported);
    }
    output.note(&format!("imported {} into {}", many(imported.events, "event"), many(imported.topics, "topic")));
    Ok(())
}

fn chunks(input: impl AsyncRead + Send + 'static) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    ReaderStream::with_capacity(input, READ_BYTES)
}

pub(super) async fn backup(context: &Context, client: &Client, file: PathBuf) -> Result<(), CliError> {
    // The node has another working folder than this process.
    let file = std::path::absolute(&file).map_err(CliError::io(file.display()))?;
    refuse_existing(&file)?;
    let Some(text) = file.to_str() else {
        return Err(CliError::usage("the file's name is not UTF-8", "choose another name"));
    };
    let done = match client.backup(text).await {
        Ok(done) => done,
        Err(ClientError::NotReachable { .. }) => offline::backup(context, &file).await?,
        Err(error) => return Err(error.into()),
    };
    let output = &context.output;
    if output.is_json() {
        return output.json(&done);
    }
    output.line(&done.file)?;
    output.note(&format!(
        "{}; the identity is not in it: keep a copy of the key file in the home too, in a safe place",
        bytes(done.bytes)
    ));
    Ok(())
}

pub(super) async fn compact(context: &Context, client: &Client) -> Result<(), CliError> {
    let done = match client.compact().await {
        Ok(done) => done,
        Err(ClientError::NotReachable { .. }) => offline::compact(context).await?,
        Err(error) => return Err(error.into()),
    };
    let output = &context.output;
    if output.is_json() {
        return output.json(&done);
    }
    output.line(&format!("{} before, {} after", bytes(done.bytes_before), bytes(done.bytes_after)))
}

fn refuse_existing(file: &Path) -> Result<(), CliError> {
    if file.exists() {
        return Err(CliError::failure(
            format!("{} exists already", file.display()),
            Some("name a file that does not exist, or remove this one"),
        ));
    }
    Ok(())
}

pub(super) async fn restore(context: &Context, file: PathBuf) -> Result<(), CliError> {
    let home = context.home()?;
    let (folder, has_identity) = offline::blocking(move || {
        // Before a home is made for it.
        std::fs::File::open(&file).map_err(CliError::io(file.display()))?;
        home.create()?;
        let _lock = home.lock()?;
        let folder = home.log_path();
        crate::log::restore(&file, &folder).map_err(|error| match error {
            LogError::NotEmpty { dir } => CliError::failure(
                format!("there is a log already: {}", dir.display()),
                Some("name a home without a log with --home; nothing was changed"),
            ),
            other => other.into(),
        })?;
        Ok((folder, home.identity_path().exists()))
    })
    .await?;
    let output = &context.output;
    if output.is_json() {
        return output.json(&json!({"folder": folder}));
    }
    output.note(&format!("restored into {}", folder.display()));
    if !has_identity {
        output.note(
            "this home has no identity: copy the old node's identity.key into it to go on as the same author, or the \
             node gets a new one",
        );
    }
    Ok(())
}
