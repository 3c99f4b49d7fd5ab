//! The clients: many connections, and a byte on its way to and fro on each active one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;

use super::Settings;
use crate::clients::connect;
use crate::sys;

/// A connection whose next byte takes longer does not go on.
const STUCK: Duration = Duration::from_secs(10);

/// Open connections.
pub struct Load {
    /// Held open; each has carried a byte both ways.
    _idle: Vec<TcpStream>,
    active: Vec<TcpStream>,
    epoll: Epoll,
}

impl Load {
    /// Opens the connections, one after the other. The active ones are spread evenly among them.
    #[track_caller]
    pub fn open(address: SocketAddr, settings: &Settings) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll set");
        let (mut idle, mut active) = (Vec::new(), Vec::new());
        let stride = settings.connections / settings.active;
        for number in 0..settings.connections {
            let mut stream = connect(address);
            stream.write_all(b"x").expect("write");
            stream.read_exact(&mut [0]).expect("the byte comes back");
            if number % stride == 0 && active.len() < settings.active {
                stream.set_nonblocking(true).expect("set_nonblocking");
                let event = EpollEvent::new(EpollFlags::EPOLLIN, active.len() as u64);
                epoll.add(&stream, event).expect("add to the epoll set");
                active.push(stream);
            } else {
                idle.push(stream);
            }
        }
        active.iter().for_each(send);
        Self { _idle: idle, active, epoll }
    }

    /// Keeps the active connections going for so long.
    pub fn exchange(&self, during: Duration) {
        let end = Instant::now() + during;
        while Instant::now() < end {
            self.turn(|_| {});
        }
    }

    /// Sends each byte that has come back on its way again, and tells of it.
    fn turn(&self, mut came: impl FnMut(usize)) {
        let mut events = [EpollEvent::empty(); 128];
        let count = self.epoll.wait(&mut events, EpollTimeout::from(100u8)).expect("epoll_wait");
        for event in &events[..count] {
            let number = event.data() as usize;
            if receive(&self.active[number]) {
                came(number);
                send(&self.active[number]);
            }
        }
    }

    /// Kills the pool. Answers for each active connection the time from before the kill to the first byte
    /// that was not relayed by the dead pool.
    #[track_caller]
    pub fn kill(&self, pool: i32) -> Vec<Duration> {
        let pidfd = sys::pidfd_open(pool).expect("the pool is alive");
        let killed = Instant::now();
        sys::pidfd_kill(&pidfd, Signal::SIGKILL).expect("kill");
        wait_dead(&pidfd);
        // What is here by now came by the dead pool, or so soon that it may as well have.
        self.active.iter().filter(|stream| receive(stream)).for_each(send);
        let mut gaps = vec![None; self.active.len()];
        while gaps.contains(&None) {
            self.turn(|number| gaps[number] = gaps[number].or_else(|| Some(killed.elapsed())));
            assert!(killed.elapsed() < STUCK, "stuck: {}", gaps.iter().filter(|gap| gap.is_none()).count());
        }
        gaps.into_iter().flatten().collect()
    }
}

/// A pidfd becomes readable when its process is dead.
fn wait_dead(pidfd: &OwnedFd) {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).expect("poll"), 1, "the pool does not die");
}

fn send(mut stream: &TcpStream) {
    stream.write_all(b"y").expect("a byte fits into the socket's buffer");
}

/// Takes the byte that came back, if it has.
fn receive(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 8]) {
        Ok(1) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("a byte at a time, and no end: {other:?}"),
    }
}
