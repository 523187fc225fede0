//! `roundelay topics set`, `unset` and `rules`: what is kept for how long, and who may publish.

use std::time::Duration;

use libp2p::PeerId;
use roundelay_protocol::topic::Pattern;
use serde_json::json;

use crate::api::client::Client;
use crate::api::types::TopicRule;

use super::error::CliError;
use super::table::{self, bytes, count};
use super::{Context, values};

/// The limits of a rule.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Limits {
    /// Let events go that are older than this by their stamps, and have been here for as long
    #[arg(long, value_name = "TIME", value_parser = values::age)]
    max_age: Option<Duration>,
    /// Bytes that each topic may take; beyond it the oldest go
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    max_bytes: Option<u64>,
    /// Events that each topic may have; beyond it the oldest go
    #[arg(long, value_name = "N")]
    max_events: Option<u64>,
    /// Keep the last event of each key, and let go what it supersedes
    #[arg(long)]
    keyed: bool,
    /// Take events of these nodes only, by their ids; 'none' takes nobody's
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = values::writer)]
    writers: Option<Vec<Option<PeerId>>>,
}

impl Limits {
    fn rule(self) -> TopicRule {
        TopicRule {
            max_age_ms: self.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            max_bytes: self.max_bytes,
            max_events: self.max_events,
            keyed: self.keyed,
            writers: self.writers.map(|ids| ids.into_iter().flatten().map(|id| id.to_base58()).collect()),
        }
    }
}

pub(super) async fn set(context: &Context, client: &Client, pattern: &Pattern, limits: Limits) -> Result<(), CliError> {
    let rule = limits.rule();
    client.set_rule(pattern.as_str(), &rule).await?;
    if context.output.is_json() {
        return context.output.json(&json!({"pattern": pattern.as_str(), "rule": rule}));
    }
    context.output.note(&format!("the rule of '{pattern}' is set"));
    Ok(())
}

pub(super) async fn unset(context: &Context, client: &Client, pattern: &Pattern) -> Result<(), CliError> {
    if !client.unset_rule(pattern.as_str()).await? {
        let hint = "`roundelay topics rules` shows the patterns that have one";
        return Err(CliError::failure(format!("'{pattern}' has no rule"), Some(hint)));
    }
    if context.output.is_json() {
        return context.output.json(&json!({"unset": pattern.as_str()}));
    }
    context.output.note(&format!("'{pattern}' has no rule any more"));
    Ok(())
}

pub(super) async fn list(context: &Context, client: &Client) -> Result<(), CliError> {
    let rules = client.rules().await?;
    let output = &context.output;
    if output.is_json() {
        return output.json(&rules);
    }
    if rules.is_empty() {
        output.note("no rules: the store's cap alone decides what goes (`roundelay topics set`)");
        return Ok(());
    }
    let mut table = table::table(output, &["PATTERN", ">MAX AGE", ">MAX BYTES", ">MAX EVENTS", "KEYED", "WRITERS"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    for line in rules {
        let TopicRule { max_age_ms, max_bytes, max_events, keyed, writers } = line.rule;
        let writers = writers.map(|ids| if ids.is_empty() { "nobody".to_owned() } else { ids.join("\n") });
        table.add_row([
            line.pattern,
            or_dash(max_age_ms.map(age)),
            or_dash(max_bytes.map(bytes)),
            or_dash(max_events.map(count)),
            if keyed { "yes" } else { "-" }.into(),
            writers.unwrap_or_else(|| "everybody".into()),
        ]);
    }
    output.line(&table::text(&table))
}

/// An age in its two largest units, or in milliseconds where it is less than a second.
fn age(age_ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut left = age_ms / 1000;
    let mut parts = Vec::new();
    for (unit, seconds) in UNITS {
        if left >= seconds && parts.len() < 2 {
            parts.push(format!("{}{unit}", left / seconds));
            left %= seconds;
        }
    }
    if parts.is_empty() { format!("{age_ms}ms") } else { parts.join(" ") }
}
