//! What the TCP relay carries: bytes, half-closes, resets, urgent data; and its limits.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_on, ask_tcp, connect};
use proxy_tests::net::{SECOND_IPV6, at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE, read_all, reset};
use proxy_tests::sys::descriptor_of;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, pattern};
use socket2::SockRef;

const LISTEN: &str = "127.0.0.1:8080";
const LISTENER: &str = "tcp://127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(2);

fn tcp_proxy() -> Builder {
    Proxy::builder().listen(LISTENER).upstream(SERVER).flag("--workers", "2")
}

/// Both ends of a connection through the proxy: the client's and the server's.
#[track_caller]
fn pair(accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let client = connect(at(LISTEN));
    let server = accepted.recv_timeout(PATIENCE).expect("the proxy connects to the server");
    (client, server)
}

/// What `ss` says of this machine's sockets of an address, their own or their peer's.
#[track_caller]
fn sockets_of(place: &str, address: &str) -> String {
    let output = Command::new("ss").args(["-tinHO", "state", "established", place, address]).output();
    String::from_utf8(output.expect("ss, of Debian's iproute2").stdout).expect("text")
}

/// Writes to a reader that does not read, until that is so. Answers how much.
fn write_until_paused(mut writer: &TcpStream, is_paused: impl Fn() -> bool) -> usize {
    let mut written = 0;
    writer.set_nonblocking(true).expect("non-blocking");
    until_true("it is not asked", || {
        written += writer.write(&[b'x'; 64 << 10]).unwrap_or(0);
        is_paused()
    });
    writer.set_nonblocking(false).expect("blocking");
    written
}

/// Sockets of connections of which no epoll set of the proxy's wants to be told that they have bytes (proc(5),
/// fdinfo).
fn asked_for_no_bytes(proxy: &Proxy) -> usize {
    let directory = fs::read_dir(format!("/proc/{}/fdinfo", proxy.supervisor())).expect("descriptors");
    let told = directory.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let is_paused = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "events:").skip(1);
        let events = words.next().and_then(|mask| u32::from_str_radix(mask, 16).ok()).unwrap_or(0);
        events & libc::EPOLLRDHUP as u32 != 0 && events & libc::EPOLLIN as u32 == 0
    };
    told.map(|info| info.lines().filter(|line| line.starts_with("tfd:") && is_paused(line)).count()).sum()
}

/// BBR paces by timers what it sends, also where there is no network.
#[test]
fn at_loopback_addresses_nothing_is_paced() {
    for (congestion, expected) in [("auto", "reno"), ("system", "bbr")] {
        isolate();
        if fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "bbr").is_err() {
            return eprintln!("skipped: this kernel has no BBR");
        }
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let settings = format!(
            "[defaults]\ncongestion = {congestion:?}\n[[listener]]\nname = \"l\"\nbind = [{LISTENER:?}]\nupstream = \"u\"\n\
             [[upstream.u.server]]\naddress = {SERVER:?}\n"
        );
        let _proxy = Proxy::builder().settings(&settings).start();
        let _ends = pair(&accepted);
        for (place, address) in [("src", LISTEN), ("dst", SERVER)] {
            let sockets = sockets_of(place, address);
            assert!(sockets.contains(&format!(" {expected} ")), "{congestion}: {sockets}");
        }
    }
}

#[test]
fn client_closes_its_half_first() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (mut client, mut server) = pair(&accepted);
    client.write_all(b"question").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("read"), b"question");
    // The end of the question is not the end of the answer.
    server.write_all(b"answer").expect("write");
    drop(server);
    assert_eq!(read_all(&mut client).expect("read"), b"answer");
}

#[test]
fn server_closes_its_half_first() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (mut client, mut server) = pair(&accepted);
    server.write_all(b"greeting").expect("write");
    server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut client).expect("read"), b"greeting");
    for part in [b"first,", b"second"] as [&[u8]; 2] {
        client.write_all(part).expect("write");
    }
    drop(client);
    assert_eq!(read_all(&mut server).expect("read"), b"first,second");
}

#[test]
fn server_speaks_first() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (mut client, mut server) = pair(&accepted);
    server.write_all(b"220 hello\r\n").expect("write");
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).expect("read");
    assert_eq!(&greeting, b"220 hello\r\n");
}

