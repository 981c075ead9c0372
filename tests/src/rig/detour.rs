//! A detour: UDP and TCP from one address on to another, as late as is wanted.
//!
//! It must never alter, lose or reorder a byte by itself. The hard case is a delay that shrinks: what is on its way keeps its place,
//! so it is late once more.
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Chunks of a TCP connection that are on their way, in each direction.
const CHUNKS_MAX: usize = 64;
/// After so long without a datagram a client counts as gone.
const IDLE: Duration = Duration::from_secs(60);
/// How long it is tried to reach whoever is behind it; nobody else is let in meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest datagram, and longest chunk.
const BYTES_MAX: usize = 65_536;

/// Datagrams on their way: when each is due, through which socket, and to whom; without an address to whom it is connected.
type Errand = (Instant, Arc<UdpSocket>, Option<SocketAddr>, Vec<u8>);
/// The socket towards the upstream of each client.
type Clients = Arc<Mutex<BTreeMap<SocketAddr, Arc<UdpSocket>>>>;

/// Relays datagrams and connections, until the process ends.
#[derive(Clone, Debug)]
pub struct Detour {
    delay_ms: Arc<AtomicU64>,
}

impl Detour {
    /// From `front` to `upstream`, at first without delay.
    ///
    /// # Panics
    /// When `front` cannot be listened on.
    pub fn start(front: SocketAddr, upstream: SocketAddr) -> Self {
        let detour = Self { delay_ms: Arc::default() };
        let socket = Arc::new(UdpSocket::bind(front).expect("the address is free for UDP"));
        let listener = TcpListener::bind(front).expect("the address is free for TCP");
        let (errands, due) = channel();
        thread::spawn(move || run_errands(&due));
        let of_datagrams = detour.clone();
        thread::spawn(move || of_datagrams.relay_datagrams(&socket, upstream, &errands));
        let of_connections = detour.clone();
        thread::spawn(move || of_connections.relay_connections(&listener, upstream));
        detour
    }

    /// From now on everything takes `ms` longer, each way.
    pub fn set_delay(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::Relaxed);
    }

    fn due(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))
    }

    fn relay_datagrams(&self, front: &Arc<UdpSocket>, upstream: SocketAddr, errands: &Sender<Errand>) {
        let clients = Clients::default();
        let mut datagram = vec![0; BYTES_MAX];
        loop {
            // An error is the word of a peer that was not there.
            let Ok((length, client)) = front.recv_from(&mut datagram) else { continue };
            let known = clients.lock().unwrap_or_else(PoisonError::into_inner).get(&client).cloned();
            let back = known.or_else(|| {
                let back = connected(upstream).ok()?;
                let mut all = clients.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(client, Arc::clone(&back));
                let (detour, clients) = (self.clone(), Arc::clone(&clients));
                let (front, errands, socket) = (Arc::clone(front), errands.clone(), Arc::clone(&back));
                thread::spawn(move || detour.relay_answers(&socket, (&front, client), &errands, &clients));
                Some(back)
            });
            // Without a way to the upstream it is lost, as datagrams are.
            let Some(back) = back else { continue };
            if errands.send((self.due(), back, None, datagram[..length].to_vec())).is_err() {
                return;
            }
        }
    }

    /// Passes on what comes back for one client, until nothing does for a while.
    fn relay_answers(
        &self,
        back: &UdpSocket,
        (front, client): (&Arc<UdpSocket>, SocketAddr),
        errands: &Sender<Errand>,
        clients: &Clients,
    ) {
        let mut datagram = vec![0; BYTES_MAX];
        let mut heard = Instant::now();
        while heard.elapsed() < IDLE {
            let Ok(length) = back.recv(&mut datagram) else { continue };
            heard = Instant::now();
            let errand = (self.due(), Arc::clone(front), Some(client), datagram[..length].to_vec());
            if errands.send(errand).is_err() {
                break;
            }
        }
        clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
    }

    fn relay_connections(&self, listener: &TcpListener, upstream: SocketAddr) {
        for client in listener.incoming().flatten() {
            // Nobody behind it: the client finds itself hung up on.
            let Ok(server) = TcpStream::connect_timeout(&upstream, CONNECT_TIMEOUT) else { continue };
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                continue;
            };
            self.pass_on(from_client, server);
            self.pass_on(from_server, client);
        }
    }

    /// One direction of a connection.
    fn pass_on(&self, mut from: TcpStream, mut to: TcpStream) {
        let (chunks, due): (SyncSender<(Instant, Vec<u8>)>, _) = sync_channel(CHUNKS_MAX);
        let detour = self.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; BYTES_MAX];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                if chunks.send((detour.due(), chunk[..length].to_vec())).is_err() {
                    break;
                }
            }
        });
        thread::spawn(move || {
            for (due, chunk) in due {
                wait_until(due);
                if to.write_all(&chunk).is_err() {
                    break;
                }
            }
            // It may be closed already.
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

fn connected(upstream: SocketAddr) -> std::io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(upstream)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(Arc::new(socket))
}

fn run_errands(errands: &Receiver<Errand>) {
    for (due, socket, to, datagram) in errands {
        wait_until(due);
        // What does not get through is lost, as datagrams are.
        let _ = match to {
            Some(client) => socket.send_to(&datagram, client),
            None => socket.send(&datagram),
        };
    }
}

fn wait_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::free_address;

    #[test]
    fn datagrams_and_bytes_come_through_both_ways_late_and_whole() {
        let (front, upstream) = (free_address(), free_address());
        let listener = TcpListener::bind(upstream).unwrap();
        let echo = UdpSocket::bind(upstream).unwrap();
        let detour = Detour::start(front, upstream);
        detour.set_delay(40);
        thread::spawn(move || {
            let mut datagram = [0; 16];
            let (length, from) = echo.recv_from(&mut datagram).unwrap();
            echo.send_to(&datagram[..length], from).unwrap();
        });
        let client = connected(front).unwrap();
        let begun = Instant::now();
        client.send(b"datagram").unwrap();
        let mut answer = [0; 16];
        assert_eq!(client.recv(&mut answer).unwrap(), 8);
        assert!(begun.elapsed() >= Duration::from_millis(80) && answer.starts_with(b"datagram"));

        let mut stream = TcpStream::connect(front).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let begun = Instant::now();
        stream.write_all(b"bytes").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        server.read_to_end(&mut all).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(40) && all == b"bytes");
    }
}
