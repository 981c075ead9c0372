//! The stage: an aggregator, an agent and a broker if the way needs one, all real, in one folder, on ports that were free.
//!
//! It must never use a default port or folder, nor leave a process behind. The hard case is asking a process that may be dead or not
//! ready: whoever asks gets no answer, never a zero.
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use super::Way;
use crate::rig::{Process, eventually, free_address, get, program};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

pub(super) struct Stage {
    // Processes first: they are dropped before the folder they write to.
    agent: Option<Process>,
    aggregator: Option<Process>,
    broker: Option<Process>,
    addresses: BTreeMap<&'static str, SocketAddr>,
    way: Way,
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
    pub(super) fn set(way: Way) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let names = ["quic", "http", "lines", "agent_http", "broker"];
        let addresses = names.map(|name| (name, free_address())).into();
        let mut stage = Self { agent: None, aggregator: None, broker: None, addresses, way, folder };
        fs::write(stage.at("aggregator.toml"), stage.aggregator_config()).expect("a config can be written");
        fs::write(stage.at("agent.toml"), stage.agent_config()).expect("a config can be written");
        if way != Way::Quic {
            stage.start_broker(false);
        }
        stage.start_aggregator();
        stage.start_agent();
        stage.wait_until_ready();
        stage
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

    fn start(&self, name: &str, part: &str) -> Process {
        let config = self.at(&format!("{part}.toml"));
        let config = config.to_str().expect("a plain path");
        Process::start(&program(name), &["run", "--config", config], &self.at(&format!("{part}.log")))
    }

    pub(super) fn start_agent(&mut self) {
        self.agent = Some(self.start("vedette-agent", "agent"));
    }

    pub(super) fn start_aggregator(&mut self) {
        self.aggregator = Some(self.start("vedette-aggregator", "aggregator"));
    }

    /// Starts the broker, with its database or without.
    pub(super) fn start_broker(&mut self, keeps: bool) {
        assert!(Path::new(MOSQUITTO).exists(), "install Debian's mosquitto; tests/run.sh does");
        if !keeps {
            // There may be none.
            let _ = fs::remove_file(self.at("mosquitto.db"));
        }
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
             autosave_on_changes true\nautosave_interval 1\n",
            self.addresses["broker"].port(),
            self.folder.path().display()
        );
        let path = self.at("mosquitto.conf");
        fs::write(&path, config).expect("a config can be written");
        let args = ["-c", path.to_str().expect("a plain path")];
        self.broker = Some(Process::start(Path::new(MOSQUITTO), &args, &self.at("mosquitto.log")));
    }

    pub(super) fn kill_agent(&mut self) {
        self.agent.take().expect("it was started").kill();
    }

    pub(super) fn kill_aggregator(&mut self) {
        self.aggregator.take().expect("it was started").kill();
    }

    pub(super) fn kill_broker(&mut self) {
        self.broker.take().expect("it was started").kill();
    }

    pub(super) fn broker_has_database(&self) -> bool {
        self.at("mosquitto.db").exists()
    }

    /// Waits until agent and aggregator are there. A process that ended by itself is a failure.
    pub(super) fn wait_until_ready(&mut self) {
        for name in ["http", "agent_http"] {
            let address = self.addresses[name];
            eventually("agent and aggregator", 60, || {
                get(address, "/-/ready").filter(|(status, _)| *status == 200).map(drop)
            });
        }
        let all = [&mut self.agent, &mut self.aggregator, &mut self.broker];
        assert!(all.into_iter().flatten().all(Process::runs), "a process ended by itself");
    }

    /// Sends a value of each of a few series, if the agent is there to take them.
    pub(super) fn send(&self) {
        let Ok(mut connection) = TcpStream::connect(self.addresses["lines"]) else { return };
        for series in 0..5 {
            let line = format!("activity,device=tv{series},stack=playback value={series}\n");
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

    fn broker_keys(&self) -> String {
        format!("url = \"mqtt://{}\"\n", self.addresses["broker"])
    }

    fn aggregator_config(&self) -> String {
        let mqtt = if self.way == Way::Quic {
            String::new()
        } else {
            format!("[listen.mqtt]\n{}", self.broker_keys())
        };
        format!(
            "state_dir = {:?}\n[listen]\nquic = \"{}\"\nhttp = \"{}\"\n[notify]\nstdout = false\n{mqtt}",
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
        let mqtt = if self.way == Way::Quic {
            String::new()
        } else {
            format!("[uplink.mqtt]\n{}", self.broker_keys())
        };
        format!(
            "agent_id = \"edge-uk\"\nstate_dir = {:?}\n[tags]\nregion = \"uk\"\n\
             [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
             [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n\
             [window]\nwindow_ms = 1000\nlateness_ms = 0\n[limits]\nseries_max = 100\n\
             [uplink]\nkind = {kind}\naddress = \"{quic}\"\naggregator_state_dir = {aggregator:?}\n{mqtt}\
             [http]\nlisten = \"{http}\"\n",
            self.at("agent"),
            lines = self.addresses["lines"],
            quic = self.addresses["quic"],
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
