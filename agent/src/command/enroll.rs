//! `enroll`: obtains the certificate for mutual TLS with a token.
//!
//! Owns the command line of enrolment. Must never print the token. The hard case is a token for another aggregator: its
//! fingerprint does not match, and nothing is sent to whoever answers.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use crate::config::Config;
use crate::identity::{StateFolder, Token};
use crate::uplink;

/// Obtains the certificate for mutual TLS from an aggregator.
#[derive(Debug, clap::Args)]
pub struct EnrollArgs {
    /// Where the aggregator listens, for instance aggregator.example:8461.
    #[arg(long, value_name = "HOST:PORT")]
    aggregator: String,
    /// What `vedette-aggregator token create` printed.
    #[arg(long)]
    token: String,
    /// The agent's config, for its name and state folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs `enroll`.
///
/// # Errors
/// A config or token that is wrong, an aggregator that cannot be reached or is another, and its refusal.
pub fn enroll(args: &EnrollArgs) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref())?;
    let token = Token::parse(&args.token).context("--token")?;
    let folder = StateFolder::open(&config.state_dir)?;
    let agent = folder.agent_id(config.agent_id.as_deref())?;
    let mut settings = config.uplink;
    settings.address.clone_from(&args.aggregator);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enrolled = runtime.block_on(uplink::enroll(&folder, &agent, &settings, &token));
    enrolled.with_context(|| format!("enrolment with {} failed", args.aggregator))?;
    let folder = folder.path().display();
    writeln!(std::io::stdout(), "{agent} is enrolled; key and certificate are in {folder}")?;
    Ok(())
}
