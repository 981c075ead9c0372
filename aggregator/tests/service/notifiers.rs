//! Deliveries to real HTTP receivers: order, retries under the same key, and who hears of what.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vedette_aggregator::outbox::Routes;
use vedette_aggregator::run::Service;
use vedette_aggregator::store::{Batch, StoredState};
use vedette_aggregator_core::IncidentState;

use crate::{QUIET, config, wait_for};

/// A received request.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    path: String,
    pub(crate) idempotency_key: String,
    pub(crate) body: String,
}

/// Answers requests with the given status codes, then with 200, and hands on what came.
pub(crate) fn receiver(statuses: &'static [u16]) -> (SocketAddr, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        let mut statuses = statuses.iter();
        for stream in listener.incoming() {
            answer(stream.unwrap(), *statuses.next().unwrap_or(&200), &sender);
        }
    });
    (address, requests)
}

fn answer(mut stream: TcpStream, status: u16, requests: &Sender<Request>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let value = head.iter().filter_map(|line| line.split_once(": "));
        value.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let idempotency_key = header("idempotency-key").unwrap_or_default();
    let _ = requests.send(Request { path, idempotency_key, body: String::from_utf8(body).unwrap() });
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
}

fn alarm(id: &str, state: IncidentState, at: &str) -> String {
    include_str!("alarm.json")
        .replace("ID", id)
        .replace("STATE", state.as_str())
        .replace("\"AT\"", &format!("\"{at}\""))
        .trim()
        .to_owned()
}

async fn enter(service: &Service, routes: &Routes, id: &str, state: IncidentState, at: &str) {
    enter_body(service, routes, id, state, alarm(id, state, at)).await;
}

async fn enter_body(service: &Service, routes: &Routes, id: &str, state: IncidentState, body: String) {
    let entered = StoredState {
        id: id.to_owned(),
        state: state.as_str().to_owned(),
        body,
        basis: None,
        notified: routes.notified(state),
    };
    let now_ms = crate::agent::now().0;
    let batch = Batch { states: vec![entered], ..Batch::default() };
    service.store().with(move |store| store.commit(&batch, now_ms, 100)).await.unwrap().unwrap();
}

