//! False alarms: healthy pools that are late because the machine is. They are passed by and come
//! back, and nobody is killed: no pool, no connection. A pool that does hang under the same load is
//! fenced all the same. Lease and `--fence-after` are the defaults.

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proxy_tests::cgroup::Throttle;
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{Guard, signal};
use proxy_tests::proxy::Proxy;
use proxy_tests::status::Status;
use proxy_tests::traffic::Traffic;
use proxy_tests::wait::{stays_true, until_true};
use proxy_tests::{PRIMARY, STANDBY, servers, sys};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const LEASE: Duration = Duration::from_millis(100);
const FENCE_AFTER: Duration = Duration::from_millis(800);
const CONNECTIONS: usize = 10;

/// What makes the machine late for one test would for the others: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy that carries verified traffic, and what it was like before the trouble began.
struct Scene {
    _server: servers::Tcp,
    traffic: Traffic,
    before: Status,
    failovers: f64,
    began: Instant,
    proxy: Proxy,
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        isolate();
        let server = servers::Tcp::echo(SERVER);
        let builder = Proxy::builder().listen("tcp://127.0.0.1:8080").upstream(SERVER);
        let builder = builder.flag("--workers", "2").flag("--lease", "100ms").flag("--fence-after", "800ms");
        let proxy = builder.start();
        let traffic = Traffic::start(at(LISTEN), CONNECTIONS);
        traffic.wait_rounds(20);
        let before = proxy.until_status("both pools are ready", Status::whole);
        let failovers = proxy.metrics().sum("proxy_failovers_total", &[]);
        Self { _server: server, traffic, before, failovers, began: Instant::now(), proxy }
    }

    /// Supervisor, both pools, control.
    fn processes(&self) -> [i32; 4] {
        let pools = [PRIMARY, STANDBY].map(|seat| self.before.pid(seat));
        [self.proxy.supervisor(), pools[0], pools[1], self.before.control.pid]
    }

    /// Nobody died, no connection was lost, and traffic did not go to and fro faster than it may: a
    /// pool counts one failover at most until it has been well for a lease.
    #[track_caller]
    fn assert_unharmed(self) {
        let after = self.proxy.until_status("both pools are ready", Status::whole);
        for seat in [PRIMARY, STANDBY] {
            let [was, is] = [&self.before, &after].map(|status| (status.pid(seat), status.pool(seat).epoch));
            assert_eq!(was, is, "the {seat} was replaced");
        }
        self.traffic.wait_rounds(20);
        let metrics = self.proxy.metrics();
        for name in ["proxy_takeovers_total", "proxy_lost_flows_total"] {
            assert_eq!(metrics.sum(name, &[]), 0.0, "{}", metrics.show(name));
        }
        let failovers = metrics.sum("proxy_failovers_total", &[]) - self.failovers;
        let most = 1.0 + (self.began.elapsed().as_secs_f64() / LEASE.as_secs_f64()).floor();
        println!("{failovers} failovers in {:.1?}, at most {most}", self.began.elapsed());
        assert!(failovers <= most, "{failovers} failovers in {:.1?}", self.began.elapsed());
        self.traffic.finish();
    }

    /// The primary hangs: it is replaced, and what it carried goes on.
    #[track_caller]
    fn assert_hang_is_fenced(self) {
        signal(self.before.pid(PRIMARY), Signal::SIGSTOP);
        let after = self.proxy.until_status("the hung pool is replaced", |status| {
            status.pool(PRIMARY).epoch > self.before.pool(PRIMARY).epoch
        });
        assert_eq!(after.pid(STANDBY), self.before.pid(STANDBY), "the healthy pool lives on");
        self.traffic.wait_rounds(5);
        assert_eq!(self.proxy.metrics().sum("proxy_lost_flows_total", &[]), 0.0);
        self.traffic.finish();
    }
}

/// In this order.
#[track_caller]
fn send(processes: &[i32], what: Signal) {
    processes.iter().for_each(|pid| signal(*pid, what));
}

/// All processes of the proxy share 5 ms in 100: about what they need to be alive.
fn throttle(scene: &Scene) -> Throttle {
    let group = Throttle::new(5_000, 100_000);
    scene.processes().iter().for_each(|pid| group.add(*pid));
    group
}

#[test]
fn a_throttled_proxy_is_no_hung_one() {
    let _alone = alone();
    let scene = Scene::set();
    let group = throttle(&scene);
    until_true("the group was throttled for five seconds", || group.throttled() >= 50);
    drop(group);
    scene.assert_unharmed();
}

#[test]
fn a_throttled_pool_is_no_hung_one() {
    let _alone = alone();
    let scene = Scene::set();
    let group = Throttle::new(5_000, 100_000);
    group.add(scene.before.pid(PRIMARY));
    until_true("the group was throttled for five seconds", || group.throttled() >= 50);
    drop(group);
    scene.assert_unharmed();
}

