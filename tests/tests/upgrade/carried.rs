//! What is established, in whatever state it is, is carried on by the successor.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy::sys::Fd;
use proxy_tests::clients::{Crowd, Outcome, ask_on, ask_tcp, carries, connect};
use proxy_tests::flows::Flows;
use proxy_tests::handover::{KINDS, hand_over, hand_over_by, reload, upgrade};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, BlackHole, read_all};
use proxy_tests::status::Status;
use proxy_tests::sys::descriptor_of;
use proxy_tests::table::FlowTable;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, STANDBY, pattern};
use socket2::SockRef;

use crate::{LISTEN, SERVER, Scene, assert_nothing_left, pair, proxy, start};

const TIMEOUT: Duration = Duration::from_secs(10);
/// What fills the windows and buffers of both sides of the proxy and its pipe.
const PLENTY: usize = 24 << 20;

/// Bytes in both directions, into windows that are closed: in sockets and pipes when the flows move.
#[test]
fn full_pipes_and_readers_that_do_not_read() {
    for words in KINDS {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let (proxy, baseline) = start(proxy());
        let (client, server) = pair(&accepted);
        let writers = [client.try_clone(), server.try_clone()].map(|stream| {
            let mut stream = stream.expect("clone");
            thread::spawn(move || {
                pattern::write(&mut stream, PLENTY).expect("write");
                stream.shutdown(Shutdown::Write).expect("shutdown");
            })
        });
        proxy.until_metric("proxy_pipes", &[("state", "lent")], 2.0);
        for _ in 0..3 {
            hand_over(&proxy, words);
            proxy.until_metric("proxy_pipes", &[("state", "lent")], 2.0);
        }
        let readers = [client, server].map(|mut stream| thread::spawn(move || pattern::verify(&mut stream)));
        for reader in readers {
            assert_eq!(reader.join().expect("the reader").expect("read"), PLENTY, "{words:?}");
        }
        writers.into_iter().for_each(|writer| writer.join().expect("the writer"));
        assert_nothing_left(&proxy, baseline);
    }
}

#[test]
fn idle_and_half_closed_connections() {
    for words in KINDS {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let (proxy, baseline) = start(proxy());
        let (mut c1, mut s1) = pair(&accepted);
        let (mut asks, mut answers) = pair(&accepted);
        let (mut hears, mut tells) = pair(&accepted);
        asks.shutdown(Shutdown::Write).expect("shutdown");
        tells.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_all(&mut answers).expect("an end"), b"");
        assert_eq!(read_all(&mut hears).expect("an end"), b"");
        hand_over(&proxy, words);
        assert_eq!(proxy.metrics().sum("proxy_listener_connections", &[]), 3.0);
        hand_over(&proxy, words);
        answers.write_all(b"answer").expect("write");
        hears.write_all(b"thanks").expect("write");
        drop((answers, hears));
        assert_eq!(read_all(&mut asks).expect("an end, no reset"), b"answer", "{words:?}");
        assert_eq!(read_all(&mut tells).expect("an end, no reset"), b"thanks", "{words:?}");
        carries(&mut c1, &mut s1);
        carries(&mut s1, &mut c1);
        drop((asks, tells, c1, s1));
        assert_nothing_left(&proxy, baseline);
    }
}

/// Whoever has copies of the descriptors, were it an old process that hangs, keeps no end from a client.
#[test]
fn an_end_waits_for_nobody_who_has_copies() {
    for words in KINDS {
        assert_end_is_passed_on(|proxy| _ = hand_over(proxy, words));
    }
}

/// Does something to a proxy, while another process, this one, gets copies of what it has for its clients; then ends
/// a connection of before.
#[track_caller]
pub fn assert_end_is_passed_on(trouble: impl FnOnce(&Proxy)) {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = proxy().start();
    let (mut client, mut server) = pair(&accepted);
    let numbers = FlowTable::of(&proxy, [2, 2, 1]).clients();
    let copy = |fd: &Fd| descriptor_of(proxy.supervisor(), fd.raw()).expect("a copy");
    let copies: Vec<OwnedFd> = numbers.iter().map(copy).collect();
    assert_eq!(copies.len(), 1);
    trouble(&proxy);
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("an end"), b"");
    server.write_all(b"answer").expect("write");
    drop(server);
    assert_eq!(read_all(&mut client).expect("an end that does not wait for the copies"), b"answer");
}

/// The urgent byte is behind bytes that nobody reads, and its mark goes on with them.
#[test]
fn an_urgent_byte_on_its_way() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = proxy().start();
    let (mut client, mut server) = pair(&accepted);
    SockRef::from(&server).set_out_of_band_inline(true).expect("inline");
    let sent = fill(&mut client);
    // Room for the rest, far behind which the server has stopped to read.
    let mut some = vec![0; sent / 2];
    std::io::Read::read_exact(&mut server, &mut some).expect("read");
    SockRef::from(&client).send_out_of_band(b"!").expect("urgent");
    client.write_all(b"after").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    upgrade(&proxy);
    let rest = read_all(&mut server).expect("an end, no reset");
    let mut right = Vec::new();
    pattern::write(&mut right, sent).expect("write to memory");
    right.drain(..some.len());
    right.extend_from_slice(b"!after");
    assert!(rest == right, "{} bytes, {} expected", rest.len(), right.len());
}

