//! The stage: one aggregator, two agents, a webhook receiver and Alertmanager, all real, in one temporary folder.
//!
//! It must never use a default port or folder. The hard case is a restart: the same config, state and ports again.
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vedette_tests::rig::{Process, Receiver, eventually, free_address, get, get_json, program};

const ALERTMANAGER: &str = "/usr/bin/prometheus-alertmanager";

pub(crate) struct Stage {
    // Processes first: they are dropped before the folder they write to.
    aggregator: Option<Process>,
    agent: Option<Process>,
    statsd_agent: Process,
    alertmanager: Process,
    pub(crate) webhook: Receiver,
    lines: SocketAddr,
    statsd: SocketAddr,
    http: SocketAddr,
    agent_http: SocketAddr,
    alertmanager_http: SocketAddr,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Starts and enrols everything; what comes later than `history_after_s` is history.
    pub(crate) fn set(history_after_s: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [quic, http, lines, statsd, agent_http, statsd_http, alertmanager_http] =
            std::array::from_fn(|_| free_address());
        let webhook = Receiver::start(2);
        let at = |name: &str| folder.path().join(name);
        let config = aggregator_config(&folder, quic, http, &webhook, alertmanager_http);
        let judge = format!("[judge]\nlateness_ms = 2000\nhistory_after_s = {history_after_s}\n");
        fs::write(at("aggregator.toml"), config + &judge).unwrap();
        fs::write(at("uk.toml"), line_protocol_config(&folder, quic, lines, agent_http)).unwrap();
        fs::write(at("ie.toml"), statsd_config(&folder, quic, statsd, statsd_http)).unwrap();
        let alertmanager = start_alertmanager(folder.path(), alertmanager_http);
        let aggregator = start("vedette-aggregator", folder.path(), "aggregator");
        eventually("the aggregator", 30, || is_ready(http));
        for region in ["uk", "ie"] {
            enroll(folder.path(), region, quic);
        }
        let statsd_agent = start("vedette-agent", folder.path(), "ie");
        let mut stage = Self {
            aggregator: Some(aggregator),
            agent: None,
            statsd_agent,
            alertmanager,
            webhook,
            lines,
            statsd,
            http,
            agent_http,
            alertmanager_http,
            folder,
        };
        stage.start_agent();
        stage
    }

    pub(crate) fn start_aggregator(&mut self) {
        self.aggregator = Some(start("vedette-aggregator", self.folder.path(), "aggregator"));
        eventually("the aggregator", 30, || is_ready(self.http));
    }

    pub(crate) fn kill_aggregator(&mut self) {
        self.aggregator.take().unwrap().kill();
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(start("vedette-agent", self.folder.path(), "uk"));
        eventually("the agent", 30, || is_ready(self.agent_http));
    }

