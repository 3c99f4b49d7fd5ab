//! Images of flow records, as they are handed over.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    handover::offer::OfferedServer,
    ledger::Ledger,
    sys::Fd,
    table::{Direction, Facts, Record, State, Told, UdpFacts, flag, lap_of, mark, octets},
};

/// In place of a descriptor or a server: there is none.
const NONE: u32 = u32::MAX;

/// What is told of all flows together, before their images.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Header {
    /// Bytes of an image: what another version appends is skipped, or 0 if it does not.
    pub image_bytes: usize,
    /// When the old pools had come to a stand, nanoseconds of the monotonic clock.
    pub parked_at_ns: u64,
    /// Whether an administrator wants new traffic to stay at the standby.
    #[serde(default)]
    pub prefers_standby: bool,
    /// The old proxy's processes, which are to be gone soon.
    #[serde(default)]
    pub processes: Vec<i32>,
    /// The kernel program's verdicts so far.
    #[serde(default)]
    pub verdicts: Ledger,
    /// How far ahead listeners' rates of new connections are, by name: nanoseconds of the monotonic clock.
    #[serde(default)]
    pub rates: BTreeMap<String, u64>,
    /// The upstream servers as they are now. (Of a version that does not tell, the offer's.)
    #[serde(default)]
    pub servers: Vec<OfferedServer>,
}

/// One flow. Descriptors are places in the list that comes with the document.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Image {
    /// 0: a TCP connection; 1: a UDP flow.
    pub protocol: u32,
    /// A [`State`]: 1 accepted, 2 connecting, 3 established, 4 closing.
    pub state: u32,
    /// Flags of [`flag`].
    pub flags: u32,
    /// The number of its worker.
    pub worker: u32,
    /// The number of its listener.
    pub listener: u32,
    /// The number of its server.
    pub server: u32,
    /// When anything last happened, milliseconds of the monotonic clock, wrapping.
    pub active_ms: u32,
    /// TCP: when it was accepted, or its current connect began; the same clock.
    pub opened_ms: u32,
    /// The client's socket (TCP), or the socket to the server (UDP).
    pub socket: u32,
    /// TCP: the socket to the server.
    pub upstream: u32,
    /// TCP: pipes that hold bytes, by direction.
    pub pipes: [u32; 2],
    /// The client's address, an IPv4 one mapped; all 0 if it is not known (TCP, of a version that does not tell).
    pub client: [u8; 16],
    /// UDP: the address that it asked.
    pub local: [u8; 16],
    /// The client's port.
    pub port: u32,
    /// UDP: the client's scope.
    pub scope: u32,
    /// Bytes up and down. (This and what follows is 0 in an image of a version that does not tell.)
    pub bytes: [u64; 2],
    /// UDP: datagrams up and down, wrapping.
    pub datagrams: [u32; 2],
    /// When it was accepted, or began; milliseconds of the monotonic clock, wrapping.
    pub begun_ms: u32,
    /// TCP: one more than how long connecting took, milliseconds.
    pub connect: u32,
    /// One more than when the first byte or answer came from the server, milliseconds after it began.
    pub first_byte: u32,
    /// TCP: version (upper half) and bytes of the PROXY header that goes to the server first.
    pub header: u32,
    /// Takeovers that it has survived.
    pub takeovers: u32,
    /// TCP: bytes of the PROXY header that were, or are to be, taken off the client's stream.
    pub taken: u32,
    /// Told by a PROXY header: the client, and the address that it asked; all 0 if nothing was told.
    pub told: [[u8; 16]; 2],
    /// Their ports.
    pub told_ports: [u32; 2],
    /// The code of the [`crate::table::Ending`] that has begun; 0: none has.
    pub ending: u32,
    /// 1 if the access log was told of its end.
    pub is_logged: u32,
    /// One more than the lap of the clock in which it began; 0: of a version that does not tell.
    pub lap: u32,
    /// 0.
    pub reserved: u32,
}

/// Bytes of an image in this version.
pub const IMAGE_BYTES: usize = size_of::<Image>();

/// Descriptors on their way, each once.
#[derive(Default)]
pub struct Descriptors(pub Vec<Fd>);

impl Descriptors {
    fn place(&mut self, fd: Option<Fd>) -> u32 {
        let Some(fd) = fd else { return NONE };
        self.0.push(fd);
        self.0.len() as u32 - 1
    }
}

/// Descriptors of a TCP connection.
pub struct Parts {
    /// The client's.
    pub client: Fd,
    /// The server's.
    pub upstream: Option<Fd>,
    /// Pipes that hold bytes, by direction.
    pub pipes: [Option<Fd>; 2],
    /// What a PROXY header told.
    pub told: Option<Told>,
}

