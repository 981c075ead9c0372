//! Every counter and gauge of the shell, and the page that Prometheus reads.
//! It must never carry an unbounded label: reasons and outcomes come from fixed sets, notifiers from the config.
//! The hard case is a counter that has not moved yet: it is absent until it does, as Prometheus expects of labelled counters.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One label with a value from a fixed set.
type Label = [(&'static str, &'static str); 1];
/// A notifier from the config and an outcome.
type NotifierLabels = [(&'static str, String); 2];

/// A transport and a direction.
type WireLabels = [(&'static str, &'static str); 2];

/// The metrics of one aggregator; clones count into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Data connections that are open.
    pub connections: Gauge,
    /// Agents whose data connection is open.
    pub agents_connected: Gauge,
    /// 1 while the connection to the MQTT broker stands.
    pub broker_connected: Gauge,
    /// Batches committed.
    pub commits: Counter,
    /// How long commits took, seconds.
    pub commit_seconds: Histogram,
    /// Records and effects whose commit failed and is tried again.
    pub commit_failures: Counter,
    /// Inputs that wait for the core.
    pub core_queue: Gauge,
    /// Deliveries that wait in the outbox.
    pub outbox_rows: Gauge,
    /// 1 when the latest look through the database found nothing wrong.
    pub store_whole: Gauge,
    /// 1 while the config in force is what its file says.
    pub config_current: Gauge,
    config_active: Family<[(&'static str, String); 1], Gauge>,
    store_checks: Family<Label, Counter>,
    reloads: Family<Label, Counter>,
    /// Passwords checked, right or wrong.
    pub password_checks: Counter,
    log_ins: Family<Label, Counter>,
    turned_away: Family<Label, Counter>,
    handshakes: Family<Label, Counter>,
    frames: Family<Label, Counter>,
    bad_frames: Family<Label, Counter>,
    closed: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    enrolments: Family<Label, Counter>,
    states: Family<Label, Counter>,
    deliveries: Family<NotifierLabels, Counter>,
    wire_bytes: Family<WireLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connections: Gauge::default(),
            agents_connected: Gauge::default(),
            broker_connected: Gauge::default(),
            commits: Counter::default(),
            commit_seconds: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]),
            commit_failures: Counter::default(),
            core_queue: Gauge::default(),
            outbox_rows: Gauge::default(),
            store_whole: Gauge::default(),
            config_current: Gauge::default(),
            config_active: Family::default(),
            store_checks: Family::default(),
            reloads: Family::default(),
            password_checks: Counter::default(),
            log_ins: Family::default(),
            turned_away: Family::default(),
            handshakes: Family::default(),
            frames: Family::default(),
            bad_frames: Family::default(),
            closed: Family::default(),
            refused: Family::default(),
            enrolments: Family::default(),
            states: Family::default(),
            deliveries: Family::default(),
            wire_bytes: Family::default(),
        }
    }
}

/// The names of the labelled counters that take one value from a fixed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// Handshakes, by outcome.
    Handshake,
    /// Good frames, by kind.
    Frame,
    /// Bad frames, by reason.
    BadFrame,
    /// Ended connections, by reason.
    Closed,
    /// Refused records and connections, by reason.
    Refused,
    /// Enrolments, by outcome.
    Enrolment,
    /// States that incidents entered, by state.
    State,
    /// Looks through the database, by outcome.
    StoreCheck,
    /// Readings of the config while running, by outcome.
    Reload,
    /// Log-ins to the console, by outcome.
    LogIn,
    /// Requests to console and API that were not answered, by reason.
    TurnedAway,
}

impl Metrics {
    fn family(&self, tally: Tally) -> (&Family<Label, Counter>, &'static str) {
        match tally {
            Tally::Handshake => (&self.handshakes, "outcome"),
            Tally::Frame => (&self.frames, "kind"),
            Tally::BadFrame => (&self.bad_frames, "reason"),
            Tally::Closed => (&self.closed, "reason"),
            Tally::Refused => (&self.refused, "reason"),
            Tally::Enrolment => (&self.enrolments, "outcome"),
            Tally::State => (&self.states, "state"),
            Tally::StoreCheck => (&self.store_checks, "outcome"),
            Tally::Reload => (&self.reloads, "outcome"),
            Tally::LogIn => (&self.log_ins, "outcome"),
            Tally::TurnedAway => (&self.turned_away, "reason"),
        }
    }

    /// Counts one.
    pub fn count(&self, tally: Tally, value: &'static str) {
        let (family, label) = self.family(tally);
        family.get_or_create(&[(label, value)]).inc();
    }

    /// How often that was counted.
    #[must_use]
    pub fn counted(&self, tally: Tally, value: &'static str) -> u64 {
        let (family, label) = self.family(tally);
        family.get(&[(label, value)]).map_or(0, |counter| counter.get())
    }

