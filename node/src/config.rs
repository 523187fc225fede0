//! A node's settings, in layers: defaults, the file in the home, `ROUNDELAY_*` variables, flags. Later ones win, and a
//! list replaces a list. The file is written, with comments, once the first start has succeeded.

mod addresses;
mod layers;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use config::{Config, FileFormat, Map, Value};
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::topic::Pattern;

use crate::api::tcp::TcpOptions;
use crate::home::Home;
use crate::identity::{self, KeyError};
use crate::node::NodeConfig;
use crate::units::{format_bytes, parse_bytes, parse_duration};

use addresses::free_address;
pub(crate) use addresses::{parse_address, parse_api_address};
use layers::{DEFAULTS_PLACE, default_layer, environment_layer, flag_layer, flatten, place_of};

const MAX_NAME_BYTES: usize = 64;
const MAX_LINKS: u64 = 1000;
/// The store numbers logs in 32 bits; long before, memory is at its end.
const MAX_LOGS: u64 = 100_000_000;
const MAX_ADDRESSES: usize = 64;
/// The store's cap unless it is set: this share of the disk, and at most so many bytes.
const DISK_SHARE: u64 = 10;
const MAX_DEFAULT_CAP_BYTES: u64 = 10 << 30;
/// Below this a store could hardly hold the batches that are underway.
const MIN_CAP_BYTES: u64 = 16 << 20;
/// More heartbeats than that are no use to anybody.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// And fewer, neither.
const MAX_HEARTBEAT: Duration = Duration::from_secs(3600);

/// Every setting: its name in the file, and how it is written in a variable.
const SETTINGS: [(&str, Kind); 19] = [
    ("name", Kind::One),
    ("mesh", Kind::One),
    ("mesh_key_file", Kind::One),
    ("listen", Kind::List),
    ("join", Kind::List),
    ("advertise", Kind::List),
    ("topics", Kind::List),
    ("mdns", Kind::One),
    ("min_links", Kind::One),
    ("max_links", Kind::One),
    ("store.cap", Kind::One),
    ("publish.dedup_window", Kind::One),
    ("heartbeat", Kind::One),
    ("limits.logs", Kind::One),
    ("limits.logs_per_author", Kind::One),
    ("limits.logs_per_topic", Kind::One),
    ("api.listen", Kind::One),
    ("api.hosts", Kind::List),
    ("api.open_metrics", Kind::One),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    One,
    /// Separated by commas.
    List,
}

/// Why the settings cannot be used. The node has not started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("cannot use the config file {path}: {source}; check its permissions and the space on its disk")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error(
        "the config file {path} cannot be understood: {detail}\nrepair it, or move it away to have a new one written"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        detail: String,
    },
    /// A setting that does not exist.
    #[error("{place}: there is no setting '{name}'; there are {}", SETTINGS.map(|(name, _)| name).join(", "))]
    Unknown {
        /// Where it was found.
        place: String,
        /// Its name.
        name: String,
    },
    /// A value that a setting cannot have.
    #[error("{place}: {setting}: {detail}")]
    Invalid {
        /// Where it was found.
        place: String,
        /// The setting.
        setting: String,
        /// What is wrong and what would be right.
        detail: String,
    },
}

impl ConfigError {
    /// Whether the operator has to write something else, rather than the system being in trouble.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

/// What was said with flags. What is empty or `None` was not said.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--name`
    pub name: Option<String>,
    /// `--mesh`
    pub mesh: Option<String>,
    /// `--mesh-key`
    pub mesh_key_file: Option<PathBuf>,
    /// `--listen`
    pub listen: Vec<String>,
    /// `--join`
    pub join: Vec<String>,
    /// `--advertise`
    pub advertise: Vec<String>,
    /// `--topic`
    pub topics: Vec<String>,
    /// `--no-mdns`
    pub no_mdns: bool,
    /// `--store-cap`
    pub store_cap: Option<String>,
    /// `--api`
    pub api: Option<String>,
    /// `--heartbeat`
    pub heartbeat: Option<String>,
}

/// The settings in effect. The fields are described in the file that [`Settings::write_first`] writes.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Settings {
    pub name: String,
    pub mesh: String,
    pub mesh_key_file: Option<PathBuf>,
    pub listen: Vec<Multiaddr>,
    pub join: Vec<Multiaddr>,
    pub advertise: Vec<Multiaddr>,
    pub topics: Vec<Pattern>,
    pub mdns: bool,
    pub min_links: usize,
    pub max_links: usize,
    pub store_cap_bytes: u64,
    pub log_limits: LogLimits,
    pub dedup_window: Duration,
    pub heartbeat: Duration,
    pub api: ApiSettings,
}

/// The settings of the API over TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ApiSettings {
    pub listen: Option<SocketAddr>,
    pub hosts: Vec<String>,
    pub open_metrics: bool,
}

