//! `explain`: why an incident did or did not notify, from the store, whether an aggregator runs or not.
//! It must never answer from memory alone: each decision is taken again from what was stored, and a difference is an error (exit code 1). The
//! hard case is an incident that changed its mind: every state and decision is told in order.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;

use crate::api::explain::Explanation;
use crate::config::Config;
use crate::state_folder::StateFolder;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The incident's id, as alarms and the console show it.
    id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref())?;
    let store = Store::open(&StateFolder::open(&config.state_dir)?)?;
    let states = store.incident(&arguments.id)?;
    let ledger = store.ledger(&arguments.id)?;
    let label = store.label(&arguments.id)?;
    let Some(explanation) = Explanation::new(&arguments.id, &states, &ledger, label)? else {
        bail!("there is no incident `{}` in {}", arguments.id, config.state_dir.display());
    };
    let text =
        if arguments.json { serde_json::to_string_pretty(&explanation)? } else { explanation.to_text() };
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    if explanation.derived.iter().any(|derived| !derived.derivation.equal) {
        bail!("a decision does not come out again from what was stored of it: see above");
    }
    Ok(())
}
