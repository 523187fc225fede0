//! A mesh of honest daemons that goes about its business while a hostile peer does its worst, and the account of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Mesh, Publisher, Subscriber, eventually, exit};
use crate::peer::Hostile;

/// What the honest nodes talk about.
pub(crate) const TOPIC: &str = "orders.placed";
/// How many there are.
const HONEST: usize = 3;
/// What each of them publishes in a second.
const RATE: u64 = 40;

/// Honest nodes under load.
pub(crate) struct Arena {
    pub(crate) mesh: Mesh,
    publishers: Vec<Publisher>,
    subscriber: Subscriber,
    before: Vec<u64>,
    probes: Vec<String>,
    /// Events of hostile authors in the topic that are to be there too.
    foreign: usize,
    /// Stores are full.
    pruned: bool,
    started: Instant,
}

impl Arena {
    /// Three honest nodes, each linked to each, each publishing, and one of them with a subscriber.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// The same with settings.
    pub(crate) fn with(settings: &str) -> Self {
        let mut mesh = Mesh::empty();
        for index in 0..HONEST {
            let node = mesh.prepare(if index == 0 { &[] } else { &[0] }, &[]);
            if !settings.is_empty() {
                fs::create_dir_all(&mesh[node].home).expect("a home");
                fs::set_permissions(&mesh[node].home, fs::Permissions::from_mode(0o700)).expect("a home");
                fs::write(mesh[node].home.join("config.toml"), settings).expect("a file of settings");
            }
            mesh[node].start();
        }
        mesh.connected(mesh.all());
        let start = |node: usize| Publisher::start(&mesh[node], TOPIC, &format!("honest-{node}"), RATE);
        let publishers: Vec<Publisher> = mesh.all().map(start).collect();
        publishers.iter().for_each(|publisher| publisher.wait_for_more(20));
        let subscriber = Subscriber::start(&mesh[2], TOPIC);
        let before = mesh.all().map(|node| mesh[node].memory_bytes().0).collect();
        Self {
            mesh,
            publishers,
            subscriber,
            before,
            probes: Vec::new(),
            foreign: 0,
            pruned: false,
            started: Instant::now(),
        }
    }

    /// A hostile peer that can open sync streams to each of the nodes.
    pub(crate) fn hostile(&self) -> Hostile {
        Hostile::new(self.mesh.all().map(|node| &self.mesh[node]))
    }

    /// Fails unless the honest nodes go on publishing, and store each other's events, right now.
    #[track_caller]
    pub(crate) fn goes_on(&mut self) {
        self.publishers.iter().for_each(|publisher| publisher.wait_for_more(10));
        for node in 0..HONEST {
            let text = format!("probe-{}", self.probes.len());
            let args = ["pub", TOPIC, &text, "--acks", "2", "--timeout", "60s", "--json"];
            let done = self.mesh[node].cli(&args).expect(exit::OK);
            self.probes.extend(done.stdout.lines().filter_map(crate::harness::acknowledged_id));
        }
    }

