//! Bytes on the wire, by transport: everything that a connection costs, with what TLS, QUIC and MQTT add.
//!
//! It must never count a byte twice. The hard case is MQTT, whose library does not say: its TCP stream is counted where it is
//! read and written, below TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Transport;

/// Bytes since the start.
#[derive(Debug, Default)]
pub struct Wire([[AtomicU64; 2]; 2]);

impl Wire {
    /// Adds to what was sent and received by `transport`: of QUIC the payload of UDP datagrams, of MQTT that of TCP.
    pub fn count(&self, transport: Transport, sent: u64, received: u64) {
        let counted = &self.0[place(transport)];
        counted[0].fetch_add(sent, Ordering::Relaxed);
        counted[1].fetch_add(received, Ordering::Relaxed);
    }

    /// Bytes sent and received by `transport`.
    #[must_use]
    pub fn totals(&self, transport: Transport) -> [u64; 2] {
        self.0[place(transport)].each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }
}

const fn place(transport: Transport) -> usize {
    match transport {
        Transport::Quic => 0,
        Transport::Mqtt => 1,
    }
}

/// A stream of MQTT whose bytes are counted.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    wire: Arc<Wire>,
}

impl<S> Counted<S> {
    /// Counts what goes through `stream`.
    pub const fn new(stream: S, wire: Arc<Wire>) -> Self {
        Self { stream, wire }
    }

    fn sent(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            self.wire.count(Transport::Mqtt, *bytes as u64, 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.wire.count(Transport::Mqtt, 0, (buffer.filled().len() - before) as u64);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.sent(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