impl Image {
    /// A TCP connection, with the parts that were found to be its own, and its facts if it has any.
    pub fn of_tcp(record: &Record, facts: Option<Facts<'_>>, parts: &Parts, fds: &mut Descriptors) -> Self {
        let times = facts.map(|facts| (facts.connect_ms().map(u32::from), facts.first_byte_ms()));
        let (connect, first_byte) = times.unwrap_or_default();
        Self {
            bytes: Direction::BOTH.map(|direction| facts.map_or(0, |facts| facts.bytes(direction))),
            begun_ms: facts.map_or_else(|| record.opened_ms(), |facts| facts.accepted_ms()),
            connect: or_none(connect),
            first_byte: or_none(first_byte),
            header: facts.map_or(0, |facts| facts.header_word()),
            opened_ms: record.opened_ms(),
            upstream: fds.place(parts.upstream),
            pipes: parts.pipes.map(|pipe| fds.place(pipe)),
            client: octets(record.client().ip()),
            port: record.client().port().into(),
            ..Self::of(record, parts.client, parts.told, fds)
        }
    }

    /// A UDP flow.
    pub fn of_udp(
        record: &Record,
        facts: &UdpFacts,
        told: Option<Told>,
        socket: Fd,
        fds: &mut Descriptors,
    ) -> Self {
        let client = record.udp_client();
        Self {
            protocol: 1,
            bytes: Direction::BOTH.map(|direction| facts.bytes(direction)),
            datagrams: Direction::BOTH.map(|direction| facts.datagrams(direction)),
            begun_ms: facts.opened_ms(),
            first_byte: or_none(facts.first_answer_ms()),
            client: octets(client.ip()),
            local: octets(record.udp_local()),
            port: client.port().into(),
            scope: if let SocketAddr::V6(v6) = client { v6.scope_id() } else { 0 },
            ..Self::of(record, socket, told, fds)
        }
    }

    fn of(record: &Record, socket: Fd, told: Option<Told>, fds: &mut Descriptors) -> Self {
        let nobody = SocketAddr::from(([0u16; 8], 0));
        let (source, asked) = told.and_then(|told| told.ends).unwrap_or((nobody, nobody));
        Self {
            protocol: 0,
            state: record.state() as u32,
            flags: record.flags(),
            worker: record.worker(),
            listener: record.listener(),
            server: record.server().unwrap_or(NONE),
            active_ms: record.active_ms(),
            opened_ms: 0,
            socket: fds.place(Some(socket)),
            upstream: NONE,
            pipes: [NONE; 2],
            client: [0; 16],
            local: [0; 16],
            port: 0,
            scope: 0,
            bytes: [0; 2],
            datagrams: [0; 2],
            begun_ms: 0,
            connect: 0,
            first_byte: 0,
            header: 0,
            takeovers: record.takeovers().into(),
            taken: told.map_or(0, |told| told.taken),
            told: [source, asked].map(|address| octets(address.ip())),
            told_ports: [source, asked].map(|address| address.port().into()),
            ending: record.ending().map_or(0, |ending| ending.code().into()),
            is_logged: record.is_marked(mark::LOGGED).into(),
            lap: u32::from(record.lap()) + 1,
            reserved: 0,
        }
    }

    /// Writes what it tells of a TCP connection. (One that was accepted in the clock's first millisecond was not.)
    pub fn enter_facts(&self, facts: Facts<'_>) {
        facts.begin(if self.begun_ms == 0 { self.opened_ms } else { self.begun_ms });
        Direction::BOTH.iter().for_each(|way| facts.set_bytes(*way, self.bytes[*way as usize]));
        facts.set_connect_ms(self.connect.checked_sub(1));
        facts.set_first_byte_ms(self.first_byte.checked_sub(1));
        facts.set_header_word(self.header);
    }

    /// The same of a UDP flow.
    pub fn enter_udp_facts(&self, facts: &UdpFacts) {
        facts.begin(if self.begun_ms == 0 { self.active_ms } else { self.begun_ms });
        for way in Direction::BOTH {
            let datagrams = self.datagrams[way as usize];
            facts.add(way, self.bytes[way as usize], datagrams.into(), self.active_ms);
        }
        facts.set_first_answer_ms(self.first_byte.checked_sub(1));
    }

    /// The lap of the clock in which it began. `now_ms`: of the monotonic clock.
    pub fn lap(&self, now_ms: u64) -> u8 {
        let (opened_ms, begun_ms) =
            (if self.is_udp() { self.active_ms } else { self.opened_ms }, self.begun_ms);
        let begun_ms = if begun_ms == 0 { opened_ms } else { begun_ms };
        self.lap.checked_sub(1).map_or_else(|| lap_of(begun_ms, now_ms), |lap| lap as u8)
    }

    /// Whether it is a UDP flow.
    pub fn is_udp(&self) -> bool {
        self.protocol == 1
    }

