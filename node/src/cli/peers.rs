//! `roundelay peers`: who is connected and known, and what to do about them.

use clap::Subcommand;
use comfy_table::Table;
use libp2p::{Multiaddr, PeerId};
use serde_json::json;

use crate::status::PeerStatus;

use super::context::{find_peer, short_id};
use super::error::CliError;
use super::table::{self, count, safe};
use super::{Context, Output, values};

const EXAMPLES: &str = "\
Examples:
  roundelay peers                                    who is connected and known
  roundelay peers add /ip4/192.0.2.7/tcp/4001/p2p/ID join through one more address
  roundelay peers block berlin                       by name, id, or the beginning or end of either

A peer that breaks the rules is kept away for 10 s, and twice as long each further time, up to an hour. The note says
why and until when; `add` with its id, `forget` and `unblock` let it in at once.";

/// Show who is connected, join, forget or block peers.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join through an address, and remember it
    #[command(after_help = "Example:\n  roundelay peers add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...")]
    Add {
        /// What `roundelay up` prints on the other node
        #[arg(value_parser = values::multiaddr)]
        address: Multiaddr,
    },
    /// Forget how to reach a peer, and what it did
    #[command(after_help = "Example:\n  roundelay peers forget berlin")]
    Forget {
        /// Its name, its id, or the beginning or end of either
        peer: String,
    },
    /// Have nothing to do with a peer and its events
    #[command(after_help = "Example:\n  roundelay peers block berlin")]
    Block {
        /// Its name, its id, or the beginning or end of either
        peer: String,
    },
    /// Have to do with a peer again, also with one that is kept away
    #[command(after_help = "Example:\n  roundelay peers unblock berlin")]
    Unblock {
        /// Its name, its id, or the beginning or end of either
        peer: String,
    },
}

pub(crate) async fn run(context: Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let output = &context.output;
    let wanted = match args.command {
        None => {
            let status = client.status().await?;
            return show(output, &status.peers);
        }
        Some(Command::Add { address }) => {
            client.add_peer(&address.to_string()).await?;
            return done(output, "added", &address.to_string(), "joining through");
        }
        Some(Command::Forget { ref peer } | Command::Block { ref peer } | Command::Unblock { ref peer }) => peer,
    };
    let status = client.status().await?;
    let id = match find_peer(&status.peers, wanted) {
        Ok(peer) => peer.id.clone(),
        // Somebody may be blocked before they were ever met.
        Err(unknown) => wanted.parse::<PeerId>().map_err(|_| unknown)?.to_string(),
    };
    match args.command {
        Some(Command::Forget { .. }) => {
            client.forget_peer(&id).await?;
            done(output, "forgotten", &id, "forgot")
        }
        Some(Command::Block { .. }) => {
            client.block_peer(&id, true).await?;
            done(output, "blocked", &id, "blocked")
        }
        _ => {
            client.block_peer(&id, false).await?;
            done(output, "unblocked", &id, "unblocked")
        }
    }
}

fn done(output: &Output, event: &str, what: &str, words: &str) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&json!({event: what}));
    }
    output.note(&format!("{words} {what}"));
    Ok(())
}

fn show(output: &Output, peers: &[PeerStatus]) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&peers);
    }
    if peers.is_empty() {
        output.note("no peer is known: join one with `roundelay peers add MULTIADDR`");
        return Ok(());
    }
    output.line(&table::text(&table(output, peers)))
}

/// Peers as a table, the connected ones first.
pub(super) fn table(output: &Output, peers: &[PeerStatus]) -> Table {
    let columns = ["NAME", "ID", "ADDRESS", "DIRECTION", ">RTT", ">BEHIND", ">AHEAD", "IN SYNC", "NOTE"];
    let mut table = table::table(output, &columns);
    let mut sorted: Vec<_> = peers.iter().collect();
    sorted.sort_by_key(|peer| (!peer.connected, peer.name.clone(), peer.id.clone()));
    for peer in sorted {
        let rtt = peer.rtt_ms.filter(|_| peer.connected).map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
        let in_sync = match (peer.connected, peer.in_sync) {
            (true, true) => "yes",
            (true, false) => "no",
            (false, _) => "-",
        };
        table.add_row([
            safe(peer.name.as_deref().unwrap_or("-")),
            format!("..{}", short_id(&peer.id)),
            peer.address.as_deref().map_or("-", without_id).to_owned(),
            if peer.connected { safe(peer.direction.as_deref().unwrap_or("-")) } else { "not connected".into() },
            rtt,
            count(peer.behind),
            count(peer.ahead),
            in_sync.into(),
            note(peer),
        ]);
    }
    table
}

fn note(peer: &PeerStatus) -> String {
    let blocked = peer.blocked.then_some("blocked");
    let away = peer.kept_away_until_ms.map(|until_ms| format!("kept away until {}", table::time(until_ms)));
    let said = peer.note.as_deref().filter(|note| Some(*note) != blocked);
    safe(&blocked.into_iter().chain(away.as_deref()).chain(said).collect::<Vec<_>>().join("; "))
}

/// An address without the peer id at its end, which has a column of its own.
fn without_id(address: &str) -> &str {
    address.rsplit_once("/p2p/").map_or(address, |(address, _)| address)
}
