//! Datagrams in batches: `recvmmsg` with `UDP_GRO`, `sendmsg` with `UDP_SEGMENT` (udp(7)), and the
//! local address that a datagram was sent to (`IP_PKTINFO`, ip(7); `IPV6_PKTINFO`, ipv6(7)).

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use super::{
    Fd,
    address::RawAddress,
    call, check, check_len,
    socket::{local_address, set_int},
};

/// Messages that one [`Inbox::receive`] takes at most.
pub const BATCH: usize = 32;
/// Segments that the kernel takes in one send (`UDP_MAX_SEGMENTS`, linux/udp.h; 128 since 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Payload bytes that one send may hold, over IPv4 and IPv6 alike: 65,535 less both headers.
pub const MAX_SEND: usize = 65_535 - 40 - 8;

/// The largest payload of any datagram, and of any run of datagrams that GRO has joined.
const MAX_RECEIVE: usize = 65_535;
/// Distance of the receive buffers. Were it a multiple of a page, all first cache lines would compete for one
/// set of the first-level cache.
const STRIDE: usize = 65_536 + 17 * 64;
/// Room for control messages: two kinds of packet info (32 and 40 bytes) and the segment size (24).
const CONTROL: usize = 128;

/// Prepares a listening socket: joined receiving, and on a wildcard address the local address of
/// each datagram.
///
/// # Errors
/// Not a UDP socket.
pub fn prepare_listener(socket: Fd) -> io::Result<()> {
    let address = local_address(socket)?;
    if address.ip().is_unspecified() {
        // On an IPv6 socket too: of an IPv4 broadcast, only this one tells an address to answer from.
        set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        if address.is_ipv6() {
            set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
    }
    join_received(socket, true)
}

/// Whether consecutive datagrams of one sender and size are received as one message.
///
/// # Errors
/// Not a UDP socket.
pub fn join_received(socket: Fd, joins: bool) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_GRO, joins.into())
}

/// Where a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The local address (of an IPv4 broadcast or multicast: the one to answer from).
    pub ip: IpAddr,
    /// The number of the interface it came in by.
    pub interface: u32,
}

/// A received datagram, or a run of them that GRO has joined.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Who sent it, if that was asked.
    pub from: Option<SocketAddr>,
    /// Where to; told by listening sockets on a wildcard address.
    pub asked: Option<Asked>,
    /// Bytes of all datagrams.
    pub len: usize,
    /// Bytes of each datagram but the last, which may be shorter; 0: it is one datagram.
    pub segment: usize,
    /// It was longer than any datagram may be and was cut: not to be relayed.
    pub cut: bool,
}

impl Message {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> u64 {
        if self.segment == 0 { 1 } else { self.len.div_ceil(self.segment).max(1) as u64 }
    }
}

/// Control messages, aligned as the kernel wants them.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Memory that one message is received into.
struct Slot {
    name: RawAddress,
    control: Control,
    buffer: libc::iovec,
}

/// Buffers for [`BATCH`] messages. A socket with GRO may answer 64 KiB in any of them, so each is
/// that large; pages are used as datagrams touch them, which is one or two each unless runs come.
pub struct Inbox {
    // The headers point into the slots and the slots into the memory: all are boxed and stay put.
    headers: Headers,
    /// The same without room for who has sent it: copying that is 3 % of the cost of a small datagram.
    nameless: Headers,
    slots: Box<[Slot]>,
    memory: Box<[u8]>,
    messages: Vec<Message>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// Makes the buffers: 2 MiB of address space.
    pub fn new() -> Self {
        let mut memory = vec![0; BATCH * STRIDE].into_boxed_slice();
        keep_pages_small(&mut memory);
        let buffer = |index: usize, memory: &mut [u8]| libc::iovec {
            iov_base: memory[index * STRIDE..][..MAX_RECEIVE].as_mut_ptr().cast(),
            iov_len: MAX_RECEIVE,
        };
        let mut slots: Box<[Slot]> = (0..BATCH)
            .map(|index| Slot {
                name: RawAddress::empty(),
                control: Control([0; CONTROL]),
                buffer: buffer(index, &mut memory),
            })
            .collect();
        let headers = Headers::new(&mut slots, size_of::<libc::sockaddr_storage>());
        let nameless = Headers::new(&mut slots, 0);
        Self { headers, nameless, slots, memory, messages: Vec::with_capacity(BATCH) }
    }

    /// Receives what waits in a socket, at most [`BATCH`] messages, and answers how many came.
    ///
    /// # Errors
    /// `WouldBlock`: none waits.
    pub fn receive(&mut self, socket: Fd) -> io::Result<usize> {
        self.take(socket, true)
    }

