//! `roundelay stable`: what cannot change any more, and who holds it up.

use roundelay_protocol::topic::Pattern;
use serde_json::json;

use crate::stability::{NodeStability, Stability};

use super::context::{find_peer, short_id};
use super::error::CliError;
use super::table::{self, safe, time};
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay stable                         of all that the node subscribes to
  roundelay stable orders.> stock.levels   of some
  roundelay stable --choreography orders   of its topics, and of the nodes that it names
  roundelay stable --leave-out berlin      go on without a node that is silent
  roundelay stable --count berlin          have it count again

Everything before the time that is printed is here, of every node that counts: nothing that comes later changes it. A
node counts by what it publishes, and while it is quiet by its heartbeats, which it gives when `heartbeat` is set in its
config.toml (\"1s\", say). What comes earlier from a node that was left out is counted by views as an exception.";

/// Show up to when everything that was published is here, and which node holds it up.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Topics and patterns [default: what the node subscribes to]
    #[arg(value_name = "PATTERN", value_parser = values::pattern)]
    patterns: Vec<Pattern>,
    /// Of the topics of this choreography, and of the nodes alone that it names where it does so for every role
    #[arg(long, value_name = "NAME", conflicts_with = "patterns")]
    choreography: Option<String>,
    /// Go on without this node: its name, its id, or the beginning or end of either
    #[arg(long, value_name = "NODE", conflicts_with_all = ["patterns", "choreography"])]
    leave_out: Option<String>,
    /// Have this node count again
    #[arg(long, value_name = "NODE", conflicts_with_all = ["patterns", "choreography", "leave_out"])]
    count: Option<String>,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let (client, output) = (context.client()?, &context.output);
    if let Some(wanted) = args.leave_out.as_ref().or(args.count.as_ref()) {
        let is_left_out = args.leave_out.is_some();
        let id = find_peer(&client.status().await?.peers, wanted)?.id.clone();
        client.leave_out(&id, is_left_out).await?;
        let (event, words) = if is_left_out { ("left_out", "left out") } else { ("counts", "counts again:") };
        if output.is_json() {
            return output.json(&json!({event: id}));
        }
        output.note(&format!("{words} {id}"));
        return Ok(());
    }
    let texts: Vec<&str> = args.patterns.iter().map(Pattern::as_str).collect();
    let topics = (!texts.is_empty()).then(|| texts.join(","));
    show(output, &client.stability(topics.as_deref(), args.choreography.as_deref()).await?)
}

fn show(output: &Output, stability: &Stability) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(stability);
    }
    let when = |ms: u64| if ms == 0 { "-".to_owned() } else { time(ms) };
    output.line(&format!("stable up to {}", when(stability.stable_ms)))?;
    let mut table = table::table(output, &["NODE", "ID", "RECEIVED UP TO", "NOTE"]);
    for node in &stability.nodes {
        let NodeStability { id, name, received_ms, is_left_out } = node;
        let note = match (is_left_out, received_ms) {
            (true, _) => "left out",
            (false, 0) => "something of it is missing, or it gives no heartbeats: does it set `heartbeat`?",
            _ if *received_ms == stability.stable_ms => "holds it up",
            _ => "",
        };
        let name = name.as_deref().map_or_else(|| "-".into(), safe);
        table.add_row([name, short_id(id).to_owned(), when(*received_ms), note.to_owned()]);
    }
    output.line(&table::text(&table))
}
