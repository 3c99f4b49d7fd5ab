//! Established connections go on when the pool that carries them is killed or hangs. Each
//! test sees in the metrics that a takeover happened, and that nothing was lost in it.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{self, Outcome, Udp, ask_on, carries, connect, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, BlackHole, read_all, reset};
use proxy_tests::status::Status;
use proxy_tests::takeover::{self, descriptors, take_over, wait_taken_over};
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, STANDBY, pattern};
use socket2::SockRef;

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(5);
/// What fills the windows and buffers of both sides of the proxy and its pipe.
const PLENTY: usize = 24 << 20;
const DEATHS: [Signal; 2] = [Signal::SIGKILL, Signal::SIGSTOP];

fn tcp_proxy() -> Builder {
    let builder = Proxy::builder().listen("tcp://127.0.0.1:8080").upstream(SERVER);
    builder.flag("--workers", "2").flag("--failback-after", "never").flag("--fence-after", "400ms")
}

/// Both ends of a connection through the proxy that has carried something both ways.
#[track_caller]
fn pair(accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    clients::pair(at(LISTEN), accepted)
}

/// So many flows of this kind were adopted, and none lost.
#[track_caller]
fn assert_adopted(proxy: &Proxy, protocol: &str, state: &str, at_least: f64) {
    takeover::assert_adopted(proxy, &[("protocol", protocol), ("state", state)], at_least);
}

/// What is open comes back to what was open before there was a connection.
#[track_caller]
fn assert_nothing_left(proxy: &Proxy, baseline: usize) {
    let gauges =
        ["proxy_listener_connections", "proxy_pool_connections", "proxy_upstream_server_connections"];
    until_true("the gauges are at 0", || {
        let metrics = proxy.metrics();
        let lent = metrics.sum("proxy_pipes", &[("state", "lent")]);
        lent == 0.0 && gauges.iter().all(|name| metrics.sum(name, &[]) == 0.0)
    });
    until_true("the descriptors are those of the beginning", || descriptors(proxy) == baseline);
}

/// Bytes in both directions, into windows that close: in sockets, pipes and on the way at the death.
#[test]
fn bytes_in_flight_arrive_once_and_in_order() {
    for death in DEATHS {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let proxy = tcp_proxy().start();
        let baseline = descriptors(&proxy);
        let (client, server) = pair(&accepted);
        let writers = [client.try_clone(), server.try_clone()].map(|stream| {
            let mut stream = stream.expect("clone");
            thread::spawn(move || {
                pattern::write(&mut stream, PLENTY).expect("write");
                stream.shutdown(Shutdown::Write).expect("shutdown");
            })
        });
        proxy.until_metric("proxy_pipes", &[("state", "lent")], 2.0);
        take_over(&proxy, PRIMARY, death);
        assert_adopted(&proxy, "tcp", "busy", 1.0);
        let readers = [client, server].map(|mut stream| thread::spawn(move || pattern::verify(&mut stream)));
        for reader in readers {
            assert_eq!(reader.join().expect("the reader").expect("read"), PLENTY, "{death}");
        }
        writers.into_iter().for_each(|writer| writer.join().expect("the writer"));
        assert_nothing_left(&proxy, baseline);
    }
}

#[test]
fn half_closed_connections_finish() {
    for death in DEATHS {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let proxy = tcp_proxy().start();
        let baseline = descriptors(&proxy);
        let (mut asks, mut answers) = pair(&accepted);
        let (mut hears, mut tells) = pair(&accepted);
        asks.shutdown(Shutdown::Write).expect("shutdown");
        tells.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_all(&mut answers).expect("an end"), b"");
        assert_eq!(read_all(&mut hears).expect("an end"), b"");
        take_over(&proxy, PRIMARY, death);
        assert_adopted(&proxy, "tcp", "busy", 2.0);
        answers.write_all(b"answer").expect("write");
        hears.write_all(b"thanks").expect("write");
        drop((answers, hears));
        assert_eq!(read_all(&mut asks).expect("an end, no reset"), b"answer", "{death}");
        assert_eq!(read_all(&mut tells).expect("an end, no reset"), b"thanks", "{death}");
        assert_nothing_left(&proxy, baseline);
    }
}

