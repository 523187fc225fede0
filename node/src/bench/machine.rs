//! What the process has used, and what it runs on, as Linux tells it. Elsewhere the figures are zero.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::Path;

use serde::Serialize;

/// Clock ticks a second in `/proc`: fixed for programs, whatever the kernel's own.
const TICKS_PER_S: f64 = 100.0;

/// What a benchmark ran on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The processor's name.
    pub cpu: String,
    /// Megabytes of memory.
    pub memory_mb: u64,
    /// The file system of the nodes' homes.
    pub file_system: String,
    /// Whether the program was built with optimisations.
    pub optimised: bool,
}

impl Machine {
    /// This machine; `home` is where the nodes' homes are.
    #[must_use]
    pub fn here(home: &Path) -> Self {
        let cpu = read_to_string("/proc/cpuinfo").ok().and_then(|info| {
            info.lines().find(|line| line.starts_with("model name"))?.split(": ").nth(1).map(str::to_owned)
        });
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu.unwrap_or_default(),
            memory_mb: field_kb("/proc/meminfo", "MemTotal:") / 1024,
            file_system: file_system(home).unwrap_or_default(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// The type of the innermost mount that holds a path.
fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && path.starts_with(fields[1]));
    holding.max_by_key(|fields| fields[1].len()).map(|fields| fields[2].to_owned())
}

/// What a process has used since it started.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Usage {
    /// Seconds of processor time, user and system.
    pub cpu_s: f64,
    /// The most memory that was resident at once, in megabytes.
    pub peak_rss_mb: f64,
    /// Memory that is resident now, in megabytes.
    pub rss_mb: f64,
    /// Megabytes of pages that were made dirty, as the system counts them: it charges whole large pages for small writes,
    /// so this is no measure of what the disk got.
    pub dirtied_mb: f64,
    /// Seconds of processor time that all other processes took meanwhile: what they take, the figures lack.
    pub others_cpu_s: f64,
    /// Seconds of processor time of the whole machine since it started, to tell the others' from.
    #[serde(skip)]
    machine_cpu_s: f64,
    /// Processor seconds by the name of the thread; those of threads that ended are missing.
    pub threads_cpu_s: BTreeMap<String, f64>,
}

impl Usage {
    /// Of this process.
    #[must_use]
    pub fn now() -> Self {
        Self::of("self")
    }

    /// Of a process, by its number.
    #[must_use]
    pub fn of(pid: &str) -> Self {
        let status = format!("/proc/{pid}/status");
        let written: Option<f64> = read_to_string(format!("/proc/{pid}/io"))
            .ok()
            .and_then(|io| io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok());
        let mut threads_cpu_s = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let stat = task.path().join("stat");
            if let Some((name, cpu_s)) = read_to_string(stat).ok().as_deref().and_then(parse_stat) {
                *threads_cpu_s.entry(name).or_insert(0.0) += cpu_s;
            }
        }
        Self {
            cpu_s: read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .as_deref()
                .and_then(parse_stat)
                .map_or(0.0, |s| s.1),
            peak_rss_mb: field_kb(&status, "VmHWM:") as f64 / 1024.0,
            rss_mb: field_kb(&status, "VmRSS:") as f64 / 1024.0,
            dirtied_mb: written.unwrap_or_default() / 1e6,
            others_cpu_s: 0.0,
            machine_cpu_s: machine_cpu_s().unwrap_or_default(),
            threads_cpu_s,
        }
    }

    /// What was used since `before`. Memory stays as it is.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        self.cpu_s -= before.cpu_s;
        self.dirtied_mb -= before.dirtied_mb;
        self.others_cpu_s = (self.machine_cpu_s - before.machine_cpu_s - self.cpu_s).max(0.0);
        for (name, cpu_s) in &mut self.threads_cpu_s {
            *cpu_s -= before.threads_cpu_s.get(name).copied().unwrap_or_default();
        }
        self.threads_cpu_s.retain(|_, cpu_s| *cpu_s > 0.0);
        self
    }
}

/// What all processes have used: user, nice and system time, and that of interrupts and of other guests of the host.
fn machine_cpu_s() -> Option<f64> {
    let stat = read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    Some((ticks.iter().take(8).sum::<f64>() - idle) / TICKS_PER_S)
}

/// The name in a `stat` file, and the seconds of processor time.
fn parse_stat(stat: &str) -> Option<(String, f64)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Some((name.to_owned(), ticks.iter().sum::<f64>() / TICKS_PER_S))
}

fn field_kb(file: &str, name: &str) -> u64 {
    let text = read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}
