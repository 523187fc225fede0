//! What a running node tells of its work, on stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::error::CliError;
use super::{Global, Output};
use crate::traces::Exporter;

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

/// Starts to tell. To be called once in a process. Spans go to the exporter that is returned, if one is asked for.
pub(crate) fn start(global: &Global, format: LogFormat, output: &Output) -> Result<Option<Exporter>, CliError> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            CliError::usage(
                format!("{VARIABLE}='{text}' cannot be understood: {error}"),
                "write a level, such as info, or several: roundelay=debug,libp2p=info",
            )
        })?,
        _ => EnvFilter::new(directives(global)),
    };
    let exporter = Exporter::start().map_err(|error| CliError::usage(error.to_string(), "or unset the variable"))?;
    let started = match &exporter {
        None => tracing_subscriber::registry().with(filter).with(lines(global, format, output)).try_init(),
        // Each layer has a filter of its own, so that spans are for the collector alone.
        Some(exporter) => {
            let lines = lines(global, format, output).with_filter(filter);
            tracing_subscriber::registry().with(lines).with(exporter.layer()).try_init()
        }
    };
    started.map_err(|error| CliError::failure(format!("cannot log to stderr: {error}"), None))?;
    Ok(exporter)
}

fn lines<S>(global: &Global, format: LogFormat, output: &Output) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(output.stderr_colors()).with_target(global.verbose > 0).boxed(),
    }
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
