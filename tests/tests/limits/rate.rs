//! Limits on new connections.

use proxy_tests::net::isolate;
use proxy_tests::servers;

use crate::*;

/// So many at once, by both protocols and whichever worker takes them; then no more, for hours.
#[test]
fn new_connections_are_limited() {
    isolate();
    let _servers = (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"));
    let file = File::new("max_connection_rate = \"1/h\"\nmax_connection_burst = 6");
    let proxy = file.start();
    for address in [LISTEN, LISTEN_TOO, LISTEN, LISTEN] {
        drop(let_in(ONE, address));
    }
    let flows = [datagram_from(ONE), datagram_from(OTHER)];
    assert!(flows.iter().all(|(_, outcome)| outcome.answered()));
    through_everything(&proxy, || {
        turned_away(ONE, LISTEN);
        turned_away(OTHER, LISTEN_TOO);
        dropped(&proxy, OTHER, "rate");
    });
    assert_eq!(proxy.metrics().sum(REJECTED, &[("reason", "rate")]), 8.0);
    // Flows that are there are none that come.
    let (flow, _) = &flows[0];
    flow.send(b"again").expect("send");
    assert!(flow.recv(&mut [0; 100]).is_ok());
}

/// Whoever is turned away for another reason does not count.
#[test]
fn who_is_denied_takes_nothing_of_the_rate() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let rules = "max_connection_rate = \"1/h\"\nmax_connection_burst = 2\ndeny = [\"127.0.0.2\"]";
    let _proxy = File::new(rules).start();
    for _ in 0..10 {
        turned_away(OTHER, LISTEN);
    }
    drop((let_in(ONE, LISTEN), let_in(ONE, LISTEN)));
    turned_away(ONE, LISTEN);
}
