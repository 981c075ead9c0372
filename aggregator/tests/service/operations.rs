//! What operators do with a running aggregator: stop it, kill it, start it again, reload it, copy and restore its database.
//!
//! Deliveries are counted by their idempotency key at a real receiver. The hard case is all of it in the middle of an incident: people hear of it once,
//! and of its end once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::agent::{TestAgent, acknowledged, enroll};
use crate::notifiers::{Request, next, receiver};
use crate::program::Program;
use crate::traffic::{CALM, Traffic};
use crate::{read_token, wait_for};

const FAULT: f32 = 100.0;

/// Pages `hook`; an incident is over after six quiet windows.
fn paging(hook: SocketAddr) -> String {
    format!(
        "[notify]\nstdout = false\n[notify.webhook.ops]\nurl = \"http://{hook}/\"\n\
         [metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n[incidents]\nquiet_s = 60\n"
    )
}

/// A running program that pages `hook`, and an agent that has sent forty calm windows.
async fn site(hook: SocketAddr) -> (Program, TestAgent, Traffic) {
    let mut program = Program::new(false, &paging(hook));
    program.start();
    let agent = enroll(program.quic, &read_token(program.folder()), "edge-1").await.unwrap();
    let mut traffic = Traffic::beginning(agent.session(program.quic).await, 120);
    traffic.send(40, CALM).await;
    (program, agent, traffic)
}

/// Connects again once the program listens.
async fn reconnect(agent: &TestAgent, program: &Program, traffic: &mut Traffic) {
    let address = program.quic;
    wait_for("the agent's port", async || agent.connect(address).await.is_ok()).await;
    traffic.session = agent.session(address).await;
}

/// The states that were told of every incident, as the API has them: id and state, oldest first.
fn told(program: &Program) -> Vec<(String, String)> {
    let of = |path: &str| program.get(path, &[]).json();
    let (live, over) = (of("/api/v1/incidents"), of("/api/v1/history"));
    let all = live["incidents"].as_array().unwrap().iter().chain(over["incidents"].as_array().unwrap());
    let ids: BTreeSet<String> = all.map(|one| one["alarm"]["id"].as_str().unwrap().to_owned()).collect();
    let mut told = Vec::new();
    for id in ids {
        let states = of(&format!("/api/v1/incidents/{id}"))["states"].clone();
        let states = states.as_array().unwrap().iter();
        told.extend(states.map(|state| (id.clone(), state["state"].as_str().unwrap().to_owned())));
    }
    told
}

/// What arrived under each key: incident and state. The same key must always say the same.
#[derive(Default)]
struct Arrived(BTreeMap<String, (String, String)>);

impl Arrived {
    fn take(&mut self, requests: &Receiver<Request>) {
        requests.try_iter().for_each(|request| self.add(&request));
    }

    fn add(&mut self, request: &Request) {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let said = (text("id"), text("state"));
        let known = self.0.insert(request.idempotency_key.clone(), said.clone());
        assert!(known.is_none_or(|known| known == said), "one key, two messages: {body}");
    }

