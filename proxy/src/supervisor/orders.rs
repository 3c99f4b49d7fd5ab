//! What the supervisor is told: signals, and orders that control passes on.

use proxy_common::lease::{PRIMARY, STANDBY};

use crate::{
    orders::{self, Answer, MAX_MESSAGE, Order},
    sys::{
        signal::{self, Told},
        socket,
    },
    table::HandoverKind,
};

use super::Supervisor;

impl Supervisor {
    pub(super) fn take_signals(&mut self, now: u64) {
        while let Some(told) = signal::next(self.setup.signals) {
            match told {
                Told::Ended { pid, ending } => self.corpses.note(pid, ending),
                Told::Asked(libc::SIGTERM | libc::SIGINT) => self.stop(now),
                Told::Asked(libc::SIGHUP) => self.begin_handover(now, HandoverKind::Reload, None).log(),
                Told::Asked(libc::SIGUSR2) => self.begin_handover(now, HandoverKind::Upgrade, None).log(),
                Told::Asked(libc::SIGUSR1) => self.reopen_access_log(),
                Told::Asked(_) => {}
            }
        }
    }

    /// The first signal drains, a second one ends at once.
    fn stop(&mut self, now: u64) {
        self.end_handover();
        if self.drain.is_stopping() {
            self.drain.stop_now();
        } else {
            self.drain.stop(&mut self.setup, now);
        }
    }

    pub(super) fn take_orders(&mut self, now: u64) {
        let line = self.setup.orders.0;
        let mut buffer = [0; MAX_MESSAGE];
        while let Ok(length @ 1..) = socket::receive_message(line, &mut buffer) {
            let Some((number, message)) = orders::numbered(&buffer[..length]) else { continue };
            let answer = match Order::parse(message) {
                Some(order) => self.obey(now, order),
                None => Answer::Refused("no such order".into()),
            };
            let answer = orders::number(number, &answer.encode());
            if let Err(error) = socket::send_message(line, answer.as_bytes()) {
                tracing::warn!(%error, "control does not take the answer to an order");
            }
        }
    }

    fn obey(&mut self, now: u64, order: Order) -> Answer {
        tracing::info!(order = order.word(), "order from the control socket");
        if matches!(order, Order::Drain | Order::Stop | Order::StopNow) {
            self.end_handover();
        }
        match order {
            Order::Failover => return self.prefer(now, STANDBY),
            Order::Failback => return self.prefer(now, PRIMARY),
            Order::Drain => self.drain.begin(&mut self.setup),
            Order::Stop => self.drain.stop(&mut self.setup, now),
            Order::StopNow => self.drain.stop_now(),
            Order::Reload => return self.begin_handover(now, HandoverKind::Reload, None),
            Order::Upgrade(binary) => return self.begin_handover(now, HandoverKind::Upgrade, binary),
        }
        Answer::Done
    }

    fn prefer(&mut self, now: u64, seat: u32) -> Answer {
        match self.plan.prefer(seat) {
            Err(why) => Answer::Refused(why),
            Ok(actions) => {
                actions.into_iter().for_each(|action| self.act(now, action));
                Answer::Done
            }
        }
    }
}
