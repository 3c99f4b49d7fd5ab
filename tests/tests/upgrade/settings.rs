//! A reload with other settings: what is new is there, what is gone drains, what is bad is refused whole.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_tests::clients::{Outcome, ask_on, ask_tcp, connect, udp};
use proxy_tests::handover::{fails, reload};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use proxy_tests::status::Status;
use proxy_tests::wait::until_true;
use tempfile::TempDir;

use crate::{LISTEN, SERVER, Scene};

/// A second listener and a second server.
const OTHER: &str = "127.0.0.1:8081";
const NEW_SERVER: &str = "127.0.0.1:9002";
const TIMEOUT: Duration = Duration::from_secs(5);

/// A settings file.
struct File {
    path: PathBuf,
    _directory: TempDir,
}

impl File {
    #[track_caller]
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = Self { path: directory.path().join("proxy.toml"), _directory: directory };
        file.write(text);
        file
    }

    #[track_caller]
    fn write(&self, text: &str) {
        fs::write(&self.path, text).expect("write settings");
    }

    #[track_caller]
    fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }

    #[track_caller]
    fn start(&self) -> Proxy {
        let proxy = Proxy::builder().flag("--config", self.path()).start();
        proxy.until_status("protected", Status::protected);
        proxy
    }
}

/// Settings with a listener, TCP and UDP, on each of these addresses, before this server.
fn settings(workers: usize, listen: &[&str], server: &str) -> String {
    let mut text = format!("[defaults]\nworkers = {workers}\nudp_idle = \"4s\"\n");
    for (number, address) in listen.iter().enumerate() {
        let bind = [format!("tcp://{address}"), format!("udp://{address}")];
        let name = format!("listener-{number}");
        writeln!(text, "[[listener]]\nname = \"{name}\"\nbind = {bind:?}\nupstream = \"a\"").expect("memory");
    }
    text + &format!("[upstream.a]\n[[upstream.a.server]]\naddress = \"{server}\"\n")
}

fn both_servers(address: &str, name: &str) -> (servers::Tcp, servers::Udp) {
    (servers::Tcp::lines(address, name), servers::Udp::naming(address, name))
}

fn answer(name: &str, word: &str) -> Outcome {
    Outcome::Answered(format!("{name} {word}"))
}

#[track_caller]
fn ask(address: &str, word: &str) -> Outcome {
    ask_tcp(at(address), word, TIMEOUT)
}

#[test]
fn a_listener_comes_and_goes_and_comes_back() {
    isolate();
    let _servers = both_servers(SERVER, "A");
    let file = File::new(&settings(2, &[LISTEN], SERVER));
    let proxy = file.start();
    let mut first = connect(at(LISTEN));
    assert_eq!(ask_on(&mut first, "one"), answer("A", "one"));
    assert_eq!(ask(OTHER, "early"), Outcome::Refused);

    file.write(&settings(2, &[LISTEN, OTHER], SERVER));
    reload(&proxy);
    let mut second = connect(at(OTHER));
    assert_eq!(ask_on(&mut second, "two"), answer("A", "two"));
    assert!(udp(at(OTHER)).ask("datagram", TIMEOUT).answered());
    assert_eq!(ask_on(&mut first, "one"), answer("A", "one"));

    file.write(&settings(2, &[LISTEN], SERVER));
    reload(&proxy);
    assert_eq!(ask(OTHER, "late"), Outcome::Refused);
    assert_eq!(ask_on(&mut second, "goes on"), answer("A", "goes on"));
    reload(&proxy);
    assert_eq!(ask_on(&mut second, "and on"), answer("A", "and on"));
    assert_eq!(ask(LISTEN, "new"), answer("A", "new"));

    file.write(&settings(2, &[LISTEN, OTHER], SERVER));
    reload(&proxy);
    assert_eq!(ask(OTHER, "again"), answer("A", "again"));
    for stream in [&mut first, &mut second] {
        assert_eq!(ask_on(stream, "still"), answer("A", "still"));
    }
    drop((first, second));
    assert_closes(&proxy);
    // Reloads while retired listeners are being closed.
    let with_both = settings(2, &[LISTEN, OTHER], SERVER);
    for (text, expected) in
        [(settings(2, &[LISTEN], SERVER), Outcome::Refused), (with_both, answer("A", "now"))]
            .iter()
            .cycle()
            .take(6)
    {
        file.write(text);
        reload(&proxy);
        assert_eq!(ask(LISTEN, "always"), answer("A", "always"));
        assert_eq!(&ask(OTHER, "now"), expected);
    }
}

/// A retired listener is forgotten at the first reload after its last connection has ended.
#[test]
fn a_removed_listener_is_forgotten_when_it_is_empty() {
    isolate();
    let _servers = both_servers(SERVER, "A");
    let file = File::new(&settings(2, &[LISTEN, OTHER], SERVER));
    let proxy = file.start();
    let mut stream = connect(at(OTHER));
    assert!(ask_on(&mut stream, "hello").answered());
    let told = || proxy.metrics().show("proxy_listener_connections");
    let is_told = || told().contains("listener-1") || told().contains(OTHER);
    assert!(is_told(), "{}", told());
    file.write(&settings(2, &[LISTEN], SERVER));
    reload(&proxy);
    assert!(is_told(), "while it drains: {}", told());
    drop(stream);
    until_true("its port is free", || TcpListener::bind(OTHER).is_ok());
    reload(&proxy);
    until_true("it is forgotten", || !is_told());
}

