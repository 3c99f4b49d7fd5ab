//! Headers of datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::PRIMARY;
use proxy_tests::handover::reload;
use proxy_tests::net::{at, isolate};
use proxy_tests::programs::{find, run};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::takeover::take_over;
use proxy_tests::wait::until_true;

use super::{ACCEPTS, LISTEN, LOCAL, SERVER, binary, proxy, told};

const DROPPED: &str = "proxy_udp_datagrams_dropped_total";
const DATAGRAM: u8 = 2;

#[track_caller]
fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("bind");
    socket.connect(LISTEN).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

#[track_caller]
fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let size = client.recv(&mut buffer).expect("an answer");
    buffer.truncate(size);
    buffer
}

/// What comes back from a server that sends back what it got.
#[track_caller]
fn ask(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    client.send(datagram).expect("send");
    receive(client)
}

/// Each datagram has its header, whatever its size, and however many come at once.
#[test]
fn each_datagram_tells_the_server() {
    isolate();
    // As on a network: what is larger goes out in fragments, and not in segments.
    run(Command::new(find("ip")).args(["link", "set", "lo", "mtu", "1500"]));
    let server = servers::Udp::echo(SERVER);
    let proxy = proxy("", r#"send_proxy = "v2""#).start();
    let client = client("127.0.0.1");
    let header = binary(client.local_addr().expect("address"), at(LISTEN), DATAGRAM);
    for size in [0, 1, 1444, 1472, 9000, 65_507 - 28] {
        let payload = vec![size as u8; size];
        assert_eq!(ask(&client, &payload), [&header[..], &payload].concat(), "{size} bytes");
    }
    let sizes: Vec<usize> = (0..60).map(|number| if number % 20 < 15 { 1200 } else { 10 * number }).collect();
    for burst in sizes.chunks(20) {
        for (number, size) in burst.iter().enumerate() {
            client.send(&vec![number as u8; *size]).expect("send");
        }
        for (number, size) in burst.iter().enumerate() {
            assert_eq!(receive(&client), [&header[..], &vec![number as u8; *size]].concat());
        }
    }
    assert_eq!(server.seen().peers.len(), 1);
    assert_eq!(proxy.metrics().sum(DROPPED, &[]), 0.0);
    // With the header it is larger than any datagram.
    client.send(&vec![0; 65_507 - 27]).expect("send");
    proxy.until_metric(DROPPED, &[("reason", "unsendable")], 1.0);
    assert_eq!(ask(&client, b"on"), [&header[..], b"on"].concat());
}

/// Flows are told apart by what their headers tell, though all come from one socket.
#[test]
fn a_header_says_whose_flow_it_is() {
    isolate();
    let server = servers::Udp::echo(SERVER);
    let proxy = proxy(ACCEPTS, r#"send_proxy = "v2""#).start();
    let client = client("127.0.0.1");
    let own = client.local_addr().expect("address");
    let sources: Vec<SocketAddr> =
        (1..=4).map(|number| SocketAddr::from(([192, 0, 2, number], 53))).collect();
    let headers = sources.iter().map(|source| binary(*source, told().1, DATAGRAM));
    let headers: Vec<Vec<u8>> = headers.collect();
    // Of one size and one sender, so that they would be received as one; in turns.
    for number in 0..40u8 {
        client.send(&[&headers[usize::from(number % 4)][..], &[number; 100]].concat()).expect("send");
    }
    let mut answers: Vec<_> = (0..40).map(|_| receive(&client)).collect();
    answers.sort_by_key(|answer| answer.last().copied());
    for (number, answer) in (0..40u8).zip(answers) {
        assert_eq!(answer, [&headers[usize::from(number % 4)][..], &[number; 100]].concat());
    }
    assert_eq!(server.seen().peers.len(), 4, "a flow for each source");
    let local = [LOCAL, b"self"].concat();
    assert_eq!(ask(&client, &local), [&binary(own, at(LISTEN), DATAGRAM)[..], b"self"].concat());
    assert_eq!(ask(&client, &headers[0]), headers[0], "an empty datagram");
    // Who is not trusted is not looked at; who is has to begin with a header.
    let other = self::client("127.0.0.2");
    let header = binary(other.local_addr().expect("address"), at(LISTEN), DATAGRAM);
    assert_eq!(ask(&other, &headers[0]), [&header[..], &headers[0]].concat());
    for wrong in [&b"no header"[..], b"", &headers[0][..20], b"PROXY UNKNOWN\r\n"] {
        client.send(wrong).expect("send");
    }
    proxy.until_metric(DROPPED, &[("reason", "header")], 4.0);
    assert_eq!(proxy.metrics().sum(DROPPED, &[]), 4.0);
    assert_eq!(server.seen().peers.len(), 6);
}

/// The flow of each source goes on, by the same port to the server.
#[test]
fn flows_stay_apart_in_a_takeover_and_in_a_reload() {
    let ends: [fn(&Proxy); 2] =
        [|proxy| take_over(proxy, PRIMARY, Signal::SIGKILL), |proxy| _ = reload(proxy)];
    for end in ends {
        isolate();
        let server = servers::Udp::naming(SERVER, "A");
        let proxy = proxy(ACCEPTS, "").start();
        let client = client("127.0.0.1");
        let header = |number: u8| binary(SocketAddr::from(([192, 0, 2, number], 53)), told().1, DATAGRAM);
        let ask = |number: u8| {
            let mut answer = Vec::new();
            client.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
            until_true("an answer", || {
                client.send(&[&header(number)[..], &[b'0' + number]].concat()).expect("send");
                let mut buffer = [0; 100];
                let got = client.recv(&mut buffer);
                got.is_ok_and(|size| {
                    answer = buffer[..size].to_vec();
                    answer.last() == Some(&(b'0' + number))
                })
            });
            answer
        };
        let before: Vec<_> = (1..5).map(ask).collect();
        end(&proxy);
        let after: Vec<_> = (1..5).map(ask).collect();
        assert_eq!(after, before);
        assert_eq!(server.seen().peers.len(), 4);
        assert!(proxy.metrics().sum("proxy_adopted_flows_total", &[("protocol", "udp")]) >= 4.0);
    }
}
