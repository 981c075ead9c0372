//! What a config may need in memory at worst, limit by limit.
//!
//! Owns the sum that the budget is held against. Must never leave out a buffer that can grow with a setting. The hard
//! case is honesty: each cost is the worst case of the code that holds it, named there.

use std::cmp::Reverse;

use vedette_agent_core::deviation::Interest;
use vedette_agent_core::metric::{METRIC_RULES_MAX, MetricRule, MetricRules};
use vedette_agent_core::pipeline::PipelineSettings;
use vedette_agent_core::spool::SpoolSettings;
use vedette_common::limits::FRAME_BYTES_MAX;

use super::{AlarmOn, Config, Metric, Transport};
use crate::{health, source, uplink};

/// Pages of the program's file and of its libraries: as many as these have on x86-64, where they are largest, 4.3 MB and
/// 1.7 MB in the profile edge, rounded up.
const PROGRAM_FILE_BYTES: u64 = 6 << 20;
/// Runtime, log, certificates and the cores' own structures: with one series and no connection 1.3 MB on x86-64, rounded up.
const PROGRAM_BYTES: u64 = 2 << 20;

/// What one setting may need at worst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The setting that decides it, or what it is for.
    pub what: &'static str,
    /// How many it allows.
    pub items: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Everything that `config` may need in memory.
#[must_use]
pub fn needs(config: &Config) -> Vec<Need> {
    let need = |what, items: u64, bytes| Need { what, items, bytes };
    let source = &config.source;
    let lines = u64::from(source.line_protocol.enabled);
    let connections = lines * u64::from(source.line_protocol.connections_max);
    let datagram_sockets = lines + u64::from(source.statsd.enabled);
    let files = source.file.paths.len() as u64 + u64::from(source.file.stdin);
    let requests = u64::from(config.http.enabled) * health::CONNECTIONS_MAX as u64;
    let pipeline = config.pipeline_settings();
    let spool = config.spool_settings();
    vec![
        need("program (pages of its files)", 1, PROGRAM_FILE_BYTES),
        need("program (runtime, log, certificates)", 1, PROGRAM_BYTES),
        need("limits.series_max", config.limits.series_max.into(), pipeline.memory_bytes() as u64),
        need(
            "limits.spool_bytes_max (index in memory)",
            spool.segments() as u64,
            spool.memory_bytes() as u64,
        ),
        need("uplink (connection)", 1, uplink_bytes(config)),
        need("source datagrams", datagram_sockets, datagram_sockets * source::datagrams::SOCKET_BYTES as u64),
        need(
            "source.line_protocol.connections_max",
            connections,
            connections * source::line_protocol::CONNECTION_BYTES as u64,
        ),
        need("source.file", files, files * source::lines::LINE_BUFFER_BYTES as u64),
        need("http connections", requests, requests * health::CONNECTION_BYTES as u64),
    ]
}

/// A connection of each kind that the config names, since both stand while the agent goes back to the preferred one; one
/// more over which a certificate is renewed; and the batch and frame on the way.
fn uplink_bytes(config: &Config) -> u64 {
    let cost = |transport, bytes| if config.uplink.kind.contains(transport) { bytes } else { 0 };
    let quic = cost(Transport::Quic, uplink::quic::CONNECTION_BYTES);
    let mqtt = cost(Transport::Mqtt, uplink::mqtt::CONNECTION_BYTES);
    let renewal = uplink::quic::CONNECTION_BYTES + FRAME_BYTES_MAX;
    (quic + mqtt + renewal + uplink::BATCH_BYTES_MAX + FRAME_BYTES_MAX) as u64
}

/// The sum of [`needs`].
#[must_use]
pub fn worst_case_bytes(config: &Config) -> u64 {
    needs(config).iter().map(|need| need.bytes).sum()
}

impl Config {
    /// The pipeline's settings.
    #[must_use]
    pub fn pipeline_settings(&self) -> PipelineSettings {
        PipelineSettings {
            dimensions: self.core_dimensions(),
            window_ms: self.window.window_ms,
            lateness_ms: self.window.lateness_ms.min(self.window.window_ms),
            flush_ms: self.source.statsd.flush_ms,
            silent_ms: PipelineSettings::default().silent_ms.max(self.window.window_ms.saturating_mul(4)),
            metrics: self.metric_rules(),
            ..PipelineSettings::for_series(self.limits.series_max)
        }
    }

    /// The rules for metrics: exact names first, then beginnings, the longest first.
    fn metric_rules(&self) -> MetricRules {
        let mut named: Vec<(&String, &Metric)> = self.metrics.iter().collect();
        named.sort_by_key(|(name, _)| (name.ends_with('*'), Reverse(name.len())));
        let rule = |(name, metric): (&String, &Metric)| {
            let pattern = heapless::String::try_from(name.as_str()).ok()?;
            let interest = match metric.alarm_on {
                AlarmOn::Both => Interest::Both,
                AlarmOn::Drop => Interest::Drop,
                AlarmOn::Rise => Interest::Rise,
            };
            Some(MetricRule { pattern, interest, counter: metric.counter })
        };
        // Names too long and rules too many were refused when the config was read.
        named.into_iter().filter_map(rule).take(METRIC_RULES_MAX).collect()
    }

    /// The spool's settings.
    #[must_use]
    pub fn spool_settings(&self) -> SpoolSettings {
        SpoolSettings::with_bytes_max(self.limits.spool_bytes_max)
    }
}
