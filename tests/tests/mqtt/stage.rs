//! The stage: a broker, an aggregator and an agent, all real, in one temporary folder, on ports that were free.
//!
//! It must never use a default port or folder, nor leave a process behind. The hard case is a broker that is killed: with
//! its database it knows its sessions again, without it knows nobody.
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vedette_tests::rig::{
    Loss, LossyBroker, Process, UdpRelay, eventually, free_address, get, get_json, program,
};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const NATS: &str = "/usr/sbin/nats-server";
/// The password of everybody at the broker that asks for one.
const PASSWORD: &str = "of the broker";

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
    /// A second one that shares the summaries.
    companion: Option<Process>,
    broker_address: SocketAddr,
    companion_http: SocketAddr,
    lossy: Option<LossyBroker>,
    relay: UdpRelay,
    setup: Setup,
    lines: SocketAddr,
    http: SocketAddr,
    agent_http: SocketAddr,
    /// What the agent enrolled with, if it did.
    pub(crate) token: String,
    pub(crate) folder: tempfile::TempDir,
}

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    Mosquitto,
    /// Through its MQTT port, with a user and a password; it speaks 3.1.1.
    Nats,
}

/// What a stage is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) version: &'static str,
    pub(crate) broker: Broker,
    pub(crate) way: Way,
    /// The agent's `uplink.kind`.
    pub(crate) kind: &'static str,
    /// What of the agent's messages the broker drops now and then.
    pub(crate) loses: Option<Loss>,
    /// Whether two aggregators share the summaries.
    pub(crate) is_shared: bool,
    pub(crate) window_ms: u32,
}

impl Setup {
    pub(crate) const fn new(version: &'static str) -> Self {
        Self {
            version,
            broker: Broker::Mosquitto,
            way: Way::Tcp,
            kind: "\"mqtt\"",
            loses: None,
            is_shared: false,
            window_ms: 1_000,
        }
    }
}

/// How the broker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    /// With certificates on both sides, and access rules that hold each agent to its topics.
    Tls,
}

impl Stage {
    /// Starts everything, over TCP with this version of MQTT.
    pub(crate) fn set(setup: Setup) -> Self {
        let mut stage = Self::prepare(setup);
        stage.start_broker(Session::Lost);
        if let Some(loss) = setup.loses {
            stage.lossy = Some(LossyBroker::start(stage.broker_address, loss));
            stage.write("agent.toml", &stage.agent_config());
        }
        stage.start_aggregator();
        if setup.is_shared {
            stage.companion = Some(stage.start("vedette-aggregator", "companion"));
            eventually("the second aggregator", 30, || is_ready(stage.companion_http));
        }
        stage.start_agent();
        stage
    }

    /// Starts everything, over TLS; the certificates of agent and aggregator come from the aggregator's CA.
    pub(crate) fn set_with_tls(version: &'static str) -> Self {
        Self::set_with_tls_at(Broker::Mosquitto, version)
    }

    /// The same with another broker.
    pub(crate) fn set_with_tls_at(broker: Broker, version: &'static str) -> Self {
        let kind = "[\"quic\", \"mqtt\"]";
        let mut stage = Self::prepare(Setup { way: Way::Tls, kind, broker, ..Setup::new(version) });
        // Enrolling takes QUIC; after that nobody answers there.
        stage.relay.set_open(true);
        stage.start_aggregator();
        stage.enroll();
        stage.relay.set_open(false);
        stage.make_broker_certificate();
        stage.start_broker(Session::Lost);
        stage.start_agent();
        stage
    }

    fn prepare(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [broker_address, quic, http, companion_http, lines, agent_http] =
            std::array::from_fn(|_| free_address());
        let stage = Self {
            agent: None,
            aggregator: None,
            broker: None,
            companion: None,
            broker_address,
            companion_http,
            lossy: None,
            relay: UdpRelay::start(quic),
            setup,
            lines,
            http,
            agent_http,
            token: String::new(),
            folder,
        };
        stage.write("password", PASSWORD);
        stage.write("aggregator.toml", &stage.aggregator_config("aggregator", quic, http));
        let companion = stage.aggregator_config("companion", free_address(), companion_http);
        stage.write("companion.toml", &companion);
        stage.write("agent.toml", &stage.agent_config());
        stage
    }

    fn enroll(&mut self) {
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (aggregator, agent) = (at("aggregator.toml"), at("agent.toml"));
        let quic = self.relay.address().to_string();
        let create = ["token", "create", "--region", "uk", "--config", &aggregator];
        let token = run(&program("vedette-aggregator"), &create);
        let enroll = ["enroll", "--aggregator", &quic, "--token", "-", "--config", &agent];
        let mut command = Command::new(program("vedette-agent"));
        let mut enrolling = command.args(enroll).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        enrolling.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
        assert!(enrolling.wait().unwrap().success(), "the agent enrols");
        token.trim().clone_into(&mut self.token);
    }

