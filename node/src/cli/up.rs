//! `roundelay up`: runs a node.

use std::path::PathBuf;

use libp2p::Multiaddr;
use roundelay_protocol::topic::Pattern;
use serde_json::json;

use crate::config::Options;
use crate::daemon::{self, DaemonError, Ready};

use super::error::CliError;
use super::logging::{self, LogFormat};
use super::output::Tone;
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay up --name first                      prints its addresses, says ready, runs until Ctrl-C
  roundelay up --join /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...
  roundelay --home /tmp/b up --name second --join ADDRESS
  roundelay up --topic 'orders.>' --topic weather
  roundelay up --mesh shop --mesh-key shop.key   a mesh of its own, closed to strangers
  roundelay up --api 7777                        the API also on http://127.0.0.1:7777, with a token
  roundelay up --listen /ip4/0.0.0.0/tcp/4001 --advertise /dns4/node.example.org/tcp/4001

Flags win over ROUNDELAY_* variables, and those over config.toml in the home.
ROUNDELAY_LOG says what is logged, as in roundelay=debug,libp2p=info.
OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 sends spans of publications there.";

/// Run a node.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node's name, for people [default: the machine's]
    #[arg(long)]
    name: Option<String>,
    /// Where to listen; may be repeated [default: any address, a port that stays the same]
    #[arg(long, value_name = "MULTIADDR", value_parser = values::multiaddr)]
    listen: Vec<Multiaddr>,
    /// Whom to join, as the other node prints it; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = values::multiaddr)]
    join: Vec<Multiaddr>,
    /// What to subscribe to on the first start; may be repeated [default: >, everything]
    #[arg(long, value_name = "PATTERN", value_parser = values::pattern)]
    topic: Vec<Pattern>,
    /// The mesh to belong to; nodes of different meshes don't exchange events
    #[arg(long, value_name = "NAME")]
    mesh: Option<String>,
    /// File with the mesh's key, which keeps out whoever has another or none
    #[arg(long, value_name = "FILE")]
    mesh_key: Option<PathBuf>,
    /// The only addresses to tell others; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = values::multiaddr)]
    advertise: Vec<Multiaddr>,
    /// Don't look for neighbours in the local network
    #[arg(long)]
    no_mdns: bool,
    /// Serve the API over TCP, too: a port of this machine, or an address and a port [default: only the home's socket]
    #[arg(long, value_name = "ADDRESS")]
    api: Option<String>,
    /// What the store may take, such as 2GiB [default: a tenth of the disk, at most 10 GiB]
    #[arg(long, value_name = "SIZE")]
    store_cap: Option<String>,
    /// Say so often, while anything is published, that nothing earlier of this node is still to come: 1s, say; see
    /// `roundelay stable` [default: 0s, never]
    #[arg(long, value_name = "DURATION")]
    heartbeat: Option<String>,
    /// How to log to stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "ROUNDELAY_LOG_FORMAT", hide_env_values = true)]
    log_format: LogFormat,
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let output = &context.output;
    let exporter = logging::start(&context.global, args.log_format, output)?;
    let home = context.home()?;
    let announced = output.clone();
    let outcome = daemon::run(&home, &options(args), move |ready| {
        // A node goes on when nobody reads what it prints.
        if let Err(error) = announce(&announced, ready) {
            tracing::warn!("cannot print the node's addresses: {error}");
        }
    })
    .await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    Ok(outcome?)
}

fn options(args: Args) -> Options {
    let texts = |addresses: Vec<Multiaddr>| addresses.iter().map(ToString::to_string).collect();
    Options {
        name: args.name,
        mesh: args.mesh,
        mesh_key_file: args.mesh_key,
        listen: texts(args.listen),
        join: texts(args.join),
        advertise: texts(args.advertise),
        topics: args.topic.iter().map(ToString::to_string).collect(),
        no_mdns: args.no_mdns,
        store_cap: args.store_cap,
        api: args.api,
        heartbeat: args.heartbeat,
    }
}

/// Says who the node is and how to join it.
fn announce(output: &Output, ready: &Ready) -> Result<(), CliError> {
    let id = ready.id.to_base58();
    let addresses = ready.addresses.iter().map(ToString::to_string);
    if output.is_json() {
        let listen: Vec<_> = addresses.collect();
        let (name, mesh, home) = (&ready.name, &ready.mesh, ready.home.path());
        let api = &ready.api;
        let node = json!({"id": id, "name": name, "mesh": mesh, "listen": listen, "home": home, "api": api});
        output.json(&json!({"event": "up", "node": node}))?;
        return output.flush();
    }
    output.line(&format!("{}  {id}", output.paint(Tone::Heading, &ready.name)))?;
    output.line("Others join with one of these after --join:")?;
    for address in addresses {
        output.line(&output.paint(Tone::Name, &address))?;
    }
    if let Some(api) = &ready.api {
        output.line(&format!("API on {}, with the token in {}", output.paint(Tone::Name, &api.url), api.token_file))?;
    }
    output.line(&output.paint(Tone::Good, "ready"))?;
    output.flush()
}

impl From<DaemonError> for CliError {
    fn from(error: DaemonError) -> Self {
        if error.is_usage() {
            return Self::usage(error.to_string(), "see `roundelay up --help`");
        }
        Self::failure(error.to_string(), None)
    }
}
