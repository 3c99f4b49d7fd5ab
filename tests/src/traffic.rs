//! Verified traffic: connections that stay open and carry bytes to and fro, each byte checked.

use std::io::{Read, Result, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clients::connect;
use crate::pattern;
use crate::wait::until_true;

/// Bytes of one round: more than a packet, less than any buffer on the way.
const ROUND: usize = 8 << 10;

/// Connections to a proxy before an echo server ([`crate::servers::Tcp::echo`]).
pub struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<Vec<AtomicU64>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Opens so many connections, which begin at once.
    #[track_caller]
    pub fn start(address: SocketAddr, connections: usize) -> Self {
        Self::paced(address, connections, Duration::ZERO)
    }

    /// The same, with a pause after each round.
    #[track_caller]
    pub fn paced(address: SocketAddr, connections: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds: Arc<Vec<AtomicU64>> = Arc::new((0..connections).map(|_| AtomicU64::new(0)).collect());
        let client = |number: usize| {
            let (stop, rounds, stream) = (Arc::clone(&stop), Arc::clone(&rounds), connect(address));
            thread::spawn(move || talk(stream, &stop, &rounds[number], pause))
        };
        let threads = (0..connections).map(client).collect();
        Self { stop, rounds, threads }
    }

    /// Waits until every connection has carried so many more rounds.
    #[track_caller]
    pub fn wait_rounds(&self, more: u64) {
        let goals: Vec<u64> = self.rounds.iter().map(|rounds| rounds.load(Relaxed) + more).collect();
        until_true("every connection carries on", || {
            self.rounds.iter().zip(&goals).all(|(rounds, goal)| rounds.load(Relaxed) >= *goal)
        });
    }

    /// Ends all connections; fails if one of them was lost, or carried a wrong byte.
    #[track_caller]
    pub fn finish(self) {
        self.stop.store(true, Relaxed);
        for (number, thread) in self.threads.into_iter().enumerate() {
            let ended = thread.join().expect("verified bytes");
            ended.unwrap_or_else(|error| panic!("connection {number} was lost: {error}"));
        }
    }
}

fn talk(
    mut stream: std::net::TcpStream,
    stop: &AtomicBool,
    rounds: &AtomicU64,
    pause: Duration,
) -> Result<()> {
    let (mut position, mut buffer) = (0, [0; ROUND]);
    while !stop.load(Relaxed) {
        let bytes = pattern::from(position, ROUND);
        stream.write_all(bytes)?;
        stream.read_exact(&mut buffer)?;
        assert!(buffer == *bytes, "wrong bytes from position {position}");
        position += ROUND;
        rounds.fetch_add(1, Relaxed);
        thread::sleep(pause);
    }
    Ok(())
}
