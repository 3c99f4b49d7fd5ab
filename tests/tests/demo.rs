//! `cargo xtask run` without arguments, as the README promises it. In a namespace of its own its
//! default ports are free.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::{binary, built};
use proxy_tests::clients::{Outcome, ask_tcp, ask_udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{alive, children, signal, wait_for};
use proxy_tests::proxy::METRICS;
use proxy_tests::wait::{DEADLINE, until_true};
use proxy_tests::{metrics, sys};

const TIMEOUT: Duration = Duration::from_secs(2);

struct Demo {
    child: Child,
    lines: Receiver<String>,
}

impl Demo {
    fn start() -> Self {
        let xtask = built("xtask");
        assert!(xtask.is_file(), "no {}: run `cargo xtask test`", xtask.display());
        let mut command = Command::new(xtask);
        command.arg("run").env("PROXY_BIN", binary()).stdout(Stdio::piped());
        sys::die_with_thread(&mut command);
        let mut child = command.spawn().expect("start xtask");
        let (to, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { child, lines }
    }

    /// The next line that has these words, from the words on.
    #[track_caller]
    fn line(&self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|e| panic!("no line with {words:?}: {e}"));
            if let Some(at) = line.find(words) {
                return line[at + words.len()..].to_owned();
            }
        }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // In good order, since the proxy would outlive a killed xtask.
        for _ in 0..2 {
            if matches!(self.child.try_wait(), Ok(None)) {
                signal(self.pid(), Signal::SIGTERM);
            }
        }
        if wait_for(&mut self.child, Duration::from_secs(5)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn demo_does_what_it_says() {
    isolate();
    let mut demo = Demo::start();
    assert_eq!(demo.line("curl "), "http://127.0.0.1:8080/");
    assert_eq!(demo.line("nc -u -w1 "), "127.0.0.1 8080");
    assert_eq!(demo.line("curl "), format!("http://{METRICS}/metrics"));
    let pid: i32 = demo.line("kill -9 ").trim().parse().expect("a pid");
    let control = demo.line("upgrade --control ");

    let page = || metrics::get(at("127.0.0.1:8080"), "/").expect("a page");
    let pages: Vec<_> = (0..20).map(|_| page().body).collect();
    for server in ["server A", "server B"] {
        assert!(pages.iter().any(|body| body.starts_with(server)), "{pages:?}");
    }
    let outcome = ask_tcp(at("127.0.0.1:8080"), "a line", TIMEOUT);
    assert!(matches!(&outcome, Outcome::Answered(a) if a.ends_with(": a line")), "{outcome:?}");
    assert!(ask_udp(at("127.0.0.1:8080"), "hello", TIMEOUT).answered());
    assert!(metrics::get(at(METRICS), "/metrics").is_ok());

    signal(pid, Signal::SIGSTOP);
    assert_eq!(page().code, 200);
    let upgraded = Command::new(binary()).args(["upgrade", "--control", &control]).status();
    assert!(upgraded.expect("run proxy").success());
    let next: i32 = demo.line("proxy goes on: supervisor ").trim().parse().expect("a pid");
    assert_eq!(page().code, 200);

    until_true("the old ones are gone", || children(demo.pid()) == [next]);
    let all: Vec<_> = children(next).into_iter().chain([next]).collect();
    signal(demo.pid(), Signal::SIGINT);
    let end = wait_for(&mut demo.child, DEADLINE).expect("the demo ends");
    assert!(end.success(), "{end}");
    until_true("everything is gone", || !all.iter().any(|pid| alive(*pid)));
}

#[test]
fn demo_takes_free_ports_if_it_must() {
    isolate();
    let _taken = TcpListener::bind("127.0.0.1:8080").expect("bind");
    let _taken = TcpListener::bind(METRICS).expect("bind");
    let demo = Demo::start();
    demo.line("127.0.0.1:8080 cannot be had");
    demo.line("127.0.0.1:9100 cannot be had");
    let address = demo.line("curl http://");
    let page = metrics::get(at(address.trim_end_matches('/')), "/").expect("a page");
    assert_eq!(page.code, 200);
}
