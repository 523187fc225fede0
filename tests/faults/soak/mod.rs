//! All faults at once, for as long as one likes: `scripts/soak.sh MINUTES`.
//!
//! Every few minutes the faults stop, and the mesh has to converge; then every acknowledged event has to be on every node,
//! but for those that were known to be on disks only that an older copy replaced.

mod episodes;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::harness::{Dice, Follower, Mesh, Stream, exit};
use crate::loop_disk::{self, LoopDisk};
use crate::needs::{self, Need};
use episodes::Fault;
use ledger::Ledger;

const NODES: usize = 6;
/// This node has a disk of its own, which fills up and whose power fails now and then.
const OWN_DISK: usize = 3;
const DISK_MIB: u64 = 1024;
/// This node's clock is set off now and then: two at once could convince a third whose only links are to them.
const BAD_CLOCK: usize = 5;
/// Events with a wrong stamp that are told of.
const MAX_DRAGGED: usize = 20;
const TOPICS: [&str; 2] = ["orders.placed", "orders.paid"];
/// Of each node, about.
const EVENTS_PER_S: u64 = 40;
/// Between two times that the mesh is left alone and checked.
const STRETCH: Duration = Duration::from_secs(150);
/// What the mesh may take to converge when it is left alone.
const PATIENCE: Duration = Duration::from_secs(240);
const MEMORY_LIMIT_KIB: u64 = 512 * 1024;
const OPEN_FILES_LIMIT: usize = 512;

