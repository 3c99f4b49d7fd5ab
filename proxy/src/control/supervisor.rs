//! The line to the supervisor: orders go up, answers come back, and its end is noticed.

use std::{io, os::fd::OwnedFd, time::Duration};

use proxy_common::lease::SEATS;
use tokio::{net::UnixDatagram, sync::Mutex, time::timeout};

use super::{clients::PATIENCE, view::supervisor_is_up};
use crate::{
    orders::{self, Answer, MAX_MESSAGE, Order},
    table::Table,
};

/// How often it is looked whether the supervisor is still there.
const LOOK: Duration = Duration::from_millis(250);
/// Looks in a row that do not find it before that is logged: 4 s, in which its twin has killed it (3 s) and taken its
/// place. A supervisor that is starting a program, or does not get to run, comes back sooner. Looks are counted, not
/// the clock: where it does not get to run, control does not either.
const MISSED_LOOKS: u32 = 16;

/// The supervisor, as control knows it.
pub struct Supervisor {
    /// A `SOCK_SEQPACKET` socket in truth: it sends and receives messages just so, and tells its end.
    line: UnixDatagram,
    /// The number of the last order. Held while one is under way: there is one at a time.
    last: Mutex<u64>,
    table: Table,
}

impl Supervisor {
    /// Takes the line; `line` is non-blocking.
    pub fn new(line: OwnedFd, table: Table) -> io::Result<Self> {
        let line = UnixDatagram::from_std(line.into())?;
        Ok(Self { line, last: Mutex::new(0), table })
    }

    /// Passes an order on; the error is for people.
    pub async fn pass(&self, order: &Order) -> Result<(), String> {
        if timeout(PATIENCE, self.comes_up()).await.is_err() {
            return Err(self.gone());
        }
        match timeout(PATIENCE, self.ask(order)).await {
            Err(_) => Err(format!(
                "the supervisor did not answer within {} s; it may still obey: see the proxy's log",
                PATIENCE.as_secs()
            )),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.gone()),
            Ok(Err(error)) => Err(format!("the order did not reach the supervisor: {error}")),
            Ok(Ok(Answer::Refused(why))) => Err(why),
            Ok(Ok(Answer::Done)) => Ok(()),
        }
    }

    /// It may be starting a program, or not get to run; or its twin is about to take its place.
    async fn comes_up(&self) {
        while !supervisor_is_up(self.table) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its twin is gone too. The pools hold the ports, the lock and blocked signals, so they have to be
    /// killed by hand.
    fn gone(&self) -> String {
        let pids = (0..SEATS as u32).map(|seat| self.table.seat(seat).child.pid()).filter(|pid| *pid > 0);
        let pids = pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" ");
        format!(
            "the supervisor is gone or stopped: traffic goes on, but nothing can be ordered, and no pool replaced; \
             end the pools (kill -KILL {pids}), which cuts what they carry, and start the proxy again"
        )
    }

    /// Answers to earlier orders, whose clients have given up waiting, are passed by. One may never come: the
    /// supervisor may have died in the middle of an order.
    async fn ask(&self, order: &Order) -> io::Result<Answer> {
        let mut last = self.last.lock().await;
        *last += 1;
        self.line.send(orders::number(*last, &order.encode()).as_bytes()).await?;
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let answer = match self.line.recv(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => orders::numbered(&buffer[..len]),
            };
            if let Some((number, answer)) = answer
                && number == *last
            {
                return Ok(Answer::decode(answer));
            }
        }
    }

    /// Ends when the supervisor and both pools are gone: then nothing is left to report on, and the
    /// listening sockets that control still holds must not keep clients waiting.
    ///
    /// The supervisor's end of the line is in the table that it shares with the pools, so the line
    /// ends with the last of them, not with the supervisor.
    pub async fn watch(&self) {
        let mut missed = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let up = supervisor_is_up(self.table);
            missed = missed_looks(missed, up);
            if missed == MISSED_LOOKS {
                tracing::error!(
                    "the supervisor is gone or stopped: no pool will be replaced; if no twin takes its place, end the \
                     pools (kill -KILL) and start the proxy again"
                );
            }
            if !up && self.is_cut() {
                tracing::error!("the supervisor and both pools are gone: control ends");
                return;
            }
        }
    }

    /// Whether the other end is closed everywhere. To be asked only when no answer is awaited.
    fn is_cut(&self) -> bool {
        matches!(self.line.try_recv(&mut [0; MAX_MESSAGE]), Ok(0))
    }
}

/// How many looks in a row have missed the supervisor.
fn missed_looks(before: u32, up: bool) -> u32 {
    if up { 0 } else { before.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    use crate::{
        sys::{Fd, socket},
        table::Dimensions,
    };

    fn line() -> (Supervisor, Fd) {
        let dimensions = Dimensions { descriptors: 8, ..Dimensions::SMALL };
        let (_, table) = Table::create(dimensions).unwrap();
        table.supervisor().looked_at.store(u64::MAX, Relaxed);
        let (ours, theirs) = socket::message_pair().unwrap();
        let ours = ours.borrow().try_clone_to_owned().unwrap();
        (Supervisor::new(ours, table).unwrap(), theirs)
    }

    fn received(socket: Fd) -> String {
        let mut buffer = [0; 64];
        let len = socket::receive_message(socket, &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next_order() {
        let (supervisor, theirs) = line();
        let given_up = timeout(Duration::from_millis(10), supervisor.pass(&Order::Failover)).await;
        assert!(given_up.is_err());
        assert_eq!(received(theirs), "1 failover");

        socket::send_message(theirs, b"1 refused too late").unwrap();
        let next = async {
            let pass = supervisor.pass(&Order::Drain);
            let reply = async {
                let mut buffer = [0; 64];
                while socket::receive_message(theirs, &mut buffer).is_err() {
                    tokio::task::yield_now().await;
                }
                socket::send_message(theirs, b"2 done").unwrap();
            };
            tokio::join!(pass, reply).0
        };
        assert_eq!(next.await, Ok(()));
    }

    #[test]
    fn a_supervisor_that_comes_back_was_not_gone() {
        let looks = [vec![false; 15], vec![true], vec![false; 15]].concat();
        let missed = looks.iter().scan(0, |missed, up| {
            *missed = missed_looks(*missed, *up);
            Some(*missed)
        });
        assert_eq!(missed.max(), Some(MISSED_LOOKS - 1));
    }

    #[tokio::test]
    async fn a_dead_supervisor_is_told() {
        let (supervisor, _theirs) = line();
        supervisor.table.supervisor().looked_at.store(0, Relaxed);
        let error = supervisor.pass(&Order::Stop).await.unwrap_err();
        assert!(error.contains("supervisor is gone") && error.contains("kill -KILL"), "{error}");
    }
}
