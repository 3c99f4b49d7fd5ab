//! `bulk`: reads streams that never end, as fast as they come.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};
use nix::sys::epoll::EpollFlags;

use super::meter::{Meter, TURN};
use crate::sample::Work;
use crate::set::Set;

/// Streams at a time.
const STREAMS: usize = 16;
/// Bytes of a read.
const READ: usize = 256 * 1024;

/// Reads until the meter is full. A stream that ends is an error.
pub fn run(to: SocketAddr, mut meter: Meter) -> Result<Work> {
    let mut set = Set::new()?;
    let mut streams = (0..STREAMS).map(|token| open(to, &set, token)).collect::<Result<Vec<_>>>()?;
    let mut buffer = vec![0; READ];
    loop {
        for token in set.wait(TURN)? {
            match streams[token].read(&mut buffer) {
                Ok(0) => bail!("a stream ended"),
                Ok(bytes) => meter.done(bytes as u64),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a stream broke"),
            }
        }
        if let Some(work) = meter.turn()? {
            return Ok(work);
        }
    }
}

fn open(to: SocketAddr, set: &Set, token: usize) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).context("cannot connect")?;
    stream.set_nonblocking(true)?;
    set.add(&stream, EpollFlags::EPOLLIN, token)?;
    Ok(stream)
}
