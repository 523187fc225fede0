//! `roundelay bench`: measures real nodes on this machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::bench::choreography::{self, ChoreographyOptions};
use crate::bench::deliver::{self, DeliverOptions};
use crate::bench::http::{self, HttpOptions};
use crate::bench::publish::{self, PublishOptions};
use crate::bench::reconcile::{self, Part, ReconcileOptions};
use crate::bench::stable::{self, StableOptions};
use crate::bench::{BenchError, Length, MIN_SIZE};

use super::error::CliError;
use super::{Context, values};

const EXAMPLES: &str = "\
Examples:
  roundelay bench publish                   events a second on one node, 512 publishes in flight
  roundelay bench publish --in-flight 1     one publish against a bare append and fdatasync
  roundelay bench deliver                   events a second at every one of five nodes
  roundelay bench deliver --rate 1000       how long an event takes to the other nodes
  roundelay bench deliver --topics 1000 --rate 1000
  roundelay bench http-publish              events a second over the API
  roundelay bench http-replay               events a second that a replay gives
  roundelay bench http-follow               how much later a follower has an event
  roundelay bench choreography              events judged, and handled by a role
  roundelay bench stable                    when an event is known to be stable
  roundelay bench reconcile                 what it takes to catch up, and to stay in sync";

/// Measure publishing, delivery and reconciliation on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Events that one node makes durable
    #[command(after_help = EXAMPLES)]
    Publish {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        length: LengthArgs,
        /// Publishes under way at once; with 1, each is compared to a bare append of the same bytes
        #[arg(long, default_value_t = 512, value_parser = in_flight())]
        in_flight: usize,
    },
    /// Events that reach a reader at every node, durable there
    #[command(after_help = EXAMPLES)]
    Deliver {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        length: LengthArgs,
        /// Nodes in the mesh
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=50))]
        nodes: u8,
        /// All nodes publish, not one
        #[arg(long)]
        all: bool,
        /// Publishes under way at once, at each publisher
        #[arg(long, default_value_t = 512, value_parser = in_flight())]
        in_flight: usize,
        /// Events a second from all publishers together [default: as fast as it goes]
        #[arg(long, value_parser = values::rate)]
        rate: Option<f64>,
        /// Topics to publish to in turn
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        topics: u32,
    },
    /// Events that clients of the API publish, over its socket and over TCP
    #[command(after_help = EXAMPLES)]
    HttpPublish {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        length: LengthArgs,
        /// Events in a request
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        batch: u16,
        /// Requests under way at once
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=128))]
        in_flight: u16,
    },
    /// Events that a replay over the API gives, as lines of JSON
    #[command(after_help = EXAMPLES)]
    HttpReplay {
        #[command(flatten)]
        common: Common,
        /// Events to replay
        #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
    },
    /// How much later a follower of the API has an event than a reader in the process
    #[command(after_help = EXAMPLES)]
    HttpFollow {
        #[command(flatten)]
        common: Common,
        /// How many seconds to measure
        #[arg(long, default_value_t = 5.0, value_parser = seconds)]
        seconds: f64,
        /// Events a second
        #[arg(long, default_value_t = 200.0, value_parser = values::rate)]
        rate: f64,
    },
    /// Events that are judged, and that the handler of a role gets through
    #[command(after_help = EXAMPLES)]
    Choreography {
        /// Events to handle, each of an instance of its own
        #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
        count: u64,
        /// Events to judge in memory
        #[arg(long, default_value_t = 65_533, value_parser = clap::value_parser!(u64).range(9..=1_000_000))]
        judged: u64,
        /// Where to make the node's home, to measure that disk [default: the system's temporary folder]
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
    /// How long after its publication another node knows that nothing earlier than an event can come any more
    #[command(after_help = EXAMPLES)]
    Stable {
        /// Nodes of the mesh
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=32))]
        nodes: u8,
        /// Time between two heartbeats of each node
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::duration)]
        heartbeat: Duration,
        /// Events to publish
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        count: u64,
        /// Events a second
        #[arg(long, default_value_t = 10.0, value_parser = values::rate)]
        rate: f64,
        /// Where to make the nodes' homes, to measure that disk [default: the system's temporary folder]
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
    /// What it takes to agree: after an absence, after few changes, in sync, idle
    #[command(after_help = EXAMPLES)]
    Reconcile {
        #[command(flatten)]
        common: Common,
        /// Only these parts; may be repeated [default: all]
        #[arg(long, value_enum)]
        part: Vec<PartArg>,
        /// Events that a node misses
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
        missed: u64,
        /// Logs that there are
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        logs: u32,
        /// Logs that change
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        changed: u32,
        /// Seconds for which quiet nodes are watched
        #[arg(long, default_value_t = 32.0, value_parser = seconds)]
        quiet_for: f64,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Bytes of each event's data
    #[arg(long, default_value_t = 256, value_parser = size())]
    size: usize,
    /// Where to make the nodes' homes, to measure that disk [default: the system's temporary folder]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct LengthArgs {
    /// How many seconds to measure
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How many events to measure, instead of seconds
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl LengthArgs {
    fn length(&self) -> Length {
        self.count.map_or(Length::Seconds(self.seconds), Length::Events)
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PartArg {
    /// A node that missed many events becomes whole again
    Missed,
    /// A few logs of very many have changed
    Changed,
    /// Nodes in sync make sure of it
    InSync,
    /// A daemon with a peer and nothing to do
    Idle,
}

impl From<PartArg> for Part {
    fn from(part: PartArg) -> Self {
        match part {
            PartArg::Missed => Self::Missed,
            PartArg::Changed => Self::Changed,
            PartArg::InSync => Self::InSync,
            PartArg::Idle => Self::Idle,
        }
    }
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let bar = progress_bar()?;
    let work = async {
        match args.what {
            What::Publish { common, length, in_flight } => {
                let options = PublishOptions { size: common.size, in_flight, length: length.length(), dir: common.dir };
                Ok(publish::run(&options, &bar).await?)
            }
            What::Deliver { common, length, nodes, all, in_flight, rate, topics } => {
                let options = DeliverOptions {
                    size: common.size,
                    nodes: nodes.into(),
                    publishers: if all { nodes.into() } else { 1 },
                    in_flight,
                    topics: topics as usize,
                    rate,
                    length: length.length(),
                    dir: common.dir,
                };
                Ok(deliver::run(&options, &bar).await?)
            }
            What::HttpPublish { common, length, batch, in_flight } => {
                let options = HttpOptions { size: common.size, dir: common.dir };
                let (batch, in_flight) = (batch.into(), in_flight.into());
                Ok(http::publish(&options, length.length(), batch, in_flight, &bar).await?)
            }
            What::HttpReplay { common, count } => {
                Ok(http::replay(&HttpOptions { size: common.size, dir: common.dir }, count, &bar).await?)
            }
            What::HttpFollow { common, seconds, rate } => {
                Ok(http::follow(&HttpOptions { size: common.size, dir: common.dir }, seconds, rate, &bar).await?)
            }
            What::Choreography { count, judged, dir } => {
                Ok(choreography::run(&ChoreographyOptions { count, judged, dir }, &bar).await?)
            }
            What::Stable { nodes, heartbeat, count, rate, dir } => {
                let options = StableOptions { nodes: nodes.into(), heartbeat, count, rate, dir };
                Ok(stable::run(&options, &bar).await?)
            }
            What::Reconcile { common, part, missed, logs, changed, quiet_for } => {
                let all = [Part::Missed, Part::Changed, Part::InSync, Part::Idle];
                let options = ReconcileOptions {
                    parts: if part.is_empty() { all.into() } else { part.into_iter().map(Part::from).collect() },
                    size: common.size,
                    missed,
                    logs: logs as usize,
                    changed: changed.min(logs) as usize,
                    quiet_s: quiet_for,
                    program: std::env::current_exe().map_err(CliError::io("this program's file"))?,
                    dir: common.dir,
                };
                Ok(reconcile::run(&options, &bar).await?)
            }
        }
    };
    let report = tokio::select! {
        report = context.within("the benchmark has not ended", work) => report,
        _ = tokio::signal::ctrl_c() => Err(CliError::failure("stopped before the benchmark had ended", None)),
    };
    bar.finish_and_clear();
    let report = report?;
    if context.output.is_json() { context.output.json(&report) } else { context.output.line(&report.to_string()) }
}

/// On stderr, and only if that is a terminal.
fn progress_bar() -> Result<ProgressBar, CliError> {
    let style = ProgressStyle::with_template("{spinner} {bar:40} {percent:>3} % {msg}");
    let style = style.map_err(|error| CliError::failure(format!("cannot draw a progress bar: {error}"), None))?;
    Ok(ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()).with_style(style))
}

fn in_flight() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..=100_000).map(|in_flight| in_flight as usize)
}

fn size() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(MIN_SIZE as i64..=1_000_000).map(|size| size as usize)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.1..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "write a number of seconds from 0.1 to 86400".into())
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        Self::failure(error.to_string(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use clap::Parser;

    #[test]
    fn every_benchmark_can_be_asked_for() {
        for args in [
            &["roundelay", "bench", "publish", "--in-flight", "1"][..],
            &["roundelay", "bench", "deliver", "--all", "--rate", "1000", "--json"],
            &["roundelay", "bench", "http-publish", "--batch", "10", "--in-flight", "2", "--count", "100"],
            &["roundelay", "bench", "http-replay", "--count", "1000", "--size", "64"],
            &["roundelay", "bench", "http-follow", "--rate", "10", "--seconds", "1"],
            &["roundelay", "bench", "choreography", "--count", "100"],
            &["roundelay", "bench", "stable", "--nodes", "2", "--heartbeat", "200ms"],
            &["roundelay", "bench", "reconcile", "--part", "idle", "--quiet-for", "5", "-q"],
        ] {
            if let Err(error) = Cli::try_parse_from(args) {
                panic!("{args:?}: {error}");
            }
        }
    }
}
