//! The proxy as a service: what the service manager is told.

use nix::sys::signal::Signal;
use proxy_tests::clients::{Outcome, ask_on, connect};
use proxy_tests::manager::{LISTEN, Manager, SERVER, WATCHDOG};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{alive, signal};
use proxy_tests::status::Status;
use proxy_tests::wait::{stays_true, until_true};
use proxy_tests::{PRIMARY, STANDBY, servers};

#[test]
fn manager_is_told_when_both_pools_are_ready_and_how_it_goes_on() {
    isolate();
    let manager = Manager::start();
    // Silence is noticed soon and nobody is killed for it.
    let proxy = manager.proxy().flag("--lease", "500ms").flag("--fence-after", "60s").start();
    let ready = manager.wait(0, "READY=1");
    let all = manager.all();
    assert!(all[0].contains("STATUS=not serving: the primary is"), "{all:?}");
    assert!(all[ready].contains("STATUS=the primary serves, the standby is ready\n"), "{all:?}");

    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let degraded = manager.wait(ready + 1, "STATUS=degraded: the primary is suspect, the standby is ready");
    signal(primary, Signal::SIGCONT);
    let whole = manager.wait(degraded + 1, "STATUS=the primary serves, the standby is ready");
    proxy.verb(&["failover"]).says(0, &[]);
    manager.wait(whole + 1, "STATUS=the standby serves, the primary is ready");
    assert_eq!(manager.count("READY=1"), 1, "{:?}", manager.all());
}

#[test]
fn signs_of_life_come_from_the_supervisors_own_loop() {
    isolate();
    let manager = Manager::start();
    let proxy = manager.proxy().start();
    let first = manager.wait(0, "WATCHDOG=1");
    manager.wait(first + 1, "WATCHDOG=1");

    proxy.signal_supervisor(Signal::SIGSTOP);
    let before = manager.wait(0, "WATCHDOG=1").max(manager.all().len());
    // Shorter than the twin's patience.
    stays_true("no sign of life from a supervisor that hangs", WATCHDOG * 3, || {
        // What was under way when it was stopped.
        manager.all().len() <= before + 1
    });
    let stopped = manager.all().len();
    proxy.signal_supervisor(Signal::SIGCONT);
    manager.wait(stopped, "WATCHDOG=1");
}

#[test]
fn manager_follows_the_twin_that_takes_a_dead_supervisors_place() {
    isolate();
    let manager = Manager::start();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = manager.proxy().start();
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());
    let before = proxy.until_status("protected", Status::protected);
    let twin = before.supervisor.twin_pid.expect("a twin");
    assert_eq!(manager.count(&format!("MAINPID={twin}")), 0);
    let seen = manager.all().len();

    signal(before.supervisor.pid, Signal::SIGKILL);
    let told = manager.wait(seen, &format!("MAINPID={twin}"));
    manager.wait(told + 1, "STATUS=the primary serves, the standby is ready");
    let alive = manager.wait(told + 1, "WATCHDOG=1");
    manager.wait(alive + 1, "WATCHDOG=1");
    let after = proxy.until_status("protected again", Status::protected);
    assert_eq!(after.supervisor.pid, twin);
    assert_eq!(ask_on(&mut stream, "after"), Outcome::Answered("A after".into()));
}