    /// Where the flow is in its life; `None` if no flow is.
    pub fn state(&self) -> Option<State> {
        let states = [State::Accepted, State::Connecting, State::Established, State::Closing];
        states.into_iter().find(|state| *state as u32 == self.state)
    }

    /// The number of its server.
    pub fn server(&self) -> Option<u32> {
        Some(self.server).filter(|server| *server != NONE)
    }

    /// The client's address, and the one that it asked (UDP).
    pub fn addresses(&self) -> (SocketAddr, IpAddr) {
        let port = self.port as u16;
        let client = match Ipv6Addr::from(self.client).to_canonical() {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => std::net::SocketAddrV6::new(ip, port, 0, self.scope).into(),
        };
        (client, Ipv6Addr::from(self.local).to_canonical())
    }

    /// What a PROXY header told of it; `None` if there was none.
    pub fn told(&self) -> Option<Told> {
        let [source, asked] = [0, 1].map(|end| {
            let ip = Ipv6Addr::from(self.told[end]).to_canonical();
            SocketAddr::from((ip, self.told_ports[end] as u16))
        });
        let ends = Some((source, asked)).filter(|(source, _)| !source.ip().is_unspecified());
        (self.flags & flag::TOLD != 0).then_some(Told { ends, taken: self.taken })
    }

    /// The flags that mean something to the new owner.
    pub fn flags(&self) -> u32 {
        // A UDP flow begins with a datagram: that none is counted is of a version that does not tell. It may be anything.
        let is_untold = self.is_udp() && self.datagrams == [0; 2];
        // What was adopted once stays so: an error may be missing from its sockets.
        self.flags & !flag::UNAUDITED | if is_untold { flag::WENT_ON } else { 0 }
    }
}

/// A time that there may be none of, as a word.
fn or_none(time: Option<u32>) -> u32 {
    time.map_or(0, |time| time.saturating_add(1))
}

/// A descriptor by its place; `None` for none.
///
/// # Errors
/// There are not so many.
pub fn descriptor(fds: &[Fd], place: u32) -> Result<Option<Fd>, String> {
    match place {
        NONE => Ok(None),
        _ => {
            fds.get(place as usize).copied().map(Some).ok_or_else(|| format!("descriptor {place} is missing"))
        }
    }
}

/// Header and images as a document.
pub fn encode(header: &Header, images: &[Image]) -> Vec<u8> {
    // Maps with keys that are not text, the one thing that cannot be written, are nowhere in it.
    let header = serde_json::to_vec(header).unwrap_or_default();
    let mut document = (header.len() as u64).to_ne_bytes().to_vec();
    document.extend_from_slice(&header);
    document.extend_from_slice(images.as_bytes());
    document
}

