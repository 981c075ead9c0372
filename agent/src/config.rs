//! The agent's settings: what a TOML file may say, what holds when it is silent, and what is wrong with it.
//!
//! Owns every key, default and range. Must never start anything or touch the network. The hard case is a file with
//! several mistakes: each is named with its file, line and key in one go.

mod check;
mod memory;
mod uplink;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
pub use vedette_common::config::{ConfigError, ConfigErrors};

use crate::zone::Zone;

pub use memory::{Need, needs, worst_case_bytes};
pub use uplink::{MqttUplink, MqttVersion, Transport, Transports};

/// Everything that `run` and `check` read from a file. Every key has a default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The agent's name for its aggregator, 1 to 64 of `a-z 0-9 . _ -`; default: the one in the state folder, else
    /// this machine's host name.
    pub agent_id: Option<String>,
    /// Folder of the identity and the spool, owner-only. Default: `$VEDETTE_AGENT_STATE`, else
    /// `$STATE_DIRECTORY` (systemd), else `$XDG_STATE_HOME/vedette-agent`, else `~/.local/state/vedette-agent`, else
    /// `/var/lib/vedette-agent`.
    pub state_dir: PathBuf,
    /// How long a stop may take to deliver what is spooled, in milliseconds, 0 to 600,000; default 5,000.
    pub drain_ms: u32,
    /// Tags of everything this agent sends, unless an observation carries its own; default `region = "local"`,
    /// `device = "host"`, and `stack = "system"` for the host's own metrics.
    pub tags: BTreeMap<String, String>,
    /// Which tag plays which part; must be the aggregator's too.
    pub dimensions: Dimensions,
    /// Regions by name, for the time zone of their seasons.
    pub regions: BTreeMap<String, Region>,
    /// What holds for some metrics, by name or by the beginning of one with `*`; at most 32. An exact name counts before
    /// a beginning, a longer beginning before a shorter.
    pub metrics: BTreeMap<String, Metric>,
    /// Where observations come from.
    pub source: Source,
    /// How observations are gathered into summaries.
    pub window: Window,
    /// The bounds of everything that could grow.
    pub limits: Limits,
    /// Where summaries go.
    pub uplink: Uplink,
    /// Health and metrics.
    pub http: Http,
    /// What is logged, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent_id: None,
            state_dir: state_dir_default("vedette-agent", &["VEDETTE_AGENT_STATE", "STATE_DIRECTORY"]),
            drain_ms: 5_000,
            tags: BTreeMap::new(),
            dimensions: Dimensions::default(),
            regions: BTreeMap::new(),
            metrics: BTreeMap::new(),
            source: Source::default(),
            window: Window::default(),
            limits: Limits::default(),
            uplink: Uplink::default(),
            http: Http::default(),
            log: Log::default(),
        }
    }
}

/// Which tag plays which part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dimensions {
    /// Tag that names the region; default `region`.
    pub region: String,
    /// Tag that names the device family; default `device`.
    pub device: String,
    /// Tag that names the stack; default `stack`.
    pub stack: String,
}

impl Default for Dimensions {
    fn default() -> Self {
        Self { region: "region".into(), device: "device".into(), stack: "stack".into() }
    }
}

/// One region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Region {
    /// Its time zone by IANA name; default: this machine's, or UTC if that is unknown.
    pub timezone: Option<String>,
}

/// What holds for a metric: a measurement with all its fields, or `measurement.field`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metric {
    /// Which deviations of its values are sent; default both. The others are counted.
    pub alarm_on: AlarmOn,
    /// Whether its values only grow until what counts them begins anew; the rate a second is then scored. Unless
    /// it is said, what only grows from its first value on is found to be a counter after some 40 values; `false` is for
    /// a gauge that may grow for long, a disk that fills. StatsD's counters are differences already and need nothing.
    pub counter: Option<bool>,
}

/// Which direction of a deviation matters, as in the aggregator's config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmOn {
    /// Less than expected.
    Drop,
    /// More than expected.
    Rise,
    /// Either.
    #[default]
    Both,
}

/// Where observations come from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// This machine's own metrics.
    pub host: HostSource,
    /// StatsD over UDP.
    pub statsd: StatsdSource,
    /// Influx line protocol over TCP and UDP.
    pub line_protocol: LineProtocolSource,
    /// Influx line protocol from files and standard input.
    pub file: FileSource,
}

