//! Health and metrics over HTTP: `/-/healthy`, `/-/ready`, `/metrics`.
//!
//! Owns how the engine's counts are named for Prometheus. Must never change anything: it only reads. The hard case is
//! a reader that opens connections and stays: past a limit further ones wait in the kernel's queue.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vedette_agent_core::spool::StorageFault;
use vedette_common::Lane;
use vedette_common::drops::DropUnit;

use crate::engine::{Engine, Snapshot};
use crate::source::ListenError;

/// Connections served at a time.
pub const CONNECTIONS_MAX: usize = 8;
/// Worst-case bytes of a connection: the HTTP library's read buffer limit is about 400 KiB, an answer about 10 KiB.
pub const CONNECTION_BYTES: usize = 416 * 1024;
/// The text format that every Prometheus understands.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A socket that serves health and metrics.
#[derive(Debug)]
pub struct Health {
    listener: Limited,
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
        Ok(Self { listener: Limited { listener, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) } })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.listener.local_addr().ok()
    }

    /// Serves until dropped.
    pub async fn run(self, engine: Arc<Engine>) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(EngineMetrics(engine)));
        let routes = axum::Router::new()
            .route("/-/healthy", get(|| async { "healthy\n" }))
            .route("/-/ready", get(|| async { "ready\n" }))
            .route("/metrics", get(metrics))
            .with_state(Arc::new(registry));
        if let Err(error) = axum::serve(self.listener, routes).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => Ok(([(CONTENT_TYPE, METRICS_TYPE)], text)),
        Err(fmt::Error) => Err(axum::http::StatusCode::INTERNAL_SERVER_ERROR),
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
    out.counter("vedette_agent_link_bad_frames", "Frames received that made no sense", link.bad_frames)
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

/// A listener that serves a limited number of connections; further ones wait to be accepted.
#[derive(Debug)]
struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        loop {
            // The semaphore is never closed; without a permit this connection would only be uncounted.
            let permit = self.room.clone().acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, address)) => return (Held { stream, _permit: permit }, address),
                // Out of file descriptors: wait for some to be closed instead of spinning.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its place back when it ends.
#[derive(Debug)]
struct Held {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
