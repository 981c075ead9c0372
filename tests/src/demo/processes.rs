//! The real processes of the demo: one aggregator, an agent for each simulated region, and one for this machine.
//!
//! Each is this very program started again under another name, so that nothing else need be installed. Enrolment is the
//! real one: a token from the aggregator, a certificate over QUIC. Must never use a default port or folder: what already
//! runs on the machine is left alone.

use super::Play;
use crate::fleet::files;
use crate::rig::{Process, eventually, free_address, get};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Region of this machine's own metrics.
pub(super) const THIS_MACHINE: &str = "this-machine";

/// The shortest window that agents allow, milliseconds; a few intervals of the fleet fall into one.
const WINDOW_MS: u32 = 1_000;

/// Everything that runs, in one temporary folder that goes when this is dropped.
pub struct Processes {
    // Processes before the folder: they are dropped in this order.
    aggregator: Process,
    agents: Vec<Process>,
    /// A connection to the agent of each simulated region, in the order of the regions.
    pub feeds: Vec<TcpStream>,
    /// Where console and API are.
    pub console: SocketAddr,
    folder: tempfile::TempDir,
}

impl Processes {
    /// Starts and enrols everything; gives up after half a minute.
    ///
    /// # Errors
    /// A process that does not start, and a token or enrolment that is refused.
    ///
    /// # Panics
    /// When a process is not ready in time; what it printed is shown.
    pub fn start(play: &Play) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vedette-demo-").tempdir()?;
        let (quic, console) = (free_address(), free_address());
        let config = folder.path().join("aggregator.toml");
        fs::write(&config, aggregator_config(play, folder.path(), quic, console))?;
        let this = std::env::current_exe()?;
        let log = folder.path().join("aggregator.log");
        let aggregator = Process::start(&this, &["aggregator", "run", "--config", path(&config)?], &log);
        let mut processes = Self { aggregator, agents: Vec::new(), feeds: Vec::new(), console, folder };
        eventually("the aggregator", 30, || ready(console));
        for region in &play.fleet.world.regions {
            let lines = processes.start_agent(&this, &config, quic, region.name, true)?;
            let feed = eventually("the agent's line protocol", 30, || TcpStream::connect(lines).ok());
            feed.set_nodelay(true)?;
            processes.feeds.push(feed);
        }
        processes.start_agent(&this, &config, quic, THIS_MACHINE, false)?;
        Ok(processes)
    }

    /// Everything that the aggregator wrote to standard output and standard error so far.
    pub fn printed(&self) -> String {
        self.aggregator.printed()
    }

    /// Stops everything gracefully.
    ///
    /// # Panics
    /// When a process does not end within ten seconds of SIGTERM.
    pub fn stop(mut self) {
        self.feeds.clear();
        for agent in &mut self.agents {
            agent.terminate(10);
        }
        self.aggregator.terminate(10);
    }

    /// Enrols and starts an agent; gives the address of its line protocol.
    fn start_agent(
        &mut self,
        this: &Path,
        aggregator: &Path,
        quic: SocketAddr,
        region: &str,
        simulated: bool,
    ) -> Result<SocketAddr> {
        let (lines, http) = (free_address(), free_address());
        let config = self.folder.path().join(format!("agent-{region}.toml"));
        let state = self.folder.path().join(format!("agent-{region}"));
        fs::write(&config, agent_config(&state, quic, lines, http, region, simulated))?;
        let token = output(
            this,
            &["aggregator", "token", "create", "--region", region, "--config", path(aggregator)?],
        )?;
        output(
            this,
            &[
                "agent",
                "enroll",
                "--aggregator",
                &quic.to_string(),
                "--token",
                token.trim(),
                "--config",
                path(&config)?,
            ],
        )?;
        let log = self.folder.path().join(format!("agent-{region}.log"));
        self.agents.push(Process::start(this, &["agent", "run", "--config", path(&config)?], &log));
        eventually(&format!("the agent of {region}"), 30, || ready(http));
        Ok(lines)
    }
}

fn ready(address: SocketAddr) -> Option<()> {
    get(address, "/-/ready").filter(|(status, _)| *status == 200).map(|_| ())
}

/// Runs a command of this program to its end and gives its standard output.
fn output(this: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(this).args(arguments).output().context("this program starts again")?;
    if !output.status.success() {
        bail!("{} {} failed: {}", arguments[0], arguments[1], String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn aggregator_config(play: &Play, folder: &Path, quic: SocketAddr, console: SocketAddr) -> String {
    let state: PathBuf = folder.join("aggregator");
    format!(
        "state_dir = {state:?}\n\n[listen]\nquic = \"{quic}\"\nhttp = \"{console}\"\n\n\
         [judge]\nlateness_ms = {}\nsilent_after_s = 30\n\n[incidents]\nquiet_s = 4\nflap_s = 24\nextension_s = 20\n\n[log]\nlevel = \"warn\"\n\n{}",
        WINDOW_MS,
        files::config(&play.fleet)
    )
}

fn agent_config(
    state: &Path,
    quic: SocketAddr,
    lines: SocketAddr,
    http: SocketAddr,
    region: &str,
    simulated: bool,
) -> String {
    let host = !simulated;
    format!(
        "agent_id = \"demo-{region}\"\nstate_dir = {state:?}\ndrain_ms = 1000\n\n[tags]\nregion = \"{region}\"\n\n\
         [source.host]\nenabled = {host}\ninterval_ms = 1000\n\n[source.statsd]\nenabled = false\n\n\
         [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n\n\
         [window]\nwindow_ms = {WINDOW_MS}\nlateness_ms = {}\n\n\
         [uplink]\naddress = \"{quic}\"\n\n[http]\nlisten = \"{http}\"\n\n[log]\nlevel = \"warn\"\n",
        WINDOW_MS / 4
    )
}
