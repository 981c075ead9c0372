//! `enroll`: obtains the certificate for mutual TLS with a token.
//!
//! Owns the command line of enrolment. Must never print the token; a command line is seen by every user of the machine, so it
//! can come by standard input as well. The hard case is a token for another aggregator: its
//! fingerprint does not match, and nothing is sent to whoever answers.

use std::io::{BufRead as _, Read as _, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::config::Config;
use crate::identity::{StateFolder, Token};
use crate::uplink;

/// Bytes of a line that is read as a token; a token has 69.
const TOKEN_LINE_BYTES_MAX: u64 = 256;

/// Obtains the certificate for mutual TLS from an aggregator.
#[derive(Debug, clap::Args)]
pub struct EnrollArgs {
    /// Where the aggregator listens, for instance aggregator.example:8461.
    #[arg(long, value_name = "HOST:PORT")]
    aggregator: String,
    /// What `vedette-aggregator token create` printed; `-` reads it from standard input, where no other user of the machine sees it.
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
    let token = if args.token == "-" { first_line()? } else { args.token.clone() };
    let token = Token::parse(&token).context("--token")?;
    let folder = StateFolder::open(&config.state_dir)?;
    let agent = folder.agent_id(config.agent_id.as_deref())?;
    let mut settings = config.uplink;
    settings.address.clone_from(&args.aggregator);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enrolled = runtime.block_on(uplink::enroll(&folder, &agent, &settings, &token, &Arc::default()));
    enrolled.with_context(|| format!("enrolment with {} failed", args.aggregator))?;
    let folder = folder.path().display();
    writeln!(std::io::stdout(), "{agent} is enrolled; key and certificate are in {folder}")?;
    Ok(())
}

fn first_line() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().take(TOKEN_LINE_BYTES_MAX).read_line(&mut line).context("standard input")?;
    Ok(line)
}