/// Ends and resets that come while nobody relays stay what they are.
#[test]
fn ends_stay_ends_and_resets_stay_resets() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().flag("--lease", "200ms").start();
    let baseline = descriptors(&proxy);
    let (mut c1, mut s1) = pair(&accepted);
    let (c2, mut s2) = pair(&accepted);
    let (mut c3, s3) = pair(&accepted);
    let (mut c4, mut s4) = pair(&accepted);
    let before = proxy.status();
    signal(before.pid(PRIMARY), Signal::SIGSTOP);
    c1.write_all(b"last").expect("write");
    c1.shutdown(Shutdown::Write).expect("shutdown");
    reset(c2).expect("reset");
    reset(s3).expect("reset");
    s4.write_all(b"last").expect("write");
    s4.shutdown(Shutdown::Write).expect("shutdown");
    wait_taken_over(&proxy, PRIMARY, &before);
    assert_adopted(&proxy, "tcp", "idle", 1.0);
    assert_eq!(read_all(&mut s1).expect("an end, no reset"), b"last");
    assert_eq!(read_all(&mut s2).expect_err("no end").kind(), ErrorKind::ConnectionReset);
    assert_eq!(read_all(&mut c3).expect_err("no end").kind(), ErrorKind::ConnectionReset);
    assert_eq!(read_all(&mut c4).expect("an end, no reset"), b"last");
    carries(&mut s1, &mut c1);
    carries(&mut c4, &mut s4);
    drop((c1, s1, c4, s4));
    assert_nothing_left(&proxy, baseline);
}

#[test]
fn urgent_byte_waits_for_the_next_pool() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().start();
    let (mut client, mut server) = pair(&accepted);
    SockRef::from(&server).set_out_of_band_inline(true).expect("inline");
    let before = proxy.status();
    signal(before.pid(PRIMARY), Signal::SIGSTOP);
    client.write_all(b"before").expect("write");
    SockRef::from(&client).send_out_of_band(b"!").expect("urgent");
    client.write_all(b"after").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    wait_taken_over(&proxy, PRIMARY, &before);
    assert_eq!(read_all(&mut server).expect("read"), b"before!after");
    assert_adopted(&proxy, "tcp", "idle", 1.0);
}

/// The first server answers no SYN; the next pool goes on waiting for it, and then tries the other.
#[test]
fn connecting_goes_on() {
    isolate();
    let hole = BlackHole::start("127.0.0.1:9002");
    let builder = tcp_proxy().upstream(&hole.address.to_string());
    let proxy = builder.flag("--connect-timeout", "3s").start();
    // Beginning with a refused server, so that each connection ends up with the hole.
    let mut clients: Vec<_> = (0..4).map(|_| connect(at(LISTEN))).collect();
    proxy.until_metric("proxy_listener_connections", &[], 4.0);
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    assert_adopted(&proxy, "tcp", "connecting", 1.0);
    let _server = servers::Tcp::lines(SERVER, "A");
    // Those that had tried it already are refused in the end, by a reset; nobody is left hanging.
    let ended = clients.iter_mut().map(|client| ask_on(client, "hello")).collect::<Vec<_>>();
    let is_end = |end: &Outcome| matches!(end, Outcome::Answered(_) | Outcome::Reset);
    assert!(ended.iter().all(is_end), "{ended:?}");
}

#[test]
fn idle_connections_go_on_through_twenty_takeovers() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().start();
    let baseline = descriptors(&proxy);
    let mut pairs: Vec<_> = (0..5).map(|_| pair(&accepted)).collect();
    for round in 0..20 {
        take_over(&proxy, [PRIMARY, STANDBY][round % 2], Signal::SIGKILL);
        // One of them says nothing until the end.
        for (client, server) in &mut pairs[1..] {
            carries(client, server);
            carries(server, client);
        }
    }
    let (client, server) = &mut pairs[0];
    carries(client, server);
    carries(server, client);
    assert_adopted(&proxy, "tcp", "idle", 100.0);
    assert_eq!(proxy.status().takeovers, 20);
    drop(pairs);
    assert_nothing_left(&proxy, baseline);
}

#[test]
fn both_pools_at_once_and_the_heir_right_after() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().start();
    let baseline = descriptors(&proxy);
    let mut pairs: Vec<_> = (0..20).map(|_| pair(&accepted)).collect();
    for wait_ms in [0, 0, 1, 2, 5, 10, 15, 20] {
        let before = proxy.until_status("whole", Status::whole);
        signal(before.pid(PRIMARY), Signal::SIGKILL);
        thread::sleep(Duration::from_millis(wait_ms));
        signal(before.pid(STANDBY), Signal::SIGKILL);
        wait_taken_over(&proxy, PRIMARY, &before);
        wait_taken_over(&proxy, STANDBY, &before);
        for (client, server) in &mut pairs {
            carries(client, server);
            carries(server, client);
        }
    }
    // Idle or busy: with registrations in two sets (it died while moving them) an event may come twice, and
    // the death in the empty turn that the second one gets.
    takeover::assert_adopted(&proxy, &[("protocol", "tcp")], 160.0);
    drop(pairs);
    assert_nothing_left(&proxy, baseline);
}

