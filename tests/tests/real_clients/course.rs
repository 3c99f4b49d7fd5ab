//! The course of a client's work: it works on and on, pools die under it when it has got on by so much,
//! and it may end when it has got on by so much again after the last takeover. So the deaths are in the
//! middle of its work on a machine of any speed.

use std::io::{Read, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::status::{Pool, Status};
use proxy_tests::wait::until_true;

/// Pools that die under a client.
pub const TAKEOVERS: u64 = 2;

/// How far a client is.
pub struct Course {
    stride: u64,
    done: AtomicU64,
    goal: AtomicU64,
    is_last: AtomicBool,
}

impl Course {
    /// A course on which a client gets on by so many steps before each death, and after the last one.
    /// What a step is is the client's affair.
    pub fn new(stride: u64) -> Arc<Self> {
        let (done, goal) = (AtomicU64::new(0), AtomicU64::new(stride));
        Arc::new(Self { stride, done, goal, is_last: AtomicBool::new(false) })
    }

    /// So many steps more are done.
    pub fn advance(&self, steps: u64) {
        self.done.fetch_add(steps, SeqCst);
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }

    /// Whether the client is to work on.
    pub fn goes_on(&self) -> bool {
        !self.is_last.load(SeqCst) || !self.is_there()
    }

    fn is_there(&self) -> bool {
        self.done() >= self.goal.load(SeqCst)
    }

    /// Runs the client while pools die under it, and asserts that each death was a takeover of its flow,
    /// and that nothing was lost.
    #[track_caller]
    pub fn run(
        self: &Arc<Self>,
        proxy: &Proxy,
        protocol: &str,
        death: Signal,
        client: impl FnOnce(&Self) + Send + 'static,
    ) {
        let course = Arc::clone(self);
        let client = thread::spawn(move || client(&course));
        for _ in 0..TAKEOVERS {
            let before = proxy.until_status("whole", Status::whole);
            until_true("the client gets on", || self.is_there() || client.is_finished());
            if client.is_finished() {
                finish(client);
                panic!("the client did not wait for its takeovers");
            }
            take_over(proxy, &before, death);
            self.goal.store(self.done() + self.stride, SeqCst);
        }
        self.is_last.store(true, SeqCst);
        until_true("the client is done", || client.is_finished());
        finish(client);
        assert_carried_on(proxy, protocol);
    }
}

/// A client that failed makes the test fail with it.
fn finish(client: JoinHandle<()>) {
    if let Err(panic) = client.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The pool that carries the client dies; waits until the other one has taken over.
#[track_caller]
fn take_over(proxy: &Proxy, before: &Status, death: Signal) {
    // The first status may be from before the client began. The primary, which is listed first, gets it.
    let pool = before.pools.iter().rev().max_by_key(|pool| flows(pool)).expect("two pools");
    signal(pool.pid.expect("a process"), death);
    proxy.until_status("taken over", |s| {
        s.whole() && s.pool(&pool.seat).epoch > pool.epoch && s.takeovers > before.takeovers
    });
}

fn flows(pool: &Pool) -> u64 {
    pool.connections + pool.udp_flows
}

#[track_caller]
fn assert_carried_on(proxy: &Proxy, protocol: &str) {
    let metrics = proxy.metrics();
    let adopted = metrics.show("proxy_adopted_flows_total");
    println!("{adopted}");
    assert!(metrics.sum("proxy_takeovers_total", &[]) >= TAKEOVERS as f64, "{metrics:?}");
    let flows = metrics.sum("proxy_adopted_flows_total", &[("protocol", protocol)]);
    assert!(flows >= TAKEOVERS as f64, "{adopted}");
    for nothing in ["proxy_lost_flows_total", "proxy_takeover_audit_mismatches_total"] {
        assert_eq!(metrics.sum(nothing, &[]), 0.0, "{}", metrics.show(nothing));
    }
    if protocol == "tcp" {
        for once in ["proxy_listener_connections_total", "proxy_upstream_server_connections_total"] {
            assert_eq!(metrics.sum(once, &[]), 1.0, "nobody connected again: {}", metrics.show(once));
        }
    }
}

/// A stream of limited length that a client reads, a byte a step. It is not read further than a stride
/// ahead, so that six strides suffice.
pub struct Paced<'a, R> {
    /// The stream.
    pub stream: R,
    /// The client's course.
    pub course: &'a Course,
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Course { stride, goal, is_last, .. } = self.course;
        let may_read = || is_last.load(SeqCst) || self.course.done() < goal.load(SeqCst) + stride;
        until_true("the takeover is over", may_read);
        let size = self.stream.read(buffer)?;
        self.course.advance(size as u64);
        Ok(size)
    }
}
