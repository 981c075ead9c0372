//! Who gets a certificate, and whose certificate is good for what.

use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use vedette_aggregator::ca::{Authority, SigningRequest};
use vedette_aggregator::enroll::Token;
use vedette_aggregator::identity::{Identity, Regions};
use vedette_aggregator::metrics::Tally;
use vedette_aggregator::state_folder::StateFolder;
use vedette_aggregator::store::NewToken;
use vedette_common::wire::{Enroll, RefuseReason};

use crate::agent::{
    Answer, TestAgent, acknowledged, agent_id, birth, connect_unknown, enroll, exchange, farewell, frame,
    signing_request, summary,
};
use crate::{QUIET, Rig, config, wait_for};

/// Stores a token with these properties beside a running aggregator.
pub(crate) async fn token(rig: &Rig, regions: &[&str], replaces: Option<&str>, expires_ms: i64) -> Token {
    let token = Token { ca_fingerprint: rig.local_token().ca_fingerprint, secret: rand_secret() };
    let new = NewToken {
        secret_hash: token.secret_hash(),
        regions: Regions::parse(regions).unwrap(),
        replaces: replaces.map(str::to_owned),
        expires_ms,
    };
    rig.service.store().with(move |store| store.create_token(&new, 0)).await.unwrap().unwrap();
    token
}

fn rand_secret() -> [u8; 16] {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).unwrap();
    secret
}

