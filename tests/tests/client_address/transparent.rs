//! Servers that see the client's own address.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use nix::sys::signal::Signal;
use proxy_tests::PRIMARY;
use proxy_tests::clients::{carries, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::programs::{find, run};
use proxy_tests::servers::{self, PATIENCE, read_all};
use proxy_tests::takeover::take_over;

use super::{ACCEPTS, LISTEN, REJECTED, SERVER, binary, line, proxy, told};

/// Lets what the server sends to clients come back to this machine, as the router or the server of a real network
/// has to: the clients' addresses are nobody's here, and so nobody without the right could bind to one.
#[track_caller]
fn route_back() {
    let commands = [
        "rule add ipproto tcp sport 9001 lookup 100",
        "rule add ipproto udp sport 9001 lookup 100",
        "route add local 192.0.2.0/24 dev lo table 100",
    ];
    for command in commands {
        run(Command::new(find("ip")).args(command.split(' ')));
    }
}

#[test]
fn the_server_sees_the_client() {
    isolate();
    route_back();
    let (source, asked) = told();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = proxy(ACCEPTS, "transparent = true").start();
    let mut client = connect(at(LISTEN));
    client.write_all(&line(source, asked)).expect("write");
    let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
    assert_eq!(server.peer_addr().expect("peer").ip(), source.ip());
    carries(&mut client, &mut server);
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    carries(&mut server, &mut client);
    carries(&mut client, &mut server);
    // New ones, by the heir and the new pool, too.
    let mut client = connect(at(LISTEN));
    client.write_all(&line(source, asked)).expect("write");
    let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
    assert_eq!(server.peer_addr().expect("peer").ip(), source.ip());
    carries(&mut server, &mut client);
    // A server of the other family cannot be shown the client; it is not its fault.
    let mut client = connect(at(LISTEN));
    client.write_all(&line(at("[2001:db8::7]:1"), at("[2001:db8::8]:2"))).expect("write");
    read_all(&mut client).expect_err("it is reset");
    proxy.until_metric(REJECTED, &[("reason", "source")], 1.0);
    assert_eq!(proxy.metrics().sum("proxy_upstream_server_connect_failures_total", &[]), 0.0);
}

#[test]
fn the_server_sees_who_sends_datagrams() {
    isolate();
    route_back();
    let (source, asked) = told();
    let server = servers::Udp::echo(SERVER);
    let _proxy = proxy(ACCEPTS, "transparent = true").start();
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(PATIENCE)).expect("timeout");
    client.send_to(&[&binary(source, asked, 2)[..], b"ping"].concat(), LISTEN).expect("send");
    let mut buffer = [0; 100];
    assert_eq!(client.recv(&mut buffer).expect("an answer"), 4);
    let peers: Vec<_> = server.seen().peers.iter().map(SocketAddr::ip).collect();
    assert_eq!(peers, [source.ip()]);
}

/// Pools keep this one right, and no pool keeps it for nothing.
#[test]
fn pools_keep_one_right_if_it_is_wanted() {
    for (upstream, expected) in [("transparent = true", "0000000000002000"), ("", "0000000000000000")] {
        isolate();
        let proxy = proxy("", upstream).start();
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid(PRIMARY))).expect("status");
        for set in ["CapPrm", "CapEff", "CapAmb", "CapInh"] {
            let line = status.lines().find(|line| line.starts_with(set)).expect("a line");
            let expected = if matches!(set, "CapPrm" | "CapEff") { expected } else { "0000000000000000" };
            assert!(line.ends_with(expected), "{line}");
        }
        assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
    }
}

#[test]
fn without_the_right_it_is_said_what_to_do() {
    isolate();
    let bounded = ["setpriv", "--bounding-set=-net_raw"];
    let words = ["cap_net_raw", "upstream app has transparent = true"];
    proxy("", "transparent = true").through(&bounded).check().says(1, &words);
    proxy("", "transparent = true").through(&bounded).fails().says(1, &words);
}
