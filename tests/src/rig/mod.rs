//! The rig for tests with real parts: processes that are always ended, free ports, bounded waits, receivers.
//!
//! It must never leave a process behind or wait without a bound. The hard case is a test that panics: every
//! part stops what it started when it is dropped.
mod detour;
mod network;
mod ports;
mod process;
mod receiver;
mod relay;

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use detour::Detour;
pub use network::{Network, Place};
pub use ports::free_address;
pub use process::{Process, program};
pub use receiver::{Posted, Receiver};
pub use relay::{Loss, LossyBroker, UdpRelay};

/// No wait is given up sooner: a machine may have other things to do, and only a test that fails waits so long.
const PATIENCE_S_MIN: u64 = 120;

/// Asks `probe` every 50 ms until it answers.
///
/// # Panics
/// When it has not answered within `seconds`, two minutes at least; the message says what was waited for.
pub fn eventually<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let seconds = seconds.max(PATIENCE_S_MIN);
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {seconds} s");
        sleep(Duration::from_millis(50));
    }
}

/// The status and body of a GET over plain HTTP; none when nobody answers within five seconds.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        .proxy(None)
        .build();
    let response = ureq::Agent::new_with_config(config).get(format!("http://{address}{path}")).call();
    let mut response = response.ok()?;
    let status = response.status().as_u16();
    Some((status, response.body_mut().read_to_string().ok()?))
}

/// The JSON that a GET answers with status 200; none otherwise.
pub fn get_json(address: SocketAddr, path: &str) -> Option<serde_json::Value> {
    let (status, body) = get(address, path)?;
    if status == 200 { serde_json::from_str(&body).ok() } else { None }
}
