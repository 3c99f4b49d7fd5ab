//! Limits on bandwidth.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use proxy_tests::net::{at, isolate};
use proxy_tests::{PRIMARY, clients, pattern, servers};

use crate::*;

const RULES: &str = "bandwidth = \"2MB/s\"";
const RATE: f64 = 2e6;
/// Bytes of a transfer.
const LENGTH: usize = 8_000_000;
/// The first ten segments go unpaced, each of the loopback's largest size, and twice over: into and out of it.
const BURST: f64 = 20.0 * 65_483.0;

/// Sends the pattern, and ends.
fn tell(mut stream: TcpStream) -> JoinHandle<()> {
    thread::spawn(move || {
        pattern::write(&mut stream, LENGTH).expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    })
}

/// Reads so much of the pattern; `None`: to its end.
#[track_caller]
fn hear(stream: &mut TcpStream, from: usize, to: Option<usize>) -> usize {
    let (mut at, mut buffer) = (from, vec![0; 16 << 10]);
    while to.is_none_or(|to| at < to) {
        let size = stream.read(&mut buffer).expect("read");
        assert!(buffer[..size] == *pattern::from(at, size), "wrong bytes from {at}");
        at += size;
        if size == 0 {
            break;
        }
    }
    at
}

#[track_caller]
fn assert_paced(bytes: usize, start: Instant) {
    let least = Duration::from_secs_f64((bytes as f64 - BURST).max(0.0) / RATE);
    let took = start.elapsed();
    println!("{bytes} bytes took {took:?}, at least {least:?}");
    assert!(took >= least, "{bytes} bytes took {took:?}, less than {least:?}");
}

#[track_caller]
fn pair(accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    clients::pair(at(LISTEN), accepted)
}

/// Each direction has its own, and keeps it through a takeover and a reload.
#[test]
fn a_transfer_keeps_its_pace() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let file = File::new(RULES);
    let proxy = file.start();
    let (mut client, mut server) = pair(&accepted);
    let start = Instant::now();
    let tellers = [&client, &server].map(|stream| tell(stream.try_clone().expect("clone")));
    let other = thread::spawn(move || {
        hear(&mut server, 0, None);
        assert_paced(LENGTH, start);
    });
    let mut at = hear(&mut client, 0, Some(LENGTH / 4));
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    let (middle, from) = (Instant::now(), at);
    // What had piled up meanwhile comes at once; what is sent after that does not.
    at = hear(&mut client, at, Some(at + LENGTH / 4));
    proxy.until_status("protected", Status::protected);
    reload(&proxy);
    at = hear(&mut client, at, None);
    assert_eq!(at, LENGTH);
    println!("{} bytes in {:?} after the takeover", at - from, middle.elapsed());
    assert_paced(LENGTH, start);
    other.join().expect("the other direction");
    tellers.into_iter().for_each(|teller| teller.join().expect("the teller"));
}

/// What is open keeps its pace at a reload with another limit; what comes then has the new one.
#[test]
fn a_limit_comes_by_reload() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let file = File::new("");
    let proxy = file.start();
    let (_client, _server_end) = pair(&accepted);
    file.write(RULES);
    reload(&proxy);
    let (mut client, server) = pair(&accepted);
    let start = Instant::now();
    let teller = tell(server);
    assert_eq!(hear(&mut client, 0, None), LENGTH);
    assert_paced(LENGTH, start);
    teller.join().expect("the teller");
}