/// This machine's own metrics from `/proc`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSource {
    /// Whether they are read; default true.
    pub enabled: bool,
    /// Time between two readings in milliseconds, 100 to 3,600,000; default 5,000.
    pub interval_ms: u32,
}

impl Default for HostSource {
    fn default() -> Self {
        Self { enabled: true, interval_ms: 5_000 }
    }
}

/// StatsD over UDP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatsdSource {
    /// Whether it listens; default true.
    pub enabled: bool,
    /// Address to listen on; default 127.0.0.1:8125. It has no log-in: keep it on a trusted network.
    pub listen: SocketAddr,
    /// How long values are gathered into one observation of each series, in milliseconds, 100 to 3,600,000; default
    /// 10,000.
    pub flush_ms: u32,
}

impl Default for StatsdSource {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from(([127, 0, 0, 1], 8125)), flush_ms: 10_000 }
    }
}

/// Influx line protocol over TCP and UDP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineProtocolSource {
    /// Whether it listens; default true.
    pub enabled: bool,
    /// Address for TCP; default 127.0.0.1:8094. It has no log-in: keep it on a trusted network.
    pub tcp: SocketAddr,
    /// Address for UDP; default 127.0.0.1:8094.
    pub udp: SocketAddr,
    /// Unit of the timestamps; default nanoseconds, `ns`.
    pub precision: Precision,
    /// TCP connections at a time, 1 to 1,024; default 32. One more is closed at once and counted.
    pub connections_max: u32,
    /// How long a TCP connection may stay silent, in milliseconds, 1,000 to 86,400,000; default 300,000.
    pub idle_timeout_ms: u32,
}

impl Default for LineProtocolSource {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 8094));
        Self {
            enabled: true,
            tcp: listen,
            udp: listen,
            precision: Precision::Nanoseconds,
            connections_max: 32,
            idle_timeout_ms: 300_000,
        }
    }
}

/// Unit of the timestamps in line protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Precision {
    /// Nanoseconds, as the protocol has it.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
}

/// Influx line protocol from files and standard input, with the precision of `[source.line_protocol]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileSource {
    /// Files to follow, at most 16; each is read on as it grows, and from its start again when it was replaced.
    pub paths: Vec<PathBuf>,
    /// Where the first reading of a file begins; default `end`.
    pub from: ReadFrom,
    /// Whether standard input is read to its end; default false.
    pub stdin: bool,
}

/// Where the first reading of a file begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadFrom {
    /// At its first line.
    Start,
    /// After its last line: only what is added from now on.
    #[default]
    End,
}

/// How observations are gathered into summaries.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    /// Length of a window in milliseconds, 1,000 to 3,600,000; default 10,000. Windows are aligned to the epoch.
    pub window_ms: u32,
    /// How long a window stays open for late observations, in milliseconds, 0 to 3,600,000; default
    /// 2,000. More than `window_ms` counts as `window_ms`.
    pub lateness_ms: u32,
    /// What moves windows on; default wall.
    pub clock: WindowClock,
}

impl Default for Window {
    fn default() -> Self {
        Self { window_ms: 10_000, lateness_ms: 2_000, clock: WindowClock::Wall }
    }
}

/// What moves windows on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowClock {
    /// This machine's clock: what happens now.
    Wall,
    /// The latest event time received in line protocol, so that history can be fed faster than it happened until it has
    /// caught up with the present. A window closes when later data come. Excludes StatsD and the host's own metrics,
    /// which know no time but now.
    Event,
}

/// The bounds of everything that could grow.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Series held, 1 to 10,000,000; default 10,000. Further ones are counted in one overflow series for each cell.
    pub series_max: u32,
    /// Worst-case memory in bytes over which the agent refuses to start, from 1 MiB; default 32 MiB.
    pub memory_bytes_max: u64,
    /// Bytes of the spool on disk, 128 KiB to 1 GiB; default 16 MiB. The oldest roll-ups go first, and are counted.
    pub spool_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { series_max: 10_000, memory_bytes_max: 32 << 20, spool_bytes_max: 16 << 20 }
    }
}

