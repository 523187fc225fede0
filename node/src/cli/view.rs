//! `roundelay view`: the last value of each key of a topic.

use std::collections::BTreeMap;

use roundelay_protocol::topic::Topic;

use crate::api::types::ViewPageQuery;
use crate::views::{MAX_VIEW_LISTED, ViewInfo, ViewPage, ViewValue};

use super::context::{known_as, names};
use super::error::{CliError, shell_word};
use super::events::{Data, EventLine};
use super::table::{self, many, safe, time};
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay pub stock.levels 12 --key apples     give a key a value
  roundelay view stock.levels apples             12
  roundelay view stock.levels                    all keys and their values
  roundelay view stock.levels --prefix eu.       those that begin so
  roundelay view stock.levels --json | jq '.entries[].event.data'

The last event of a key in the total order counts, so that all nodes which hold the same events show the same. An event
without data takes the value away. `roundelay topics set TOPIC --keyed` lets go what is superseded.";

/// Show the last value of each key of a topic, or of one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topic
    #[arg(value_parser = values::topic)]
    topic: Topic,
    /// Print the value of this key as it was published
    #[arg(conflicts_with_all = ["prefix", "limit", "after"])]
    key: Option<String>,
    /// Only keys that begin so
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Begin after this key
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let topic = args.topic.as_str();
    if let Some(key) = &args.key {
        return show_value(&context.output, &client.view_value(topic, key).await?);
    }
    let mut query = ViewPageQuery { prefix: args.prefix, limit: 0, after: args.after };
    let mut left = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut all: Option<ViewPage> = None;
    loop {
        query.limit = left.min(MAX_VIEW_LISTED);
        let page = client.view(topic, &query).await?;
        left -= page.entries.len().min(left);
        query.after.clone_from(&page.next);
        let is_last = page.next.is_none() || left == 0;
        match &mut all {
            Some(all) => {
                all.entries.extend(page.entries);
                (all.next, all.info) = (page.next, page.info);
            }
            None => all = Some(page),
        }
        if is_last {
            break;
        }
    }
    let Some(all) = all else { return Ok(()) };
    if context.output.is_json() {
        return context.output.json(&all);
    }
    // Without names ids are shown.
    let names = client.status().await.map(|status| names(&status)).unwrap_or_default();
    show_all(&context.output, &all, &names)
}

fn show_value(output: &Output, value: &ViewValue) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(value);
    }
    let Some(event) = &value.event else { return Ok(()) };
    match EventLine::parse(event.get().as_bytes())?.payload()? {
        Data::None => {}
        Data::Text(text) => output.line(&text)?,
        Data::Bytes(bytes) => output.bytes(&bytes)?,
    }
    note_limits(output, &value.info);
    Ok(())
}

fn show_all(output: &Output, page: &ViewPage, names: &BTreeMap<String, String>) -> Result<(), CliError> {
    if page.entries.is_empty() {
        output.note("no key is like that");
    } else {
        let mut table = table::table(output, &["KEY", "SINCE", "AUTHOR", "VALUE"]);
        for entry in &page.entries {
            let Some(event) = &entry.event else {
                table.add_row([safe(&entry.key), "-".into(), "-".into(), "(pruned here)".into()]);
                continue;
            };
            let event = EventLine::parse(event.get().as_bytes())?;
            let since = event.time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
            let value = match event.payload()? {
                Data::None => String::new(),
                Data::Text(text) => safe(text.trim_end()),
                Data::Bytes(bytes) => format!("({} bytes)", bytes.len()),
            };
            let since = since.map_or_else(|| "-".into(), time);
            table.add_row([safe(&entry.key), since, safe(known_as(names, &event.author)), value]);
        }
        output.line(&table::text(&table))?;
    }
    if let Some(next) = &page.next {
        output.note(&format!("there are more: go on with --after {}", shell_word(next)));
    }
    note_limits(output, &page.info);
    Ok(())
}

/// Says on stderr how far the view cannot be relied on.
fn note_limits(output: &Output, info: &ViewInfo) {
    let topic = &info.topic;
    if !info.is_subscribed {
        output.note(&format!(
            "this node does not subscribe to {topic}, and shows no more than what is here: see `roundelay topics join`"
        ));
    }
    if !info.is_up_to_date {
        output.note("the node is still reading: what came last may be missing");
    }
    if info.is_partial {
        output.note(&format!("partial: events of {topic} were pruned here before they were read"));
    }
    if info.exceptions > 0 {
        let exceptions = many(info.exceptions, "event");
        output.note(&format!("{exceptions} came at or before what was stable: see `roundelay stable`"));
    }
    if info.refused > 0 {
        let refused = many(info.refused, "event");
        output.note(&format!("left out: {refused} of further keys, for which a view has no room"));
    }
    if info.without_key > 0 {
        output.note(&format!("left out: {} without a key", many(info.without_key, "event")));
    }
}
