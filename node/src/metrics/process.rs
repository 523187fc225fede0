//! What every Prometheus client tells of its process, under the names that all of them use. From `/proc`, where there
//! is one.

use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The process that this is.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Some(cpu_s) = cpu_seconds() {
            let help = "User and system CPU time spent in seconds.";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(cpu_s).encode(metric)?;
        }
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes.", resident_bytes()),
            ("process_open_fds", "Number of open file descriptors.", count("/proc/self/fd")),
            ("process_threads", "Number of threads.", count("/proc/self/task")),
            ("process_start_time_seconds", "Start time since the Unix epoch in seconds.", started_s()),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

/// Clock ticks a second: Linux tells user programs of a hundred, whatever it counts by itself.
const TICKS_PER_S: f64 = 100.0;

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name that may have spaces, in parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_S)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn count(folder: &str) -> Option<f64> {
    Some(fs::read_dir(folder).ok()?.count() as f64)
}

/// When the first scrape or start looked, less the time that the process had been running by then.
fn started_s() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let since_boot_s =
            stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse::<f64>().ok()? / TICKS_PER_S;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime_s: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some(now_s - uptime_s + since_boot_s)
    })
}
