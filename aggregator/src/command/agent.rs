//! `agent list`, `agent revoke`: the agents that have certificates.
//! It must never show a key. The hard case is an aggregator that runs meanwhile: it notices a revocation within a second or two.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat};
use vedette_common::AgentId;

use crate::config::Config;
use crate::enroll::unix_ms;
use crate::state_folder::StateFolder;
use crate::store::Store;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the agents that have certificates, with their regions.
    List(List),
    /// Refuse every certificate of an agent from now on; ends its connections. `token create --replace AGENT` takes it back.
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// The agents' names.
    #[arg(value_name = "AGENT", required = true)]
    agents: Vec<AgentId>,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(List { config }) => list(&mut open(config.as_deref())?),
        Command::Revoke(Revoke { agents, config }) => revoke(&mut open(config.as_deref())?, &agents),
    }
}

fn open(config: Option<&Path>) -> anyhow::Result<Store> {
    let config = Config::load(config)?;
    Ok(Store::open(&StateFolder::open(&config.state_dir)?)?)
}

fn list(store: &mut Store) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    for agent in store.enrolled_agents()? {
        let regions = agent.regions.names().collect::<Vec<_>>().join(",");
        let state = match agent.revoked_ms {
            Some(revoked_ms) => format!("revoked {}", date(revoked_ms)),
            None => format!("enrolled {} valid until {}", date(agent.enrolled_ms), date(agent.not_after_ms)),
        };
        writeln!(out, "{} regions={regions} {state}", agent.agent)?;
    }
    Ok(())
}

fn revoke(store: &mut Store, agents: &[AgentId]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    for agent in agents {
        if store.revoke_agent(agent, unix_ms(SystemTime::now()))? {
            writeln!(out, "{agent} is revoked")?;
        } else {
            writeln!(out, "{agent} was not known; it is refused from now on")?;
        }
    }
    Ok(())
}

/// To the second, in UTC.
fn date(unix_ms: i64) -> String {
    let date = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    date.to_rfc3339_opts(SecondsFormat::Secs, true)
}
