//! A loop of DNS lookups over UDP, by dig from one port, answered by dnsmasq.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use proxy_tests::net::isolate;
use proxy_tests::process::Guard;
use proxy_tests::programs::{Server, host_and_port, program};

use crate::course::{Course, TAKEOVERS};
use crate::{DEATHS, LISTEN, SERVER, start_proxy};

/// Lookups.
const STRIDE: u64 = 200;

#[test]
fn lookups_go_on() {
    for death in DEATHS {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().to_owned();
        let server = start_server(&path);
        let proxy = start_proxy("udp");
        let course = Course::new(STRIDE);
        course.run(&proxy, "udp", death, move |course| lookups(course, &path));
        let log = server.log();
        let (asked, ports) = questions(&log);
        assert_eq!(asked.len() as u64, course.done(), "every name was asked for");
        assert_eq!(ports.len(), 1, "{death}: upstream ports {ports:?}");
    }
}

/// The name of each address of 10.0.0.0/16 is made from the address.
fn start_server(directory: &Path) -> Server {
    let (host, port) = host_and_port(SERVER);
    let mut dnsmasq = program("dnsmasq", directory);
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
    ]);
    dnsmasq.args([
        "--user=nobody",
        "--group=nogroup",
        "--bind-interfaces",
        "--listen-address",
        host,
        "--port",
        port,
    ]);
    dnsmasq.args(["--synth-domain=example.test,10.0.0.0/16", "--log-queries=extra", "--log-facility=-"]);
    Server::start(&mut dnsmasq, directory, SERVER)
}

/// Names that the server was asked for, and who asked, from lines such as
/// `dnsmasq[1]: 7 127.0.0.1/4711 query[A] 10-0-0-7.example.test from 127.0.0.1`.
fn questions(log: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let words = log.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let questions = words.filter(|words| words.get(3) == Some(&"query[A]"));
    questions.map(|words| (words[4], words[2])).unzip()
}

/// Lookups one after the other. One datagram may be lost with each pool, which has just read it: dig says so
/// and asks again after 2 s, as resolvers do.
fn lookups(course: &Course, directory: &Path) {
    let (host, port) = host_and_port(LISTEN);
    let mut command = program("dig", directory);
    command.args(["-b", &format!("{host}#5300"), "-p", port, &format!("@{host}")]);
    command.args(["+short", "+time=2", "+tries=5", "-f", "-"]);
    let mut dig = Guard(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start dig"));
    let mut to = dig.0.stdin.take().expect("piped");
    let mut answers = BufReader::new(dig.0.stdout.take().expect("piped")).lines();
    let mut repeats = 0;
    while course.goes_on() {
        let (high, low) = (course.done() / 256, course.done() % 256);
        writeln!(to, "10-0-{high}-{low}.example.test A").expect("write");
        let mut line = || answers.next().expect("an answer").expect("read");
        let mut answer = line();
        while answer.contains("timed out") {
            repeats += 1;
            answer = line();
        }
        assert_eq!(answer, format!("10.0.{high}.{low}"));
        course.advance(1);
    }
    // Twice as many, for a busy machine may be late with an answer.
    assert!(repeats <= 2 * TAKEOVERS, "{repeats} lookups asked again");
    drop(to);
    assert!(dig.0.wait().expect("wait").success());
}
