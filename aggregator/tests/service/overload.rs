//! Overload with real sockets: a core that stands still or is slower than its agents, and floods of connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use vedette_aggregator::enroll::Token;
use vedette_aggregator::limits::{
    ADMITTED_MAX, BATCH_RECORDS_MAX, FRUITLESS_MAX, HANDSHAKES_PER_ADDRESS_MAX, HANDSHAKES_UNPROVEN_MAX,
    HTTP_CONNECTIONS_MAX,
};
use vedette_aggregator::metrics::Tally;
use vedette_aggregator::store::Store;
use vedette_common::wire::{Heartbeat, RefuseReason, Summary};
use vedette_common::{Lane, RecordKey};

use crate::agent::{Answer, Session, TestAgent, acknowledged, connect_unknown, enroll, key, summary};
use crate::{Rig, wait_for};

/// Keeps the store from committing until it is dropped.
struct Stall(std::sync::mpsc::Sender<()>);

/// The store's thread waits for the end of the stall.
async fn stall(rig: &Rig) -> Stall {
    let (ends, ended) = std::sync::mpsc::channel();
    let (begins, begun) = tokio::sync::oneshot::channel();
    let store = rig.service.store().clone();
    tokio::spawn(async move {
        let wait = move |_: &mut Store| {
            let _ = begins.send(());
            // Only its end is waited for.
            let _ = ended.recv();
        };
        store.with(wait).await.unwrap();
    });
    begun.await.unwrap();
    Stall(ends)
}

async fn agent(rig: &Rig, name: &str) -> TestAgent {
    let token = rig.local_token();
    let agent = enroll(rig.quic(), &token, name).await.unwrap();
    wait_for("a new token", async || rig.local_token().secret != token.secret).await;
    agent
}

/// Sends so many roll-ups that one is refused, whatever the core has taken for its next commit; gives its sequence once
/// everything behind it was turned away as well.
async fn fill(rig: &Rig, session: &mut Session) -> u64 {
    let sent = (BATCH_RECORDS_MAX + ADMITTED_MAX[Lane::RollUps.index()]) as u64;
    for sequence in 1..=sent {
        session.say(&summary(sequence, "uk")).await;
    }
    let refused = loop {
        if let Answer::Refuse(refuse) = session.answer().await {
            assert_eq!(refuse.reason, RefuseReason::Overloaded);
            assert!(refuse.retry_after_ms > 0);
            break refuse.key.unwrap().sequence.0;
        }
    };
    let behind = || rig.service.metrics().counted(Tally::Refused, "behind_refused");
    wait_for("what is behind the refused one", async || behind() == sent - refused).await;
    refused
}