    /// Counts deliveries of a notifier: `delivered`, `failed`, `rejected`, `expired` or `outbox_full`.
    pub fn count_deliveries(&self, notifier: &str, outcome: &str, count: u64) {
        let labels = [("notifier", notifier.to_owned()), ("outcome", outcome.to_owned())];
        self.deliveries.get_or_create(&labels).inc_by(count);
    }

    /// Counts bytes of UDP (`quic`) or TCP (`mqtt`), with all overheads above those.
    pub fn count_wire(&self, transport: &'static str, sent: u64, received: u64) {
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            let labels = [("transport", transport), ("direction", direction)];
            self.wire_bytes.get_or_create(&labels).inc_by(bytes);
        }
    }

    /// Bytes sent and received by that transport.
    #[must_use]
    pub fn wire_bytes(&self, transport: &'static str) -> [u64; 2] {
        ["sent", "received"].map(|direction| {
            let labels = [("transport", transport), ("direction", direction)];
            self.wire_bytes.get(&labels).map_or(0, |counter| counter.get())
        })
    }

    /// Says which config is in force, by the beginning of its SHA-256, and whether its file says the same.
    pub fn name_config(&self, active: String, is_current: bool) {
        // One at a time: a label for each content there ever was would be without a bound.
        self.config_active.clear();
        self.config_active.get_or_create(&[("sha256", active)]).set(1);
        self.config_current.set(i64::from(is_current));
    }

    /// A page that reads these metrics.
    #[must_use]
    pub fn page(&self) -> MetricsPage {
        let mut registry = Registry::with_prefix("vedette_aggregator");
        registry.register("connections", "Data connections that are open", self.connections.clone());
        registry.register(
            "agents_connected",
            "Agents with an open data connection",
            self.agents_connected.clone(),
        );
        registry.register(
            "broker_connected",
            "Whether the connection to the MQTT broker stands",
            self.broker_connected.clone(),
        );
        registry.register("commits", "Batches committed to the store", self.commits.clone());
        registry.register("commit_seconds", "Duration of commits", self.commit_seconds.clone());
        registry.register("commit_failures", "Commits that failed", self.commit_failures.clone());
        registry.register("core_queue", "Inputs that wait for the core", self.core_queue.clone());
        registry.register("outbox_rows", "Deliveries that wait in the outbox", self.outbox_rows.clone());
        registry.register("handshakes", "Handshakes by outcome", self.handshakes.clone());
        registry.register("frames", "Good frames by kind", self.frames.clone());
        registry.register("bad_frames", "Bad frames by reason", self.bad_frames.clone());
        registry.register("connections_closed", "Ended connections by reason", self.closed.clone());
        registry.register("refused", "Refused records and connections by reason", self.refused.clone());
        registry.register("enrolments", "Enrolments by outcome", self.enrolments.clone());
        registry.register("incident_states", "States that incidents entered", self.states.clone());
        let help = "Bytes of UDP (quic) and TCP (mqtt), all overheads above those included";
        registry.register("wire_bytes", help, self.wire_bytes.clone());
        registry.register("deliveries", "Deliveries by notifier and outcome", self.deliveries.clone());
        self.register_operations(&mut registry);
        registry.register("password_checks", "Passwords checked", self.password_checks.clone());
        registry.register("log_ins", "Log-ins to the console by outcome", self.log_ins.clone());
        let help = "Requests to console and API turned away by reason";
        registry.register("requests_turned_away", help, self.turned_away.clone());
        MetricsPage { registry: Mutex::new(registry) }
    }

    fn register_operations(&self, registry: &mut Registry) {
        let help = "Whether the latest look through the database found nothing wrong";
        registry.register("store_whole", help, self.store_whole.clone());
        registry.register("store_checks", "Looks through the database by outcome", self.store_checks.clone());
        registry.register(
            "config_reloads",
            "Readings of the config while running by outcome",
            self.reloads.clone(),
        );
        let help = "Whether the config in force is what its file says";
        registry.register("config_current", help, self.config_current.clone());
        let help = "The config in force, by the beginning of the SHA-256 of its file";
        registry.register("config_active", help, self.config_active.clone());
    }
}

/// The text page of all metrics.
pub struct MetricsPage {
    registry: Mutex<Registry>,
}

impl fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPage").finish_non_exhaustive()
    }
}

impl MetricsPage {
    /// The content type that [`MetricsPage::render`] is to be served with.
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Adds a source of metrics that is asked at each reading.
    pub fn add(&self, collector: Box<dyn prometheus_client::collector::Collector>) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }

    /// The page.
    ///
    /// # Errors
    /// Only when a collector fails to write its numbers.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}
