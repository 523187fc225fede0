//! `roundelay dev`: a mesh in one process, to try things out on.

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::dev::demo::{self, DemoError, MIN_NODES, Mood, Outcome, Step};
use crate::dev::{LocalMesh, LocalMeshError, LocalMeshOptions};

use super::error::{CliError, shell_word};
use super::output::Tone;
use super::{Context, Output};

const EXAMPLES: &str = "\
Examples:
  roundelay dev                 three nodes; prints how to talk to them, runs until Ctrl-C
  roundelay dev -n 8 --keep     eight, whose homes stay
  roundelay dev --demo          a story of a mesh that is cut in two and heals";

/// Try out a mesh: several nodes in one process, with temporary homes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    nodes: u8,
    /// Tell a story with them: events flow, one node is cut off, both sides go on, it heals; fails if anything is lost
    #[arg(long)]
    demo: bool,
    /// Leave the homes where they are
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    if args.demo { show(&context.output, &args).await } else { serve(&context.output, &args).await }
}

/// Runs nodes until Ctrl-C.
async fn serve(output: &Output, args: &Args) -> Result<(), CliError> {
    let options = LocalMeshOptions { api: true, ..LocalMeshOptions::new(demo::names(args.nodes.into())) };
    let mut mesh = LocalMesh::start(options).await?;
    if args.keep {
        mesh.keep();
    }
    let done = match announce(output, &mesh) {
        Ok(()) => until_the_end(output, &mesh).await,
        Err(error) => Err(error),
    };
    let folder = mesh.folder().to_owned();
    mesh.shutdown().await;
    if args.keep {
        output.note(&format!("the homes are in {}", folder.display()));
    }
    done
}

/// Waits for Ctrl-C, or SIGTERM, or a node that stops by itself.
async fn until_the_end(output: &Output, mesh: &LocalMesh) -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::io("signals"))?;
    let stopped = mesh.nodes().iter().map(|node| Box::pin(node.node.stopped()));
    tokio::select! {
        _ = tokio::signal::ctrl_c() => output.note("stopping"),
        _ = terminate.recv() => output.note("stopping"),
        (reason, nth, _) = futures::future::select_all(stopped) => {
            let name = &mesh.nodes()[nth].name;
            return Err(CliError::failure(format!("the node {name} stopped: {reason}"), None));
        }
    }
    Ok(())
}

fn announce(output: &Output, mesh: &LocalMesh) -> Result<(), CliError> {
    let program = program();
    for node in mesh.nodes() {
        let (home, address) = (node.home.display().to_string(), node.node.addresses());
        let address = address.first().map(ToString::to_string).unwrap_or_default();
        if output.is_json() {
            let id = node.node.id().to_string();
            let (name, api) = (&node.name, &node.api);
            output.json(&json!({
                "event": "up", "name": name, "id": id, "address": address, "home": home, "api": api
            }))?;
        } else {
            output.line(&format!(
                "{:10} {}",
                output.paint(Tone::Heading, &node.name),
                output.paint(Tone::Name, &address)
            ))?;
            output.line(&format!("{:10} {}", "", output.paint(Tone::Faint, &home)))?;
            if let Some(api) = &node.api {
                let token = format!("token in {}", api.token_file);
                output.line(&format!("{:10} {}  {}", "", api.url, output.paint(Tone::Faint, &token)))?;
            }
        }
    }
    if output.is_json() {
        return output.flush();
    }
    let home = |nth: usize| {
        let nodes = mesh.nodes();
        shell_word(&nodes[nth % nodes.len()].home.display().to_string())
    };
    output.line("\nIn another terminal, for example:")?;
    for command in [
        format!("--home {} sub '>'", home(1)),
        format!("--home {} pub orders.placed '{{\"total\":9}}'", home(0)),
        format!("--home {} status", home(2)),
    ] {
        output.line(&format!("  {program} {command}"))?;
    }
    output.line(&output.paint(Tone::Good, "ready; Ctrl-C stops them all"))?;
    output.flush()
}

