//! `cargo demo`: real processes on this machine, events that page nobody and malfunctions that do.
//!
//! The same program is the demo and, under the hidden names `aggregator` and `agent`, the processes that it starts. With
//! `--headless` it ends by itself: 0 if every malfunction paged and no event did, else 1; the last line is JSON.

use anyhow::Result;
use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vedette_tests::demo::{Outcome, Play, Processes, show};

/// Shows Vedette at work: an aggregator, four agents, this machine's own metrics and a simulated fleet.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Open no browser, and end by itself.
    #[arg(long)]
    headless: bool,
    /// How long the play takes in all.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(45..=325))]
    seconds: u32,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let hidden = arguments.next();
    match hidden.as_ref().and_then(|name| name.to_str()) {
        Some("aggregator") => return vedette_aggregator::main_from(renamed("vedette-aggregator", arguments)),
        Some("agent") => return vedette_agent::main_from(renamed("vedette-agent", arguments)),
        _ => {}
    }
    let arguments = Arguments::parse_from([program].into_iter().chain(hidden).chain(arguments));
    match demo(&arguments) {
        Ok(outcome) if outcome.is_right() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn renamed(name: &str, rest: impl Iterator<Item = OsString>) -> Vec<OsString> {
    [OsString::from(name)].into_iter().chain(rest).collect()
}

fn demo(arguments: &Arguments) -> Result<Outcome> {
    let began_at = Instant::now();
    let stopping = stop_on_interrupt()?;
    let play = Play::new(arguments.seconds);
    let mut out = std::io::stdout();
    writeln!(out, "Starting an aggregator and four agents: own folder, own ports, mutual TLS ...")?;
    let mut processes = Processes::start(&play)?;
    let console = format!("http://{}/", processes.console);
    let speed = 300_000 / play.interval_ms;
    writeln!(out, "Console: {console}")?;
    writeln!(
        out,
        "Three simulated regions pass at {speed} times their speed; region this-machine is this machine, live."
    )?;
    writeln!(
        out,
        "The scorers learn first. Then events, which should page nobody, and malfunctions, which should.\n"
    )?;
    if !arguments.headless {
        open_browser(&console);
    }
    let outcome = show(&play, &mut processes, began_at, &stopping)?;
    if !arguments.headless && !stopping.load(Ordering::Relaxed) {
        writeln!(
            out,
            "\n{} of {} malfunctions paged, {} of {} events. The console stays at {console} until Ctrl-C.",
            outcome.incidents_paged,
            outcome.incidents_injected,
            outcome.events_paged,
            outcome.events_injected
        )?;
        while !stopping.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    processes.stop();
    writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    Ok(outcome)
}

/// True from the first Ctrl-C or SIGTERM on, so that processes and folder are cleared away.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stopping = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopping);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stopping)
}

/// Opens a browser if there is one and somebody to look at it.
fn open_browser(address: &str) {
    let seen = std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some();
    if seen {
        let browser =
            Command::new("xdg-open").arg(address).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if browser.is_err() {
            eprintln!("no browser could be opened; see {address}");
        }
    }
}
