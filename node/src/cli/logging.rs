//! What a running node tells of its work, on stderr.

use tracing_subscriber::EnvFilter;

use super::error::CliError;
use super::{Global, Output};

/// Names what to tell instead of -v and -q, as in `info` or `roundelay=debug,libp2p=info`.
const VARIABLE: &str = "ROUNDELAY_LOG";

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts to tell. To be called once in a process.
pub(crate) fn start(global: &Global, format: LogFormat, output: &Output) -> Result<(), CliError> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            CliError::usage(
                format!("{VARIABLE}='{text}' cannot be understood: {error}"),
                "write a level, such as info, or several: roundelay=debug,libp2p=info",
            )
        })?,
        _ => EnvFilter::new(directives(global)),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(output.stderr_colors()).with_target(global.verbose > 0).try_init(),
    };
    started.map_err(|error| CliError::failure(format!("cannot log to stderr: {error}"), None))
}

/// What libraries have to say matters only when something is wrong with them.
fn directives(global: &Global) -> &'static str {
    match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "error,roundelay=info",
        (_, 1) => "warn,roundelay=debug",
        (_, 2) => "info,roundelay=trace",
        _ => "trace",
    }
}