/// Whether the proxy's end of a server's connection sends small writes at once.
#[track_caller]
fn is_prompt(proxy: &Proxy, server: &TcpStream) -> bool {
    let pid = proxy.pid(PRIMARY);
    let ends = |socket: &TcpStream| (socket.local_addr().ok(), socket.peer_addr().ok());
    let (at, from) = ends(server);
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut sockets = numbers.filter_map(|number| Some(TcpStream::from(descriptor_of(pid, number).ok()?)));
    let socket = sockets.find(|socket| ends(socket) == (from, at)).expect("a socket to the server");
    socket.nodelay().expect("its option")
}

/// What is sent first is sent at once anyway, and what a short connection does without costs it nothing.
#[test]
fn only_a_first_word_may_be_held_back() {
    const WITH_HEADER: &str = r#"
        [[listener]]
        name = "l"
        bind = ["tcp://127.0.0.1:8080"]
        upstream = "u"
        [upstream.u]
        send_proxy = "v1"
        [[upstream.u.server]]
        address = "127.0.0.1:9001"
    "#;
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let with_header = || Proxy::builder().settings(WITH_HEADER);
    for (builder, is_prompt_at_first) in [(tcp_proxy(), false), (with_header(), true)] {
        let proxy = builder.start();
        let (mut client, server) = pair(&accepted);
        let mut told = BufReader::new(server.try_clone().expect("clone"));
        for (word, expected) in [("one\n", is_prompt_at_first), ("two\n", true)] {
            client.write_all(word.as_bytes()).expect("write");
            let mut line = String::new();
            while line != word {
                line.clear();
                told.read_line(&mut line).expect("read");
            }
            assert_eq!(is_prompt(&proxy, &server), expected, "{word}");
        }
    }
}

#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let error = read_all(stream).expect_err("a reset is no end of stream");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn reset_by_the_server_stays_a_reset() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (mut client, server) = pair(&accepted);
    client.write_all(b"hello").expect("write");
    reset(server).expect("linger");
    assert_reset(&mut client);
}

#[test]
fn reset_by_the_client_stays_a_reset() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (client, mut server) = pair(&accepted);
    server.write_all(b"hello").expect("write");
    reset(client).expect("linger");
    assert_reset(&mut server);
}

/// A reset after a half-close is a reset, too.
#[test]
fn reset_after_a_half_close() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (mut client, mut server) = pair(&accepted);
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("read"), b"");
    reset(server).expect("linger");
    assert_reset(&mut client);
}

/// Urgent bytes arrive in their place in the stream, with everything before and after them.
#[test]
fn urgent_data_is_carried_in_its_place() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    for towards_server in [true, false] {
        let (client, server) = pair(&accepted);
        let (mut from, mut to) = if towards_server { (client, server) } else { (server, client) };
        SockRef::from(&to).set_out_of_band_inline(true).expect("inline");
        from.write_all(b"before ").expect("write");
        assert_eq!(SockRef::from(&from).send_out_of_band(b"!").expect("urgent"), 1);
        from.write_all(b" between ").expect("write");
        assert_eq!(SockRef::from(&from).send_out_of_band(b"?").expect("urgent"), 1);
        from.write_all(b" after").expect("write");
        drop(from);
        let text = String::from_utf8(read_all(&mut to).expect("read")).expect("text");
        assert_eq!(text, "before ! between ? after", "towards server: {towards_server}");
    }
}

/// As the first byte, as the last byte, and with nothing else.
#[test]
fn urgent_data_at_the_edges() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    for (before, after) in [("", " after"), ("before ", ""), ("", "")] {
        let (mut client, mut server) = pair(&accepted);
        SockRef::from(&server).set_out_of_band_inline(true).expect("inline");
        client.write_all(before.as_bytes()).expect("write");
        SockRef::from(&client).send_out_of_band(b"!").expect("urgent");
        client.write_all(after.as_bytes()).expect("write");
        client.shutdown(Shutdown::Write).expect("shutdown");
        let text = String::from_utf8(read_all(&mut server).expect("read")).expect("text");
        assert_eq!(text, format!("{before}!{after}"));
    }
}

