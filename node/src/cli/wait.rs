//! `roundelay wait`: until something is so.

use std::time::Duration;

use roundelay_protocol::topic::Topic;
use serde_json::json;

use crate::api::client::{Client, ClientError};
use crate::status::{Converged, NodeStatus};

use super::error::CliError;
use super::table::{count, many};
use super::{Context, values};

const EXAMPLES: &str = "\
Examples:
  roundelay wait --peers 2                     until two peers are connected
  roundelay wait --converged --timeout 2m      until all that exists now is on both sides of every link
  roundelay wait --events orders.placed=1000   until the node holds a thousand events

Ends with 0 when all of it is so, and with 4 when it is not in time.";

/// How long to wait unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Wait until peers are there, events have arrived, or all agree.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["peers", "converged", "events"]))]
pub(crate) struct Args {
    /// Until so many peers are connected
    #[arg(long, value_name = "N")]
    peers: Option<usize>,
    /// Until every head that exists now is covered on both sides of every link, and no hole is open
    #[arg(long)]
    converged: bool,
    /// Until the node holds so many events of a topic; may be repeated
    #[arg(long, value_name = "TOPIC=N", value_parser = values::topic_count)]
    events: Vec<(Topic, u64)>,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let after = context.global.timeout.unwrap_or(DEFAULT_TIMEOUT);
    // The deadline below covers every call.
    let client = Client::new(&context.home()?)?;
    let mut missing = "the node has not answered".to_owned();
    let waited = tokio::time::timeout(after, until(&client, &args, &mut missing)).await;
    let converged = match waited {
        Ok(done) => done?,
        Err(_) => {
            let hint = Some("see `roundelay status`, or wait longer with --timeout".into());
            return Err(CliError::TimedOut { what: missing, after, hint });
        }
    };
    let output = &context.output;
    if output.is_json() {
        return output.json(&json!({"ok": true, "converged": converged}));
    }
    if let Some(converged) = converged {
        output.note(&format!("converged over {}", many(converged.links.into(), "link")));
        if !converged.left_out.is_empty() {
            output.note(&format!("left out, because they are blocked: {}", converged.left_out.join(", ")));
        }
    }
    Ok(())
}

async fn until(client: &Client, args: &Args, missing: &mut String) -> Result<Option<Converged>, CliError> {
    loop {
        match client.status().await {
            Ok(status) => match lacking(&status, args) {
                Some(lack) => *missing = lack,
                None => break,
            },
            Err(ClientError::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if !args.converged {
        return Ok(None);
    }
    *missing = "not converged".into();
    Ok(Some(client.converged().await?))
}

/// What is not so yet, as the beginning of a sentence.
fn lacking(status: &NodeStatus, args: &Args) -> Option<String> {
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    if let Some(wanted) = args.peers.filter(|wanted| connected < *wanted) {
        return Some(format!("{connected} of {} connected", many(wanted as u64, "peer")));
    }
    args.events.iter().find_map(|(topic, wanted)| {
        let held = status.topics.iter().find(|held| held.topic == topic.as_str()).map_or(0, |held| held.events);
        (held < *wanted).then(|| format!("{} of {} events of {topic}", count(held), count(*wanted)))
    })
}
