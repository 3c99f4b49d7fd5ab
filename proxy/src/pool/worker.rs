//! A worker: one thread, one inherited epoll set, one loop. Everything it does is synchronous and
//! bounded, so that its heartbeat is proof that the data path moves.

use std::{io, sync::atomic::Ordering::Relaxed};

use proxy_common::steer;

use crate::{
    relay::{
        Lane, Leases,
        buffers::Buffers,
        pipes::Pipes,
        tcp::{Tcp, shared},
        token::Token,
        udp::Udp,
    },
    steering::LivenessMap,
    sys::{
        Fd, bell,
        epoll::{self, EventBuffer},
        socket::Protocol,
        time,
    },
    table::{EVENT_BUFFERS, Kind},
};

use super::{Pool, close::Closing};

/// How often the walk over all tags (idle expiry) comes round, milliseconds.
const WALK_MS: u64 = 1000;
/// Ticks that it takes while registrations are moved: pools may die again soon.
const MIGRATION_TICKS: u64 = 8;
/// Steps of a long job, such as events, between two looks at the clock.
const STEPS_PER_BEAT: u32 = 16;
/// Sockets with datagrams in one turn from which on there may soon be more.
const BUSY_SOCKETS: u32 = 2;

pub(super) struct Worker {
    pub(super) pool: &'static Pool,
    pub(super) lane: Lane,
    pub(super) events: &'static [EventBuffer; EVENT_BUFFERS],
    pub(super) tcp: Tcp,
    pub(super) udp: Udp,
    now_ns: u64,
    lease_ends_ns: u64,
    next_tick_ns: u64,
    /// Steps since the last look at the clock.
    steps: u32,
    /// Sockets that had datagrams since the last wait.
    udp_sockets: u32,
    /// Where the walk over the tags goes on.
    walked: usize,
    /// Adopted epoll sets.
    pub(super) beside: Vec<Fd>,
    /// Adopted epoll sets that were there when the walk began: what is registered with them is moved.
    pub(super) migrating_from: Option<Vec<Fd>>,
    /// What an administrator has ordered to be closed.
    pub(super) closing: Option<Closing>,
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
            leases: &pool.liveness,
        };
        let pipes = Pipes::new(pool.pipes[worker as usize].clone(), pool.null);
        Self {
            pool,
            lane,
            events: pool.table.events(pool.seat, worker),
            tcp: Tcp::new(pipes, Buffers::new(&pool.table, (pool.seat, worker), pool.buffers)),
            udp: Udp::new(),
            now_ns: 0,
            lease_ends_ns: 0,
            next_tick_ns: 0,
            steps: 0,
            udp_sockets: 0,
            walked: 0,
            beside: Vec::new(),
            migrating_from: None,
            closing: None,
        }
    }

    /// The loop. Ends only if waiting for events fails.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.beat();
        self.adopt();
        self.lane.block().running.store(1, Relaxed);
        loop {
            let timeout_ms =
                if self.tcp.has_turns() || self.closing.is_some() { 0 } else { self.tick_ms() as i32 };
            self.let_others_send(timeout_ms);
            let count = self.wait(timeout_ms)?;
            self.beat();
            for index in 0..count {
                let event = self.events[0].get(index);
                if let Some(token) = Token::decode(event.data) {
                    self.dispatch(token, event.mask);
                }
                self.beat_now_and_then();
            }
            self.on_sets_beside();
            self.run_turns();
            self.close_ordered();
            if self.now_ns >= self.next_tick_ns {
                self.tick();
            }
            self.lane.block().counters.turns.add(1);
        }
    }

    /// What no event tells of. Each may be a great deal of work, at a moment that clients or servers choose: a part of
    /// each, and a heartbeat between them.
    fn run_turns(&mut self) {
        if !self.tcp.has_turns() {
            return;
        }
        let parts = [Tcp::run_turns, Tcp::expire_connects, Tcp::serve_queues, Tcp::tend_shared];
        for part in parts {
            let now_ms = self.now_ms();
            part(&mut self.tcp, &self.lane, now_ms);
            self.beat();
        }
    }

    /// Before it sleeps for want of datagrams: who sends and answers them may be waiting for this processor, and has
    /// more then, for fewer wake-ups and larger sends (16 flows, all on two processors: 0.77 times the time). Where
    /// nobody waits, it is one short call (sched_yield(2)). Requests on streams became dearer by it, 1.1 times.
    fn let_others_send(&mut self, timeout_ms: i32) {
        if timeout_ms > 0 && self.udp_sockets >= BUSY_SOCKETS {
            std::thread::yield_now();
        }
        self.udp_sockets = 0;
    }

    pub(super) fn dispatch(&mut self, token: Token, mask: u32) {
        let (lane, now_ms) = (&self.lane, self.now_ms());
        match token {
            Token::Client { .. } | Token::Upstream { .. } => self.tcp.on_event(lane, token, mask, now_ms),
            Token::UdpFlow { fd, generation } => {
                self.udp_sockets += 1;
                self.udp.on_flow(lane, fd, generation, now_ms);
            }
            Token::Listener(slot) => {
                self.on_listener(slot, now_ms);
                // One event of it is a whole batch of connections or datagrams.
                self.beat();
            }
            Token::Bell => {
                bell::silence(lane.block().bell.fd());
                self.park();
                self.claim();
                self.adopt();
            }
        }
    }

    fn on_listener(&mut self, slot: u32, now_ms: u32) {
        let lane = &self.lane;
        let listener = self.pool.listener_of(slot);
        let Some(settings) = lane.config.listeners.get(listener as usize) else {
            return;
        };
        match settings.address.protocol {
            Protocol::Tcp if settings.address.path.is_some() && !shared::is_turn(lane) => {
                let sets = self.beside.iter().chain([&lane.set]);
                sets.for_each(|set| epoll::remove(*set, lane.sockets[slot as usize]));
            }
            Protocol::Tcp => self.tcp.on_listener(lane, slot, listener, now_ms),
            Protocol::Udp => {
                self.udp_sockets += 1;
                self.udp.on_listener(lane, lane.sockets[slot as usize], listener, now_ms);
            }
        }
    }

    /// The heartbeat. The lease is stored again only after an eighth of it has passed: stores to
    /// memory that the kernel program reads on other CPUs are not free.
    fn beat(&mut self) {
        self.now_ns = time::monotonic_ns();
        self.steps = 0;
        let lease_ns = self.lane.config.lease.as_nanos() as u64;
        let deadline_ns = self.now_ns + lease_ns;
        if deadline_ns - self.lease_ends_ns >= lease_ns / 8 {
            self.lease_ends_ns = deadline_ns;
            self.pool.liveness.renew(self.lane.seat, self.lane.worker, deadline_ns);
        }
    }

    /// The heartbeat, once in so many steps of a long job. To be called after each.
    pub(super) fn beat_now_and_then(&mut self) {
        self.steps += 1;
        if self.steps >= STEPS_PER_BEAT {
            self.beat();
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.tcp.tick(&self.lane);
        self.udp.tick(&self.lane);
        self.walk(now_ms);
        self.look_for_order();
        self.rest_till_next_tick();
    }

    /// The next tick is a whole interval away, however long this one took: traffic comes first.
    pub(super) fn rest_till_next_tick(&mut self) {
        self.beat();
        self.next_tick_ns = self.now_ns + self.tick_ms() * 1_000_000;
    }

    /// Looks at the next part of all tags: for flows that have been idle for too long, and for
    /// registrations to be moved from dead workers' epoll sets.
    fn walk(&mut self, now_ms: u32) {
        let tags = self.lane.table.tags();
        if self.migrating_from.is_none() {
            self.migrating_from = Some(self.adopted_sets());
            self.walked = 0;
        }
        let from = self.migrating_from.take().unwrap_or_default();
        let ticks = if from.is_empty() { WALK_MS / self.tick_ms() } else { MIGRATION_TICKS };
        let part = tags.len().div_ceil(ticks as usize);
        let end = (self.walked + part).min(tags.len());
        for (number, tag) in tags.iter().enumerate().take(end).skip(self.walked) {
            let (fd, tag) = (Fd::from_raw(number as i32), tag.get());
            if tag.epoch != self.lane.epoch {
                continue;
            }
            if !from.is_empty() {
                self.migrate(fd, tag.kind, &from);
            }
            match tag.kind {
                Kind::Client => self.tcp.expire_one(&self.lane, fd, now_ms),
                Kind::UdpFlow => drop(self.udp.expire_one(&self.lane, fd, now_ms)),
                _ => {}
            }
            // What is late may be a great deal of work, at a moment that clients choose.
            self.beat_now_and_then();
        }
        self.walked = end;
        if end < tags.len() {
            self.migrating_from = Some(from);
        } else {
            self.give_up_sets(&from);
        }
    }

    /// Four heartbeats fit into a lease; at least two a second, so that expiry is not late.
    pub(super) fn tick_ms(&self) -> u64 {
        (self.lane.config.lease.as_millis() as u64 / 4).clamp(1, WALK_MS / 2)
    }

    /// Wrapping milliseconds, as records keep them.
    pub(super) fn now_ms(&self) -> u32 {
        (self.now_ns / 1_000_000) as u32
    }
}

impl Leases for LivenessMap {
    fn is_live(&self, seat: u32, worker: u32) -> bool {
        self.deadline(seat, worker) > time::monotonic_ns()
    }

    fn is_chosen(&self, seat: u32) -> bool {
        // Nobody is live: whoever asks is running, and takes it.
        steer::choose(&self.snapshot(), time::monotonic_ns(), 0, seat).seat == seat
    }
}
