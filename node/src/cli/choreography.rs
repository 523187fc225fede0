//! `roundelay choreography`: what services have agreed on, in files and in the mesh.

mod declarations;

use clap::Subcommand;
use roundelay_protocol::choreography::{diff, show};
use serde_json::json;

use crate::choreography::{ChoreographyStatus, FindingInfo};

use super::error::CliError;
use super::output::Tone;
use super::table::{self, count, many, safe, time};
use super::values::PictureFormat;
use super::{Context, Output};
use declarations::{Source, short};

const EXAMPLES: &str = "\
Examples:
  roundelay choreography check order-saga.toml             what is wrong with the design
  roundelay choreography show order-saga.toml --format dot | dot -Tsvg > saga.svg
  roundelay choreography publish order-saga.toml           to every node of the mesh
  roundelay choreography diff order-saga order-saga.toml   what the file changes, for each role
  roundelay choreography ls                                what is published, and how its instances do

docs/choreography-reference.md has the file's format. `roundelay instances NAME` shows what becomes of one.";

/// Check, compare, draw and publish declarations of choreographies.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong with a declaration; ends with 1 when anything is. Needs no node
    #[command(
        after_help = "Examples:\n  roundelay choreography check order-saga.toml\n  roundelay choreography check order-saga.toml --json | jq -r '.findings[].code'"
    )]
    Check {
        /// A declaration in TOML or JSON; - reads stdin
        file: String,
    },
    /// Say what one declaration changes against another, for each role that it touches
    #[command(
        after_help = "Examples:\n  roundelay choreography diff old.toml new.toml\n  roundelay choreography diff order-saga@3f2a order-saga.toml"
    )]
    Diff {
        /// A file, or NAME or NAME@VERSION of what is published; the beginning of a version will do
        old: String,
        /// The same
        new: String,
    },
    /// Show a declaration: in words, or as a picture
    #[command(
        after_help = "Examples:\n  roundelay choreography show order-saga.toml\n  roundelay choreography show order-saga --format mermaid"
    )]
    Show {
        /// A file, or NAME or NAME@VERSION of what is published
        declaration: String,
        /// In which form
        #[arg(long, value_enum, default_value_t)]
        format: PictureFormat,
    },
    /// Publish a declaration to the mesh: it holds for instances that begin from then on
    #[command(
        after_help = "Examples:\n  roundelay choreography publish order-saga.toml\n  roundelay choreography publish draft.toml --force"
    )]
    Publish {
        /// A declaration in TOML or JSON; - reads stdin
        file: String,
        /// Publish it in spite of flaws of its design
        #[arg(long)]
        force: bool,
    },
    /// List what is published, and how its instances do
    #[command(after_help = "Examples:\n  roundelay choreography ls\n  roundelay choreography ls --json")]
    Ls,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Check { file } => check(&context.output, &file),
        Command::Diff { old, new } => compare(&context, &old, &new).await,
        Command::Show { declaration, format } => draw(&context, &declaration, format).await,
        Command::Publish { file, force } => publish(&context, &file, force).await,
        Command::Ls => list(&context).await,
    }
}

fn check(output: &Output, file: &str) -> Result<(), CliError> {
    let checked = declarations::check(file)?;
    let findings = &checked.findings;
    if output.is_json() {
        output.json(&checked)?;
    } else {
        show_findings(output, findings)?;
        if let (true, Some(version)) = (findings.is_empty(), &checked.version) {
            let name = checked.name.as_deref().unwrap_or_default();
            output.line(&format!("{}: {name} {version}", output.paint(Tone::Good, "sound")))?;
        }
    }
    match findings.len() as u64 {
        0 => Ok(()),
        flaws => Err(flawed(file, flaws)),
    }
}

fn flawed(file: &str, flaws: u64) -> CliError {
    let message = format!("{file} has {}", many(flaws, "flaw"));
    CliError::failure(message, Some("mend them: each says where it is and what to do"))
}

fn show_findings(output: &Output, findings: &[FindingInfo]) -> Result<(), CliError> {
    for FindingInfo { place, code, wrong, mend } in findings {
        let code = output.paint(Tone::Bad, code);
        output.line(&format!("{}: {code}: {} {}", safe(place), safe(wrong), safe(mend)))?;
    }
    Ok(())
}

