//! Metrics as text. The library writes OpenMetrics; who does not ask for that gets the older Prometheus format, which
//! names counters, and not their families, with `_total`.

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper wants that sent this `Accept` header.
    #[must_use]
    pub fn wanted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes what registries hold.
pub(super) fn write(registries: &[&Registry], format: Format) -> String {
    let mut text = String::with_capacity(64 * 1024);
    // A string takes everything.
    for registry in registries {
        let _ = encode_registry(&mut text, registry);
    }
    match format {
        Format::Prometheus => to_prometheus(&text),
        Format::OpenMetrics => {
            let _ = encode_eof(&mut text);
            text
        }
    }
}

/// Renames the families of counters, and leaves out what the older format does not know.
fn to_prometheus(openmetrics: &str) -> String {
    let counters: std::collections::HashSet<&str> =
        openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    for line in openmetrics.lines() {
        let described = |keyword: &str| line.strip_prefix(keyword).and_then(|rest| rest.split_once(' '));
        if line.starts_with("# UNIT ") {
            continue;
        }
        match described("# HELP ").map(|it| ("HELP", it)).or_else(|| described("# TYPE ").map(|it| ("TYPE", it))) {
            Some((keyword, (name, rest))) => {
                let total = if counters.contains(name) { "_total" } else { "" };
                let rest = if rest == "unknown" { "untyped" } else { rest };
                text.push_str(&format!("# {keyword} {name}{total} {rest}\n"));
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Unit;

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let sent = Counter::<u64>::default();
        sent.inc_by(3);
        registry.register("sent", "Things sent", sent);
        registry.register_with_unit("size", "How large", Unit::Bytes, Gauge::<i64>::default());
        registry
    }

    #[test]
    fn counters_are_named_as_the_format_names_them() {
        let text = write(&[&registry()], Format::Prometheus);
        let expected = "# HELP sent_total Things sent.\n# TYPE sent_total counter\nsent_total 3\n\
                        # HELP size_bytes How large.\n# TYPE size_bytes gauge\nsize_bytes 0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn open_metrics_come_to_those_who_ask() {
        let format = Format::wanted(Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
        assert_eq!(format, Format::OpenMetrics);
        let text = write(&[&registry()], format);
        assert!(text.contains("# TYPE sent counter\nsent_total 3\n") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(Format::wanted(Some("*/*")), Format::Prometheus);
        assert_eq!(Format::wanted(None), Format::Prometheus);
    }
}