#[test]
fn manager_follows_a_handover_and_is_told_when_it_came_to_nothing() {
    isolate();
    let manager = Manager::start();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = manager.proxy().flag("--lease", "500ms").flag("--fence-after", "60s").start();
    let ready = manager.wait(0, "READY=1");
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());

    // While a pool is silent the successor waits; so it can be killed before it takes over.
    let standby = proxy.signal(STANDBY, Signal::SIGSTOP);
    let suspect = manager.wait(ready + 1, "STATUS=degraded: the primary serves, the standby is suspect");
    let reload = proxy.verb_command(&["reload"]).spawn().expect("proxy reload");
    let reloading = manager.wait(suspect + 1, "RELOADING=1");
    let message = manager.all()[reloading].clone();
    assert!(message.contains("MONOTONIC_USEC=") && message.contains("a successor gets ready"), "{message}");
    let log = proxy.log();
    let (_, pid) = log.rsplit_once(r#""kind":"reload","pid":"#).expect("the successor is logged");
    signal(pid[..pid.find(',').expect("more")].parse().expect("a number"), Signal::SIGKILL);
    let again = manager.wait(reloading + 1, "READY=1");
    assert_eq!(reload.wait_with_output().expect("proxy reload").status.code(), Some(1));
    assert_eq!(manager.count("READY=1"), 2, "{:?}", manager.all());
    signal(standby, Signal::SIGCONT);
    manager.wait(again + 1, "STATUS=the primary serves, the standby is ready");

    let old = proxy.status().supervisor.pid;
    proxy.verb(&["reload"]).says(0, &["reloaded"]);
    let new = proxy.status().supervisor.pid;
    assert_ne!(old, new);
    let reloading = manager.wait(again + 1, "RELOADING=1");
    let main = manager.wait(reloading + 1, &format!("MAINPID={new}"));
    let whole = manager.wait(main, "READY=1");
    assert!(manager.all()[whole].contains("STATUS=the primary serves"), "{:?}", manager.all());
    // The successor's, for the old one has ended: not the process that the variable named, and it is watched.
    until_true("the old supervisor has ended", || !alive(old));
    let seen = manager.all().len();
    let sign = manager.wait(seen, "WATCHDOG=1");
    manager.wait(sign + 1, "WATCHDOG=1");
    for word in ["STOPPING=", "EXTEND_TIMEOUT_USEC="] {
        assert!(!manager.all().iter().any(|message| message.contains(word)), "{:?}", manager.all());
    }
    assert_eq!(ask_on(&mut stream, "after"), Outcome::Answered("A after".into()));
}

/// Else a manager that sees the main process end before the successor has told of itself would be right to
/// think the service over.
#[test]
fn main_process_names_its_successor_before_it_ends() {
    isolate();
    let manager = Manager::start();
    let proxy = manager.proxy().start();
    manager.wait(0, "READY=1");
    proxy.verb(&["reload"]).says(0, &[]);
    let new = proxy.status().supervisor.pid;
    let named = || {
        let all = manager.all();
        // Alone: from the old one, and from the successor; the successor's next word has it too.
        all.iter().filter(|message| **message == format!("MAINPID={new}\n")).count()
    };
    until_true("both have told", || named() == 2);
}

#[test]
fn manager_is_told_when_it_stops_and_gives_the_drain_its_time() {
    isolate();
    let manager = Manager::start();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = manager.proxy().flag("--drain-timeout", "20s").start();
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());
    assert_eq!(manager.count("STOPPING=1"), 0);

    let mut stop = proxy.verb_command(&["stop"]).spawn().expect("proxy stop");
    let stopping = manager.wait(0, "STOPPING=1");
    let message = manager.all()[stopping].clone();
    // The drain's 20 s, and 10 s to clean up.
    assert!(message.contains("EXTEND_TIMEOUT_USEC=30000000\n"), "{message}");
    // It still serves what is open, and gives signs of life meanwhile.
    manager.wait(stopping + 1, "WATCHDOG=1");
    assert_eq!(ask_on(&mut stream, "while"), Outcome::Answered("A while".into()));
    drop(stream);
    assert_eq!(proxy.wait_end().code(), Some(0));
    stop.wait().expect("proxy stop");
    assert_eq!(manager.count("STOPPING=1"), 1, "{:?}", manager.all());
}

#[test]
fn stop_now_is_told_too() {
    isolate();
    let manager = Manager::start();
    let proxy = manager.proxy().start();
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    assert_eq!(proxy.wait_end().code(), Some(0));
    manager.wait(0, "STOPPING=1");
}

/// The manager may go, or not be there: a warning, and nothing else.
#[test]
fn manager_that_is_not_there_is_no_reason_to_fail() {
    isolate();
    let manager = Manager::start();
    let path = manager.directory.path().join("nobody");
    let builder = manager.proxy().env("NOTIFY_SOCKET", path.to_str().expect("text"));
    let proxy = builder.start();
    until_true("it is logged", || proxy.log().contains("the service manager cannot be told"));
    assert_eq!(proxy.log().matches("the service manager cannot be told").count(), 1, "once");
    assert!(proxy.status().whole());
}
