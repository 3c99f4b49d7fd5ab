//! Upstream servers, each on threads of its own, ended when they are dropped.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// Nothing in a test waits longer for a peer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Receive buffer of a peer that takes little, bytes as setsockopt(2) wants them.
pub const NARROW: usize = 4096;

/// A TCP server: one thread for each connection.
pub struct Tcp {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
    accepted: Arc<AtomicUsize>,
}

impl Tcp {
    /// Serves every connection with `serve`, whose errors end that connection only.
    #[track_caller]
    pub fn start<F>(address: &str, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address).expect("bind an upstream server");
        let accepted = Arc::new(AtomicUsize::new(0));
        let (inner, count, serve) =
            (listener.try_clone().expect("clone"), Arc::clone(&accepted), Arc::new(serve));
        thread::spawn(move || {
            // Ends when drop shuts the listener down.
            while let Ok((stream, _)) = inner.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = serve(stream);
                });
            }
        });
        let address = listener.local_addr().expect("address");
        Self { address, listener, accepted }
    }

    /// Hands each accepted connection to the test.
    pub fn handing_over(address: &str) -> (Self, mpsc::Receiver<TcpStream>) {
        let (to, from) = mpsc::channel();
        let server = Self::start(address, move |stream| to.send(stream).map_err(std::io::Error::other));
        (server, from)
    }

    /// Answers each line with `NAME LINE`.
    #[track_caller]
    pub fn lines(address: &str, name: &str) -> Self {
        let name = name.to_owned();
        Self::start(address, move |stream| answer_lines(&name, stream))
    }

    /// Sends back whatever comes, to the end.
    #[track_caller]
    pub fn echo(address: &str) -> Self {
        Self::start(address, |mut stream| {
            let mut to = stream.try_clone()?;
            std::io::copy(&mut stream, &mut to).map(drop)
        })
    }

    /// Connections accepted from now on take only a few kilobytes before they are read.
    #[track_caller]
    pub fn narrow(&self) {
        SockRef::from(&self.listener).set_recv_buffer_size(NARROW).expect("buffer size");
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Wakes accept with EINVAL. It cannot fail on a listening socket.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// Answers each line with `NAME LINE` until the peer closes.
pub fn answer_lines(name: &str, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut to = stream.try_clone()?;
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    while from.read_line(&mut line)? > 0 {
        to.write_all(format!("{name} {line}").as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// Reads until the peer closes its half, and returns what came.
pub fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Closes with a reset instead of an end of stream.
pub fn reset(stream: TcpStream) -> Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// A TCP address that answers no SYN: its accept queue is full and nobody accepts.
pub struct BlackHole {
    /// The address.
    pub address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Listens with the smallest queue and fills it.
    #[track_caller]
    pub fn start(address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let listener = listener.expect("socket");
        listener.bind(&address.into()).expect("bind");
        listener.listen(0).expect("listen");
        let mut queued = Vec::new();
        // A queue of length 0 takes one; the next SYN goes unanswered.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
            assert!(queued.len() < 16, "the accept queue does not fill");
        }
        Self { address, _listener: listener, _queued: queued }
    }
}

/// A UDP server on one thread.
pub struct Udp {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

/// What a UDP server has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Datagrams received.
    pub datagrams: usize,
    /// Their sizes.
    pub sizes: BTreeSet<usize>,
    /// Who sent them (the proxy's sockets).
    pub peers: BTreeSet<SocketAddr>,
}

impl Udp {
    /// Answers each datagram with what `answer` makes of it and of its sender.
    #[track_caller]
    pub fn start<F>(address: &str, answer: F) -> Self
    where
        F: Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
    {
        let socket = UdpSocket::bind(address).expect("bind an upstream server");
        // No shutdown wakes a UDP receive, so it looks at `stop` from time to time.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        let _ = SockRef::from(&socket).set_recv_buffer_size(8 << 20);
        let address = socket.local_addr().expect("address");
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, notes) = (Arc::clone(&stop), Arc::clone(&seen));
        thread::spawn(move || udp_loop(&socket, &stopped, &notes, answer));
        Self { address, stop, seen }
    }

    /// Sends each datagram back.
    #[track_caller]
    pub fn echo(address: &str) -> Self {
        Self::start(address, |datagram, _| vec![datagram.to_vec()])
    }

    /// Answers with `NAME PORT DATAGRAM`, the port being that of the sender (the proxy's).
    #[track_caller]
    pub fn naming(address: &str, name: &str) -> Self {
        let name = name.to_owned();
        Self::start(address, move |datagram, peer| {
            let head = format!("{name} {} ", peer.port());
            vec![[head.as_bytes(), datagram].concat()]
        })
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("lock").clone()
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn udp_loop<F>(socket: &UdpSocket, stop: &AtomicBool, seen: &Mutex<Seen>, answer: F)
where
    F: Fn(&[u8], SocketAddr) -> Vec<Vec<u8>>,
{
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::SeqCst) {
        match socket.recv_from(&mut buffer) {
            Ok((size, peer)) => {
                note(seen, size, peer);
                for reply in answer(&buffer[..size], peer) {
                    let _ = socket.send_to(&reply, peer);
                }
            }
            // The timeout, or an ICMP error of an earlier answer.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {}
            Err(error) => panic!("upstream server: {error}"),
        }
    }
}

fn note(seen: &Mutex<Seen>, size: usize, peer: SocketAddr) {
    let mut seen = seen.lock().expect("lock");
    seen.datagrams += 1;
    seen.sizes.insert(size);
    seen.peers.insert(peer);
}

/// Echoes a WebSocket's messages.
pub fn echo_messages(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = tungstenite::accept(stream).map_err(std::io::Error::other)?;
    while let Ok(message) = socket.read() {
        // A close is answered by the library.
        if message.is_binary() {
            socket.send(message).map_err(std::io::Error::other)?;
        }
    }
    Ok(())
}
