//! `check`: validates a config and prints what holds: effective values, every limit, the worst-case memory.
//! It must never start or create anything. The hard case is memory that no key bounds directly: the core's own limits are listed with the rest.

use std::io::Write;
use std::path::PathBuf;

use crate::auth::is_closed;
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
    let exposed = !config.listen.http.ip().is_loopback();
    let closed = is_closed(config.auth.mode, exposed);
    let lines = [
        (
            config.metrics.is_empty(),
            "no [metrics]: everything is scored and shown, but only lasting deviations notify",
        ),
        (config.regions.is_empty(), "no [regions]: all clocks are UTC"),
        (exposed && closed, "console and API need a log-in: `user add` or `token api create` make one"),
        (
            exposed && !closed,
            "listen.http is not on loopback and auth.mode is \"none\": everybody there can read",
        ),
        (
            exposed && closed && config.listen.http_tls().is_none() && config.auth.proxies.is_empty(),
            "listen.http speaks no TLS: passwords and tokens are readable on the way",
        ),
    ];
    for (_, note) in lines.into_iter().filter(|(holds, _)| *holds) {
        writeln!(out, "# note: {note}")?;
    }
    Ok(())
}
