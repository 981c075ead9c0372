//! `backup`, `verify` and `restore`: the database is copied and looked at while the aggregator runs, and put back when it does not.
//! It must never put a damaged copy in the place of anything. The hard case is a restore beside a running aggregator, which would go on with
//! the former file: its lock keeps that from happening.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::Config;
use crate::state_folder::StateFolder;
use crate::store::{DATABASE_FILE, Store, restore_database};
use crate::verify::{Report, verify};

#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// File to write; it must not exist.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// A backup; without one, the database of the state folder.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// The backup to go on from.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn folder(config: Option<&Path>) -> anyhow::Result<StateFolder> {
    Ok(StateFolder::open(&Config::load(config)?.state_dir)?)
}

pub(super) fn backup(arguments: &Backup) -> anyhow::Result<()> {
    let database = folder(arguments.config.as_deref())?.file(DATABASE_FILE);
    let store = Store::open_to_look(&database).with_context(|| database.display().to_string())?;
    store.copy_to(&arguments.file)?;
    tell(&arguments.file)
}

pub(super) fn check(arguments: &Verify) -> anyhow::Result<()> {
    match &arguments.file {
        Some(file) => tell(file),
        None => tell(&folder(arguments.config.as_deref())?.file(DATABASE_FILE)),
    }
}

pub(super) fn restore(arguments: &Restore) -> anyhow::Result<()> {
    let folder = folder(arguments.config.as_deref())?;
    let _lock = folder.lock()?;
    let database = folder.file(DATABASE_FILE);
    let kept = restore_database(&arguments.file, &database)?;
    if let Some(kept) = kept {
        writeln!(std::io::stdout(), "what was there is now {}", kept.display())?;
    }
    tell(&database)
}

/// One line of what `file` holds, or every problem with it.
fn tell(file: &Path) -> anyhow::Result<()> {
    let named = || file.display().to_string();
    let Report { schema, parts, incidents, deliveries, problems } =
        Store::open_to_look(file).and_then(|store| verify(&store)).with_context(named)?;
    if !problems.is_empty() {
        bail!("{} is damaged:\n{}", named(), problems.join("\n"));
    }
    let older = if schema < Store::schema_known() { ", of an earlier version" } else { "" };
    writeln!(
        std::io::stdout(),
        "{}: whole{older}: schema {schema}, {parts} parts of the core, {incidents} incidents, {deliveries} deliveries wait",
        named()
    )?;
    Ok(())
}
