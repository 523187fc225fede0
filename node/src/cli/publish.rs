//! `roundelay pub`: publishes what is given, or what is read from stdin.

mod input;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use roundelay_protocol::topic::Topic;
use serde_json::json;

use crate::api::client::{Client, ClientError};
use crate::api::types::{DEFAULT_ACK_TIMEOUT_MS, PublishOptions, Published};

use super::error::CliError;
use super::{Context, Output, values};
use input::{Chunk, Lines};

const EXAMPLES: &str = "\
Examples:
  roundelay pub orders.placed '{\"total\":9}'            one event; prints its id
  roundelay pub orders.placed hello --type order.note   with a type of your own
  tail -f app.log | roundelay pub logs.app              one event a line
  roundelay pub reports.daily - --send-on eof < a.json  all of a file as one event
  roundelay pub load.test 'nr {{Count}}' --count 1000 --rate 100
  roundelay pub orders.placed hello --acks 2            until two peers have it on disk

DATA that is JSON gets the content type application/json, other text text/plain.";

/// Events in one request, at most.
const MAX_REQUEST_EVENTS: usize = 512;
/// Bytes of one request, unless a single event is larger.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// How often events are sent with `--rate`.
const RATE_STEP: Duration = Duration::from_millis(5);

/// Publish events.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to publish, such as orders.placed
    #[arg(value_parser = values::topic)]
    topic: Topic,
    /// What to publish; - or nothing reads it from stdin
    #[arg(allow_negative_numbers = true)]
    data: Option<String>,
    /// What happened, such as order.placed [default: event]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Where it happened, a URI reference [default: the node]
    #[arg(long)]
    source: Option<String>,
    /// What it is about
    #[arg(long)]
    subject: Option<String>,
    /// The event's id, unique together with its source [default: a new one]
    #[arg(long)]
    id: Option<String>,
    /// Events with one key belong together
    #[arg(long)]
    key: Option<String>,
    /// What ties the events of one process together
    #[arg(long)]
    correlation: Option<String>,
    /// The id of an event that caused this one; may be repeated
    #[arg(long, value_name = "ID")]
    cause: Vec<String>,
    /// A further attribute; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = values::attribute)]
    header: Vec<(String, String)>,
    /// When what is read becomes an event: at each newline, or all of it at the end
    #[arg(long, value_enum, default_value_t = SendOn::Newline)]
    send_on: SendOn,
    /// Publish DATA so often; {{Count}} in it becomes 1, 2, ...
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Publish at most so many events a second
    #[arg(long, value_name = "R", value_parser = values::rate)]
    rate: Option<f64>,
    /// Wait until so many peers have each event on their disks
    #[arg(long, value_name = "N", default_value_t = 0)]
    acks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SendOn {
    Newline,
    Eof,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let from_stdin = args.data.as_deref().is_none_or(|data| data == "-");
    let many = args.count.unwrap_or(1) > 1 || (from_stdin && args.send_on == SendOn::Newline);
    if args.id.is_some() && many {
        return Err(CliError::usage(
            "--id names one event, and this would publish more",
            "leave --id out, or publish one event: with --send-on eof, or with DATA and without --count",
        ));
    }
    if args.count.is_some() && from_stdin && args.send_on == SendOn::Newline {
        return Err(CliError::usage(
            "--count repeats DATA, and there is none",
            "give DATA on the command line, or read all of stdin as one event with --send-on eof",
        ));
    }
    let template = Template::new(&args)?;
    let mut sender = Sender::new(&context, &args)?;
    if !from_stdin || args.send_on == SendOn::Eof {
        let data = match (from_stdin, &args.data) {
            (false, Some(data)) => data.clone().into_bytes(),
            _ => {
                // Nobody should have to type a whole event to learn that no node is there.
                sender.client.status().await?;
                input::read_all().await?
            }
        };
        return repeat(&mut sender, &template, &data, &args).await;
    }
    sender.client.status().await?;
    follow(&mut sender, &template, args.rate).await
}