/// After a failback both pools have connections.
#[test]
fn both_pools_carry_and_one_dies() {
    for seat in [PRIMARY, STANDBY] {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let proxy = tcp_proxy().start();
        let (mut c1, mut s1) = pair(&accepted);
        proxy.verb(&["failover"]).says(0, &[]);
        proxy.until_status("the standby serves", |s| s.serves(STANDBY));
        let (mut c2, mut s2) = pair(&accepted);
        let before = proxy.until_status("both carry one", |s| s.pools.iter().all(|p| p.connections == 1));
        take_over(&proxy, seat, Signal::SIGKILL);
        carries(&mut c1, &mut s1);
        carries(&mut s2, &mut c2);
        assert_adopted(&proxy, "tcp", "idle", 1.0);
        let other = if seat == PRIMARY { STANDBY } else { PRIMARY };
        let after = proxy.until_status("one carries both", |s| s.pool(other).connections == 2);
        assert_eq!(after.pid(other), before.pid(other));
    }
}

/// `status` tells of each of the last takeovers what the metrics tell of all together.
#[test]
fn each_takeover_is_told() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _datagrams = servers::Udp::naming(SERVER, "A");
    let proxy = tcp_proxy().listen("udp://127.0.0.1:8080").start();
    assert!(proxy.status().recent_takeovers.is_empty());
    let mut pairs: Vec<_> = (0..5).map(|_| pair(&accepted)).collect();
    let _flow = ask_one_flow();
    let epochs = [PRIMARY, STANDBY].map(|seat| proxy.status().pool(seat).epoch);
    take_over(&proxy, PRIMARY, Signal::SIGSTOP);
    take_over(&proxy, STANDBY, Signal::SIGABRT);
    let all = proxy.until_status("both are told", |s| {
        s.recent_takeovers.len() == 2 && s.recent_takeovers.iter().all(|t| t.ending.is_some())
    });
    let [aborted, hung] = &all.recent_takeovers[..] else { panic!("two: {all:?}") };
    assert_eq!((aborted.number, hung.number), (2, 1));
    assert_eq!((aborted.seat.as_str(), aborted.epoch), (STANDBY, epochs[1]));
    assert_eq!((hung.seat.as_str(), hung.epoch), (PRIMARY, epochs[0]));
    let deaths = [aborted, hung].map(|t| (t.reason.as_str(), t.ending.as_deref()));
    assert_eq!(deaths, [("killed", Some("signal 6")), ("hung", Some("signal 9"))]);
    for takeover in [aborted, hung] {
        let stages: Vec<_> = takeover.stages_ms.keys().map(String::as_str).collect();
        let fence: &[_] = if takeover.number == 1 { &["fence"] } else { &[] };
        assert_eq!(stages, [&["adopt"][..], fence, &["queues", "reseat", "sweep"]].concat(), "{takeover:?}");
        assert!(takeover.seconds_ago > 0.0 && takeover.time.ends_with('Z'), "{takeover:?}");
        // Idle or busy: a pipe may be given back only after the last byte was seen.
        let tcp: u64 = takeover.adopted["tcp"].values().sum();
        assert_eq!((tcp, takeover.adopted["udp"]["established"]), (5, 1), "{takeover:?}");
        assert!(takeover.lost.is_empty(), "{takeover:?}");
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_adopted_flows_total", &[]), 12.0);
    for (stage, times) in [("fence", 1.0), ("queues", 2.0), ("adopt", 2.0), ("sweep", 2.0), ("reseat", 2.0)] {
        let name = "proxy_takeover_duration_seconds_count";
        assert_eq!(metrics.sum(name, &[("stage", stage)]), times, "{stage}");
    }
    proxy.verb(&["status"]).says(0, &["TAKEN OVER", "hung, signal 9", "killed, signal 6", "udp established"]);
    until_true("both are logged", || proxy.log().matches("taken over").count() == 2);
    for (client, server) in &mut pairs {
        carries(client, server);
    }
}

fn ask_one_flow() -> Udp {
    let client = udp(at(LISTEN));
    assert!(client.ask("hello", TIMEOUT).answered());
    client
}
