//! Relays between an agent and what it speaks to: a way that can be cut, narrows, changes its address, loses on purpose.
//!
//! They must never alter a byte. The hard case is a broker that drops silently: the relay takes a message of an agent away
//! and confirms it in the broker's place.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::fleet::random::Random;

/// How long a relay waits before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// A relay for the datagrams of one client.
pub struct UdpRelay {
    front: SocketAddr,
    shared: Arc<UdpShared>,
}

struct UdpShared {
    upstream: SocketAddr,
    is_open: AtomicBool,
    is_over: AtomicBool,
    /// Longer datagrams are lost.
    bytes_max: AtomicUsize,
    /// The longest that came through.
    bytes_seen: AtomicUsize,
    /// Towards the upstream, from an address that can change.
    back: Mutex<Arc<UdpSocket>>,
    client: Mutex<Option<SocketAddr>>,
}

impl UdpRelay {
    /// A relay to `upstream`, at first cut.
    ///
    /// # Panics
    /// When no socket is to be had.
    pub fn start(upstream: SocketAddr) -> Self {
        let front = bound();
        let address = front.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(UdpShared {
            upstream,
            is_open: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            bytes_max: AtomicUsize::new(usize::MAX),
            bytes_seen: AtomicUsize::new(0),
            back: Mutex::new(Arc::new(bound())),
            client: Mutex::new(None),
        });
        let front = Arc::new(front);
        for direction in [UdpShared::relay_there, UdpShared::relay_back] {
            let (shared, front) = (Arc::clone(&shared), Arc::clone(&front));
            thread::spawn(move || direction(&shared, &front));
        }
        Self { front: address, shared }
    }

    /// Where the client sends to.
    pub const fn address(&self) -> SocketAddr {
        self.front
    }

    /// Lets datagrams through, or not.
    pub fn set_open(&self, is_open: bool) {
        self.shared.is_open.store(is_open, Ordering::Relaxed);
    }

    /// From now on longer datagrams are lost without a word, as on a path that became narrower.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.shared.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// The longest datagram that came through so far, either way.
    pub fn bytes_seen(&self) -> usize {
        self.shared.bytes_seen.load(Ordering::Relaxed)
    }

    /// From now on everything comes from another port, as after a NAT has forgotten the client.
    ///
    /// # Panics
    /// When no socket is to be had.
    pub fn change_address(&self) {
        *self.shared.back.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(bound());
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl UdpShared {
    fn back(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.back.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self) -> std::sync::MutexGuard<'_, Option<SocketAddr>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a datagram comes through.
    fn carries(&self, length: usize) -> bool {
        let carries =
            self.is_open.load(Ordering::Relaxed) && length <= self.bytes_max.load(Ordering::Relaxed);
        if carries {
            self.bytes_seen.fetch_max(length, Ordering::Relaxed);
        }
        carries
    }

    fn relay_there(&self, front: &UdpSocket) {
        let mut datagram = vec![0; 65_536];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((length, client)) = front.recv_from(&mut datagram) else { continue };
            *self.client() = Some(client);
            if self.carries(length) {
                // What does not get through is lost, as datagrams are.
                let _ = self.back().send_to(&datagram[..length], self.upstream);
            }
        }
    }

    fn relay_back(&self, front: &UdpSocket) {
        let mut datagram = vec![0; 65_536];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((length, _)) = self.back().recv_from(&mut datagram) else { continue };
            let client = *self.client();
            if let Some(client) = client.filter(|_| self.carries(length)) {
                let _ = front.send_to(&datagram[..length], client);
            }
        }
    }
}

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

/// What a broker loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Summaries on their way from the agent.
    Summaries,
    /// What an aggregator answers.
    Answers,
}

/// A broker that drops silently: of a kind of message that comes through this relay a third, drawn by chance, is confirmed and goes nowhere.
///
/// Counting out every third instead would fall into step with an agent that says three things before it repeats one: the same one
/// would be dropped each time.
pub struct LossyBroker {
    address: SocketAddr,
    dropped: Arc<AtomicU64>,
}

