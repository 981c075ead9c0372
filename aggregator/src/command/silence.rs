//! `silence`: an operator's order not to be notified of something for a while, stored where a running aggregator sees it.
//! It must never hide anything: what it holds back is suppressed with the silence as its reason. The hard case is the times: a start and an
//! end, or a start and how long.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use vedette_aggregator_core::Scope;
use vedette_common::WallMs;

use crate::config::Config;
use crate::enroll::unix_ms;
use crate::operators::{self, NewSilence};
use crate::state_folder::StateFolder;
use crate::store::Store;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a silence.
    Add(Add),
    /// List the silences that have not ended.
    List(Place),
    /// End a silence.
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Regions; none for all.
    #[arg(long, num_args = 1..)]
    region: Vec<String>,
    /// Device families; none for all.
    #[arg(long, num_args = 1..)]
    device: Vec<String>,
    /// Stacks; none for all.
    #[arg(long, num_args = 1..)]
    stack: Vec<String>,
    /// How long: a number and s, m, h or d.
    #[arg(long = "for", value_name = "DURATION", value_parser = super::token::parse_duration)]
    duration: Option<Duration>,
    /// When it begins, as 2026-03-09T20:15:00Z; without it, now.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<WallMs>,
    /// When it ends, in place of how long it lasts.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "duration", required_unless_present = "duration")]
    until: Option<WallMs>,
    /// Who orders it; without one, the user who runs this.
    #[arg(long)]
    author: Option<String>,
    /// Why.
    #[arg(long)]
    comment: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The number that `silence list` shows.
    number: i64,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add(add) => add_silence(add),
        Command::List(place) => list(&place),
        Command::Remove(remove) => {
            let removed = store(&remove.place)?.remove_silence(remove.number)?;
            if removed { Ok(()) } else { bail!("there is no silence {}: see `silence list`", remove.number) }
        }
    }
}

/// A time as RFC 3339 writes it, in any zone.
fn parse_time(text: &str) -> Result<WallMs, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text);
    time.map(|time| WallMs(time.timestamp_millis()))
        .map_err(|error| format!("{error}: write it as 2026-03-09T20:15:00Z"))
}

fn store(place: &Place) -> anyhow::Result<Store> {
    let config = Config::load(place.config.as_deref())?;
    Ok(Store::open(&StateFolder::open(&config.state_dir)?)?)
}

fn add_silence(add: Add) -> anyhow::Result<()> {
    let now = unix_ms(SystemTime::now());
    let from = add.from.map_or(now, |from| from.0);
    let until = match (add.until, add.duration) {
        (Some(until), _) => until.0,
        (None, lasts) => from.saturating_add(i64::try_from(lasts.unwrap_or_default().as_millis())?),
    };
    let new = NewSilence {
        scope: Scope { region: add.region, device: add.device, stack: add.stack },
        from_ms: from,
        until_ms: until,
        author: super::label::author(add.author),
        comment: add.comment,
    };
    let config = Config::load(add.place.config.as_deref())?;
    let mut store = Store::open(&StateFolder::open(&config.state_dir)?)?;
    let unknown = operators::unknown(&store, &config, &new.scope)?;
    let (number, _) = operators::silence(&mut store, new, now)?;
    writeln!(std::io::stdout(), "{number}")?;
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        writeln!(
            std::io::stderr(),
            "warning: neither the config nor any agent names {names}: the silence holds, and silences nothing there so far"
        )?;
    }
    Ok(())
}

fn list(place: &Place) -> anyhow::Result<()> {
    for row in store(place)?.silences(unix_ms(SystemTime::now()))? {
        writeln!(std::io::stdout(), "{}\t{}", row.number, row.body)?;
    }
    Ok(())
}
