//! The aggregator's settings: what a TOML file may say, what holds when it is silent, and what is wrong with it.
//!
//! Owns every key, default and range, and the worst-case memory that a set of limits can need. Must never start
//! anything or touch the network. The hard case is a file with several mistakes: each is named with its file, line
//! and key in one go, so that nobody mends a config one error at a time.

mod auth;
mod incidents;
mod limits;
mod mqtt;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vedette_common::config::Problems;
pub use vedette_common::config::{ConfigError, ConfigErrors};

use crate::state_folder::StateFolder;
pub use auth::{Auth, AuthMode, HttpTls};
pub use incidents::{Calendar, Incidents};
pub use limits::{Limits, Memory};
pub use mqtt::{MqttListen, MqttVersion};

/// Everything that `run`, `check` and `replay` read from a file. Every key has a default.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of the certificate authority, tokens and database; created with owner-only permissions.
    pub state_dir: PathBuf,
    /// Where agents, people and scripts connect.
    pub listen: Listen,
    /// Who may use console and API.
    pub auth: Auth,
    /// The bounds of everything that could grow.
    pub limits: Limits,
    /// Who hears of incidents.
    pub notify: Notify,
    /// When the region's judgement speaks.
    pub judge: Judge,
    /// The times in the life of an incident.
    pub incidents: Incidents,
    /// What the classes of scheduled events mean.
    pub calendar: Calendar,
    /// How recorded telemetry is played.
    pub replay: Replay,
    /// What is logged, and how.
    pub log: Log,
    /// Which tag plays which part.
    pub dimensions: Dimensions,
    /// The part of each measurement, by measurement name; others are scored but are no evidence.
    pub metrics: BTreeMap<String, Metric>,
    /// Regions by name. Others are taken in as they appear, with UTC as their time zone.
    pub regions: BTreeMap<String, Region>,
    /// Stacks by name. Others are taken in as they appear, as independent of each other.
    pub stacks: BTreeMap<String, Stack>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: state_dir_default(),
            listen: Listen::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            notify: Notify::default(),
            judge: Judge::default(),
            incidents: Incidents::default(),
            calendar: Calendar::default(),
            replay: Replay::default(),
            log: Log::default(),
            dimensions: Dimensions::default(),
            metrics: BTreeMap::new(),
            regions: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// UDP address for agents over QUIC; default 0.0.0.0:8461.
    pub quic: SocketAddr,
    /// TCP address of console, API, health and metrics; default 127.0.0.1:8460. Any but loopback needs a log-in, see `[auth]`.
    pub http: SocketAddr,
    /// Certificate and chain (PEM) with which that address speaks TLS; default none: it speaks plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_certificate_file: Option<PathBuf>,
    /// The certificate's private key (PEM), readable by its owner and group only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_key_file: Option<PathBuf>,
    /// Names under which the console may be asked for besides its address and localhost, for a proxy in front of it.
    pub http_names: Vec<String>,
    /// The MQTT broker that agents are heard through; none without its `url`.
    pub mqtt: MqttListen,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            quic: SocketAddr::from(([0, 0, 0, 0], 8461)),
            http: SocketAddr::from(([127, 0, 0, 1], 8460)),
            http_certificate_file: None,
            http_key_file: None,
            http_names: Vec::new(),
            mqtt: MqttListen::default(),
        }
    }
}

/// Who hears of incidents. Each notifier has its own queue and retries, and a failing one delays no other.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// Write every state of every incident to standard output as NDJSON; default true.
    pub stdout: bool,
    /// Webhooks by name: each gets the NDJSON object as the body of a POST.
    pub webhook: BTreeMap<String, Webhook>,
    /// Alertmanagers by name, spoken to by their API v2.
    pub alertmanager: BTreeMap<String, Alertmanager>,
}

impl Default for Notify {
    fn default() -> Self {
        Self { stdout: true, webhook: BTreeMap::new(), alertmanager: BTreeMap::new() }
    }
}

/// One webhook.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to POST; http or https.
    pub url: String,
    /// Which states are sent; default open and resolved, so that nothing held back reaches people.
    #[serde(default = "states_default")]
    pub states: Vec<IncidentState>,
    /// Additional headers, such as Authorization.
    #[serde(default, skip_serializing)]
    pub headers: BTreeMap<String, String>,
    /// Seconds until an attempt counts as failed, 1 to 120; default 10.
    #[serde(default = "timeout_s_default")]
    pub timeout_s: u32,
}

/// One Alertmanager.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Alertmanager {
    /// Base address, as `http://alertmanager:9093`; `/api/v2/alerts` is added.
    pub url: String,
    /// Labels added to every alert.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Seconds until an attempt counts as failed, 1 to 120; default 10.
    #[serde(default = "timeout_s_default")]
    pub timeout_s: u32,
}

/// A state that an incident can enter, as in the `state` field of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// People are notified.
    Open,
    /// Held back, with the evidence.
    Suppressed,
    /// Over.
    Resolved,
}

