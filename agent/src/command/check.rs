//! `check`: reads a config and prints every limit and the worst-case memory, without starting anything.
//!
//! Must never touch the network or the state folder. The hard case is a config that is valid and still cannot run: one
//! over its own memory budget is an error here already.

use std::io::Write;
use std::path::PathBuf;

use vedette_common::limits;

use crate::config::{Config, needs, worst_case_bytes};
use crate::run::check_budget;

/// Validates a config and prints every limit and the worst-case memory in bytes.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The TOML file to read; without it the defaults are checked.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs `check`.
///
/// # Errors
/// Every mistake in the config with file, line and key; a worst-case memory over the budget.
pub fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "limits")?;
    for (name, value) in configured_limits(&config).into_iter().chain(fixed_limits()) {
        writeln!(out, "  {name:<46}{value:>14}")?;
    }
    writeln!(out, "worst-case memory in bytes")?;
    for need in needs(&config) {
        writeln!(out, "  {:<46}{:>14}  for {}", need.what, need.bytes, need.items)?;
    }
    writeln!(out, "  {:<46}{:>14}", "total", worst_case_bytes(&config))?;
    writeln!(out, "  {:<46}{:>14}", "limits.memory_bytes_max", config.limits.memory_bytes_max)?;
    check_budget(&config)?;
    writeln!(out, "ok")?;
    Ok(())
}

fn configured_limits(config: &Config) -> Vec<(&'static str, u64)> {
    let pipeline = config.pipeline_settings();
    let spool = config.spool_settings();
    vec![
        ("limits.series_max", config.limits.series_max.into()),
        ("limits.memory_bytes_max", config.limits.memory_bytes_max),
        ("limits.spool_bytes_max", config.limits.spool_bytes_max.into()),
        ("cells_max", pipeline.cells_max.into()),
        ("metrics_max", pipeline.metrics_max.into()),
        ("names_max", pipeline.names_max.into()),
        ("name_bytes_max", pipeline.name_bytes_max.into()),
        ("deviations_pending_max", pipeline.deviations_pending_max.into()),
        ("spool_deviations_bytes_max", spool.deviations_bytes_max.into()),
        ("spool_segment_bytes", spool.segment_bytes.into()),
        ("source.line_protocol.connections_max", config.source.line_protocol.connections_max.into()),
        ("source.line_protocol.idle_timeout_ms", config.source.line_protocol.idle_timeout_ms.into()),
        ("window.window_ms", config.window.window_ms.into()),
        ("window.lateness_ms", pipeline.lateness_ms.into()),
        ("drain_ms", config.drain_ms.into()),
        ("log.repeats_max", config.log.repeats_max.into()),
    ]
}

fn fixed_limits() -> [(&'static str, u64); 11] {
    [
        ("line_bytes_max", limits::LINE_BYTES_MAX as u64),
        ("name_bytes_max (each)", limits::NAME_BYTES_MAX as u64),
        ("tags_max", limits::TAGS_MAX as u64),
        ("tag_set_bytes_max", limits::TAG_SET_BYTES_MAX as u64),
        ("frame_bytes_max", limits::FRAME_BYTES_MAX as u64),
        ("roll_ups_max (each summary)", limits::ROLL_UPS_MAX as u64),
        ("deviations_max (each summary)", limits::DEVIATIONS_MAX as u64),
        ("regions_max", limits::REGIONS_MAX as u64),
        ("calendar_entries_max", limits::CALENDAR_ENTRIES_MAX as u64),
        ("in_flight_max (each lane)", limits::IN_FLIGHT_MAX as u64),
        ("http connections_max", crate::health::CONNECTIONS_MAX as u64),
    ]
}
