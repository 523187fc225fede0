//! `roundelay log`: checks, copies and moves what the node holds.

mod offline;
mod transfer;

use std::path::PathBuf;

use clap::Subcommand;
use futures::StreamExt;
use roundelay_protocol::topic::Pattern;

use crate::api::client::{Client, ClientError};
use crate::api::types::{Verified, VerifyLine};
use crate::status::HoleStatus;

use super::context::short_id;
use super::error::CliError;
use super::output::Tone;
use super::table::{self, bytes, count, many, safe};
use super::{Context, values};

const EXAMPLES: &str = "\
Examples:
  roundelay log verify                     check every hash, link and signature
  roundelay log export orders.placed       events as CloudEvents, one a line
  roundelay log import events.ndjson       publish events that were exported
  roundelay log backup /var/backups/a.rdl  a consistent copy of a running node
  roundelay log compact                    give the space of what was pruned back
  roundelay log holes                      what is known to be missing";

/// Check, copy and move what the node holds.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every hash, link and signature; works with and without a running node
    #[command(after_help = "Examples:\n  roundelay log verify\n  roundelay log verify --json --timeout 10m")]
    Verify,
    /// Print events as CloudEvents in JSON, one a line, in order of arrival
    #[command(after_help = "Examples:\n  roundelay log export > all.ndjson\n  roundelay log export 'orders.>' | wc -l")]
    Export {
        /// Only these topics
        #[arg(value_name = "TOPIC", value_parser = values::pattern)]
        pattern: Option<Pattern>,
    },
    /// Publish events that were exported, each to its topic, with its id, by this node
    #[command(
        after_help = "Examples:\n  roundelay log import all.ndjson\n  roundelay --home /tmp/a log export | roundelay --home /tmp/b log import"
    )]
    Import {
        /// What to read; - or nothing reads stdin
        file: Option<PathBuf>,
    },
    /// Copy the log into one file, consistently, while the node runs or not
    #[command(after_help = "Example:\n  roundelay log backup /var/backups/node.rdl")]
    Backup {
        /// The file to write; it must not exist
        file: PathBuf,
    },
    /// Bring a backup into a home without a log; the node must not run
    #[command(after_help = "Example:\n  roundelay --home /tmp/new log restore /var/backups/node.rdl")]
    Restore {
        /// The file to read
        file: PathBuf,
    },
    /// Give the space of what was pruned back to the disk; works with and without a running node
    #[command(
        after_help = "The store is copied into a fresh one, which takes its place: that needs room for the copy. A node does so \
                      by itself when its store has much more on disk than it holds.\n\nExamples:\n  roundelay log compact\n  roundelay log compact --json"
    )]
    Compact,
    /// Show what the node knows of and does not have
    #[command(after_help = "Examples:\n  roundelay log holes\n  roundelay log holes --json")]
    Holes,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    // Work that takes as long as there are events: only --timeout limits it.
    let client = Client::new(&context.home()?)?;
    let (what, work): (_, std::pin::Pin<Box<dyn Future<Output = _> + Send>>) = match args.command {
        Command::Verify => ("the verification has not ended", Box::pin(verify(&context, &client))),
        Command::Export { pattern } => {
            ("the export has not ended", Box::pin(transfer::export(&context, &client, pattern)))
        }
        Command::Import { file } => ("the import has not ended", Box::pin(transfer::import(&context, &client, file))),
        Command::Backup { file } => ("the backup has not ended", Box::pin(transfer::backup(&context, &client, file))),
        Command::Restore { file } => ("the restore has not ended", Box::pin(transfer::restore(&context, file))),
        Command::Compact => ("the log is still being compacted", Box::pin(transfer::compact(&context, &client))),
        Command::Holes => ("the node has not answered", Box::pin(holes(&context, &client))),
    };
    context.within(what, work).await
}

async fn verify(context: &Context, client: &Client) -> Result<(), CliError> {
    let report = match client.verify().await {
        Ok(mut lines) => {
            let bar = context.output.progress();
            loop {
                match lines.next().await {
                    Some(Ok(VerifyLine::Progress { done, total })) => {
                        bar.set_length(total);
                        bar.set_position(done);
                    }
                    Some(Ok(VerifyLine::Report(report))) => break report,
                    Some(Ok(VerifyLine::Failed(problem))) => {
                        return Err(ClientError::Problem(Box::new(problem)).into());
                    }
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(CliError::Gone { detail: "the verification did not end".into() }),
                }
            }
        }
        Err(ClientError::NotReachable { .. }) => offline::verify(context).await?,
        Err(error) => return Err(error.into()),
    };
    show_verified(context, &report)
}

fn show_verified(context: &Context, report: &Verified) -> Result<(), CliError> {
    let output = &context.output;
    if output.is_json() {
        output.json(report)?;
    } else {
        let checked = format!(
            "{} with {} in {}, {}",
            table::plural(report.batches, "batch", "batches"),
            many(report.events, "event"),
            many(report.logs, "log"),
            bytes(report.bytes)
        );
        if report.clean {
            output.line(&format!("{}: {checked}", output.paint(Tone::Good, "clean")))?;
        } else {
            for problem in &report.problems {
                output.line(&safe(problem))?;
            }
            output.line(&format!("checked {checked}"))?;
        }
    }
    if report.clean {
        return Ok(());
    }
    Err(CliError::failure(
        format!("the log is damaged: {}", many(report.problem_count, "problem")),
        Some("keep a copy of the home, and restore a backup or start with a new home that fetches from peers"),
    ))
}

async fn holes(context: &Context, client: &Client) -> Result<(), CliError> {
    let holes = client.holes().await?;
    let output = &context.output;
    if output.is_json() {
        return output.json(&holes);
    }
    if holes.is_empty() {
        output.note("no holes: nothing is known to be missing");
        return Ok(());
    }
    let mut table = table::table(output, &["TOPIC", "AUTHOR", ">FROM", ">TO", ">EVENTS", "REASON"]);
    for hole in &holes {
        table.add_row([
            hole.topic.clone(),
            author(hole),
            hole.from.to_string(),
            hole.to.to_string(),
            count((hole.to.saturating_sub(hole.from)).saturating_add(1)),
            hole.reason.replace('_', " "),
        ]);
    }
    output.line(&table::text(&table))
}

fn author(hole: &HoleStatus) -> String {
    hole.author_name.as_deref().map_or_else(|| format!("..{}", short_id(&hole.author)), safe)
}
