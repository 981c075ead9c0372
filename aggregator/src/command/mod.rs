//! The command line: which commands there are, what each takes, and how its end becomes an exit code.
//! It must never hold the work of a command; each has a file. Exit codes: 0 done, 1 a problem with the input or config, 2 wrong usage.
//! The hard case is an error for people: it goes to standard error, with its causes, and standard output stays data.

mod agent;
mod bench;
mod ca;
mod calendar;
mod check;
mod database;
mod explain;
mod label;
mod replay;
mod run;
mod silence;
mod token;
mod user;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Judges what agents report from many regions and pages people only for malfunctions.
#[derive(Debug, Parser)]
#[command(name = "vedette-aggregator", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive from agents, judge, notify; serve the console and the API.
    Run(run::Arguments),
    /// Validate a config and print effective values, limits and worst-case memory.
    Check(check::Arguments),
    /// Play recorded telemetry through scoring and judgement.
    Replay(replay::Arguments),
    /// Measure decoding, sessions and judgement on this machine.
    Bench(bench::Arguments),
    /// Say why an incident did or did not notify.
    Explain(explain::Arguments),
    /// Say what an incident was.
    Label(label::Arguments),
    /// Hold back notifications for a while.
    #[command(subcommand)]
    Silence(silence::Command),
    /// Scheduled events.
    #[command(subcommand)]
    Calendar(calendar::Command),
    /// Agents that have certificates.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Copy the database while the aggregator runs, and check the copy.
    Backup(database::Backup),
    /// Check the database, or a backup of it.
    Verify(database::Verify),
    /// Go on from a backup; the aggregator must not run.
    Restore(database::Restore),
    /// Tokens: for the enrolment of agents, and for scripts that ask the API.
    #[command(subcommand)]
    Token(token::Command),
    /// People who may use console and API.
    #[command(subcommand)]
    User(user::Command),
    /// The certificate authority.
    #[command(subcommand)]
    Ca(ca::Command),
}

/// Runs the command that `args`, the program's name first, ask for.
pub(crate) fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output with code 0, wrong usage to standard error with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Label(arguments) => label::run(arguments),
        Command::Silence(command) => silence::run(command),
        Command::Calendar(command) => calendar::run(command),
        Command::Agent(command) => agent::run(command),
        Command::Backup(arguments) => database::backup(&arguments),
        Command::Verify(arguments) => database::check(&arguments),
        Command::Restore(arguments) => database::restore(&arguments),
        Command::Token(command) => token::run(command),
        Command::User(command) => user::run(command),
        Command::Ca(command) => ca::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vedette-aggregator: {error:#}");
            ExitCode::from(1)
        }
    }
}
