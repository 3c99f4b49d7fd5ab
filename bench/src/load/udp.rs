//! `udp`: datagrams there and back, so many under way in each flow.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::epoll::EpollFlags;

use super::meter::{Meter, TURN};
use crate::cases::MESSAGE;
use crate::sample::Work;
use crate::set::Set;

/// Flows.
const FLOWS: usize = 16;
/// Datagrams under way in each.
const UNDER_WAY: u64 = 16;
/// A flow that nothing has come back to for so long has lost what is under way.
const SILENCE: Duration = Duration::from_millis(100);

struct Flow {
    socket: UdpSocket,
    under_way: u64,
    heard: Instant,
}

/// Goes on until the meter is full.
pub fn run(to: SocketAddr, mut meter: Meter) -> Result<Work> {
    let mut set = Set::new()?;
    let open = |token| Flow::open(to, &set, token).context("cannot open a flow");
    let mut flows = (0..FLOWS).map(open).collect::<Result<Vec<_>>>()?;
    loop {
        for token in set.wait(TURN)? {
            let echoes = flows[token].receive().context("cannot receive")?;
            meter.done(echoes);
            flows[token].send().context("cannot send")?;
        }
        for flow in &mut flows {
            meter.failed(flow.give_up(Instant::now()).context("cannot send")?);
        }
        if let Some(work) = meter.turn()? {
            return Ok(work);
        }
    }
}

impl Flow {
    fn open(to: SocketAddr, set: &Set, token: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        set.add(&socket, EpollFlags::EPOLLIN, token)?;
        let mut flow = Self { socket, under_way: 0, heard: Instant::now() };
        flow.send()?;
        Ok(flow)
    }

    /// Fills up what is under way.
    fn send(&mut self) -> io::Result<()> {
        while self.under_way < UNDER_WAY {
            match self.socket.send(&[7; MESSAGE]) {
                Ok(_) => self.under_way += 1,
                Err(error) => return transient(error),
            }
        }
        Ok(())
    }

    /// Takes what has come back, as many as may be under way: the set tells of the rest.
    fn receive(&mut self) -> io::Result<u64> {
        let mut count = 0;
        let mut echo = [0; MESSAGE];
        while count < UNDER_WAY {
            match self.socket.recv(&mut echo) {
                Ok(_) => count += 1,
                Err(error) => {
                    transient(error)?;
                    break;
                }
            }
        }
        self.heard = Instant::now();
        // One that was given up may come late.
        self.under_way = self.under_way.saturating_sub(count);
        Ok(count)
    }

    /// Begins anew if nothing comes back. Answers how many are lost.
    fn give_up(&mut self, now: Instant) -> io::Result<u64> {
        if now - self.heard < SILENCE {
            return Ok(0);
        }
        self.heard = now;
        let lost = std::mem::take(&mut self.under_way);
        self.send()?;
        Ok(lost)
    }
}

/// An error, unless the next one may go: a full queue, or an ICMP error of an earlier datagram.
fn transient(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::ConnectionRefused => Ok(()),
        _ => Err(error),
    }
}
