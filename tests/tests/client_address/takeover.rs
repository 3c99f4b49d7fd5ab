//! A pool that dies or hangs, or a reload, in the middle of a header and after it.

use std::io::{Read, Write};

use nix::sys::signal::Signal;
use proxy_tests::clients::{carries, connect};
use proxy_tests::handover::reload;
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::takeover::take_over;
use proxy_tests::{PRIMARY, pattern};

use super::{ACCEPTS, LISTEN, REJECTED, SERVER, binary, expect, line, proxy, told};

const ENDS: [fn(&Proxy); 3] = [
    |proxy| take_over(proxy, PRIMARY, Signal::SIGKILL),
    |proxy| take_over(proxy, PRIMARY, Signal::SIGSTOP),
    |proxy| _ = reload(proxy),
];

/// One connection has half a header, one all of it, and two have carried something since; headers go both in
/// and out.
#[test]
fn a_header_outlives_who_was_reading_it() {
    for end in ENDS {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let proxy = proxy(ACCEPTS, r#"send_proxy = "v2""#).flag("--fence-after", "400ms").start();
        let ((source, asked), next) =
            (told(), || accepted.recv_timeout(PATIENCE).expect("the proxy connects"));
        let header = line(source, asked);
        let mut half = connect(at(LISTEN));
        half.write_all(&header[..20]).expect("write");
        let mut whole = connect(at(LISTEN));
        whole.write_all(&header).expect("write");
        let mut of_whole = next();
        let mut busy = connect(at(LISTEN));
        busy.write_all(&[&header[..], b"ping"].concat()).expect("write");
        let mut of_busy = next();
        expect(&mut of_busy, &binary(source, asked, 1));
        expect(&mut of_busy, b"ping");
        carries(&mut of_busy, &mut busy);
        let mut sender = busy.try_clone().expect("clone");
        // Nobody reads: bytes are in all buffers, and the positions are compared.
        let length = 8 << 20;
        let sender = std::thread::spawn(move || pattern::write(&mut sender, length).expect("write"));
        proxy.until_metric("proxy_pipes", &[("state", "lent")], 1.0);

        end(&proxy);

        half.write_all(&[&header[20..], b"ping"].concat()).expect("write");
        let mut of_half = next();
        expect(&mut of_half, &binary(source, asked, 1));
        expect(&mut of_half, b"ping");
        expect(&mut of_whole, &binary(source, asked, 1));
        carries(&mut whole, &mut of_whole);
        carries(&mut of_whole, &mut whole);
        assert_eq!(pattern::verify(&mut of_busy.take(length as u64)).expect("read"), length);
        sender.join().expect("the sender");
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("proxy_takeover_audit_mismatches_total", &[]), 0.0);
        assert!(metrics.sum("proxy_adopted_flows_total", &[("protocol", "tcp")]) >= 3.0);
        assert_eq!(metrics.sum(REJECTED, &[]), 0.0);
    }
}
