//! The rig for tests with real parts: processes that are always ended, free ports, bounded waits, receivers.
//!
//! It must never leave a process behind or wait without a bound. The hard case is a test that panics: every
//! part stops what it started when it is dropped.
mod detour;
mod network;
mod process;
mod receiver;
mod relay;

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketName, UnixListener};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use detour::Detour;
pub use network::{Network, Place};
pub use process::{Process, program};
pub use receiver::{Posted, Receiver};
pub use relay::{Loss, LossyBroker, UdpRelay};

/// Ports from which the kernel gives none away by itself (`ip_local_port_range` begins above): what was free for a program stays
/// free for it while it is not running, whatever connections others make meanwhile.
const PORTS: Range<u16> = 12_000..32_000;

/// What was given to this process, until it ends.
static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A loopback address whose port is free for TCP and UDP, and is given to nobody else while this process lives: no test listens on it
/// yet when it asks for the next one.
///
/// # Panics
/// When the machine has no free port.
pub fn free_address() -> SocketAddr {
    for _ in 0..100 {
        let draw = RandomState::new().hash_one(()) % u64::from(PORTS.end - PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + draw as u16));
        let Some(taken) = take(address.port()) else { continue };
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
            return address;
        }
    }
    panic!("no port is free for TCP and UDP at once");
}

/// Takes a port for this process, unless this or another one has it: by a name in the kernel that goes with its process and leaves no
/// file behind.
fn take(port: u16) -> Option<UnixListener> {
    let name = SocketName::from_abstract_name(format!("vedette-test-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let address = free_address();
        assert!(take(address.port()).is_none(), "nobody listens on it yet, and it is taken all the same");
        assert!(TcpListener::bind(address).is_ok());
    }
}
