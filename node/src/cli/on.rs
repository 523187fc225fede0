//! `roundelay on`: runs a command for every event.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use roundelay_protocol::topic::{Pattern, Topic};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::client::{Client, ClientError};
use crate::api::types::{Code, EventsQuery, From, Problem, PublishOptions};
use crate::consumers::ConsumerConfig;

use super::error::CliError;
use super::events::{Data, EventLine};
use super::{Context, Output, consumer, values};

const EXAMPLES: &str = "\
Examples:
  roundelay on 'orders.>' -- ./ship                            from now on, each event once
  roundelay on orders.paid --durable shipping -- ./ship        go on where it ended, try again what failed
  roundelay on orders.paid --durable shipping --emit orders.shipped -- ./ship
  roundelay on photos --durable thumbs --concurrency 4 -- sh -c 'convert \"$CE_SUBJECT\" ...'

The event is on the command's stdin as a CloudEvent in JSON (with --data: its data), and its attributes are in the
environment: CE_TYPE, CE_ID, CE_SOURCE, CE_SUBJECT, CE_PARTITIONKEY, CE_RDLTOPIC and so on. Exit code 0 acknowledges it.
With --emit, each line that the command prints is published as caused by it: a JSON value is the data, and so is any
other text. With --durable that happens once, together with the acknowledgement.";

/// How long one fetch waits.
const WAIT: Duration = Duration::from_secs(20);
/// The bytes that a command may print with `--emit`.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;

/// Run a command for every event.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to take: a topic, or a pattern with * and >
    #[arg(value_parser = values::pattern)]
    pattern: Pattern,
    /// Work as this durable consumer, which is made if it is not there; without it nothing is tried again
    #[arg(long, value_name = "NAME")]
    durable: Option<String>,
    /// Where a consumer that is made begins: start, end, @TIME, @-1h
    #[arg(long, value_name = "PLACE", default_value = "start", requires = "durable", allow_hyphen_values = true, value_parser = consumer::place)]
    from: String,
    /// Share the work by key with the nodes that have a consumer of this group
    #[arg(long, value_name = "NAME", requires = "durable")]
    group: Option<String>,
    /// Commands that run at the same time; those of one key never do with --durable
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Publish each line that the command prints to this topic, as caused by the event
    #[arg(long, value_name = "TOPIC", value_parser = values::topic)]
    emit: Option<Topic>,
    /// The type of these events
    #[arg(long, value_name = "TYPE", default_value = "event", requires = "emit")]
    emit_type: String,
    /// Give the command the event's data on stdin, and not the event
    #[arg(long)]
    data: bool,
    /// End after so many events that were acknowledged
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let runner = Arc::new(Runner { client, output: context.output.clone(), done: AtomicU64::new(0), args });
    let work = async {
        match runner.args.durable.clone() {
            Some(name) => runner.work(&name).await,
            None => runner.clone().follow().await,
        }
    };
    context.within("the work ended", work).await
}

/// What is needed of an event beside its payload.
#[derive(Debug, Deserialize)]
struct Attributes {
    id: String,
    #[serde(default)]
    rdltopic: String,
    correlationid: Option<String>,
    rdlcursor: Option<String>,
}

struct Runner {
    client: Client,
    output: Output,
    done: AtomicU64,
    args: Args,
}

/// What became of a command.
enum Outcome {
    /// It ended well, and printed this.
    Done(Vec<u8>),
    Failed(String),
}

impl Runner {
    fn is_enough(&self) -> bool {
        self.args.count.is_some_and(|count| self.done.load(Ordering::Relaxed) >= count)
    }

    // ---- with a durable consumer

