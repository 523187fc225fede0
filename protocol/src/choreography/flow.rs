//! Who reacts to what: the edges between types of events and those who emit them, as they are seen, how many, how often
//! and how fast, and how they differ from what is declared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use hdrhistogram::Histogram;

use super::declaration::Declaration;
use super::observed::{MAX_NAMESAKES, Observed};
use super::show::{escape_mermaid, quote_dot};
use super::span::format_span;

/// Events that a flow is made of; further ones are left out.
pub const MAX_FLOW_EVENTS: usize = 1_000_000;
/// Edges of a flow; what would make further ones is counted.
pub const MAX_EDGES: usize = 1024;

/// A type of events, and who emits it: the role where it is known, or else the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Station {
    /// The type.
    pub kind: String,
    /// The role or source.
    pub who: String,
}

/// What is known of an edge.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Events that have a cause over this edge.
    pub count: u64,
    /// Milliseconds from cause to effect, by their stamps, with two digits.
    pub latency_ms: Histogram<u32>,
}

/// The flow of some events.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    edges: BTreeMap<(Station, Station), Edge>,
    stations: BTreeMap<Station, u64>,
    span_ms: Option<(u64, u64)>,
    /// Causes that are not among the events.
    missing_causes: u64,
    /// Edges, and events, beyond the limits.
    omitted: u64,
}

/// How what is seen differs from what is declared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Edges between types that were seen and are not declared, and how often.
    pub undeclared: BTreeMap<(String, String), u64>,
    /// Edges between types that are declared and were not seen, although there were events of both types: whoever emitted the
    /// second did not name the first.
    pub unseen: BTreeSet<(String, String)>,
    /// Types that are declared and of which there was no event.
    pub absent: BTreeSet<String>,
}

