//! A worker's loop around the relay, on real sockets: one worker per seat, played by the test itself.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use proxy_common::{lease::SEATS, slot};

use crate::{
    config::{Config, ListenAddress, Listener, ServerSettings, Upstream, rules::ListenerRules},
    limits::Limits,
    relay::{Lane, Leases, token::Token, udp::Udp},
    slots,
    sys::{
        Fd, epoll,
        fd::close,
        listener::{self, ListenOptions},
        socket::{self, Protocol},
        udp,
    },
    table::{Dimensions, Kind, ListenerCounters, Record, Table},
};

/// Longest wait for anything to happen.
const PATIENCE: Duration = Duration::from_secs(10);
const DESCRIPTORS: usize = 4096;
pub const UDP_IDLE: Duration = Duration::from_secs(60);

/// Whose lease goes on, by seat: the tests' leases do not run out by themselves.
#[derive(Default)]
pub struct Live([AtomicBool; SEATS]);

impl Live {
    pub fn set(&self, seat: u32, live: bool) {
        self.0[seat as usize].store(live, SeqCst);
    }
}

impl Leases for Live {
    fn is_live(&self, seat: u32, _worker: u32) -> bool {
        self.0[seat as usize].load(SeqCst)
    }

    fn is_chosen(&self, seat: u32) -> bool {
        self.is_live(seat, 0)
    }
}

pub struct World {
    pub lane: Lane,
    pub udp: Udp,
    /// The other seat's worker, once it is there ([`World::with_other`]).
    pub other: Option<(Lane, Udp)>,
    /// Whether this seat's worker is stopped.
    pub is_stopped: bool,
    pub live: &'static Live,
    pub now_ms: u32,
    pub address: SocketAddr,
    owned: Vec<Fd>,
}

impl World {
    pub fn new(listen: &str, servers: &[SocketAddr]) -> Self {
        Self::with(listen, servers, 100, DESCRIPTORS)
    }

    pub fn with(listen: &str, servers: &[SocketAddr], max_flows: usize, descriptors: usize) -> Self {
        let rules = ListenerRules { udp_idle: UDP_IDLE, ..ListenerRules::default() };
        Self::of(listen, servers, (max_flows, descriptors), rules)
    }

    pub fn with_rules(servers: &[SocketAddr], rules: ListenerRules) -> Self {
        Self::of("127.0.0.1:0", servers, (100, DESCRIPTORS), rules)
    }

    fn of(
        listen: &str,
        servers: &[SocketAddr],
        (max_flows, descriptors): (usize, usize),
        rules: ListenerRules,
    ) -> Self {
        let (address, sockets) = listening_sockets(listen.parse().unwrap());
        let config = Box::leak(Box::new(config(address, servers, rules)));
        let dimensions = Dimensions { descriptors, servers: servers.len(), ..Dimensions::SMALL };
        let (_, table) = Table::create(dimensions).unwrap();
        slots::seed(config, &table);
        let set = epoll::create().unwrap();
        for (slot, socket) in sockets.iter().enumerate() {
            epoll::add(set, *socket, epoll::IN, Token::Listener(slot as u32).encode()).unwrap();
        }
        let owned = sockets.iter().copied().chain([set]).collect();
        let sockets = Box::leak(sockets.into_boxed_slice());
        let limits = Limits { connections: 0, flows: max_flows, descriptors, pipes_per_worker: 0 };
        let live: &'static Live = Box::leak(Box::default());
        live.set(0, true);
        (0..SEATS as u32).for_each(|seat| table.seat(seat).epoch.store(1 + seat, Relaxed));
        let leases = live;
        let lane = Lane { table, seat: 0, worker: 0, epoch: 1, set, config, sockets, limits, leases };
        let udp = Udp::new();
        Self { lane, udp, other: None, is_stopped: false, live, now_ms: 1000, address, owned }
    }

    /// Adds the other seat's worker, which is live and has no queue yet.
    pub fn with_other(mut self) -> Self {
        let set = epoll::create().unwrap();
        self.owned.push(set);
        self.live.set(1, true);
        self.other = Some((Lane { seat: 1, epoch: 2, set, ..self.lane }, Udp::new()));
        self
    }

    /// All datagrams of clients go to the other seat's worker from now on.
    pub fn move_to_other(&mut self) {
        let set = self.other.as_ref().unwrap().0.set;
        for (slot, socket) in self.lane.sockets.iter().enumerate() {
            epoll::remove(self.lane.set, *socket);
            epoll::add(set, *socket, epoll::IN, Token::Listener(slot as u32).encode()).unwrap();
        }
    }

    /// One round of the workers' loops.
    pub fn turn(&mut self) {
        if !self.is_stopped {
            turn(&self.lane, &mut self.udp, self.now_ms);
        }
        if let Some((lane, udp)) = &mut self.other {
            turn(lane, udp, self.now_ms);
        }
    }