/// Both directions at once, many times what pipes and sockets hold.
#[test]
fn large_transfers_both_ways() {
    const LENGTH: usize = 96 << 20;
    isolate();
    let _server = servers::Tcp::start(SERVER, |mut stream| {
        let mut to = stream.try_clone()?;
        let writer = thread::spawn(move || {
            pattern::write(&mut to, LENGTH)?;
            to.shutdown(Shutdown::Write)
        });
        assert_eq!(pattern::verify(&mut stream)?, LENGTH);
        writer.join().expect("the writer")
    });
    let proxy = tcp_proxy().start();
    let mut client = connect(at(LISTEN));
    let mut to = client.try_clone().expect("clone");
    let writer = thread::spawn(move || {
        pattern::write(&mut to, LENGTH)?;
        to.shutdown(Shutdown::Write)
    });
    assert_eq!(pattern::verify(&mut client).expect("read"), LENGTH);
    writer.join().expect("the writer").expect("write");
    let labels = [("listener", LISTENER)];
    for name in ["proxy_listener_received_bytes_total", "proxy_listener_sent_bytes_total"] {
        proxy.until_metric(name, &labels, LENGTH as f64);
        assert_eq!(proxy.metrics().sum(name, &labels), LENGTH as f64, "{name}");
    }
}

/// A reader that stops reading stops the writer: nothing piles up in the proxy. Others go on.
#[test]
fn slow_reader_holds_the_writer_back() {
    const MOST: usize = 64 << 20;
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = tcp_proxy().start();
    let (client, mut server) = pair(&accepted);
    let mut to = client.try_clone().expect("clone");
    to.set_write_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let chunk = vec![b'x'; 64 << 10];
    let mut written = 0;
    let stopped = loop {
        assert!(written < MOST, "{written} bytes written, none read");
        match to.write(&chunk) {
            Ok(size) => written += size,
            Err(error) => break error,
        }
    };
    assert_eq!(stopped.kind(), ErrorKind::WouldBlock, "{stopped}");
    let (other, mut other_server) = pair(&accepted);
    (&other).write_all(b"hello").expect("write");
    drop(other);
    assert_eq!(read_all(&mut other_server).expect("read"), b"hello");
    drop((client, to));
    assert_eq!(read_all(&mut server).expect("read").len(), written);
}

/// While a reader does not read, what its writer goes on writing wakes no worker: the writer's socket is not asked for
/// bytes until the reader's has taken those before them.
#[test]
fn what_waits_for_a_reader_wakes_nobody() {
    const LENGTH: usize = 64 << 20;
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().start();
    let (client, server) = pair(&accepted);
    for (mut reader, mut writer) in [(&client, &server), (&server, &client)] {
        writer.set_write_timeout(Some(PATIENCE)).expect("timeout");
        thread::scope(|scope| {
            scope.spawn(move || {
                pattern::write(&mut writer, LENGTH).expect("write");
                writer.shutdown(Shutdown::Write).expect("shutdown");
            });
            until_true("it is not asked", || asked_for_no_bytes(&proxy) == 1);
            assert_eq!(pattern::verify(&mut reader).expect("read"), LENGTH);
        });
    }
    until_true("all is closed", || proxy.metrics().sum("proxy_listener_connections", &[]) == 0.0);
    assert_eq!(proxy.metrics().sum("proxy_listener_connections_total", &[]), 1.0);
}

/// And it is asked again: what comes later is passed on, however often that was so.
#[test]
fn who_was_not_asked_for_bytes_is_asked_again() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().start();
    let (mut client, server) = pair(&accepted);
    for _ in 0..3 {
        let written = write_until_paused(&server, || asked_for_no_bytes(&proxy) == 1);
        client.read_exact(&mut vec![0; written]).expect("read");
        until_true("it is asked again", || asked_for_no_bytes(&proxy) == 0);
        (&server).write_all(b"later").expect("write");
        let mut later = [0; 5];
        client.read_exact(&mut later).expect("read");
        assert_eq!(&later, b"later");
    }
}

#[test]
fn many_connections_at_once() {
    const MANY: usize = 500;
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().start();
    let mut all: Vec<_> = (0..MANY).map(|_| connect(at(LISTEN))).collect();
    for round in 0..3 {
        for (number, stream) in all.iter_mut().enumerate() {
            let line = format!("{round} {number}");
            assert_eq!(ask_on(stream, &line), Outcome::Answered(format!("A {line}")));
        }
    }
    let labels = [("listener", LISTENER)];
    let metrics = proxy.until_metric("proxy_listener_connections", &labels, MANY as f64);
    assert_eq!(metrics.sum("proxy_listener_connections", &labels), MANY as f64);
    for worker in ["0", "1"] {
        let labels = [("pool", PRIMARY), ("worker", worker)];
        let accepted = metrics.sum("proxy_worker_accepted_total", &labels);
        let shown = metrics.show("proxy_worker_accepted_total");
        assert!(accepted > MANY as f64 / 4.0, "workers share the load: {shown}");
    }
    drop(all);
    until_true("all are closed", || proxy.metrics().sum("proxy_listener_connections", &labels) == 0.0);
    assert_eq!(proxy.metrics().sum("proxy_listener_connections_total", &labels), MANY as f64);
}

