//! `roundelay instances`: what became of each run of a choreography.

use std::time::Duration;

use roundelay_protocol::choreography::span::format_span;

use crate::api::types::InstancesQuery;
use crate::choreography::{InstanceDetail, InstanceSummary, Instances, MAX_LISTED};

use super::choreography::note_limits;
use super::error::CliError;
use super::output::Tone;
use super::table::{self, count, safe, time};
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay instances order-saga                            every order, and how it stands
  roundelay instances order-saga --verdict violating        those that did what cannot be, and why
  roundelay instances order-saga --state paid --older-than 1h
  roundelay instances order-saga order-1042                 one, with its events and how each was judged
  roundelay instances order-saga --json | jq '.instances[].correlation'

An instance is conforming (ended as declared), pending (goes on as declared), superseded (some event came after another
had decided) or violating (some event cannot be).";

/// Show the instances of a choreography, or all about one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The choreography
    choreography: String,
    /// Show this instance in full, by its correlation id
    #[arg(conflicts_with_all = ["state", "older_than", "verdict", "limit", "after"])]
    correlation: Option<String>,
    /// Only instances in this state
    #[arg(long)]
    state: Option<String>,
    /// Only instances that entered their state at least so long ago
    #[arg(long, value_name = "SPAN", value_parser = values::age)]
    older_than: Option<Duration>,
    /// Only instances of which this is said
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Begin after this correlation id
    #[arg(long, value_name = "CORRELATION")]
    after: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Verdict {
    /// Ended as declared
    Conforming,
    /// Goes on as declared
    Pending,
    /// Some event came after another had decided
    Superseded,
    /// Some event cannot be
    Violating,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Conforming => "conforming",
            Self::Pending => "pending",
            Self::Superseded => "superseded",
            Self::Violating => "violating",
        }
    }
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    if let Some(correlation) = &args.correlation {
        let detail = client.instance(&args.choreography, correlation).await?;
        return show_one(&context.output, &detail);
    }
    let mut query = InstancesQuery {
        state: args.state,
        verdict: args.verdict.map(|verdict| verdict.as_str().to_owned()),
        older_than: args.older_than.map(|age| format_span(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
        limit: 0,
        after: args.after,
    };
    let mut all: Option<Instances> = None;
    let mut left = usize::try_from(args.limit).unwrap_or(usize::MAX);
    loop {
        query.limit = left.min(MAX_LISTED);
        let page = client.instances(&args.choreography, &query).await?;
        left -= page.instances.len().min(left);
        query.after = page.next.clone();
        let is_last = page.next.is_none() || left == 0;
        match &mut all {
            Some(all) => {
                all.instances.extend(page.instances);
                (all.next, all.status, all.is_up_to_date) = (page.next, page.status, page.is_up_to_date);
            }
            None => all = Some(page),
        }
        if is_last {
            break;
        }
    }
    all.map_or(Ok(()), |all| show_all(&context.output, &all))
}

fn show_all(output: &Output, all: &Instances) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(all);
    }
    if all.instances.is_empty() {
        output.note("no instance is like that");
    } else {
        let mut table = table::table(output, &["INSTANCE", "STATE", "SINCE", "VERDICT", "DUE", "WHY"]);
        for instance in &all.instances {
            table.add_row([
                safe(&instance.correlation),
                or_dash(&instance.state),
                instance.since_ms.map_or_else(|| "-".into(), time),
                verdict(output, instance),
                instance.due.as_ref().map_or_else(|| "-".into(), |due| time(due.due_ms)),
                safe(instance.why.as_deref().unwrap_or_default()),
            ]);
        }
        output.line(&table::text(&table))?;
    }
    if let Some(next) = &all.next {
        output.note(&format!("there are more: go on with --after {}", super::error::shell_word(next)));
    }
    note_limits(output, &all.status);
    note_lag(output, all.is_up_to_date);
    Ok(())
}

fn show_one(output: &Output, detail: &InstanceDetail) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(detail);
    }
    let instance = &detail.instance;
    let end = instance.end.as_ref().map(|end| format!(", the end in {end}")).unwrap_or_default();
    let since = instance.since_ms.map(|since| format!(" since {}", time(since))).unwrap_or_default();
    let due = instance.due.as_ref().map(|due| format!("{} of {} at {}", safe(&due.kind), due.by, time(due.due_ms)));
    let rows = [
        ("instance", Some(safe(&instance.correlation))),
        ("of", Some(format!("{} {}", detail.choreography, instance.version.as_deref().unwrap_or("(unknown version)")))),
        ("state", Some(format!("{}{end}{since}", or_dash(&instance.state)))),
        ("verdict", Some(verdict(output, instance))),
        ("why", instance.why.as_deref().map(safe)),
        ("due", due),
    ];
    for (label, value) in rows.iter().filter_map(|(label, value)| Some((label, value.as_ref()?))) {
        output.line(&format!("{}{value}", output.paint(Tone::Faint, &format!("{label:<10}"))))?;
    }
    for owed in &detail.owed {
        let undo =
            owed.compensation.as_deref().map_or("nothing can undo it".to_owned(), |kind| format!("{kind} is owed"));
        output.line(&format!(
            "{}{} ({}): {}",
            output.paint(Tone::Faint, "owed      "),
            safe(&owed.event.kind),
            safe(&owed.event.id),
            safe(&undo)
        ))?;
    }
    output.line("")?;
    let mut table = table::table(output, &["STAMP", "TYPE", "ID", "SOURCE", "JUDGEMENT"]);
    for event in &detail.events {
        let how = match (&event.to, &event.code, &event.why) {
            (Some(to), ..) => format!("-> {to}"),
            (None, Some(code), Some(why)) => format!("{}: {code}: {why}", event.judgement),
            _ => event.judgement.clone(),
        };
        let name = &event.event;
        table.add_row([time(name.at_ms), safe(&name.kind), safe(&name.id), safe(&name.source), safe(&how)]);
    }
    output.line(&table::text(&table))?;
    if detail.omitted > 0 {
        output.note(&format!("{} events are beyond the limit, and were not judged", count(detail.omitted as u64)));
    }
    if instance.is_partial {
        output.note("something of it may have been pruned here: then this is wrong");
    }
    note_lag(output, detail.is_up_to_date);
    Ok(())
}

fn verdict(output: &Output, instance: &InstanceSummary) -> String {
    let tone = match instance.verdict.as_str() {
        "violating" => Tone::Bad,
        "superseded" => Tone::Warning,
        "conforming" => Tone::Good,
        _ => Tone::Faint,
    };
    let partial = if instance.is_partial { " (partial)" } else { "" };
    format!("{}{partial}", output.paint(tone, &instance.verdict))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { safe(text) }
}

fn note_lag(output: &Output, is_up_to_date: bool) {
    if !is_up_to_date {
        output.note("the node is still reading: what came in the last moments may be missing");
    }
}
