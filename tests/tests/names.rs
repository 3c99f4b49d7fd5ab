//! Servers that are given by name: their addresses change while the proxy runs.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::clients::{Outcome, ask_on, ask_tcp, connect};
use proxy_tests::dns::{self, Dns, Files, Zone, addresses};
use proxy_tests::handover::hand_over;
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{Guard, signal};
use proxy_tests::programs::program;
use proxy_tests::proxy::Proxy;
use proxy_tests::settings::File;
use proxy_tests::status::Status;
use proxy_tests::takeover::take_over;
use proxy_tests::wait::{stays_true, until_true};
use proxy_tests::{PRIMARY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const ONE: &str = "127.0.0.11:9001";
const TWO: &str = "127.0.0.12:9001";
const TIMEOUT: Duration = Duration::from_secs(5);
const LOOKUPS: &str = "proxy_upstream_name_lookups_total";
const REFUSED: &str = "proxy_upstream_name_addresses_refused_total";

/// Settings with one server, by its name, that is looked up often.
fn settings(server: &str) -> String {
    format!(
        "[defaults]\nworkers = 2\n[[listener]]\nname = \"l\"\nbind = [\"tcp://{LISTEN}\"]\nupstream = \"u\"\n\
         [upstream.u]\nconnect_timeout = \"300ms\"\nresolve_min = \"50ms\"\nresolve_max = \"100ms\"\n[[upstream.u.server]]\naddress = \"{server}\"\n"
    )
}

fn start() -> (Proxy, File) {
    let file = File::new(&settings("db.test:9001"));
    (file.start(), file)
}

fn both() -> [servers::Tcp; 2] {
    [servers::Tcp::lines(ONE, "one"), servers::Tcp::lines(TWO, "two")]
}

fn answer(name: &str) -> Outcome {
    Outcome::Answered(format!("{name} hello"))
}

#[track_caller]
fn ask() -> Outcome {
    ask_tcp(at(LISTEN), "hello", TIMEOUT)
}

/// The addresses of servers that take something new.
fn present(status: &Status) -> Vec<&str> {
    let there = status.servers.iter().filter(|server| server.state != "retired");
    there.map(|server| server.address.as_str()).collect()
}

#[track_caller]
fn until_present(proxy: &Proxy, expected: &[&str]) -> Status {
    let is_so = |status: &Status| {
        let mut there = present(status);
        there.sort_unstable();
        there == expected
    };
    proxy.until_status(&format!("the servers are {expected:?}"), is_so)
}

/// The first connection is served at once; servers come and go; what is open goes on; and all of that after deaths
/// and handovers too.
#[test]
fn addresses_come_and_go() {
    isolate();
    let _files = Files::isolate();
    let (_servers, dns) = (both(), Dns::start(addresses(&["127.0.0.11"])));
    let (proxy, _file) = start();
    assert_eq!(ask(), answer("one"));
    let mut open = connect(at(LISTEN));
    assert_eq!(ask_on(&mut open, "hello"), answer("one"));
    let (with_both, with_two) = (addresses(&["127.0.0.12", "127.0.0.11"]), addresses(&["127.0.0.12"]));
    let mut course = |what: &str| {
        dns.set(with_both.clone());
        until_present(&proxy, &[ONE, TWO]);
        dns.set(with_two.clone());
        let status = until_present(&proxy, &[TWO]);
        assert_eq!(status.state_of(ONE), Some("retired"), "{what}");
        assert_eq!(status.server(ONE).open, 1, "{what}: {:?}", status.servers);
        for _ in 0..10 {
            assert_eq!(ask(), answer("two"), "{what}");
        }
        assert_eq!(ask_on(&mut open, "hello"), answer("one"), "{what}: what is open goes on");
    };
    course("at first");
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    course("a pool died");
    let control = proxy.status().control.pid;
    signal(control, Signal::SIGKILL);
    proxy.until_status("another control", |status| status.control.pid != control);
    course("control died");
    for kind in ["reload", "upgrade"] {
        hand_over(&proxy, &[kind]);
        assert_eq!(ask(), answer("two"), "{kind}: known addresses are known at once");
        course(kind);
    }
    let name = proxy.status().names.first().cloned().expect("a name");
    assert_eq!((name.name.as_str(), name.addresses, name.error), ("db.test:9001", 1, None));
    assert!(name.answered_ms.is_some_and(|age| age < 60_000));
    assert!(proxy.metrics().sum(LOOKUPS, &[("upstream", "u"), ("result", "answered")]) >= 10.0);
}

/// While nobody tells, all stays as it was.
#[test]
fn a_name_server_that_fails_changes_nothing() {
    isolate();
    let _files = Files::isolate();
    let (_servers, dns) = (both(), Dns::start(addresses(&["127.0.0.11"])));
    let (proxy, _file) = start();
    for (zone, error) in [(Zone::Fails, "error response"), (Zone::Silent, "")] {
        dns.set(zone.clone());
        let failed = |metrics: &proxy_tests::metrics::Metrics| metrics.sum(LOOKUPS, &[("result", "failed")]);
        let before = failed(&proxy.metrics());
        proxy.until_metric(LOOKUPS, &[("result", "failed")], before + 2.0);
        let status = proxy.status();
        let told = status.names[0].error.clone().expect("an error");
        assert!(told.contains(error), "{told}");
        assert_eq!(present(&status), [ONE], "{zone:?}");
        assert_eq!(ask(), answer("one"), "{zone:?}");
        assert_eq!(proxy.log().matches("name cannot be looked up").count(), 1, "once, {zone:?}");
    }
    dns.set(addresses(&["127.0.0.12"]));
    until_present(&proxy, &[TWO]);
    assert!(proxy.log().contains("name can be looked up again"));
}

/// That there is no such name is believed when it was said three times.
#[test]
fn a_name_that_is_no_more_has_no_servers() {
    isolate();
    let _files = Files::isolate();
    let (_servers, dns) = (both(), Dns::start(addresses(&["127.0.0.11"])));
    let (proxy, _file) = start();
    dns.set(Zone::NoSuchName);
    until_present(&proxy, &[]);
    assert!(proxy.metrics().sum(LOOKUPS, &[("result", "empty")]) >= 3.0);
    let refused = ask();
    assert!(matches!(refused, Outcome::Reset | Outcome::Closed), "{refused:?}");
    dns.set(addresses(&["127.0.0.12"]));
    until_present(&proxy, &[TWO]);
    assert_eq!(ask(), answer("two"));
}

/// Servers come as soon as there is an answer, and until then the proxy has started and refuses.
#[test]
fn a_start_without_an_answer() {
    isolate();
    let _files = Files::isolate();
    let (_servers, dns) = (both(), Dns::start(Zone::Silent));
    let (proxy, _file) = start();
    assert_eq!(present(&proxy.status()), Vec::<&str>::new());
    dns.set(addresses(&["127.0.0.11"]));
    until_present(&proxy, &[ONE]);
    assert_eq!(ask(), answer("one"));
}

/// Sixteen are servers, the rest is left out and told of.
#[test]
fn too_many_addresses() {
    isolate();
    let _files = Files::isolate();
    let many = (1..=20).map(|last| IpAddr::from([127, 0, 1, last])).collect();
    let _dns = Dns::start(Zone::Addresses(many, 1));
    let (proxy, _file) = start();
    proxy.until_status("there are sixteen", |status| present(status).len() == 16);
    assert_eq!(proxy.until_metric(REFUSED, &[("reason", "room")], 4.0).sum(REFUSED, &[]), 4.0);
    assert_eq!(proxy.log().matches("address is left out: there are too many").count(), 4);
    stays_true("sixteen", Duration::from_millis(300), || present(&proxy.status()).len() == 16);
    assert_eq!(proxy.metrics().sum(REFUSED, &[]), 4.0, "they are counted once");
}

/// A name that leads back to the proxy itself is no server.
#[test]
fn our_own_address() {
    isolate();
    let _files = Files::isolate();
    let _dns = Dns::start(addresses(&["127.0.0.1", "127.0.0.11"]));
    let _server = servers::Tcp::lines("127.0.0.11:8080", "one");
    let proxy = File::new(&settings("db.test:8080")).start();
    assert_eq!(present(&proxy.status()), ["127.0.0.11:8080"]);
    assert_eq!(ask(), answer("one"));
    assert_eq!(proxy.metrics().sum(REFUSED, &[("reason", "own_listener")]), 1.0);
    assert!(proxy.log().contains("traffic would go round for ever"));
}

/// An alias is followed; files that change are read anew; what is in /etc/hosts is not asked for.
#[test]
fn aliases_and_files() {
    isolate();
    let files = Files::isolate();
    let (_servers, dns) = (both(), Dns::start(Zone::Alias(vec![[127, 0, 0, 11].into()], 1)));
    let (proxy, _file) = start();
    assert_eq!(ask(), answer("one"));
    files.write("hosts", "127.0.0.1 localhost\n127.0.0.12 db.test\n");
    until_present(&proxy, &[TWO]);
    let asked = dns.asked();
    let answered = proxy.metrics().sum(LOOKUPS, &[]);
    proxy.until_metric(LOOKUPS, &[], answered + 2.0);
    assert_eq!(dns.asked(), asked, "nobody is asked");
    files.write("hosts", "");
    files.write("resolv.conf", "nameserver 127.0.0.9\noptions timeout:1 attempts:1\n");
    proxy.until_metric(LOOKUPS, &[("result", "failed")], 1.0);
    assert_eq!((dns.asked(), ask()), (asked, answer("two")));
    files.write("resolv.conf", "nameserver 127.0.0.1\n");
    until_present(&proxy, &[ONE]);
}

/// The same with a name server of the world.
#[test]
fn dnsmasq_is_asked() {
    isolate();
    let _files = Files::isolate();
    let _servers = both();
    let directory = tempfile::tempdir().expect("temporary directory");
    // dnsmasq is not root.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "53").expect("let others have port 53");
    let start_dns = |address: &str| {
        let mut dnsmasq = program("dnsmasq", directory.path());
        dnsmasq.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=nobody",
        ]);
        dnsmasq.args([
            "--group=nogroup",
            "--pid-file=",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--port=53",
        ]);
        dnsmasq.arg(format!("--host-record=db.test,{address},0"));
        Guard(dnsmasq.spawn().expect("start dnsmasq"))
    };
    let dns = start_dns("127.0.0.11");
    until_true("dnsmasq listens", || std::net::UdpSocket::bind(dns::SERVER).is_err());
    let (proxy, _file) = start();
    until_present(&proxy, &[ONE]);
    assert_eq!(ask(), answer("one"));
    drop(dns);
    let _dns = start_dns("127.0.0.12");
    until_present(&proxy, &[TWO]);
    assert_eq!(ask(), answer("two"));
}
