//! How much memory a real agent is resident with, connected over QUIC with mutual TLS: with all its series in use, and with
//! an aggregator that hardly answers; and how much of a core it takes.
//!
//! The first must measure what is installed: `cross/test.sh x86_64-unknown-linux-musl memory` builds the agent in the profile
//! edge and runs this test with it; without that agent there is nothing to measure. The second holds any build to what its
//! own `check` says. The hard case is honesty: a series takes more memory once it has lived through a week, so both are
//! measured, new series and such as have; and a limit above its goal says so, and is what was reached.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vedette_tests::rig::{Process, eventually, free_address, get, program};

const KIB: u64 = 1024;

/// The goals at 1,000 and at 10,000 series.
const GOALS_KIB: [u64; 2] = [6_144, 8_192];

#[test]
#[ignore = "measures the installed agent only: run by cross/test.sh x86_64-unknown-linux-musl memory"]
fn an_agent_stays_within_what_was_reached() {
    assert!(std::env::var_os("VEDETTE_AGENT").is_some(), "VEDETTE_AGENT names the agent to measure");
    for (series, hours, limit_kib) in
        [(1_000, 12, 6_144), (1_000, 180, 6_144), (10_000, 12, 8_192), (10_000, 180, 10_240)]
    {
        let resident = resident_bytes(series, hours) / KIB;
        let goal = GOALS_KIB[usize::from(series == 10_000)];
        let told = format!(
            "{series} series with {hours} hours: {resident} KiB resident, {limit_kib} allowed, goal {goal}"
        );
        println!("{told}");
        assert!(resident <= limit_kib, "{told}");
    }
}

/// Resident bytes of an agent that holds `series` series and has scored a value of each for so many hours up to now.
fn resident_bytes(series: u32, hours: u64) -> u64 {
    let stage = Stage::set(series, "event");
    let mut connection = TcpStream::connect(stage.lines).unwrap();
    let began_s = now_s() - hours * 3_600;
    for hour in 1..=hours {
        connection.write_all(text(0..series, Some(began_s + hour * 3_600)).as_bytes()).unwrap();
        let scored = u64::from(series) * hour;
        eventually("the series scored", 60, || {
            (stage.metric("vedette_agent_observations_scored_total") >= scored).then_some(())
        });
    }
    eventually("a record delivered", 60, || {
        (stage.metric("vedette_agent_records_delivered_total") > 0).then_some(())
    });
    assert_eq!(stage.metric("vedette_agent_series"), u64::from(series));
    stage.agent.resident_bytes().unwrap()
}

/// What is measured of the processor: series, lines a write, and writes a second.
const PACES: [(u32, u32, u32); 3] = [(10_000, 1_000, 10), (10_000, 100, 100), (10_000, 1_000, 0)];
/// The goal, in hundredths of a percent of a core, at 10,000 observations a second.
const GOAL_OF_A_CORE: u64 = 100;

#[test]
#[ignore = "takes minutes and measures the installed agent only: run by cross/test.sh x86_64-unknown-linux-musl idle"]
fn an_agent_leaves_the_core_to_others() {
    assert!(std::env::var_os("VEDETTE_AGENT").is_some(), "VEDETTE_AGENT names the agent to measure");
    for (series, lines, writes) in PACES {
        let share = share_of_a_core(series, lines, writes);
        println!(
            "{series} series, {} observations a second in writes of {lines}: {}.{:02} % of a core",
            lines * writes,
            share / 100,
            share % 100
        );
        // Twice the goal: other programs beside it cost a program its caches.
        assert!(share <= 2 * GOAL_OF_A_CORE, "more than twice the goal");
    }
}

/// Processor time of all threads of an agent over a minute, in hundredths of a percent of it, at so many writes a second.
fn share_of_a_core(series: u32, lines: u32, writes: u32) -> u64 {
    const SECONDS: u32 = 60;
    let stage = Stage::set(series, "wall");
    let mut connection = TcpStream::connect(stage.lines).unwrap();
    let scored = || stage.metric("vedette_agent_observations_scored_total");
    connection.write_all(text(0..series, None).as_bytes()).unwrap();
    eventually("the series scored", 60, || (scored() >= u64::from(series)).then_some(()));
    let batches: Vec<_> =
        (0..series / lines).map(|part| text(part * lines..(part + 1) * lines, None)).collect();
    let before_ticks = stage.agent_ticks();
    let began = Instant::now();
    for write in 0..SECONDS * writes {
        let due = Duration::from_secs(1) * write / writes;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        connection.write_all(batches[write as usize % batches.len()].as_bytes()).unwrap();
    }
    std::thread::sleep(Duration::from_secs(SECONDS.into()).saturating_sub(began.elapsed()));
    let (ticks, elapsed) = (stage.agent_ticks() - before_ticks, began.elapsed());
    let sent = u64::from(series) + u64::from(SECONDS * writes * lines);
    eventually("every observation scored", 60, || (scored() >= sent).then_some(()));
    // A hundred ticks are a second, on every machine that Linux tells them on.
    ticks * 100_000 / elapsed.as_millis() as u64
}

/// Distinct series of the flood.
const FLOOD: u32 = 200_000;
/// Of these at a time.
const FLOOD_STEP: u32 = 10_000;