impl ApiSettings {
    /// How to serve the API over TCP, if it is to be.
    #[must_use]
    pub fn tcp(&self, home: &Home) -> Option<TcpOptions> {
        let (hosts, open_metrics, token_path) = (self.hosts.clone(), self.open_metrics, home.token_path());
        self.listen.map(|listen| TcpOptions { listen, hosts, open_metrics, token_path })
    }
}

impl Settings {
    /// Reads all layers and checks every value.
    ///
    /// # Errors
    /// When the file or a value cannot be used; says which and what would be right.
    pub fn load(home: &Home, options: &Options) -> Result<Self, ConfigError> {
        Self::load_with(home, options, |name| std::env::var(name).ok())
    }

    fn load_with(
        home: &Home,
        options: &Options,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let path = home.config_path();
        let mut layers = Config::builder().add_source(default_layer());
        match fs::read_to_string(&path) {
            Ok(text) => layers = layers.add_source(config::File::from_str(&text, FileFormat::Toml)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::File { path, source }),
        }
        let layers = layers.add_source(environment_layer(variable)).add_source(flag_layer(options));
        let config = layers.build().map_err(|error| ConfigError::Syntax {
            path: path.clone(),
            detail: match error {
                config::ConfigError::FileParse { cause, .. } => cause.to_string().trim_end().to_owned(),
                other => other.to_string(),
            },
        })?;
        let table = flatten(&config.cache, &path)?;
        Reader { table, path }.read(home)
    }

    /// Writes the file with the settings that make the node what it is, unless there is one.
    ///
    /// # Errors
    /// When it cannot be written. There is none then.
    pub fn write_first(&self, home: &Home) -> Result<(), ConfigError> {
        let path = home.config_path();
        match identity::write_new(&path, self.first_file().as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(|source| ConfigError::File { path, source }),
        }
    }

    fn first_file(&self) -> String {
        let quote = |text: &str| toml::Value::from(text).to_string();
        let listen: Vec<String> = self.listen.iter().map(|address| quote(&address.to_string())).collect();
        let key_file = self.mesh_key_file.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        include_str!("config.template.toml")
            .replace("{name}", &quote(&self.name))
            .replace("{mesh}", &quote(&self.mesh))
            .replace("{mesh_key_file}", &quote(&key_file))
            .replace("{listen}", &format!("[{}]", listen.join(", ")))
    }

    /// The settings as a node takes them, with the mesh key read from its file.
    ///
    /// # Errors
    /// When the mesh key cannot be read.
    pub fn node_config(&self, home: &Home, keypair: Keypair) -> Result<NodeConfig, KeyError> {
        Ok(NodeConfig {
            home: home.path().to_owned(),
            name: self.name.clone(),
            keypair,
            mesh_name: self.mesh.clone(),
            mesh_key: self.mesh_key_file.as_deref().map(identity::read_mesh_key).transpose()?,
            listen: self.listen.clone(),
            join: self.join.clone(),
            advertise: self.advertise.clone(),
            mdns: self.mdns,
            topics: self.topics.clone(),
            min_links: self.min_links,
            max_links: self.max_links,
            store_cap_bytes: self.store_cap_bytes,
            log_limits: self.log_limits,
            dedup_window: self.dedup_window,
            heartbeat: self.heartbeat,
        })
    }
}

// ---- values

struct Reader {
    table: Map<String, Value>,
    path: PathBuf,
}

impl Reader {
    fn read(&self, home: &Home) -> Result<Settings, ConfigError> {
        let mut settings = Settings {
            name: self.name()?,
            mesh: self.mesh()?,
            mesh_key_file: Some(self.text("mesh_key_file")?).filter(|text| !text.is_empty()).map(PathBuf::from),
            listen: self.list("listen", |text| parse_address(text, true))?,
            join: self.list("join", |text| parse_address(text, false))?,
            advertise: self.list("advertise", |text| parse_address(text, false))?,
            topics: self.list("topics", |text| Pattern::new(text).map_err(|error| error.to_string()))?,
            mdns: self.get("mdns", Value::into_bool)?,
            min_links: self.count("min_links")?,
            max_links: self.count("max_links")?,
            store_cap_bytes: self.store_cap(home)?,
            dedup_window: self.duration("publish.dedup_window")?,
            heartbeat: self.heartbeat()?,
            log_limits: LogLimits {
                total: self.count_to("limits.logs", MAX_LOGS)?,
                per_author: self.count_to("limits.logs_per_author", MAX_LOGS)?,
                per_topic: self.count_to("limits.logs_per_topic", MAX_LOGS)?,
            },
            api: ApiSettings {
                listen: self.api_listen()?,
                hosts: self.list("api.hosts", |text| {
                    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
                    let fits = !text.is_empty() && text.bytes().all(sound);
                    if fits { Ok(text.to_owned()) } else { Err(format!("'{text}' is no host name: leave out ports")) }
                })?,
                open_metrics: self.get("api.open_metrics", Value::into_bool)?,
            },
        };
        if settings.min_links > settings.max_links {
            return Err(self.invalid("min_links", format!("it is above max_links, {}", settings.max_links)));
        }
        if settings.listen.is_empty() {
            settings.listen.push(free_address().map_err(|error| self.invalid("listen", error))?);
        }
        Ok(settings)
    }

