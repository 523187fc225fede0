//! Network namespaces, one a node, joined by a bridge: real packets that are really lost, and links that are really slow.
//!
//! Needs root. Names carry the number of this process, so that several can run at once; what a killed one left behind is
//! removed by the next.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::run;

const PREFIX: &str = "faults-";
/// The hosts of every LAN have the same addresses: no two LANs are connected.
const SUBNET: &str = "10.77.0";
/// Where nodes listen: each is alone in its namespace.
pub(crate) const PORT: u16 = 4001;

/// A bridge in a namespace of its own, and hosts on it.
pub(crate) struct Lan {
    name: String,
    hosts: Mutex<Vec<Weather>>,
}

/// What happens to packets on their way into one host.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// Hosts whose packets vanish
    deaf_to: BTreeSet<usize>,
    lost_percent: u8,
}

impl Lan {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_abandoned();
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lan = Self { name, hosts: Mutex::default() };
        let hub = lan.hub();
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link add bridge type bridge"));
        ip(&format!("-n {hub} link set bridge up"));
        lan
    }

    /// One more host; returns its number.
    pub(crate) fn add(&self) -> usize {
        let mut hosts = self.hosts.lock().expect("hosts");
        let index = hosts.len();
        let (hub, host, port) = (self.hub(), self.namespace(index), Self::port(index));
        ip(&format!("netns add {host}"));
        ip(&format!("-n {hub} link add {port} type veth peer name eth0 netns {host}"));
        ip(&format!("-n {hub} link set {port} master bridge up"));
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {host} address add {}/24 dev eth0", Self::address(index)));
        ip(&format!("-n {host} link set eth0 up"));
        hosts.push(Weather::default());
        index
    }

    /// The IPv4 address of a host.
    pub(crate) fn address(index: usize) -> String {
        format!("{SUBNET}.{}", index + 1)
    }

    /// What to put before a command so that it runs on a host. `ip netns exec` would give it mounts of its own, too, in
    /// which a disk that is unmounted here stays.
    pub(crate) fn prefix(&self, index: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace(index))]
    }

    /// Lets the packets between hosts of different groups vanish; nobody is told. Other cuts stay.
    pub(crate) fn partition(&self, groups: &[&[usize]]) {
        let mut hosts = self.hosts.lock().expect("hosts");
        for (position, group) in groups.iter().enumerate() {
            for (a, b) in groups[position + 1..].iter().flat_map(|other| pairs(group, other)) {
                hosts[a].deaf_to.insert(b);
                hosts[b].deaf_to.insert(a);
            }
        }
        self.apply(&hosts);
    }

    /// Lets all hosts hear each other; losses and limits stay.
    pub(crate) fn heal(&self) {
        let mut hosts = self.hosts.lock().expect("hosts");
        hosts.iter_mut().for_each(|host| host.deaf_to.clear());
        self.apply(&hosts);
    }

    /// Loses so many of a hundred packets on their way into a host, at random.
    pub(crate) fn lose(&self, index: usize, percent: u8) {
        let mut hosts = self.hosts.lock().expect("hosts");
        hosts[index].lost_percent = percent;
        self.apply(&hosts);
    }

    /// Lets so many kilobits a second in and out of a host; None is as many as there are.
    pub(crate) fn limit(&self, index: usize, kbit_per_s: Option<u32>) {
        for (namespace, device) in [(self.namespace(index), "eth0".to_owned()), (self.hub(), Self::port(index))] {
            match kbit_per_s {
                Some(rate) => tc(&format!(
                    "-n {namespace} qdisc replace dev {device} root tbf rate {rate}kbit burst 4kb latency 400ms"
                )),
                // There may be none.
                None => {
                    drop(Command::new("tc").args(["-n", &namespace, "qdisc", "del", "dev", &device, "root"]).output())
                }
            }
        }
    }

    /// Removes all of it: nothing runs on its hosts any more.
    pub(crate) fn remove(&self) {
        let hosts = self.hosts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len();
        (0..hosts).map(|index| self.namespace(index)).chain([self.hub()]).for_each(|name| remove(&name));
    }

    fn apply(&self, hosts: &[Weather]) {
        for (index, weather) in hosts.iter().enumerate() {
            let mut rules =
                String::from("flush ruleset\ntable ip faults { chain input { type filter hook input priority 0;\n");
            for other in &weather.deaf_to {
                let _ = writeln!(rules, "ip saddr {} drop", Self::address(*other));
            }
            if weather.lost_percent > 0 {
                let _ = writeln!(rules, "iifname \"eth0\" numgen random mod 100 < {} drop", weather.lost_percent);
            }
            rules.push_str("}\n}\n");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.namespace(index), "nft", "-f", "-"]);
            run::run(command, rules, super::DEADLINE).expect(super::exit::OK);
        }
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    /// A host's end in the hub.
    fn port(index: usize) -> String {
        format!("port{index}")
    }
}

fn pairs<'a>(a: &'a [usize], b: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    a.iter().flat_map(|a| b.iter().map(|b| (*a, *b)))
}

/// Removes the namespaces of test processes that are no more.
fn remove_abandoned() {
    static ONCE: Mutex<bool> = Mutex::new(false);
    let mut done = ONCE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if std::mem::replace(&mut *done, true) {
        return;
    }
    let Ok(names) = fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// Its devices and rules go with it.
fn remove(namespace: &str) {
    drop(Command::new("ip").args(["netns", "delete", namespace]).output());
}

#[track_caller]
fn ip(args: &str) {
    tool("ip", args);
}

#[track_caller]
fn tc(args: &str) {
    tool("tc", args);
}

#[track_caller]
fn tool(program: &str, args: &str) {
    let output = Command::new(program).args(args.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
}
