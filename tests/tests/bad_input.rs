//! Wrong flags, a machine that lacks something, and peers that misbehave: each a clear message or
//! a closed connection, and nothing lost for others.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proxy_tests::builder::{Builder, Failure, binary};
use proxy_tests::clients::{Outcome, ask_tcp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::programs::{find, run};
use proxy_tests::proxy::{METRICS, Proxy};
use proxy_tests::servers;
use socket2::{Domain, Socket, Type};

const LISTEN: &str = "127.0.0.1:8080";
const LISTENER: &str = "tcp://127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(2);
const PATIENT: Duration = Duration::from_secs(15);

fn good_flags() -> Builder {
    Proxy::builder().listen(LISTENER).upstream(SERVER)
}

/// A running proxy with a server behind it.
fn good_proxy() -> (servers::Tcp, Proxy) {
    (servers::Tcp::lines(SERVER, "A"), good_flags().start())
}

#[track_caller]
fn assert_serves(proxy: &Proxy) {
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Answered("A hello".into()));
    let status = proxy.status();
    assert!(status.whole() && status.failovers == 0, "{status:?}");
}

#[test]
fn wrong_flags_say_which_and_why() {
    isolate();
    let wrong: [(&str, &str, &[&str]); 11] = [
        ("--frobnicate", "1", &["--frobnicate", "usage"]),
        ("--lease", "100", &["--lease", "100", "unit"]),
        ("--fence-after", "soon", &["--fence-after", "soon"]),
        ("--failback-after", "10", &["--failback-after", "unit"]),
        ("--workers", "0", &["--workers", "0"]),
        ("--workers", "65", &["--workers", "64"]),
        ("--listen", "127.0.0.1:8081", &["127.0.0.1:8081", "tcp://"]),
        ("--listen", "sctp://127.0.0.1:8081", &["sctp", "tcp://"]),
        ("--listen", LISTENER, &[LISTENER, "twice"]),
        ("--upstream", "127.0.0.1", &["127.0.0.1", "port"]),
        ("--user", "no-such-user", &["no-such-user"]),
    ];
    for (flag, value, words) in wrong {
        good_flags().flag(flag, value).fails().says(2, words);
    }
    Proxy::builder().upstream(SERVER).fails().says(2, &["--listen"]);
    Proxy::builder().listen(LISTENER).fails().says(2, &["--upstream"]);
    good_flags().word("--lease").fails().says(2, &["--lease"]);
}

#[test]
fn verbs_without_a_proxy_say_so() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = directory.path().join("none.sock");
    let socket = socket.to_str().expect("text");
    for verb in ["status", "failover", "failback", "drain", "stop"] {
        let mut command = std::process::Command::new(binary());
        let output = command.args([verb, "--control", socket]).output().expect("run proxy");
        Failure::from(output).says(1, &[socket]);
    }
}

#[test]
fn port_taken() {
    isolate();
    let _taken = TcpListener::bind(LISTEN).expect("bind");
    good_flags().fails().says(1, &[LISTENER, "in use"]);
    let _taken = UdpSocket::bind("127.0.0.1:8081").expect("bind");
    let udp = Proxy::builder().listen("udp://127.0.0.1:8081").upstream(SERVER);
    udp.fails().says(1, &["udp://127.0.0.1:8081", "in use"]);
}

/// A stranger's socket with `SO_REUSEPORT` and our uid would let us join its group, take its
/// traffic and give it ours.
#[test]
fn port_taken_by_a_reuseport_socket() {
    isolate();
    for kind in [Type::STREAM, Type::DGRAM] {
        let taken = Socket::new(Domain::IPV4, kind, None).expect("socket");
        taken.set_reuse_port(true).expect("SO_REUSEPORT");
        taken.bind(&at(LISTEN).into()).expect("bind");
        let scheme = if kind == Type::STREAM { taken.listen(8).map(|()| "tcp") } else { Ok("udp") };
        let listener = format!("{}://{LISTEN}", scheme.expect("listen"));
        let proxy = Proxy::builder().listen(&listener).upstream(SERVER);
        proxy.fails().says(1, &[&listener, "in use"]);
    }
}

#[test]
fn metrics_port_taken() {
    isolate();
    let _taken = TcpListener::bind(METRICS).expect("bind");
    good_flags().fails().says(1, &[METRICS, "in use"]);
}

#[test]
fn control_directory_that_cannot_be() {
    isolate();
    let socket = "/proc/no/proxy.sock";
    good_flags().control(Path::new(socket)).fails().says(1, &["/proc/no", "--control"]);
}