impl Flow {
    /// The flow of these events, in whatever order they come. The declaration tells which role has a source.
    #[must_use]
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Observed>, declaration: Option<&Declaration>) -> Self {
        let mut flow = Self::default();
        let mut kept = BTreeMap::new();
        for event in events {
            if kept.len() < MAX_FLOW_EVENTS {
                // Of a repeat, the first in total order counts.
                let first = kept.entry((&*event.id, &*event.source)).or_insert(event);
                if event.rank < first.rank {
                    *first = event;
                }
            } else {
                flow.omitted += 1;
            }
        }
        for event in kept.values() {
            let station = station(event, declaration);
            let at_ms = event.at_ms();
            let (from, to) = flow.span_ms.unwrap_or((at_ms, at_ms));
            flow.span_ms = Some((from.min(at_ms), to.max(at_ms)));
            for cause in &event.causes {
                let mut found =
                    kept.range((&**cause, "")..).take_while(|((id, _), _)| *id == cause).take(MAX_NAMESAKES).peekable();
                flow.missing_causes += u64::from(found.peek().is_none());
                found.for_each(|(_, cause)| {
                    flow.add_edge(self::station(cause, declaration), &station, at_ms.saturating_sub(cause.at_ms()));
                });
            }
            if flow.stations.len() < MAX_EDGES || flow.stations.contains_key(&station) {
                *flow.stations.entry(station).or_default() += 1;
            }
        }
        flow
    }

    fn add_edge(&mut self, from: Station, to: &Station, latency_ms: u64) {
        let key = (from, to.clone());
        if !self.edges.contains_key(&key) {
            if self.edges.len() >= MAX_EDGES {
                self.omitted += 1;
                return;
            }
            // Two digits are a precision that exists, so that this cannot fail.
            let Ok(latency_ms) = Histogram::new(2) else { return };
            self.edges.insert(key.clone(), Edge { count: 0, latency_ms });
        }
        if let Some(edge) = self.edges.get_mut(&key) {
            edge.count += 1;
            // It grows with the values, so that this cannot fail; `saturating_record` would take the greatest so far instead.
            let _ = edge.latency_ms.record(latency_ms);
        }
    }

    /// Edges from cause to effect.
    #[must_use]
    pub fn edges(&self) -> &BTreeMap<(Station, Station), Edge> {
        &self.edges
    }

    /// How many events each station emitted.
    #[must_use]
    pub fn stations(&self) -> &BTreeMap<Station, u64> {
        &self.stations
    }

    /// Causes that are not among the events; and edges and events beyond the limits.
    #[must_use]
    pub fn left_out(&self) -> (u64, u64) {
        (self.missing_causes, self.omitted)
    }

    /// The first and the last stamp, in milliseconds since 1970.
    #[must_use]
    pub fn span_ms(&self) -> Option<(u64, u64)> {
        self.span_ms
    }

    /// How many a second, over the time from the first to the last event. `None` when that is no time.
    #[must_use]
    pub fn per_second(&self, count: u64) -> Option<f64> {
        let (from, to) = self.span_ms.filter(|(from, to)| from < to)?;
        Some(count as f64 * 1000.0 / (to - from) as f64)
    }

    /// How it differs from a declaration, by types.
    #[must_use]
    pub fn compare(&self, declaration: &Declaration) -> Difference {
        let declared = declared_edges(declaration);
        let mut seen = BTreeMap::<_, u64>::new();
        for ((from, to), edge) in &self.edges {
            *seen.entry((from.kind.clone(), to.kind.clone())).or_default() += edge.count;
        }
        let present: BTreeSet<&str> = self.stations.keys().map(|station| &*station.kind).collect();
        let is_present = |kind: &String| present.contains(kind.as_str());
        let is_unseen =
            |edge: &&(String, String)| is_present(&edge.0) && is_present(&edge.1) && !seen.contains_key(*edge);
        let unseen = declared.iter().filter(is_unseen).cloned().collect();
        let absent = declaration.events().keys().filter(|kind| !is_present(kind)).cloned().collect();
        seen.retain(|edge, _| !declared.contains(edge));
        Difference { undeclared: seen, unseen, absent }
    }

    /// A table for people: one line an edge, with its count, rate and latencies.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for ((from, to), edge) in &self.edges {
            let rate = self.per_second(edge.count).map(|rate| format!(", {rate:.3}/s")).unwrap_or_default();
            let latency = |quantile| format_span(edge.latency_ms.value_at_quantile(quantile));
            // Writing to a text cannot fail, here and below.
            let _ = writeln!(
                out,
                "{} ({}) -> {} ({}): {}{rate}, p50 {}, p90 {}, p99 {}, max {}",
                from.kind,
                from.who,
                to.kind,
                to.who,
                edge.count,
                latency(0.5),
                latency(0.9),
                latency(0.99),
                latency(1.0)
            );
        }
        let (missing, omitted) = self.left_out();
        let lines = [
            (missing, "cause is missing", "causes are missing"),
            (omitted, "event or edge is beyond the limits", "events and edges are beyond the limits"),
        ];
        for (count, one, several) in lines.into_iter().filter(|(count, ..)| *count > 0) {
            let _ = writeln!(out, "{count} {}", if count == 1 { one } else { several });
        }
        out
    }

    /// A flowchart for Mermaid.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let ids = self.number();
        let mut out = String::from("flowchart LR\n");
        for (station, nth) in &ids {
            let _ =
                writeln!(out, "    n{nth}[\"{}<br>{}\"]", escape_mermaid(&station.kind), escape_mermaid(&station.who));
        }
        for ((from, to), edge) in &self.edges {
            let median = format_span(edge.latency_ms.value_at_quantile(0.5));
            let _ = writeln!(out, "    n{} -->|{} in {median}| n{}", ids[from], edge.count, ids[to]);
        }
        out
    }

    /// A graph for Graphviz.
    #[must_use]
    pub fn dot(&self) -> String {
        let ids = self.number();
        let mut out = String::from("digraph flow {\n    rankdir=LR;\n    node [shape=box, style=rounded];\n");
        for (station, nth) in &ids {
            let _ = writeln!(out, "    n{nth} [label={}];", quote_dot(&format!("{}\n{}", station.kind, station.who)));
        }
        for ((from, to), edge) in &self.edges {
            let median = format_span(edge.latency_ms.value_at_quantile(0.5));
            let label = quote_dot(&format!("{} in {median}", edge.count));
            let _ = writeln!(out, "    n{} -> n{} [label={label}];", ids[from], ids[to]);
        }
        out.push_str("}\n");
        out
    }

    fn number(&self) -> BTreeMap<&Station, usize> {
        let stations: BTreeSet<&Station> =
            self.edges.keys().flat_map(|(from, to)| [from, to]).chain(self.stations.keys()).collect();
        stations.into_iter().enumerate().map(|(nth, station)| (station, nth)).collect()
    }
}

/// From each type to those that are possible in the state that it leads to.
#[must_use]
pub fn declared_edges(declaration: &Declaration) -> BTreeSet<(String, String)> {
    let after = |state: &str| declaration.states().get(state).into_iter().flat_map(|state| state.possible());
    let edges = declaration
        .arrows()
        .flat_map(|arrow| after(arrow.to).map(move |next| (arrow.kind.to_owned(), next.to_owned())));
    edges.collect()
}

fn station(event: &Observed, declaration: Option<&Declaration>) -> Station {
    let known = || declaration.and_then(|declaration| declaration.role_of_source(&event.source));
    let who = event.role.as_deref().or_else(known).unwrap_or(&event.source);
    Station { kind: event.kind.clone(), who: who.to_owned() }
}

#[cfg(test)]
mod tests;
