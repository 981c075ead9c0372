//! The socket that agents' datagrams come in by: room for a burst, and what the system dropped for want of room.
//!
//! It must never let a burst be lost in silence. The hard case is an aggregator that is kept from running for a moment, by
//! its share of the processor or by a commit: what comes meanwhile waits with the system, and what finds no room there is gone
//! before anybody here has seen it.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use quinn::udp::UdpSocketState;
use vedette_common::datagrams::{SOCKET_LISTS, WAITING_BYTES, drops_of};

/// A socket on `address` with as much room as the system gives, and the count of what it drops.
///
/// # Errors
/// What the system says when there is no socket.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, DroppedDatagrams)> {
    let socket = UdpSocket::bind(address)?;
    let state = UdpSocketState::new((&socket).into())?;
    // A machine that gives more by itself is left alone.
    if state.recv_buffer_size((&socket).into())? < WAITING_BYTES {
        state.set_recv_buffer_size((&socket).into(), WAITING_BYTES)?;
    }
    let given_bytes = state.recv_buffer_size((&socket).into())?;
    if given_bytes < WAITING_BYTES {
        tracing::info!(
            given_bytes,
            "the system keeps no more of a burst than this; a higher net.core.rmem_max would let it"
        );
    }
    let dropped = DroppedDatagrams::of(&socket);
    Ok((socket, dropped))
}

/// Datagrams that the system dropped because they were not taken in time, read from its list of sockets when somebody asks. 8 bytes.
#[derive(Clone, Copy, Debug)]
pub struct DroppedDatagrams {
    /// The number of the socket in the system's lists; none where the system has no such lists.
    inode: Option<u64>,
}

impl DroppedDatagrams {
    fn of(socket: &UdpSocket) -> Self {
        let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
        Self { inode: std::fs::metadata(link).ok().map(|metadata| metadata.ino()) }
    }

    /// How many so far; none where the system does not tell.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let inode = self.inode?;
        SOCKET_LISTS.iter().find_map(|list| drops_of(&std::fs::read_to_string(list).ok()?, inode))
    }
}

impl Collector for DroppedDatagrams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(total) = self.total() else { return Ok(()) };
        let help = "Datagrams that the system dropped because they were not taken in time";
        let counter = ConstCounter::new(total);
        counter.encode(encoder.encode_descriptor("datagrams_dropped", help, None, MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const DATAGRAM: [u8; 1_200] = [7; 1_200];
    /// More than any of the sockets below can hold.
    const SENT: u64 = 20_000;

    /// How many datagrams wait for somebody to take them.
    fn held(socket: &UdpSocket) -> u64 {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2_048];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count() as u64
    }

    fn flood(address: SocketAddr) {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..SENT {
            sender.send_to(&DATAGRAM, address).unwrap();
        }
    }

    #[test]
    fn a_burst_finds_room_and_what_does_not_is_counted() {
        let (socket, dropped) = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let plain = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(dropped.total(), Some(0));
        flood(socket.local_addr().unwrap());
        flood(plain.local_addr().unwrap());
        let (held, held_by_plain) = (held(&socket), held(&plain));
        assert!(2 * held >= 3 * held_by_plain, "{held} and {held_by_plain}");
        assert_eq!(dropped.total(), Some(SENT - held));
        let page = crate::metrics::Metrics::default().page();
        page.add(Box::new(dropped));
        let line = format!("vedette_aggregator_datagrams_dropped_total {}\n", SENT - held);
        assert!(page.render().unwrap().contains(&line));
    }
}