#[test]
fn a_hang_of_a_throttled_pool_is_fenced() {
    let _alone = alone();
    let scene = Scene::set();
    let group = throttle(&scene);
    until_true("the group is throttled", || group.throttled() >= 5);
    scene.assert_hang_is_fenced();
    assert!(group.throttled() >= 5);
}

/// Busy processes of a higher priority, twice as many as there are processors.
fn spinners() -> Vec<Guard> {
    let cores = thread::available_parallelism().expect("processors").get();
    let start = |_| {
        let mut command = Command::new("nice");
        command.args(["-n", "-10", "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        sys::die_with_thread(&mut command);
        Guard(command.spawn().expect("start nice"))
    };
    (0..2 * cores).map(start).collect()
}

#[test]
fn a_busy_machine_is_no_hung_pool() {
    let _alone = alone();
    let scene = Scene::set();
    let busy = spinners();
    thread::sleep(4 * FENCE_AFTER);
    drop(busy);
    scene.assert_unharmed();
}

#[test]
fn a_hang_on_a_busy_machine_is_fenced() {
    let _alone = alone();
    let scene = Scene::set();
    let busy = spinners();
    scene.assert_hang_is_fenced();
    drop(busy);
}

/// The machine is stopped as a whole, as virtual machines are, and its processes do not all wake at once.
#[test]
fn a_stopped_machine_kills_nobody() {
    const MOMENT: Duration = Duration::from_millis(300);
    let _alone = alone();
    let scene = Scene::set();
    let [supervisor, primary, standby, control] = scene.processes();
    let orders: [[&[i32]; 2]; 3] = [
        [&[supervisor, primary, standby, control], &[]],
        [&[supervisor], &[primary, standby, control]],
        [&[primary, standby, control], &[supervisor]],
    ];
    for wake in orders {
        for stop in orders {
            send(stop[0], Signal::SIGSTOP);
            if !stop[1].is_empty() {
                thread::sleep(MOMENT);
            }
            send(stop[1], Signal::SIGSTOP);
            thread::sleep(FENCE_AFTER + MOMENT);
            send(wake[0], Signal::SIGCONT);
            if !wake[1].is_empty() {
                thread::sleep(MOMENT);
            }
            send(wake[1], Signal::SIGCONT);
            scene.proxy.until_status("both pools are ready", Status::whole);
        }
    }
    let is_same = || {
        let status = scene.proxy.status();
        [PRIMARY, STANDBY].map(|seat| status.pool(seat).pid) == [Some(primary), Some(standby)]
    };
    stays_true("the pools live on", FENCE_AFTER + MOMENT, is_same);
    scene.assert_unharmed();
}

/// Pools that the supervisor has seen silent are not killed for the time that it was stopped itself.
#[test]
fn a_supervisor_that_was_stopped_has_seen_nothing() {
    let _alone = alone();
    let scene = Scene::set();
    let [supervisor, primary, ..] = scene.processes();
    signal(primary, Signal::SIGSTOP);
    scene.proxy.until_status("the primary is suspect", |s| s.pool(PRIMARY).state == "suspect");
    signal(supervisor, Signal::SIGSTOP);
    thread::sleep(2 * FENCE_AFTER);
    send(&[supervisor, primary], Signal::SIGCONT);
    scene.proxy.until_status("it saw it heal", |s| s.pool(PRIMARY).state == "ready");
    scene.assert_unharmed();
}

/// Both pools hang. One is replaced first, and the other one, which is left alone meanwhile, is next:
/// whatever they carry, there is somebody to adopt it.
#[test]
fn two_hung_pools_are_replaced_one_after_the_other() {
    let _alone = alone();
    let scene = Scene::set();
    send(&[scene.before.pid(STANDBY), scene.before.pid(PRIMARY)], Signal::SIGSTOP);
    let after = scene.proxy.until_status("both are replaced", |status| {
        status.whole() && [PRIMARY, STANDBY].iter().all(|s| status.pool(s).pid != scene.before.pool(s).pid)
    });
    let [second, first] = &after.recent_takeovers[..] else { panic!("two: {after:?}") };
    assert_ne!(first.seat, second.seat, "{after:?}");
    // The first one's seat was filled again before the second one died.
    let apart_ms = (first.seconds_ago - second.seconds_ago) * 1000.0;
    assert!(first.stages_ms["reseat"] <= apart_ms, "{apart_ms} ms: {after:?}");
    let adopted: u64 = [first, second].iter().flat_map(|t| t.adopted.values()).flat_map(|t| t.values()).sum();
    assert!(adopted >= CONNECTIONS as u64 && first.lost.is_empty() && second.lost.is_empty(), "{after:?}");
    scene.traffic.wait_rounds(20);
    scene.traffic.finish();
}