    fn count(&self, state: &str) -> usize {
        self.0.values().filter(|(_, told)| told == state).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_and_kills_in_the_middle_of_an_incident_lose_and_double_nothing() {
    let (hook, requests) = receiver(&[503, 200, 500, 200, 503]);
    let (mut program, agent, mut traffic) = site(hook).await;
    let mut arrived = Arrived::default();
    // Twelve windows of a fault, then calm; nine ends of the process spread over both, each with a window that was not answered.
    for step in 0..27 {
        let observed = if step < 12 { FAULT } else { CALM };
        traffic.say(observed).await;
        if step % 3 == 1 {
            if step % 2 == 0 {
                assert_eq!(program.stop(), Some(0), "{}", program.log());
            } else {
                program.kill();
            }
            program.start();
            reconnect(&agent, &program, &mut traffic).await;
            traffic.say_again(observed).await;
        }
        assert_eq!(traffic.session.answer().await, acknowledged(traffic.sequence));
    }
    wait_for("the all-clear", async || {
        arrived.take(&requests);
        arrived.count("resolved") > 0
    })
    .await;
    wait_for("an empty outbox", async || program.metric("vedette_aggregator_outbox_rows", &[]) == 0.0).await;
    arrived.take(&requests);
    let told = told(&program);
    let ids: BTreeSet<&String> = told.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 1, "one incident under one id from begin to end: {told:?}");
    let mut delivered: Vec<(String, String)> = arrived.0.into_values().collect();
    let mut wanted: Vec<(String, String)> =
        told.into_iter().filter(|(_, state)| state != "suppressed").collect();
    delivered.sort();
    wanted.sort();
    assert_eq!(delivered, wanted, "every state that was told arrived, under a key of its own");
    assert_eq!(wanted.iter().filter(|(_, state)| state == "resolved").count(), 1);
    assert_eq!(wanted.iter().filter(|(_, state)| state == "open").count(), 1);
}

/// A receiver that answers each request only when it is told to.
fn slow_receiver() -> (SocketAddr, Receiver<String>, std::sync::mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ((sender, requests), (release, released)) = (channel(), channel());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut reader) = (String::new(), BufReader::new(&stream));
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(reader.read_line(&mut head).unwrap(), 0, "a request begins with a head");
            }
            let head = head.to_lowercase();
            let field =
                |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
            // What is left unread when the socket closes would take the answer with it.
            let mut body = vec![0; field("content-length: ").parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let key = field("idempotency-key: ");
            let _ = sender.send(key);
            let _ = released.recv();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (address, requests, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_finishes_the_delivery_under_way() {
    let (hook, requests, release) = slow_receiver();
    let (mut program, agent, mut traffic) = site(hook).await;
    traffic.send(4, FAULT).await;
    let patience = std::time::Duration::from_secs(60);
    let first = requests.recv_timeout(patience).expect("the page");
    assert!(first.contains("-open-"), "{first}");
    program.signal("TERM");
    program.wait("the stop to begin", || program.log().contains("stopping").then_some(()));
    release.send(()).unwrap();
    assert_eq!(program.ended(), Some(0), "{}", program.log());
    program.start();
    reconnect(&agent, &program, &mut traffic).await;
    traffic.send(12, CALM).await;
    let second = requests.recv_timeout(patience).expect("the all-clear");
    assert!(second.contains("-resolved-"), "the page was noted and is not made again: {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_while_running_is_gone_on_from_without_a_second_alarm() {
    let (hook, requests) = receiver(&[]);
    let (mut program, agent, mut traffic) = site(hook).await;
    traffic.send(4, FAULT).await;
    let mut arrived = Arrived::default();
    arrived.add(&next(&requests));
    assert_eq!(arrived.count("open"), 1);
    let copy = program.path("backup.sqlite");
    let name = copy.to_str().unwrap();
    // Records come in while it copies.
    let working = std::thread::scope(|scope| {
        let backup = scope.spawn(|| program.order(&["backup", name], ""));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(traffic.send(4, FAULT));
        });
        backup.join().unwrap()
    });
    assert!(working.contains("whole") && working.contains("1 incidents"), "{working}");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(program.order(&["verify"], "").contains("whole"), "while it runs");
    assert!(program.order(&["verify", name], "").contains("whole"));
    let refused = |args: &[&str], why: &str| {
        let output = program.command(args, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(why), "{args:?}: {said}");
    };
    refused(&["backup", name], "exists already");
    refused(&["restore", name], "another aggregator is running");

    program.kill();
    let mut bytes = std::fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    let (damaged, database) = (program.path("damaged.sqlite"), program.path("state").join("vedette.sqlite"));
    std::fs::write(&damaged, &bytes).unwrap();
    std::fs::write(&database, &bytes).unwrap();
    std::fs::remove_file(database.with_extension("sqlite-wal")).unwrap();
    assert_eq!(program.command(&["verify"], "").status.code(), Some(1));
    assert_eq!(program.command(&["restore", damaged.to_str().unwrap()], "").status.code(), Some(1));
    assert!(program.order(&["restore", name], "").contains("vedette.before-restore"));
    program.start();
    reconnect(&agent, &program, &mut traffic).await;
    // What was acknowledged after the backup is gone from the agent and from here; the agent says so.
    traffic.say_horizon().await;
    traffic.send(2, FAULT).await;
    traffic.send(12, CALM).await;
    wait_for("the all-clear", async || {
        arrived.take(&requests);
        arrived.count("resolved") > 0
    })
    .await;
    assert_eq!((arrived.count("open"), arrived.count("resolved")), (1, 1), "{:?}", arrived.0);
    let ids: BTreeSet<&String> = arrived.0.values().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 1, "the same incident");
    let whole = program.metric("vedette_aggregator_store_whole", &[]);
    assert_eq!(whole, 1.0, "it looks through its database by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_taken_over_when_its_content_changes_and_never_with_a_mistake() {
    let (first_hook, first) = receiver(&[]);
    let (second_hook, second) = receiver(&[]);
    let (program, _agent, mut traffic) = site(first_hook).await;
    let reloads = |outcome: &str| {
        program.metric(&format!("vedette_aggregator_config_reloads_total{{outcome=\"{outcome}\"}}"), &[])
    };
    let current = || program.metric("vedette_aggregator_config_current", &[]);
    assert_eq!((current(), reloads("done"), reloads("refused")), (1.0, 0.0, 0.0));

    program.configure(false, &paging(second_hook).replace("quiet_s = 60", "quiet_s = \"soon\""));
    program.wait("the refusal", || (reloads("refused") == 1.0).then_some(()));
    assert_eq!(current(), 0.0, "what is in force is not what the file says");
    let log = program.log();
    let line = log.lines().find(|line| line.contains("the former config stays in force")).unwrap();
    assert!(
        line.contains("incidents.quiet_s") && line.contains("active=") && line.contains("refused="),
        "{line}"
    );
    // Without a mistake in it, but nobody could be let in any more.
    program.configure(false, &format!("{}[auth]\nmode = \"required\"\n", paging(second_hook)));
    program.wait("the second refusal", || (reloads("refused") == 2.0).then_some(()));
    assert_eq!(program.get("/api/v1/incidents", &[]).status, 200, "nothing of it was put in force");
    traffic.send(4, FAULT).await;
    assert!(next(&first).body.contains("\"open\""), "the former config pages on");

    program.configure(false, &paging(second_hook));
    program.wait("the new config", || (reloads("done") == 1.0).then_some(()));
    assert_eq!(current(), 1.0);
    program.signal("HUP");
    program.wait("a reading on demand", || (reloads("done") == 2.0).then_some(()));
    traffic.send(12, CALM).await;
    assert!(next(&second).body.contains("\"resolved\""));
    assert!(first.try_recv().is_err(), "who is no longer named hears nothing");
}
