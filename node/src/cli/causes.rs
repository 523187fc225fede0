//! `roundelay trace`, `why` and `flow`: what caused what, and who reacts to what.

use std::time::Duration;

use roundelay_protocol::choreography::span::format_span;

use super::error::CliError;
use super::table::safe;
use super::values::PictureFormat;
use super::{Context, values};

const TRACE_EXAMPLES: &str = "\
Examples:
  roundelay trace order-1042                      everything that happened to one order, and why
  roundelay trace 0199b2c4-...                    the same by any event of it
  roundelay trace order-1042 --format mermaid     as a picture
  roundelay trace order-1042 --json | jq '.events[].type'

Each event stands below the latest of its causes, with the time between the two.";

const WHY_EXAMPLES: &str = "\
Examples:
  roundelay why 0199b2c4-...          the event, what caused it, what caused that, and so on
  roundelay why 0199b2c4-... --json";

const FLOW_EXAMPLES: &str = "\
Examples:
  roundelay flow --since 1h                                who reacts to what, how often, how fast
  roundelay flow --choreography order-saga                 and how that differs from what is declared
  roundelay flow --format dot | dot -Tsvg > flow.svg";

/// Show what caused what, for a correlation id or an event
#[derive(Debug, clap::Args)]
#[command(after_help = TRACE_EXAMPLES)]
pub(crate) struct TraceArgs {
    /// A correlation id, or the id of an event
    #[arg(value_name = "CORRELATION|EVENT")]
    id: String,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: PictureFormat,
}

/// Show everything that led to an event, the nearest first
#[derive(Debug, clap::Args)]
#[command(after_help = WHY_EXAMPLES)]
pub(crate) struct WhyArgs {
    /// The id of an event
    #[arg(value_name = "EVENT")]
    id: String,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: PictureFormat,
}

/// Show who reacts to what: how often, and how fast
#[derive(Debug, clap::Args)]
#[command(after_help = FLOW_EXAMPLES)]
pub(crate) struct FlowArgs {
    /// Only events of so long ago or less
    #[arg(long, value_name = "SPAN", value_parser = values::age)]
    since: Option<Duration>,
    /// Only events of this choreography, compared with what it declares
    #[arg(long, value_name = "NAME")]
    choreography: Option<String>,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: PictureFormat,
}

pub(crate) async fn trace(context: Context, args: TraceArgs) -> Result<(), CliError> {
    ask(&context, &["traces", &args.id], &[], args.format).await
}

pub(crate) async fn why(context: Context, args: WhyArgs) -> Result<(), CliError> {
    ask(&context, &["why", &args.id], &[], args.format).await
}

pub(crate) async fn flow(context: Context, args: FlowArgs) -> Result<(), CliError> {
    let since = args.since.map(|since| format_span(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    let query: Vec<_> = [("since", since), ("choreography", args.choreography)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    ask(&context, &["flow"], &query, args.format).await
}

async fn ask(
    context: &Context,
    path: &[&str],
    query: &[(&str, String)],
    format: PictureFormat,
) -> Result<(), CliError> {
    let (client, output) = (context.client()?, &context.output);
    let format = if output.is_json() { "json" } else { format.as_str() };
    let query: Vec<_> = query.iter().cloned().chain([("format", format.to_owned())]).collect();
    let text = client.text(path, &query).await?;
    if text.trim().is_empty() {
        output.note("no event is like that");
    }
    text.lines().try_for_each(|line| output.line(&safe(line)))
}
