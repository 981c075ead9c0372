//! The stage: an aggregator, an agent and a broker if the way needs one, all real, in one folder, on ports that were free or in a
//! network of their own.
//!
//! It must never use a default port or folder of the machine, nor leave a process behind. The hard case is asking a process that may be
//! dead or not ready: whoever asks gets no answer, never a zero.
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Way;
use crate::rig::{Network, Place, Process, eventually, free_address, get, program};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
/// How far before the present telemetry begins. A window of a second passes with each line, faster than the clock, so that records are
/// many; it must not catch up with the present.
const BEGINS_BEFORE_S: u64 = 10 * 86_400;
/// Windows after which a fall begins, and how many it lasts.
const FALL: [u64; 2] = [90, 10];

const QUIC_PORT: u16 = 8461;
const BROKER_PORT: u16 = 1883;
/// The ports that the agent reaches through the network.
pub(super) const PORTS: [u16; 2] = [QUIC_PORT, BROKER_PORT];
/// Who listens where in a network.
const NETWORKED: [(&str, SocketAddr); 5] = [
    ("quic", Place::Centre.address(false, QUIC_PORT)),
    ("http", Place::Centre.address(true, 8460)),
    ("lines", Place::Edge.address(true, 8094)),
    ("agent_http", Place::Edge.address(true, 8462)),
    ("broker", Place::Centre.address(false, BROKER_PORT)),
];

pub(super) struct Stage {
    // Processes first: they are dropped before the folder they write to.
    agent: Option<Process>,
    aggregator: Option<Process>,
    broker: Option<Process>,
    addresses: BTreeMap<&'static str, SocketAddr>,
    way: Way,
    pub(super) network: Option<Network>,
    /// The second that the next line is about.
    second: Cell<u64>,
    folder: tempfile::TempDir,
}

/// What the agent counts of its records since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) made: u64,
    pub(super) recovered: u64,
    pub(super) delivered: u64,
    pub(super) spooled: u64,
    pub(super) dropped: u64,
}

