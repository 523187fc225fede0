//! What every command has at hand: the home, the client of its daemon, and where output goes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::client::{Client, ClientError};
use crate::api::types::Code;
use crate::home::{Home, HomeError};
use crate::status::{NodeStatus, PeerStatus};

use super::error::CliError;
use super::{Global, Output};

/// How long a daemon may take for a short answer, unless `--timeout` says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of a peer id that tell nodes apart for people: its end, because all begin alike.
const SHORT_ID: usize = 8;

/// What every command has at hand.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) output: Output,
}

impl Context {
    pub(crate) fn new(global: Global, output: Output) -> Self {
        Self { global, output }
    }

    /// The node's home, which need not exist.
    pub(crate) fn home(&self) -> Result<Home, CliError> {
        Home::resolve(self.global.home.clone()).map_err(CliError::from)
    }

    /// A client whose short calls give up in time.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        let client = Client::new(&self.home()?)?;
        Ok(client.with_timeout(Some(self.global.timeout.unwrap_or(CALL_TIMEOUT))))
    }

    /// Does `work`, for as long as `--timeout` allows. `what` says what did not happen otherwise.
    pub(crate) async fn within<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        match self.global.timeout {
            None => work.await,
            Some(after) => match tokio::time::timeout(after, work).await {
                Ok(done) => done,
                Err(_) => Err(CliError::TimedOut { what: what.into(), after, hint: None }),
            },
        }
    }
}

/// The names of nodes by their peer ids.
pub(crate) fn names(status: &NodeStatus) -> BTreeMap<String, String> {
    let peers = status.peers.iter().filter_map(|peer| Some((peer.id.clone(), peer.name.clone()?)));
    peers.chain([(status.node.id.clone(), status.node.name.clone())]).collect()
}

/// What people know a node by: its name, or else the end of its id.
pub(crate) fn known_as<'a>(names: &'a BTreeMap<String, String>, id: &'a str) -> &'a str {
    names.get(id).map_or_else(|| short_id(id), String::as_str)
}

/// A peer id as people can tell it from others.
pub(crate) fn short_id(id: &str) -> &str {
    let start = id.char_indices().rev().nth(SHORT_ID - 1).map_or(0, |(at, _)| at);
    &id[start..]
}

/// The one peer that somebody means: by its name, its id, or the beginning or end of either.
pub(crate) fn find_peer<'a>(peers: &'a [PeerStatus], wanted: &str) -> Result<&'a PeerStatus, CliError> {
    let exact = |peer: &&PeerStatus| peer.id == wanted || peer.name.as_deref() == Some(wanted);
    let close = |peer: &&PeerStatus| {
        let by_name = peer.name.as_deref().is_some_and(|name| name.starts_with(wanted));
        by_name || peer.id.starts_with(wanted) || peer.id.ends_with(wanted)
    };
    let mut found: Vec<_> = peers.iter().filter(exact).collect();
    if found.is_empty() && !wanted.is_empty() {
        found = peers.iter().filter(close).collect();
    }
    let show = |peer: &PeerStatus| format!("{} ({})", peer.name.as_deref().unwrap_or("unnamed"), peer.id);
    match found[..] {
        [peer] => Ok(peer),
        [] => Err(CliError::usage(
            format!("no peer is known by '{wanted}'"),
            "see `roundelay peers` for names and ids, or give the whole peer id",
        )),
        _ => Err(CliError::usage(
            format!("'{wanted}' can mean {}", found.iter().map(|peer| show(peer)).collect::<Vec<_>>().join(" or ")),
            "give more of the name or the id",
        )),
    }
}

impl From<HomeError> for CliError {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::Unknown | HomeError::PathTooLong { .. } => {
                Self::usage(error.to_string(), "name another home with --home FOLDER or ROUNDELAY_HOME")
            }
            HomeError::Io { .. } | HomeError::Locked { .. } => Self::failure(error.to_string(), None),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotReachable { home } => Self::Unreachable { home, detail: String::new() },
            ClientError::Lost { detail } => Self::Gone { detail },
            ClientError::Timeout { after } => Self::TimedOut {
                what: "the node has not answered".into(),
                after,
                hint: Some("it may be busy or paused; whether the command took effect is unknown".into()),
            },
            ClientError::Problem(problem) if problem.code == Code::Stopped => Self::Gone { detail: problem.detail },
            ClientError::Problem(problem) => {
                let code = serde_json::to_value(problem.code).ok();
                let code = code.and_then(|code| code.as_str().map(str::to_owned));
                Self::Refused {
                    code: code.unwrap_or_else(|| "unknown".into()),
                    usage: problem.code.is_usage(),
                    message: problem.detail,
                    hint: problem.hint,
                }
            }
            ClientError::Answer { .. } | ClientError::Encode(_) | ClientError::Setup(_) => {
                Self::failure(error.to_string(), None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: Option<&str>, id: &str) -> PeerStatus {
        PeerStatus {
            id: id.into(),
            name: name.map(str::to_owned),
            connected: true,
            address: None,
            direction: None,
            rtt_ms: None,
            behind: 0,
            ahead: 0,
            in_sync: true,
            clock_ahead_ms: 0,
            blocked: false,
            kept_away_until_ms: None,
            note: None,
        }
    }

    #[test]
    fn a_peer_is_found_by_what_only_it_has() {
        let peers =
            [peer(Some("berlin"), "12D3KooWAAA1"), peer(Some("bern"), "12D3KooWBBB2"), peer(None, "12D3KooWCCC3")];
        let found = |wanted| find_peer(&peers, wanted).map(|peer| &peer.id[8..]);
        assert_eq!(found("berlin").unwrap(), "AAA1");
        assert_eq!(found("bern").unwrap(), "BBB2");
        assert_eq!(found("berl").unwrap(), "AAA1");
        assert_eq!(found("CC3").unwrap(), "CCC3");
        assert_eq!(found("12D3KooWB").unwrap(), "BBB2");
        for wanted in ["ber", "12D3", "paris", ""] {
            assert_eq!(found(wanted).unwrap_err().exit_code(), super::super::exit::USAGE, "{wanted}");
        }
    }

    #[test]
    fn the_end_of_an_id_tells_nodes_apart() {
        assert_eq!(short_id("12D3KooWGzBbHkW9aN3Vd"), "kW9aN3Vd");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(short_id(""), "");
        let names = BTreeMap::from([("12D3KooWGzBbHkW9aN3Vd".to_owned(), "berlin".to_owned())]);
        assert_eq!(known_as(&names, "12D3KooWGzBbHkW9aN3Vd"), "berlin");
        assert_eq!(known_as(&names, "12D3KooWGzBbHkW9aN3Ve"), "kW9aN3Ve");
    }
}