/// Publishes one payload so often.
async fn repeat(sender: &mut Sender, template: &Template, data: &[u8], args: &Args) -> Result<(), CliError> {
    let count = args.count.unwrap_or(1);
    let counts = args.count.is_some() && data.windows(COUNT.len()).any(|part| part == COUNT.as_bytes());
    let pace = Pace::new(args.rate);
    let mut done = 0;
    while done < count {
        let due = pace.due(done).await.min(count - done);
        let mut request = Request::default();
        while !request.is_full() && (request.events as u64) < due {
            let number = done + request.events as u64 + 1;
            match (counts, std::str::from_utf8(data)) {
                (true, Ok(text)) => request.push(template, text.replace(COUNT, &number.to_string()).as_bytes()),
                _ => request.push(template, data),
            }
        }
        done += request.events as u64;
        sender.send(request).await?;
    }
    Ok(())
}

/// What becomes the number of the event.
const COUNT: &str = "{{Count}}";

/// Publishes line by line, all that has gathered at a time, so that the order is kept and one slow disk does not hold up
/// the reader.
async fn follow(sender: &mut Sender, template: &Template, rate: Option<f64>) -> Result<(), CliError> {
    let mut lines = Lines::of_stdin()?;
    let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
    let pace = Pace::new(rate);
    let (mut sent, mut failed) = (0, None);
    loop {
        if waiting.is_empty() {
            match lines.next().await {
                Some(Chunk::Lines(lines)) => waiting.extend(lines),
                Some(Chunk::Failed(error)) => failed = Some(error),
                None => return Ok(()),
            }
        }
        while failed.is_none() && waiting.len() < MAX_REQUEST_EVENTS {
            match lines.try_next() {
                Some(Chunk::Lines(lines)) => waiting.extend(lines),
                Some(Chunk::Failed(error)) => failed = Some(error),
                None => break,
            }
        }
        let due = pace.due(sent).await;
        let mut request = Request::default();
        while !request.is_full() && (request.events as u64) < due {
            let Some(line) = waiting.pop_front() else { break };
            request.push(template, &line);
        }
        sent += request.events as u64;
        if request.events > 0 {
            sender.send(request).await?;
        }
        if waiting.is_empty()
            && let Some(error) = failed.take()
        {
            return Err(error);
        }
    }
}

/// How many events may go out by now.
struct Pace {
    rate: Option<f64>,
    started: Instant,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self { rate, started: Instant::now() }
    }

    /// How many more than `sent` may go out; waits until it is at least one.
    async fn due(&self, sent: u64) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        loop {
            let allowed = (self.started.elapsed().as_secs_f64() * rate) as u64 + 1;
            if allowed > sent {
                return allowed - sent;
            }
            let next = Duration::try_from_secs_f64((sent as f64) / rate).unwrap_or(Duration::MAX);
            tokio::time::sleep(next.saturating_sub(self.started.elapsed()).max(RATE_STEP)).await;
        }
    }
}

/// What all events of this command have in common, as the beginning of a JSON object.
struct Template {
    head: String,
}

