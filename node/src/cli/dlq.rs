//! `roundelay dlq`: dead letters of consumers.

use clap::Subcommand;
use serde_json::json;

use crate::consumers::Letter;

use super::error::CliError;
use super::table::{self, count, safe, time};
use super::{Context, Output};

const EXAMPLES: &str = "\
Examples:
  roundelay dlq ls billing             what failed too often, and why
  roundelay dlq show billing 3         one of them, with its event and every attempt
  roundelay dlq redrive billing 3      deliver it again
  roundelay dlq redrive billing --all  deliver all of them again

A letter goes when its event is acknowledged.";

/// Show the dead letters of a consumer, and deliver them again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, the oldest first
    #[command(after_help = "Example:\n  roundelay dlq ls billing --json | jq -r '.[].reason'")]
    Ls {
        /// The consumer
        consumer: String,
    },
    /// Show one with its event and every attempt
    #[command(after_help = "Example:\n  roundelay dlq show billing 3 --json | jq .event.data")]
    Show {
        /// The consumer
        consumer: String,
        /// The number of the letter
        number: u64,
    },
    /// Deliver one again, or all
    #[command(after_help = "Examples:\n  roundelay dlq redrive billing 3\n  roundelay dlq redrive billing --all")]
    Redrive {
        /// The consumer
        consumer: String,
        /// The number of the letter
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        number: Option<u64>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let output = &context.output;
    match args.command {
        Command::Ls { consumer } => {
            let mut letters: Vec<Letter> = Vec::new();
            loop {
                let after = letters.last().map_or(0, |letter| letter.number);
                let more = client.dead(&consumer, after).await?;
                if more.is_empty() {
                    break;
                }
                letters.extend(more);
            }
            show_all(output, &letters)
        }
        Command::Show { consumer, number } => {
            let letter = client.dead_letter(&consumer, number).await?;
            if output.is_json() {
                return output.json(&letter);
            }
            let text = serde_json::to_string_pretty(&letter);
            output.line(&text.unwrap_or_default())
        }
        Command::Redrive { consumer, number, all } => {
            let body = json!({ "number": number, "all": all });
            let answer = client.ask_consumer(&consumer, &["dead", "redrive"], &body).await?;
            output.told(&answer, || format!("{} are delivered again", answer["redriven"]))
        }
    }
}

fn show_all(output: &Output, letters: &[Letter]) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&letters);
    }
    if letters.is_empty() {
        output.note("there are no dead letters");
        return Ok(());
    }
    let mut table = table::table(output, &[">NUMBER", "DIED", "TOPIC", "ID", "KEY", ">ATTEMPTS", "REASON"]);
    for letter in letters {
        table.add_row([
            letter.number.to_string(),
            time(letter.at_ms),
            letter.topic.clone(),
            safe(&letter.id),
            letter.key.as_deref().map_or_else(|| "-".into(), safe),
            count(letter.attempts.len() as u64),
            if letter.redriven { "is delivered again".into() } else { safe(&letter.reason) },
        ]);
    }
    output.line(&table::text(&table))
}
