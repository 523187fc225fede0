//! Where settings come from: the defaults, variables and flags, and the names of the file.

use std::path::Path;

use config::{Map, Source, Value, ValueKind};
use roundelay_protocol::quota::LogLimits;

use super::{ConfigError, Kind, Options, SETTINGS};
use crate::node::{DEFAULT_DEDUP_WINDOW, DEFAULT_MESH};

pub(super) const DEFAULTS_PLACE: &str = "the defaults";

/// Values from one place, each with where exactly it comes from. The file's values have no origin of their own.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer(Map<String, Value>);

impl Layer {
    fn set(&mut self, setting: &str, origin: &str, value: impl Into<ValueKind>) {
        self.0.insert(setting.to_owned(), Value::new(Some(&origin.to_owned()), value));
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

pub(super) fn default_layer() -> Layer {
    let mut layer = Layer::default();
    for (setting, value) in
        [("name", ""), ("mesh", DEFAULT_MESH), ("mesh_key_file", ""), ("store.cap", ""), ("api.listen", "")]
    {
        layer.set(setting, DEFAULTS_PLACE, value);
    }
    for (setting, value) in
        [("listen", vec![]), ("join", vec![]), ("advertise", vec![]), ("topics", vec![">"]), ("api.hosts", vec![])]
    {
        layer.set(setting, DEFAULTS_PLACE, value);
    }
    layer.set("publish.dedup_window", DEFAULTS_PLACE, format!("{} s", DEFAULT_DEDUP_WINDOW.as_secs()));
    layer.set("heartbeat", DEFAULTS_PLACE, "0s");
    layer.set("mdns", DEFAULTS_PLACE, true);
    layer.set("api.open_metrics", DEFAULTS_PLACE, false);
    layer.set("min_links", DEFAULTS_PLACE, 5_i64);
    layer.set("max_links", DEFAULTS_PLACE, 128_i64);
    let limits = LogLimits::default();
    let counts = [("logs", limits.total), ("logs_per_author", limits.per_author), ("logs_per_topic", limits.per_topic)];
    for (name, count) in counts {
        layer.set(&format!("limits.{name}"), DEFAULTS_PLACE, count as i64);
    }
    layer
}

pub(super) fn environment_layer(variable: impl Fn(&str) -> Option<String>) -> Layer {
    let mut layer = Layer::default();
    for (setting, kind) in SETTINGS {
        let name = format!("ROUNDELAY_{}", setting.replace('.', "_").to_uppercase());
        match variable(&name) {
            Some(text) if kind == Kind::List && !text.is_empty() => {
                let parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
                layer.set(setting, &name, parts);
            }
            Some(text) if !text.is_empty() => layer.set(setting, &name, text),
            _ => {}
        }
    }
    layer
}

pub(super) fn flag_layer(options: &Options) -> Layer {
    let mut layer = Layer::default();
    let key_file = options.mesh_key_file.as_ref().map(|path| {
        // The working folder of the next start may be another.
        std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
    });
    let ones = [
        ("name", "--name", options.name.clone()),
        ("mesh", "--mesh", options.mesh.clone()),
        ("mesh_key_file", "--mesh-key", key_file),
        ("store.cap", "--store-cap", options.store_cap.clone()),
        ("api.listen", "--api", options.api.clone()),
        ("heartbeat", "--heartbeat", options.heartbeat.clone()),
    ];
    for (setting, flag, value) in ones {
        value.into_iter().for_each(|value| layer.set(setting, flag, value));
    }
    let lists = [
        ("listen", "--listen", &options.listen),
        ("join", "--join", &options.join),
        ("advertise", "--advertise", &options.advertise),
        ("topics", "--topic", &options.topics),
    ];
    for (setting, flag, values) in lists.into_iter().filter(|(_, _, values)| !values.is_empty()) {
        layer.set(setting, flag, values.clone());
    }
    if options.no_mdns {
        layer.set("mdns", "--no-mdns", false);
    }
    layer
}

/// Brings nested tables to dotted names and refuses those that are not settings.
pub(super) fn flatten(root: &Value, path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let mut found = Map::new();
    let mut open = vec![(String::new(), root.clone())];
    while let Some((name, value)) = open.pop() {
        let inner = format!("{name}.");
        let is_group = name.is_empty() || SETTINGS.iter().any(|(setting, _)| setting.starts_with(&inner));
        match value.kind {
            ValueKind::Table(table) if is_group => {
                let prefix = if name.is_empty() { String::new() } else { inner };
                open.extend(table.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
            }
            _ if SETTINGS.iter().any(|(setting, _)| *setting == name) => drop(found.insert(name, value)),
            _ => return Err(ConfigError::Unknown { place: place_of(&value, path), name }),
        }
    }
    Ok(found)
}

pub(super) fn place_of(value: &Value, path: &Path) -> String {
    value.origin().map_or_else(|| path.display().to_string(), str::to_owned)
}
