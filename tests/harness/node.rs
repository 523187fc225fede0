//! One daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::event::{self, Event, Status, Topic};
use super::http::Http;
use super::lan::{self, Lan};
use super::network::Network;
use super::run::{self, Finished};
use super::{DEADLINE, DEADLINE_ARG, exit, procfs};

/// How long a `sub` waits for one more event before it is taken to be at the end.
const QUIET: &str = "3s";

/// A node: its home folder, its place in the network and, while it runs, its process.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) home: PathBuf,
    site: Site,
    flags: Mutex<Vec<String>>,
    /// A command that its process is started with
    wrapper: Mutex<Vec<String>>,
    child: Mutex<Option<Child>>,
    id: OnceLock<String>,
}

/// Where a node stands, and how others reach it.
pub(crate) enum Site {
    /// On the loopback interface behind a proxy: only the public port is told to others
    Proxied { network: Arc<Network>, station: usize, hidden_port: u16, public_port: u16 },
    /// In a network namespace of its own
    Apart { lan: Arc<Lan>, host: usize },
    /// On this machine's network, listening where its flags say; nothing can come between
    Bare,
}

impl Site {
    pub(crate) fn proxied(network: Arc<Network>) -> Self {
        let (station, hidden_port, public_port) = network.add();
        Self::Proxied { network, station, hidden_port, public_port }
    }

    pub(crate) fn apart(lan: Arc<Lan>) -> Self {
        let host = lan.add();
        Self::Apart { lan, host }
    }
}

impl Node {
    /// A node that was never started, with its home in `folder`.
    pub(crate) fn new(folder: &Path, index: usize, site: Site, flags: Vec<String>) -> Self {
        Self {
            index,
            home: folder.join(index.to_string()),
            site,
            flags: Mutex::new(flags),
            wrapper: Mutex::default(),
            child: Mutex::default(),
            id: OnceLock::new(),
        }
    }

    /// From its next start on it runs through another program, which has to become it, or to leave it the process:
    /// `env`, or `strace -D`.
    pub(crate) fn run_through(&self, wrapper: &[&str]) {
        *self.wrapper.lock().expect("wrapper") = wrapper.iter().map(|part| (*part).to_owned()).collect();
    }

    /// The port that it listens on behind its proxy.
    pub(crate) fn hidden_port(&self) -> u16 {
        match &self.site {
            Site::Proxied { hidden_port, .. } => *hidden_port,
            Site::Apart { .. } | Site::Bare => panic!("node {} is behind no proxy", self.index),
        }
    }

    // ---- its life

