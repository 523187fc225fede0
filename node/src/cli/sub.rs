//! `roundelay sub`: follows events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use roundelay_protocol::topic::Pattern;

use crate::api::client::{Client, ClientError, LineStream};
use crate::api::types::{EventsQuery, From};

use super::context::names;
use super::error::CliError;
use super::events::{Data, EventLine, readable};
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay sub orders.placed                      from now on
  roundelay sub 'orders.>' weather --from start    everything, then what comes
  roundelay sub 'orders.*' --from -10              the last ten first
  roundelay sub '>' --from @-1h --json | jq .      of the last hour, as CloudEvents
  roundelay sub orders.placed --count 1 --wait 5s  one, or exit code 4 after 5 quiet seconds

Quote patterns: * is one token, > at the end is one or more.";

/// Lines that are written at once, if so many are there.
const MAX_CHUNK: usize = 256;
/// How the line of a gap begins.
const GAP_PREFIX: &[u8] = br#"{"gap":"#;
/// Between two looks for the name of an author who is not known.
const NAMES_AGE: Duration = Duration::from_secs(5);

/// Follow the events of topics.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to follow: topics, or patterns with * and >
    #[arg(value_name = "PATTERN", required = true, value_parser = values::pattern)]
    patterns: Vec<Pattern>,
    /// Where to begin: start, end, -10 (the last ten), @TIME in RFC 3339, or @-1h
    #[arg(long, value_name = "PLACE", default_value = "end", allow_hyphen_values = true, value_parser = values::from)]
    from: From,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End with exit code 4 when nothing comes for so long
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    wait: Option<Duration>,
    /// Print only the data
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let query = EventsQuery {
        patterns: args.patterns.iter().map(ToString::to_string).collect(),
        from: args.from,
        limit: args.count,
        follow: true,
    };
    let names = if args.raw || context.output.is_json() { Names::default() } else { Names::ask(&client).await? };
    let stream = client.events(&query).await?;
    let printer = Printer { output: context.output.clone(), raw: args.raw, client, names };
    context.within("the subscription ended", follow(stream, printer, &args)).await
}

async fn follow(stream: LineStream, mut printer: Printer, args: &Args) -> Result<(), CliError> {
    let mut chunks = stream.ready_chunks(MAX_CHUNK);
    let mut left = args.count;
    loop {
        let next = chunks.next();
        let chunk = match args.wait {
            None => next.await,
            Some(wait) => tokio::time::timeout(wait, next).await.map_err(|_| quiet(args, wait))?,
        };
        let Some(chunk) = chunk else {
            return match left {
                Some(0) => Ok(()),
                _ => Err(CliError::Gone { detail: "it ended the subscription".into() }),
            };
        };
        let done = printer.print(chunk, &mut left).await;
        printer.output.flush()?;
        done?;
        if left == Some(0) {
            return Ok(());
        }
    }
}

fn quiet(args: &Args, wait: Duration) -> CliError {
    let patterns: Vec<_> = args.patterns.iter().map(Pattern::as_str).collect();
    CliError::TimedOut { what: format!("nothing came on {}", patterns.join(", ")), after: wait, hint: None }
}

struct Printer {
    output: Output,
    raw: bool,
    client: Client,
    names: Names,
}

impl Printer {
    async fn print(&mut self, chunk: Vec<Result<Bytes, ClientError>>, left: &mut Option<u64>) -> Result<(), CliError> {
        for line in chunk {
            let line = line?;
            if line.starts_with(GAP_PREFIX)
                && let Ok(GapLine { gap }) = serde_json::from_slice(&line)
            {
                self.output.note(&format!("gap: {}", gap.detail));
                continue;
            }
            self.print_line(&line).await?;
            if let Some(left) = left {
                *left = left.saturating_sub(1);
            }
        }
        Ok(())
    }

    async fn print_line(&mut self, line: &[u8]) -> Result<(), CliError> {
        if self.output.is_json() {
            self.output.bytes(line)?;
            return self.output.bytes(b"\n");
        }
        let event = EventLine::parse(line)?;
        if self.raw {
            match event.payload()? {
                Data::None => {}
                Data::Text(text) => self.output.bytes(text.as_bytes())?,
                Data::Bytes(bytes) => self.output.bytes(&bytes)?,
            }
            return self.output.bytes(b"\n");
        }
        self.names.learn(&self.client, &event.author).await;
        self.output.line(&readable(&event, &self.names.known, &self.output)?)
    }
}

/// A line that tells of what is missing, among those of events.
#[derive(serde::Deserialize)]
struct GapLine {
    gap: GapDetail,
}

#[derive(serde::Deserialize)]
struct GapDetail {
    detail: String,
}

/// The names of authors, as far as they are known.
#[derive(Default)]
struct Names {
    known: BTreeMap<String, String>,
    asked: Option<Instant>,
}

impl Names {
    async fn ask(client: &Client) -> Result<Self, CliError> {
        Ok(Self { known: names(&client.status().await?), asked: Some(Instant::now()) })
    }

    /// Looks again for the name of an author that was not known a while ago. Without it the id is shown.
    async fn learn(&mut self, client: &Client, author: &str) {
        let recently = self.asked.is_some_and(|asked| asked.elapsed() < NAMES_AGE);
        if self.known.contains_key(author) || recently {
            return;
        }
        if let Ok(status) = client.status().await {
            self.known = names(&status);
        }
        self.asked = Some(Instant::now());
    }
}
