//! `run`: the agent itself, with signals as its controls.
//!
//! Owns what a signal means: SIGTERM and SIGINT drain and stop, SIGHUP reads the config again. Must never stop for a
//! config that became wrong while running: it is named in the log, and the old one stays in force.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::run::{Agent, Control};

/// Runs the agent. Without a config: this machine's metrics, StatsD on 127.0.0.1:8125/udp, line protocol on
/// 127.0.0.1:8094 tcp and udp, uplink to 127.0.0.1:8461.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The TOML file to read.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs `run` until a signal ends it.
///
/// # Errors
/// Every mistake in the config, and the first thing that cannot be opened.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref())?;
    crate::log::start(&config.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = runtime.block_on(async {
        let signals = Signals::listen()?;
        let agent = Agent::open(config)?;
        let (controls, control) = mpsc::channel(1);
        let agent = agent.run(control);
        let signals = signals.forward(args.config.as_deref(), &controls);
        tokio::pin!(agent);
        tokio::select! {
            () = &mut agent => {}
            () = signals => agent.await,
        }
        Ok(())
    });
    // Reading standard input blocks a thread of the runtime, which would hold up the end.
    runtime.shutdown_background();
    ran
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Tells the agent what each signal means, until one ends it.
    async fn forward(mut self, file: Option<&Path>, controls: &mpsc::Sender<Control>) {
        loop {
            let told = tokio::select! {
                _ = self.terminate.recv() => Some(Control::Stop),
                _ = self.interrupt.recv() => Some(Control::Stop),
                _ = self.hang_up.recv() => reread(file),
            };
            let Some(told) = told else { continue };
            let stops = matches!(told, Control::Stop);
            // An agent that is gone needs no telling.
            let _ = controls.send(told).await;
            if stops {
                return;
            }
        }
    }
}

fn reread(file: Option<&Path>) -> Option<Control> {
    match Config::load(file) {
        Ok(config) => Some(Control::Reload(Box::new(config))),
        Err(errors) => {
            for error in errors.0 {
                tracing::error!(%error, "the config is wrong; the old one stays in force");
            }
            None
        }
    }
}