impl Template {
    fn new(args: &Args) -> Result<Self, CliError> {
        let mut head = String::from(r#"{"specversion":"1.0""#);
        let causes = causes(&args.cause);
        let given = [
            ("type", &args.kind),
            ("source", &args.source),
            ("subject", &args.subject),
            ("id", &args.id),
            ("partitionkey", &args.key),
            ("correlationid", &args.correlation),
            ("causationid", &causes),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let given: Vec<_> = given.chain(args.header.iter().map(|(name, value)| (&**name, &**value))).collect();
        for (at, (name, value)) in given.iter().enumerate() {
            let reserved = ["specversion", "data", "datacontenttype"].contains(name) || name.starts_with("rdl");
            if reserved || given[..at].iter().any(|(other, _)| other == name) {
                return Err(CliError::usage(
                    format!("the attribute '{name}' is given twice, or is not yours to give"),
                    "leave it out of -H",
                ));
            }
            head += &format!(",{}:{}", json!(name), json!(value));
        }
        Ok(Self { head })
    }

    /// Appends an event in JSON. What is JSON goes in byte for byte.
    fn write(&self, data: &[u8], body: &mut Vec<u8>) {
        body.extend_from_slice(self.head.as_bytes());
        match std::str::from_utf8(data) {
            Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                body.extend_from_slice(br#","datacontenttype":"application/json","data":"#);
                body.extend_from_slice(data);
            }
            Ok(text) => {
                body.extend_from_slice(br#","datacontenttype":"text/plain","data":"#);
                body.extend_from_slice(json!(text).to_string().as_bytes());
            }
            Err(_) => {
                body.extend_from_slice(br#","datacontenttype":"application/octet-stream","data_base64":""#);
                body.extend_from_slice(STANDARD.encode(data).as_bytes());
                body.push(b'"');
            }
        }
        body.push(b'}');
    }
}

/// Causes as the API takes them: see [`crate::cloudevents`].
fn causes(ids: &[String]) -> Option<String> {
    match ids {
        [] => None,
        [id] if !id.contains(',') => Some(id.clone()),
        [id] => Some(escape(id) + ","),
        _ => Some(ids.iter().map(|id| escape(id)).collect::<Vec<_>>().join(",")),
    }
}

fn escape(id: &str) -> String {
    id.replace('%', "%25").replace(',', "%2C")
}

/// Events that go to the node together.
#[derive(Default)]
struct Request {
    body: Vec<u8>,
    events: usize,
}

impl Request {
    fn is_full(&self) -> bool {
        self.events >= MAX_REQUEST_EVENTS || self.body.len() >= MAX_REQUEST_BYTES
    }

    fn push(&mut self, template: &Template, data: &[u8]) {
        self.body.push(if self.events == 0 { b'[' } else { b',' });
        template.write(data, &mut self.body);
        self.events += 1;
    }

    fn into_body(mut self) -> Vec<u8> {
        self.body.push(b']');
        self.body
    }
}

/// Sends requests one after another and reports what was acknowledged.
struct Sender {
    client: Client,
    output: Output,
    topic: String,
    options: PublishOptions,
    quiet: bool,
    told_alone: bool,
}

impl Sender {
    fn new(context: &Context, args: &Args) -> Result<Self, CliError> {
        let timeout_ms = context.global.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        Ok(Self {
            client: context.client()?,
            output: context.output.clone(),
            topic: args.topic.to_string(),
            options: PublishOptions { acks: args.acks, timeout_ms },
            quiet: context.global.quiet,
            told_alone: false,
        })
    }

    async fn send(&mut self, request: Request) -> Result<(), CliError> {
        match self.client.publish_body(&self.topic, request.into_body(), self.options).await {
            Ok(published) => {
                self.report(&published)?;
                if published.links == 0 && !self.told_alone {
                    self.told_alone = true;
                    self.output.note("stored; nobody is connected yet: peers get it when they join");
                }
                Ok(())
            }
            Err(ClientError::Problem(problem)) if problem.published.is_some() => {
                let Some(published) = problem.published else { return Ok(()) };
                self.report(&published)?;
                let peers = published.peers;
                Err(CliError::TimedOut {
                    what: format!("stored here, but only {peers} of {} acks came from peers", self.options.acks),
                    after: Duration::from_millis(self.options.timeout_ms.unwrap_or(DEFAULT_ACK_TIMEOUT_MS)),
                    hint: Some("peers get it when they connect; see `roundelay peers`, do not publish it again".into()),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn report(&self, published: &Published) -> Result<(), CliError> {
        if self.quiet && !self.output.is_json() {
            return Ok(());
        }
        for event in &published.events {
            if self.output.is_json() {
                self.output.json(&json!({
                    "id": event.id, "topic": published.topic, "seq": event.seq, "cursor": event.cursor,
                    "duplicate": event.duplicate,
                }))?;
            } else {
                self.output.line(&event.id)?;
            }
        }
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &[u8]) -> serde_json::Value {
        let template = Template { head: r#"{"specversion":"1.0""#.into() };
        let mut body = Vec::new();
        template.write(data, &mut body);
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn data_says_what_it_is() {
        assert_eq!(event(b"{\"a\": 1}")["datacontenttype"], "application/json");
        assert_eq!(event(b"hello \"you\"")["data"], "hello \"you\"");
        assert_eq!(event(b"hello")["datacontenttype"], "text/plain");
        assert_eq!(event(b"")["data"], "");
        assert_eq!(event(&[255])["data_base64"], "/w==");
    }

    #[test]
    fn causes_are_told_apart() {
        let causes = |ids: &[&str]| causes(&ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        assert_eq!(causes(&[]), None);
        assert_eq!(causes(&["a%"]).as_deref(), Some("a%"));
        assert_eq!(causes(&["a,b"]).as_deref(), Some("a%2Cb,"));
        assert_eq!(causes(&["a,b", "c%"]).as_deref(), Some("a%2Cb,c%25"));
    }

    #[tokio::test]
    async fn a_pace_lets_the_first_go_at_once() {
        assert_eq!(Pace::new(None).due(7).await, u64::MAX);
        assert_eq!(Pace::new(Some(1.0)).due(0).await, 1);
    }
}
