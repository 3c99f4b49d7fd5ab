//! The server behind the targets: sends back what it gets, and sends without end. One thread, one epoll set.

use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use socket2::{Domain, Socket, Type};

use crate::cases::{ECHO, SOURCE};
use crate::set::Set;

/// Tokens of the listening sockets; a connection's is its descriptor's number, which is never so low.
const ECHO_LISTENER: usize = 0;
const SOURCE_LISTENER: usize = 1;
const DATAGRAMS: usize = 2;

/// Bytes that are read or written at once.
const CHUNK: usize = 256 * 1024;
/// Datagrams, or new connections, in a row.
const BATCH: usize = 64;
/// Bytes of datagrams that may wait, as far as the kernel allows.
const QUEUE: usize = 4 * 1024 * 1024;

/// A connection, and whether it is sent to or answered.
struct Connection {
    stream: TcpStream,
    is_source: bool,
}

struct Server {
    set: Set,
    /// By descriptor number.
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

/// Serves until it is killed.
pub fn run() -> anyhow::Result<()> {
    let [echo, source] = [listen(ECHO)?, listen(SOURCE)?];
    let datagrams = UdpSocket::bind(ECHO)?;
    datagrams.set_nonblocking(true)?;
    socket2::SockRef::from(&datagrams).set_recv_buffer_size(QUEUE)?;
    let mut server = Server { set: Set::new()?, connections: Vec::new(), buffer: vec![7; CHUNK] };
    server.set.add(&echo, EpollFlags::EPOLLIN, ECHO_LISTENER)?;
    server.set.add(&source, EpollFlags::EPOLLIN, SOURCE_LISTENER)?;
    server.set.add(&datagrams, EpollFlags::EPOLLIN, DATAGRAMS)?;
    loop {
        for token in server.set.wait(Duration::MAX)? {
            match token {
                ECHO_LISTENER => server.accept(&echo, false)?,
                SOURCE_LISTENER => server.accept(&source, true)?,
                DATAGRAMS => answer(&datagrams),
                number => server.serve(number),
            }
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Sends datagrams back. One that cannot be sent is lost, as datagrams are.
fn answer(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    for _ in 0..BATCH {
        match socket.recv_from(&mut datagram) {
            Ok((length, from)) => drop(socket.send_to(&datagram[..length], from)),
            Err(_) => return,
        }
    }
}

impl Server {
    fn accept(&mut self, listener: &TcpListener, is_source: bool) -> Result<()> {
        for _ in 0..BATCH {
            // Whatever it is that failed, the set tells of what waits.
            let Ok((stream, _)) = listener.accept() else { return Ok(()) };
            stream.set_nonblocking(true)?;
            let number = stream.as_raw_fd() as usize;
            let flags = if is_source { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            self.set.add(&stream, flags, number)?;
            if self.connections.len() <= number {
                self.connections.resize_with(number + 1, || None);
            }
            self.connections[number] = Some(Connection { stream, is_source });
        }
        Ok(())
    }

    /// Moves bytes once, and closes what has ended.
    fn serve(&mut self, number: usize) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
        if connection.serve(&mut self.buffer).is_err() {
            self.connections[number] = None;
        }
    }
}

impl Connection {
    fn serve(&mut self, buffer: &mut [u8]) -> Result<()> {
        let end = if self.is_source { self.send(buffer) } else { self.echo(&mut buffer[..16 * 1024]) };
        match end {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            end => end,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write(bytes).map(drop)
    }

    fn echo(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.stream.read(buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => self.stream.write_all(&buffer[..length]),
        }
    }
}