    /// Starts it and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&self) {
        let child = self.up().stdout(self.log("out")).stderr(self.log("err")).stdin(Stdio::null()).spawn();
        let child = child.expect("roundelay starts");
        self.tell_pid(Some(child.id()));
        *self.child() = Some(child);
        let start = Instant::now();
        while self.try_status().is_none() {
            let ended = self.child().as_mut().and_then(|child| child.try_wait().expect("wait for a node"));
            assert!(ended.is_none(), "node {} ended with {ended:?}:\n{}", self.index, self.said());
            assert!(start.elapsed() < DEADLINE, "node {} does not answer:\n{}", self.index, self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs it to its end, which it is expected to find by itself.
    #[track_caller]
    pub(crate) fn run_to_its_end(&self) -> Finished {
        run::run(self.up(), String::new(), DEADLINE)
    }

    /// Stops it as an operator does; it must end well.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.stop_within(DEADLINE);
    }

    #[track_caller]
    pub(crate) fn stop_within(&self, limit: Duration) {
        self.signal("TERM");
        let code = run::wait(self.child().as_mut().expect("it runs"), limit);
        assert_eq!(code, Some(Some(exit::OK)), "exit code of node {} after SIGTERM:\n{}", self.index, self.said());
        self.gone();
    }

    /// SIGKILL: no chance to write anything.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().expect("SIGKILL");
            child.wait().expect("it is dead");
        }
        self.gone();
    }

    /// Waits until it ends by itself: its exit code, or none when a signal ended it.
    #[track_caller]
    pub(crate) fn wait_for_its_end(&self) -> Option<i32> {
        let code = run::wait(self.child().as_mut().expect("it runs"), DEADLINE);
        let code = code.unwrap_or_else(|| panic!("node {} goes on:\n{}", self.index, self.said()));
        self.gone();
        code
    }

    /// Stops the process without ending it: connections stay, nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// From its next start on it is told of nobody.
    pub(crate) fn forget_joins(&self) {
        let mut flags = self.flags.lock().expect("flags");
        while let Some(position) = flags.iter().position(|flag| flag == "--join") {
            flags.drain(position..position + 2);
        }
    }

    fn up(&self) -> Command {
        let (mut prefix, addresses) = match &self.site {
            Site::Proxied { hidden_port, public_port, .. } => {
                let address = |port| format!("/ip4/127.0.0.1/tcp/{port}");
                (Vec::new(), vec![("--listen", address(hidden_port)), ("--advertise", address(public_port))])
            }
            Site::Apart { lan, host } => {
                let address = format!("/ip4/{}/tcp/{}", Lan::address(*host), lan::PORT);
                (lan.prefix(*host), vec![("--listen", address)])
            }
            Site::Bare => (Vec::new(), Vec::new()),
        };
        prefix.extend(self.wrapper.lock().expect("wrapper").iter().cloned());
        let mut command = run::roundelay_through(&prefix);
        command.arg("--home").arg(&self.home).args(["up", "--no-mdns", "--name", &format!("node-{}", self.index)]);
        command.args(addresses.iter().flat_map(|(flag, address)| [*flag, address.as_str()]));
        command.args(self.flags.lock().expect("flags").iter());
        command
    }

    fn tell_pid(&self, pid: Option<u32>) {
        if let Site::Proxied { network, station, .. } = &self.site {
            network.set_pid(*station, pid);
        }
    }

    /// Whether its process has ended, though nobody stopped it.
    pub(crate) fn has_ended(&self) -> bool {
        self.child().as_mut().is_some_and(|child| child.try_wait().expect("wait for a node").is_some())
    }

    /// The memory that its process holds, in KiB; 0 while there is none.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.pid().and_then(procfs::memory_bytes).map_or(0, |(resident, _)| resident / 1024)
    }

    /// How many files and sockets its process has open.
    pub(crate) fn open_files(&self) -> usize {
        self.pid().map_or(0, procfs::open_files)
    }

    /// The id of its process, while there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    fn signal(&self, name: &str) {
        let pid = self.child().as_ref().expect("it runs").id();
        let status = Command::new("sh").arg("-c").arg(format!("kill -s {name} {pid}")).status().expect("sh");
        assert!(status.success(), "SIG{name} for {pid}");
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("the process of a node")
    }

    fn gone(&self) {
        *self.child() = None;
        self.tell_pid(None);
    }

    /// The memory that its process holds, and the most that it ever held, in bytes.
    #[track_caller]
    pub(crate) fn memory_bytes(&self) -> (u64, u64) {
        let pid = self.child().as_ref().expect("it runs").id();
        procfs::memory_bytes(pid).expect("its memory")
    }

    /// The CPU time that its process has taken, in seconds.
    #[track_caller]
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let pid = self.child().as_ref().expect("it runs").id();
        procfs::cpu_seconds(pid)
    }

    // ---- what it prints

    /// Everything that it has printed on stdout.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.home.with_extension("out")).unwrap_or_default()
    }

    /// Everything that it has said on stderr, and what background commands on it have.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.home.with_extension("err")).unwrap_or_default()
    }

    /// The end of what it has said.
    pub(crate) fn last_words(&self) -> String {
        run::tail(&self.said())
    }

    pub(crate) fn log(&self, extension: &str) -> File {
        let path = self.home.with_extension(extension);
        OpenOptions::new().create(true).append(true).open(path).expect("a log file")
    }

    // ---- its API

    /// A client of its API, over the socket in its home.
    pub(crate) fn http(&self) -> Http {
        Http::over_socket(&self.home)
    }

    // ---- the command line

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = run::roundelay(["--home"]);
        command.arg(&self.home).args(args);
        command
    }

    /// Runs a command on this node, whatever comes of it.
    #[track_caller]
    pub(crate) fn cli(&self, args: &[&str]) -> Finished {
        self.cli_with_input(args, String::new())
    }

    #[track_caller]
    pub(crate) fn cli_with_input(&self, args: &[&str], input: String) -> Finished {
        run::run(self.command(args), input, 3 * DEADLINE)
    }

    /// Publishes one event and returns its id.
    #[track_caller]
    pub(crate) fn publish(&self, topic: &str, data: &str) -> String {
        let done = self.cli(&["pub", topic, data, "--json"]).expect(exit::OK);
        done.stdout.lines().find_map(event::acknowledged_id).expect("the id of what was published")
    }

    /// Publishes an event a line, pipelined, and returns the ids.
    #[track_caller]
    pub(crate) fn publish_lines(&self, topic: &str, lines: &[String]) -> Vec<String> {
        let args = ["pub", topic, "-", "--send-on", "newline", "--json"];
        let done = self.cli_with_input(&args, lines.join("\n") + "\n").expect(exit::OK);
        let ids: Vec<String> = done.stdout.lines().filter_map(event::acknowledged_id).collect();
        assert_eq!(ids.len(), lines.len(), "acknowledged ids of {topic}:\n{}", done.stderr);
        ids
    }

    /// Every event of a topic or pattern that this node holds, in the order in which a subscription delivers them.
    #[track_caller]
    pub(crate) fn events(&self, pattern: &str) -> Vec<Event> {
        let done = self.cli(&["sub", pattern, "--from", "start", "--wait", QUIET, "--json"]).expect(exit::TIMED_OUT);
        done.stdout.lines().map(Event::parse).collect()
    }

    /// The ids of all events of a topic or pattern in its store, read without the daemon, which must not run.
    #[track_caller]
    pub(crate) fn exported(&self, pattern: &str) -> BTreeSet<String> {
        let done = self.cli(&["log", "export", pattern]).expect(exit::OK);
        event::ids(&done.stdout.lines().map(Event::parse).collect::<Vec<_>>())
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("node {} does not answer:\n{}", self.index, self.said()))
    }

    fn try_status(&self) -> Option<Status> {
        let done = self.cli(&["status", "--json"]);
        let status = Status::parse(&done.stdout)?;
        let code = if status.healthy() { exit::OK } else { exit::UNHEALTHY };
        assert_eq!(done.code, Some(code), "exit code of status, which says:\n{}", done.stdout);
        Some(status)
    }

    pub(crate) fn topics(&self) -> BTreeMap<String, Topic> {
        self.status().topics()
    }

    /// How many events of a topic it holds.
    pub(crate) fn count(&self, topic: &str) -> u64 {
        self.topics().get(topic).map_or(0, |topic| topic.events)
    }

    #[track_caller]
    pub(crate) fn digest(&self, topic: &str) -> String {
        let topics = self.topics();
        topics.get(topic).unwrap_or_else(|| panic!("node {} has no {topic}", self.index)).digest.clone()
    }

    /// Its peer id; it must have run.
    #[track_caller]
    pub(crate) fn id(&self) -> &str {
        self.id.get_or_init(|| self.status().id().to_owned())
    }

    /// What to give to another node's `--join`.
    #[track_caller]
    pub(crate) fn address(&self) -> String {
        match &self.site {
            Site::Proxied { public_port, .. } => format!("/ip4/127.0.0.1/tcp/{public_port}/p2p/{}", self.id()),
            Site::Apart { host, .. } => format!("/ip4/{}/tcp/{}/p2p/{}", Lan::address(*host), lan::PORT, self.id()),
            Site::Bare => self.status().listen().into_iter().next().expect("it listens"),
        }
    }

    pub(crate) fn is_connected_to(&self, other: &Node) -> bool {
        self.status().peers().contains(other.id())
    }

    /// Every hash, link and signature of its log is right.
    #[track_caller]
    pub(crate) fn verify(&self) {
        self.cli(&["log", "verify", "--timeout", DEADLINE_ARG]).expect(exit::OK);
    }

    // ---- its home

    /// The one file of its home whose name has `part` in it.
    #[track_caller]
    pub(crate) fn file(&self, part: &str) -> PathBuf {
        let entries = fs::read_dir(&self.home).expect("a home").flatten().map(|entry| entry.path());
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part));
        entries.filter(named).find(|path| path.is_file()).unwrap_or_else(|| panic!("no {part} in the home"))
    }

    /// Replaces its home by a copy of another folder.
    pub(crate) fn restore_home(&self, from: &Path) {
        drop(fs::remove_dir_all(&self.home));
        copy_folder(from, &self.home);
    }

    /// A copy of its home as it is now.
    pub(crate) fn copy_home(&self, name: &str) -> PathBuf {
        let copy = self.home.with_extension(name);
        copy_folder(&self.home, &copy);
        copy
    }

    // ---- its end

    /// Kills it whatever happened, and says what it said last when a test fails. Publishers and followers may keep the
    /// node itself for longer.
    pub(crate) fn end(&self) {
        // A poisoned lock must not keep the process alive.
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(mut child) = child.take() {
            drop((child.kill(), child.wait()));
        }
        if std::thread::panicking() {
            println!("---- the last that node {} said ----\n{}\n", self.index, run::tail(&self.said()));
        }
    }
}

/// Copies files and folders with their permissions; sockets stay behind.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder to copy to");
    fs::set_permissions(to, fs::metadata(from).expect("a folder to copy").permissions()).expect("its permissions");
    for entry in fs::read_dir(from).expect("a folder to copy").flatten() {
        let (kind, target) = (entry.file_type().expect("a kind of file"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            match fs::copy(entry.path(), target) {
                // A store that is in use removes files.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => drop(copied.expect("copy a file")),
            }
        }
    }
}
