//! A certificate that is about to expire: the agent gets another one by itself, and nothing stops.
//!
//! It must never wait for a certificate's whole life: the authority of the test's own aggregator issues one that ends soon. The hard case
//! is the moment of expiry, when the aggregator ends the connection that was opened with the old one.
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use vedette_agent::identity::{NewKey, StateFolder};
use vedette_aggregator::ca::{Authority, SigningRequest};
use vedette_aggregator::identity::Regions;
use vedette_aggregator::limits::AGENT_CERTIFICATE_VALIDITY;
use vedette_aggregator::state_folder;
use vedette_common::AgentId;
use vedette_tests::rig::{Process, eventually, free_address, get, program};

/// How long the first certificate is still good when the agent starts; long enough for a start on a busy machine.
const LEFT: Duration = Duration::from_secs(40);

#[test]
fn an_agent_renews_its_certificate_and_outlives_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let [quic, http, lines, agent_http] = std::array::from_fn(|_| free_address());
    let (centre, edge) = (folder.path().join("centre"), folder.path().join("edge"));
    let aggregator_config = format!(
        "state_dir = {centre:?}\n[listen]\nquic = \"{quic}\"\nhttp = \"{http}\"\n[notify]\nstdout = false\n"
    );
    let agent_config = format!(
        "agent_id = \"edge-uk\"\nstate_dir = {edge:?}\n[tags]\nregion = \"uk\"\n\
         [source.host]\nenabled = false\n[source.statsd]\nenabled = false\n\
         [source.line_protocol]\ntcp = \"{lines}\"\nudp = \"{lines}\"\n\
         [window]\nwindow_ms = 1000\nlateness_ms = 0\n[uplink]\naddress = \"{quic}\"\n[http]\nlisten = \"{agent_http}\"\n"
    );
    let start = |name: &str, part: &str, config: &str| {
        let path = folder.path().join(format!("{part}.toml"));
        fs::write(&path, config).unwrap();
        let log = folder.path().join(format!("{part}.log"));
        Process::start(&program(name), &["run", "--config", path.to_str().unwrap()], &log)
    };
    let mut aggregator = start("vedette-aggregator", "aggregator", &aggregator_config);
    eventually("the aggregator", 30, || get(http, "/-/ready").filter(|(status, _)| *status == 200));

    // An authority that believes it to be the end of the certificate's life, but for a moment.
    let then = SystemTime::now() - AGENT_CERTIFICATE_VALIDITY + LEFT;
    let expires = SystemTime::now() + LEFT;
    let authority =
        Authority::open(&state_folder::StateFolder::open(&centre).unwrap(), SystemTime::now()).unwrap();
    let new = NewKey::generate(&AgentId::parse("edge-uk").unwrap()).unwrap();
    let request = SigningRequest::parse(&new.csr_der).unwrap();
    let issued = authority.issue_agent(&request, &Regions::parse(["uk"]).unwrap(), then).unwrap();
    let state = StateFolder::open(&edge).unwrap();
    state.store_identity(&new.key_pem, &issued.certificate, &issued.ca).unwrap();

    let mut agent = start("vedette-agent", "agent", &agent_config);
    eventually("another certificate", 35, || {
        let present = state.identity().ok().flatten()?;
        (present.chain.first() != Some(&issued.certificate)).then_some(())
    });
    let count = |name: &str| {
        let (_, page) = get(agent_http, "/metrics")?;
        let lines = page.lines().filter(|line| line.starts_with(name));
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
    };
    let send = || {
        if let Ok(mut connection) = TcpStream::connect(lines) {
            // It is asked below whether anything came of it.
            let _ = connection.write_all(b"activity,device=tv,stack=playback value=1\n");
        }
    };
    // The aggregator looks at expiry on open connections itself; the agent must come back with the other certificate.
    let margin = Duration::from_secs(5);
    eventually("the end of the first certificate", LEFT.as_secs() + 20, || {
        send();
        (SystemTime::now() > expires + margin).then_some(())
    });
    let before = eventually("the agent's counts", 10, || count("vedette_agent_records_made_total"));
    eventually("records made after that delivered", 90, || {
        send();
        let (made, spooled) =
            (count("vedette_agent_records_made_total")?, count("vedette_agent_records_spooled")?);
        (made >= before + 3 && spooled == 0).then_some(())
    });
    assert_eq!(count("vedette_agent_records_dropped_total"), Some(0));
    assert!(agent.terminate(15).success() && aggregator.terminate(15).success());
}