    /// The same from a connected socket: who has sent it is not told.
    ///
    /// # Errors
    /// `WouldBlock`: none waits. What ICMP told of an earlier send, such as `ConnectionRefused`.
    pub fn receive_from_peer(&mut self, socket: Fd) -> io::Result<usize> {
        self.take(socket, false)
    }

    fn take(&mut self, socket: Fd, asks_name: bool) -> io::Result<usize> {
        self.messages.clear();
        let headers = if asks_name { &mut self.headers } else { &mut self.nameless };
        let received = headers.receive(socket)?;
        self.messages.extend(received.iter().zip(&self.slots).map(Slot::message));
        Ok(received.len())
    }

    /// The messages of the last receive.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The bytes of the message at `index`.
    pub fn bytes(&self, index: usize) -> &[u8] {
        &self.memory[index * STRIDE..][..self.messages[index].len]
    }
}

/// A header for each slot.
struct Headers {
    all: Box<[libc::mmsghdr]>,
    /// Bytes for who has sent it; 0: it is not asked.
    name_len: libc::socklen_t,
    /// How many the last receive has written to.
    used: usize,
}

impl Headers {
    fn new(slots: &mut [Slot], name_len: usize) -> Self {
        let mut all: Box<[libc::mmsghdr]> = slots.iter_mut().map(Slot::header).collect();
        if name_len == 0 {
            all.iter_mut().for_each(|header| header.msg_hdr.msg_name = std::ptr::null_mut());
        }
        Self { used: all.len(), all, name_len: name_len as libc::socklen_t }
    }

    /// Receives what waits, and answers the headers of what has come.
    fn receive(&mut self, socket: Fd) -> io::Result<&[libc::mmsghdr]> {
        for libc::mmsghdr { msg_hdr, .. } in &mut self.all[..self.used] {
            (msg_hdr.msg_namelen, msg_hdr.msg_controllen) = (self.name_len, CONTROL as _);
        }
        self.used = 0;
        let (headers, len) = (self.all.as_mut_ptr(), self.all.len() as libc::c_uint);
        // SAFETY: each header points to a control buffer and an iovec in a boxed slot, no other of its set to the same (and to
        // the name there, or is told to write none), and that to MAX_RECEIVE bytes. All live as long as the inbox that
        // owns slots and headers, and is borrowed exclusively; they are plain bytes for the kernel to write.
        let count = unsafe { call::recvmmsg(socket.raw(), headers, len, libc::MSG_DONTWAIT) };
        self.used = check(count)? as usize;
        Ok(&self.all[..self.used])
    }
}

impl Slot {
    /// A header for `recvmmsg`, which overwrites its lengths each time.
    fn header(&mut self) -> libc::mmsghdr {
        let (name, _) = self.name.as_raw_mut();
        // SAFETY: all-zero is a valid mmsghdr (padding differs by libc, so it cannot be written out).
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_name = name.cast();
        header.msg_hdr.msg_iov = &raw mut self.buffer;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = self.control.0.as_mut_ptr().cast();
        header
    }

