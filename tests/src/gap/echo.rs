//! The server: sends back what comes, on thousands of connections by one thread.

use std::collections::HashMap;
use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// No descriptor of a connection, so that it tells the listener.
const LISTENER: u64 = u64::MAX;

/// Serves until the process is ended.
pub fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut streams = HashMap::new();
    let mut events = [EpollEvent::empty(); 128];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            if event.data() == LISTENER {
                accept(&listener, &epoll, &mut streams)?;
            } else if !streams.get_mut(&event.data()).is_some_and(echo) {
                streams.remove(&event.data());
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, streams: &mut HashMap<u64, TcpStream>) -> Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let number = u64::from(stream.as_raw_fd().unsigned_abs());
    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
    streams.insert(number, stream);
    Ok(())
}

/// Whether the connection is still open.
fn echo(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(size @ 1..) => stream.write_all(&buffer[..size]).is_ok(),
        _ => false,
    }
}
