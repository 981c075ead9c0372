//! `run`: reads the config, sets up the log, and runs the aggregator until it is told to stop.
//! It must never log to standard output, which belongs to the alarms, nor what libraries see of keys and tokens. The hard case is a bad config: every mistake is told, nothing starts.

use std::io;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat, LogLevel};
use crate::reload::ConfigFile;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// TOML file; without one, the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (file, config) = ConfigFile::open(arguments.config)?;
    start_log(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(crate::run::run(file, config));
    // A notifier may sit in a slow request; the outbox knows what it did not finish.
    runtime.shutdown_background();
    result
}

/// A second start in one process, as in tests, keeps the first log.
fn start_log(log: &Log) {
    // Libraries speak up only when something is wrong: finer, they write what they hold, as the tokens that end a QUIC connection.
    let of_libraries = if log.level == LogLevel::Error { LogLevel::Error } else { LogLevel::Warn };
    let filter = EnvFilter::new(format!("{},vedette={}", of_libraries.as_str(), log.level.as_str()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
