//! Attacks with real certificates: who is let in with which, who is put out, and how each finds out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use vedette_aggregator::ca::{Authority, SigningRequest};
use vedette_aggregator::enroll::{EnrollError, Enroller, Standing};
use vedette_aggregator::identity::{Identity, Regions};
use vedette_aggregator::limits::{AGENT_CERTIFICATE_VALIDITY, CLOCK_SKEW};
use vedette_aggregator::metrics::Tally;
use vedette_aggregator::run::Service;
use vedette_aggregator::state_folder::StateFolder;
use vedette_aggregator::store::{Store, StoreHandle, StoreThread};
use vedette_common::wire::{RefuseReason, Renew};

use crate::agent::{
    Answer, Session, TestAgent, acknowledged, agent_id, birth, enroll, exchange, frame, signing_request,
    summary,
};
use crate::enrolment::token;
use crate::{QUIET, Rig, config, wait_for};

async fn rig_with_agent() -> (Rig, TestAgent) {
    let rig = Rig::start().await;
    let agent = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    (rig, agent)
}

/// Whether the aggregator ends a connection with this certificate, if there is one at all.
async fn is_kept_out(rig: &Rig, agent: &TestAgent) -> bool {
    // A client of TLS 1.3 learns of the refusal only after its own side of the handshake is done.
    match agent.connect(rig.quic()).await {
        Ok(mut session) => {
            // The stream may be gone already.
            let _ = session.send.write_all(&frame(&birth(&agent.id))).await;
            tokio::time::timeout(Duration::from_secs(60), session.connection.closed()).await.is_ok()
        }
        Err(_) => true,
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The params of an agent's certificate as the CA would write them.
fn agent_params(name: &str, region: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    let uris = [format!("vedette:agent:{name}"), format!("vedette:region:{region}")];
    params.subject_alt_names = uris.map(|uri| SanType::URI(uri.try_into().unwrap())).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// The CA with its key, as only a test has it outside of the aggregator.
fn stolen_ca(rig: &Rig) -> (CertificateDer<'static>, KeyPair) {
    let text = std::fs::read_to_string(rig.folder.path().join("state/ca.pem")).unwrap();
    let root = CertificateDer::pem_slice_iter(text.as_bytes()).next().unwrap().unwrap();
    (root, KeyPair::from_pem(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_certificates_are_kept_out() {
    let (rig, agent) = rig_with_agent().await;
    let key = KeyPair::generate().unwrap();
    let forged = |certificate: rcgen::Certificate, shows: Option<CertificateDer<'static>>| TestAgent {
        id: agent_id("edge-2"),
        key: KeyPair::from_pem(&key.serialize_pem()).unwrap(),
        certificate: certificate.into(),
        ca: agent.ca.clone(),
        shows,
    };
    let self_signed = forged(agent_params("edge-2", "uk").self_signed(&key).unwrap(), None);
    assert!(is_kept_out(&rig, &self_signed).await, "signed by itself");

    let by_agent = Issuer::from_ca_cert_der(&agent.certificate, &agent.key).unwrap();
    let signed = agent_params("edge-2", "uk").signed_by(&key, &by_agent).unwrap();
    assert!(is_kept_out(&rig, &forged(signed, Some(agent.certificate.clone()))).await, "signed by an agent");

    let (root, ca_key) = stolen_ca(&rig);
    let other_key = KeyPair::generate().unwrap();
    let impostor = Issuer::from_ca_cert_der(&root, &other_key).unwrap();
    let signed = agent_params("edge-2", "uk").signed_by(&key, &impostor).unwrap();
    assert!(is_kept_out(&rig, &forged(signed, None)).await, "signed in the CA's name by another key");

    let ca = Issuer::from_ca_cert_der(&root, &ca_key).unwrap();
    let mut for_servers = agent_params("edge-2", "uk");
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signed = for_servers.signed_by(&key, &ca).unwrap();
    assert!(is_kept_out(&rig, &forged(signed, None)).await, "for servers only");

    let mut not_yet = agent_params("edge-2", "uk");
    not_yet.not_before = rcgen::date_time_ymd(2999, 1, 1);
    not_yet.not_after = rcgen::date_time_ymd(2999, 12, 31);
    let signed = not_yet.signed_by(&key, &ca).unwrap();
    assert!(is_kept_out(&rig, &forged(signed, None)).await, "not valid yet");
    assert_eq!(rig.service.metrics().counted(Tally::Frame, "birth"), 0);

    // One by the rules gets in: it was the forgery that kept the others out.
    let signed = agent_params("edge-2", "uk").signed_by(&key, &ca).unwrap();
    forged(signed, None).session(rig.quic()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_our_ca_that_name_no_agent_or_two_are_turned_away() {
    let (rig, agent) = rig_with_agent().await;
    let (root, ca_key) = stolen_ca(&rig);
    let ca = Issuer::from_ca_cert_der(&root, &ca_key).unwrap();
    let altered = |alter: fn(&mut CertificateParams)| {
        let mut params = agent_params("edge-1", "uk");
        alter(&mut params);
        params
    };
    let cases = [
        altered(|two| two.subject_alt_names.push(SanType::URI("vedette:agent:edge-2".try_into().unwrap()))),
        altered(|another| another.distinguished_name = named("edge-2")),
        altered(|no_region| no_region.subject_alt_names.truncate(1)),
        // What the aggregator shows to a broker.
        altered(|broker| {
            broker.distinguished_name = named("vedette-aggregator");
            broker.subject_alt_names = vec![SanType::DnsName("vedette-aggregator".try_into().unwrap())];
        }),
    ];
    for (case, params) in cases.into_iter().enumerate() {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap().into();
        let stranger =
            TestAgent { id: agent_id("edge-1"), key, certificate, ca: agent.ca.clone(), shows: None };
        assert!(is_kept_out(&rig, &stranger).await, "case {case}");
        let metrics = rig.service.metrics();
        let turned_away = case as u64 + 1;
        wait_for("the count", async || metrics.counted(Tally::Closed, "no_identity") == turned_away).await;
    }
    assert_eq!(rig.service.metrics().counted(Tally::Frame, "birth"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_an_agents_own_is_none_here() {
    let (rig, agent) = rig_with_agent().await;
    let mut params = agent_params("edge-9", "*");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own_key = KeyPair::generate().unwrap();
    let own_ca: CertificateDer<'static> = params.self_signed(&own_key).unwrap().into();
    let issuer = Issuer::from_ca_cert_der(&own_ca, &own_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = agent_params("edge-1", "*").signed_by(&key, &issuer).unwrap().into();
    let forged =
        TestAgent { id: agent_id("edge-1"), key, certificate, ca: agent.ca.clone(), shows: Some(own_ca) };
    assert!(is_kept_out(&rig, &forged).await);
    assert_eq!(rig.service.metrics().counted(Tally::Frame, "birth"), 0);
}

/// The reason for which the whole agent is refused.
async fn refused(session: &mut Session) -> RefuseReason {
    let Answer::Refuse(refuse) = session.answer().await else { panic!("a refusal comes first") };
    assert_eq!(refuse.key, None);
    refuse.reason
}

/// Why an agent is refused that introduces itself.
async fn refused_at_birth(rig: &Rig, agent: &TestAgent) -> RefuseReason {
    let mut session = agent.connect(rig.quic()).await.unwrap();
    session.say(&birth(&agent.id)).await;
    refused(&mut session).await
}

/// Revokes beside the running aggregator, as another process does it.
fn revoke(rig: &Rig, name: &str) -> bool {
    let folder = StateFolder::open(&rig.folder.path().join("state")).unwrap();
    Store::open(&folder).unwrap().revoke_agent(&agent_id(name), 1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_put_out_at_once_and_nobody_else() {
    let (rig, agent) = rig_with_agent().await;
    let other = enroll(rig.quic(), &rig.local_token(), "edge-2").await.unwrap();
    let (mut session, mut others) = (agent.session(rig.quic()).await, other.session(rig.quic()).await);
    assert!(revoke(&rig, "edge-1"));
    assert_eq!(refused(&mut session).await, RefuseReason::Revoked);
    assert!(session.farewell().await.contains("revoked"));
    assert_eq!(refused_at_birth(&rig, &agent).await, RefuseReason::Revoked);
    let renewed = agent.renew(rig.quic(), "edge-1").await;
    assert_eq!(renewed.err().unwrap().reason, RefuseReason::Revoked, "nor does it get another certificate");
    assert_eq!(rig.service.metrics().counted(Tally::Refused, "revoked"), 2);
    others.say(&summary(1, "uk")).await;
    assert_eq!(others.answer().await, acknowledged(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_outlives_restarts_and_ends_with_a_token_made_for_the_agent() {
    let (rig, agent) = rig_with_agent().await;
    revoke(&rig, "edge-1");
    let Rig { service, folder } = rig;
    service.stop().await.unwrap();
    let service = Service::start(config(folder.path(), QUIET)).await.unwrap();
    let rig = Rig { service, folder };
    assert_eq!(refused_at_birth(&rig, &agent).await, RefuseReason::Revoked);
    let by_local = enroll(rig.quic(), &rig.local_token(), "edge-1").await;
    assert_eq!(by_local.err().unwrap().reason, RefuseReason::Revoked, "a token for anybody is none for it");

    let for_it = token(&rig, &["uk"], Some("edge-1"), i64::MAX).await;
    let back = enroll(rig.quic(), &for_it, "edge-1").await.unwrap();
    back.session(rig.quic()).await;
    let former = refused_at_birth(&rig, &agent).await;
    assert_eq!(former, RefuseReason::WrongIdentity, "the former key stays worthless");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_never_known_can_be_revoked_before_it_comes() {
    let rig = Rig::start().await;
    assert!(!revoke(&rig, "edge-1"));
    let refused = enroll(rig.quic(), &rig.local_token(), "edge-1").await;
    assert_eq!(refused.err().unwrap().reason, RefuseReason::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_takes_over_when_it_is_first_used() {
    let rig = Rig::start().await;
    let grant = token(&rig, &["uk"], None, i64::MAX).await;
    let old = enroll(rig.quic(), &grant, "edge-1").await.unwrap();
    let mut session = old.session(rig.quic()).await;
    let lost = old.renew(rig.quic(), "edge-1").await.unwrap();
    // The agent was killed before it could store what it got: its present key is as good as ever.
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1), "the connection goes on");
    let mut session = old.session(rig.quic()).await;
    session.say(&summary(2, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(2));

    let new = old.renew(rig.quic(), "edge-1").await.unwrap();
    let identity = Identity::from_certificate(&new.certificate).unwrap();
    assert_eq!(identity.regions.names().collect::<Vec<_>>(), ["uk"], "the regions stay those of the token");
    let mut session = new.session(rig.quic()).await;
    session.say(&summary(3, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(3));
    for former in [&old, &lost] {
        assert_eq!(refused_at_birth(&rig, former).await, RefuseReason::WrongIdentity);
        let renewed = former.renew(rig.quic(), "edge-1").await;
        assert_eq!(renewed.err().unwrap().reason, RefuseReason::AgentKnown);
    }
    assert_eq!(rig.service.metrics().counted(Tally::Enrolment, "renewed"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_renews_nobody_elses_and_nothing_renews_without_one() {
    let (rig, agent) = rig_with_agent().await;
    let refused = agent.renew(rig.quic(), "edge-2").await;
    assert_eq!(refused.err().unwrap().reason, RefuseReason::WrongIdentity);

    let csr = signing_request("edge-1", &KeyPair::generate().unwrap());
    let renew = frame(&Renew { csr_der: heapless::Vec::from_slice(&csr).unwrap() });
    let (quic, token) = (rig.quic(), rig.local_token());
    let anonymous = tokio::spawn(async move { exchange(quic, &token, &renew).await.map(drop) }).await;
    assert!(anonymous.is_err(), "the connection ends without an answer");
    assert_eq!(rig.service.metrics().counted(Tally::Closed, "no_certificate"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_on_the_data_connection_is_a_bad_frame() {
    let (rig, agent) = rig_with_agent().await;
    let mut session = agent.session(rig.quic()).await;
    let csr = signing_request("edge-1", &agent.key);
    session.say(&Renew { csr_der: heapless::Vec::from_slice(&csr).unwrap() }).await;
    assert!(session.farewell().await.contains("expected a frame of kind"));
}

/// An enroller with its own store, and what an agent gets from it.
struct Desk {
    enroller: Enroller,
    authority: Arc<Authority>,
    store: StoreHandle,
    state: StateFolder,
    _thread: StoreThread,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&folder.path().join("state")).unwrap();
        let authority = Arc::new(Authority::open(&state, SystemTime::now()).unwrap());
        let (thread, store) = StoreThread::start(Store::open(&state).unwrap(), "store").unwrap();
        let enroller = Enroller::start(Arc::clone(&authority), store.clone(), state.clone()).await.unwrap();
        Self { enroller, authority, store, state, _thread: thread, _folder: folder }
    }

    /// A certificate of edge-1 for a new key, made at some time, as the enroller would not make it.
    fn issue(&self, made_at: SystemTime) -> Identity {
        let request = signing_request("edge-1", &KeyPair::generate().unwrap());
        let request = SigningRequest::parse(&request).unwrap();
        let issued = self.authority.issue_agent(&request, &Regions::all(), made_at).unwrap();
        Identity::from_certificate(&issued.certificate).unwrap()
    }

    /// Another certificate, asked for with this one.
    async fn renew(&self, identity: &Identity) -> Result<Identity, EnrollError> {
        let csr = signing_request("edge-1", &KeyPair::generate().unwrap());
        let request = Renew { csr_der: heapless::Vec::from_slice(&csr).unwrap() };
        let renewed = self.enroller.renew(identity, &request).await?;
        Ok(Identity::from_certificate(&renewed.certificate_der).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_is_noticed_on_an_open_connection() {
    let (desk, now) = (Desk::open().await, SystemTime::now());
    let fresh = desk.issue(now);
    assert_eq!(desk.enroller.standing(&fresh, now), Standing::Good);
    assert_eq!(desk.enroller.standing(&fresh, now + AGENT_CERTIFICATE_VALIDITY), Standing::Expired);
    let expired = desk.issue(now - AGENT_CERTIFICATE_VALIDITY - CLOCK_SKEW);
    assert_eq!(desk.enroller.fallen(&expired).await, Standing::Expired, "who waits hears of it at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_verified_before_the_ca_was_distrusted_renews_nothing_after() {
    let (desk, now) = (Desk::open().await, SystemTime::now());
    let thief = desk.issue(now);
    assert!(desk.renew(&thief).await.is_ok(), "while its CA is trusted");
    let thief = desk.issue(now);
    let rotated = desk.authority.rotate(&desk.state, now).unwrap();
    desk.enroller.replace_authority(Arc::new(rotated)).await.unwrap();
    assert_ne!(
        desk.enroller.standing(&thief, now),
        Standing::Distrusted,
        "a rotation alone trusts former keys"
    );
    let anew = Authority::begin_anew(&desk.state, now).unwrap();
    desk.enroller.replace_authority(Arc::new(anew)).await.unwrap();
    assert_eq!(desk.enroller.fallen(&thief).await, Standing::Distrusted);
    let refused = desk.renew(&thief).await.unwrap_err();
    assert_eq!(refused.refusal(), RefuseReason::WrongIdentity, "{refused}");
}

/// A job that keeps the store busy until the first end is dropped; the second tells when it has begun.
fn occupy(store: &StoreHandle) -> (std::sync::mpsc::Sender<()>, tokio::sync::oneshot::Receiver<()>) {
    let (ends, ended) = std::sync::mpsc::channel();
    let (begins, begun) = tokio::sync::oneshot::channel();
    let store = store.clone();
    tokio::spawn(async move {
        let wait = move |_: &mut Store| {
            let _ = begins.send(());
            // Only its end is waited for.
            let _ = ended.recv();
        };
        store.with(wait).await.unwrap();
    });
    (ends, begun)
}

/// Lets a future do what it can now; it must not come to its end.
async fn begin(future: std::pin::Pin<&mut impl Future>) {
    tokio::select! {
        biased;
        _ = future => panic!("nothing holds it up"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_read_while_a_new_key_is_greeted_holds() {
    let desk = Desk::open().await;
    let old = desk.issue(SystemTime::now());
    let new = desk.renew(&old).await.unwrap();
    let (first_ends, first) = occupy(&desk.store);
    first.await.unwrap();
    Store::open(&desk.state).unwrap().revoke_agent(&agent_id("edge-1"), 1).unwrap();
    // The look for revocations stands between its two questions to the store, and keeps others from changing anything.
    let mut refresh = std::pin::pin!(desk.enroller.refresh());
    begin(refresh.as_mut()).await;
    let (second_ends, second) = occupy(&desk.store);
    tokio::task::yield_now().await;
    drop(first_ends);
    second.await.unwrap();
    begin(refresh.as_mut()).await;
    let mut greeting = std::pin::pin!(desk.enroller.greet(&new));
    begin(greeting.as_mut()).await;
    drop(second_ends);
    refresh.await.unwrap();
    greeting.await.unwrap();
    assert_eq!(desk.enroller.standing(&new, SystemTime::now()), Standing::Revoked);
}