fn reason(result: Result<TestAgent, vedette_common::wire::Refuse>) -> RefuseReason {
    result.err().expect("a refusal").reason
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_the_same_user_enrol_with_the_local_token_one_after_the_other() {
    let rig = Rig::start().await;
    let first_token = rig.local_token();
    let first = enroll(rig.quic(), &first_token, "edge-1").await.unwrap();
    let identity = Identity::from_certificate(&first.certificate).unwrap();
    assert_eq!(identity.agent, agent_id("edge-1"));
    assert!(identity.regions.is_all());

    assert_ne!(rig.local_token().secret, first_token.secret, "a fresh token follows each use");
    enroll(rig.quic(), &rig.local_token(), "edge-2").await.unwrap();
    let again = enroll(rig.quic(), &first_token, "edge-3").await;
    assert_eq!(reason(again), RefuseReason::TokenUsed);
    assert_eq!(rig.service.metrics().counted(Tally::Enrolment, "done"), 2);
    assert_eq!(rig.service.metrics().counted(Tally::Enrolment, "token_used"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_expired_tokens_are_refused_each_with_its_reason() {
    let rig = Rig::start().await;
    let unknown = Token { ca_fingerprint: rig.local_token().ca_fingerprint, secret: rand_secret() };
    assert_eq!(reason(enroll(rig.quic(), &unknown, "edge-1").await), RefuseReason::TokenUnknown);
    let expired = token(&rig, &["*"], None, 1).await;
    assert_eq!(reason(enroll(rig.quic(), &expired, "edge-1").await), RefuseReason::TokenExpired);
    assert_eq!(rig.service.metrics().counted(Tally::Enrolment, "token_unknown"), 1);
    assert_eq!(rig.service.metrics().counted(Tally::Enrolment, "token_expired"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_its_key_until_a_token_says_otherwise() {
    let rig = Rig::start().await;
    let before = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    let plain = token(&rig, &["uk"], None, i64::MAX).await;
    assert_eq!(reason(enroll(rig.quic(), &plain, "edge-1").await), RefuseReason::AgentKnown);
    enroll(rig.quic(), &plain, "edge-2").await.expect("a refusal for the name does not use the token up");

    let other = token(&rig, &["uk"], Some("edge-9"), i64::MAX).await;
    assert_eq!(reason(enroll(rig.quic(), &other, "edge-1").await), RefuseReason::AgentKnown);
    let replacing = token(&rig, &["uk"], Some("edge-1"), i64::MAX).await;
    let after = enroll(rig.quic(), &replacing, "edge-1").await.unwrap();
    after.session(rig.quic()).await;

    // The former certificate is still of our CA, but no longer the agent's.
    let mut former = before.connect(rig.quic()).await.unwrap();
    former.say(&birth(&before.id)).await;
    assert!(
        matches!(former.answer().await, Answer::Refuse(refuse) if refuse.reason == RefuseReason::WrongIdentity)
    );
    assert!(former.farewell().await.contains("another key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_signing_requests_are_refused_and_use_nothing_up() {
    let rig = Rig::start().await;
    let token = token(&rig, &["uk"], None, i64::MAX).await;
    let key = KeyPair::generate().unwrap();
    let good = signing_request("edge-1", &key);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let rsa_free = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let bad = [
        Vec::new(),
        b"not a request".to_vec(),
        good[..good.len() / 2].to_vec(),
        forged,
        signing_request("Not A Name", &key),
        signing_request("edge-1", &rsa_free),
    ];
    for csr in bad {
        let request =
            Enroll { token_secret: token.secret, csr_der: heapless::Vec::from_slice(&csr).unwrap() };
        let refused = exchange(rig.quic(), &token, &frame(&request)).await.unwrap_err();
        assert_eq!(refused.reason, RefuseReason::Malformed);
    }
    enroll(rig.quic(), &token, "edge-1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_foreign_certificates_do_not_get_through_the_handshake() {
    let rig = Rig::start().await;
    let mut agent = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    let folder = StateFolder::open(&rig.folder.path().join("state")).unwrap();
    let ours = Authority::open(&folder, SystemTime::now()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(&elsewhere.path().join("state")).unwrap();
    let foreign = Authority::open(&folder, SystemTime::now()).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(500 * 86_400);

    let request = SigningRequest::parse(&signing_request("edge-1", &agent.key)).unwrap();
    let cases =
        [(&ours, long_ago, "certificate_expired"), (&foreign, SystemTime::now(), "certificate_foreign")];
    for (authority, made_at, outcome) in cases {
        agent.certificate = authority.issue_agent(&request, &Regions::all(), made_at).unwrap().certificate;
        // A client of TLS 1.3 learns of the refusal only after its own side of the handshake is done.
        if let Ok(session) = agent.connect(rig.quic()).await {
            session.connection.closed().await;
        }
        let metrics = rig.service.metrics();
        wait_for(outcome, async || metrics.counted(Tally::Handshake, outcome) == 1).await;
    }
    assert_eq!(rig.service.metrics().counted(Tally::Frame, "birth"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_protocol_needs_a_certificate() {
    let rig = Rig::start().await;
    let agent = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    let connection = connect_unknown(rig.quic(), &agent.ca).await;
    assert!(farewell(&connection).await.contains("needs a client certificate"));
    assert_eq!(rig.service.metrics().counted(Tally::Closed, "no_certificate"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_old_and_new_agents_are_welcome() {
    let mut rig = Rig::start().await;
    let old_token = rig.local_token();
    let old = enroll(rig.quic(), &old_token, "edge-1").await.unwrap();
    let folder = StateFolder::open(&rig.folder.path().join("state")).unwrap();
    let now = SystemTime::now();
    Authority::open(&folder, now).unwrap().rotate(&folder, now).unwrap();
    rig.service.reload(config(rig.folder.path(), QUIET)).await.unwrap();

    assert_ne!(rig.local_token().ca_fingerprint, old_token.ca_fingerprint);
    let new = enroll(rig.quic(), &rig.local_token(), "edge-2").await.unwrap();
    assert_ne!(new.ca, old.ca);
    for agent in [&old, &new] {
        let mut session = agent.session(rig.quic()).await;
        session.say(&summary(1, "uk")).await;
        assert_eq!(session.answer().await, acknowledged(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_beside_a_running_aggregator_cuts_nobody_off() {
    let rig = Rig::start().await;
    let old = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    let mut session = old.session(rig.quic()).await;
    let folder = StateFolder::open(&rig.folder.path().join("state")).unwrap();
    for _ in 0..3 {
        let before = rig.local_token().ca_fingerprint;
        let now = SystemTime::now();
        Authority::open(&folder, now).unwrap().rotate(&folder, now).unwrap();
        wait_for("the new CA", async || rig.local_token().ca_fingerprint != before).await;
    }
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1), "an open connection goes on");
    let mut session = old.session(rig.quic()).await;
    session.say(&summary(2, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(2), "an agent of the oldest CA connects anew");
    let renewed = old.renew(rig.quic(), "edge-1").await.unwrap();
    assert_ne!(renewed.ca, old.ca, "a renewal brings the latest CA");
    let mut standing = renewed.session(rig.quic()).await;

    let before = rig.local_token().ca_fingerprint;
    Authority::begin_anew(&folder, SystemTime::now()).unwrap();
    wait_for("the CA that trusts nobody", async || rig.local_token().ca_fingerprint != before).await;
    assert!(old.connect(rig.quic()).await.is_err() && renewed.connect(rig.quic()).await.is_err());
    let Answer::Refuse(refuse) = standing.answer().await else { panic!("a connection that stood goes on") };
    assert_eq!((refuse.reason, refuse.key), (RefuseReason::WrongIdentity, None));
    enroll(rig.quic(), &rig.local_token(), "edge-2").await.unwrap().session(rig.quic()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_server_certificate_is_shown_to_new_connections_and_disturbs_no_other() {
    let rig = Rig::start().await;
    let agent = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    let other = enroll(rig.quic(), &rig.local_token(), "edge-2").await.unwrap();
    let mut session = agent.session(rig.quic()).await;
    rig.service.renew_certificates().await.unwrap();
    let fresh = other.session(rig.quic()).await;
    assert_ne!(session.server_certificate(), fresh.server_certificate());
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_gives_one_certificate_however_many_ask_at_once() {
    let rig = Rig::start().await;
    let token = token(&rig, &["uk"], None, i64::MAX).await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (quic, token) = (rig.quic(), token.clone());
        asking.spawn(async move { enroll(quic, &token, &format!("edge-{number}")).await.map(drop) });
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let used = |refuse: &vedette_common::wire::Refuse| refuse.reason == RefuseReason::TokenUsed;
    assert_eq!(answers.iter().filter(|answer| answer.as_ref().is_err_and(used)).count(), 7);
    let agents = rig.service.store().with(|store| store.enrolled_agents()).await.unwrap().unwrap();
    assert_eq!(agents.len(), 1, "{agents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokens_secret_stands_nowhere_in_the_database() {
    let rig = Rig::start().await;
    let token = token(&rig, &["uk"], None, i64::MAX).await;
    let bytes: Vec<u8> = ["vedette.sqlite", "vedette.sqlite-wal"]
        .iter()
        .flat_map(|name| std::fs::read(rig.folder.path().join("state").join(name)).unwrap_or_default())
        .collect();
    let holds = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(holds(&token.secret_hash()), "its hash is how it is found");
    let text = token.to_text();
    assert!(!holds(&token.secret) && !holds(text.as_bytes()) && !holds(&text.as_bytes()[48..]));
}
