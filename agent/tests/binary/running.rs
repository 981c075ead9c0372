//! A real agent in a test: free ports, a config for them, the process, and what it tells over HTTP.
//!
//! It must never wait without a bound, nor leave a process behind. The hard case is ports: each test takes free ones, which
//! no other test gets meanwhile, and hands them over in the config.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::ports::free_address;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vedette-agent"));
    command.env_remove("VEDETTE_AGENT_STATE").env_remove("STATE_DIRECTORY");
    command
}

pub(crate) fn file(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("agent.toml");
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) fn free_port() -> u16 {
    free_address().port()
}

pub(crate) struct Ports {
    pub(crate) statsd: u16,
    pub(crate) lines: u16,
    pub(crate) http: u16,
}

impl Ports {
    pub(crate) fn free() -> Self {
        Self { statsd: free_port(), lines: free_port(), http: free_port() }
    }

    pub(crate) fn config(&self, dir: &Path) -> String {
        let Self { statsd, lines, http } = self;
        format!(
            "agent_id = \"edge-1\"\nstate_dir = {state:?}\ndrain_ms = 100\n[source.host]\nenabled = false\n\
             [source.statsd]\nlisten = \"127.0.0.1:{statsd}\"\nflush_ms = 100\n\
             [source.line_protocol]\ntcp = \"127.0.0.1:{lines}\"\nudp = \"127.0.0.1:{lines}\"\n\
             [window]\nwindow_ms = 1000\nlateness_ms = 0\n[limits]\nseries_max = 100\n\
             [uplink]\naddress = \"127.0.0.1:1\"\naggregator_state_dir = {dir:?}\n\
             [http]\nlisten = \"127.0.0.1:{http}\"\n",
            state = dir.join("state"),
        )
    }
}

/// A running agent; what it logs is gathered.
pub(crate) struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Running {
    pub(crate) fn start(config: &Path) -> Self {
        Self::start_reading(config, Stdio::null())
    }

    /// Starts it with something on its standard input.
    pub(crate) fn start_reading(config: &Path, input: Stdio) -> Self {
        let mut command = agent();
        command.stdin(input);
        Self::start_command(command, config)
    }

    /// Starts it in the surroundings of `command`.
    pub(crate) fn start_command(mut command: Command, config: &Path) -> Self {
        command.arg("run").arg("--config").arg(config).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stderr, log) = (child.stderr.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let into = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                into.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, log }
    }

    /// Takes its standard input, if that is piped.
    pub(crate) fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the agent does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The value of a metric, labels included in `name`; 0 before it is there.
pub(crate) fn metric(port: u16, name: &str) -> u64 {
    let text = get(port, "/metrics").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
