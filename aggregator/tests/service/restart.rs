//! What survives a graceful stop, and what survives a kill.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use vedette_aggregator::enroll::LOCAL_TOKEN_FILE;
use vedette_aggregator::run::Service;

use crate::agent::{acknowledged, enroll, summary};
use crate::{QUIET, Rig, config, read_token, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_answers_what_it_took_and_a_start_goes_on_from_there() {
    let Rig { service, folder } = Rig::start().await;
    let token = read_token(folder.path());
    let address = service.quic_address().unwrap();
    let agent = enroll(address, &token, "edge-1").await.unwrap();
    let mut session = agent.session(address).await;
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1));
    service.stop().await.unwrap();
    assert!(session.farewell().await.contains("stopping"));

    let service = Service::start(config(folder.path(), QUIET)).await.unwrap();
    let mut session = agent.session(service.quic_address().unwrap()).await;
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1));
    session.say(&summary(2, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(2));
    service.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_aggregators_do_not_share_a_state_folder() {
    let rig = Rig::start().await;
    let second = Service::start(config(rig.folder.path(), QUIET)).await;
    assert!(second.unwrap_err().to_string().contains("another aggregator is running"));
}

/// The real program, killed when dropped.
struct Program(Child);

impl Program {
    fn start(folder: &Path, quic: SocketAddr) -> Self {
        let file = folder.join("config.toml");
        let state = folder.join("state");
        let text = format!("state_dir = {state:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"127.0.0.1:0\"\n");
        std::fs::write(&file, text).unwrap();
        let program = env!("CARGO_BIN_EXE_vedette-aggregator");
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("state").join(LOCAL_TOKEN_FILE);
    // A port that was free a moment ago; the program needs a fixed one to be found again.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut program = Program::start(folder.path(), address);
    wait_for("the local token", async || token_file.exists()).await;
    let agent = enroll(address, &read_token(folder.path()), "edge-1").await.unwrap();
    for round in 0..3_u64 {
        let mut session = agent.session(address).await;
        for sequence in 5 * round + 1..=5 * round + 5 {
            session.say(&summary(sequence, "uk")).await;
            assert_eq!(session.answer().await, acknowledged(sequence));
        }
        program.kill();
        program = Program::start(folder.path(), address);
        wait_for("the former connection's end", async || {
            // Whatever is sent on it is answered with a reset by the new process, long before any timeout.
            let _ = session.send.write_all(b"V").await;
            session.connection.close_reason().is_some()
        })
        .await;
        assert_eq!(session.connection.close_reason(), Some(quinn::ConnectionError::Reset));
        wait_for("the port", async || agent.connect(address).await.is_ok()).await;
        let mut session = agent.session(address).await;
        session.say(&summary(1, "uk")).await;
        assert_eq!(
            session.answer().await,
            acknowledged(5 * round + 5),
            "nothing acknowledged is lost or applied again"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_read_the_state() {
    let rig = Rig::start().await;
    let agent = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    agent.session(rig.quic()).await;
    let state = rig.folder.path().join("state");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    for wanted in ["ca.pem", "vedette.sqlite", "vedette.sqlite-wal", LOCAL_TOKEN_FILE] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} in {names:?}");
    }
}
