//! `token create`: makes an enrolment token for agents on other machines. `token api`: tokens for scripts that ask the API.
//! It must never write a token anywhere but to standard output. The hard case is an aggregator that runs meanwhile: both write to one
//! database, which takes turns, and the token is valid at once.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::user::{Place, done, parse_name, print_accounts};
use crate::auth::Scope;
use crate::auth::secret::Key;
use crate::ca::Authority;
use crate::config::Config;
use crate::enroll::{create_token, unix_ms};
use crate::identity::Regions;
use crate::state_folder::StateFolder;
use crate::store::{KeyRow, Store};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token for one enrolment and print it.
    Create(Create),
    /// Tokens for scripts that ask console and API.
    #[command(subcommand)]
    Api(Api),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Api {
    /// Make a token and print it: the only time that it can be seen.
    Create(CreateApi),
    /// List the tokens: name, scope, when made, when they end.
    List(Place),
    /// Remove a token; it is refused at once.
    Remove(RemoveApi),
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateApi {
    /// The token's name, which is also the author of what it orders.
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// What it may do.
    #[arg(long, value_enum, default_value_t = Scope::Read)]
    scope: Scope,
    /// How long it can be used: a number and s, m, h or d; without it, until it is removed.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveApi {
    /// The token's name.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Regions that the agent may speak for; `*` for all.
    #[arg(long, value_name = "REGION", required = true, num_args = 1..)]
    region: Vec<String>,
    /// How long the token can be used: a number and s, m, h or d.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    ttl: Duration,
    /// The agent whose former key this enrolment may replace.
    #[arg(long, value_name = "AGENT")]
    replace: Option<vedette_common::AgentId>,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => create_enrolment(create),
        Command::Api(Api::Create(create)) => create_api(create),
        Command::Api(Api::List(place)) => print_accounts(&place.store()?.api_tokens()?),
        Command::Api(Api::Remove(RemoveApi { name, place })) => {
            done(place.store()?.remove_api_token(&name)?, "token", &name)
        }
    }
}

fn create_api(create: CreateApi) -> anyhow::Result<()> {
    let key = Key::generate().map_err(anyhow::Error::msg)?;
    let now_ms = unix_ms(SystemTime::now());
    let lasts_ms = create.ttl.map(|ttl| i64::try_from(ttl.as_millis())).transpose()?;
    let row = KeyRow {
        handle: key.handle,
        secret_hash: key.secret_hash(),
        name: create.name,
        scope: create.scope.as_str().to_owned(),
        expires_ms: lasts_ms.map(|lasts_ms| now_ms.saturating_add(lasts_ms)),
    };
    create.place.store()?.add_api_token(&row, now_ms)?;
    writeln!(std::io::stdout(), "{}", key.to_text())?;
    Ok(())
}

fn create_enrolment(create: Create) -> anyhow::Result<()> {
    let config = Config::load(create.config.as_deref())?;
    let regions = Regions::parse(&create.region)?;
    let folder = StateFolder::open(&config.state_dir)?;
    let authority = Authority::open(&folder, SystemTime::now())?;
    let mut store = Store::open(&folder)?;
    let replaces = create.replace.map(|agent| agent.as_str().to_owned());
    let token = create_token(&mut store, &authority, regions, replaces, Some(create.ttl))?;
    writeln!(std::io::stdout(), "{}", token.to_text())?;
    Ok(())
}

/// A whole number and a unit, at most ten years.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const TEN_YEARS_S: u64 = 3_650 * 86_400;
    let wanted = || format!("`{text}` is no duration: write a number and s, m, h or d, as in 90m or 7d");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wanted)?;
    let number: u64 = text[..split].parse().map_err(|_| wanted())?;
    let unit_s = match &text[split..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wanted()),
    };
    match number.checked_mul(unit_s) {
        Some(seconds @ 1..=TEN_YEARS_S) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{text}` must be between 1s and 3650d")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        assert_eq!(parse_duration("90m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "7", "d", "-1h", "1w", "1.5h", "0s", "4000d", "99999999999999999999d", "9ä"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
