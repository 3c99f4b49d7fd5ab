//! Verified UDP flows: datagrams that are answered all the time, each once, from one port for the flow's life.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clients::{Udp, udp};
use crate::wait::until_true;

/// Datagrams that a flow sends before it waits for their answers.
const WINDOW: u64 = 4;
/// An answer that takes longer is lost, where some may be.
const LOST: Duration = Duration::from_secs(2);
/// The same where none may be: no machine is as slow.
const NEVER: Duration = Duration::from_secs(12);
/// Between two windows.
const PAUSE: Duration = Duration::from_millis(5);

/// Flows through a proxy before a server that names the port ([`crate::servers::Udp::naming`]).
pub struct Flows {
    stop: Arc<AtomicBool>,
    answers: Arc<Vec<AtomicU64>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Flows {
    /// Begins so many flows, which fail if a datagram is lost.
    #[track_caller]
    pub fn start(address: SocketAddr, flows: usize) -> Self {
        Self::with(address, flows, false)
    }

    /// Begins so many flows which may lose datagrams, as those that a pool has in hand when it is killed, but
    /// nothing else.
    #[track_caller]
    pub fn lossy(address: SocketAddr, flows: usize) -> Self {
        Self::with(address, flows, true)
    }

    #[track_caller]
    fn with(address: SocketAddr, flows: usize, may_lose: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers: Arc<Vec<AtomicU64>> = Arc::new((0..flows).map(|_| AtomicU64::new(0)).collect());
        let flow = |number: usize| {
            let (stop, answers, socket) = (Arc::clone(&stop), Arc::clone(&answers), udp(address));
            thread::spawn(move || {
                let mut flow = Flow { number, socket, may_lose, port: None, next: 0, lost: BTreeSet::new() };
                flow.talk(&stop, &answers[number])
            })
        };
        let threads = (0..flows).map(flow).collect();
        Self { stop, answers, threads }
    }

    /// Waits until every flow has had so many more answers, or failed.
    #[track_caller]
    pub fn wait_answers(&self, more: u64) {
        let goals: Vec<u64> = self.answers.iter().map(|answers| answers.load(Relaxed) + more).collect();
        until_true("every flow is answered", || {
            let has_more = |((answers, goal), flow): ((&AtomicU64, &u64), &JoinHandle<_>)| {
                answers.load(Relaxed) >= *goal || flow.is_finished()
            };
            self.answers.iter().zip(&goals).zip(&self.threads).all(has_more)
        });
    }

    /// Ends all flows. Answers how many answers there were; fails if one was lost, doubled or another's, or if
    /// a flow's port has changed.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.stop.store(true, Relaxed);
        for (number, thread) in self.threads.into_iter().enumerate() {
            let ended = thread.join().expect("a flow");
            ended.unwrap_or_else(|what| panic!("UDP flow {number}: {what}"));
        }
        self.answers.iter().map(|answers| answers.load(Relaxed)).sum()
    }
}

struct Flow {
    number: usize,
    socket: Udp,
    may_lose: bool,
    /// From which the server is asked.
    port: Option<String>,
    next: u64,
    /// Waited for in vain. They may be answered yet.
    lost: BTreeSet<String>,
}

impl Flow {
    fn talk(&mut self, stop: &AtomicBool, answers: &AtomicU64) -> Result<(), String> {
        let patience = if self.may_lose { LOST } else { NEVER };
        self.socket.0.set_read_timeout(Some(patience)).expect("timeout");
        while !stop.load(Relaxed) {
            let mut open = self.send()?;
            while !open.is_empty() {
                match self.socket.receive() {
                    Ok(answer) => {
                        self.verify(&answer, &mut open)?;
                        answers.fetch_add(1, Relaxed);
                    }
                    Err(_) if self.may_lose => self.lost.append(&mut open),
                    Err(error) => return Err(format!("no answer to {open:?}: {error}")),
                }
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Sends a window. Answers what was asked.
    fn send(&mut self) -> Result<BTreeSet<String>, String> {
        let numbers = self.next..self.next + WINDOW;
        self.next = numbers.end;
        let open: BTreeSet<String> = numbers.map(|n| format!("{}-{n}", self.number)).collect();
        for datagram in &open {
            let sent = self.socket.0.send(datagram.as_bytes());
            sent.map_err(|error| format!("{datagram} cannot be sent: {error}"))?;
        }
        Ok(open)
    }

    fn verify(&mut self, answer: &str, open: &mut BTreeSet<String>) -> Result<(), String> {
        let words: Vec<&str> = answer.split(' ').collect();
        let [_, port, datagram] = words[..] else { return Err(format!("not an answer: {answer}")) };
        if !open.remove(datagram) && !self.lost.remove(datagram) {
            return Err(format!("not asked, or answered twice: {answer}"));
        }
        let before = self.port.get_or_insert_with(|| port.to_owned());
        if before != port {
            return Err(format!("the server saw port {before}, and then {port}"));
        }
        Ok(())
    }
}