fn deviation_record(sequence: u64) -> Summary {
    let mut record = summary(sequence, "uk");
    record.key.lane = Lane::Deviations;
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_agent_is_refused_while_a_quiet_one_and_deviations_come_through() {
    let rig = Rig::start().await;
    let (greedy, quiet) = (agent(&rig, "greedy").await, agent(&rig, "quiet").await);
    let (mut greedy, mut quiet) = (greedy.session(rig.quic()).await, quiet.session(rig.quic()).await);
    let stalled = stall(&rig).await;
    let refused = fill(&rig, &mut greedy).await;
    greedy.say(&deviation_record(1)).await;
    quiet.say(&summary(1, "uk")).await;
    drop(stalled.0);

    assert_eq!(quiet.answer().await, acknowledged(1));
    let deviation = RecordKey { lane: Lane::Deviations, ..key(1) };
    let mut answers = Vec::new();
    while !answers.contains(&acknowledged(refused - 1)) || answers.len() < 2 {
        answers.push(greedy.answer().await);
    }
    let of_deviation = Answer::Acknowledge(vedette_common::wire::Acknowledge { key: deviation });
    assert!(answers.contains(&of_deviation), "{answers:?}");
    assert!(!answers.contains(&acknowledged(refused)), "what was refused is not acknowledged");

    // As an agent does: the horizon, and then everything from there on.
    greedy
        .say(&Heartbeat { boot: key(1).boot, horizons: [None, Some(key(refused))], ..Heartbeat::default() })
        .await;
    for sequence in refused..refused + 3 {
        greedy.say(&summary(sequence, "uk")).await;
    }
    while greedy.answer().await != acknowledged(refused + 2) {}
    assert_eq!(rig.service.metrics().counted(Tally::Refused, "overloaded_roll_ups"), 1);
    assert_eq!(rig.service.metrics().counted(Tally::Refused, "overloaded_deviations"), 0);
    rig.service.stop().await.unwrap();
}

/// Sends the first packets of `count` handshakes from an address where nobody will hear the answers.
async fn flood_with_beginnings(good: &TestAgent, target: SocketAddr, count: usize) {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forged = UdpSocket::bind("127.0.0.3:0").await.unwrap();
    let (mut packet, mut begun) = (vec![0; 2_048], BTreeSet::new());
    while begun.len() < count {
        let attempt = tokio::spawn(good.begin(sink.local_addr().unwrap()));
        let fresh = loop {
            let (length, _) = sink.recv_from(&mut packet).await.unwrap();
            // A first packet is padded, and names the connection behind the version (RFC 9000, section 17.2).
            let id = packet[6..6 + usize::from(packet[5])].to_vec();
            if length >= 1_200 && begun.insert(id) {
                break &packet[..length];
            }
        };
        forged.send_to(fresh, target).await.unwrap();
        attempt.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_keeps_no_good_agent_out() {
    let rig = Rig::start().await;
    let good = agent(&rig, "good").await;
    let metrics = rig.service.metrics();
    let unproven = || metrics.counted(Tally::Handshake, "address_unproven");
    flood_with_beginnings(&good, rig.quic(), HANDSHAKES_UNPROVEN_MAX + 20).await;
    wait_for("those beyond the threshold to be asked for a proof", async || unproven() == 20).await;
    // Whole handshakes from one address, as many as it may have under way: agents that never say who they are.
    let mut flood = Vec::new();
    for _ in 0..HANDSHAKES_PER_ADDRESS_MAX {
        flood.push(good.connect_from("127.0.0.2", rig.quic()).await.unwrap());
    }
    assert!(good.connect_from("127.0.0.2", rig.quic()).await.is_err(), "one more from there");
    assert_eq!(metrics.counted(Tally::Handshake, "address_full"), 1);
    assert_eq!(
        unproven(),
        20 + HANDSHAKES_PER_ADDRESS_MAX as u64 + 1,
        "each of them had to prove its address"
    );

    let mut session = good.session(rig.quic()).await;
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1));
    // Whoever has no certificate is told so at once, and gives its place back.
    drop(connect_unknown(rig.quic(), &good.ca).await);
    drop(flood);
    wait_for("the flooded address to have room again", async || {
        good.connect_from("127.0.0.2", rig.quic()).await.is_ok()
    })
    .await;
    rig.service.stop().await.unwrap();
}

/// Passes packets on between one client and `target`, and lets `on_retry` happen before the first retry (RFC 9000, section 17.2.5) is.
async fn relay(relay: UdpSocket, target: SocketAddr, on_retry: impl AsyncFnOnce()) {
    let (mut packet, mut client, mut on_retry) = (vec![0; 2_048], target, Some(on_retry));
    loop {
        let (length, from) = relay.recv_from(&mut packet).await.unwrap();
        if from != target {
            client = from;
        } else if packet[0] & 0xf0 == 0xf0
            && let Some(on_retry) = on_retry.take()
        {
            on_retry().await;
        }
        let to = if from == target { client } else { target };
        relay.send_to(&packet[..length], to).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_for_a_proof_while_certificates_are_renewed_comes_in() {
    let rig = Rig::start().await;
    let good = agent(&rig, "good").await;
    flood_with_beginnings(&good, rig.quic(), HANDSHAKES_UNPROVEN_MAX).await;
    let metrics = rig.service.metrics();
    let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap();
    let renewed = AtomicBool::new(false);
    let renew = async || {
        rig.service.renew_certificates().await.unwrap();
        renewed.store(true, Ordering::Relaxed);
    };
    tokio::select! {
        () = relay(between, rig.quic(), renew) => unreachable!("it relays for ever"),
        session = good.connect(address) => drop(session.unwrap()),
    }
    assert!(renewed.load(Ordering::Relaxed), "it was asked for a proof");
    assert!(metrics.counted(Tally::Handshake, "address_unproven") >= 1);
    rig.service.stop().await.unwrap();
}

/// Enrols with a token that nobody made, and says why that came to nothing; none when there was no connection at all.
async fn guess(rig: &Rig) -> Option<RefuseReason> {
    let wrong = Token { ca_fingerprint: rig.local_token().ca_fingerprint, secret: [0; 16] };
    let quic = rig.quic();
    let attempt =
        tokio::spawn(async move { enroll(quic, &wrong, "guesser").await.err().map(|it| it.reason) });
    attempt.await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_tokens_has_to_wait_and_nobody_else_does() {
    let rig = Rig::start().await;
    let good = agent(&rig, "good").await;
    let mut session = good.session(rig.quic()).await;
    let metrics = rig.service.metrics();
    let mut guesses = 0;
    // Each counts as several handshakes, more than are forgiven meanwhile.
    while let Some(reason) = guess(&rig).await {
        assert_eq!(reason, RefuseReason::TokenUnknown);
        guesses += 1;
        assert!(guesses < FRUITLESS_MAX, "nobody stops it");
    }
    assert!(metrics.counted(Tally::Handshake, "address_too_often") >= 1);
    assert_eq!(metrics.counted(Tally::Enrolment, "token_unknown"), u64::from(guesses));
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1), "a connection that stands goes on");
    assert!(good.connect_from("127.0.0.2", rig.quic()).await.is_ok(), "another address");
    wait_for("the address to be let in again", async || good.connect(rig.quic()).await.is_ok()).await;
    rig.service.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_the_console_are_bounded_and_give_their_places_back() {
    let rig = Rig::start().await;
    let http = rig.service.http_address();
    let mut idle = Vec::new();
    for _ in 0..HTTP_CONNECTIONS_MAX {
        idle.push(TcpStream::connect(http).await.unwrap());
    }
    let mut one_more = TcpStream::connect(http).await.unwrap();
    let end = tokio::time::timeout(std::time::Duration::from_secs(60), one_more.read_u8()).await;
    assert!(end.expect("an end in time").is_err(), "closed without a word");
    assert_eq!(rig.service.metrics().counted(Tally::TurnedAway, "connections"), 1);
    drop(idle);
    wait_for("room for somebody who asks", async || is_answered(http).await).await;
    rig.service.stop().await.unwrap();
}

/// Whether a question after the service's health is answered.
async fn is_answered(http: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(http).await else { return false };
    let question = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(question).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