/// Tells the story.
async fn show(output: &Output, args: &Args) -> Result<(), CliError> {
    if usize::from(args.nodes) < MIN_NODES {
        let message = format!("the demo has parts for {MIN_NODES} nodes and more, not for {}", args.nodes);
        return Err(CliError::usage(message, "leave out -n, or give a larger number"));
    }
    let mut unwritten = Ok(());
    let mut teller = |step: Step| {
        if unwritten.is_ok() {
            unwritten = tell(output, &step);
        }
    };
    let outcome = demo::run(args.nodes.into(), args.keep, &mut teller).await?;
    unwritten?;
    conclude(output, args, &outcome)?;
    if outcome.lost > 0 || !outcome.agreed {
        let message = format!("{} events are missing, digests equal: {}", outcome.lost, outcome.agreed);
        return Err(CliError::failure(message, Some("this is a defect: please report it with the output above")));
    }
    Ok(())
}

fn tell(output: &Output, step: &Step) -> Result<(), CliError> {
    if output.is_json() {
        output.json(step)?;
        return output.flush();
    }
    let tone = match step.mood {
        Mood::Plain => None,
        Mood::Broken => Some(Tone::Warning),
        Mood::Good => Some(Tone::Good),
    };
    for (nth, line) in step.text.lines().enumerate() {
        let time = if nth == 0 { format!("{:6.2}s", step.at_ms as f64 / 1e3) } else { " ".repeat(7) };
        let line = tone.map_or_else(|| line.to_owned(), |tone| output.paint(tone, line));
        output.line(&format!("{}  {line}", output.paint(Tone::Faint, &time)))?;
    }
    output.flush()
}

fn conclude(output: &Output, args: &Args, outcome: &Outcome) -> Result<(), CliError> {
    let Outcome { acknowledged, lost, agreed, homes } = outcome;
    if output.is_json() {
        let homes: Vec<_> = homes.iter().filter(|_| args.keep).map(|(_, home)| home).collect();
        let verdict = json!({
            "step": "verdict", "ok": *lost == 0 && *agreed, "acknowledged": acknowledged, "lost": lost,
            "digests_equal": agreed, "nodes": outcome.homes.len(), "homes": homes,
        });
        output.json(&verdict)?;
        return output.flush();
    }
    let (tone, verdict) = match (lost, agreed) {
        (0, true) => {
            (Tone::Good, format!("Nothing was lost: {} nodes, each with all {acknowledged} events.", homes.len()))
        }
        _ => (Tone::Bad, format!("Something is missing: {lost} acknowledged events, digests equal: {agreed}.")),
    };
    output.line(&format!("\n{}\n", output.paint(tone, &verdict)))?;
    let program = program();
    if args.keep {
        output.line("The homes are kept. Look into them, or run one:")?;
        for (command, (_, home)) in ["log verify", "log export", "up"].iter().zip(homes) {
            output.line(&format!("  {program} --home {} {command}", shell_word(&home.display().to_string())))?;
        }
    } else {
        output.line("Go on with a mesh of your own:")?;
        output.line(&format!("  {program} dev                three nodes to play with, until Ctrl-C"))?;
        output.line(&format!("  {program} up                 one node; prints how others join it"))?;
        output.line(&format!("  {program} dev --demo --keep  this again, and keep what the nodes stored"))?;
    }
    output.flush()
}

/// This program as it was called, so that commands can be pasted.
fn program() -> String {
    std::env::args().next().map_or_else(|| "roundelay".into(), |program| shell_word(&program))
}

impl From<LocalMeshError> for CliError {
    fn from(error: LocalMeshError) -> Self {
        Self::failure(error.to_string(), None)
    }
}

impl From<DemoError> for CliError {
    fn from(error: DemoError) -> Self {
        Self::failure(error.to_string(), None)
    }
}
