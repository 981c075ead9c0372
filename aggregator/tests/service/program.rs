//! The real program: started with a config, asked by its commands and over HTTP, killed when dropped.
//! It must never outlive its test. The hard case is a port: the program needs a fixed one to be found again, also after a kill, when nothing holds it.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::ports::free_address;

/// How long anything may take: on a machine with other things to do as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a config and a state of its own, and the program that runs on them, if it does.
pub(crate) struct Program {
    folder: tempfile::TempDir,
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
    child: Option<Child>,
}

/// What the program answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Program {
    /// A folder whose config listens on all addresses if `exposed`, on loopback if not, and says `more`; nothing runs yet.
    pub(crate) fn new(exposed: bool, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [quic, http] = std::array::from_fn(|_| free_address());
        let program = Self { folder, quic, http, child: None };
        program.configure(exposed, more);
        program
    }

    pub(crate) fn configure(&self, exposed: bool, more: &str) {
        let (state, quic) = (self.path("state"), self.quic);
        let host = if exposed { "0.0.0.0" } else { "127.0.0.1" };
        let listen = format!("[listen]\nquic = \"{quic}\"\nhttp = \"{host}:{}\"\n", self.http.port());
        std::fs::write(self.path("config.toml"), format!("state_dir = {state:?}\n{listen}{more}")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it and waits until it takes connections.
    pub(crate) fn start(&mut self) {
        self.spawn();
        let address = self.http;
        self.wait("an open port", || std::net::TcpStream::connect(address).ok());
    }

    pub(crate) fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette-aggregator"));
        command.arg("run").arg("--config").arg(self.path("config.toml"));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends the signal of that name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Stops it gracefully; gives its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }

    /// Waits for its end by itself; gives its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let status = self.wait("the program's end", || child.try_wait().unwrap());
        status.code()
    }

    /// Asks until there is an answer.
    pub(crate) fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = probe() {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything it wrote on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs one of its commands with `input` as standard input.
    pub(crate) fn command(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette-aggregator"));
        command.args(args).arg("--config").arg(self.path("config.toml"));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // A command that fails early does not read what it was going to be told.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What a command that must succeed prints.
    pub(crate) fn order(&self, args: &[&str], input: &str) -> String {
        let output = self.command(args, input);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A request with a method, headers and a body; redirects are not followed.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        request(&agent(None), method, &format!("http://{}{path}", self.http), headers, body)
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, "")
    }

    /// The metric of that full name, labels included; 0 while it is absent.
    pub(crate) fn metric(&self, name: &str, headers: &[(&str, &str)]) -> f64 {
        let page = self.get("/metrics", headers);
        assert_eq!(page.status, 200, "{}", page.body);
        let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An HTTP client that follows nothing, and trusts `root` alone if there is one.
pub(crate) fn agent(root: Option<&[u8]>) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None);
    if let Some(root) = root {
        let root = ureq::tls::Certificate::from_pem(root).unwrap();
        let roots = ureq::tls::RootCerts::Specific(std::sync::Arc::new(vec![root]));
        config = config.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
    }
    ureq::Agent::new_with_config(config.build())
}

pub(crate) fn request(
    agent: &ureq::Agent,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.body_mut().read_to_string().unwrap() }
}