#[test]
fn second_proxy_with_the_same_control_socket() {
    isolate();
    let (_server, proxy) = good_proxy();
    let second = Proxy::builder().listen("tcp://127.0.0.1:8081").upstream(SERVER);
    let second = second.without_metrics().control(proxy.control());
    let socket = proxy.control().to_str().expect("text").to_owned();
    second.fails().says(1, &[&socket, "running"]);
    assert_serves(&proxy);
}

/// What a killed proxy leaves behind does not keep the next one from starting.
#[test]
fn stale_control_socket_is_replaced() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = directory.path().join("proxy.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bind"));
    assert!(socket.exists(), "stale");
    let _server = servers::Tcp::lines(SERVER, "A");
    assert_serves(&good_flags().control(&socket).start());
}

/// What is there and is no socket is not ours to replace.
#[test]
fn control_path_of_a_file() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("precious");
    fs::write(&file, "data").expect("write");
    good_flags().control(&file).fails().says(1, &["precious", "no socket", "--control"]);
    assert_eq!(fs::read_to_string(&file).expect("read"), "data");
    assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1, "nothing is left behind");
}

#[test]
fn own_listener_as_upstream() {
    isolate();
    let flags = || Proxy::builder().listen("tcp://0.0.0.0:8080").upstream(LISTEN);
    flags().fails().says(2, &["--upstream 127.0.0.1:8080", "own listener"]);
}

/// A wildcard takes what comes to any address of the machine; which it has the settings do not tell.
#[test]
fn own_wildcard_listener_as_upstream() {
    const OURS: &str = "10.9.0.1:8080";
    isolate();
    run(Command::new(find("ip")).args(["address", "add", "10.9.0.1/32", "dev", "lo"]));
    let flags = |server| Proxy::builder().listen("tcp://0.0.0.0:8080").upstream(server);
    let told = ["server 10.9.0.1:8080", "own listener tcp://0.0.0.0:8080", "give the address of the service"];
    flags(OURS).fails().says(1, &told);
    flags(OURS).check().says(1, &told);
    let proxy = flags("10.9.0.2:8080").start();
    proxy.verb(&["upstream", "add", OURS]).says(1, &["10.9.0.1:8080 is our own listener"]);
    proxy.verb(&["upstream", "add", "10.9.0.1:8081"]).says(0, &["added"]);
}

/// What comes by TCP does not come back by UDP: a DNS server of this machine, say, that is asked by both.
#[test]
fn own_listener_of_the_other_protocol() {
    isolate();
    let _server = servers::Tcp::lines(LISTEN, "A");
    let text = format!(
        "[[listener]]\nname = \"t\"\nbind = [\"tcp://127.0.0.1:8081\"]\nupstream = \"a\"\n\
         [[listener]]\nname = \"u\"\nbind = [\"udp://{LISTEN}\"]\nupstream = \"b\"\n\
         [upstream.a]\n[[upstream.a.server]]\naddress = \"{LISTEN}\"\n\
         [upstream.b]\n[[upstream.b.server]]\naddress = \"{SERVER}\"\n"
    );
    let _proxy = Proxy::builder().settings(&text).start();
    let outcome = ask_tcp(at("127.0.0.1:8081"), "hello", TIMEOUT);
    assert_eq!(outcome, Outcome::Answered("A hello".into()));
}

/// What only matters later: the access log's place stops a start, a check's program does not.
#[test]
fn check_looks_at_log_and_programs() {
    isolate();
    let text = format!(
        "[access_log]\npath = \"/nonexistent/access.log\"\n\
         [[listener]]\nname = \"l\"\nbind = [\"{LISTENER}\"]\nupstream = \"u\"\n\
         [upstream.u]\nhealth = {{ check = \"exec\", command = [\"/nonexistent/check\"] }}\n\
         [[upstream.u.server]]\naddress = \"{SERVER}\"\n"
    );
    let told = ["access log /nonexistent/access.log", "there is no directory /nonexistent; make it"];
    let program = ["upstream u: check /nonexistent/check", "cannot be found", "install it"];
    Proxy::builder().settings(&text).check().says(1, &[&told[..], &program].concat());
    Proxy::builder().settings(&text.replace("/nonexistent/access.log", "-")).check().says(0, &program);
}

#[test]
fn listeners_that_overlap() {
    isolate();
    good_flags().listen("tcp://0.0.0.0:8080").fails().says(2, &["tcp://0.0.0.0:8080", LISTENER]);
}