async fn compare(context: &Context, old: &str, new: &str) -> Result<(), CliError> {
    let (old, new) = (Source::parse(old).read(context).await?, Source::parse(new).read(context).await?);
    let found = diff::diff(&old, &new);
    let output = &context.output;
    if output.is_json() {
        let changes = |changes: &Vec<diff::Change>| -> Vec<_> {
            let change = |it: &diff::Change| json!({"place": it.place, "was": it.was, "is": it.is});
            changes.iter().map(change).collect()
        };
        let roles: serde_json::Map<_, _> =
            found.iter().map(|(role, list)| (role.clone(), changes(list).into())).collect();
        let versions = [&old, &new].map(|it| json!({"name": it.name(), "version": it.version().to_string()}));
        return output.json(&json!({"old": versions[0], "new": versions[1], "roles": roles}));
    }
    if found.is_empty() {
        output.note("nothing changes for any role");
        return Ok(());
    }
    output.bytes(diff::format_diff(&found).as_bytes())
}

async fn draw(context: &Context, declaration: &str, format: PictureFormat) -> Result<(), CliError> {
    let source = Source::parse(declaration);
    let output = &context.output;
    if output.is_json() {
        return output.json(&source.json(context).await?);
    }
    let declaration = source.read(context).await?;
    let text = match format {
        PictureFormat::Text => show::text(&declaration),
        PictureFormat::Mermaid => show::mermaid(&declaration),
        PictureFormat::Dot => show::dot(&declaration),
    };
    output.bytes(text.as_bytes())?;
    if let Source::Published { name, .. } = &source {
        let client = context.client()?;
        let versions = client.choreography(name, "").await?.versions;
        let listed = versions.iter().map(|it| format!("{} since {}", short(&it.version), time(it.since_ms)));
        output.note(&format!("published: {}", listed.collect::<Vec<_>>().join(", ")));
    }
    Ok(())
}

async fn publish(context: &Context, file: &str, force: bool) -> Result<(), CliError> {
    let text = declarations::read_text(file)?;
    let output = &context.output;
    let published = match context.client()?.publish_choreography(text, force).await {
        Err(error) => {
            if let Some(findings) = declarations::findings_of(&error).filter(|_| !output.is_json()) {
                show_findings(output, findings)?;
            }
            return Err(error.into());
        }
        Ok(published) => published,
    };
    if output.is_json() {
        return output.json(&published);
    }
    output.line(&published.version)?;
    if !published.findings.is_empty() {
        output.note(&format!("published in spite of {}", many(published.findings.len() as u64, "flaw")));
    }
    if !published.is_new {
        output.note(&format!("'{}' holds already in this version: nothing was published", published.name));
    }
    Ok(())
}

async fn list(context: &Context) -> Result<(), CliError> {
    let all = context.client()?.choreographies().await?;
    let output = &context.output;
    if output.is_json() {
        return output.json(&all);
    }
    if all.choreographies.is_empty() {
        output.note("no choreography is published yet: see `roundelay choreography publish`");
    } else {
        let columns = ["NAME", "VERSION", "PUBLISHED", ">PENDING", ">CONFORMING", ">SUPERSEDED", ">VIOLATING"];
        let mut table = table::table(output, &columns);
        for status in &all.choreographies {
            let counts = status.instances;
            let numbers = [counts.pending, counts.conforming, counts.superseded, counts.violating];
            let [pending, conforming, superseded, violating] = numbers.map(|number| count(number as u64));
            let (name, version) = (safe(&status.name), short(&status.version).to_owned());
            table.add_row([name, version, time(status.published_ms), pending, conforming, superseded, violating]);
        }
        output.line(&table::text(&table))?;
    }
    all.choreographies.iter().for_each(|status| note_limits(output, status));
    if all.refused > 0 {
        output.note(&format!("{} could not be taken here: see the node's log", many(all.refused, "declaration")));
    }
    Ok(())
}

/// Says on stderr what a node cannot know of a choreography.
pub(super) fn note_limits(output: &Output, status: &ChoreographyStatus) {
    let name = safe(&status.name);
    if status.is_reading {
        output.note(&format!("{name}: the log is still being read, so that something may be missing"));
    }
    if !status.not_subscribed.is_empty() {
        let topics = status.not_subscribed.join(" ");
        output.note(&format!(
            "{name}: this node does not subscribe to {topics}, and judges without what others publish there: see `roundelay topics join`"
        ));
    }
    if status.missing_events > 0 {
        let missing = many(status.missing_events, "event");
        output.note(&format!("{name}: {missing} of its topics are known and not here: see `roundelay log holes`"));
    }
    if let Some(upto_ms) = status.pruned_upto_ms {
        output.note(&format!("{name}: events up to {} were pruned here before they were read", time(upto_ms)));
    }
    for (number, what) in
        [(status.forgotten, "instances that had ended were forgotten"), (status.refused, "events were not taken")]
    {
        if number > 0 {
            output.note(&format!("{name}: {} {what}, for lack of room", count(number)));
        }
    }
}
