//! The real binary: exit codes, named mistakes, what it serves, what its sources take, and how it stops.
//!
//! Owns what only a process can show. Must never wait without a bound. The hard case is the sum: what came in by any
//! way is scored or dropped with a reason.
#![allow(clippy::unwrap_used)]

mod hostile;
#[path = "../../../tests/src/rig/ports.rs"]
#[allow(unreachable_pub, reason = "it is public where the end-to-end tests have it")]
mod ports;
mod running;
mod sources;
mod supervised;

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Output;

use running::{Ports, Running, agent, file, get, metric, until};

fn output(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = agent().args(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn wrong_usage_exits_2_and_help_exits_0() {
    assert_eq!(output(&["fly"]).0, Some(2));
    assert_eq!(output(&[]).0, Some(2));
    assert_eq!(output(&["enroll"]).0, Some(2));
    let (code, stdout, _) = output(&["--help"]);
    assert_eq!(code, Some(0));
    for command in ["run", "check", "enroll", "score"] {
        assert!(stdout.contains(command), "{stdout}");
    }
}

#[test]
fn check_prints_limits_and_the_worst_case_of_the_defaults() {
    let (code, stdout, stderr) = output(&["check"]);
    assert_eq!(code, Some(0), "{stderr}");
    for name in ["limits.series_max", "limits.spool_bytes_max", "frame_bytes_max", "total"] {
        assert!(stdout.lines().any(|line| line.trim_start().starts_with(name)), "{name} in {stdout}");
    }
    let bytes: Vec<u64> = stdout
        .lines()
        .skip_while(|line| !line.starts_with("worst-case"))
        .filter_map(|line| line.split_whitespace().rev().find_map(|word| word.parse().ok()))
        .collect();
    assert!(!bytes.is_empty());
}

#[test]
fn check_names_file_line_and_key_of_each_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "[limits]\nseries_max = 0\n\n[window]\nwidth = 3\n");
    let (code, _, stderr) = output(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let path = path.display();
    assert!(stderr.contains(&format!("{path}:2: limits.series_max: is 0; it must be from 1 to")), "{stderr}");
    assert!(stderr.contains(&format!("{path}:5: window.width: unknown field")), "{stderr}");
    assert_eq!(output(&["check", "--config", "/nonexistent.toml"]).0, Some(1));
}

#[test]
fn neither_check_nor_run_accept_a_config_over_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let text = format!("state_dir = {state:?}\n[limits]\nmemory_bytes_max = 1048576\n");
    let path = file(dir.path(), &text);
    for command in ["check", "run"] {
        let (code, _, stderr) = output(&[command, "--config", path.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{command}");
        assert!(stderr.contains("limits.memory_bytes_max = 1048576"), "{stderr}");
    }
    assert!(!state.exists(), "nothing was made");
}

#[test]
fn an_address_that_is_taken_is_named_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let _taken = UdpSocket::bind(("127.0.0.1", ports.statsd)).unwrap();
    let path = file(dir.path(), &ports.config(dir.path()));
    let (code, _, stderr) = output(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("source.statsd.listen"), "{stderr}");
}

#[test]
fn score_gives_a_row_for_each_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("series.csv");
    let rows: String = (0..50).map(|i| format!("{},{}\n", i * 300, i % 7)).collect();
    std::fs::write(&path, format!("when,load\n{rows}")).unwrap();
    let args = ["score", "--timestamp", "when", "--value", "load", path.to_str().unwrap()];
    let (code, stdout, stderr) = output(&args);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 51);
    let (code, _, stderr) = output(&["score", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("series.csv") && stderr.contains("timestamp"), "{stderr}");
}

#[test]
fn enroll_names_a_token_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &format!("state_dir = {:?}\n", dir.path().join("state")));
    let args =
        ["enroll", "--aggregator", "127.0.0.1:1", "--token", "hello", "--config", path.to_str().unwrap()];
    let (code, _, stderr) = output(&args);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("--token"), "{stderr}");
}

#[test]
fn what_arrives_is_accounted_for_through_stop_and_start() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let path = file(dir.path(), &ports.config(dir.path()));
    let mut running = Running::start(&path);
    until("health", || get(ports.http, "/-/healthy").is_some_and(|text| text.contains("200 OK")));
    until("readiness", || get(ports.http, "/-/ready").is_some_and(|text| text.contains("200 OK")));

    let mut lines = TcpStream::connect(("127.0.0.1", ports.lines)).unwrap();
    lines.write_all(b"activity,stack=web value=1\nnonsense\nactivity,stack=web value=2\n").unwrap();
    let mut endless = TcpStream::connect(("127.0.0.1", ports.lines)).unwrap();
    endless.write_all(&vec![b'x'; 10_000]).unwrap();
    let udp = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    udp.send_to(b"errors,stack=web value=3\n", ("127.0.0.1", ports.lines)).unwrap();
    udp.send_to(b"logins:7|g|#stack:web\n", ("127.0.0.1", ports.statsd)).unwrap();
    until("line protocol and StatsD", || metric(ports.http, "vedette_agent_observations_scored_total") >= 4);
    let malformed = "vedette_agent_dropped_total{reason=\"malformed_line\",unit=\"observation\"}";
    let endless_line = "vedette_agent_dropped_total{reason=\"line_too_long\",unit=\"observation\"}";
    until("the drops", || metric(ports.http, malformed) == 1 && metric(ports.http, endless_line) == 1);
    let text = get(ports.http, "/metrics").unwrap();
    let number = |name: &str| -> u64 {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    };
    let (observed, scored) =
        (number("vedette_agent_observations_total"), number("vedette_agent_observations_scored_total"));
    assert_eq!(observed, scored + 2, "{text}");
    until("a record", || metric(ports.http, "vedette_agent_records_made_total") >= 1);

    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
    let mut again = Running::start(&path);
    until("recovery", || metric(ports.http, "vedette_agent_records_recovered_total") >= 1);
    again.signal("INT");
    assert_eq!(again.wait().code(), Some(0));
}

#[test]
fn a_reload_takes_a_good_config_and_survives_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let good = ports.config(dir.path());
    let path = file(dir.path(), &good);
    let mut running = Running::start(&path);
    until("health", || get(ports.http, "/-/healthy").is_some());
    let send = |line: &[u8]| TcpStream::connect(("127.0.0.1", ports.lines)).unwrap().write_all(line).unwrap();
    send(b"activity value=1\n");
    until("the first line", || metric(ports.http, "vedette_agent_observations_scored_total") == 1);

    file(dir.path(), "nonsense = 1\n");
    running.signal("HUP");
    until("the refusal", || running.logged("agent.toml:1: nonsense: unknown field"));
    file(dir.path(), &format!("{good}[tags]\nregion = \"elsewhere\"\n"));
    running.signal("HUP");
    // The same line is another series once the region has changed.
    until("the second region", || {
        send(b"activity value=1\n");
        metric(ports.http, "vedette_agent_series") >= 2
    });
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
    assert!(running.logged("read the config again"));
}
