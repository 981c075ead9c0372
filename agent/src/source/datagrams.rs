//! Reading datagrams: what StatsD and line protocol over UDP share.
//!
//! Several are read with one call of the system (recvmmsg), and put one behind the other as lines, so that the engine
//! scores them side by side as it does a stream's. Must never hold a datagram longer than its parsing takes. The hard case
//! is a flood: after a batch the other tasks get their turn, and what the kernel cannot hold meanwhile it drops: it is asked to
//! hold much, and how much it dropped is told. Of the faults in a batch the log tells the first, and not whose it was; the counts have them all.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use quinn_udp::{RecvMeta, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use vedette_agent_core::parse::Format;
use vedette_common::datagrams::{SOCKET_LISTS, WAITING_BYTES, drops_of};

use super::{ListenError, Stop};
use crate::engine::Engine;

/// The longest datagram there can be, or several that the kernel joined, so that none is cut.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Datagrams that one call of the system reads.
const AT_ONCE: usize = 8;
/// Calls before others get their turn.
const CALLS: usize = 8;
/// Calls after the stop: more than a kernel's buffer holds, and an end for a sender that goes on.
const LAST_CALLS: usize = 512;
/// Worst-case bytes of a socket: what is read at once, and its lines one behind the other. Of what datagrams do not fill
/// no page is ever touched.
pub const SOCKET_BYTES: usize = (AT_ONCE + 1) * (DATAGRAM_BYTES_MAX + 1);

/// A socket, and room for what one call reads.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    state: UdpSocketState,
    received: Box<[u8]>,
    lines: Lines,
}

impl Datagrams {
    /// A socket on `address`, not blocking.
    pub(super) fn open(key: &'static str, address: SocketAddr) -> Result<Self, ListenError> {
        let open = || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            let state = UdpSocketState::new((&socket).into())?;
            // A machine that gives more by itself is left alone.
            if state.recv_buffer_size((&socket).into())? < WAITING_BYTES {
                state.set_recv_buffer_size((&socket).into(), WAITING_BYTES)?;
            }
            let received = vec![0; AT_ONCE * DATAGRAM_BYTES_MAX].into_boxed_slice();
            Ok(Self { socket: UdpSocket::from_std(socket)?, state, received, lines: Lines::new() })
        };
        open().map_err(|cause| ListenError { key, address, cause })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// The count of what was dropped before it could be read.
    pub(super) fn dropped(&self) -> DroppedDatagrams {
        let link = format!("/proc/self/fd/{}", self.socket.as_raw_fd());
        DroppedDatagrams { inode: std::fs::metadata(link).ok().map(|metadata| metadata.ino()) }
    }

    /// Hands every datagram to the engine until `stop`, and then those that have arrived already.
    pub(super) async fn read(mut self, engine: Arc<Engine>, format: Format, mut stop: Stop) {
        loop {
            tokio::select! {
                ready = self.socket.readable() => if let Err(error) = ready {
                    tracing::error!(%error, "a UDP socket failed; its source ends");
                    return;
                },
                () = stop.stopped() => {
                    self.read_batch(LAST_CALLS, |lines| engine.take(format, lines));
                    return;
                }
            }
            self.read_batch(CALLS, |lines| engine.take(format, lines));
            tokio::task::yield_now().await;
        }
    }

    /// Reads what has arrived, with so many calls at most.
    fn read_batch(&mut self, calls_max: usize, mut sink: impl FnMut(&[u8])) {
        for _ in 0..calls_max {
            match self.read_once(&mut sink) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "a datagram could not be read");
                    break;
                }
            }
        }
        self.lines.give(&mut sink);
    }

    fn read_once(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let Self { socket, state, received, lines } = self;
        let mut about = [RecvMeta::default(); AT_ONCE];
        let mut rooms = received.chunks_exact_mut(DATAGRAM_BYTES_MAX);
        let mut rooms: [_; AT_ONCE] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        let receive = || state.recv((&*socket).into(), &mut rooms, &mut about);
        let count = socket.try_io(Interest::READABLE, receive)?;
        for (room, about) in rooms.iter().zip(&about).take(count) {
            // The kernel may have joined datagrams of one sender and length.
            for datagram in room[..about.len].chunks(about.stride.max(1)) {
                lines.add(datagram, sink);
            }
        }
        Ok(())
    }
}