/// When the region's judgement speaks.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Judge {
    /// How long a window waits for agents that have not reported it yet, in milliseconds, 0 to 3,600,000; default 30,000.
    pub lateness_ms: u32,
    /// How long an agent may be silent before that is an incident, in seconds, 10 to 86,400; default 300.
    pub silent_after_s: u32,
    /// How late, in seconds after its end, everything in a window may come and still page people, 60 to 1,209,600; default
    /// 3,600. What comes later is judged and recorded as history.
    pub history_after_s: u32,
}

impl Default for Judge {
    fn default() -> Self {
        Self { lateness_ms: 30_000, silent_after_s: 300, history_after_s: 3_600 }
    }
}

/// How recorded telemetry is played.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Length of a window of the virtual agents, in milliseconds, 1,000 to 3,600,000; default 300,000.
    pub window_ms: u32,
    /// How far a line may stand after a later one in its file and still be used, in milliseconds; default one hour.
    pub lateness_ms: u32,
    /// Series that each region's virtual agent can hold, 1 to 10,000,000; default 20,000.
    pub series_max: u32,
    /// Lines held while sorting within the lateness of each file, 1 to 10,000,000; default 100,000.
    pub pending_max: u32,
    /// Unit of the timestamps in line protocol: `ns` (default), `us`, `ms` or `s`.
    pub precision: TimestampUnit,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            window_ms: 300_000,
            lateness_ms: 3_600_000,
            series_max: 20_000,
            pending_max: 100_000,
            precision: TimestampUnit::Ns,
        }
    }
}

/// A unit of time, as line protocol names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampUnit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Least severe level that is written; default info.
    pub level: LogLevel,
    /// Form of a line on standard error; default text.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

/// How severe a log line must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
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

impl LogLevel {
    /// The name that the filter of the log understands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Which tag plays which part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
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

/// The part of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What the measurement stands for.
    pub role: Role,
    /// Which direction is bad; default: a drop of traffic, a rise of anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm_on: Option<AlarmOn>,
}

impl Metric {
    /// Which direction is bad, with the default of the role.
    pub fn alarm_on(self) -> AlarmOn {
        self.alarm_on.unwrap_or(match self.role {
            Role::Traffic => AlarmOn::Drop,
            Role::Errors | Role::Latency | Role::Saturation => AlarmOn::Rise,
        })
    }
}

/// What a measurement stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Use of the application: sessions, requests, sign-ins.
    Traffic,
    /// Failures.
    Errors,
    /// Time that users wait.
    Latency,
    /// Fullness of a resource.
    Saturation,
}

/// Which direction of a deviation is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmOn {
    /// Less than expected.
    Drop,
    /// More than expected.
    Rise,
    /// Either.
    Both,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Region {
    /// Its time zone by IANA name, for seasons and for calendar times without a zone; default UTC.
    pub timezone: String,
    /// How many pages a week people want of it, 0.1 to 1,000: sensitivity is learned from that. Without one it stays as
    /// it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_per_week: Option<f64>,
}

impl Default for Region {
    fn default() -> Self {
        Self { timezone: "UTC".into(), pages_per_week: None }
    }
}

