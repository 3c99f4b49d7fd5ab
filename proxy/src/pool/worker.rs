//! A worker: one thread, one inherited epoll set, one loop. Everything it does is synchronous and
//! bounded, so that its heartbeat is proof that the data path moves.

use std::{io, sync::atomic::Ordering::Relaxed};

use crate::{
    relay::{Lane, pipes::Pipes, tcp::Tcp, token::Token, udp::Udp},
    sys::{Fd, epoll::EventBuffer, socket, socket::Protocol, time},
    table::{Kind, Tag},
};
use proxy_common::lease::SEATS;

use super::Pool;

/// How often the walk over all tags (idle expiry) comes round, milliseconds.
const WALK_MS: u64 = 1000;
/// Events between two looks at the clock.
const EVENTS_PER_BEAT: usize = 16;

pub(super) struct Worker {
    pool: &'static Pool,
    lane: Lane,
    events: &'static EventBuffer,
    tcp: Tcp,
    udp: Udp,
    now_ns: u64,
    lease_ends_ns: u64,
    next_tick_ns: u64,
    /// Where the walk over the tags goes on.
    walked: usize,
}

impl Worker {
    pub(super) fn new(pool: &'static Pool, worker: u32) -> Self {
        let lane = Lane {
            table: pool.table,
            seat: pool.seat,
            worker,
            epoch: pool.epoch,
            set: pool.table.worker(pool.seat, worker).epoll.fd(),
            config: pool.config,
            limits: pool.limits,
            sockets: pool.sockets,
        };
        let pipes = Pipes::new(pool.pipes[worker as usize].clone(), pool.null);
        Self {
            pool,
            lane,
            events: pool.table.events(pool.seat, worker),
            tcp: Tcp::new(pipes),
            udp: Udp::new(),
            now_ns: 0,
            lease_ends_ns: 0,
            next_tick_ns: 0,
            walked: 0,
        }
    }

    /// The loop. Ends only if waiting for events fails.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.beat();
        self.lane.block().running.store(1, Relaxed);
        loop {
            let timeout_ms = if self.tcp.has_turns() { 0 } else { self.tick_ms() as i32 };
            let count = self.events.wait(self.lane.set, timeout_ms)?;
            self.beat();
            for index in 0..count {
                let event = self.events.get(index);
                self.dispatch(Token::decode(event.data), event.mask);
                if index % EVENTS_PER_BEAT == EVENTS_PER_BEAT - 1 {
                    self.beat();
                }
            }
            self.tcp.run_turns(&self.lane);
            if self.now_ns >= self.next_tick_ns {
                self.tick();
            }
            let turns = &self.lane.block().turns;
            turns.store(turns.load(Relaxed) + 1, Relaxed);
        }
    }

    fn dispatch(&mut self, token: Option<Token>, mask: u32) {
        let (lane, now_ms) = (&self.lane, self.now_ms());
        match token {
            Some(Token::Client { .. } | Token::Upstream { .. }) => {
                if let Some(token) = token {
                    self.tcp.on_event(lane, token, mask, now_ms);
                }
            }
            Some(Token::UdpFlow { fd, generation }) => self.udp.on_flow(lane, fd, generation, now_ms),
            Some(Token::Listener(slot)) => self.on_listener(slot, now_ms),
            Some(Token::Bell) => socket::silence(lane.block().bell.fd()),
            None => {}
        }
    }

    fn on_listener(&mut self, slot: u32, now_ms: u32) {
        let lane = &self.lane;
        let listener = slot / (SEATS as u32 * lane.config.workers);
        let Some(settings) = lane.config.listeners.get(listener as usize) else {
            return;
        };
        match settings.address.protocol {
            Protocol::Tcp => self.tcp.on_listener(lane, slot, listener, now_ms),
            Protocol::Udp => self.udp.on_listener(lane, lane.sockets[slot as usize], listener, now_ms),
        }
    }

    /// The heartbeat. The lease is stored again only after an eighth of it has passed: stores to
    /// memory that the kernel program reads on other CPUs are not free.
    fn beat(&mut self) {
        self.now_ns = time::monotonic_ns();
        let lease_ns = self.lane.config.lease.as_nanos() as u64;
        let deadline_ns = self.now_ns + lease_ns;
        if deadline_ns - self.lease_ends_ns >= lease_ns / 8 {
            self.lease_ends_ns = deadline_ns;
            self.pool.liveness.renew(self.lane.seat, self.lane.worker, deadline_ns);
        }
    }

    fn tick(&mut self) {
        self.next_tick_ns = self.now_ns + self.tick_ms() * 1_000_000;
        let now_ms = self.now_ms();
        self.tcp.tick(&self.lane, now_ms);
        self.walk(now_ms);
    }

    /// Looks at the next part of all tags for flows that have been idle for too long.
    fn walk(&mut self, now_ms: u32) {
        let tags = self.lane.table.tags();
        let part = tags.len() * self.tick_ms() as usize / WALK_MS as usize + 1;
        let end = (self.walked + part).min(tags.len());
        for (number, tag) in tags.iter().enumerate().take(end).skip(self.walked) {
            let fd = Fd::from_raw(number as i32);
            match tag.get() {
                Tag { kind: Kind::Client, epoch } if epoch == self.lane.epoch => {
                    self.tcp.expire_one(&self.lane, fd, now_ms);
                }
                Tag { kind: Kind::UdpFlow, epoch } if epoch == self.lane.epoch => {
                    self.udp.expire_one(&self.lane, fd, now_ms);
                }
                _ => {}
            }
        }
        self.walked = if end == tags.len() { 0 } else { end };
    }

    /// Four heartbeats fit into a lease; at least two a second, so that expiry is not late.
    fn tick_ms(&self) -> u64 {
        (self.lane.config.lease.as_millis() as u64 / 4).clamp(1, WALK_MS / 2)
    }

    /// Wrapping milliseconds, as records keep them.
    fn now_ms(&self) -> u32 {
        (self.now_ns / 1_000_000) as u32
    }
}