/// Datagrams that the system dropped because they were not read in time, read from its list of sockets when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct DroppedDatagrams {
    /// The number of the socket in the system's lists; none where the system has no such lists.
    inode: Option<u64>,
}

impl DroppedDatagrams {
    /// How many so far; none where the system does not tell.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let inode = self.inode?;
        SOCKET_LISTS.iter().find_map(|list| drops_of(&std::fs::read_to_string(list).ok()?, inode))
    }
}

/// Datagrams one behind the other, each ended as a line.
#[derive(Debug)]
struct Lines(Vec<u8>);

impl Lines {
    fn new() -> Self {
        Self(Vec::with_capacity(DATAGRAM_BYTES_MAX + 1))
    }

    /// Adds a datagram; what stood here before is handed over first when there is no room.
    fn add(&mut self, datagram: &[u8], sink: &mut impl FnMut(&[u8])) {
        if self.0.len() + datagram.len() > DATAGRAM_BYTES_MAX {
            self.give(sink);
        }
        self.0.extend_from_slice(datagram);
        if !datagram.ends_with(b"\n") {
            self.0.push(b'\n');
        }
    }

    fn give(&mut self, sink: &mut impl FnMut(&[u8])) {
        if !self.0.is_empty() {
            sink(&self.0);
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// More datagrams than any socket here can hold.
    const FLOOD: u64 = 20_000;

    /// Reads until so many bytes came, within a bounded number of waits.
    async fn read_all(datagrams: &mut Datagrams, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let ready = tokio::time::timeout(std::time::Duration::from_secs(30), datagrams.socket.readable());
            ready.await.expect("what was sent arrives").unwrap();
            datagrams.read_batch(CALLS, |lines| all.extend_from_slice(lines));
        }
        all
    }

    #[tokio::test]
    async fn every_datagram_is_a_line_of_its_own() {
        let mut datagrams = Datagrams::open("key", "127.0.0.1:0".parse().unwrap()).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut expected = String::new();
        for number in 0..100 {
            let ends = if number % 3 == 0 { "\n" } else { "" };
            sender.send_to(format!("m a={number}{ends}").as_bytes(), datagrams.address().unwrap()).unwrap();
            expected += &format!("m a={number}\n");
        }
        let all = read_all(&mut datagrams, expected.len()).await;
        assert_eq!(String::from_utf8(all).unwrap(), expected);
    }

    #[tokio::test]
    async fn the_longest_datagrams_are_whole() {
        let mut datagrams = Datagrams::open("key", "127.0.0.1:0".parse().unwrap()).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let longest = [b'x'; 65_507];
        for _ in 0..2 {
            sender.send_to(&longest, datagrams.address().unwrap()).unwrap();
        }
        let all = read_all(&mut datagrams, 2 * (longest.len() + 1)).await;
        assert!(all.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).all(|line| line == longest));
    }

    #[test]
    fn lines_never_exceed_a_datagram() {
        let (mut lines, mut sizes) = (Lines::new(), Vec::new());
        for _ in 0..10 {
            lines.add(&[b'x'; 20_000], &mut |given| sizes.push(given.len()));
        }
        lines.add(&[b'x'; DATAGRAM_BYTES_MAX], &mut |given| sizes.push(given.len()));
        lines.give(&mut |given| sizes.push(given.len()));
        assert_eq!(sizes, [60_003, 60_003, 60_003, 20_001, DATAGRAM_BYTES_MAX + 1]);
    }

    #[tokio::test]
    async fn a_burst_finds_room_and_what_does_not_is_counted() {
        let mut datagrams = Datagrams::open("test", (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let plain = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        plain.set_nonblocking(true).unwrap();
        let dropped = datagrams.dropped();
        assert_eq!(dropped.total(), Some(0));
        let sender = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for address in [datagrams.address().unwrap(), plain.local_addr().unwrap()] {
            for _ in 0..FLOOD {
                sender.send_to(b"x:1|c", address).unwrap();
            }
        }
        datagrams.socket.readable().await.unwrap();
        let mut held = 0;
        datagrams.read_batch(usize::MAX, |lines| {
            held += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        });
        let held_by_plain = std::iter::from_fn(|| plain.recv(&mut [0; 16]).ok()).count() as u64;
        assert!(2 * held >= 3 * held_by_plain, "{held} and {held_by_plain}");
        assert_eq!(dropped.total(), Some(FLOOD - held));
    }
}
