//! What the sources do at their limits: silent and surplus connections, files that grow and are replaced, standard input.
//!
//! It must never trust a pause: each step waits for the count that proves it. The hard case is a file replaced between two
//! looks: nothing of the old one is read twice, and the new one from its start.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::{Ports, Running, file, get, metric, until};

const SCORED: &str = "vedette_agent_observations_scored_total";
const SURPLUS: &str = "vedette_agent_dropped_total{reason=\"connection_limit\",unit=\"observation\"}";

fn started(ports: &Ports, dir: &Path, more: &str) -> Running {
    let running = Running::start(&file(dir, &(ports.config(dir) + more)));
    until("health", || get(ports.http, "/-/healthy").is_some());
    running
}

fn connect(ports: &Ports) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", ports.lines)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Whether the other side ends the connection; it never says anything.
fn is_ended(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0)) || stream.take_error().is_ok_and(|error| error.is_some())
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn surplus_and_silent_connections_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let limits = "[source.line_protocol]\n";
    let config = ports
        .config(dir.path())
        .replace(limits, &format!("{limits}connections_max = 1\nidle_timeout_ms = 1000\n"));
    let mut running = Running::start(&file(dir.path(), &config));
    until("health", || get(ports.http, "/-/healthy").is_some());

    let mut silent = connect(&ports);
    silent.write_all(b"activity value=1\nactivity value=").unwrap();
    until("the first line", || metric(ports.http, SCORED) == 1);
    let mut surplus = connect(&ports);
    assert!(is_ended(&mut surplus), "one more than connections_max");
    assert_eq!(metric(ports.http, SURPLUS), 1);
    assert!(is_ended(&mut silent), "silent for longer than idle_timeout_ms");
    // Its place is free again, and what it left half said is told as such.
    let malformed = "vedette_agent_dropped_total{reason=\"malformed_line\",unit=\"observation\"}";
    until("the rest of the silent one", || metric(ports.http, malformed) == 1);
    until("a free place", || {
        let mut next = connect(&ports);
        let _ = next.write_all(b"activity value=2\n");
        metric(ports.http, SCORED) >= 2
    });
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn a_file_is_followed_through_growth_replacement_and_cutting() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let (path, later) = (dir.path().join("telemetry.lp"), dir.path().join("later.lp"));
    append(&path, "old value=1\nold value=2\n");
    let more = format!("[source.file]\npaths = [{path:?}, {later:?}]\n");
    let mut running = started(&ports, dir.path(), &more);
    // What stood there before the start is not read; a file that comes later is, from its first line.
    append(&later, "late value=1\n");
    until("the file that came later", || metric(ports.http, SCORED) == 1);
    append(&path, "new value=1\nnew val");
    append(&path, "ue=2\nnew value=3\n");
    until("what was added", || metric(ports.http, SCORED) == 4);

    fs::rename(&path, dir.path().join("telemetry.lp.1")).unwrap();
    append(&path, "rotated value=1\nrotated value=2\n");
    until("the file that replaced it", || metric(ports.http, SCORED) == 6);
    fs::write(&path, "cut value=1\n").unwrap();
    until("the file that was cut and written anew", || metric(ports.http, SCORED) == 7);
    assert_eq!(metric(ports.http, "vedette_agent_observations_total"), 7, "nothing was read twice or half");
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn standard_input_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let config = ports.config(dir.path()) + "[source.file]\nstdin = true\n";
    let mut running = Running::start_reading(&file(dir.path(), &config), Stdio::piped());
    let mut input = running.input();
    input.write_all(b"activity value=1\nnonsense\nactivity value=2").unwrap();
    drop(input);
    until("both lines and the mistake", || {
        metric(ports.http, SCORED) == 2 && metric(ports.http, "vedette_agent_observations_total") == 3
    });
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn every_datagram_of_a_flood_is_read_or_counted_as_lost() {
    const FLOOD: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut running = started(&ports, dir.path(), "");
    running.signal("STOP");
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..FLOOD {
        sender.send_to(b"activity value=1", ("127.0.0.1", ports.lines)).unwrap();
    }
    running.signal("CONT");
    let lost = || metric(ports.http, "vedette_agent_datagrams_dropped_total{source=\"line_protocol\"}");
    until("all that could be held", || {
        metric(ports.http, "vedette_agent_observations_total") + lost() == FLOOD
    });
    assert!(lost() > 0, "no system holds as much");
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
}
