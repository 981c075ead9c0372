//! `user`: people who may use console and API.
//! It must never take a password from the command line, where every other user of the machine could read it. The hard case is a script: without
//! a terminal the password is the first line of standard input.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, bail};
use console::Term;

use crate::auth::Scope;
use crate::auth::password::{self, PASSWORD_BYTES_MAX, PasswordHash};
use crate::config::Config;
use crate::enroll::unix_ms;
use crate::limits::ACCOUNT_NAME_BYTES_MAX;
use crate::state_folder::StateFolder;
use crate::store::{Account, Store};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a user; the password is read from the terminal, or as the first line of standard input.
    Add(Add),
    /// Change a password and end the user's sessions.
    Password(Named),
    /// List the users: name, scope, when made.
    List(Place),
    /// Remove a user and end their sessions.
    Remove(Named),
}

#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// TOML file that names the state folder; without one, the default folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The user's name.
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    #[command(flatten)]
    named: Named,
    /// What the user may do.
    #[arg(long, value_enum, default_value_t = Scope::Write)]
    scope: Scope,
}

impl Place {
    /// The store in the state folder.
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        let config = Config::load(self.config.as_deref())?;
        Ok(Store::open(&StateFolder::open(&config.state_dir)?)?)
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add(Add { named, scope }) => {
            let mut store = named.place.store()?;
            if store.users()?.iter().any(|user| user.name == named.name) {
                bail!("`{0}` exists already: see `user password {0}`", named.name);
            }
            let hash = PasswordHash::new(&new_password()?)?.to_text();
            Ok(store.add_user(&named.name, &hash, scope.as_str(), unix_ms(SystemTime::now()))?)
        }
        Command::Password(Named { name, place }) => {
            let mut store = place.store()?;
            let hash = PasswordHash::new(&new_password()?)?.to_text();
            done(store.change_password(&name, &hash)?, "user", &name)
        }
        Command::List(place) => print_accounts(&place.store()?.users()?),
        Command::Remove(Named { name, place }) => done(place.store()?.remove_user(&name)?, "user", &name),
    }
}

/// Whether there was one.
pub(super) fn done(found: bool, what: &str, name: &str) -> anyhow::Result<()> {
    if found { Ok(()) } else { bail!("there is no {what} `{name}`") }
}

/// One line for each: name, scope, when made, when it ends.
pub(super) fn print_accounts(accounts: &[Account]) -> anyhow::Result<()> {
    let mut out = io::stdout();
    for Account { name, scope, created_ms, expires_ms } in accounts {
        let end = expires_ms.map(|end| format!("\tuntil {}", time(end))).unwrap_or_default();
        writeln!(out, "{name}\t{scope}\tsince {}{end}", time(*created_ms))?;
    }
    Ok(())
}

fn time(at_ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Letters, digits and `.`, `_`, `-`, `@`: what needs no quoting anywhere.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
    if (1..=ACCOUNT_NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("a name has 1 to {ACCOUNT_NAME_BYTES_MAX} characters out of a-z, A-Z, 0-9 and .-_@"))
}

fn new_password() -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() { ask_twice()? } else { first_line(io::stdin().lock())? };
    match password::problem(&password) {
        Some(problem) => bail!(problem),
        None => Ok(password),
    }
}

/// Without showing it.
fn ask_twice() -> anyhow::Result<String> {
    let terminal = Term::stderr();
    let ask = |prompt: &str| {
        terminal.write_str(prompt)?;
        terminal.read_secure_line()
    };
    let password = ask("Password: ").context("the terminal gives no password")?;
    if ask("Again: ")? != password {
        bail!("the two differ");
    }
    Ok(password)
}

fn first_line(input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    let most = u64::try_from(PASSWORD_BYTES_MAX + 2).unwrap_or(u64::MAX);
    input.take(most).read_line(&mut line).context("no password on standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_first_line_without_its_end() {
        assert_eq!(first_line(&b"correct horse\r\nbattery\n"[..]).unwrap(), "correct horse");
        assert_eq!(first_line(&b" with spaces "[..]).unwrap(), " with spaces ");
        assert_eq!(first_line(&[b'x'; 100_000][..]).unwrap().len(), PASSWORD_BYTES_MAX + 2);
    }

    #[test]
    fn names_need_no_quoting() {
        assert_eq!(parse_name("ada.l@x-y_1"), Ok("ada.l@x-y_1".to_owned()));
        for bad in ["", "a b", "a'b", "ä", &"x".repeat(65)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
