//! `label`: what an operator says an incident was, stored with it and shown wherever the incident is.
//! It must never change a decision that was taken; labels are what later judgements of the judgement rest on. The hard case is a changed mind:
//! the latest label holds.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;

use crate::config::Config;
use crate::enroll::unix_ms;
use crate::operators::{self, LabelKind};
use crate::state_folder::StateFolder;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The incident's id, as alarms and the console show it.
    id: String,
    /// What it was.
    label: LabelKind,
    /// Why.
    #[arg(long, default_value = "")]
    comment: String,
    /// Who says it; without one, the user who runs this.
    #[arg(long)]
    author: Option<String>,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whoever runs this, as far as the environment says.
pub(super) fn author(given: Option<String>) -> String {
    given.or_else(|| std::env::var("USER").ok()).unwrap_or_default()
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { id, label, comment, author: given, config } = arguments;
    let author = author(given);
    let config = Config::load(config.as_deref())?;
    let mut store = Store::open(&StateFolder::open(&config.state_dir)?)?;
    let stored = operators::label(&mut store, &id, label, author, comment, unix_ms(SystemTime::now()));
    let stored = stored.with_context(|| format!("in {}", config.state_dir.display()))?;
    writeln!(std::io::stdout(), "{id}: {}", stored.label)?;
    Ok(())
}
