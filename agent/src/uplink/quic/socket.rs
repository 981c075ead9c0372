//! The socket of a QUIC connection: one datagram at a time, each of them counted, none of them cut on the way.
//!
//! It must never tell the library of a datagram that could not be sent: that would end the connection for good. The hard case is a
//! path that carries less than its neighbours: longer datagrams are lost on it, not cut, and the library notices.
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::sockopt::{set_ip_mtu_discover, set_ipv6_mtu_discover};
use tokio::io::ReadBuf;

use super::super::wire::Wire;
use crate::config::Transport;

/// The library's endpoint on a socket of ours, bound to `local`.
///
/// # Errors
/// What the system says when there is no socket.
pub(super) fn endpoint(local: SocketAddr, wire: Arc<Wire>) -> io::Result<quinn::Endpoint> {
    let socket = std::net::UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    let stays_whole = keep_whole(&socket, local.is_ipv6());
    let socket = Arc::new(LeanSocket { socket: tokio::net::UdpSocket::from_std(socket)?, stays_whole, wire });
    let (config, runtime) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
    quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime)
}

/// Forbids everybody on the way to cut datagrams of `socket` into fragments, the kernel included, which would do so by what it has heard
/// of the path; gives whether that went well. The library then tries longer datagrams than 1,200 bytes and keeps to what
/// arrives (RFC 8899).
fn keep_whole(socket: &std::net::UdpSocket, is_ipv6: bool) -> bool {
    let set = if is_ipv6 {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)
    } else {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)
    };
    set.is_ok()
}

/// A socket that takes and gives one datagram at a time. The library's own lets the kernel join up to 64, for which it keeps
/// 3 MB ready; an agent's few datagrams a second are worth 47 KB.
#[derive(Debug)]
struct LeanSocket {
    socket: tokio::net::UdpSocket,
    /// Nobody cuts its datagrams. Where the system cannot promise that, they stay at the 1,200 bytes that fit anywhere.
    stays_whole: bool,
    wire: Arc<Wire>,
}

impl quinn::AsyncUdpSocket for LeanSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    /// A datagram that cannot be sent is lost, as any may be: a missing route or an interface that is down would end the connection for
    /// good, if it were told.
    fn try_send(&self, transmit: &quinn::udp::Transmit<'_>) -> io::Result<()> {
        match self.socket.try_send_to(transmit.contents, transmit.destination) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                tracing::debug!(to = %transmit.destination, %error, "a datagram was not sent");
                Ok(())
            }
            Ok(bytes) => {
                self.wire.count(Transport::Quic, bytes as u64, 0);
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [quinn::udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut datagram = ReadBuf::new(buffer);
        // An error is the word of the network about a datagram sent before, which is lost.
        let addr = loop {
            if let Ok(addr) = ready!(self.socket.poll_recv_from(context, &mut datagram)) {
                break addr;
            }
        };
        let len = datagram.filled().len();
        self.wire.count(Transport::Quic, 0, len as u64);
        *meta = quinn::udp::RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        !self.stays_whole
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until a [`LeanSocket`] takes a datagram again; each has a wait of its own, so that none is forgotten for another.
struct Writable {
    socket: Arc<LeanSocket>,
    waiting: Option<Waiting>,
}

impl std::fmt::Debug for Writable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Writable").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl quinn::UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waiting } = &mut *self;
        let wait = waiting.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.socket.writable().await })
        });
        let writable = ready!(wait.as_mut().poll(context));
        *waiting = None;
        Poll::Ready(writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn a_datagram_that_cannot_be_sent_is_lost_and_the_next_one_goes() {
        let bound = || tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let (socket, peer) = (bound().await.unwrap(), bound().await.unwrap());
        let socket = LeanSocket { socket, stays_whole: false, wire: Arc::default() };
        let to = |destination: SocketAddr| quinn::udp::Transmit {
            destination,
            ecn: None,
            contents: b"datagram",
            segment_size: None,
            src_ip: None,
        };
        let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
        socket.socket.writable().await.unwrap();
        assert!(socket.socket.try_send_to(b"refused", everybody).is_err(), "the kernel refuses it");
        quinn::AsyncUdpSocket::try_send(&socket, &to(everybody)).unwrap();
        quinn::AsyncUdpSocket::try_send(&socket, &to(peer.local_addr().unwrap())).unwrap();
        let mut received = [0; 16];
        assert_eq!(peer.recv(&mut received).await.unwrap(), 8);
        assert_eq!(socket.wire.totals(Transport::Quic), [8, 0], "what was lost was not sent");
    }
}
