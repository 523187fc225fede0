//! `roundelay status`: a verdict first, then peers and topics.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::status::NodeStatus;

use super::error::CliError;
use super::output::Tone;
use super::table::{bytes, count, many, seconds};
use super::{Context, Output, peers, table, topics};

const EXAMPLES: &str = "\
Examples:
  roundelay status                     is all well, who is there, what is held
  roundelay status --watch             again every second, until Ctrl-C
  roundelay status --json | jq .peers  for programs

Ends with 0 when the node is healthy and with 10 when it is not.";

/// Between two looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// To the top of the terminal, and clear what is below.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Show whether the node is well, its peers and its topics.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Look again every second
    #[arg(long, short)]
    watch: bool,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let output = &context.output;
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = async {
        loop {
            ticks.tick().await;
            let status = client.status().await?;
            let redraw = args.watch && output.is_terminal() && !output.is_json();
            if redraw {
                output.bytes(REDRAW.as_bytes())?;
            }
            show(output, &status)?;
            output.flush()?;
            if !args.watch {
                return if status.healthy { Ok(()) } else { Err(CliError::Unhealthy) };
            }
            if !redraw && !output.is_json() {
                output.line("")?;
            }
        }
    };
    if args.watch { context.within("stopped watching", watch).await } else { watch.await }
}

fn show(output: &Output, status: &NodeStatus) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(status);
    }
    if status.healthy {
        output.line(&output.paint(Tone::Good, "healthy"))?;
    } else {
        let why = status.problems.join("; ");
        output.line(&output.paint(Tone::Bad, &format!("UNHEALTHY: {}", table::safe(&why))))?;
    }
    for warning in &status.warnings {
        output.line(&output.paint(Tone::Warning, &format!("warning: {}", table::safe(warning))))?;
    }
    show_node(output, status)?;
    let connected = status.peers.iter().filter(|peer| peer.connected).count() as u64;
    output.line("")?;
    let known = status.peers.len() as u64 - connected;
    let known = if known > 0 { format!(", {} known and not connected", count(known)) } else { String::new() };
    output.line(&output.paint(Tone::Heading, &format!("{} connected{known}", many(connected, "peer"))))?;
    if !status.peers.is_empty() {
        output.line(&indent(&table::text(&peers::table(output, &status.peers))))?;
    }
    let held = topics::of_services(&status.topics);
    output.line("")?;
    output.line(&output.paint(Tone::Heading, &many(held.len() as u64, "topic")))?;
    if !held.is_empty() {
        output.line(&indent(&table::text(&topics::table(output, &held))))?;
    }
    Ok(())
}

fn show_node(output: &Output, status: &NodeStatus) -> Result<(), CliError> {
    let (node, store) = (&status.node, &status.store);
    let mut rows = vec![
        ("node", format!("{}  {}", table::safe(&node.name), node.id)),
        ("mesh", table::safe(&node.mesh)),
        ("subscribes to", node.subscriptions.join(", ")),
        ("up for", format!("{} (pid {}, version {})", seconds(node.uptime_s), node.pid, node.version)),
        (
            "store",
            format!(
                "{} of events, {} on disk, cap {}{}",
                bytes(store.batch_bytes),
                bytes(store.disk_bytes),
                bytes(store.cap_bytes),
                match store.takes.as_str() {
                    "none" => ", FULL",
                    "own" => ", takes only own events",
                    _ => "",
                }
            ),
        ),
    ];
    for (at, address) in node.listen.iter().enumerate() {
        rows.push((if at == 0 { "join by" } else { "" }, address.clone()));
    }
    if let Some(api) = &node.api {
        rows.push(("API", format!("{}, with the token in {}", api.url, table::safe(&api.token_file))));
    }
    for (label, value) in rows {
        output.line(&format!("{}{value}", output.paint(Tone::Faint, &format!("{label:<15}"))))?;
    }
    Ok(())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
