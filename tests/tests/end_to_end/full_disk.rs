//! A disk that is really full: the agent's spool on a small file system of its own.
//!
//! It must never fill a disk of the machine, and is skipped, with words, where nobody may mount one. The hard case is the time after: once
//! there is room again everything that was kept is delivered, and new records are taken.
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use vedette_tests::rig::{Process, eventually, free_address, get, program};

/// Bytes of the file system; the spool would take four times as many.
const DISK: &str = "size=256k,mode=0700";
/// Windows while nobody listens: more than fit.
const WINDOWS: u64 = 4_000;

/// A shell in which file systems can be mounted that nobody else sees.
fn shell(script: &str) -> Command {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    let mut command = Command::new("unshare");
    if user != Some("0") {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--", "sh", "-c", script]);
    command
}

/// The agent's folders, its owner's alone; gives that of the spool.
fn spool_folder(folder: &Path) -> PathBuf {
    let (edge, spool) = (folder.join("edge"), folder.join("edge/spool"));
    fs::create_dir_all(&spool).unwrap();
    for private in [&edge, &spool] {
        fs::set_permissions(private, PermissionsExt::from_mode(0o700)).unwrap();
    }
    spool
}

/// Writes both configs: QUIC and console of the aggregator, line protocol and health of the agent.
fn configure(folder: &Path, [quic, http, lines, agent_http]: [SocketAddr; 4]) {
    let (centre, edge) = (folder.join("centre"), folder.join("edge"));
    let config = format!(
        "state_dir = {centre:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n[notify]\nstdout = false\n"
    );
    fs::write(folder.join("aggregator.toml"), config).unwrap();
    let config = format!(
        "agent_id = \"edge-uk\"\nstate_dir = {edge:?}\n[tags]\nregion = \"uk\"\n\
         [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
         [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\nprecision = \"s\"\n\
         [window]\nwindow_ms = 1000\nlateness_ms = 0\nclock = \"event\"\n[limits]\nspool_bytes_max = 1048576\n\
         [uplink]\naddress = \"{quic}\"\naggregator_state_dir = {centre:?}\n[http]\nlisten = \"{agent_http}\"\n"
    );
    fs::write(folder.join("agent.toml"), config).unwrap();
}

/// A counter of the agent, over all its labels; none when nobody answers or it is not there.
fn counted(agent_http: SocketAddr, name: &str) -> Option<u64> {
    let (_, page) = get(agent_http, "/metrics")?;
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let values = page.lines().filter(is_of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.map(|value| value as u64).reduce(|sum, value| sum + value)
}

#[test]
fn a_full_disk_costs_new_records_with_a_count_and_nothing_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool_folder(folder.path());
    let mount = format!("mount -t tmpfs -o {DISK} tmpfs {}", spool.display());
    let trial = shell(&mount).output();
    if !trial.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nobody may mount a file system here: {trial:?}");
        return;
    }
    let [quic, http, lines, agent_http] = std::array::from_fn(|_| free_address());
    let at = |name: &str| folder.path().join(name);
    configure(folder.path(), [quic, http, lines, agent_http]);
    let aggregator = || {
        let config = at("aggregator.toml");
        let args = ["run", "--config", config.to_str().unwrap()];
        Process::start(&program("vedette-aggregator"), &args, &at("aggregator.log"))
    };
    let mut first = aggregator();
    let run = |program: &Path| format!("{mount} && exec {} run --config agent.toml", program.display());
    let mut command = shell(&run(&program("vedette-agent")));
    command.current_dir(folder.path());
    let mut agent = Process::start_command(command, "vedette-agent".into(), &at("agent.log"));

    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 86_400;
    let send = |windows: std::ops::Range<u64>| {
        let mut text = String::new();
        for window in windows {
            writeln!(text, "activity,device=tv,stack=playback value=5 {}", begin + window).unwrap();
        }
        let mut connection = eventually("the agent's line protocol", 30, || TcpStream::connect(lines).ok());
        connection.write_all(text.as_bytes()).unwrap();
    };
    let count = |name: &str| counted(agent_http, name);
    let record = |what: &str| count(&format!("vedette_agent_records_{what}"));
    let sum_holds = || {
        let (made, delivered) = (record("made_total")?, record("delivered_total")?);
        (made == delivered + record("spooled")? + record("dropped_total")?).then_some(made)
    };

    send(0..20);
    eventually("the first records delivered", 60, || record("delivered_total").filter(|count| *count >= 10));
    first.kill();
    send(20..WINDOWS);
    eventually("every window made into a record", 60, || sum_holds().filter(|made| *made >= WINDOWS - 10));
    let dropped = record("dropped_total").unwrap();
    let kept = record("spooled").unwrap();
    assert!(dropped > 100 && kept > 100, "{dropped} dropped, {kept} kept");
    assert!(count("vedette_agent_spool_faults_total").unwrap() > 0, "the disk said that it is full");

    let mut second = aggregator();
    eventually("everything that was kept delivered", 90, || record("spooled").filter(|count| *count == 0));
    assert_eq!(record("dropped_total"), Some(dropped), "nothing of it was lost");
    send(WINDOWS..WINDOWS + 50);
    eventually("new records delivered", 60, || {
        let made = sum_holds()?;
        (made >= WINDOWS + 40 && record("spooled") == Some(0)).then_some(())
    });
    assert_eq!(record("dropped_total"), Some(dropped), "there is room again");
    assert!(agent.terminate(15).success() && second.terminate(15).success());
}
