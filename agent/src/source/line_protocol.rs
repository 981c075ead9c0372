//! Line protocol over TCP and UDP.
//!
//! Owns both sockets and the limits of a connection. Must never let one client take more than its buffer. The hard
//! cases are clients that never end a line (cut off, counted), never speak (closed after the idle timeout) or come in
//! numbers (closed at once past the limit, counted).

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use vedette_agent_core::parse::Format;
use vedette_common::DropReason;

use super::datagrams::{Datagrams, DroppedDatagrams};
use super::lines::{LineBuffer, Taken};
use super::{ListenError, Stop, line_protocol_format};
use crate::config;
use crate::engine::Engine;

/// Reads of one connection before others get their turn.
const READS_MAX: usize = 8;
/// Reads of one connection after the stop, so that a client that goes on cannot hold it up.
const LAST_READS_MAX: usize = 64;
/// Worst-case bytes of a connection: the line buffer, its task and its socket's registration.
pub const CONNECTION_BYTES: usize = 18 * 1024;

/// Both sockets, listening.
#[derive(Debug)]
pub struct LineProtocolSource {
    tcp: TcpListener,
    udp: Datagrams,
    format: Format,
    connections_max: usize,
    idle_timeout: Duration,
}

impl LineProtocolSource {
    /// Opens both sockets.
    ///
    /// # Errors
    /// [`ListenError`] when an address cannot be had.
    pub fn open(settings: &config::LineProtocolSource) -> Result<Self, ListenError> {
        let (key, address) = ("source.line_protocol.tcp", settings.tcp);
        let listen = || {
            let listener = StdTcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        Ok(Self {
            tcp: listen().map_err(|cause| ListenError { key, address, cause })?,
            udp: Datagrams::open("source.line_protocol.udp", settings.udp)?,
            format: line_protocol_format(settings.precision),
            connections_max: settings.connections_max as usize,
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms.into()),
        })
    }

    /// Where it listens: TCP, then UDP.
    #[must_use]
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((self.tcp.local_addr().ok()?, self.udp.address()?))
    }

    /// The count of datagrams that were dropped before they could be read.
    #[must_use]
    pub fn dropped(&self) -> DroppedDatagrams {
        self.udp.dropped()
    }

    /// Reads until `stop`.
    pub async fn run(self, engine: Arc<Engine>, mut stop: Stop) {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.udp.read(engine.clone(), self.format, stop.clone()));
        loop {
            tokio::select! {
                accepted = self.tcp.accept() => match accepted {
                    // The datagrams' task is one of the tasks and no connection.
                    Ok(_) if tasks.len() > self.connections_max => engine.dropped(DropReason::ConnectionLimit, 1),
                    Ok((stream, _)) => {
                        let connection =
                            Connection { stream, format: self.format, idle_timeout: self.idle_timeout };
                        tasks.spawn(connection.read(engine.clone(), stop.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a TCP connection could not be accepted");
                        // Out of file descriptors: wait for some to be closed instead of spinning.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
                () = stop.stopped() => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// One client.
struct Connection {
    stream: TcpStream,
    format: Format,
    idle_timeout: Duration,
}

/// Why reading paused.
enum Pause {
    /// Nothing more has arrived, or others are to have their turn.
    Waiting,
    /// The client is done or cut off.
    Over,
}

impl Connection {
    async fn read(self, engine: Arc<Engine>, mut stop: Stop) {
        let mut lines = LineBuffer::default();
        loop {
            tokio::select! {
                ready = tokio::time::timeout(self.idle_timeout, self.stream.readable()) => match ready {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => break,
                },
                () = stop.stopped() => {
                    self.read_arrived(&engine, &mut lines, LAST_READS_MAX);
                    break;
                }
            }
            if matches!(self.read_arrived(&engine, &mut lines, READS_MAX), Pause::Over) {
                break;
            }
            tokio::task::yield_now().await;
        }
        lines.finish(|bytes| engine.take(self.format, bytes));
    }

    fn read_arrived(&self, engine: &Engine, lines: &mut LineBuffer, reads_max: usize) -> Pause {
        for _ in 0..reads_max {
            let count = match self.stream.try_read(lines.room()) {
                Ok(0) => return Pause::Over,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Pause::Waiting,
                Err(_) => return Pause::Over,
            };
            if lines.take(count, |bytes| engine.take(self.format, bytes)) == Taken::LineTooLong {
                engine.dropped(DropReason::LineTooLong, 1);
                return Pause::Over;
            }
        }
        Pause::Waiting
    }
}
