//! Reading datagrams: what StatsD and line protocol over UDP share.
//!
//! Must never hold a datagram longer than its parsing takes. The hard case is a flood: after a batch the other tasks
//! get their turn, and what the kernel's buffer cannot hold meanwhile is the kernel's to count.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use vedette_agent_core::parse::Format;

use super::{ListenError, Stop};
use crate::engine::Engine;

/// The longest datagram there can be, so that none is cut.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Datagrams read before others get their turn.
const BATCH: usize = 64;
/// Datagrams read after the stop: more than a kernel's buffer holds, and an end for a sender that goes on.
const LAST_BATCH: usize = 4096;

/// A socket on `address`, not blocking.
pub(super) fn open(key: &'static str, address: SocketAddr) -> Result<UdpSocket, ListenError> {
    let open = || {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    open().map_err(|cause| ListenError { key, address, cause })
}

/// Hands every datagram to the engine until `stop`, and then those that have arrived already.
pub(super) async fn read(socket: UdpSocket, engine: Arc<Engine>, format: Format, mut stop: Stop) {
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        tokio::select! {
            ready = socket.readable() => if let Err(error) = ready {
                tracing::error!(%error, "a UDP socket failed; its source ends");
                return;
            },
            () = stop.stopped() => {
                read_batch(&socket, &engine, format, &mut bytes, LAST_BATCH);
                return;
            }
        }
        read_batch(&socket, &engine, format, &mut bytes, BATCH);
        tokio::task::yield_now().await;
    }
}

fn read_batch(socket: &UdpSocket, engine: &Engine, format: Format, bytes: &mut [u8], count_max: usize) {
    for _ in 0..count_max {
        match socket.try_recv(bytes) {
            Ok(count) => engine.take(format, &bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::warn!(%error, "a datagram could not be read");
                return;
            }
        }
    }
}
