//! The UDP clients of a storm: numbered datagrams with a pattern, whose answers say from which port
//! the server got them. Datagrams may be lost, but never changed, doubled, passed to another flow, or sent on from
//! another port than before.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::end::STUCK;
use super::log::Log;
use super::{LISTEN, SERVER};
use crate::net::at;
use crate::{clients, pattern, servers};

/// Datagrams that a flow sends before it waits for the answers.
const WINDOW: u32 = 4;
/// An answer that takes longer does not come.
const LOST: Duration = Duration::from_secs(2);
const HEAD: usize = 12;

/// Sends each datagram back, with the port that it came from before it.
pub fn serve() -> servers::Udp {
    servers::Udp::start(SERVER, |datagram, peer| {
        vec![[peer.port().to_be_bytes().as_slice(), datagram].concat()]
    })
}

/// One flow, until the storm is over.
pub fn client(log: &Log, number: u32) {
    let mut rng = Rng::with_seed(log.seed ^ (u64::from(number) << 32) ^ 0x0dd);
    let mut flow =
        Flow { number, socket: clients::udp(at(LISTEN)).0, next: 0, port: None, answered: Instant::now() };
    while !log.is_over.load(Relaxed) {
        let largest = rng.usize(..1400);
        let open = flow.send(&mut rng, largest);
        if let Err(what) = flow.receive(log, open) {
            return log.fail(&format!("UDP flow {number}: {what}; {:?}", flow.socket.local_addr()));
        }
        std::thread::sleep(Duration::from_millis(rng.u64(..50)));
    }
}

struct Flow {
    number: u32,
    socket: UdpSocket,
    next: u32,
    port: Option<u16>,
    answered: Instant,
}

impl Flow {
    /// Sends a window of datagrams. Answers their numbers.
    fn send(&mut self, rng: &mut Rng, largest: usize) -> BTreeSet<u32> {
        let mut open = BTreeSet::new();
        for _ in 0..rng.u32(1..=WINDOW) {
            let size = rng.usize(..=largest);
            let datagram = datagram(self.number, self.next, size);
            // An ICMP error of an earlier one may be reported here: it counts as not answered.
            if self.socket.send(&datagram).is_ok() {
                open.insert(self.next);
            }
            self.next += 1;
        }
        open
    }

    /// Waits for the answers to these.
    fn receive(&mut self, log: &Log, mut open: BTreeSet<u32>) -> Result<(), String> {
        let end = Instant::now() + LOST;
        let mut buffer = [0; 2048];
        while !open.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || log.give_up.load(Relaxed) {
                break;
            }
            let _ = self.socket.set_read_timeout(Some(left));
            let Ok(size) = self.socket.recv(&mut buffer) else { continue };
            let number = self.verify(log, &buffer[..size])?;
            if !open.remove(&number) && number >= self.next {
                return Err(format!("an answer to datagram {number} of {}", self.next));
            }
        }
        log.unanswered.fetch_add(open.len() as u64, Relaxed);
        if self.answered.elapsed() > STUCK {
            return Err(format!("no answer for {:?}", self.answered.elapsed()));
        }
        Ok(())
    }

    fn verify(&mut self, log: &Log, answer: &[u8]) -> Result<u32, String> {
        let (Some(port), Some(body)) = (answer.first_chunk(), answer.get(2..)) else {
            return Err(format!("an answer of {} bytes", answer.len()));
        };
        let number = body.get(4..8).and_then(|b| b.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
        if number == u32::MAX || body != datagram(self.number, number, body.len().saturating_sub(HEAD)) {
            return Err(format!("WRONG BYTES in an answer to datagram {number}"));
        }
        let port = u16::from_be_bytes(*port);
        // The server is up all the time, and never slow.
        if let Some(before) = self.port.replace(port).filter(|before| *before != port) {
            return Err(format!("CHANGED PORT: the server saw {before}, and {port} at datagram {number}"));
        }
        self.answered = Instant::now();
        log.answers.fetch_add(1, Relaxed);
        Ok(number)
    }
}

fn datagram(flow: u32, number: u32, size: usize) -> Vec<u8> {
    let length = (size as u32).to_be_bytes();
    let body = pattern::from((flow as usize) * 1000 + number as usize * 7, size);
    [&flow.to_be_bytes(), &number.to_be_bytes(), &length, body].concat()
}