    pub(crate) fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill();
    }

    /// Sends lines over a connection of their own, and waits until the agent has taken them.
    pub(crate) fn send_lines(&self, lines: &str) {
        let before = self.agent_count("vedette_agent_observations_total");
        let mut connection =
            eventually("the agent's line protocol", 10, || TcpStream::connect(self.lines).ok());
        connection.write_all(lines.as_bytes()).unwrap();
        drop(connection);
        let count = lines.lines().count() as f64;
        eventually("the agent to take the lines", 60, || {
            (self.agent_count("vedette_agent_observations_total") >= before + count).then_some(())
        });
    }

    pub(crate) fn send_statsd(&self, text: &str) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(text.as_bytes(), self.statsd).unwrap();
    }

    pub(crate) fn api(&self, path: &str) -> Option<Value> {
        get_json(self.http, path)
    }

    /// Whether the aggregator knows the incident in this state.
    pub(crate) fn incident(&self, id: &str, state: &str) -> Option<()> {
        let incident = self.api(&format!("/api/v1/incidents/{id}"))?;
        let found = incident.get("incident").unwrap_or(&incident);
        (found["state"] == state).then_some(())
    }

    pub(crate) fn alerts(&self) -> Option<Value> {
        get_json(self.alertmanager_http, "/api/v2/alerts")
    }

    pub(crate) fn agent_metrics(&self) -> String {
        get(self.agent_http, "/metrics").map(|(_, body)| body).unwrap_or_default()
    }

    fn agent_count(&self, name: &str) -> f64 {
        let metrics = self.agent_metrics();
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn spooled_records(&self) -> u64 {
        self.agent_count("vedette_agent_records_spooled") as u64
    }

    /// What a command of the aggregator prints.
    pub(crate) fn aggregator_says(&self, args: &[&str]) -> String {
        let config = self.folder.path().join("aggregator.toml");
        let output = Command::new(program("vedette-aggregator"))
            .args(args)
            .arg("--config")
            .arg(config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Stops everything by SIGTERM, which must end each with success.
    pub(crate) fn stop(mut self) {
        for process in
            [&mut self.statsd_agent, self.agent.as_mut().unwrap(), self.aggregator.as_mut().unwrap()]
        {
            assert!(process.terminate(15).success());
        }
        self.alertmanager.kill();
    }
}

fn is_ready(http: SocketAddr) -> Option<()> {
    get(http, "/-/ready").filter(|(status, _)| *status == 200).map(|_| ())
}

fn start(name: &str, folder: &Path, part: &str) -> Process {
    let config = folder.join(format!("{part}.toml"));
    Process::start(
        &program(name),
        &["run", "--config", config.to_str().unwrap()],
        &folder.join(format!("{part}.log")),
    )
}

fn start_alertmanager(folder: &Path, http: SocketAddr) -> Process {
    assert!(Path::new(ALERTMANAGER).exists(), "install Debian's prometheus-alertmanager; tests/run.sh does");
    let config = folder.join("alertmanager.yml");
    fs::write(&config, "route: {receiver: none}\nreceivers: [{name: none}]\n").unwrap();
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", folder.join("alertmanager").display()),
        format!("--web.listen-address={http}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let process = Process::start(Path::new(ALERTMANAGER), &args, &folder.join("alertmanager.log"));
    eventually("Alertmanager", 30, || is_ready(http));
    process
}

/// The way across machines: a token for one region, then the certificate.
fn enroll(folder: &Path, region: &str, quic: SocketAddr) {
    let run = |name: &str, args: &[&str]| {
        let output = Command::new(program(name)).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (aggregator, agent) = (folder.join("aggregator.toml"), folder.join(format!("{region}.toml")));
    let config = aggregator.to_str().unwrap();
    let token = run("vedette-aggregator", &["token", "create", "--region", region, "--config", config]);
    let (quic, config) = (quic.to_string(), agent.to_str().unwrap());
    run("vedette-agent", &["enroll", "--aggregator", &quic, "--token", &token, "--config", config]);
}

fn state(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

fn aggregator_config(
    folder: &tempfile::TempDir,
    quic: SocketAddr,
    http: SocketAddr,
    webhook: &Receiver,
    alertmanager: SocketAddr,
) -> String {
    format!(
        "state_dir = {state:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n\
         [metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n[metrics.errors]\nrole = \"errors\"\n\
         [notify.webhook.pager]\nurl = \"http://{webhook}/page\"\n\
         [notify.alertmanager.main]\nurl = \"http://{alertmanager}\"\n",
        state = state(folder, "aggregator"),
        webhook = webhook.address(),
    )
}

fn line_protocol_config(
    folder: &tempfile::TempDir,
    quic: SocketAddr,
    lines: SocketAddr,
    http: SocketAddr,
) -> String {
    format!(
        "agent_id = \"edge-uk\"\nstate_dir = {state:?}\n[tags]\nregion = \"uk\"\n\
         [regions.uk]\ntimezone = \"Europe/London\"\n\
         [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
         [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\nprecision = \"s\"\n\
         [window]\nwindow_ms = 300000\nclock = \"event\"\n\
         [uplink]\naddress = \"{quic}\"\n[http]\nlisten = \"{http}\"\n",
        state = state(folder, "uk"),
    )
}

fn statsd_config(
    folder: &tempfile::TempDir,
    quic: SocketAddr,
    statsd: SocketAddr,
    http: SocketAddr,
) -> String {
    format!(
        "agent_id = \"edge-ie\"\nstate_dir = {state:?}\n[tags]\nregion = \"ie\"\ndevice = \"phone\"\n\
         [source.host]\nenabled = false\n[source.line_protocol]\nenabled = false\n\
         [source.statsd]\nlisten = \"{statsd}\"\nflush_ms = 500\n\
         [window]\nwindow_ms = 1000\nlateness_ms = 200\n\
         [uplink]\naddress = \"{quic}\"\n[http]\nlisten = \"{http}\"\n",
        state = state(folder, "ie"),
    )
}