impl Stage {
    /// Starts everything, and waits until it is ready.
    pub(super) fn set(way: Way, network: Option<Network>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let names = ["quic", "http", "lines", "agent_http", "broker"];
        let addresses = match network {
            None => names.map(|name| (name, free_address())).into(),
            Some(_) => NETWORKED.into(),
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let second = Cell::new(now_s - BEGINS_BEFORE_S);
        let (agent, aggregator, broker) = (None, None, None);
        let mut stage = Self { agent, aggregator, broker, addresses, way, network, second, folder };
        fs::write(stage.at("aggregator.toml"), stage.aggregator_config()).expect("a config can be written");
        fs::write(stage.at("agent.toml"), stage.agent_config()).expect("a config can be written");
        stage.start_broker(false);
        stage.start_aggregator();
        if stage.network.is_some() {
            stage.enroll();
        }
        stage.start_agent();
        stage.wait_until_ready();
        stage
    }

    /// An agent that does not live beside its aggregator needs a token.
    fn enroll(&self) {
        let run = |place, name: &str, args: &[&str]| {
            let output = self.command(place, &program(name)).args(args).output().expect("the program starts");
            if !output.status.success() {
                eprintln!("{name}: {}", String::from_utf8_lossy(&output.stderr));
            }
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(said)
        };
        let at = |name: &str| self.at(name).to_str().expect("a plain path").to_owned();
        let (aggregator, agent) = (at("aggregator.toml"), at("agent.toml"));
        self.wait_for("http");
        eventually("the enrolment", 60, || {
            let create = ["token", "create", "--region", "uk", "--config", &aggregator];
            let token = run(Place::Centre, "vedette-aggregator", &create)?;
            let quic = self.uplink().to_string();
            let enroll = ["enroll", "--aggregator", &quic, "--token", &token, "--config", &agent];
            run(Place::Edge, "vedette-agent", &enroll).map(drop)
        });
    }

    /// Where the agent finds the aggregator.
    fn uplink(&self) -> SocketAddr {
        match self.network {
            None => self.addresses["quic"],
            Some(_) => Place::Edge.opposite(QUIC_PORT),
        }
    }

    /// `program` as it is started at `place`, if there are places.
    fn command(&self, place: Place, program: &Path) -> Command {
        match &self.network {
            None => Command::new(program),
            Some(network) => network.command(place, program),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.at("agent/spool")
    }

    pub(super) fn aggregator_folder(&self) -> PathBuf {
        self.at("aggregator")
    }

    fn start(&self, place: Place, name: &str, part: &str) -> Process {
        let mut command = self.command(place, &program(name));
        command.args(["run", "--config"]).arg(self.at(&format!("{part}.toml")));
        Process::start_command(command, name.to_owned(), &self.at(&format!("{part}.log")))
    }

    pub(super) fn start_agent(&mut self) {
        self.agent = Some(self.start(Place::Edge, "vedette-agent", "agent"));
    }

    pub(super) fn start_aggregator(&mut self) {
        self.aggregator = Some(self.start(Place::Centre, "vedette-aggregator", "aggregator"));
    }

    /// Starts the broker if the way needs one, with its database or without.
    pub(super) fn start_broker(&mut self, keeps: bool) {
        if self.way == Way::Quic {
            return;
        }
        assert!(Path::new(MOSQUITTO).exists(), "install Debian's mosquitto; tests/run.sh does");
        if !keeps {
            // There may be none.
            let _ = fs::remove_file(self.at("mosquitto.db"));
        }
        let config = format!(
            "listener {} {}\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
             autosave_on_changes true\nautosave_interval 1\n",
            self.addresses["broker"].port(),
            self.addresses["broker"].ip(),
            self.folder.path().display()
        );
        let path = self.at("mosquitto.conf");
        fs::write(&path, config).expect("a config can be written");
        let mut command = self.command(Place::Centre, Path::new(MOSQUITTO));
        command.arg("-c").arg(&path);
        self.broker = Some(Process::start_command(command, "mosquitto".into(), &self.at("mosquitto.log")));
    }

    pub(super) fn kill_agent(&mut self) {
        self.agent.take().expect("it was started").kill();
    }

    pub(super) fn kill_aggregator(&mut self) {
        self.aggregator.take().expect("it was started").kill();
    }

    pub(super) fn kill_broker(&mut self) {
        // There is none where the way needs none.
        if let Some(mut broker) = self.broker.take() {
            broker.kill();
        }
    }

    pub(super) fn broker_has_database(&self) -> bool {
        self.at("mosquitto.db").exists()
    }

    fn wait_for(&self, name: &str) {
        let address = self.addresses[name];
        eventually("agent and aggregator", 60, || {
            get(address, "/-/ready").filter(|(status, _)| *status == 200).map(drop)
        });
    }

    /// Waits until agent and aggregator are there. A process that ended by itself is a failure.
    pub(super) fn wait_until_ready(&mut self) {
        self.wait_for("http");
        self.wait_for("agent_http");
        let all = [&mut self.agent, &mut self.aggregator, &mut self.broker];
        assert!(all.into_iter().flatten().all(Process::runs), "a process ended by itself");
    }

    /// Sends a value of each of a few series, a second after the last ones, if the agent is there to take them; now and then one falls.
    pub(super) fn send(&self) {
        let second = self.second.replace(self.second.get() + 1);
        let Ok(mut connection) = TcpStream::connect(self.addresses["lines"]) else { return };
        for series in 0..5 {
            let falls = series == 0 && second % (FALL[0] + FALL[1]) >= FALL[0];
            let value = if falls { 100 } else { 1_000 + (second * 7 + series) % 13 };
            let line = format!("activity,device=tv{series},stack=playback value={value} {second}\n");
            // It may be killed while it reads.
            let _ = connection.write_all(line.as_bytes());
        }
    }

    /// What the agent counts; none when it does not answer.
    pub(super) fn agent_sums(&self) -> Option<Sums> {
        let (_, page) = get(self.addresses["agent_http"], "/metrics")?;
        let sum = |name: &str| sum(&page, &format!("vedette_agent_records_{name}"));
        Some(Sums {
            made: sum("made_total")?,
            recovered: sum("recovered_total")?,
            delivered: sum("delivered_total")?,
            spooled: sum("spooled")?,
            dropped: sum("dropped_total")?,
        })
    }

    /// Summaries that this process of the aggregator took as new; none when it does not answer.
    pub(super) fn accepted(&self) -> Option<u64> {
        let (_, page) = get(self.addresses["http"], "/metrics")?;
        sum(&page, "vedette_aggregator_core_summaries_total")
    }

    /// Ends the project's programs by SIGTERM, which must end each with success.
    pub(super) fn stop(mut self) {
        for process in [&mut self.agent, &mut self.aggregator] {
            assert!(process.as_mut().expect("it runs").terminate(20).success());
        }
    }

    fn broker_keys(broker: SocketAddr) -> String {
        format!("url = \"mqtt://{broker}\"\n")
    }

    fn aggregator_config(&self) -> String {
        let mqtt = if self.way == Way::Quic {
            String::new()
        } else {
            format!("[listen.mqtt]\n{}", Self::broker_keys(self.addresses["broker"]))
        };
        // Nobody but this process is in that network.
        let auth = if self.network.is_some() { "[auth]\nmode = \"none\"\n" } else { "" };
        format!(
            "state_dir = {:?}\n[listen]\nquic = \"{}\"\nhttp = \"{}\"\n[notify]\nstdout = false\n{auth}{mqtt}",
            self.aggregator_folder(),
            self.addresses["quic"],
            self.addresses["http"],
        )
    }

    fn agent_config(&self) -> String {
        let kind = match self.way {
            Way::Quic => "\"quic\"",
            Way::Mqtt => "\"mqtt\"",
            Way::Both => "[\"quic\", \"mqtt\"]",
        };
        let broker =
            self.network.as_ref().map_or(self.addresses["broker"], |_| Place::Edge.opposite(BROKER_PORT));
        let mqtt = if self.way == Way::Quic {
            String::new()
        } else {
            format!("[uplink.mqtt]\n{}", Self::broker_keys(broker))
        };
        format!(
            "agent_id = \"edge-uk\"\nstate_dir = {:?}\n[tags]\nregion = \"uk\"\n\
             [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
             [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\nprecision = \"s\"\n\
             [window]\nwindow_ms = 1000\nlateness_ms = 0\nclock = \"event\"\n[limits]\nseries_max = 100\n\
             [uplink]\nkind = {kind}\naddress = \"{quic}\"\nprefer_again_s = 2\naggregator_state_dir = {aggregator:?}\n{mqtt}\
             [http]\nlisten = \"{http}\"\n",
            self.at("agent"),
            lines = self.addresses["lines"],
            quic = self.uplink(),
            aggregator = self.aggregator_folder(),
            http = self.addresses["agent_http"],
        )
    }
}

/// The sum over the labels of a metric; none when the page does not have it.
fn sum(page: &str, name: &str) -> Option<u64> {
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let values = page.lines().filter(is_of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.map(|value| value as u64).reduce(|sum, value| sum + value)
}