/// One stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stack {
    /// What it needs to work; stacks with a common dependency count once as evidence.
    pub depends_on: Vec<String>,
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
        vedette_common::config::parse(file, text, Self::problems)
    }

    /// The time zone of a region; UTC for one that the config does not name.
    pub fn timezone(&self, region: &str) -> chrono_tz::Tz {
        self.regions.get(region).and_then(|region| region.timezone.parse().ok()).unwrap_or(chrono_tz::UTC)
    }

    /// What each limit may need in memory at worst, in bytes.
    pub fn memory(&self) -> Vec<Memory> {
        let mut memory = self.limits.memory();
        memory.extend(self.listen.mqtt.memory(&self.limits));
        memory.push(auth::memory());
        memory
    }

    /// What is wrong with values that have the right type: pairs of key and problem.
    fn problems(&self) -> Vec<(Vec<String>, String)> {
        let mut problems = self.limits.problems();
        self.auth.problems(&mut problems);
        self.listen.tls_problems(&mut problems);
        self.incidents.problems(&mut problems);
        self.calendar.problems(&mut problems);
        self.listen.mqtt.problems(&mut problems);
        self.range_problems(&mut problems);
        self.dimension_problems(&mut problems);
        self.region_problems(&mut problems);
        self.stack_problems(&mut problems);
        self.notify_problems(&mut problems);
        problems
    }

    /// The keys in which `other` differs and that take hold with the next start only.
    pub(crate) fn restart_keys(&self, other: &Self) -> Vec<&'static str> {
        let (ours, theirs) = (&self.limits, &other.limits);
        let keys = [
            ("state_dir", self.state_dir != other.state_dir),
            ("listen.quic", self.listen.quic != other.listen.quic),
            ("listen.http", self.listen.http != other.listen.http),
            (
                "listen.http_certificate_file",
                self.listen.http_tls().is_some() != other.listen.http_tls().is_some(),
            ),
            ("listen.mqtt", self.listen.mqtt != other.listen.mqtt),
            ("log", self.log != other.log),
            ("limits.connections_max", ours.connections_max != theirs.connections_max),
            ("limits.agents_max (over MQTT)", ours.agents_max != theirs.agents_max),
            ("limits.requests_max", ours.requests_max != theirs.requests_max),
            ("limits.history_series_max", ours.history_series_max != theirs.history_series_max),
            ("limits.history_windows_max", ours.history_windows_max != theirs.history_windows_max),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }

    fn range_problems(&self, problems: &mut Problems) {
        let ranges: [(&[&str], u32, u32, u32); 7] = [
            (&["judge", "lateness_ms"], self.judge.lateness_ms, 0, 3_600_000),
            (&["judge", "silent_after_s"], self.judge.silent_after_s, 10, 86_400),
            (&["judge", "history_after_s"], self.judge.history_after_s, 60, 1_209_600),
            // The core takes no wider ones.
            (&["replay", "window_ms"], self.replay.window_ms, 1_000, 3_600_000),
            (&["replay", "lateness_ms"], self.replay.lateness_ms, 0, 86_400_000),
            (&["replay", "series_max"], self.replay.series_max, 1, 10_000_000),
            (&["replay", "pending_max"], self.replay.pending_max, 1, 10_000_000),
        ];
        for (key, value, least, most) in ranges {
            check_range(problems, key, u64::from(value), u64::from(least), u64::from(most));
        }
    }

    fn dimension_problems(&self, problems: &mut Problems) {
        let parts = [
            ("region", &self.dimensions.region),
            ("device", &self.dimensions.device),
            ("stack", &self.dimensions.stack),
        ];
        for (index, (part, tag)) in parts.iter().enumerate() {
            if tag.is_empty() {
                problems.push((path(&["dimensions", part]), "is empty: name a tag".into()));
            }
            if let Some((other, _)) = parts[..index].iter().find(|(_, earlier)| earlier == tag) {
                let problem = format!("`{tag}` is already the {other}: each part needs a tag of its own");
                problems.push((path(&["dimensions", part]), problem));
            }
        }
    }

    fn region_problems(&self, problems: &mut Problems) {
        let most = usize::from(u8::MAX);
        if self.regions.len() > most {
            problems.push((path(&["regions"]), format!("{} regions: at most {most}", self.regions.len())));
        }
        for (name, region) in &self.regions {
            if region.timezone.parse::<chrono_tz::Tz>().is_err() {
                let problem = format!(
                    "`{}` is no time zone: use an IANA name as `Europe/London` or `UTC`",
                    region.timezone
                );
                problems.push((path(&["regions", name, "timezone"]), problem));
            }
            if let Some(wanted) = region.pages_per_week.filter(|wanted| !(0.1..=1_000.0).contains(wanted)) {
                let problem = format!("{wanted} is out of range: 0.1 to 1000");
                problems.push((path(&["regions", name, "pages_per_week"]), problem));
            }
        }
    }

    fn stack_problems(&self, problems: &mut Problems) {
        for (name, stack) in &self.stacks {
            if stack.depends_on.contains(name) {
                let problem = format!("`{name}` depends on itself: name other stacks or services");
                problems.push((path(&["stacks", name, "depends_on"]), problem));
            }
        }
    }

    fn notify_problems(&self, problems: &mut Problems) {
        let webhooks =
            self.notify.webhook.iter().map(|(name, hook)| ("webhook", name, &hook.url, hook.timeout_s));
        let managers =
            self.notify.alertmanager.iter().map(|(name, it)| ("alertmanager", name, &it.url, it.timeout_s));
        for (kind, name, url, timeout_s) in webhooks.chain(managers) {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                let problem = format!("`{url}` is no address: use http://HOST or https://HOST");
                problems.push((path(&["notify", kind, name, "url"]), problem));
            }
            let key = ["notify", kind, name, "timeout_s"];
            check_range(problems, &key, u64::from(timeout_s), 1, 120);
        }
    }
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(ToString::to_string).collect()
}

fn check_range(problems: &mut Problems, key: &[&str], value: u64, least: u64, most: u64) {
    if !(least..=most).contains(&value) {
        problems.push((path(key), format!("{value} is out of range: {least} to {most}")));
    }
}

fn states_default() -> Vec<IncidentState> {
    vec![IncidentState::Open, IncidentState::Resolved]
}

fn timeout_s_default() -> u32 {
    10
}

/// Where state stands when the config is silent: in the folder of the user, or of the system when there is none.
fn state_dir_default() -> PathBuf {
    StateFolder::default_path().unwrap_or_else(|_| PathBuf::from("/var/lib/vedette-aggregator"))
}

#[cfg(test)]
mod tests;
