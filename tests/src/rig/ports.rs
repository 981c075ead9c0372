//! Ports for programs under test, each given to one test alone. The tests of the agent's and the aggregator's own packages take this file, too.
//!
//! It must never give a port that the kernel may give away meanwhile. The hard case is a port that nobody listens on yet, or not now: it is
//! taken all the same, until the process ends that asked for it.
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketName, UnixListener};
use std::sync::{Mutex, PoisonError};

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
        // A program may take its port on every address.
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        if TcpListener::bind(everywhere).is_ok() && UdpSocket::bind(address).is_ok() {
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
