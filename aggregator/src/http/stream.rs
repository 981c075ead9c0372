//! A connection to console and API: bytes with or without TLS, a place among the connections, and an end to patience.
//!
//! It must never let time or silence keep a connection: who asks, asks whole within its patience, and takes what it is told as fast.
//! The hard case is a request that trickles in, one byte now and then: only its first byte winds the clock up again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::places::Place;

/// The bytes of a connection.
#[derive(Debug)]
pub(super) enum Socket {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
#[derive(Debug)]
pub struct WebStream {
    socket: Socket,
    patience: Duration,
    ends: Pin<Box<Sleep>>,
    /// Whether a request has begun that was not answered yet.
    is_asking: bool,
    _place: Place,
}

impl WebStream {
    /// A connection that began just now; `patience` is [`HTTP_PATIENCE`](crate::limits::HTTP_PATIENCE).
    pub(super) fn new(socket: Socket, place: Place, patience: Duration) -> Self {
        Self { socket, patience, ends: Box::pin(sleep(patience)), is_asking: false, _place: place }
    }

    pub(super) fn send_at_once(&mut self) {
        let socket = match &self.socket {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream.get_ref().0,
        };
        // Where it cannot be had, answers are only slower.
        let _ = socket.set_nodelay(true);
    }

    fn wind_up(&mut self, is_asking: bool) {
        self.is_asking = is_asking;
        self.ends.as_mut().reset(Instant::now() + self.patience);
    }

    /// What has to wait waits no longer than patience lasts.
    fn bound<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Pending => self.ends.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            ready => ready,
        }
    }
}

impl AsyncRead for WebStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if buffer.filled().len() > before && !self.is_asking {
            self.wind_up(true);
        }
        self.bound(context, poll)
    }
}

impl AsyncWrite for WebStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        if matches!(poll, Poll::Ready(Ok(1..))) {
            self.wind_up(false);
        }
        self.bound(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        self.bound(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        };
        self.bound(context, poll)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::places::Places;

    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(50);
    /// What fails takes this long.
    const BOUND: Duration = Duration::from_secs(60);

    /// A client and our side of its connection.
    async fn pair(patience: Duration) -> (TcpStream, WebStream, Places) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, address) = listener.accept().await.unwrap();
        let places = Places::new(1, 1);
        let place = places.take(address.ip(), false).unwrap();
        (client, WebStream::new(Socket::Plain(ours), place, patience), places)
    }

    /// Reads until that fails.
    async fn end(stream: &mut WebStream) -> io::ErrorKind {
        let read = async {
            loop {
                if let Err(error) = stream.read_u8().await {
                    return error.kind();
                }
            }
        };
        timeout(BOUND, read).await.expect("an end in time")
    }

    #[tokio::test]
    async fn who_says_nothing_loses_its_place() {
        let (_client, mut stream, places) = pair(SHORT).await;
        assert_eq!(end(&mut stream).await, io::ErrorKind::TimedOut);
        assert_eq!(places.taken(), 1);
        drop(stream);
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn a_request_that_trickles_in_for_ever_is_cut_off() {
        let (mut client, mut stream, _places) = pair(SHORT).await;
        let trickle = tokio::spawn(async move {
            while client.write_all(b"a").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        });
        assert_eq!(end(&mut stream).await, io::ErrorKind::TimedOut);
        trickle.abort();
    }

    #[tokio::test]
    async fn a_requests_first_byte_and_an_answer_wind_the_clock_up_and_nothing_else_does() {
        let (mut client, mut stream, _places) = pair(LONG).await;
        let mut ends = stream.ends.deadline();
        let mut is_wound_up = |stream: &WebStream| {
            let before = std::mem::replace(&mut ends, stream.ends.deadline());
            before < ends
        };
        for _request in 0..2 {
            client.write_all(b"abc").await.unwrap();
            stream.read_u8().await.unwrap();
            assert!(is_wound_up(&stream), "the first byte");
            stream.read_u8().await.unwrap();
            stream.read_u8().await.unwrap();
            assert!(!is_wound_up(&stream), "the bytes behind it");
            stream.write_all(b"answer").await.unwrap();
            assert!(is_wound_up(&stream), "the answer");
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_of_what_it_is_told_loses_its_place() {
        let (_client, mut stream, _places) = pair(SHORT).await;
        let endless = vec![0; 64 * 1024 * 1024];
        let told = timeout(BOUND, stream.write_all(&endless)).await.expect("an end in time");
        assert_eq!(told.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
