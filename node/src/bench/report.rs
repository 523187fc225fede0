//! What a benchmark says at its end.

use std::fmt;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Machine, Usage};

/// Processor time of other processes, as a share of our own, beyond which the figures are not to be believed.
const BUSY_SHARE: f64 = 0.2;

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name in JSON, with the unit at its end.
    pub key: String,
    /// Its name for people.
    pub label: String,
    /// The value.
    pub value: f64,
    /// The unit, for people.
    pub unit: &'static str,
}

/// What a benchmark measured, on what, and what it took.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The name and version of the JSON form.
    pub schema: &'static str,
    /// Which benchmark.
    pub benchmark: &'static str,
    /// What it measures, in a sentence.
    pub measures: String,
    /// On what.
    pub machine: Machine,
    /// The results, by their keys.
    #[serde(serialize_with = "as_map")]
    pub results: Vec<Figure>,
    /// What the measured part took of the whole process, all nodes and the load included.
    pub process: Usage,
}

fn as_map<S: Serializer>(figures: &[Figure], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(figures.len()))?;
    for figure in figures {
        map.serialize_entry(&figure.key, &figure.value)?;
    }
    map.end()
}

impl Report {
    pub(super) fn new(benchmark: &'static str, measures: String, home: &Path) -> Self {
        Self {
            schema: "roundelay.bench/v1",
            benchmark,
            measures,
            machine: Machine::here(home),
            results: Vec::new(),
            process: Usage::default(),
        }
    }

    pub(super) fn add(&mut self, key: impl Into<String>, label: impl Into<String>, value: f64, unit: &'static str) {
        self.results.push(Figure { key: key.into(), label: label.into(), value, unit });
    }

    /// Median, 99th percentile and maximum of times in nanoseconds.
    pub(super) fn add_times(&mut self, key: &str, label: &str, times_ns: &Histogram<u64>) {
        for (suffix, ns) in [
            ("p50", times_ns.value_at_quantile(0.5)),
            ("p99", times_ns.value_at_quantile(0.99)),
            ("max", times_ns.max()),
        ] {
            self.add(format!("{key}_{suffix}_us"), format!("{label}, {suffix}"), ns as f64 / 1e3, "µs");
        }
    }

    /// The value of a result.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<f64> {
        self.results.iter().find(|figure| figure.key == key).map(|figure| figure.value)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cores, cpu, memory_mb, file_system, optimised } = &self.machine;
        writeln!(f, "{}: {}", self.benchmark, self.measures)?;
        let built = if *optimised { "" } else { "; built WITHOUT optimisations, so these figures mean little" };
        writeln!(f, "on {cores} cores of {cpu}, {} GB, {file_system}{built}\n", memory_mb.div_ceil(1024))?;
        let width = self.results.iter().map(|figure| figure.label.chars().count()).max().unwrap_or(0).max(24);
        for figure in &self.results {
            writeln!(f, "  {:width$}  {:>14} {}", figure.label, grouped(figure.value), figure.unit)?;
        }
        let Usage { cpu_s, peak_rss_mb, dirtied_mb, threads_cpu_s, others_cpu_s, .. } = &self.process;
        writeln!(f)?;
        writeln!(f, "  {:width$}  {:>14} s", "processor time", grouped(*cpu_s))?;
        let busy = if *others_cpu_s > BUSY_SHARE * cpu_s { "s: TOO BUSY, these figures say little" } else { "s" };
        writeln!(f, "  {:width$}  {:>14} {busy}", "taken by other processes", grouped(*others_cpu_s))?;
        writeln!(f, "  {:width$}  {:>14} MB", "peak resident memory", grouped(*peak_rss_mb))?;
        write!(f, "  {:width$}  {:>14} MB", "pages made dirty", grouped(*dirtied_mb))?;
        let mut threads: Vec<_> =
            threads_cpu_s.iter().filter(|(_, cpu_s)| **cpu_s >= 0.01 * self.process.cpu_s).collect();
        threads.sort_by(|a, b| b.1.total_cmp(a.1));
        for (name, cpu_s) in threads.iter().take(6) {
            write!(f, "\n  {:width$}  {:>14} s", format!("  threads '{name}'"), grouped(**cpu_s))?;
        }
        Ok(())
    }
}

/// A number for people: thousands apart, decimals only where they say something.
fn grouped(value: f64) -> String {
    let decimals = match value.abs() {
        below if below < 10.0 => 2,
        below if below < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, part)| (whole, Some(part)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = sign.to_owned();
    for (nth, digit) in digits.char_indices() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    fraction.map_or(out.clone(), |fraction| format!("{out}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown: Vec<_> = [0.0, 9.876, 123.45, 1234.5, 1_234_567.0, -1500.0].map(grouped).into();
        assert_eq!(shown, ["0.00", "9.88", "123.5", "1,234", "1,234,567", "-1,500"]);
    }
}