    /// What a command of the aggregator prints.
    pub(crate) fn aggregator_says(&self, args: &[&str]) -> String {
        let config = self.folder.path().join("aggregator.toml");
        run(&program("vedette-aggregator"), &[args, &["--config", config.to_str().unwrap()]].concat())
    }

    /// The aggregator's answer to a GET.
    pub(crate) fn api(&self, path: &str) -> serde_json::Value {
        eventually(path, 30, || get_json(self.http, path))
    }

    /// A certificate for the broker, of an authority of its own.
    fn make_broker_certificate(&self) {
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        self.write("san.ext", "subjectAltName=IP:127.0.0.1\n");
        let openssl = |words: &str, paths: &[(&str, &str)]| {
            let mut arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
            for (option, name) in paths {
                arguments.extend([(*option).to_owned(), at(name)]);
            }
            run(Path::new("openssl"), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        };
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let (key, ca) = (("-keyout", "ca.key"), ("-out", "broker-ca.pem"));
        openssl(&format!("req -x509 {new_key} -days 2 -subj /CN=broker-ca"), &[key, ca]);
        let (key, request) = (("-keyout", "broker.key"), ("-out", "broker.csr"));
        openssl(&format!("req {new_key} -subj /CN=broker"), &[key, request]);
        let (request, signed) = (("-in", "broker.csr"), ("-out", "broker.crt"));
        let (ca, key, names) = (("-CA", "broker-ca.pem"), ("-CAkey", "ca.key"), ("-extfile", "san.ext"));
        openssl("x509 -req -CAcreateserial -days 2", &[request, ca, key, names, signed]);
        let rules =
            "user vedette-aggregator\ntopic readwrite vedette/v1/#\npattern readwrite vedette/v1/+/%u/#\n";
        self.write("acl", rules);
    }

    /// The broker's part of the configs of agent and aggregator.
    fn broker_keys(&self, broker: SocketAddr) -> String {
        let version = self.setup.version;
        match self.setup.way {
            Way::Tcp if self.setup.broker == Broker::Nats => format!(
                "url = \"mqtt://{broker}\"\nversion = \"{version}\"\nusername = \"vedette\"\npassword_file = {:?}\n",
                self.folder.path().join("password")
            ),
            Way::Tcp => format!("url = \"mqtt://{broker}\"\nversion = \"{version}\"\n"),
            Way::Tls => format!(
                "url = \"mqtts://{broker}\"\nversion = \"{version}\"\nca_file = {:?}\n",
                self.folder.path().join("broker-ca.pem")
            ),
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub(crate) fn start_broker(&mut self, session: Session) {
        if session == Session::Kept {
            assert!(self.broker_has_database(), "the broker has written its database");
        } else {
            // There may be none.
            drop(fs::remove_file(self.database()));
            drop(fs::remove_dir_all(self.database()));
        }
        let (program, text) = match self.setup.broker {
            Broker::Mosquitto => (Path::new(MOSQUITTO), self.mosquitto_config()),
            Broker::Nats => (Path::new(NATS), self.nats_config()),
        };
        assert!(program.exists(), "install Debian's mosquitto and nats-server; tests/run.sh does");
        self.write("broker.conf", &text);
        let (config, log) = (self.folder.path().join("broker.conf"), self.folder.path().join("broker.log"));
        self.broker = Some(Process::start(program, &["-c", config.to_str().unwrap()], &log));
        eventually("the broker", 10, || TcpStream::connect(self.broker_address).ok());
    }

    /// Where the broker keeps its sessions.
    fn database(&self) -> PathBuf {
        self.folder.path().join(match self.setup.broker {
            Broker::Mosquitto => "mosquitto.db",
            Broker::Nats => "jetstream",
        })
    }

    /// Whether the broker has ever written its database.
    pub(crate) fn broker_has_database(&self) -> bool {
        self.database().exists()
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
        self.send_lines(&lines);
    }

    pub(crate) fn send_lines(&self, lines: &str) {
        let mut connection =
            eventually("the agent's line protocol", 10, || TcpStream::connect(self.lines).ok());
        connection.write_all(lines.as_bytes()).unwrap();
    }

    /// The sum of a metric of the agent over its labels; none when it does not answer or has no such metric.
    pub(crate) fn agent(&self, name: &str) -> Option<u64> {
        sum(self.agent_http, name)
    }

    /// The sum of a metric of the aggregator, without its prefix, over its labels.
    pub(crate) fn aggregator(&self, name: &str) -> Option<u64> {
        sum(self.http, &format!("vedette_aggregator_{name}"))
    }

    /// The same of the second aggregator.
    pub(crate) fn companion(&self, name: &str) -> Option<u64> {
        sum(self.companion_http, &format!("vedette_aggregator_{name}"))
    }

    /// Lets the agent reach the aggregator's QUIC port, or not.
    pub(crate) const fn relay(&self) -> &UdpRelay {
        &self.relay
    }

    /// Messages that the lossy broker has dropped.
    pub(crate) fn lost(&self) -> u64 {
        self.lossy.as_ref().map_or(0, LossyBroker::dropped)
    }

    /// Records that the aggregator was told would never come, over all its processes: from its store.
    pub(crate) fn missing(&self) -> u64 {
        let agents = eventually("the agents in the API", 30, || get_json(self.http, "/api/v1/agents"));
        agents["agents"].as_array().into_iter().flatten().filter_map(|agent| agent["missing"].as_u64()).sum()
    }

    pub(crate) fn made(&self) -> u64 {
        eventually("the agent's counts", 10, || self.agent("vedette_agent_records_made_total"))
    }

    pub(crate) fn spooled(&self) -> u64 {
        eventually("the agent's counts", 10, || self.agent("vedette_agent_records_spooled"))
    }

    pub(crate) fn applied(&self) -> u64 {
        eventually("the aggregator's counts", 10, || self.aggregator("core_summaries_total"))
    }

    /// Stops the project's programs by SIGTERM, which must end each with success.
    pub(crate) fn stop(mut self) {
        for process in [&mut self.agent, &mut self.aggregator, &mut self.companion] {
            assert!(process.as_mut().is_none_or(|process| process.terminate(15).success()));
        }
        self.kill_broker();
    }

    fn mosquitto_config(&self) -> String {
        let folder = self.folder.path().display();
        let login = match self.setup.way {
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

    fn nats_config(&self) -> String {
        let at = |name: &str| self.folder.path().join(name);
        let (tls, login) = match self.setup.way {
            Way::Tcp => (
                String::new(),
                format!("authorization {{ users: [ {{ user: \"vedette\", password: \"{PASSWORD}\" }} ] }}\n"),
            ),
            Way::Tls => (
                format!(
                    ", tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
                    at("broker.crt"),
                    at("broker.key"),
                    at("agent/ca.crt")
                ),
                String::new(),
            ),
        };
        format!(
            "server_name: \"broker\"\nlisten: \"{clients}\"\njetstream {{ store_dir: {store:?} }}\n\
             mqtt {{ host: \"127.0.0.1\", port: {port}{tls} }}\n{login}",
            clients = free_address(),
            store = self.database(),
            port = self.broker_address.port(),
        )
    }

    /// Everything is logged where secrets are at hand, so that a test can look for them.
    const fn log_keys(&self) -> &'static str {
        match self.setup.way {
            Way::Tcp => "",
            Way::Tls => "[log]\nlevel = \"trace\"\n",
        }
    }

    fn aggregator_config(&self, name: &str, quic: SocketAddr, http: SocketAddr) -> String {
        let share = if self.setup.is_shared { "share = \"vedette\"\n" } else { "" };
        format!(
            "state_dir = {state:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n\
             [listen.mqtt]\nclient_id = \"{name}\"\n{share}{broker}{log}",
            log = self.log_keys(),
            state = self.folder.path().join(name),
            broker = self.broker_keys(self.broker_address),
        )
    }

    fn agent_config(&self) -> String {
        let broker = self.lossy.as_ref().map_or(self.broker_address, LossyBroker::address);
        format!(
            "agent_id = \"edge-uk\"\nstate_dir = {state:?}\n[tags]\nregion = \"uk\"\n\
             [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
             [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n\
             [window]\nwindow_ms = {window_ms}\nlateness_ms = 0\n[limits]\nseries_max = 100\n\
             [uplink]\nkind = {kind}\naddress = \"{quic}\"\nprefer_again_s = 1\n\
             aggregator_state_dir = {aggregator:?}\n[uplink.mqtt]\n{broker}\
             [http]\nlisten = \"{http}\"\n{log}",
            log = self.log_keys(),
            state = self.folder.path().join("agent"),
            lines = self.lines,
            window_ms = self.setup.window_ms,
            kind = self.setup.kind,
            quic = self.relay.address(),
            aggregator = self.folder.path().join("aggregator"),
            broker = self.broker_keys(broker),
            http = self.agent_http,
        )
    }
}

fn is_ready(http: SocketAddr) -> Option<()> {
    get(http, "/-/ready").filter(|(status, _)| *status == 200).map(|_| ())
}

/// The sum of the samples whose name, or name and labels, begin so; none without any, and when nobody answers.
fn sum(http: SocketAddr, name: &str) -> Option<u64> {
    let (_, text) = get(http, "/metrics")?;
    let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    let samples: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() as u64)
}

fn run(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
