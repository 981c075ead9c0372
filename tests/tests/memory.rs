//! How much memory a real agent is resident with, connected over QUIC with mutual TLS, all its series in use.
//!
//! It must measure what is installed: `cross/test.sh x86_64-unknown-linux-gnu memory` builds the agent in the profile edge
//! and runs this test with it; without that agent there is nothing to measure. The hard case is a number that creeps up:
//! the limits are what was reached, so that only a step back fails. The goals are 8 MiB and 6 MiB.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use vedette_tests::rig::{Process, eventually, free_address, get, program};

const KIB: u64 = 1024;

#[test]
#[ignore = "measures the installed agent only: run by cross/test.sh x86_64-unknown-linux-gnu memory"]
fn an_agent_stays_within_what_was_reached() {
    assert!(std::env::var_os("VEDETTE_AGENT").is_some(), "VEDETTE_AGENT names the agent to measure");
    for (series, limit_kib) in [(1_000, 7_500), (10_000, 14_500)] {
        let resident = resident_bytes(series) / KIB;
        println!("{series} series: {resident} KiB resident, {limit_kib} allowed");
        assert!(resident <= limit_kib, "{series} series: {resident} KiB resident, {limit_kib} allowed");
    }
}

/// Resident bytes of an agent that holds `series` series and has scored each a dozen times.
fn resident_bytes(series: u32) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let [quic, http, lines, agent_http] = std::array::from_fn(|_| free_address());
    let at = |name: &str| folder.path().join(name);
    let config =
        format!("state_dir = {:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n", at("aggregator"));
    std::fs::write(at("aggregator.toml"), config).unwrap();
    let config = format!(
        "state_dir = {:?}\n[source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
         [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n[limits]\nseries_max = {series}\n\
         [uplink]\naddress = \"{quic}\"\naggregator_state_dir = {:?}\n[http]\nlisten = \"{agent_http}\"\n",
        at("agent"),
        at("aggregator"),
    );
    std::fs::write(at("agent.toml"), config).unwrap();
    let _aggregator = start("vedette-aggregator", folder.path(), "aggregator");
    eventually("the aggregator", 30, || get(http, "/-/ready").filter(|(status, _)| *status == 200));
    enroll(folder.path(), quic);
    let agent = start("vedette-agent", folder.path(), "agent");
    eventually("the connection", 30, || (metric(agent_http, "vedette_agent_connected") == 1).then_some(()));
    let mut connection = TcpStream::connect(lines).unwrap();
    for round in 1..=12 {
        connection.write_all(text(series, round).as_bytes()).unwrap();
        let scored = u64::from(series) * round;
        eventually("the series scored", 60, || {
            (metric(agent_http, "vedette_agent_observations_scored_total") >= scored).then_some(())
        });
    }
    eventually("a record delivered", 60, || {
        (metric(agent_http, "vedette_agent_records_delivered_total") > 0).then_some(())
    });
    assert_eq!(metric(agent_http, "vedette_agent_series"), u64::from(series));
    agent.resident_bytes().unwrap()
}

fn text(series: u32, round: u64) -> String {
    let mut text = String::new();
    for host in 0..series {
        let value = 100 + (u64::from(host) * 7 + round * 13) % 10;
        let device = host % 20;
        writeln!(
            text,
            "activity,region=uk,device=tv{device},stack=playback,host=edge-{host:06} value={value}"
        )
        .unwrap();
    }
    text
}

fn start(name: &str, folder: &Path, part: &str) -> Process {
    let config = folder.join(format!("{part}.toml"));
    let log = folder.join(format!("{part}.log"));
    Process::start(&program(name), &["run", "--config", config.to_str().unwrap()], &log)
}

fn enroll(folder: &Path, quic: SocketAddr) {
    let run = |name: &str, args: &[&str]| {
        let output = Command::new(program(name)).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (aggregator, agent) = (folder.join("aggregator.toml"), folder.join("agent.toml"));
    let create = ["token", "create", "--region", "uk", "--config", aggregator.to_str().unwrap()];
    let token = run("vedette-aggregator", &create);
    let (quic, config) = (quic.to_string(), agent.to_str().unwrap());
    run("vedette-agent", &["enroll", "--aggregator", &quic, "--token", &token, "--config", config]);
}

fn metric(http: SocketAddr, name: &str) -> u64 {
    let text = get(http, "/metrics").map(|(_, body)| body).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}
