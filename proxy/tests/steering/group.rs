//! A steered machine in small: a network namespace, listeners of every kind, and traffic to them.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use proxy::steering::{LivenessMap, Steering};
use proxy_common::{
    lease::SEATS,
    slot,
    steer::{REASONS, Reason},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Nothing here takes long: what has not happened after this will not happen.
const PATIENCE: Duration = Duration::from_secs(5);
pub const SECOND: u64 = 1_000_000_000;

/// Runs a test on a thread of its own, in a network namespace of its own.
pub fn in_namespace(test: fn()) {
    let test = move || {
        // SAFETY: takes no memory; only this thread moves into the new namespace.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare: {} (these tests need root)", std::io::Error::last_os_error());
        // A child of this thread is in this thread's namespace.
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("run ip");
        assert!(up.success(), "ip link set lo up: {up}");
        test();
    };
    if let Err(panic) = thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to `time` only, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    Dual,
}

/// One listener: a reuseport group with a socket for each worker of both pools.
pub struct Listener {
    pub number: u32,
    pub kind: Type,
    pub port: u16,
    pub family: Family,
    /// By seat and worker; `None` once closed.
    pub sockets: [Vec<Option<Socket>>; SEATS],
}

impl Listener {
    pub fn bind(number: u32, kind: Type, family: Family, workers: u32) -> Self {
        let port = 1000 + number as u16;
        let socket = || Some(listening_socket(kind, family, port));
        let sockets = [0, 1].map(|_| (0..workers).map(|_| socket()).collect());
        Self { number, kind, port, family, sockets }
    }

    pub fn place(&self, steering: &mut Steering) {
        for (seat, workers) in (0..).zip(&self.sockets) {
            for (worker, socket) in (0..).zip(workers) {
                let socket = socket.as_ref().expect("open").as_fd();
                steering.place(socket, self.number, seat, worker).expect("place");
            }
        }
    }

    pub fn any_socket(&self) -> &Socket {
        self.sockets.iter().flatten().flatten().next().expect("an open socket")
    }

    /// The addresses that reach the listener.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, self.port));
        match self.family {
            Family::V4 => vec![v4],
            Family::V6 => vec![v6],
            Family::Dual => vec![v4, v6],
        }
    }

    /// Sends one connection or datagram from a new port. Returns the seat and worker that it came to,
    /// or `None` if the kernel turned it away.
    pub fn knock(&self, address: SocketAddr) -> Option<(u32, u32)> {
        if self.kind == Type::STREAM {
            self.connect(address).map(|_| self.arrived())
        } else {
            self.send(address)
        }
    }

    pub fn knock_first(&self) -> Option<(u32, u32)> {
        self.knock(self.addresses()[0])
    }

    /// `None` if the connection was refused.
    pub fn connect(&self, address: SocketAddr) -> Option<TcpStream> {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => Some(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
            Err(error) => panic!("connect to {address}: {error}"),
        }
    }

    fn send(&self, address: SocketAddr) -> Option<(u32, u32)> {
        let client = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("socket");
        client.set_nonblocking(true).expect("nonblocking");
        client.connect(&address.into()).expect("connect");
        client.send(b"knock").expect("send");
        wait_for("a datagram or an ICMP error", || match client.take_error().expect("SO_ERROR") {
            Some(error) if error.kind() == ErrorKind::ConnectionRefused => Some(None),
            Some(error) => panic!("send to {address}: {error}"),
            None => self.poll().map(Some),
        })
    }

    /// Waits for what is in some socket's queue, takes it, and returns the socket's seat and worker.
    pub fn arrived(&self) -> (u32, u32) {
        wait_for("a connection or datagram", || self.poll())
    }

    fn poll(&self) -> Option<(u32, u32)> {
        let all = (0..)
            .zip(&self.sockets)
            .flat_map(|(seat, workers)| (0..).zip(workers).map(move |(w, s)| (seat, w, s)));
        all.filter_map(|(seat, worker, socket)| Some((seat, worker, socket.as_ref()?)))
            .find(|(_, _, socket)| self.take(socket))
            .map(|(seat, worker, _)| (seat, worker))
    }

    fn take(&self, socket: &Socket) -> bool {
        let result = match self.kind {
            Type::STREAM => socket.accept().map(drop),
            _ => socket.recv(&mut [std::mem::MaybeUninit::uninit(); 16]).map(drop),
        };
        match result {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("take from a queue: {error}"),
        }
    }
}

/// Retries until it answers: the kernel may deliver on loopback a moment after the send returned.
pub fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        thread::yield_now();
    }
}

fn listening_socket(kind: Type, family: Family, port: u16) -> Socket {
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(domain, kind, Some(protocol)).expect("socket");
    let address: SocketAddr = match family {
        Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
        Family::V6 | Family::Dual => (Ipv6Addr::UNSPECIFIED, port).into(),
    };
    if family != Family::V4 {
        socket.set_only_v6(family == Family::V6).expect("IPV6_V6ONLY");
    }
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.set_nonblocking(true).expect("nonblocking");
    socket.bind(&address.into()).expect("bind");
    if kind == Type::STREAM {
        socket.listen(128).expect("listen");
    }
    socket
}

/// Listeners steered by a freshly loaded program, both pools live with leases of a minute.
pub struct Machine {
    pub steering: Steering,
    pub listeners: Vec<Listener>,
    pub workers: u32,
}

impl Machine {
    pub fn new(kinds: &[(Type, Family)], workers: u32) -> Self {
        let mut steering = Steering::load(kinds.len() as u32, workers, 0).expect("load");
        let bind = |(number, &(kind, family))| Listener::bind(number, kind, family, workers);
        let listeners: Vec<_> = (0..).zip(kinds).map(bind).collect();
        for listener in &listeners {
            listener.place(&mut steering);
            steering.attach(listener.any_socket().as_fd()).expect("attach");
        }
        let machine = Self { steering, listeners, workers };
        machine.revive();
        machine
    }

    /// One TCP listener.
    pub fn tcp(workers: u32) -> Self {
        Self::new(&[(Type::STREAM, Family::V4)], workers)
    }

    /// One UDP listener.
    pub fn udp(workers: u32) -> Self {
        Self::new(&[(Type::DGRAM, Family::V4)], workers)
    }

    pub fn liveness(&self) -> LivenessMap {
        self.steering.liveness()
    }

    /// Both bits set, all leases a minute long.
    pub fn revive(&self) {
        for seat in 0..SEATS as u32 {
            self.liveness().set_live(seat, true);
            for worker in 0..self.workers {
                self.liveness().renew(seat, worker, now() + 60 * SECOND);
            }
        }
    }

    /// Every verdict counter that is not 0, as (listener, seat, reason, count); empties nothing.
    pub fn verdicts(&self) -> Vec<(u32, u32, Reason, u64)> {
        let counts = self.steering.verdicts().expect("verdicts");
        let rows = self.listeners.len() as u32 + 1;
        assert_eq!(counts.len(), rows as usize * SEATS * REASONS);
        let mut verdicts = Vec::new();
        for listener in 0..rows {
            for seat in 0..SEATS as u32 {
                for reason in Reason::ALL {
                    let count = counts[slot::verdict_index(listener, seat, reason as u32) as usize];
                    verdicts.push((listener, seat, reason, count));
                }
            }
        }
        verdicts.retain(|(.., count)| *count > 0);
        assert_eq!(
            verdicts.iter().map(|(.., count)| count).sum::<u64>(),
            counts.iter().sum::<u64>(),
            "unnamed reasons"
        );
        verdicts
    }
}
