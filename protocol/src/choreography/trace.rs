//! What caused what among the events of one instance.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::observed::{MAX_NAMESAKES, Observed};
use super::rank::Rank;
use super::show::{escape_mermaid, quote_dot};
use super::span::format_span;

/// Events of a trace: the first in total order.
pub const MAX_TRACE_EVENTS: usize = 4096;

/// The events of a correlation id, and their causes: a graph without cycles, since only what is earlier in the total
/// order counts as a cause.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    events: Vec<Observed>,
    nodes: Vec<Node>,
    repeats: usize,
    omitted: usize,
}

/// What is known of an event's causes, by numbers of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its causes that are here, in total order.
    pub causes: Vec<usize>,
    /// Events that it caused, in total order.
    pub effects: Vec<usize>,
    /// Ids that it names as causes and that are not here.
    pub missing: Vec<String>,
    /// Ids that it names as causes and that are later in the total order, which no honest author writes.
    pub backwards: Vec<String>,
}

/// A line of the forest: an event below the latest of its causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The event's number.
    pub event: usize,
    /// Causes above it.
    pub depth: usize,
    /// Milliseconds between the latest of its causes and it, by their stamps.
    pub wait_ms: Option<u64>,
}

impl Trace {
    /// The trace of these events, in whatever order they come. A repeat, by source and id, counts once.
    #[must_use]
    pub fn new(events: impl IntoIterator<Item = Observed>) -> Self {
        let mut trace = Self::default();
        let mut sorted = BTreeMap::<Rank, Observed>::new();
        for event in events {
            sorted.insert(event.rank, event);
            if sorted.len() > MAX_TRACE_EVENTS {
                sorted.pop_last();
                trace.omitted += 1;
            }
        }
        let mut names = BTreeSet::new();
        for event in sorted.into_values() {
            match names.insert((event.source.clone(), event.id.clone())) {
                true => trace.events.push(event),
                false => trace.repeats += 1,
            }
        }
        trace.link();
        trace
    }

    /// The trace of a correlation id among these events.
    #[must_use]
    pub fn of(correlation: &str, events: impl IntoIterator<Item = Observed>) -> Self {
        Self::new(events.into_iter().filter(|event| event.correlation.as_deref() == Some(correlation)))
    }

    fn link(&mut self) {
        let mut by_id = BTreeMap::<&str, Vec<usize>>::new();
        for (nth, event) in self.events.iter().enumerate() {
            let namesakes = by_id.entry(&event.id).or_default();
            if namesakes.len() < MAX_NAMESAKES {
                namesakes.push(nth);
            }
        }
        let mut nodes = vec![Node::default(); self.events.len()];
        for (nth, event) in self.events.iter().enumerate() {
            let mut causes = BTreeSet::new();
            for cause in &event.causes {
                match by_id.get(cause.as_str()) {
                    None => nodes[nth].missing.push(cause.clone()),
                    Some(found) if found[0] >= nth => nodes[nth].backwards.push(cause.clone()),
                    Some(found) => causes.extend(found.iter().copied().filter(|cause| *cause < nth)),
                }
            }
            causes.iter().for_each(|cause: &usize| nodes[*cause].effects.push(nth));
            nodes[nth].causes = causes.into_iter().collect();
        }
        self.nodes = nodes;
    }

    /// The events in total order.
    #[must_use]
    pub fn events(&self) -> &[Observed] {
        &self.events
    }

    /// Causes and effects of each.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Repeats that were left out, and events beyond the limit.
    #[must_use]
    pub fn left_out(&self) -> (usize, usize) {
        (self.repeats, self.omitted)
    }

    /// The forest: each event once, below the latest of its causes, siblings in total order.
    #[must_use]
    pub fn forest(&self) -> Vec<Line> {
        let parent = |nth: usize| self.nodes[nth].causes.last().copied();
        let mut lines = Vec::with_capacity(self.events.len());
        let mut open: Vec<(usize, usize)> =
            (0..self.events.len()).filter(|nth| parent(*nth).is_none()).map(|nth| (nth, 0)).collect();
        open.reverse();
        while let Some((event, depth)) = open.pop() {
            let at_ms = self.events[event].at_ms();
            let wait_ms = parent(event).map(|cause| at_ms.saturating_sub(self.events[cause].at_ms()));
            lines.push(Line { event, depth, wait_ms });
            let below = self.nodes[event].effects.iter().rev().filter(|effect| parent(**effect) == Some(event));
            open.extend(below.map(|effect| (*effect, depth + 1)));
        }
        lines
    }

