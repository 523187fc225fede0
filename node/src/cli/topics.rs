//! `roundelay topics`: what the node holds and subscribes to.

use clap::Subcommand;
use comfy_table::Table;
use roundelay_protocol::topic::Pattern;
use serde_json::json;

use crate::status::{NodeStatus, TopicStatus};

use super::error::CliError;
use super::table::{self, bytes, count, time};
use super::{Context, Output, rules, values};

/// Characters of a digest that are shown: equal ones here are equal.
const DIGEST_CHARS: usize = 16;

const EXAMPLES: &str = "\
Examples:
  roundelay topics                  topics with events, bytes, authors and digest
  roundelay topics join 'orders.>'  subscribe this node to one more pattern
  roundelay topics leave weather    end a subscription; what is stored stays
  roundelay topics set '>' --max-age 7d   let old events go

Two nodes with the same digest of a topic hold the same events of it.";

/// Show topics, subscribe the node to more or fewer, say what is kept of them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Subscribe the node to one more pattern, for good
    #[command(after_help = "Example:\n  roundelay topics join 'orders.>'")]
    Join {
        /// A topic, or a pattern with * and >
        #[arg(value_parser = values::pattern)]
        pattern: Pattern,
    },
    /// Set what is kept of topics for how long, and who may publish to them, in the place of an earlier rule of the pattern
    #[command(after_help = RULES)]
    Set {
        /// A topic, or a pattern with * and >
        #[arg(value_parser = values::pattern)]
        pattern: Pattern,
        #[command(flatten)]
        limits: rules::Limits,
    },
    /// End the rule of a pattern
    #[command(after_help = "Example:\n  roundelay topics unset '>'")]
    Unset {
        /// The pattern, as it was set
        #[arg(value_parser = values::pattern)]
        pattern: Pattern,
    },
    /// Show the rules of this node
    #[command(after_help = "Examples:\n  roundelay topics rules\n  roundelay topics rules --json")]
    Rules,
    /// End a subscription of the node, for good; what is stored stays
    #[command(after_help = "Example:\n  roundelay topics leave 'orders.>'")]
    Leave {
        /// The pattern, as it was joined
        #[arg(value_parser = values::pattern)]
        pattern: Pattern,
    },
}

const RULES: &str = "\
A rule is this node's own. For a topic the most specific pattern that matches it holds, and it alone: where two patterns differ
first, from the left, a plain token comes before *, and * before >. Events go in whole batches, the oldest first; the last
batch of every author stays, and so do events of this node that no peer has yet.

Examples:
  roundelay topics set '>' --max-age 7d --max-bytes 1GiB
  roundelay topics set orders.placed --max-events 100000
  roundelay topics set 'stock.*' --keyed
  roundelay topics set 'prices.>' --writers 12D3KooW...,12D3KooW...
  roundelay topics set 'prices.>' --writers none";

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let output = &context.output;
    match args.command {
        None => {
            let status = client.status().await?;
            show(output, &status)
        }
        Some(Command::Join { pattern }) => {
            client.join_topics(pattern.as_str()).await?;
            if output.is_json() {
                return output.json(&json!({"joined": pattern.as_str()}));
            }
            output.note(&format!("subscribed to {pattern}"));
            Ok(())
        }
        Some(Command::Set { pattern, limits }) => rules::set(&context, &client, &pattern, limits).await,
        Some(Command::Unset { pattern }) => rules::unset(&context, &client, &pattern).await,
        Some(Command::Rules) => rules::list(&context, &client).await,
        Some(Command::Leave { pattern }) => {
            if !client.leave_topics(pattern.as_str()).await? {
                let subscriptions = client.status().await?.node.subscriptions;
                let hint = match subscriptions[..] {
                    [] => "it subscribes to nothing".to_owned(),
                    _ => format!("it subscribes to {}", subscriptions.join(", ")),
                };
                return Err(CliError::failure(format!("the node does not subscribe to '{pattern}'"), Some(&hint)));
            }
            if output.is_json() {
                return output.json(&json!({"left": pattern.as_str()}));
            }
            output.note(&format!("left {pattern}"));
            Ok(())
        }
    }
}

fn show(output: &Output, status: &NodeStatus) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&status.topics);
    }
    let shown = of_services(&status.topics);
    if shown.is_empty() {
        output.note("no topic has events yet: publish with `roundelay pub TOPIC DATA`");
    } else {
        output.line(&table::text(&table(output, &shown)))?;
    }
    output.note(&format!("subscribed to {}", status.node.subscriptions.join(", ")));
    Ok(())
}

/// Without the topics of the mesh itself, which are of no use to people.
pub(super) fn of_services(topics: &[TopicStatus]) -> Vec<&TopicStatus> {
    topics.iter().filter(|topic| !topic.topic.starts_with('_')).collect()
}

/// Topics as a table.
pub(super) fn table(output: &Output, topics: &[&TopicStatus]) -> Table {
    let columns = ["TOPIC", ">EVENTS", ">BYTES", ">AUTHORS", "LAST EVENT", "DIGEST", "SUBSCRIBED"];
    let mut table = table::table(output, &columns);
    for topic in topics {
        table.add_row([
            topic.topic.clone(),
            count(topic.events),
            bytes(topic.bytes),
            count(topic.authors),
            topic.last_event_ms.map_or_else(|| "-".into(), time),
            topic.digest.chars().take(DIGEST_CHARS).collect(),
            if topic.subscribed { "yes" } else { "no" }.into(),
        ]);
    }
    table
}