#[test]
fn an_aggregator_that_hardly_answers_costs_no_more_than_check_says() {
    let stage = Stage::set(1_000, "wall");
    let allowed = stage.allowed_by_check();
    let mut connection = TcpStream::connect(stage.lines).unwrap();
    let mut most = 0;
    stage.signal_aggregator("STOP");
    for first in (0..FLOOD).step_by(FLOOD_STEP as usize) {
        connection.write_all(text(first..first + FLOOD_STEP, None).as_bytes()).unwrap();
        most = most.max(stage.agent_bytes("RssAnon:"));
    }
    eventually("the agent gives up waiting", 120, || {
        (stage.metric("vedette_agent_connected") == 0).then_some(())
    });
    let delivered = || stage.metric("vedette_agent_records_delivered_total");
    let before = delivered();
    // Awake every other moment, it takes a little and answers late.
    let mut is_awake = false;
    eventually("something delivered all the same", 240, || {
        is_awake = !is_awake;
        stage.signal_aggregator(if is_awake { "CONT" } else { "STOP" });
        most = most.max(stage.agent_bytes("RssAnon:"));
        (delivered() > before).then_some(())
    });
    stage.signal_aggregator("CONT");
    assert!(most <= allowed.total_bytes - allowed.file_bytes, "{most}, {allowed:?}");
    // The file of a test build is many times larger than a package's.
    if !cfg!(debug_assertions) || std::env::var_os("VEDETTE_AGENT").is_some() {
        let peak = stage.agent_bytes("VmHWM:");
        assert!(peak <= allowed.total_bytes, "{peak}, {allowed:?}");
    }
}

/// What `check` says of a config.
#[derive(Debug)]
struct Allowed {
    total_bytes: u64,
    /// Of these, pages of the program's own file and its libraries.
    file_bytes: u64,
}

/// An aggregator, and an agent that is enrolled and connected.
struct Stage {
    // Processes first: they are dropped before the folder they write to.
    agent: Process,
    aggregator: Process,
    lines: SocketAddr,
    agent_http: SocketAddr,
    agent_config: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Windows of the agent follow this clock.
    fn set(series: u32, clock: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [quic, http, lines, agent_http] = std::array::from_fn(|_| free_address());
        let at = |name: &str| folder.path().join(name);
        let config =
            format!("state_dir = {:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n", at("aggregator"));
        std::fs::write(at("aggregator.toml"), config).unwrap();
        let config = format!(
            "state_dir = {:?}\n[source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
             [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n[window]\nclock = \"{clock}\"\n[limits]\nseries_max = {series}\n\
             [uplink]\naddress = \"{quic}\"\naggregator_state_dir = {:?}\n[http]\nlisten = \"{agent_http}\"\n",
            at("agent"),
            at("aggregator"),
        );
        std::fs::write(at("agent.toml"), config).unwrap();
        let aggregator = start("vedette-aggregator", folder.path(), "aggregator");
        eventually("the aggregator", 30, || get(http, "/-/ready").filter(|(status, _)| *status == 200));
        enroll(folder.path(), quic);
        let agent = start("vedette-agent", folder.path(), "agent");
        let agent_config = at("agent.toml");
        let stage = Self { agent, aggregator, lines, agent_http, agent_config, _folder: folder };
        eventually("the connection", 30, || (stage.metric("vedette_agent_connected") == 1).then_some(()));
        stage
    }

    fn metric(&self, name: &str) -> u64 {
        let text = get(self.agent_http, "/metrics").map(|(_, body)| body).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }

    /// A size that the kernel states of the agent.
    fn agent_bytes(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * KIB
    }

    /// Processor time of the agent's threads, those that have ended included.
    fn agent_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.agent.id())).unwrap();
        // The program's name stands in parentheses; user and system time are the twelfth and thirteenth field after it.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        fields.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    fn signal_aggregator(&self, signal: &str) {
        let process = self.aggregator.id().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &process]).status().unwrap();
        assert!(status.success());
    }

    fn allowed_by_check(&self) -> Allowed {
        let text = output("vedette-agent", &["check", "--config", self.agent_config.to_str().unwrap()]);
        let bytes = |what: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(what)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Allowed { total_bytes: bytes("total"), file_bytes: bytes("program (pages of its files)") }
    }
}

/// A line of each host, at this time or when it comes.
fn text(hosts: Range<u32>, at_s: Option<u64>) -> String {
    let mut text = String::new();
    let time = at_s.map(|at_s| format!(" {at_s}000000000")).unwrap_or_default();
    let round = at_s.unwrap_or(0) / 3_600;
    for host in hosts {
        let value = 100 + (u64::from(host) * 7 + round * 13) % 10;
        let device = host % 20;
        writeln!(
            text,
            "activity,region=uk,device=tv{device},stack=playback,host=edge-{host:06} value={value}{time}"
        )
        .unwrap();
    }
    text
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn start(name: &str, folder: &Path, part: &str) -> Process {
    let config = folder.join(format!("{part}.toml"));
    let log = folder.join(format!("{part}.log"));
    Process::start(&program(name), &["run", "--config", config.to_str().unwrap()], &log)
}

fn output(name: &str, args: &[&str]) -> String {
    let output = Command::new(program(name)).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn enroll(folder: &Path, quic: SocketAddr) {
    let (aggregator, agent) = (folder.join("aggregator.toml"), folder.join("agent.toml"));
    let create = ["token", "create", "--region", "uk", "--config", aggregator.to_str().unwrap()];
    let token = output("vedette-aggregator", &create);
    let (quic, config) = (quic.to_string(), agent.to_str().unwrap());
    output("vedette-agent", &["enroll", "--aggregator", &quic, "--token", token.trim(), "--config", config]);
}