    /// The number of an event by its id: the first that has it.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<usize> {
        self.events.iter().position(|event| event.id == id)
    }

    /// Why an event is: itself and everything that led to it, each once, with the number of causes between; nearest
    /// first, and then in total order. Empty when there is no such event.
    #[must_use]
    pub fn why(&self, id: &str) -> Vec<Line> {
        let Some(first) = self.find(id) else { return Vec::new() };
        let mut reached = BTreeSet::from([first]);
        let mut row = vec![first];
        let mut lines = vec![Line { event: first, depth: 0, wait_ms: None }];
        for depth in 1.. {
            let causes: BTreeSet<usize> = row.iter().flat_map(|nth| &self.nodes[*nth].causes).copied().collect();
            row = causes.into_iter().filter(|cause| reached.insert(*cause)).collect();
            if row.is_empty() {
                break;
            }
            lines.extend(row.iter().map(|event| Line { event: *event, depth, wait_ms: None }));
        }
        lines
    }

    /// Lines as text, indented by depth, with waits, further causes, and causes that are not here.
    #[must_use]
    pub fn text(&self, lines: &[Line]) -> String {
        let mut out = String::new();
        for line in lines {
            let (event, node) = (&self.events[line.event], &self.nodes[line.event]);
            let wait = line.wait_ms.map(|ms| format!("+{} ", format_span(ms))).unwrap_or_default();
            let role = event.role.as_ref().map(|role| format!("{role}: ")).unwrap_or_default();
            // Writing to a text cannot fail, here and below.
            let _ = write!(
                out,
                "{:indent$}{wait}{role}{} ({} of {})",
                "",
                event.kind,
                event.id,
                event.source,
                indent = 2 * line.depth
            );
            let further = node.causes.iter().rev().skip(1).map(|cause| &self.events[*cause].id);
            let notes = [
                ("also after", further.cloned().collect()),
                ("cause missing:", node.missing.clone()),
                ("cause later than itself:", node.backwards.clone()),
            ];
            for (what, ids) in notes.iter().filter(|(_, ids): &&(&str, Vec<String>)| !ids.is_empty()) {
                let _ = write!(out, "; {what} {}", ids.join(", "));
            }
            out.push('\n');
        }
        out
    }

    /// A flowchart for Mermaid.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let mut out = String::from("flowchart TD\n");
        for (nth, event) in self.events.iter().enumerate() {
            let _ =
                writeln!(out, "    e{nth}[\"{}<br>{}\"]", escape_mermaid(&event.kind), escape_mermaid(&event.source));
        }
        for (nth, node) in self.nodes.iter().enumerate() {
            for cause in &node.causes {
                let _ = writeln!(out, "    e{cause} -->|{}| e{nth}", self.format_wait(*cause, nth));
            }
            for (which, missing) in node.missing.iter().enumerate() {
                let _ = writeln!(out, "    m{nth}_{which}([\"{} is missing\"]) -.-> e{nth}", escape_mermaid(missing));
            }
        }
        out
    }

    /// A graph for Graphviz.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut out = String::from("digraph trace {\n    node [shape=box, style=rounded];\n");
        for (nth, event) in self.events.iter().enumerate() {
            let _ = writeln!(out, "    e{nth} [label={}];", quote_dot(&format!("{}\n{}", event.kind, event.source)));
        }
        for (nth, node) in self.nodes.iter().enumerate() {
            for cause in &node.causes {
                let _ = writeln!(out, "    e{cause} -> e{nth} [label={}];", quote_dot(&self.format_wait(*cause, nth)));
            }
            for (which, missing) in node.missing.iter().enumerate() {
                let label = quote_dot(&format!("{missing} is missing"));
                let _ = writeln!(
                    out,
                    "    m{nth}_{which} [label={label}, style=dashed];\n    m{nth}_{which} -> e{nth} [style=dashed];"
                );
            }
        }
        out.push_str("}\n");
        out
    }

    fn format_wait(&self, cause: usize, effect: usize) -> String {
        format_span(self.events[effect].at_ms().saturating_sub(self.events[cause].at_ms()))
    }
}

#[cfg(test)]
mod tests;