    async fn work(self: &Arc<Self>, name: &str) -> Result<(), CliError> {
        let config = ConsumerConfig {
            from: self.args.from.clone(),
            group: self.args.group.clone(),
            ..ConsumerConfig::new(vec![self.args.pattern.to_string()])
        };
        // One that is there keeps its settings, so that `consumer add` can choose them.
        let known = match self.client.consumer(name).await {
            Ok(info) => Some(info),
            Err(ClientError::Problem(problem)) if problem.code == Code::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let info = match known {
            Some(info) if info.config.topics == config.topics && info.config.group == config.group => info,
            Some(info) => {
                return Err(CliError::usage(
                    format!("consumer '{name}' takes {}, and not {}", info.config.topics.join(", "), self.args.pattern),
                    "give its topics and its group, or another name",
                ));
            }
            None => self.client.put_consumer(name, &config).await?,
        };
        let mut workers = JoinSet::new();
        for _ in 0..self.args.concurrency {
            let (runner, name, ack_wait) = (self.clone(), name.to_owned(), info.config.ack_wait_ms);
            workers.spawn(async move {
                while !runner.is_enough() {
                    let wait = if runner.args.count.is_some() { Duration::from_secs(1) } else { WAIT };
                    if let Some(event) = runner.client.fetch(&name, wait).await? {
                        runner.handle(&name, event.get().as_bytes(), Duration::from_millis(ack_wait)).await?;
                    }
                }
                Ok::<_, CliError>(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| CliError::failure(format!("a worker ended: {error}"), None))??;
        }
        Ok(())
    }

    async fn handle(&self, name: &str, event: &[u8], ack_wait: Duration) -> Result<(), CliError> {
        let attributes = parse(event)?;
        let cursor = attributes.rdlcursor.clone().unwrap_or_default();
        let command = self.execute(event);
        tokio::pin!(command);
        let outcome = loop {
            tokio::select! {
                outcome = &mut command => break outcome?,
                () = tokio::time::sleep(ack_wait / 3) => {
                    let body = json!({ "cursor": cursor });
                    match self.client.ask_consumer(name, &["extend"], &body).await {
                        // The command goes on: what became of its event is seen when it ends.
                        Err(ClientError::Problem(problem)) if is_about_the_event(&problem) => {}
                        extended => drop(extended?),
                    }
                }
            }
        };
        let printed = match outcome {
            Outcome::Failed(reason) => return self.fail(name, &cursor, &attributes, &reason).await,
            Outcome::Done(printed) => printed,
        };
        let events = self.emitted(&printed, &attributes);
        let answered = match self.args.emit.as_ref().filter(|_| !events.is_empty()) {
            Some(topic) => {
                let event = |event: &Value| json!({ "topic": topic.as_str(), "event": event });
                let events: Vec<Value> = events.iter().map(event).collect();
                let body = json!({ "processed": [cursor], "events": events });
                self.client.ask_consumer(name, &["commit"], &body).await
            }
            None => self.client.ask_consumer(name, &["ack"], &json!({ "cursor": cursor })).await,
        };
        match answered {
            Ok(_) => self.tell(&attributes, "acknowledged", events.len(), None),
            Err(ClientError::Problem(problem)) if problem.code == Code::AlreadyDone => {
                self.tell(&attributes, "done elsewhere", 0, Some("another call was before this one"))
            }
            // Only this event cannot be done so: it is tried again, and dies in the end.
            Err(ClientError::Problem(problem)) if is_about_the_event(&problem) => {
                self.fail(name, &cursor, &attributes, &problem.detail).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn fail(&self, name: &str, cursor: &str, event: &Attributes, reason: &str) -> Result<(), CliError> {
        match self.client.ask_consumer(name, &["nack"], &json!({ "cursor": cursor, "reason": reason })).await {
            // After a seek, or in another store, it is not delivered any more.
            Err(ClientError::Problem(problem)) if is_about_the_event(&problem) => {}
            refused => drop(refused?),
        }
        self.tell(event, "failed", 0, Some(reason))
    }

    // ---- without

    async fn follow(self: Arc<Self>) -> Result<(), CliError> {
        let query =
            EventsQuery { patterns: vec![self.args.pattern.to_string()], from: From::End, limit: None, follow: true };
        let mut events = self.client.events(&query).await?;
        let places = Arc::new(Semaphore::new(usize::from(self.args.concurrency)));
        let mut commands = JoinSet::new();
        while !self.is_enough() {
            let Ok(place) = places.clone().acquire_owned().await else { break };
            while let Some(ended) = commands.try_join_next() {
                finish(ended)?;
            }
            if self.is_enough() {
                break;
            }
            let event = tokio::select! {
                event = events.next() => event.ok_or(CliError::Gone { detail: "it ended the subscription".into() })??,
                Some(ended) = commands.join_next(), if !commands.is_empty() => {
                    finish(ended)?;
                    continue;
                }
            };
            let runner = self.clone();
            commands.spawn(async move {
                let handled = runner.once(&event).await;
                drop(place);
                handled
            });
        }
        while let Some(ended) = commands.join_next().await {
            finish(ended)?;
        }
        Ok(())
    }

    async fn once(&self, event: &[u8]) -> Result<(), CliError> {
        let attributes = parse(event)?;
        match self.execute(event).await? {
            Outcome::Failed(reason) => self.tell(&attributes, "failed", 0, Some(&reason)),
            Outcome::Done(printed) => {
                let events = self.emitted(&printed, &attributes);
                if let Some(topic) = self.args.emit.as_ref().filter(|_| !events.is_empty()) {
                    self.client.publish(topic.as_str(), &events, PublishOptions::default()).await?;
                }
                self.tell(&attributes, "acknowledged", events.len(), None)
            }
        }
    }

    // ---- the command

    async fn execute(&self, event: &[u8]) -> Result<Outcome, CliError> {
        let [program, arguments @ ..] = &self.args.command[..] else { return Ok(Outcome::Done(Vec::new())) };
        let stdout = if self.args.emit.is_some() || self.output.is_json() { Stdio::piped() } else { Stdio::inherit() };
        let mut command = Command::new(program);
        command.args(arguments).envs(environment(event)).stdin(Stdio::piped()).stdout(stdout).kill_on_drop(true);
        let mut child = command.spawn().map_err(CliError::io(format!("cannot run {program}")))?;
        let input = self.input(event)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is given.
                let _ = stdin.write_all(&input).await;
            }
        };
        let read = async {
            let mut printed = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_OUTPUT_BYTES as u64 + 1).read_to_end(&mut printed).await?;
            }
            Ok::<_, std::io::Error>(printed)
        };
        // A command that prints more than may be ends when nobody reads on.
        let (printed, ended, ()) = tokio::join!(read, child.wait(), feed);
        let printed = printed.map_err(CliError::io(format!("cannot read what {program} prints")))?;
        let ended = ended.map_err(CliError::io(format!("cannot wait for {program}")))?;
        if printed.len() > MAX_OUTPUT_BYTES {
            return Ok(Outcome::Failed("it printed more than 16 MiB".into()));
        }
        Ok(match ended.code() {
            Some(0) => Outcome::Done(printed),
            Some(code) => Outcome::Failed(format!("exit code {code}")),
            None => Outcome::Failed("it was ended by a signal".into()),
        })
    }

    fn input(&self, event: &[u8]) -> Result<Vec<u8>, CliError> {
        if !self.args.data {
            return Ok([event, b"\n"].concat());
        }
        Ok(match EventLine::parse(event)?.payload()? {
            Data::None => Vec::new(),
            Data::Text(text) => text.into_bytes(),
            Data::Bytes(bytes) => bytes,
        })
    }

    /// The events that a command printed, one a line.
    fn emitted(&self, printed: &[u8], cause: &Attributes) -> Vec<Value> {
        if self.args.emit.is_none() {
            return Vec::new();
        }
        let correlation = cause.correlationid.as_ref().unwrap_or(&cause.id);
        let event = |line: &str| {
            let mut event = json!({ "type": self.args.emit_type, "correlationid": correlation });
            event["causationid"] = escape_cause(&cause.id).into();
            event["data"] = match serde_json::from_str::<Value>(line) {
                Ok(value) => {
                    event["datacontenttype"] = "application/json".into();
                    value
                }
                Err(_) => {
                    event["datacontenttype"] = "text/plain".into();
                    line.into()
                }
            };
            event
        };
        String::from_utf8_lossy(printed).lines().filter(|line| !line.trim().is_empty()).map(event).collect()
    }

    fn tell(&self, event: &Attributes, outcome: &str, emitted: usize, reason: Option<&str>) -> Result<(), CliError> {
        if outcome == "acknowledged" {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        if self.output.is_json() {
            let line = json!({
                "topic": event.rdltopic, "id": event.id, "outcome": outcome, "emitted": emitted, "reason": reason,
            });
            self.output.json(&line)?;
            return self.output.flush();
        }
        if let Some(reason) = reason {
            self.output.note(&format!("{} of {}: {reason}", event.id, event.rdltopic));
        }
        Ok(())
    }
}

/// Whether a call was refused for what it says of an event; otherwise the node or the consumer is gone.
fn is_about_the_event(problem: &Problem) -> bool {
    !matches!(problem.code, Code::Stopped | Code::NotFound | Code::Unauthorized)
}

/// As one cause is written in `causationid`.
fn escape_cause(id: &str) -> String {
    if id.contains(',') { format!("{},", id.replace('%', "%25").replace(',', "%2C")) } else { id.to_owned() }
}

fn finish(ended: Result<Result<(), CliError>, tokio::task::JoinError>) -> Result<(), CliError> {
    ended.map_err(|error| CliError::failure(format!("a command was lost: {error}"), None))?
}

fn parse(event: &[u8]) -> Result<Attributes, CliError> {
    serde_json::from_slice(event)
        .map_err(|error| CliError::failure(format!("the node sent an event that makes no sense here: {error}"), None))
}

/// The attributes of an event as variables. What no variable can hold is left out.
fn environment(event: &[u8]) -> Vec<(String, String)> {
    let members: serde_json::Map<String, Value> = serde_json::from_slice(event).unwrap_or_default();
    let variable = |(name, value): (String, Value)| {
        let text = match value {
            Value::String(text) => text,
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return None,
        };
        let fits = name != "data" && name != "data_base64" && !text.contains('\0');
        fits.then(|| (format!("CE_{}", name.to_uppercase()), text))
    };
    members.into_iter().filter_map(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_variables_and_data_does_not() {
        let event = br#"{"id":"1","type":"a.b","data":"x","n":3,"ok":true,"bad":"a\u0000b","none":null}"#;
        let mut found = environment(event);
        found.sort();
        let expected = [("CE_ID", "1"), ("CE_N", "3"), ("CE_OK", "true"), ("CE_TYPE", "a.b")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