/// The shared descriptor table has as many entries after a crowd as before it.
#[test]
fn descriptors_are_given_back() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = tcp_proxy().start();
    let directory = format!("/proc/{}/fd", proxy.supervisor());
    let open = || fs::read_dir(&directory).expect("descriptors").count();
    let batch = || {
        let pairs: Vec<_> = (0..100).map(|_| pair(&accepted)).collect();
        for (mut client, server) in pairs {
            client.write_all(b"hello").expect("write");
            drop(server);
        }
    };
    batch();
    let labels = [("listener", LISTENER)];
    let settled = || proxy.metrics().sum("proxy_listener_connections", &labels) == 0.0;
    until_true("the first batch is closed", settled);
    let before = open();
    for _ in 0..3 {
        batch();
    }
    until_true("the last batch is closed", settled);
    // Pipes are kept for reuse: a few more may have been made, but not one for each connection.
    let after = open();
    assert!(after <= before + 20, "{before} descriptors before, {after} after 300 connections");
}

#[test]
fn idle_connections_are_closed() {
    const IDLE: Duration = Duration::from_millis(1500);
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let _proxy = tcp_proxy().flag("--idle-timeout", "1500ms").start();
    let mut busy = connect(at(LISTEN));
    let mut idle = connect(at(LISTEN));
    assert!(ask_on(&mut idle, "hello").answered());
    let start = Instant::now();
    let ended = thread::spawn(move || idle.read(&mut [0]));
    while !ended.is_finished() {
        assert!(ask_on(&mut busy, "still here").answered());
        assert!(start.elapsed() < PATIENCE, "an idle connection is closed");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() >= IDLE - Duration::from_millis(50), "{:?}", start.elapsed());
    let end = ended.join().expect("the reader");
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    assert!(ask_on(&mut busy, "still here").answered());
}

#[test]
fn connections_over_the_limit_are_rejected() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--max-connections", "4").start();
    let mut open: Vec<_> = (0..4).map(|_| connect(at(LISTEN))).collect();
    for stream in &mut open {
        assert!(ask_on(stream, "hello").answered());
    }
    let outcome = ask_tcp(at(LISTEN), "one too many", TIMEOUT);
    assert!(!outcome.answered() && outcome != Outcome::Unanswered, "{outcome:?}");
    proxy.until_metric("proxy_listener_connections_rejected_total", &[], 1.0);
    for stream in &mut open {
        assert!(ask_on(stream, "hello again").answered());
    }
    open.pop();
    until_true("there is room again", || ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
}

/// One wildcard listener for IPv4 and IPv6, and several listeners of each kind.
#[test]
fn dual_stack_and_many_listeners() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let _datagrams = servers::Udp::naming(SERVER, "A");
    let builder = Proxy::builder().listen("tcp://[::]:8080").listen("udp://[::]:8080");
    let builder = builder.listen("tcp://127.0.0.1:8081").listen("tcp://[::1]:8082");
    let proxy = builder.listen("udp://127.0.0.2:8083").upstream(SERVER).start();
    let second = format!("[{SECOND_IPV6}]:8080");
    let tcp = ["127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080", &second];
    for address in tcp.into_iter().chain(["127.0.0.1:8081", "[::1]:8082"]) {
        let outcome = ask_tcp(at(address), "hello", TIMEOUT);
        assert_eq!(outcome, Outcome::Answered("A hello".into()), "{address}");
    }
    for address in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.2:8083"] {
        let outcome = proxy_tests::clients::ask_udp(at(address), "hello", TIMEOUT);
        assert!(outcome.answered(), "{address}: {outcome:?}");
    }
    let metrics = proxy.metrics();
    let verdicts =
        |listener| metrics.sum("proxy_steering_verdicts_total", &[("listener", listener), ("pool", PRIMARY)]);
    let shown = metrics.show("proxy_steering_verdicts_total");
    assert_eq!(verdicts("tcp://[::]:8080"), 4.0, "{shown}");
    assert_eq!(verdicts("tcp://127.0.0.1:8081"), 1.0, "{shown}");
    assert_eq!(verdicts("tcp://[::1]:8082"), 1.0, "{shown}");
    assert_eq!(verdicts("udp://[::]:8080"), 2.0, "{shown}");
    assert_eq!(verdicts("udp://127.0.0.2:8083"), 1.0, "{shown}");
}
