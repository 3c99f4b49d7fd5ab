//! Clients: one small request, told apart by how it ended; and crowds of them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::servers::PATIENCE;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this answer, without the end of line.
    Answered(String),
    /// The connection was refused: nobody listens.
    Refused,
    /// Connected, then reset.
    Reset,
    /// Connected, then closed without an answer.
    Closed,
    /// No answer in time.
    Unanswered,
}

impl Outcome {
    /// Whether an answer came.
    pub fn answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    fn of(result: Result<String>) -> Self {
        let error = match result {
            Ok(text) if text.is_empty() => return Self::Closed,
            Ok(text) => return Self::Answered(text.trim_end().to_owned()),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Unanswered,
            _ => panic!("client: {error}"),
        }
    }
}

/// A TCP connection that waits for nothing longer than [`PATIENCE`].
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE);
    let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Sends a line on an open connection and reads one.
pub fn ask_on(stream: &mut TcpStream, line: &str) -> Outcome {
    Outcome::of(exchange(stream, line))
}

fn exchange(stream: &mut TcpStream, line: &str) -> Result<String> {
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

/// One request on a TCP connection of its own: connect, a line, an answer, close.
pub fn ask_tcp(address: SocketAddr, line: &str, timeout: Duration) -> Outcome {
    let request = || {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        let left = timeout.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        stream.set_nodelay(true)?;
        exchange(&mut stream, line)
    };
    Outcome::of(request())
}

/// Both ends of a connection through a proxy that has carried something both ways; the server hands over
/// its ends.
#[track_caller]
pub fn pair(listen: SocketAddr, accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let mut client = connect(listen);
    let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects to the server");
    carries(&mut client, &mut server);
    carries(&mut server, &mut client);
    (client, server)
}

/// So many connections through the proxy at `listen` to a server at `server`, which is there for them only: the
/// clients' ends, and the server's.
#[track_caller]
pub fn crowd(listen: SocketAddr, server: &str, many: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    proxy::sys::fd::raise_limit(1 << 20).expect("descriptors");
    let listener = TcpListener::bind(server).expect("bind");
    SockRef::from(&listener).listen(4096).expect("listen");
    let accepted = thread::spawn(move || (0..many).map(|_| listener.accept().expect("accept").0).collect());
    let clients = (0..many).map(|_| connect(listen)).collect();
    (clients, accepted.join().expect("the server"))
}

/// What is written to one end comes out of the other.
#[track_caller]
pub fn carries(from: &mut impl Write, to: &mut impl Read) {
    from.write_all(b"ping").expect("write");
    let mut buffer = [0; 4];
    to.read_exact(&mut buffer).expect("read");
    assert_eq!(&buffer, b"ping");
}

/// One datagram from a socket of its own, and the answer to it.
pub fn ask_udp(address: SocketAddr, text: &str, timeout: Duration) -> Outcome {
    udp(address).ask(text, timeout)
}

/// A UDP client on a free port of the loopback, connected: it hears this address alone.
#[track_caller]
pub fn udp(address: SocketAddr) -> Udp {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).expect("bind a client");
    socket.connect(address).expect("connect a UDP client");
    Udp(socket)
}

/// A UDP client.
pub struct Udp(
    /// Its socket.
    pub UdpSocket,
);

impl Udp {
    /// Sends a datagram and waits for one.
    pub fn ask(&self, text: &str, timeout: Duration) -> Outcome {
        let request = || {
            self.0.set_read_timeout(Some(timeout))?;
            self.0.send(text.as_bytes())?;
            self.receive()
        };
        Outcome::of(request())
    }

    /// Waits for a datagram, as long as was set last.
    pub fn receive(&self) -> Result<String> {
        let mut buffer = vec![0; 65_536];
        let size = self.0.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
    }
}

/// How many requests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// See [`Outcome::Answered`].
    pub answered: usize,
    /// See [`Outcome::Refused`].
    pub refused: usize,
    /// See [`Outcome::Reset`].
    pub reset: usize,
    /// See [`Outcome::Closed`].
    pub closed: usize,
    /// See [`Outcome::Unanswered`].
    pub unanswered: usize,
    /// The longest that an answer took.
    pub slowest: Duration,
}

impl Tally {
    /// Counts a request that took so long.
    pub fn add(&mut self, outcome: &Outcome, took: Duration) {
        let count = match outcome {
            Outcome::Answered(_) => &mut self.answered,
            Outcome::Refused => &mut self.refused,
            Outcome::Reset => &mut self.reset,
            Outcome::Closed => &mut self.closed,
            Outcome::Unanswered => &mut self.unanswered,
        };
        *count += 1;
        if outcome.answered() {
            self.slowest = self.slowest.max(took);
        }
    }

    /// Requests that were connected and then cut: reset, or closed without an answer.
    pub fn cut(&self) -> usize {
        self.reset + self.closed
    }

    /// All requests that got no answer.
    pub fn failed(&self) -> usize {
        self.refused + self.cut() + self.unanswered
    }

    /// Both together.
    pub fn join(mut self, other: Self) -> Self {
        self.answered += other.answered;
        self.refused += other.refused;
        self.reset += other.reset;
        self.closed += other.closed;
        self.unanswered += other.unanswered;
        self.slowest = self.slowest.max(other.slowest);
        self
    }
}

/// Clients that ask without pause, each with one request at a time, until they are told to stop.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Crowd {
    /// Starts so many clients. `ask` is one request; it gets a number that no other request has.
    pub fn start<F>(clients: usize, ask: F) -> Self
    where
        F: Fn(usize) -> Outcome + Send + Sync + 'static,
    {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ask, next) = (Arc::new(ask), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let (ask, next) = (Arc::clone(&ask), Arc::clone(&next));
            thread::spawn(move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::SeqCst) {
                    let start = Instant::now();
                    let outcome = ask(next.fetch_add(1, Ordering::SeqCst));
                    tally.add(&outcome, start.elapsed());
                    answered.fetch_add(usize::from(outcome.answered()), Ordering::SeqCst);
                }
                tally
            })
        };
        let threads = (0..clients).map(client).collect();
        Self { stop, answered, threads }
    }

    /// Requests answered so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Waits until so many more requests are answered.
    #[track_caller]
    pub fn wait_answered(&self, more: usize) {
        let goal = self.answered() + more;
        crate::wait::until_true("the crowd is answered", || self.answered() >= goal);
    }

    /// Lets each client finish its request, and counts.
    #[track_caller]
    pub fn finish(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let tallies = self.threads.into_iter().map(|client| client.join().expect("a client"));
        tallies.fold(Tally::default(), Tally::join)
    }
}
