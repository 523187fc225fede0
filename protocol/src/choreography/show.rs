//! Declarations as pictures: Mermaid, DOT and plain text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::declaration::{Arrow, Declaration};
use super::span::format_span;

/// A state diagram for Mermaid.
#[must_use]
pub fn mermaid(declaration: &Declaration) -> String {
    let ids = number(declaration);
    let id = |state: &str| ids.get(state).copied().unwrap_or_default();
    let mut out = String::from("stateDiagram-v2\n");
    for (name, nth) in &ids {
        // Writing to a text cannot fail, here and below.
        let _ = writeln!(out, "    state \"{}\" as s{nth}", escape_mermaid(name));
    }
    let _ = writeln!(out, "    [*] --> s{}", id(declaration.start()));
    for arrow in declaration.arrows() {
        let label = escape_mermaid(&label(declaration, &arrow));
        let _ = writeln!(out, "    s{} --> s{}: {label}", id(arrow.from), id(arrow.to));
    }
    for (name, state) in declaration.states() {
        if let Some(end) = state.end {
            let _ = writeln!(out, "    s{} --> [*]: {end}", id(name));
        }
    }
    out
}

/// A graph for Graphviz.
#[must_use]
pub fn dot(declaration: &Declaration) -> String {
    let mut out = format!(
        "digraph {} {{\n    rankdir=LR;\n    node [shape=box, style=rounded];\n",
        quote_dot(declaration.name())
    );
    for (name, state) in declaration.states() {
        let form = match (state.end, name == declaration.start()) {
            (Some(_), _) => " [peripheries=2]",
            (None, true) => " [style=bold]",
            (None, false) => "",
        };
        let _ = writeln!(out, "    {}{form};", quote_dot(name));
    }
    for arrow in declaration.arrows() {
        let style = if arrow.after_ms.is_some() { ", style=dashed" } else { "" };
        let label = quote_dot(&label(declaration, &arrow));
        let _ = writeln!(out, "    {} -> {} [label={label}{style}];", quote_dot(arrow.from), quote_dot(arrow.to));
    }
    out.push_str("}\n");
    out
}

/// A listing for people.
#[must_use]
pub fn text(declaration: &Declaration) -> String {
    let mut out = format!("{} {}\n\nroles\n", declaration.name(), declaration.version());
    for (name, role) in declaration.roles() {
        let list = |kinds: Vec<&str>| if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
        let emits = declaration.events().iter().filter(|(_, event)| event.by == *name).map(|(kind, _)| kind.as_str());
        let _ = writeln!(out, "  {name}\n    emits  {}", list(emits.collect()));
        let _ = writeln!(out, "    sees   {}", list(role.sees.iter().map(String::as_str).collect()));
        if !role.sources.is_empty() {
            let _ = writeln!(out, "    is     {}", list(role.sources.iter().map(String::as_str).collect()));
        }
        for node in &role.nodes {
            let _ = writeln!(out, "    at     {}", node.peer_id());
        }
    }
    out.push_str("\nstates\n");
    for (name, state) in declaration.states() {
        let mark = match state.end {
            Some(end) => format!(" (end in {end})"),
            None if name == declaration.start() => " (start)".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(out, "  {name}{mark}");
        for arrow in declaration.arrows().filter(|arrow| arrow.from == name) {
            let back = if arrow.is_loop { " (loop)" } else { "" };
            let _ = writeln!(out, "    {} -> {}{back}", label(declaration, &arrow), arrow.to);
        }
    }
    let effects: Vec<_> = declaration.events().iter().filter(|(_, event)| event.effect).collect();
    if !effects.is_empty() {
        out.push_str("\neffects\n");
    }
    for (kind, event) in effects {
        let _ = match &event.compensation {
            Some(compensation) => writeln!(out, "  {kind}, undone by {compensation}"),
            None => writeln!(out, "  {kind}, for good"),
        };
    }
    out
}

/// `role: type`, and the span of a deadline.
fn label(declaration: &Declaration, arrow: &Arrow) -> String {
    let by = declaration.emitter(arrow.kind).unwrap_or_default();
    match arrow.after_ms {
        Some(after_ms) => format!("after {} {by}: {}", format_span(after_ms), arrow.kind),
        None => format!("{by}: {}", arrow.kind),
    }
}

fn number(declaration: &Declaration) -> BTreeMap<&str, usize> {
    declaration.states().keys().enumerate().map(|(nth, name)| (name.as_str(), nth)).collect()
}

/// A text inside a Mermaid picture: what could mean something there as a code of its character.
pub(super) fn escape_mermaid(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '.' | '-' | '_' | '/' | ',' | '+' | '(' | ')') {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}

/// A quoted text for DOT.
pub(super) fn quote_dot(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