/// Reads a document.
///
/// # Errors
/// Why it is not understood, for people.
pub fn decode(document: &[u8]) -> Result<(Header, Vec<Image>), String> {
    let cut = || "the flows are cut short".to_owned();
    let (len, rest) = document.split_first_chunk::<8>().ok_or_else(cut)?;
    let (header, rest) = rest.split_at_checked(u64::from_ne_bytes(*len) as usize).ok_or_else(cut)?;
    let header: Header = serde_json::from_slice(header).map_err(|error| format!("no header: {error}"))?;
    if header.image_bytes == 0 || rest.len() % header.image_bytes != 0 {
        return Err(cut());
    }
    let read = |bytes: &[u8]| {
        let mut whole = [0; IMAGE_BYTES];
        let len = bytes.len().min(IMAGE_BYTES);
        whole[..len].copy_from_slice(&bytes[..len]);
        zerocopy::transmute!(whole)
    };
    let images = rest.chunks_exact(header.image_bytes).map(read).collect();
    Ok((header, images))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    fn record() -> Record {
        let record = Record::new_zeroed();
        record.begin(State::Established, 3, 9, 100);
        record.set_server(Some(2));
        record
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn a_connection_comes_with_its_parts() {
        let (record, mut fds) = (record(), Descriptors::default());
        let [client, upstream, pipe] = [7, 8, 9].map(Fd::from_raw);
        let ends = Some((at("192.0.2.7:4711"), at("[2001:db8::1]:443")));
        let told = Some(Told { ends, taken: 52 });
        record.set(flag::TOLD);
        let pipes = [None, Some(pipe)];
        let parts = Parts { client, upstream: Some(upstream), pipes, told };
        let image = Image::of_tcp(&record, None, &parts, &mut fds);
        let find = |place| descriptor(&fds.0, place).unwrap().map(Fd::raw);
        assert_eq!(
            [image.socket, image.upstream, image.pipes[0], image.pipes[1]].map(find),
            [Some(7), Some(8), None, Some(9)]
        );
        assert_eq!((image.worker, image.listener, image.server()), (3, 9, Some(2)));
        assert_eq!(image.told(), told);
        assert_eq!((image.state(), image.is_udp()), (Some(State::Established), false));
        assert!(descriptor(&fds.0, 3).is_err());
        assert!(Image::new_zeroed().state().is_none());
    }

    #[test]
    fn a_flow_comes_with_its_addresses() {
        for (client, local) in [("10.1.2.3:53", "127.0.0.2"), ("[fe80::1%7]:9", "::1")] {
            let (client, local): (SocketAddr, IpAddr) = (client.parse().unwrap(), local.parse().unwrap());
            let record = record();
            record.set_udp(client, local);
            let (fd, facts) = (Fd::from_raw(7), UdpFacts::new_zeroed());
            let image = Image::of_udp(&record, &facts, None, fd, &mut Descriptors::default());
            assert_eq!((image.addresses(), image.is_udp(), image.told()), ((client, local), true, None));
            assert_eq!(image.flags() & flag::UDP, flag::UDP);
        }
    }

    #[test]
    fn facts_go_over_whole() {
        let parts = Parts { client: Fd::from_raw(7), upstream: None, pipes: [None; 2], told: None };
        let (upstream, copy) = (Record::new_zeroed(), Record::new_zeroed());
        let facts = upstream.facts();
        facts.begin(50);
        facts.add_bytes(Direction::Up, 7, 60);
        facts.add_bytes(Direction::Down, 1 << 33, 70);
        facts.set_connect_ms(Some(0));
        facts.set_header((2, 28));
        let image = Image::of_tcp(&record(), Some(facts), &parts, &mut Descriptors::default());
        image.enter_facts(copy.facts());
        assert_eq!(Image::of_tcp(&record(), Some(copy.facts()), &parts, &mut Descriptors::default()), image);
        assert_eq!((image.bytes, image.begun_ms, image.first_byte), ([7, 1 << 33], 50, 21));

        let (facts, copy) = (UdpFacts::new_zeroed(), UdpFacts::new_zeroed());
        facts.begin(40);
        facts.add(Direction::Up, 9, 3, 41);
        let image = Image::of_udp(&record(), &facts, None, Fd::from_raw(7), &mut Descriptors::default());
        image.enter_udp_facts(&copy);
        assert_eq!(
            Image::of_udp(&record(), &copy, None, Fd::from_raw(7), &mut Descriptors::default()),
            image
        );
        assert_eq!((image.bytes, image.datagrams), ([9, 0], [3, 0]));
        assert_eq!(image.flags() & flag::WENT_ON, 0);
        let of_another_version = Image { datagrams: [0; 2], ..image };
        assert_eq!(of_another_version.flags() & flag::WENT_ON, flag::WENT_ON);
    }

    /// The clock of milliseconds has wrapped once when the flow goes over, or twice.
    #[test]
    fn the_time_that_a_flow_began_goes_over() {
        let parts = Parts { client: Fd::from_raw(7), upstream: None, pipes: [None; 2], told: None };
        let record = record();
        record.set_lap(0);
        let image = Image::of_tcp(&record, None, &parts, &mut Descriptors::default());
        assert_eq!(image.lap(3 << 32), 0);
        let of_another_version = Image { lap: 0, ..image };
        assert_eq!((image.begun_ms, of_another_version.lap((1 << 32) + 200)), (100, 1));
        assert_eq!(of_another_version.lap((1 << 32) + 50), 1, "a little later than now");
        assert_eq!(Image { begun_ms: 0, opened_ms: u32::MAX, ..of_another_version }.lap((1 << 32) + 50), 0);
    }

    #[test]
    fn images_of_other_versions_are_read_as_far_as_they_are_known() {
        let parts = Parts { client: Fd::from_raw(7), upstream: None, pipes: [None; 2], told: None };
        let image = Image::of_tcp(&record(), None, &parts, &mut Descriptors::default());
        for image_bytes in [88, IMAGE_BYTES, IMAGE_BYTES + 8] {
            let header = Header { image_bytes, parked_at_ns: 5, ..Header::default() };
            let mut document = encode(&header, &[]);
            let mut bytes = [image.as_bytes(), &[9; 8]].concat();
            bytes.truncate(image_bytes);
            document.extend(bytes.repeat(2));
            let (header, images) = decode(&document).unwrap();
            let known = match image_bytes {
                88 => Image { begun_ms: 0, lap: 0, ..image },
                _ => image,
            };
            assert_eq!((header.parked_at_ns, images), (5, vec![known; 2]));
            document.pop();
            assert!(decode(&document).is_err());
        }
        assert!(decode(&[1, 0]).is_err());
        assert!(decode(&u64::MAX.to_ne_bytes()).is_err());
    }
}
