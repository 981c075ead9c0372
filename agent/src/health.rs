//! Health and metrics over HTTP: `/-/healthy`, `/-/ready`, `/metrics`.
//!
//! Owns how the engine's counts are named for Prometheus. Must never change anything: it only reads. The hard case is
//! a reader that opens connections and stays: past a limit further ones wait in the kernel's queue.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use vedette_agent_core::spool::StorageFault;
use vedette_common::Lane;
use vedette_common::drops::DropUnit;

use crate::engine::{Engine, Snapshot};
use crate::http::{self, Answer, Status};
use crate::source::ListenError;
use crate::source::datagrams::DroppedDatagrams;

/// Connections served at a time.
pub const CONNECTIONS_MAX: usize = 8;
/// Worst-case bytes of a connection: a request's head, the metrics as text (about 10 KiB) and as an answer, and its task.
pub const CONNECTION_BYTES: usize = http::HEAD_BYTES_MAX + 2 * 20 * 1024 + 1024;
/// How long a connection may take for its request and for taking the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after a connection that could not be accepted, as when there are no more file handles.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The text format that every Prometheus understands.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A socket that serves health and metrics.
#[derive(Debug)]
pub struct Health {
    listener: TcpListener,
}

impl Health {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be had.
    pub fn open(address: SocketAddr) -> Result<Self, ListenError> {
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listener = listen().map_err(|cause| ListenError { key: "http.listen", address, cause })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until dropped; tells what the engine did, and what the system dropped of each source.
    pub async fn run(self, engine: Arc<Engine>, dropped: Vec<(&'static str, DroppedDatagrams)>) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(EngineMetrics(engine)));
        registry.register_collector(Box::new(SourceMetrics(dropped)));
        let registry = Arc::new(registry);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // However it ended: the reader sees that, and nobody else is concerned.
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let registry = registry.clone();
                        let served = http::serve(stream, move |path| answer(path, &registry));
                        connections.spawn(tokio::time::timeout(CONNECTION_TIMEOUT, served));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_REST).await,
                }
            }
        }
    }
}

fn answer(path: &str, registry: &Registry) -> Answer {
    let words = |words: &str| Answer {
        status: Status::Ok,
        content_type: "text/plain; charset=utf-8",
        body: words.into(),
    };
    match path {
        "/-/healthy" => words("healthy\n"),
        "/-/ready" => words("ready\n"),
        "/metrics" => {
            let mut body = String::new();
            match encode(&mut body, registry) {
                Ok(()) => Answer { status: Status::Ok, content_type: METRICS_TYPE, body },
                Err(fmt::Error) => Answer::bare(Status::Failed),
            }
        }
        _ => Answer::bare(Status::NotFound),
    }
}

/// Turns a snapshot of the engine into metrics whenever somebody asks.
#[derive(Debug)]
struct EngineMetrics(Arc<Engine>);

impl Collector for EngineMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Out(encoder);
        let snapshot = self.0.snapshot();
        encode_observations(&mut out, &snapshot)?;
        encode_records(&mut out, &snapshot)?;
        encode_link(&mut out, &snapshot)?;
        out.counter(
            "vedette_agent_log_lines_suppressed",
            "Log lines held back by the rate limit",
            crate::log::suppressed(),
        )
    }
}

/// What the system dropped before a source could read it.
#[derive(Debug)]
struct SourceMetrics(Vec<(&'static str, DroppedDatagrams)>);

impl Collector for SourceMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let told = self.0.iter().filter_map(|(source, dropped)| Some((*source, dropped.total()?)));
        let help = "Datagrams that the system dropped because they were not read in time";
        Out(encoder).counters("vedette_agent_datagrams_dropped", help, "source", told)
    }
}