pub(crate) fn next(requests: &Receiver<Request>) -> Request {
    requests.recv_timeout(Duration::from_secs(60)).expect("a delivery in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_every_open_and_resolved_state_until_it_takes_it() {
    let (address, requests) = receiver(&[500, 503]);
    let folder = tempfile::tempdir().unwrap();
    let more = format!("[notify]\nstdout = false\n[notify.webhook.ops]\nurl = \"http://{address}/hook\"\n");
    let config = config(folder.path(), &more);
    let routes = Routes::new(&config);
    let service = Service::start(config).await.unwrap();
    enter(&service, &routes, "HELD", IncidentState::Suppressed, "2026-03-09T20:00:00Z").await;
    enter(&service, &routes, "HELD", IncidentState::Resolved, "2026-03-09T20:10:00Z").await;
    enter(&service, &routes, "REAL", IncidentState::Open, "2026-03-09T20:15:00Z").await;
    enter(&service, &routes, "REAL", IncidentState::Resolved, "2026-03-09T20:30:00Z").await;

    let (first, second, third, fourth) = (next(&requests), next(&requests), next(&requests), next(&requests));
    assert_eq!(first.path, "/hook");
    assert!(
        first.body.contains("\"id\":\"REAL\",\"state\":\"open\""),
        "what was held back stays here: {}",
        first.body
    );
    assert_eq!(
        (&first, &second),
        (&second, &third),
        "the same delivery under the same key until it is taken"
    );
    assert!(first.idempotency_key.starts_with("REAL-open-"));
    assert!(
        fourth.body.contains("\"state\":\"resolved\"") && fourth.idempotency_key != first.idempotency_key
    );
    wait_for("an empty outbox", async || {
        service.store().with(|store| store.outbox_rows()).await.unwrap().unwrap() == 0
    })
    .await;
    service.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_receiver_refuses_for_good_holds_nothing_up() {
    let (address, requests) = receiver(&[400]);
    let folder = tempfile::tempdir().unwrap();
    let more = format!("[notify]\nstdout = false\n[notify.webhook.ops]\nurl = \"http://{address}/\"\n");
    let config = config(folder.path(), &more);
    let routes = Routes::new(&config);
    let service = Service::start(config).await.unwrap();
    enter(&service, &routes, "ONE", IncidentState::Open, "2026-03-09T20:15:00Z").await;
    enter(&service, &routes, "TWO", IncidentState::Open, "2026-03-09T20:15:00Z").await;
    assert!(next(&requests).body.contains("\"ONE\""));
    assert!(next(&requests).body.contains("\"TWO\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_between_commit_and_delivery_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (address, requests) = receiver(&[]);
    let quiet = config(folder.path(), QUIET);
    let more = format!("[notify]\nstdout = false\n[notify.webhook.ops]\nurl = \"http://{address}/\"\n");
    let telling = config(folder.path(), &more);
    let service = Service::start(quiet).await.unwrap();
    enter(&service, &Routes::new(&telling), "REAL", IncidentState::Open, "2026-03-09T20:15:00Z").await;
    service.stop().await.unwrap();
    let _service = Service::start(telling).await.unwrap();
    assert!(next(&requests).body.contains("\"REAL\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn alertmanager_gets_alerts_that_end_when_the_alarm_does() {
    let (address, requests) = receiver(&[]);
    let folder = tempfile::tempdir().unwrap();
    let more = format!(
        "[notify]\nstdout = false\n[notify.alertmanager.main]\nurl = \"http://{address}/\"\nlabels = {{ team = \"tv\" }}\n"
    );
    let config = config(folder.path(), &more);
    let routes = Routes::new(&config);
    let service = Service::start(config).await.unwrap();
    enter(&service, &routes, "HELD", IncidentState::Suppressed, "2026-03-09T20:15:00Z").await;
    enter(&service, &routes, "REAL", IncidentState::Open, "2026-03-09T20:15:00Z").await;
    let open = next(&requests);
    assert_eq!(open.path, "/api/v2/alerts");
    let alert: serde_json::Value = serde_json::from_str::<Vec<_>>(&open.body).unwrap().remove(0);
    let labels = serde_json::json!({"alertname": "vedette_malfunction", "severity": "critical", "region": "uk",
        "device": "tv-lg", "stack": "playback,browse", "id": "REAL", "team": "tv"});
    assert_eq!(alert["labels"], labels);
    assert_eq!(alert["startsAt"], "2026-03-09T20:05:00Z");
    assert!(
        alert["endsAt"].as_str().unwrap() > "2026-03-09T20:30:00Z",
        "believed for a while: {}",
        alert["endsAt"]
    );

    // What it becomes while it lasts is no other alert to Alertmanager, which would page again and call the former one over.
    let worse = alarm("REAL", IncidentState::Open, "2026-03-09T20:20:00Z")
        .replace("\"critical\"", "\"info\"")
        .replace("[\"tv-lg\"]", "[\"ios\"]");
    enter_body(&service, &routes, "REAL", IncidentState::Open, worse).await;
    let mut moved = next(&requests);
    while !moved.body.contains("\"ios\"") {
        moved = next(&requests);
    }
    let alert: serde_json::Value = serde_json::from_str::<Vec<_>>(&moved.body).unwrap().remove(0);
    assert_eq!(alert["labels"], labels);
    assert_eq!(
        (&alert["annotations"]["severity"], &alert["annotations"]["device"]),
        (&"info".into(), &"ios".into())
    );

    enter(&service, &routes, "REAL", IncidentState::Resolved, "2026-03-09T20:30:00Z").await;
    let mut ended = next(&requests);
    while !ended.body.contains("\"endsAt\":\"2026-03-09T20:30:00Z\"") {
        ended = next(&requests);
    }
    let alert: serde_json::Value = serde_json::from_str::<Vec<_>>(&ended.body).unwrap().remove(0);
    assert_eq!(alert["labels"], labels);
}