    fn invalid(&self, setting: &str, detail: impl Display) -> ConfigError {
        let place = self.table.get(setting).map_or_else(|| DEFAULTS_PLACE.to_owned(), |v| place_of(v, &self.path));
        ConfigError::Invalid { place, setting: setting.to_owned(), detail: detail.to_string() }
    }

    fn get<T>(&self, setting: &str, take: impl Fn(Value) -> Result<T, config::ConfigError>) -> Result<T, ConfigError> {
        let value = self.table.get(setting).cloned().ok_or_else(|| self.invalid(setting, "it has no value"))?;
        take(value).map_err(|error| match error {
            config::ConfigError::Type { unexpected, expected, .. } => {
                self.invalid(setting, format!("it must be {expected}, not {unexpected}"))
            }
            other => self.invalid(setting, other),
        })
    }

    fn text(&self, setting: &str) -> Result<String, ConfigError> {
        self.get(setting, Value::into_string)
    }

    fn list<T>(&self, setting: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let values = self.get(setting, Value::into_array)?;
        if values.len() > MAX_ADDRESSES.max(roundelay_protocol::limits::MAX_PATTERNS) {
            return Err(self.invalid(setting, format!("{} values are too many", values.len())));
        }
        let text = |value: Value| value.into_string().map_err(|_| self.invalid(setting, "it must be a list of texts"));
        values.into_iter().map(|v| parse(&text(v)?).map_err(|detail| self.invalid(setting, detail))).collect()
    }

    fn count(&self, setting: &str) -> Result<usize, ConfigError> {
        self.count_to(setting, MAX_LINKS)
    }

    fn count_to(&self, setting: &str, most: u64) -> Result<usize, ConfigError> {
        match self.get(setting, Value::into_uint)? {
            count if (1..=most).contains(&count) => Ok(count as usize),
            other => Err(self.invalid(setting, format!("it must be from 1 to {most}, not {other}"))),
        }
    }

    fn heartbeat(&self) -> Result<Duration, ConfigError> {
        let heartbeat = self.duration("heartbeat")?;
        if heartbeat.is_zero() || (MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(&heartbeat) {
            return Ok(heartbeat);
        }
        Err(self.invalid("heartbeat", "it is 0s, for none, or from 100 ms to an hour".to_owned()))
    }

    fn duration(&self, setting: &str) -> Result<Duration, ConfigError> {
        parse_duration(&self.text(setting)?).map_err(|error| self.invalid(setting, error.to_string()))
    }

    fn name(&self) -> Result<String, ConfigError> {
        let name = Some(self.text("name")?).filter(|name| !name.is_empty()).unwrap_or_else(host_name);
        if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(self.invalid("name", format!("it must be at most {MAX_NAME_BYTES} bytes of printable text")));
        }
        Ok(name)
    }

    fn mesh(&self) -> Result<String, ConfigError> {
        let mesh = self.text("mesh")?;
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if mesh.is_empty() || mesh.len() > MAX_NAME_BYTES || !mesh.bytes().all(sound) {
            let rule = "a mesh's name has 1 to 64 letters, digits, '-', '_' and '.'";
            return Err(self.invalid("mesh", format!("'{mesh}': {rule}")));
        }
        Ok(mesh)
    }

    fn api_listen(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let text = self.text("api.listen")?;
        let parsed = Some(&text).filter(|text| !text.is_empty()).map(|text| parse_api_address(text)).transpose();
        parsed.map_err(|error| self.invalid("api.listen", error))
    }

    fn store_cap(&self, home: &Home) -> Result<u64, ConfigError> {
        let text = self.text("store.cap")?;
        if text.is_empty() {
            return Ok(default_cap_bytes(home.path()));
        }
        match parse_bytes(&text).map_err(|error| self.invalid("store.cap", error))? {
            bytes if bytes < MIN_CAP_BYTES => {
                Err(self
                    .invalid("store.cap", format!("'{text}' is too little: at least {}", format_bytes(MIN_CAP_BYTES))))
            }
            bytes => Ok(bytes),
        }
    }
}

fn host_name() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname")).ok();
    let name = text.map(|text| text.trim().to_owned()).or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
    if fits { name } else { "node".to_owned() }
}

fn default_cap_bytes(home: &Path) -> u64 {
    // The home may not exist yet; its parents lie on the same disk, mostly.
    let disk_bytes = home.ancestors().find_map(|folder| fs4::total_space(folder).ok());
    disk_bytes.map_or(MAX_DEFAULT_CAP_BYTES, |bytes| (bytes / DISK_SHARE).clamp(MIN_CAP_BYTES, MAX_DEFAULT_CAP_BYTES))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