fn encode_observations(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let counts = &snapshot.pipeline;
    out.counter(
        "vedette_agent_observations",
        "Observations received and unreadable lines; observations = scored + dropped with unit observation",
        counts.observed,
    )?;
    out.counter(
        "vedette_agent_observations_scored",
        "Observations that went through the scorers",
        counts.scored,
    )?;
    out.counter(
        "vedette_agent_statsd_values_folded",
        "StatsD values folded into observations",
        counts.folded,
    )?;
    let mut dropped = counts.drops;
    dropped.merge(&snapshot.spool.dropped);
    let help = "What was dropped, by reason and what it counts";
    let mut metric = out.0.encode_descriptor("vedette_agent_dropped", help, None, MetricType::Counter)?;
    for (reason, count) in dropped.iter() {
        let labels = [("reason", reason.as_str()), ("unit", unit_name(reason.unit()))];
        metric.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
    }
    out.counter("vedette_agent_deviations", "Deviations that began", counts.onsets)?;
    out.counter("vedette_agent_deviations_unwanted", "Deviations not asked for", counts.unwanted)?;
    out.counter(
        "vedette_agent_series_evicted",
        "Series evicted because another needed the slot",
        counts.evicted,
    )?;
    out.gauge("vedette_agent_series", "Series held now", counts.series.into())?;
    out.gauge("vedette_agent_cells", "Cells held now", counts.cells.into())?;
    out.gauge("vedette_agent_metrics", "Metrics of all cells held now", counts.metrics.into())
}

const fn unit_name(unit: DropUnit) -> &'static str {
    match unit {
        DropUnit::Observation => "observation",
        DropUnit::Record => "record",
        DropUnit::Frame => "frame",
    }
}

fn encode_records(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let spool = &snapshot.spool;
    out.counter(
        "vedette_agent_records_made",
        "Records made; made + recovered = delivered + spooled + dropped",
        spool.appended,
    )?;
    out.counter(
        "vedette_agent_records_recovered",
        "Records found in the spool at the start",
        spool.recovered,
    )?;
    out.counter(
        "vedette_agent_records_delivered",
        "Records that the aggregator acknowledged",
        spool.acknowledged,
    )?;
    out.counter(
        "vedette_agent_records_dropped",
        "Records dropped, for whatever reason",
        spool.dropped.total(DropUnit::Record),
    )?;
    let spooled =
        Lane::ALL.into_iter().zip(snapshot.spooled_records).map(|(lane, count)| (lane.as_str(), count));
    out.gauges(
        "vedette_agent_records_spooled",
        "Records that wait for their acknowledgement",
        "lane",
        spooled,
    )?;
    out.gauge("vedette_agent_spooled_bytes", "Bytes of the records that wait", snapshot.spooled_bytes)?;
    out.gauge(
        "vedette_agent_spool_file_bytes",
        "Bytes that the spool's files take",
        snapshot.spool_file_bytes,
    )?;
    let faults =
        StorageFault::ALL.into_iter().zip(spool.faults).map(|(fault, count)| (fault.as_str(), count));
    out.counters("vedette_agent_spool_faults", "Failures of the spool's files", "fault", faults)
}

fn encode_link(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let link = &snapshot.link;
    out.gauge("vedette_agent_connected", "Whether the aggregator is connected", snapshot.connected.into())?;
    out.counter("vedette_agent_records_sent", "Records sent, repetitions included", link.sent)?;
    out.counter("vedette_agent_records_resent", "Records sent again", link.resent)?;
    out.counter("vedette_agent_link_refusals", "Refusals received", link.refused)?;
    out.counter("vedette_agent_link_timeouts", "Times that no acknowledgement came in time", link.timeouts)?;
    out.counter("vedette_agent_link_reconnects", "Attempts to connect after the first", link.reconnects)?;
    out.counter("vedette_agent_link_bad_frames", "Frames received that made no sense", link.bad_frames)?;
    let help = "Bytes of UDP (quic) and TCP (mqtt), all overheads above those included";
    let mut metric = out.0.encode_descriptor("vedette_agent_wire_bytes", help, None, MetricType::Counter)?;
    for (transport, bytes) in ["quic", "mqtt"].into_iter().zip(snapshot.wire_bytes) {
        for (direction, count) in ["sent", "received"].into_iter().zip(bytes) {
            let labels = [("transport", transport), ("direction", direction)];
            metric.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
        }
    }
    Ok(())
}

/// Writes metrics one by one.
struct Out<'a>(DescriptorEncoder<'a>);

/// Counters carry no exemplars here.
const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], u64>> = None;

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter(&value, NO_EXEMPLAR)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            metric.encode_family(&[(label, of)])?.encode_counter(&value, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            metric.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