/// Fewer workers and more: each connection and flow goes on in one that is there.
#[test]
fn workers_from_one_to_four_to_two() {
    let file = File::new(&settings(1, &[LISTEN], SERVER));
    let scene = Scene::of(Proxy::builder().flag("--config", file.path()));
    for workers in [4, 2, 1, 2] {
        file.write(&settings(workers, &[LISTEN], SERVER));
        reload(&scene.proxy);
        scene.goes_on();
        assert_eq!(worker_threads(&scene.proxy), 2 * workers, "two pools");
    }
    scene.end();
}

fn worker_threads(proxy: &Proxy) -> usize {
    let pools = proxy.status().pools;
    let threads = pools.iter().filter_map(|pool| pool.pid).flat_map(proxy_tests::process::threads);
    threads.filter(|(_, name)| name.starts_with("worker-")).count()
}

/// What is open stays with the old server, and what is new goes to the new one.
#[test]
fn a_server_is_replaced() {
    isolate();
    let (_old, _new) = (both_servers(SERVER, "A"), both_servers(NEW_SERVER, "B"));
    let file = File::new(&settings(2, &[LISTEN], SERVER));
    let proxy = file.start();
    let (mut stream, flow) = (connect(at(LISTEN)), udp(at(LISTEN)));
    assert_eq!(ask_on(&mut stream, "old"), answer("A", "old"));
    let asked = |word: &str| match flow.ask(word, TIMEOUT) {
        Outcome::Answered(answer) => answer,
        other => panic!("{other:?}"),
    };
    let before = asked("x");
    assert!(before.starts_with("A "), "{before}");
    file.write(&settings(2, &[LISTEN], NEW_SERVER));
    reload(&proxy);
    for _ in 0..4 {
        assert_eq!(ask_on(&mut stream, "old"), answer("A", "old"));
        assert_eq!(asked("x"), before, "the same server, from the same port");
        assert_eq!(ask(LISTEN, "new"), answer("B", "new"));
        let flow = udp(at(LISTEN)).ask("new", TIMEOUT);
        assert!(matches!(&flow, Outcome::Answered(text) if text.starts_with("B ")), "{flow:?}");
    }
    file.write(&settings(2, &[LISTEN], SERVER));
    reload(&proxy);
    assert_eq!(ask_on(&mut stream, "back"), answer("A", "back"));
    assert_eq!(ask(LISTEN, "new"), answer("A", "new"));
    drop((stream, flow));
    assert_closes(&proxy);
}

/// One that the settings have no more stays while something is open to it, and no longer.
#[test]
fn a_removed_server_is_forgotten_when_nothing_is_open_to_it() {
    isolate();
    let _servers = (both_servers(SERVER, "A"), both_servers(NEW_SERVER, "B"));
    let file = File::new(&settings(2, &[LISTEN], SERVER));
    let proxy = file.start();
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "hello").answered());
    let is_told = || proxy.metrics().show("proxy_upstream_server_connections").contains(SERVER);
    file.write(&settings(2, &[LISTEN], NEW_SERVER));
    reload(&proxy);
    assert!(is_told(), "while a connection is open");
    drop(stream);
    until_true("nothing is open to it", || {
        proxy.metrics().sum("proxy_upstream_server_connections", &[("server", SERVER)]) == 0.0
    });
    reload(&proxy);
    until_true("it is forgotten", || !is_told());
}

/// Each is refused whole, with its place, and nothing changes: by other processes nobody is served.
#[test]
fn bad_settings() {
    isolate();
    let _servers = both_servers(SERVER, "A");
    let good = settings(2, &[LISTEN], SERVER);
    let file = File::new(&good);
    let proxy = file.start();
    let mut stream = connect(at(LISTEN));
    let _taken = TcpListener::bind(NEW_SERVER).expect("bind");
    let path = file.path();
    let lines = good.lines().count();
    let at_line = |line: usize, column: usize| format!("{path}:{line}:{column}");
    let cases = [
        ("no TOML", good.replace("workers = 2", "workers = "), vec![at_line(2, 11)]),
        ("an unknown key", format!("{good}adress = \"x\"\n"), vec![at_line(lines + 1, 1), "adress".into()]),
        ("an impossible value", good.replace("workers = 2", "workers = 2000"), vec![at_line(2, 11)]),
        ("no such upstream", good.replace("upstream = \"a\"", "upstream = \"b\""), vec![path.to_owned()]),
        ("a port that is taken", settings(2, &[LISTEN, NEW_SERVER], SERVER), vec![NEW_SERVER.to_owned()]),
    ];
    for (what, text, why) in cases {
        println!("{what}");
        file.write(&text);
        let why: Vec<&str> = why.iter().map(String::as_str).collect();
        fails(&proxy, &["reload"], &why);
        fails(&proxy, &["upgrade"], &why);
        assert_nothing_changed(&proxy, &mut stream);
    }
    fs::remove_file(&file.path).expect("remove");
    fails(&proxy, &["reload"], &[path]);
    assert_nothing_changed(&proxy, &mut stream);
    file.write(&settings(2, &[LISTEN, OTHER], SERVER));
    reload(&proxy);
    assert_eq!(ask(OTHER, "good"), answer("A", "good"));
    assert!(Path::new(path).exists());
}

#[track_caller]
fn assert_nothing_changed(proxy: &Proxy, stream: &mut TcpStream) {
    assert_eq!(ask_on(stream, "open"), answer("A", "open"));
    assert_eq!(ask(LISTEN, "new"), answer("A", "new"));
    assert_eq!(ask(OTHER, "other"), Outcome::Refused);
    assert_eq!(proxy.status().listeners.len(), 2, "TCP and UDP");
}

/// No connection is left.
#[track_caller]
fn assert_closes(proxy: &Proxy) {
    until_true("nothing is open", || proxy.metrics().sum("proxy_listener_connections", &[]) == 0.0);
}
