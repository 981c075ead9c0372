//! `calendar`: imports iCalendar files into the store, where a running aggregator notices them within seconds.
//! It must never refuse a file for its bad entries; they are told on standard error and the good part is kept. The hard case is a file with
//! nothing good in it: that is an error, so that it does not replace a good calendar of the same name.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::calendar::{Calendar, FILE_BYTES_MAX};
use crate::config::Config;
use crate::enroll::unix_ms;
use crate::state_folder::StateFolder;
use crate::store::{CalendarFile, Store};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Import an iCalendar file; one imported under the same name before is replaced.
    Import(Import),
    /// List the imported calendars.
    List(Place),
    /// Remove an imported calendar.
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file.
    #[arg(value_name = "FILE.ics")]
    file: PathBuf,
    /// Name to keep it under; without one, the file's.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The name that `calendar list` shows.
    name: String,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Import(import) => import_file(import),
        Command::List(place) => list(&place),
        Command::Remove(remove) => {
            let removed = store(&remove.place)?.remove_calendar(&remove.name)?;
            if removed {
                Ok(())
            } else {
                bail!("there is no calendar `{}`: see `calendar list`", remove.name)
            }
        }
    }
}

fn store(place: &Place) -> anyhow::Result<Store> {
    let config = Config::load(place.config.as_deref())?;
    Ok(Store::open(&StateFolder::open(&config.state_dir)?)?)
}

fn import_file(import: Import) -> anyhow::Result<()> {
    let (calendar, mistakes) = read(&import.file)?;
    if calendar.is_empty() {
        bail!("{} has no entry that can be used: nothing was imported", import.file.display());
    }
    let name = import
        .name
        .unwrap_or_else(|| import.file.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let body = String::from_utf8_lossy(&std::fs::read(&import.file)?).into_owned();
    let file = CalendarFile { name: name.clone(), body };
    store(&import.place)?.put_calendar(&file, unix_ms(SystemTime::now()))?;
    writeln!(std::io::stdout(), "{name}: {} entries imported, {mistakes} left out", calendar.len())?;
    Ok(())
}

fn list(place: &Place) -> anyhow::Result<()> {
    for file in store(place)?.calendars()? {
        let reading = Calendar::read(file.body.as_bytes());
        writeln!(std::io::stdout(), "{}: {} entries", file.name, reading.calendar.len())?;
    }
    Ok(())
}

/// Reads a file and tells its mistakes on standard error; gives the good part and how many mistakes there were.
pub(super) fn read(file: &Path) -> anyhow::Result<(Calendar, u64)> {
    let cannot = || format!("{} cannot be read", file.display());
    let length = file.metadata().with_context(cannot)?.len();
    if length > FILE_BYTES_MAX as u64 {
        bail!("{} has {length} bytes: at most {FILE_BYTES_MAX}", file.display());
    }
    let reading = Calendar::read(&std::fs::read(file).with_context(cannot)?);
    let mut told = std::io::stderr();
    for mistake in &reading.mistakes {
        writeln!(told, "{}: {mistake}", file.display())?;
    }
    let untold = reading.mistakes_total - reading.mistakes.len() as u64;
    if untold > 0 {
        writeln!(told, "{}: {untold} further mistakes", file.display())?;
    }
    Ok((reading.calendar, reading.mistakes_total))
}
