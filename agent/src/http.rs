//! As much of HTTP/1.1 (RFC 9112) as three pages need: one GET on a connection, one answer, closed.
//!
//! Must never read more than a bounded head, nor interpret what it has no use for: no body, no header. The hard case is
//! a request that trickles in or never ends; the caller bounds the time, this file the bytes.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of a request's line and headers.
pub(crate) const HEAD_BYTES_MAX: usize = 4 * 1024;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With a page.
    Ok,
    /// It is no HTTP.
    Malformed,
    /// There is no such page.
    NotFound,
    /// It asks for something to be done.
    NotGet,
    /// Its head is over the limit.
    TooLong,
    /// The page could not be made.
    Failed,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::Malformed => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::NotGet => "405 Method Not Allowed\r\nAllow: GET",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Failed => "500 Internal Server Error",
        }
    }
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    /// A status and nothing more to say.
    pub(crate) const fn bare(status: Status) -> Self {
        Self { status, content_type: "text/plain", body: String::new() }
    }

    fn head(&self) -> String {
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.status.line(),
            self.content_type,
            self.body.len()
        )
    }
}

/// Reads one request, answers it by its path (without what follows a `?`), and closes the connection.
///
/// # Errors
/// The connection's own.
pub(crate) async fn serve(mut stream: TcpStream, answer: impl Fn(&str) -> Answer) -> io::Result<()> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut length = 0;
    let answer = loop {
        let read = stream.read(&mut head[length..]).await?;
        length += read;
        if is_whole(&head[..length]) {
            break path(&head[..length]).map_or_else(Answer::bare, &answer);
        }
        if read == 0 {
            break Answer::bare(if length == HEAD_BYTES_MAX { Status::TooLong } else { Status::Malformed });
        }
    };
    stream.write_all(answer.head().as_bytes()).await?;
    stream.write_all(answer.body.as_bytes()).await?;
    stream.shutdown().await
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// The path that a GET asks for, without what follows a `?`.
///
/// # Errors
/// The status that anything else is answered with.
pub fn path(head: &[u8]) -> Result<&str, Status> {
    let line = head.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| Status::Malformed)?;
    let mut parts = line.split(' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("GET"), Some(target), Some(version), None) if version.starts_with("HTTP/1.") => {
            Ok(target.split_once('?').map_or(target, |(path, _)| path))
        }
        (Some(_), Some(_), Some(version), None) if version.starts_with("HTTP/1.") => Err(Status::NotGet),
        _ => Err(Status::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_has_a_path() {
        assert_eq!(path(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), Ok("/metrics"));
        assert_eq!(path(b"GET /metrics?x=1 HTTP/1.0\n\n"), Ok("/metrics"));
        assert_eq!(path(b"POST /metrics HTTP/1.1\r\n\r\n"), Err(Status::NotGet));
        for wrong in [
            &b"GET /metrics\r\n\r\n"[..],
            b"\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(path(wrong), Err(Status::Malformed), "{wrong:?}");
        }
    }

    /// What a connection gets that sends `parts` one after another and then no more.
    async fn answer_to(parts: &[&[u8]]) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let echo = |path: &str| Answer { status: Status::Ok, content_type: "text/plain", body: path.into() };
        let serving = tokio::spawn(serve(served, echo));
        for part in parts {
            // A refused request may be answered and closed before all of it was sent.
            let _ = client.write_all(part).await;
        }
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        serving.await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_request_in_pieces_is_answered_and_one_without_an_end_refused() {
        let answer = answer_to(&[b"GET /a HT", b"TP/1.1\r\n\r", b"\n"]).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n")
                && answer.ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n/a"),
            "{answer}"
        );
        assert!(answer_to(&[b"GET /a HTTP/1.1\r\n"]).await.starts_with("HTTP/1.1 400 "));
        let endless = [b'a'; HEAD_BYTES_MAX];
        assert!(answer_to(&[&endless]).await.starts_with("HTTP/1.1 431 "));
    }
}