/// Writes of the pattern until nothing more fits for a while. Answers the bytes written.
#[track_caller]
fn fill(stream: &mut TcpStream) -> usize {
    const QUIET: Duration = Duration::from_millis(300);
    stream.set_write_timeout(Some(QUIET)).expect("timeout");
    let mut sent = 0;
    while let Ok(count) = stream.write(pattern::from(sent, 4096)) {
        sent += count;
    }
    stream.set_write_timeout(Some(TIMEOUT)).expect("timeout");
    sent
}

/// The first server answers no SYN; the successor goes on waiting for it, and then tries the other.
#[test]
fn connecting() {
    isolate();
    let hole = BlackHole::start("127.0.0.1:9002");
    let builder = proxy().upstream(&hole.address.to_string());
    let proxy = builder.flag("--connect-timeout", "3s").start();
    // Beginning with a refused server, so that each connection ends up with the hole.
    let mut clients: Vec<_> = (0..4).map(|_| connect(at(LISTEN))).collect();
    proxy.until_metric("proxy_listener_connections", &[], 4.0);
    upgrade(&proxy);
    assert_eq!(proxy.metrics().sum("proxy_listener_connections", &[]), 4.0);
    let _server = servers::Tcp::lines(SERVER, "A");
    // Those that had tried it already are refused in the end, by a reset; nobody is left hanging.
    let ended = clients.iter_mut().map(|client| ask_on(client, "hello")).collect::<Vec<_>>();
    let is_end = |end: &Outcome| matches!(end, Outcome::Answered(_) | Outcome::Reset);
    assert!(ended.iter().all(is_end), "{ended:?}");
}

/// Clients that come without a pause: at each moment of a handover some are in the accept queues, and some
/// half accepted.
#[test]
fn connections_that_nobody_has_accepted_yet() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = proxy().start();
    let crowd = Crowd::start(16, |_| ask_tcp(at(LISTEN), "hello", TIMEOUT));
    for round in 0..6 {
        crowd.wait_answered(50);
        hand_over(&proxy, KINDS[round % 2]);
    }
    crowd.wait_answered(50);
    let tally = crowd.finish();
    assert_eq!(tally.failed(), 0, "{tally:?}");
}

/// The same server's port for a flow's whole life, and no datagram lost.
#[test]
fn udp_flows_keep_their_port() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = proxy().start();
    let flows = Flows::start(at(LISTEN), 32);
    for round in 0..6 {
        flows.wait_answers(20);
        hand_over(&proxy, KINDS[round % 2]);
    }
    flows.wait_answers(20);
    let answers = flows.finish();
    let seen = server.seen();
    assert_eq!((seen.datagrams as u64, seen.peers.len()), (answers, 32), "none doubled, a port each");
}

/// Both pools carry something, and the successor's both do, or its one does.
#[test]
fn what_both_pools_carry() {
    let scene = Scene::start();
    scene.proxy.verb(&["failover"]).says(0, &[]);
    scene.proxy.until_status("the standby serves", |s| s.serves(STANDBY));
    assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
    let both = |s: &Status| s.pools.iter().map(|pool| pool.connections).sum::<u64>();
    let before = both(&scene.proxy.status());
    assert!(before >= 9, "{before}");
    upgrade(&scene.proxy);
    until_true("as many as before", || both(&scene.proxy.status()) == 9);
    scene.goes_on();
    // It is a whole proxy: it takes over, its supervisor has a twin, and it hands over again.
    let status = scene.proxy.until_status("protected", Status::protected);
    let seat = if status.pool(PRIMARY).connections > 0 { PRIMARY } else { STANDBY };
    proxy_tests::takeover::take_over(&scene.proxy, seat, Signal::SIGKILL);
    scene.goes_on();
    let status = scene.proxy.until_status("protected", Status::protected);
    proxy_tests::process::signal(status.supervisor.pid, Signal::SIGKILL);
    let succeeded = |s: &Status| s.protected() && s.supervisor.pid != status.supervisor.pid;
    scene.proxy.until_status("the twin has taken its place", succeeded);
    scene.goes_on();
    reload(&scene.proxy);
    scene.goes_on();
    scene.proxy.until_status("protected", Status::protected);
    scene.finish();
}

/// SIGUSR2 upgrades, SIGHUP reloads; the process that was started ends with 0.
#[test]
fn by_signals() {
    let scene = Scene::start();
    hand_over_by(&scene.proxy, Signal::SIGUSR2, "upgrade");
    assert_eq!(scene.proxy.wait_end().code(), Some(0));
    scene.goes_on();
    hand_over_by(&scene.proxy, Signal::SIGHUP, "reload");
    scene.goes_on();
    scene.finish();
}
