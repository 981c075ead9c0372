//! `ca rotate`: gives the certificate authority a new key.
//! It must never cut off agents that hold certificates of the present key: the new key is cross-certified, see [`crate::ca`].
//! The hard case is a key that was stolen: agents that hold certificates of it cannot be told from the thief, so all enrol again (`--distrust`).

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::ca::{Authority, hex};
use crate::config::Config;
use crate::state_folder::StateFolder;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a new key; agents of the present key stay welcome until their certificates expire. Unused tokens become void.
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    /// Trust no certificate of the present and former keys any more: every agent must enrol again.
    #[arg(long)]
    distrust: bool,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(Command::Rotate(rotate): Command) -> anyhow::Result<()> {
    let config = Config::load(rotate.config.as_deref())?;
    let folder = StateFolder::open(&config.state_dir)?;
    let now = SystemTime::now();
    let next = if rotate.distrust {
        Authority::begin_anew(&folder, now)?
    } else {
        Authority::open(&folder, now)?.rotate(&folder, now)?
    };
    let mut out = std::io::stdout();
    writeln!(out, "new CA certificate, SHA-256 {}", hex(&next.fingerprint()))?;
    if rotate.distrust {
        writeln!(
            out,
            "a running aggregator takes it within seconds and ends the connections of agents; each must enrol again"
        )?;
    } else {
        writeln!(out, "a running aggregator takes it within seconds")?;
    }
    Ok(())
}