    /// What the kernel has written.
    fn message((header, slot): (&libc::mmsghdr, &Self)) -> Message {
        let mut message = Message {
            from: if header.msg_hdr.msg_namelen > 0 { slot.name.decode() } else { None },
            asked: None,
            len: header.msg_len as usize,
            segment: 0,
            cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
        for_each_control(&header.msg_hdr, |level, kind, data| read_control(&mut message, level, kind, data));
        message
    }
}

/// Huge pages would make 2 MiB resident for the first datagram.
fn keep_pages_small(memory: &mut [u8]) {
    let start = memory.as_mut_ptr().align_offset(4096).min(memory.len());
    let len = (memory.len() - start) & !4095;
    // SAFETY: whole pages of a live, exclusive slice. It is advice on how to back them: bytes stay
    // as they are, and failing changes nothing.
    unsafe { libc::madvise(memory[start..].as_mut_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
}

/// Calls `each` with level, type and data of every control message.
fn for_each_control(header: &libc::msghdr, mut each: impl FnMut(i32, i32, *const u8)) {
    // SAFETY: the kernel has set msg_controllen to what it has written at msg_control, which lives
    // in the caller's slot; the CMSG macros stay inside it, and the kernel writes whole messages.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            each((*control).cmsg_level, (*control).cmsg_type, libc::CMSG_DATA(control));
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}

/// Notes one control message. Of an IPv4 datagram on an IPv6 socket both packet infos come; the
/// IPv4 one knows better.
fn read_control(message: &mut Message, level: i32, kind: i32, data: *const u8) {
    match (level, kind) {
        (libc::SOL_UDP, libc::UDP_GRO) => {
            // SAFETY: the kernel writes an int for this type (udp_cmsg_recv, include/linux/udp.h).
            let segment = unsafe { data.cast::<libc::c_int>().read_unaligned() };
            message.segment = usize::try_from(segment).unwrap_or(0);
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // SAFETY: the kernel writes an in_pktinfo for this type (ip(7)).
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
            message.asked = Some(Asked { ip: ip.into(), interface: info.ipi_ifindex as u32 });
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if message.asked.is_none() => {
            // SAFETY: the kernel writes an in6_pktinfo for this type (ipv6(7)).
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical();
            message.asked = Some(Asked { ip, interface: info.ipi6_ifindex });
        }
        _ => {}
    }
}

/// Whom a listening socket sends to, and from which address.
#[derive(Clone, Copy)]
pub struct Destination {
    to: RawAddress,
    from: Option<PacketInfo>,
}

#[derive(Clone, Copy)]
enum PacketInfo {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Destination {
    /// `to` by a socket of the family that `v6_socket` says, from the local address `from` (`None`:
    /// the kernel chooses). A link-local `from` is on the interface that `to`'s scope names.
    pub fn new(to: SocketAddr, from: Option<IpAddr>, v6_socket: bool) -> Self {
        let info = match (from, v6_socket) {
            (None, _) => None,
            (Some(IpAddr::V4(ip)), false) => Some(packet_info_v4(ip)),
            (Some(IpAddr::V4(ip)), true) => Some(packet_info_v6(ip.to_ipv6_mapped(), 0)),
            // Not a pair that a socket can have told us; let the kernel choose.
            (Some(IpAddr::V6(_)), false) => None,
            (Some(IpAddr::V6(ip)), true) => {
                let scope = if let SocketAddr::V6(to) = to { to.scope_id() } else { 0 };
                Some(packet_info_v6(ip, if ip.is_unicast_link_local() { scope } else { 0 }))
            }
        };
        let to = match to {
            SocketAddr::V4(v4) if v6_socket => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            other => other,
        };
        Self { to: to.into(), from: info }
    }
}

fn packet_info_v4(ip: Ipv4Addr) -> PacketInfo {
    let address = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
    let unset = libc::in_addr { s_addr: 0 };
    PacketInfo::V4(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: unset })
}

fn packet_info_v6(ip: Ipv6Addr, interface: u32) -> PacketInfo {
    let address = libc::in6_addr { s6_addr: ip.octets() };
    PacketInfo::V6(libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: interface })
}

/// Sends the bytes of `parts` as datagrams of `segment` bytes each, the last of what is left; as one
/// datagram if `segment` is 0. Without a destination the socket must be connected.
///
/// # Errors
/// `WouldBlock`, `ENOBUFS`: no room. `EIO`, `EINVAL`, `EMSGSIZE`: the route takes no segments of
/// this size, or no datagram of it. What ICMP told of an earlier send, such as `ConnectionRefused`;
/// then nothing was sent.
pub fn send(
    socket: Fd,
    parts: &[IoSlice<'_>],
    segment: u16,
    destination: Option<&Destination>,
) -> io::Result<()> {
    let mut control = ControlWriter::new();
    if segment > 0 {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    match destination.and_then(|destination| destination.from) {
        Some(PacketInfo::V4(info)) => control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info),
        Some(PacketInfo::V6(info)) => control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info),
        None => {}
    }
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(destination) = destination {
        let (name, len) = destination.to.as_raw();
        (header.msg_name, header.msg_namelen) = (name.cast_mut().cast(), len);
    }
    // IoSlice has the layout of iovec (its documentation).
    header.msg_iov = parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = parts.len() as _;
    header.msg_control = (&raw mut control.bytes).cast();
    header.msg_controllen = control.len as _;
    // SAFETY: name, parts and control live for the call, which only reads them.
    check_len(unsafe { call::sendmsg(socket.raw(), &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
        .map(drop)
}

/// Control messages for a send.
struct ControlWriter {
    bytes: MaybeUninit<Control>,
    len: usize,
}

impl ControlWriter {
    fn new() -> Self {
        Self { bytes: MaybeUninit::uninit(), len: 0 }
    }

    /// Appends one message. `T` is what the kernel reads for this level and type.
    fn push<T: Copy>(&mut self, level: i32, kind: i32, value: T) {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: arithmetic only.
        let (len, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size) as usize) };
        assert!(self.len + space <= CONTROL, "control messages of {space} bytes do not fit");
        // SAFETY: header, data and padding are inside the buffer (above); `len` is a sum of
        // CMSG_SPACEs, so the header is aligned. Padding is zeroed, so the kernel reads no garbage.
        unsafe {
            let start = self.bytes.as_mut_ptr().cast::<u8>().add(self.len);
            start.write_bytes(0, space);
            let header = start.cast::<libc::cmsghdr>();
            (*header).cmsg_len = len as _;
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.len += space;
    }
}