#[test]
#[ignore = "takes as long as ROUNDELAY_SOAK_MINUTES says: scripts/soak.sh"]
fn a_mesh_keeps_its_promises_under_all_faults_at_once() {
    let tools = [Need::Namespaces, Need::Strace, Need::Faketime, Need::Program("nft"), Need::Program("tc")];
    if !needs::has(&[&tools[..], &loop_disk::NEEDS].concat()) {
        return;
    }
    let minutes = std::env::var("ROUNDELAY_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut dice = Dice::thrown();
    let mut soak = Soak::start();
    while Instant::now() < end {
        soak.stretch(end.min(Instant::now() + STRETCH), &mut dice);
        soak.check();
        soak.start_over(&mut dice);
    }
    soak.check();
    soak.conclude();
}

struct Soak {
    disk: LoopDisk,
    mesh: Mesh,
    started: Instant,
    ledger: Arc<Mutex<Ledger>>,
    streams: Mutex<BTreeMap<usize, Tapped>>,
    followers: Mutex<BTreeMap<usize, Follower>>,
    /// Backups of nodes and when they were begun
    copies: Mutex<BTreeMap<usize, (PathBuf, Instant)>>,
    /// Nodes whose disk was replaced, as often as it was
    replaced: Mutex<Vec<usize>>,
    /// Nodes whose process, and whose network, has a fault
    sick: Mutex<BTreeSet<(bool, usize)>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    problems: Arc<Mutex<Vec<String>>>,
    /// Ids of nodes whose clock is never off
    good_clocks: Arc<BTreeSet<String>>,
    /// The most memory in KiB and open files of any node, by minute
    usage: Mutex<BTreeMap<u64, (u64, usize)>>,
    longest_convergence: Duration,
    checks: u64,
    counter: AtomicU64,
}

/// A stream of which the ledger has been told so many acknowledgements.
struct Tapped {
    stream: Stream,
    told: usize,
}

impl Soak {
    fn start() -> Self {
        let (mut mesh, mut disk) = (Mesh::apart(), None);
        for node in 0..NODES {
            let join: Vec<usize> = (0..node.min(2)).collect();
            // A tenth of its small disk would be full before the end: what it prunes cannot be compared with the others'.
            let cap: &[&str] = if node == OWN_DISK { &["--store-cap", "512MiB"] } else { &[] };
            mesh.prepare(&join, cap);
            if node == OWN_DISK {
                disk = Some(LoopDisk::new(&mesh[node].home, DISK_MIB));
            }
            mesh[node].start();
        }
        mesh.connected(mesh.all());
        let good_clocks = (0..NODES).filter(|node| *node != BAD_CLOCK).map(|node| mesh[node].id().to_owned()).collect();
        let soak = Self {
            disk: disk.expect("one node has it"),
            mesh,
            good_clocks: Arc::new(good_clocks),
            started: Instant::now(),
            ledger: Arc::default(),
            streams: Mutex::default(),
            followers: Mutex::default(),
            copies: Mutex::default(),
            replaced: Mutex::default(),
            sick: Mutex::default(),
            faults: Mutex::default(),
            problems: Arc::default(),
            usage: Mutex::default(),
            longest_convergence: Duration::ZERO,
            checks: 0,
            counter: AtomicU64::new(0),
        };
        soak.mesh.all().for_each(|node| soak.follow(node));
        soak.publish();
        soak
    }

    /// Faults until `end`, several at a time.
    fn stretch(&self, end: Instant, dice: &mut Dice) {
        thread::scope(|scope| {
            while Instant::now() < end {
                let fault = Fault::random(dice);
                let node = fault.victim(dice);
                // One partition at a time, and of each node one fault of its process and one of its network.
                let place = (fault.is_of_process(), if fault == Fault::Partition { NODES } else { node });
                if self.sick.lock().expect("sick").insert(place) {
                    let mut dice = dice.another();
                    scope.spawn(move || {
                        self.suffer(fault, node, &mut dice);
                        self.sick.lock().expect("sick").remove(&place);
                    });
                }
                sleep(dice.time(500, 3_000));
                self.look();
            }
        });
    }

    /// Watches processes, and takes note of acknowledgements.
    fn look(&self) {
        self.collect();
        let minute = self.started.elapsed().as_secs() / 60;
        for node in self.mesh.all() {
            let (memory_kib, open_files) = (self.mesh[node].memory_kib(), self.mesh[node].open_files());
            let mut usage = self.usage.lock().expect("usage");
            let most = usage.entry(minute).or_default();
            *most = (most.0.max(memory_kib), most.1.max(open_files));
            drop(usage);
            if memory_kib > MEMORY_LIMIT_KIB || open_files > OPEN_FILES_LIMIT {
                self.problem(format!("node {node} uses {memory_kib} KiB and {open_files} files"));
            }
            let sick = self.sick.lock().expect("sick").contains(&(true, node));
            if !sick && self.mesh[node].has_ended() && !self.sick.lock().expect("sick").contains(&(true, node)) {
                self.problem(format!("node {node} has ended by itself:\n{}", self.mesh[node].last_words()));
            }
        }
    }

    /// Stops publishing, waits until all nodes hold the same, and compares that with what was acknowledged.
    fn check(&mut self) {
        self.checks += 1;
        let streams = std::mem::take(&mut *self.streams.lock().expect("streams"));
        for (node, tapped) in streams {
            let acknowledged = tapped.stream.finish();
            let mut ledger = self.ledger.lock().expect("ledger");
            acknowledged.into_iter().skip(tapped.told).for_each(|id| ledger.acknowledge(id, node));
        }
        let start = Instant::now();
        while !self.is_converged() {
            if start.elapsed() > PATIENCE {
                self.problem(format!("not converged within {PATIENCE:?}:\n{}", self.portrait()));
                break;
            }
            sleep(Duration::from_millis(250));
        }
        self.longest_convergence = self.longest_convergence.max(start.elapsed());
        self.check_followers();
        let audit = self.ledger.lock().expect("ledger").audit(NODES);
        if !audit.lost.is_empty() {
            let some = &audit.lost[..audit.lost.len().min(10)];
            self.problem(format!("{} acknowledged events are lost: {some:#?}\n{}", audit.lost.len(), self.portrait()));
        }
        for node in self.mesh.all() {
            let verified = self.mesh[node].cli(&["log", "verify"]);
            if verified.code != Some(exit::OK) {
                self.problem(format!("node {node}: log verify: {}{}", verified.stdout, verified.stderr));
            }
            let status = self.mesh[node].status();
            if !status.healthy() {
                self.problem(format!("node {node} is unhealthy without a fault: {}", status.remarks()));
            }
        }
        println!(
            "{:>4} s: converged in {:.1} s; {} acknowledged, {} excused; on so many nodes so many events: {:?}; {} problems",
            self.started.elapsed().as_secs(),
            start.elapsed().as_secs_f64(),
            audit.acknowledged,
            audit.excused,
            audit.on_nodes,
            self.problems.lock().expect("problems").len(),
        );
    }

    fn is_converged(&self) -> bool {
        let first = self.mesh[0].topics();
        (1..NODES).all(|node| self.mesh[node].topics() == first)
    }

    /// Waits until every follower has what its node holds, and takes their complaints.
    fn check_followers(&self) {
        let start = Instant::now();
        for node in self.mesh.all() {
            let held: u64 = self.mesh[node].topics().values().map(|topic| topic.events).sum();
            let followers = self.followers.lock().expect("followers");
            let follower = &followers[&node];
            while follower.count() < held && start.elapsed() < PATIENCE {
                sleep(Duration::from_millis(100));
            }
            if follower.count() != held {
                self.problem(format!("node {node} holds {held} events and has delivered {}", follower.count()));
            }
            follower.take_faults().into_iter().for_each(|fault| self.problem(fault));
        }
    }

    /// All nodes are stopped or killed at once, and started again.
    fn start_over(&self, dice: &mut Dice) {
        let kill = dice.below(2) == 0;
        self.count(if kill { "kill -9 of all" } else { "restart of all" });
        self.mesh.all().for_each(|node| if kill { self.mesh[node].kill() } else { self.mesh[node].stop() });
        self.mesh.all().for_each(|node| self.mesh[node].start());
        self.publish();
    }

    /// A publisher on each node; half of them wait for peers.
    fn publish(&self) {
        let mut streams = self.streams.lock().expect("streams");
        for node in self.mesh.all() {
            let options: &[&str] = match node % 3 {
                0 => &[],
                1 => &["--acks", "1", "--timeout", "60s"],
                _ => &["--acks", "2", "--timeout", "60s"],
            };
            let prefix = format!("{node}.{}", self.nth());
            let stream = Stream::start(self.mesh.node(node), TOPICS[node % 2], &prefix, EVENTS_PER_S, options);
            streams.insert(node, Tapped { stream, told: 0 });
        }
    }

    /// Tells the ledger what was acknowledged since.
    fn collect(&self) {
        for (node, tapped) in self.streams.lock().expect("streams").iter_mut() {
            let new = tapped.stream.acknowledged_after(tapped.told);
            tapped.told += new.len();
            let mut ledger = self.ledger.lock().expect("ledger");
            new.into_iter().for_each(|id| ledger.acknowledge(id, *node));
        }
    }

    /// Follows all topics of a node from the start.
    fn follow(&self, node: usize) {
        let (ledger, problems, good) = (self.ledger.clone(), self.problems.clone(), self.good_clocks.clone());
        let follower = Follower::start(self.mesh.node(node), "orders.>", move |event| {
            ledger.lock().expect("ledger").deliver(&event.id, node);
            if good.contains(&event.author) && event.days_off() > 0 {
                let mut problems = problems.lock().expect("problems");
                if problems.len() < MAX_DRAGGED {
                    problems.push(format!("a good clock was dragged along: {event:?}"));
                }
            }
        });
        self.followers.lock().expect("followers").insert(node, follower);
    }

    fn stop_following(&self, node: usize) {
        let follower = self.followers.lock().expect("followers").remove(&node);
        let faults = follower.map(Follower::finish).unwrap_or_default();
        faults.into_iter().for_each(|fault| self.problem(fault));
    }

    fn count(&self, fault: &'static str) {
        *self.faults.lock().expect("faults").entry(fault).or_default() += 1;
    }

    fn nth(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn problem(&self, text: String) {
        println!("{:>4} s: PROBLEM: {text}", self.started.elapsed().as_secs());
        self.problems.lock().expect("problems").push(text);
    }

    /// What each node holds, and whom it is linked with.
    fn portrait(&self) -> String {
        let of = |node: usize| {
            format!("node {node}: {:?}\n{}", self.mesh[node].topics(), self.mesh[node].cli(&["peers"]).stdout)
        };
        self.mesh.all().map(of).collect()
    }

    /// Prints what happened, and fails when anything was wrong.
    fn conclude(self) {
        for node in self.mesh.all() {
            let said = self.mesh[node].said();
            // A thread of sled's own panics when its disk is gone. The node ends then, and nothing is acknowledged after it.
            let excused = |line: &&str| node == OWN_DISK && line.contains("/sled-");
            let (of_sled, panics): (Vec<&str>, Vec<&str>) =
                said.lines().filter(|line| line.contains("panicked at")).partition(excused);
            if !of_sled.is_empty() {
                println!("on the disk whose power fails sled panicked {} times", of_sled.len());
            }
            if !panics.is_empty() {
                self.problem(format!("node {node} panicked: {panics:#?}\n{}", self.mesh[node].last_words()));
            }
        }
        let audit = self.ledger.lock().expect("ledger").audit(NODES);
        println!("---- {} minutes, {} checks", self.started.elapsed().as_secs() / 60, self.checks);
        println!("events acknowledged: {}", audit.acknowledged);
        println!("known only to disks that an old copy replaced, and gone: {}", audit.excused);
        println!("longest time to converge: {:.1} s", self.longest_convergence.as_secs_f64());
        for (fault, count) in self.faults.lock().expect("faults").iter() {
            println!("{count:>5}  {fault}");
        }
        println!("minute: most memory of any node in MiB, most open files");
        for (minute, (memory_kib, open_files)) in self.usage.lock().expect("usage").iter() {
            println!("{minute:>4}: {:>4} {open_files:>4}", memory_kib / 1024);
        }
        let problems = std::mem::take(&mut *self.problems.lock().expect("problems"));
        assert!(problems.is_empty(), "{} problems: {problems:#?}", problems.len());
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the homes are kept in {}", self.mesh.keep_homes().display());
        }
    }
}