/// An ordinary user: the message names what is missing and how to get it.
#[test]
fn no_rights_for_bpf() {
    isolate();
    // Where anybody may read and run: the directory of the build often is not.
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("chmod");
    let copy = directory.path().join("proxy");
    // By another process: a test that forks while we write would keep the copy open, and what is
    // open for writing cannot be run (ETXTBSY).
    let copied = Command::new("cp").arg(binary()).arg(&copy).status().expect("run cp");
    assert!(copied.success(), "{copied}");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let socket = directory.path().join("proxy.sock");
    let flags = || good_flags().binary(&copy).through(&nobody).control(&socket);
    flags().fails().says(1, &["CAP_BPF", "sudo"]);
    flags().check().says(1, &["CAP_BPF"]);
}

#[test]
fn root_without_bpf() {
    isolate();
    let bounded = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"];
    good_flags().through(&bounded).fails().says(1, &["CAP_BPF"]);
}

#[test]
fn kernel_too_old() {
    isolate();
    let old = ["setarch", "--uname-2.6"];
    good_flags().through(&old).fails().says(1, &["kernel", "2.6"]);
    good_flags().through(&old).check().says(1, &["kernel", "2.6"]);
}

#[test]
fn descriptor_limit_too_low() {
    isolate();
    let few = ["sh", "-c", "ulimit -n 40; exec \"$0\" \"$@\""];
    good_flags().through(&few).fails().says(1, &["descriptor", "40"]);
    good_flags().through(&few).check().says(1, &["descriptor", "40"]);
}

#[test]
fn check_of_good_settings() {
    isolate();
    good_flags().without_metrics().check().says(0, &[]);
    good_flags().flag("--lease", "100").check().says(2, &["--lease", "unit"]);
}

#[test]
fn unreachable_upstream() {
    isolate();
    // A documentation address; a namespace with nothing but lo has no route to it.
    let proxy = Proxy::builder().listen(LISTENER).upstream("203.0.113.1:9").start();
    let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
    assert!(matches!(outcome, Outcome::Reset | Outcome::Closed), "{outcome:?}");
    proxy.until_metric("proxy_upstream_server_connect_failures_total", &[], 1.0);
    assert!(proxy.status().whole());
}

#[test]
fn clients_that_say_nothing() {
    isolate();
    let (_server, proxy) = good_proxy();
    let _silent: Vec<_> = (0..200).map(|_| connect(at(LISTEN))).collect();
    for _ in 0..50 {
        assert_serves(&proxy);
    }
}

/// Waits for the peer to close or reset, whatever it may say before.
#[track_caller]
fn assert_closed(stream: &mut impl Read) {
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Ok(_) => assert!(answer.len() < 1 << 20, "an endless answer"),
        Err(error) => {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            assert!(matches!(error.kind(), BrokenPipe | ConnectionReset), "{error}");
        }
    }
}

fn control(proxy: &Proxy) -> UnixStream {
    let stream = UnixStream::connect(proxy.control()).expect("connect to the control socket");
    stream.set_read_timeout(Some(PATIENT)).expect("timeout");
    stream.set_write_timeout(Some(PATIENT)).expect("timeout");
    stream
}

#[test]
fn garbage_on_the_control_socket() {
    isolate();
    let (_server, proxy) = good_proxy();
    let garbage: [&[u8]; 6] = [
        b"frobnicate\n",
        b"\0\xff\xfe\x01\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"verb\":\"stop\n",
        b"{}\n",
        &[b'x'; 1 << 20],
    ];
    for bytes in garbage {
        let mut stream = control(&proxy);
        // Fails if the proxy has heard enough, which is well.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert_closed(&mut stream);
        assert_serves(&proxy);
    }
    let _half = control(&proxy).write_all(b"sta");
    let _silent: Vec<_> = (0..20).map(|_| control(&proxy)).collect();
    assert_serves(&proxy);
}

fn metrics_client() -> TcpStream {
    connect(at(METRICS))
}

#[test]
fn bad_requests_to_metrics() {
    isolate();
    let (_server, proxy) = good_proxy();
    let huge = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 1 << 20]].concat();
    let bad: [&[u8]; 6] = [
        b"GET /metr",
        b"\r\n\r\n",
        b"\0\xff\xfe\x01\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        &huge,
    ];
    for bytes in bad {
        let mut stream = metrics_client();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert_closed(&mut stream);
        assert!(proxy.metrics_text().contains("proxy_build_info"));
    }
    assert_eq!(proxy.get("/nothing").expect("an answer").code, 404);
    let _silent: Vec<_> = (0..20).map(|_| metrics_client()).collect();
    assert!(proxy.metrics_text().contains("proxy_build_info"));
    assert_serves(&proxy);
}
