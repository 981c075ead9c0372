//! The command line: one file for each command.
//!
//! Owns the exit codes: 0 done, 1 a problem with input or config, 2 wrong usage. Must never hold what a command does.
//! The hard case is a pipe that closes early, as in `| head`: that is done, not a problem.

pub mod bench;
pub mod check;
pub mod enroll;
pub mod run;
pub mod score;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Watches the telemetry of one machine and sends on what matters.
#[derive(Debug, Parser)]
#[command(name = "vedette-agent", version, about, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    /// Measures this machine: scores a second, received lines a second, bytes a series
    Bench(bench::BenchArgs),
    Check(check::CheckArgs),
    Enroll(enroll::EnrollArgs),
    Score(score::ScoreArgs),
}

/// Runs the command that `args` (the program's name first) ask for; the whole of the binary.
///
/// The exit code is 0 when it is done, 1 for a problem with input or config, which is named on standard error, and 2
/// for wrong usage.
pub fn main_from<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let command = match CommandLine::try_parse_from(args) {
        Ok(line) => line.command,
        Err(usage) => {
            // Nobody is left to tell when standard error is gone.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match execute(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "vedette-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Check(args) => check::check(&args),
        Command::Enroll(args) => enroll::enroll(&args),
        Command::Score(args) => score::score(args),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| kind == io::ErrorKind::BrokenPipe)
}
