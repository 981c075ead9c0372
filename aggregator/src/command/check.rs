//! `check`: validates a config and prints what holds: effective values, every limit, the worst-case memory.
//! It must never start or create anything. The hard case is memory that no key bounds directly: the core's own limits are listed with the rest.

use std::io::Write;
use std::path::PathBuf;

use crate::config::{Config, Memory};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// TOML file; without one, the defaults are shown.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref())?;
    let mut out = std::io::stdout();
    writeln!(out, "# Effective values; headers of webhooks are left out.\n{}", toml::to_string(&config)?)?;
    writeln!(out, "# Worst-case memory")?;
    for memory in config.memory() {
        let Memory { limit, items, bytes_each } = memory;
        writeln!(out, "# {limit}: {items} x {bytes_each} bytes = {} bytes", memory.bytes())?;
    }
    let total: u64 = config.memory().iter().map(Memory::bytes).sum();
    writeln!(out, "# worst case in all: {total} bytes")?;
    let lines = [
        (
            config.metrics.is_empty(),
            "no [metrics]: everything is scored and shown, but only lasting deviations notify",
        ),
        (config.regions.is_empty(), "no [regions]: all clocks are UTC"),
        (
            !config.listen.http.ip().is_loopback(),
            "listen.http is not on loopback: console and API have no log-in",
        ),
    ];
    for (_, note) in lines.into_iter().filter(|(holds, _)| *holds) {
        writeln!(out, "# note: {note}")?;
    }
    Ok(())
}