/// The share of messages that are dropped.
const DROPPED: f64 = 1.0 / 3.0;
/// Types of MQTT packets (MQTT 3.1.1, section 2.2.1).
const PUBLISH: u8 = 3;
const PUBACK: u8 = 0x40;

/// The writing end of a connection: whole packets, so that a confirmation never comes in the middle of one.
type Writer = Arc<Mutex<TcpStream>>;

impl LossyBroker {
    /// A relay to `broker`, until the process ends.
    ///
    /// # Panics
    /// When no socket is to be had.
    pub fn start(broker: SocketAddr, loss: Loss) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::spawn(move || {
            for (number, client) in (0..).zip(listener.incoming().flatten()) {
                let Ok(broker) = TcpStream::connect(broker) else { continue };
                let chance = Random::new(number, "messages that a broker drops");
                relay(client, broker, loss, &chance, &counter);
            }
        });
        Self { address, dropped }
    }

    /// Where clients connect to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Relays one connection both ways, in threads that end with it.
fn relay(client: TcpStream, broker: TcpStream, loss: Loss, chance: &Random, dropped: &Arc<AtomicU64>) {
    let (Ok(to_client), Ok(to_broker)) = (client.try_clone(), broker.try_clone()) else { return };
    let (to_client, to_broker): (Writer, Writer) =
        (Arc::new(Mutex::new(to_client)), Arc::new(Mutex::new(to_broker)));
    let ways = [
        (
            client,
            Arc::clone(&to_broker),
            Arc::clone(&to_client),
            (loss == Loss::Summaries).then_some("/summary"),
        ),
        (broker, to_client, to_broker, (loss == Loss::Answers).then_some("/command")),
    ];
    for (from, to, back, lost) in ways {
        let (chance, dropped) = (chance.clone(), Arc::clone(dropped));
        thread::spawn(move || pass_on(from, &to, &back, lost, chance, &dropped));
    }
}

/// Passes packets on, but for some messages whose topics end in `lost`, which it confirms itself.
fn pass_on(
    mut from: TcpStream,
    to: &Writer,
    back: &Writer,
    lost: Option<&str>,
    mut chance: Random,
    dropped: &AtomicU64,
) {
    let write = |writer: &Writer, bytes: &[u8]| {
        writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes)
    };
    while let Some((packet, body)) = packet(&mut from) {
        let topic =
            topic_of(&packet, body).filter(|topic| lost.is_some_and(|lost| topic.ends_with(lost.as_bytes())));
        let passed_on = match topic {
            Some(topic) if chance.chance(DROPPED) => {
                dropped.fetch_add(1, Ordering::Relaxed);
                let id = &packet[body + 2 + topic.len()..][..2];
                write(back, &[PUBACK, 2, id[0], id[1]])
            }
            _ => write(to, &packet),
        };
        if passed_on.is_err() {
            break;
        }
    }
    let _ = to.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
}

/// The topic of a message that wants to be confirmed.
fn topic_of(packet: &[u8], body: usize) -> Option<&[u8]> {
    let confirms = packet[0] >> 4 == PUBLISH && packet[0] & 0x06 != 0;
    let length = usize::from(u16::from_be_bytes([*packet.get(body)?, *packet.get(body + 1)?]));
    packet.get(body + 2..body + 2 + length).filter(|_| confirms)
}

/// The next packet, and where its body begins (MQTT 3.1.1, section 2.2.3).
fn packet(stream: &mut TcpStream) -> Option<(Vec<u8>, usize)> {
    let mut packet = vec![0; 1];
    stream.read_exact(&mut packet).ok()?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        packet.push(byte[0]);
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let body = packet.len();
    packet.resize(body + length, 0);
    stream.read_exact(&mut packet[body..]).ok()?;
    Some((packet, body))
}