    /// What a node says of a peer.
    pub(crate) fn peer(&self, node: usize, peer: &Hostile) -> Option<PeerNote> {
        let done = self.mesh[node].cli(&["peers", "--json"]).expect(exit::OK);
        let peers: Vec<Value> = serde_json::from_str(&done.stdout).expect("a list of peers");
        let id = peer.id.to_base58();
        let found = peers.into_iter().find(|peer| peer["id"] == id.as_str())?;
        Some(PeerNote {
            kept_away_until_ms: found["kept_away_until_ms"].as_u64(),
            note: found["note"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Waits until a node keeps a peer away, and says why in these words. Returns for how long, in seconds, about.
    #[track_caller]
    pub(crate) fn is_kept_away(&self, node: usize, peer: &Hostile, why: &str) -> u64 {
        peer.wait_for_the_end(&self.mesh[node]);
        let mut away_s = 0;
        eventually(&format!("node {node} keeps the peer away because it {why}"), || {
            let Some(PeerNote { kept_away_until_ms: Some(until_ms), note }) = self.peer(node, peer) else {
                return false;
            };
            away_s = until_ms.saturating_sub(crate::forge::now_ms()).div_ceil(1000);
            note.contains(why)
        });
        away_s
    }

    /// The attack fills the stores.
    pub(crate) fn expect_pruning(&mut self) {
        self.pruned = true;
    }

    /// So many events of hostile authors are valid, and belong to the topic.
    pub(crate) fn expect_foreign(&mut self, events: usize) {
        self.foreign = events;
    }

    /// Stamps of what the nodes themselves published, in milliseconds since 1970.
    pub(crate) fn honest_stamps_ms(&self) -> Vec<u64> {
        let ids: Vec<&str> = self.mesh.all().map(|node| self.mesh[node].id()).collect();
        let mut stamps = Vec::new();
        let done = self.mesh[0].cli(&["log", "export", TOPIC]).expect(exit::OK);
        for line in done.stdout.lines() {
            let event: Value = serde_json::from_str(line).expect("an event");
            if ids.iter().any(|id| event["rdlauthor"] == *id) {
                let hlc = event["rdlhlc"].as_str().and_then(|text| text.parse::<u64>().ok());
                stamps.push(hlc.expect("a stamp") >> 16);
            }
        }
        assert!(!stamps.is_empty(), "nothing is exported");
        stamps
    }

    /// Warnings in the status of a node.
    pub(crate) fn warnings(&self, node: usize) -> String {
        let done = self.mesh[node].cli(&["status", "--json"]);
        let status: Value = serde_json::from_str(&done.stdout).expect("a status");
        status["warnings"].to_string()
    }

    /// Ends the load. Nothing that was acknowledged may be missing anywhere, nor be delivered twice or out of order,
    /// and the honest nodes must agree. Prints a row for the table of attacks.
    #[track_caller]
    pub(crate) fn ends_well(mut self, attack: &str, what: &str) {
        self.goes_on();
        let lasted = self.started.elapsed();
        let mut ids: Vec<String> = std::mem::take(&mut self.probes);
        for publisher in std::mem::take(&mut self.publishers) {
            ids.extend(publisher.finish());
        }
        let nodes = 0..HONEST;
        let delivered = self.mesh.holds_at_least(TOPIC, &ids, nodes.clone());
        for events in &delivered {
            assert_eq!(
                events.len(),
                ids.len() + self.foreign,
                "what nobody was acknowledged, and no hostile author signed"
            );
        }
        drop(self.subscriber.wait_for(ids.len() + self.foreign));
        if self.pruned {
            // Each node prunes when it is full, some to the end of a hole and some not, so of what was pruned they hold the same
            // end, and not the same events. What nobody had to prune is the same.
            let held = |node: usize| {
                let topics = self.mesh[node].topics().into_iter();
                let ends = topics.map(|(name, topic)| match name == TOPIC {
                    true => (name, topic.digest),
                    false => (name, format!("{:?}", topic.last_event_ms)),
                });
                ends.collect::<Vec<_>>()
            };
            eventually("the honest nodes hold the same ends", || nodes.clone().all(|node| held(node) == held(0)));
        } else {
            self.mesh.converge(nodes.clone());
        }
        let peaks: Vec<u64> = nodes.map(|node| self.mesh[node].memory_bytes().1).collect();
        let mib = |bytes: &u64| bytes / (1 << 20);
        let before = self.before.iter().map(mib).max().unwrap_or(0);
        let peak = peaks.iter().map(mib).max().unwrap_or(0);
        println!("| {attack} | {what} | {before} | {peak} | 0 of {} | {:.0} s |", ids.len(), lasted.as_secs_f64());
    }
}

/// What `peers --json` says of a peer.
#[derive(Debug)]
pub(crate) struct PeerNote {
    pub(crate) kept_away_until_ms: Option<u64>,
    pub(crate) note: String,
}

/// Sleeps, as an attacker does.
pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
