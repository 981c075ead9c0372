//! The stage: a broker, an aggregator and an agent, all real, in one temporary folder, on ports that were free.
//!
//! It must never use a default port or folder, nor leave a process behind. The hard case is a broker that is killed: with
//! its database it knows its sessions again, without it knows nobody.
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use vedette_tests::rig::{Process, eventually, free_address, get, get_json, program};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// What a broker finds when it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// Its database.
    Kept,
    /// Nothing.
    Lost,
}

pub(crate) struct Stage {
    // Processes first: they are dropped before the folder they write to.
    agent: Option<Process>,
    aggregator: Option<Process>,
    broker: Option<Process>,
    broker_address: SocketAddr,
    lines: SocketAddr,
    http: SocketAddr,
    agent_http: SocketAddr,
    quic: SocketAddr,
    way: Way,
    folder: tempfile::TempDir,
}

/// How the broker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    /// With certificates on both sides, and access rules that hold each agent to its topics.
    Tls,
}

impl Stage {
    /// Starts everything, over TCP with this version of MQTT.
    pub(crate) fn set(version: &str) -> Self {
        let mut stage = Self::prepare(version, Way::Tcp);
        stage.start_broker(Session::Lost);
        stage.start_aggregator();
        stage.start_agent();
        stage
    }

    /// Starts everything, over TLS; the certificates of agent and aggregator come from the aggregator's CA.
    pub(crate) fn set_with_tls(version: &str) -> Self {
        let mut stage = Self::prepare(version, Way::Tls);
        stage.start_aggregator();
        stage.enroll();
        stage.make_broker_certificate();
        stage.start_broker(Session::Lost);
        stage.start_agent();
        stage
    }