    /// Turns until `done` has an answer.
    pub fn until<T>(&mut self, mut done: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = done(self) {
                return answer;
            }
            assert!(Instant::now() < end, "nothing came: {:#?}", self.counters());
            self.turn();
        }
    }

    /// Turns until a datagram reaches `socket`, and answers its bytes and sender.
    pub fn receive(&mut self, socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.until(|_| socket.recv_from(&mut buffer).ok());
        buffer.truncate(len);
        (buffer, from)
    }

    /// Sends `request` by `client`, lets `server` answer `reply`, checks that both arrive, and
    /// answers the address that the server saw.
    pub fn exchange(
        &mut self,
        client: &UdpSocket,
        server: &UdpSocket,
        request: &[u8],
        reply: &[u8],
    ) -> SocketAddr {
        client.send(request).unwrap();
        let (got, flow) = self.receive(server);
        assert_eq!(got, request);
        server.send_to(reply, flow).unwrap();
        assert_eq!(self.receive(client).0, reply);
        flow
    }

    /// Closes the other seat's listening socket.
    pub fn close_other_seat(&mut self) {
        close(self.owned.remove(1));
    }

    pub fn counters(&self) -> &'static ListenerCounters {
        self.lane.listener(0)
    }

    /// All open flows: descriptors tagged as such.
    pub fn flows(&self) -> Vec<Fd> {
        let tags = self.lane.table.tags().iter().enumerate();
        tags.filter(|(_, tag)| tag.get().kind == Kind::UdpFlow)
            .map(|(fd, _)| Fd::from_raw(fd as i32))
            .collect()
    }

    pub fn record(&self, fd: Fd) -> &'static Record {
        self.lane.table.record(fd).unwrap()
    }

    /// A client of the proxy at `ip`, connected: it takes answers from there only.
    pub fn client_of(&self, ip: &str) -> UdpSocket {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        let client = if ip.is_ipv4() { peer("127.0.0.1:0") } else { peer("[::1]:0") };
        client.connect((ip, self.address.port())).unwrap();
        client
    }
}

fn turn(lane: &Lane, udp: &mut Udp, now_ms: u32) {
    let events = &lane.table.events(lane.seat, 0)[0];
    for index in 0..events.wait(lane.set, 1).unwrap() {
        match Token::decode(events.get(index).data).unwrap() {
            Token::Listener(slot) => {
                let listener = slot / slot::count(1, lane.config.workers);
                udp.on_listener(lane, lane.sockets[slot as usize], listener, now_ms);
            }
            Token::UdpFlow { fd, generation } => udp.on_flow(lane, fd, generation, now_ms),
            other => panic!("{other:?} was never registered"),
        }
    }
    udp.tick(lane);
}

impl Drop for World {
    fn drop(&mut self) {
        for fd in self.flows().iter().chain(&self.owned) {
            close(*fd);
        }
    }
}

/// A non-blocking socket of a client or server.
pub fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

pub fn server() -> (UdpSocket, SocketAddr) {
    let socket = peer("127.0.0.1:0");
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An address where datagrams are refused. The socket keeps its port from others, and takes
/// datagrams from its own peer only.
pub fn deserted() -> (UdpSocket, SocketAddr) {
    let (socket, address) = server();
    socket.connect(address).unwrap();
    (socket, address)
}

fn listening_sockets(listen: SocketAddr) -> (SocketAddr, Vec<Fd>) {
    let options = ListenOptions {
        v6_only: false,
        backlog: 0,
        receive_buffer: 4_000_000,
        flow: ListenerRules::default().flow_options(listen),
    };
    let mut address = listen;
    let sockets = (0..SEATS).map(|_| {
        let fd = listener::make(Protocol::Udp, address).unwrap();
        listener::bind(fd, Protocol::Udp, address, options).unwrap();
        address = socket::local_address(fd).unwrap();
        udp::prepare_listener(fd).unwrap();
        fd
    });
    let sockets = sockets.collect();
    (address, sockets)
}

fn config(address: SocketAddr, servers: &[SocketAddr], rules: ListenerRules) -> Config {
    let server = |address: &SocketAddr| ServerSettings::at(address.to_string(), *address);
    Config {
        listeners: vec![Listener {
            name: "default".into(),
            upstream: 0,
            address: ListenAddress::internet(Protocol::Udp, address),
            group: 0,
            v6_only: false,
            rules: Arc::new(rules),
            is_retired: false,
        }],
        upstreams: vec![Upstream {
            name: "default".into(),
            servers: servers.iter().map(server).collect(),
            slots: 0..servers.len(),
            rules: Default::default(),
            is_retired: false,
        }],
        workers: 1,
        lease: Duration::from_millis(100),
        fence_after: Duration::from_secs(1),
        failback_after: None,
        metrics: Some((Ipv4Addr::LOCALHOST, 0).into()),
        control: "unused".into(),
        user: None,
        listener_defaults: Default::default(),
        upstream_defaults: Default::default(),
        max_connections: None,
        max_flows: None,
        drain_timeout: Duration::from_secs(1),
        access_log: None,
        log_format: None,
    }
}
