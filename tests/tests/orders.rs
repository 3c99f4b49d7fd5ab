//! `proxy upstream`: servers drained, weighed, added and removed under load, and what becomes of such orders when
//! processes of the proxy die or hand over.

use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::clients::{Crowd, Outcome, ask_on, ask_tcp, connect};
use proxy_tests::handover::hand_over;
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::settings::File;
use proxy_tests::takeover::take_over;
use proxy_tests::{PRIMARY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const A: &str = "127.0.0.1:9001";
const B: &str = "127.0.0.1:9002";
const C: &str = "127.0.0.1:9003";
const TIMEOUT: Duration = Duration::from_secs(5);

const SETTINGS: &str = "[defaults]\nworkers = 2\n[[listener]]\nname = \"l\"\nbind = [\"tcp://127.0.0.1:8080\"]\n\
    upstream = \"db\"\n[upstream.db]\n[[upstream.db.server]]\naddress = \"127.0.0.1:9001\"\n\
    [[upstream.db.server]]\naddress = \"127.0.0.1:9002\"\n";

fn all() -> [servers::Tcp; 3] {
    [(A, "A"), (B, "B"), (C, "C")].map(|(address, name)| servers::Tcp::lines(address, name))
}

#[track_caller]
fn order(proxy: &Proxy, words: &str) -> String {
    let words: Vec<&str> = ["upstream"].into_iter().chain(words.split(' ')).collect();
    let answer = proxy.verb(&words);
    assert_eq!(answer.code, Some(0), "{words:?}: {}", answer.text);
    answer.text
}

#[track_caller]
fn refused(proxy: &Proxy, words: &str, code: i32, why: &[&str]) {
    let words: Vec<&str> = ["upstream"].into_iter().chain(words.split(' ')).collect();
    proxy.verb(&words).says(code, why);
}

/// How many of so many new connections each server got, kept open.
fn spread(count: usize) -> ([usize; 3], Vec<TcpStream>) {
    let mut counts = [0; 3];
    let mut open: Vec<TcpStream> = (0..count).map(|_| connect(at(LISTEN))).collect();
    for stream in &mut open {
        match ask_on(stream, "hello") {
            Outcome::Answered(answer) => {
                let name = ["A hello", "B hello", "C hello"].iter().position(|known| *known == answer);
                counts[name.unwrap_or_else(|| panic!("{answer}"))] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    (counts, open)
}

/// Draining keeps what is open and takes nothing new; a server is added, takes its part, and is removed; all of it
/// holds whoever dies, and through reloads and upgrades.
#[test]
fn orders_hold() {
    isolate();
    let _servers = all();
    let file = File::new(SETTINGS);
    let proxy = file.start();
    let (before, mut open) = spread(20);
    assert!(before[0] > 0 && before[1] > 0 && before[2] == 0, "{before:?}");
    assert!(order(&proxy, &format!("drain db {A}")).contains("nothing new"));
    assert!(order(&proxy, &format!("add {C}")).contains("added"));
    order(&proxy, &format!("weight {B} 3"));
    let assert_holds = |what: &str, open: &mut Vec<TcpStream>| {
        let (now, _new) = spread(20);
        assert!(now[0] == 0 && now[1] > 0 && now[2] > 0, "{what}: {now:?}");
        for stream in open {
            assert!(ask_on(stream, "hello").answered(), "{what}: what is open goes on");
        }
        let status = proxy.status();
        assert_eq!(status.state_of(A), Some("draining"), "{what}");
        assert_eq!(status.server(A).open, before[0] as u64, "{what}");
        assert_eq!((status.server(B).weight, status.server(B).reweighed), (3, true), "{what}");
        assert!(status.server(C).added, "{what}");
    };
    assert_holds("ordered", &mut open);
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    assert_holds("a pool died", &mut open);
    let control = proxy.status().control.pid;
    signal(control, Signal::SIGKILL);
    proxy.until_status("another control", |status| status.control.pid != control);
    assert_holds("control died", &mut open);
    for kind in ["reload", "upgrade"] {
        hand_over(&proxy, &[kind]);
        assert_holds(kind, &mut open);
    }
    order(&proxy, &format!("ready {A}"));
    order(&proxy, &format!("weight {B} default"));
    order(&proxy, &format!("remove {C}"));
    let (after, _new) = spread(30);
    assert!(after[0] > 0 && after[1] > 0 && after[2] == 0, "{after:?}");
    assert_eq!(proxy.status().server(B).weight, 1);
    hand_over(&proxy, &["reload"]);
    assert_ne!(proxy.status().state_of(C), Some("up"), "removed for good");
    assert_eq!(spread(10).0[2], 0);
    assert!(open.iter_mut().all(|stream| ask_on(stream, "hello").answered()));
}

/// Nobody is lost while servers come and go under load.
#[test]
fn orders_under_load() {
    isolate();
    let _servers = all();
    let proxy = File::new(SETTINGS).start();
    let load = Crowd::start(8, |_| ask_tcp(at(LISTEN), "hello", TIMEOUT));
    for round in 0..5 {
        for words in [format!("add {C} --weight 2"), format!("drain {A}"), format!("weight {B} 2")] {
            order(&proxy, &words);
            load.wait_answered(20);
        }
        let before = proxy.metrics().sum("proxy_upstream_server_connections_total", &[("server", C)]);
        load.wait_answered(50);
        let now = proxy.metrics().sum("proxy_upstream_server_connections_total", &[("server", C)]);
        assert!(now > before, "round {round}: it takes its part");
        for words in [format!("remove {C}"), format!("ready {A}"), format!("weight {B} default")] {
            order(&proxy, &words);
            load.wait_answered(20);
        }
    }
    let tally = load.finish();
    assert_eq!(tally.failed(), 0, "{tally:?}");
}

#[test]
fn a_list_and_what_is_refused() {
    isolate();
    let _servers = all();
    let proxy = File::new(SETTINGS).start();
    order(&proxy, &format!("drain {A}"));
    order(&proxy, &format!("add db {C} --weight 4 --backup"));
    let text = order(&proxy, "list");
    assert!(text.contains("draining (by order: drained)"), "{text}");
    assert!(text.contains("up, backup (by order: weight 4, added)"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&order(&proxy, "list db --json")).expect("JSON");
    let upstream = &json["upstreams"][0];
    assert_eq!((upstream["name"].as_str(), upstream["on_down"].as_str()), (Some("db"), Some("keep")));
    for key in ["name", "address", "state", "weight", "open", "total", "failures", "up"] {
        assert!(upstream["servers"][0].get(key).is_some(), "no {key} in {json}");
    }
    assert!(proxy.verb(&["status"]).text.contains("by order: drained"));
    refused(&proxy, "list bd", 1, &["no upstream bd", "db"]);
    refused(&proxy, &format!("remove {A}"), 1, &["of the settings", "reload", "drain"]);
    refused(&proxy, "drain 127.0.0.1:9009", 1, &["no server 127.0.0.1:9009", "nearest"]);
    refused(&proxy, &format!("add {LISTEN}"), 1, &["our own listener"]);
    refused(&proxy, "add db.example:1", 1, &["is no address"]);
    refused(&proxy, &format!("weight {A} lots"), 2, &["no weight"]);
    refused(&proxy, &format!("weight {A} 1001"), 1, &["0 to 1000"]);
    refused(&proxy, "drain", 2, &["usage"]);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_upstream_server_weight", &[("server", C)]), 4.0);
    assert_eq!(metrics.sum("proxy_upstream_server_state", &[("server", A), ("state", "draining")]), 1.0);
    assert_eq!(metrics.sum("proxy_upstream_server_up", &[("server", A)]), 1.0, "it is well");
}