/// Where summaries go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Uplink {
    /// How the aggregator is reached: `quic` (default), `mqtt`, or a list of both: the first, then the other when it fails.
    pub kind: Transports,
    /// How long another way carries before the preferred one is tried again, in seconds, 1 to 86,400; doubles up to four
    /// times while that leads nowhere. Default 300.
    pub prefer_again_s: u32,
    /// Host and UDP port of the aggregator; default 127.0.0.1:8461. Names are looked up anew for each connection.
    pub address: String,
    /// Name in the aggregator's certificate; default `vedette-aggregator`.
    pub server_name: String,
    /// The aggregator's state folder, for an agent of the same user that finds its enrolment token there. Default:
    /// `$VEDETTE_AGGREGATOR_STATE`, else as for `state_dir` with `vedette-aggregator`.
    pub aggregator_state_dir: PathBuf,
    /// The broker, where `kind` names `mqtt`.
    pub mqtt: MqttUplink,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            kind: Transports::default(),
            prefer_again_s: 300,
            address: "127.0.0.1:8461".into(),
            server_name: "vedette-aggregator".into(),
            aggregator_state_dir: state_dir_default("vedette-aggregator", &["VEDETTE_AGGREGATOR_STATE"]),
            mqtt: MqttUplink::default(),
        }
    }
}

/// Health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Whether they are served; default true.
    pub enabled: bool,
    /// Address to listen on; default 127.0.0.1:8462. It has no log-in: keep it on loopback.
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from(([127, 0, 0, 1], 8462)) }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Least severe level that is written: error, warn, info, debug or trace; default info.
    pub level: LogLevel,
    /// Form of a line on standard error: text or json; default text.
    pub format: LogFormat,
    /// Lines from one place in the program within ten seconds, 1 to 1,000,000; default 10. More are counted.
    pub repeats_max: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text, repeats_max: 10 }
    }
}

/// How severe a log line must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Only what needs somebody.
    Error,
    /// What may need somebody later.
    Warn,
    /// What an operator wants to have seen.
    Info,
    /// What a developer wants to see.
    Debug,
    /// Every step.
    Trace,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Config {
    /// Reads the settings from `file`, or takes the defaults when there is none.
    ///
    /// # Errors
    /// A file that cannot be read, and every mistake in one that can.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigErrors> {
        let Some(file) = file else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigErrors::of_file(file, format!("cannot be read: {error}")))?;
        Self::parse(file, &text)
    }

    /// Reads the settings from `text`; `file` is only for the errors.
    ///
    /// # Errors
    /// Every mistake: syntax, unknown keys, wrong types, values out of range, unknown time zones.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        vedette_common::config::parse(file, text, check::problems)
    }

    /// The time zone of a region: the config's, else this machine's, else UTC.
    pub fn timezone(&self, region: &str) -> Zone {
        let named = self.regions.get(region).and_then(|region| region.timezone.as_deref());
        named.and_then(Zone::named).unwrap_or_else(machine_timezone)
    }

    /// The region of what carries no region of its own.
    #[must_use]
    pub fn own_region(&self) -> &str {
        self.tags.get(&self.dimensions.region).map_or("local", String::as_str)
    }

    /// The regions that this agent knows of, each with its time zone: its own, then the others by name.
    #[must_use]
    pub fn zones(&self) -> Vec<(String, Zone)> {
        let own = self.own_region();
        let others = self.regions.keys().map(String::as_str).filter(|region| *region != own);
        std::iter::once(own).chain(others).map(|region| (region.to_owned(), self.timezone(region))).collect()
    }

    fn core_dimensions(&self) -> vedette_agent_core::key::Dimensions {
        let Dimensions { region, device, stack } = &self.dimensions;
        // `check` has refused names that do not fit before this is asked.
        vedette_agent_core::key::Dimensions::new(region, device, stack).unwrap_or_default()
    }
}

/// The state folder of a program: the first of these variables that is set, else `/var/lib`.
fn state_dir_default(program: &str, variables: &[&str]) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variables.iter().find_map(|name| set(name)) {
        return dir;
    }
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    base.unwrap_or_else(|| PathBuf::from("/var/lib")).join(program)
}

/// This machine's time zone: `$TZ`, else where `/etc/localtime` points, else UTC.
fn machine_timezone() -> Zone {
    let variable = std::env::var("TZ").ok().map(|name| name.trim_start_matches(':').to_owned());
    let link = || std::fs::read_link("/etc/localtime").ok();
    let linked = || link()?.to_str()?.split_once("zoneinfo/").map(|(_, name)| name.to_owned());
    variable.or_else(linked).and_then(|name| Zone::named(&name)).unwrap_or(Zone::utc())
}

#[cfg(test)]
mod tests;
