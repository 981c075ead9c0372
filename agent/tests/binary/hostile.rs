//! The worst case that `check` states, held against a real agent under everything at once that is meant to exceed it.
//!
//! Must never compare with a number of its own: `check` says what is allowed. The hard case is the build: a test build's
//! file is many times larger than a package's, so its pages count only in a build without debug assertions.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::output;
use crate::running::{Ports, Running, agent, file, get, metric, until};

const SERIES_MAX: u64 = 1_000;
const SERIES: u32 = 1_000_000;
const SERIES_A_BATCH: u32 = 10_000;

#[test]
fn the_worst_case_holds_under_a_hostile_load() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    // A broker that takes every connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = file(dir.path(), &config(&ports, dir.path(), &silent));
    let allowed = Allowed::by_check(&path);
    let mut running = Running::start_command(agent_on_a_full_disk(), &path);
    until("health", || get(ports.http, "/-/healthy").is_some());

    let silent_readers: Vec<_> = (0..8).map(|_| say(ports.http, b"GET /metrics HT")).collect();
    let silent_writers: Vec<_> = (0..20).map(|_| say(ports.lines, &[b'x'; 4_000])).collect();
    flood(ports.lines);
    drop(silent_readers);
    let scored = "vedette_agent_observations_scored_total";
    until("every series taken or refused", || {
        metric(ports.http, scored) + dropped(ports.http) >= u64::from(SERIES)
    });
    until("a fault of the disk", || {
        metric(ports.http, "vedette_agent_spool_faults_total{fault=\"full\"}") > 0
    });
    assert!(metric(ports.http, "vedette_agent_series") <= SERIES_MAX + 1);

    let resident = Resident::of(running.id());
    assert!(
        resident.anonymous_bytes <= allowed.total_bytes - allowed.file_bytes,
        "{resident:?}, {allowed:?}"
    );
    if !cfg!(debug_assertions) {
        assert!(resident.peak_bytes <= allowed.total_bytes, "{resident:?}, {allowed:?}");
    }
    drop(silent_writers);
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
}

fn config(ports: &Ports, dir: &Path, broker: &TcpListener) -> String {
    let broker = broker.local_addr().unwrap();
    let text = ports.config(dir).replace("series_max = 100\n", &format!("series_max = {SERIES_MAX}\n"));
    text.replace("[uplink]\n", "[uplink]\nkind = \"mqtt\"\n")
        + &format!("[uplink.mqtt]\nurl = \"mqtt://{broker}\"\n")
}

/// An agent whose files may not grow past a few kilobytes.
fn agent_on_a_full_disk() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""]).arg(agent().get_program());
    command.env_remove("VEDETTE_AGENT_STATE").env_remove("STATE_DIRECTORY").stdin(Stdio::null());
    command
}

/// A connection that says this and then nothing.
fn say(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// A million series, now and then one with tags as long as a line may be, and lines without an end.
fn flood(port: u16) {
    for _ in 0..10 {
        // Such a connection is closed before all of it is written.
        let _ =
            TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.write_all(&[b'y'; 20_000]));
    }
    let mut lines = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let tags: String = (0..15).map(|tag| format!(",tag{tag}={}", "v".repeat(60))).collect();
    for batch in 0..SERIES / SERIES_A_BATCH {
        let series = batch * SERIES_A_BATCH..(batch + 1) * SERIES_A_BATCH;
        let mut text: String =
            series.map(|series| format!("m{},host=h{series} v=1\n", series % 5_000)).collect();
        text.push_str(&format!("wide,host=h{batch}{tags} v=1\n"));
        lines.write_all(text.as_bytes()).unwrap();
    }
}

fn dropped(port: u16) -> u64 {
    let text = get(port, "/metrics").unwrap_or_default();
    let lines = text.lines().filter(|line| {
        line.starts_with("vedette_agent_dropped_total") && line.contains("unit=\"observation\"")
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// What `check` says of a config.
#[derive(Debug)]
struct Allowed {
    total_bytes: u64,
    /// Of these, pages of the program's own file and its libraries.
    file_bytes: u64,
}

impl Allowed {
    fn by_check(config: &Path) -> Self {
        let (code, text, errors) = output(&["check", "--config", config.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{errors}");
        let bytes = |what: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(what)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self { total_bytes: bytes("total"), file_bytes: bytes("program (pages of its files)") }
    }
}

#[derive(Debug)]
struct Resident {
    anonymous_bytes: u64,
    peak_bytes: u64,
}

impl Resident {
    fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
        };
        Self { anonymous_bytes: bytes("RssAnon:"), peak_bytes: bytes("VmHWM:") }
    }
}
