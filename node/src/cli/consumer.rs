//! `roundelay consumer`: durable consumers of the node.

use clap::Subcommand;
use roundelay_protocol::topic::Pattern;
use serde_json::json;
use std::time::Duration;

use crate::api::types::From;
use crate::consumers::{ConsumerConfig, ConsumerInfo, Lag, Webhook};

use super::error::CliError;
use super::table::{self, count, time};
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay consumer add billing 'orders.>'   events of these topics, from the first that is stored
  roundelay consumer ls                       all of them, and how far each is
  roundelay consumer seek billing @-1h        process the last hour again

A consumer keeps its place in the node's store. Events that are not acknowledged are delivered again, and end as dead
letters: see `roundelay dlq`.";

/// Show durable consumers, add, move and remove them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List consumers and how far each is
    #[command(after_help = "Example:\n  roundelay consumer ls --json | jq -r '.[].name'")]
    Ls,
    /// Add a consumer, or change how an existing one delivers
    #[command(
        after_help = "Examples:\n  roundelay consumer add billing 'orders.>' --type order.placed\n  roundelay consumer add hook news --webhook http://127.0.0.1:8080/news\n  roundelay consumer add packers orders.paid --group packers"
    )]
    Add(Box<Add>),
    /// Remove a consumer with its dead letters
    #[command(after_help = "Example:\n  roundelay consumer rm billing")]
    Rm {
        /// The consumer
        name: String,
    },
    /// Go on from another place
    #[command(
        after_help = "Examples:\n  roundelay consumer seek billing start\n  roundelay consumer seek billing @-1h"
    )]
    Seek {
        /// The consumer
        name: String,
        /// start, end, @TIME in RFC 3339, @-1h, or a cursor that a delivery had
        #[arg(allow_hyphen_values = true, value_parser = place)]
        to: String,
    },
    /// How far a consumer is
    #[command(after_help = "Example:\n  roundelay consumer lag billing --json | jq .events")]
    Lag {
        /// The consumer
        name: String,
    },
}

/// How a consumer is set up.
#[derive(Debug, clap::Args)]
struct Add {
    /// Its name: letters, digits, '_' and '-'
    name: String,
    /// What it takes: topics, or patterns with * and >
    #[arg(value_name = "PATTERN", required = true, value_parser = values::pattern)]
    patterns: Vec<Pattern>,
    /// Only events of this type; several times for several
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Where to begin: start, end, @TIME in RFC 3339, @-1h, or a cursor
    #[arg(long, value_name = "PLACE", default_value = "start", allow_hyphen_values = true, value_parser = place)]
    from: String,
    /// Share the work by key with the nodes that have a consumer of this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Post each event to this http:// address; a 2xx answer acknowledges it
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Events that are posted at the same time
    #[arg(long, value_name = "N", default_value_t = 8, requires = "webhook")]
    concurrency: u32,
    /// Deliver again what is not acknowledged for so long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    ack_wait: Duration,
    /// Make an event a dead letter after so many deliveries
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_deliver: u32,
    /// Events that may be delivered and not acknowledged
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_in_flight: u32,
    /// Wait so long after a first failure, and twice as long after each further one, with jitter
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::duration)]
    backoff: Duration,
    /// The longest of these waits
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = values::duration)]
    max_backoff: Duration,
}

impl Add {
    fn config(&self) -> ConsumerConfig {
        let webhook = self.webhook.clone().map(|url| Webhook { url, concurrency: self.concurrency });
        ConsumerConfig {
            types: self.types.clone(),
            from: self.from.clone(),
            group: self.group.clone(),
            ack_wait_ms: self.ack_wait.as_millis() as u64,
            max_deliver: self.max_deliver,
            max_in_flight: self.max_in_flight,
            backoff_ms: self.backoff.as_millis() as u64,
            max_backoff_ms: self.max_backoff.as_millis() as u64,
            webhook,
            ..ConsumerConfig::new(self.patterns.iter().map(ToString::to_string).collect())
        }
    }
}

/// A place to begin at or to go on from.
pub(super) fn place(text: &str) -> Result<String, String> {
    if text.parse::<crate::cursor::Cursor>().is_ok() {
        return Ok(text.to_owned());
    }
    match values::from(text) {
        Ok(place @ (From::Start | From::End | From::TimeMs(_))) => Ok(place.to_string()),
        _ => Err("write start, end, @2026-01-31T09:00:00Z, @-1h, or a cursor that a delivery had".into()),
    }
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let output = &context.output;
    match args.command {
        Command::Ls => show(output, &client.consumers().await?),
        Command::Add(add) => {
            let info = client.put_consumer(&add.name, &add.config()).await?;
            output.told(&info, || format!("consumer {} takes {}", info.name, info.config.topics.join(", ")))
        }
        Command::Rm { name } => {
            if !client.remove_consumer(&name).await? {
                return Err(no_consumer(&name));
            }
            output.told(&json!({ "removed": name }), || format!("removed {name}"))
        }
        Command::Seek { name, to } => {
            let lag = client.ask_consumer(&name, &["seek"], &json!({ "to": to })).await?;
            output.told(&lag, || format!("{name} goes on from {to}: {} events to do", lag["events"]))
        }
        Command::Lag { name } => {
            let info = client.consumer(&name).await?;
            if output.is_json() {
                return output.json(&info.lag);
            }
            lag(output, &info.lag)
        }
    }
}

pub(super) fn no_consumer(name: &str) -> CliError {
    CliError::failure(
        format!("there is no consumer '{name}'"),
        Some("see which there are with `roundelay consumer ls`"),
    )
}

fn show(output: &Output, consumers: &[ConsumerInfo]) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&consumers);
    }
    if consumers.is_empty() {
        output.note("there are no consumers: add one with `roundelay consumer add NAME PATTERN`");
        return Ok(());
    }
    let mut table = table::table(output, &["CONSUMER", "TOPICS", ">TO DO", ">IN FLIGHT", ">DEAD", "GROUP", "WEBHOOK"]);
    for info in consumers {
        let webhook = info.config.webhook.as_ref();
        table.add_row([
            info.name.clone(),
            info.config.topics.join(", "),
            to_do(&info.lag),
            count(info.lag.in_flight),
            count(info.lag.dead),
            info.config.group.clone().unwrap_or_else(|| "-".into()),
            webhook.map_or_else(|| "-".into(), |webhook| table::safe(&webhook.url)),
        ]);
    }
    output.line(&table::text(&table))
}

fn to_do(lag: &Lag) -> String {
    format!("{}{}", count(lag.events), if lag.more { "+" } else { "" })
}

fn lag(output: &Output, lag: &Lag) -> Result<(), CliError> {
    output.line(&format!("to do      {}", to_do(lag)))?;
    output.line(&format!("in flight  {}", count(lag.in_flight)))?;
    output.line(&format!("dead       {}", count(lag.dead)))?;
    output.line(&format!("oldest     {}", lag.oldest_ms.map_or_else(|| "-".into(), time)))?;
    output.line(&format!("cursor     {}", lag.cursor))?;
    if !lag.members.is_empty() {
        output.line(&format!("members    {}", lag.members.join(", ")))?;
    }
    if let Some(missed) = &lag.missed {
        let more = if missed.more { " or more" } else { "" };
        output.note(&format!("{} events{more} were pruned before they were done", count(missed.events)));
    }
    Ok(())
}