    fn prepare(version: &str, way: Way) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [broker_address, quic, http, lines, agent_http] = std::array::from_fn(|_| free_address());
        let stage = Self {
            agent: None,
            aggregator: None,
            broker: None,
            broker_address,
            lines,
            http,
            agent_http,
            quic,
            way,
            folder,
        };
        stage.write("aggregator.toml", &stage.aggregator_config(version));
        stage.write("agent.toml", &stage.agent_config(version));
        stage
    }

    fn enroll(&self) {
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (aggregator, agent, quic) = (at("aggregator.toml"), at("agent.toml"), self.quic.to_string());
        let create = ["token", "create", "--region", "uk", "--config", &aggregator];
        let token = run(&program("vedette-aggregator"), &create);
        let enroll = ["enroll", "--aggregator", &quic, "--token", token.trim(), "--config", &agent];
        run(&program("vedette-agent"), &enroll);
    }

    /// A certificate for the broker, of an authority of its own.
    fn make_broker_certificate(&self) {
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        self.write("san.ext", "subjectAltName=IP:127.0.0.1\n");
        let openssl = |line: String| run(Path::new("openssl"), &line.split(' ').collect::<Vec<_>>());
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let (key, ca, request) = (at("ca.key"), at("broker-ca.pem"), at("broker.csr"));
        openssl(format!("req -x509 {new_key} -days 2 -subj /CN=broker-ca -keyout {key} -out {ca}"));
        openssl(format!("req {new_key} -subj /CN=broker -keyout {} -out {request}", at("broker.key")));
        let signed = format!("-extfile {} -out {}", at("san.ext"), at("broker.crt"));
        openssl(format!("x509 -req -in {request} -CA {ca} -CAkey {key} -CAcreateserial -days 2 {signed}"));
        let rules =
            "user vedette-aggregator\ntopic readwrite vedette/v1/#\npattern readwrite vedette/v1/+/%u/#\n";
        self.write("acl", rules);
    }

    /// The broker's part of the configs of agent and aggregator.
    fn broker_keys(&self, version: &str) -> String {
        let broker = self.broker_address;
        match self.way {
            Way::Tcp => format!("url = \"mqtt://{broker}\"\nversion = \"{version}\"\n"),
            Way::Tls => format!(
                "url = \"mqtts://{broker}\"\nversion = \"{version}\"\nca_file = {:?}\n",
                self.folder.path().join("broker-ca.pem")
            ),
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub(crate) fn start_broker(&mut self, session: Session) {
        assert!(Path::new(MOSQUITTO).exists(), "install Debian's mosquitto; tests/run.sh does");
        let database = self.folder.path().join("mosquitto.db");
        match session {
            Session::Kept => assert!(database.exists(), "the broker has written its database"),
            // There may be none.
            Session::Lost => drop(fs::remove_file(database)),
        }
        self.write("mosquitto.conf", &self.broker_config());
        let config = self.folder.path().join("mosquitto.conf");
        let log = self.folder.path().join("mosquitto.log");
        self.broker = Some(Process::start(Path::new(MOSQUITTO), &["-c", config.to_str().unwrap()], &log));
        eventually("the broker", 10, || TcpStream::connect(self.broker_address).ok());
    }

    /// Whether the broker has ever written its database.
    pub(crate) fn broker_has_database(&self) -> bool {
        self.folder.path().join("mosquitto.db").exists()
    }

    pub(crate) fn kill_broker(&mut self) {
        self.broker.take().unwrap().kill();
    }

    pub(crate) fn start_aggregator(&mut self) {
        self.aggregator = Some(self.start("vedette-aggregator", "aggregator"));
        eventually("the aggregator", 30, || is_ready(self.http));
    }

    pub(crate) fn kill_aggregator(&mut self) {
        self.aggregator.take().unwrap().kill();
    }

    pub(crate) fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill();
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.start("vedette-agent", "agent"));
        eventually("the agent", 30, || is_ready(self.agent_http));
    }

    fn start(&self, name: &str, part: &str) -> Process {
        let at = |name: String| self.folder.path().join(name);
        let config = at(format!("{part}.toml"));
        Process::start(
            &program(name),
            &["run", "--config", config.to_str().unwrap()],
            &at(format!("{part}.log")),
        )
    }

    /// Sends a value of each of `series` series.
    pub(crate) fn send(&self, series: u32) {
        let lines: String = (0..series)
            .map(|index| format!("activity,device=tv{index},stack=playback value={index}\n"))
            .collect();
        let mut connection =
            eventually("the agent's line protocol", 10, || TcpStream::connect(self.lines).ok());
        connection.write_all(lines.as_bytes()).unwrap();
    }

    /// The sum of a metric of the agent over its labels.
    pub(crate) fn agent(&self, name: &str) -> u64 {
        sum(self.agent_http, name)
    }

    /// The sum of a metric of the aggregator, without its prefix, over its labels.
    pub(crate) fn aggregator(&self, name: &str) -> u64 {
        sum(self.http, &format!("vedette_aggregator_{name}"))
    }

    /// Records that the aggregator was told would never come, over all its processes: from its store.
    pub(crate) fn missing(&self) -> u64 {
        let agents = eventually("the agents in the API", 30, || get_json(self.http, "/api/v1/agents"));
        agents["agents"].as_array().into_iter().flatten().filter_map(|agent| agent["missing"].as_u64()).sum()
    }

    pub(crate) fn made(&self) -> u64 {
        self.agent("vedette_agent_records_made_total")
    }

    pub(crate) fn spooled(&self) -> u64 {
        self.agent("vedette_agent_records_spooled")
    }

    /// Stops the project's programs by SIGTERM, which must end each with success.
    pub(crate) fn stop(mut self) {
        for process in [&mut self.agent, &mut self.aggregator] {
            assert!(process.as_mut().unwrap().terminate(15).success());
        }
        self.kill_broker();
    }

    fn broker_config(&self) -> String {
        let folder = self.folder.path().display();
        let login = match self.way {
            Way::Tcp => "allow_anonymous true\n".to_owned(),
            Way::Tls => format!(
                "certfile {folder}/broker.crt\nkeyfile {folder}/broker.key\ncafile {folder}/agent/ca.crt\n\
                 require_certificate true\nuse_identity_as_username true\nacl_file {folder}/acl\n"
            ),
        };
        format!(
            "listener {port} 127.0.0.1\n{login}user root\npersistence true\n\
             persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n",
            port = self.broker_address.port(),
        )
    }

    fn aggregator_config(&self, version: &str) -> String {
        format!(
            "state_dir = {state:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n\
             [listen.mqtt]\n{broker}",
            state = self.folder.path().join("aggregator"),
            quic = self.quic,
            http = self.http,
            broker = self.broker_keys(version),
        )
    }

    fn agent_config(&self, version: &str) -> String {
        format!(
            "agent_id = \"edge-uk\"\nstate_dir = {state:?}\n[tags]\nregion = \"uk\"\n\
             [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
             [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n\
             [window]\nwindow_ms = 1000\nlateness_ms = 0\n[limits]\nseries_max = 100\n\
             [uplink]\n{kind}[uplink.mqtt]\n{broker}\
             [http]\nlisten = \"{http}\"\n",
            state = self.folder.path().join("agent"),
            lines = self.lines,
            kind = match self.way {
                Way::Tcp => "kind = \"mqtt\"\n",
                // Nobody answers at that address.
                Way::Tls => "kind = [\"quic\", \"mqtt\"]\naddress = \"127.0.0.1:9\"\n",
            },
            broker = self.broker_keys(version),
            http = self.agent_http,
        )
    }
}

fn is_ready(http: SocketAddr) -> Option<()> {
    get(http, "/-/ready").filter(|(status, _)| *status == 200).map(|_| ())
}

/// The sum of the samples whose name, or name and labels, begin so; 0 before there are any.
fn sum(http: SocketAddr, name: &str) -> u64 {
    let text = get(http, "/metrics").map(|(_, body)| body).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

fn run(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
