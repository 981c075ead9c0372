//! Silences: what an operator's order does to an incident, and what its end does.
//!
//! It must never order by a short cut: the program's own commands do it while the service runs. The hard case is the end of
//! a silence while the fault lasts: the same incident is then told, under the same id.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vedette_aggregator::run::Service;
use vedette_aggregator::store::{Batch, StoredState};

use crate::agent::enroll;
use crate::traffic::Traffic;
use crate::{config, read_token, wait_for};

const CALM_WINDOWS: u64 = 40;
/// Further in the future windows are refused.
const FUTURE_WINDOWS: u64 = 28;

/// Judges at once what a lone agent sends.
const JUDGE: &str = "[notify]\nstdout = false\n[metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n";

#[test]
fn a_silence_of_what_nobody_names_is_taken_with_a_warning() {
    let program = crate::program::Program::new(false, "[regions.uk]\n");
    let add = |region: &str| {
        let output =
            program.command(&["silence", "add", "--for", "1h", "--comment", "why", "--region", region], "");
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = add("ku");
    assert!(said.contains("ku") && said.contains("silences nothing there so far"), "{said}");
    assert_eq!(add("uk"), "", "the config names it");
    assert_eq!(program.order(&["silence", "list"], "").lines().count(), 2, "both hold");
}

/// What a command of the program prints.
fn order(folder: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vedette-aggregator"))
        .args(args)
        .arg("--config")
        .arg(config_file(folder))
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn config_file(folder: &Path) -> PathBuf {
    let file = folder.join("config.toml");
    std::fs::write(&file, format!("state_dir = {:?}\n", folder.join("state"))).unwrap();
    file
}

/// What the program says, and its exit code.
fn ask(folder: &Path, args: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vedette-aggregator"));
    let output = command.args(args).arg("--config").arg(config_file(folder)).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// Labels the incident, has it explained, and changes a bit of what one of its decisions was taken from.
async fn label_and_explain(folder: &Path, service: &Service, id: &str) {
    assert_eq!(ask(folder, &["label", "NONE", "real"]).1, Some(1), "no such incident");
    assert_eq!(ask(folder, &["label", id, "wrong"]).1, Some(2), "no such label");
    label_over_http(folder, service, id);
    assert_eq!(
        order(folder, &["label", id, "real", "--author", "anna", "--comment", "it was"]),
        format!("{id}: real")
    );
    let text = order(folder, &["explain", id]);
    assert!(text.contains("Labelled real by anna: it was."), "{text}");
    assert!(text.contains("equal to the bit") && !text.contains("DIFFERS"), "{text}");
    assert!(
        text.contains("peer    browse in uk") && text.contains("tried: had browse and search deviated"),
        "{text}"
    );

    let wanted = id.to_owned();
    let states = service.store().with(move |store| store.incident(&wanted)).await.unwrap().unwrap();
    let opened = states.iter().find(|state| state.state == "open").unwrap();
    let mut basis: serde_json::Value = serde_json::from_str(opened.basis.as_ref().unwrap()).unwrap();
    let cells = basis["grounds"]["cells"].as_array_mut().unwrap();
    let observed = &mut cells.iter_mut().find(|cell| cell[1][0] == true).unwrap()[2][0];
    *observed = f64::from_bits(observed.as_f64().unwrap().to_bits() ^ (1 << 44)).into();
    let changed = StoredState {
        id: id.to_owned(),
        state: "open".into(),
        body: opened.body.clone(),
        basis: Some(basis.to_string()),
        notified: Vec::new(),
    };
    let batch = Batch { states: vec![changed], ..Batch::default() };
    service.store().with(move |store| store.commit(&batch, 1, 10)).await.unwrap().unwrap();
    let (text, code) = ask(folder, &["explain", id]);
    assert!(text.contains("DIFFERS: ") && code == Some(1), "{text}");
}

/// A script's word, which the operator's own takes the place of.
fn label_over_http(folder: &Path, service: &Service, id: &str) {
    let token = order(folder, &["token", "api", "create", "--name", "triage", "--scope", "write"]);
    let url = format!("http://{}/api/v1/incidents/{id}", service.http_address());
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let agent = crate::program::agent(None);
    let order = r#"{"label": "noise", "comment": "a probe"}"#;
    let answer = crate::program::request(&agent, "POST", &format!("{url}/label"), &headers, order);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let shown = crate::program::request(&agent, "GET", &url, &headers, "").json()["label"].clone();
    assert_eq!((&shown["label"], &shown["author"]), (&"noise".into(), &"token:triage".into()), "{shown}");
}

/// The states that incidents entered, oldest first: id, state and reason.
async fn states(service: &Service) -> Vec<(String, String, String)> {
    let found = service.store().with(|store| store.latest_incidents(10)).await.unwrap().unwrap();
    let mut states = Vec::new();
    for incident in found {
        let id = incident.id.clone();
        let entered = service.store().with(move |store| store.incident(&id)).await.unwrap().unwrap();
        states.extend(entered.into_iter().map(|entered| {
            let body: serde_json::Value = serde_json::from_str(&entered.body).unwrap();
            (entered.id, entered.state, body["evidence"]["reason"].as_str().unwrap_or_default().to_owned())
        }));
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_holds_back_while_it_lasts_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(config(folder.path(), JUDGE)).await.unwrap();
    let number = order(
        folder.path(),
        &["silence", "add", "--for", "2h", "--comment", "planned work", "--author", "anna", "--region", "uk"],
    );
    assert!(order(folder.path(), &["silence", "list"]).contains("planned work"));

    let address = service.quic_address().unwrap();
    let agent = enroll(address, &read_token(folder.path()), "edge-1").await.unwrap();
    // A silence covers windows that begin within it: the calm ends now, and what follows may lie in the future a little.
    let mut traffic = Traffic::beginning(agent.session(address).await, CALM_WINDOWS);
    traffic.send(CALM_WINDOWS, 1_000.0).await;
    traffic.send(10, 100.0).await;
    wait_for("a held-back incident", async || !states(&service).await.is_empty()).await;
    let held = states(&service).await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0].1, "suppressed");
    assert!(held[0].2.contains("silenced by anna") && held[0].2.contains("planned work"), "{held:?}");

    order(folder.path(), &["silence", "remove", &number]);
    assert_eq!(order(folder.path(), &["silence", "list"]), "");
    // The service notices within a second or two; windows until then are held back as well.
    wait_for("the page", async || {
        if traffic.sequence < CALM_WINDOWS + FUTURE_WINDOWS {
            traffic.send(1, 100.0).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        states(&service).await.iter().any(|(_, state, _)| state == "open")
    })
    .await;
    let told = states(&service).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].0, told[1].0, "the same incident");
    label_and_explain(folder.path(), &service, &told[0].0).await;
    service.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_waits_through_a_restart_is_judged_with_the_silence() {
    let folder = tempfile::tempdir().unwrap();
    let waiting = format!("{JUDGE}[judge]\nlateness_ms = 600000\n");
    let service = Service::start(config(folder.path(), &waiting)).await.unwrap();
    let address = service.quic_address().unwrap();
    let mut all = Vec::new();
    for name in ["edge-1", "edge-2"] {
        let agent = enroll(address, &read_token(folder.path()), name).await.unwrap();
        all.push(Traffic::beginning(agent.session(address).await, CALM_WINDOWS));
    }
    for _ in 0..CALM_WINDOWS {
        for traffic in &mut all {
            traffic.send(1, 1_000.0).await;
        }
    }
    order(folder.path(), &["silence", "add", "--for", "2h", "--comment", "a deploy", "--region", "uk"]);
    // The other agent keeps pace, so the window waits for it, through the stop.
    all[0].send(1, 50.0).await;
    service.stop().await.unwrap();

    let hasty = format!("{JUDGE}[judge]\nlateness_ms = 0\n");
    let service = Service::start(config(folder.path(), &hasty)).await.unwrap();
    wait_for("the window's judgement", async || !states(&service).await.is_empty()).await;
    let told = states(&service).await;
    assert!(told.iter().all(|(_, state, _)| state == "suppressed"), "{told:?}");
    assert!(told[0].2.contains("a deploy"), "{told:?}");
    service.stop().await.unwrap();
}
