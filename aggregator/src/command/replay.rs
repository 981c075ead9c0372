//! `replay`: plays recorded telemetry through scoring and judgement, and says on standard output what came of it.
//! It must never write anything but the summary to standard output, as its last line. The hard case is a big input: progress shows on a
//! terminal only, and nothing is held but what the lateness of the files asks for.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, sink};
use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::calendar::Calendar;
use crate::config::Config;
use crate::replay::input::Input;
use crate::replay::{Outputs, Replay};

/// Lines between two looks at the progress.
const PROGRESS_LINES: u64 = 20_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// TOML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Telemetry as Influx line protocol or CSV; each file in the order of its time.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// Scheduled events.
    #[arg(long, value_name = "FILE.ics")]
    calendar: Option<PathBuf>,
    /// Where to write every state that an incident enters, as NDJSON.
    #[arg(long, value_name = "OUT.ndjson")]
    alarms: PathBuf,
    /// Where to write every decision not to notify, as NDJSON.
    #[arg(long, value_name = "OUT.ndjson")]
    ledger: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(Some(&arguments.config))?;
    let (calendar, mistakes) = match &arguments.calendar {
        Some(file) => super::calendar::read(file)?,
        None => (Calendar::default(), 0),
    };
    let mut input = Input::open(&arguments.input, &config)?;
    let ledger: Box<dyn Write> = match &arguments.ledger {
        Some(file) => Box::new(create(file)?),
        None => Box::new(sink()),
    };
    let outputs = Outputs { alarms: Box::new(create(&arguments.alarms)?), ledger };
    let mut replay = Replay::new(&config, calendar, outputs);
    let progress = progress(&arguments.input);
    let mut lines = 0_u64;
    loop {
        if lines.is_multiple_of(PROGRESS_LINES) {
            progress.set_position(input.bytes_read());
        }
        let Some(line) = input.next_line()? else { break };
        replay.handle_line(&line).context("the results cannot be written")?;
        lines += 1;
    }
    let mut report = replay.finish(&input.dropped).context("the results cannot be written")?;
    report.calendar_mistakes = mistakes;
    progress.finish_and_clear();
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

fn create(file: &Path) -> anyhow::Result<BufWriter<File>> {
    let created = File::create(file).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(BufWriter::new(created))
}

/// A bar over the bytes of all files, hidden unless standard error is a terminal.
fn progress(files: &[PathBuf]) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|it| it.len()).sum();
    let style = ProgressStyle::with_template("{bar:40} {percent}% {bytes}/{total_bytes}, {eta} left");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
