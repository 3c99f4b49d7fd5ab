//! `[upstream.NAME]`.

use std::time::Duration;

use super::super::{
    ConfigError, Given,
    read::{At, Field, Fields, Section, Value},
    table::{Kind, Setting, Table, table},
    values::{Balance, Bytes, CheckKind, OnDown, Patience, ProxyVersion},
};
use super::{KEEPALIVE, LONG, MOST, TIMES};

/// Of what has its default in `[defaults]`.
const THEIRS: &str = "as in [defaults]";

table! {
    /// A set of servers of which one is as good as the other. A server is reached by the protocol of the listener.
    "[upstream.NAME]" UpstreamSettings name {
        /// Its servers, at least one.
        servers as "server": Vec<ServerGiven>;
        /// Which of the servers that are up a new connection or UDP flow goes to: of two random ones the one with
        /// fewer open connections; each in turn; the one with the fewest; or always the same one for the same
        /// client address. All go by weight.
        balance: Option<Given<Balance>> [.default(r#""random-two""#)];
        /// How many further servers are tried for one connection.
        retries: Option<Given<u32>> [.default("2").numbers(0, 16)];
        /// Limit on one attempt to connect to a server.
        connect_timeout: Option<Given<Duration>> [.without(THEIRS).like(r#""5s""#).times(TIMES)];
        /// Tell servers whom a connection is from, by a PROXY header of this version; UDP: `"v2"`, before each
        /// datagram.
        send_proxy: Option<Given<ProxyVersion>> [.without("no header").like(r#""v2""#)];
        /// Connect to servers from the client's own address (`IP_TRANSPARENT`). Servers' answers have to be routed
        /// back through this machine.
        transparent: Option<Given<bool>> [.default("false")];
        /// What becomes of open connections to a server that is down by its health checks: they go on, or are reset.
        on_down: Option<Given<OnDown>> [.default(r#""keep""#)];
        /// Time in which a server that comes up, or back after an ejection, gets up to its share, beginning with a tenth
        /// of it. Not by `"source-hash"`.
        slow_start: Option<Given<Duration>> [.without("its whole share at once").like(r#""30s""#).times(LONG)];
        /// How long a connection waits while all servers have their `max_connections`, counted from when it was
        /// accepted; then it is reset.
        queue_timeout: Option<Given<Duration>> [.without("reset at once").like(r#""10s""#).times(LONG)];
        /// Idle time before TCP keepalive asks whether the server is still there; in whole seconds.
        keepalive: Option<Given<Duration>> [.without(THEIRS).like(r#""60s""#).times(KEEPALIVE)];
        /// Reset a TCP connection whose server has not acknowledged what was sent for this long.
        user_timeout: Option<Given<Patience>> [.without(THEIRS).like(r#""30s""#).times(TIMES)];
        /// Shortest time between two look-ups of a server's name, whatever the answer's TTL.
        resolve_min: Option<Given<Duration>> [.default(r#""1s""#).times(TIMES)];
        /// Longest one, whatever the answer's TTL.
        resolve_max: Option<Given<Duration>> [.default(r#""60s""#).times(TIMES)];
        /// When a server that fails connections is passed over.
        eject: EjectSettings [.like("{ failures = 3 }")];
        /// Active checks.
        health: Option<HealthSettings> [.without("none").like(r#"{ check = "tcp" }"#)];
    }
}

table! {
    /// A server.
    "[[upstream.NAME.server]]" ServerGiven {
        /// `HOST:PORT`; all addresses of a name are servers. Or `unix:///PATH`: a unix socket of connections, not for
        /// UDP listeners. The user that pools run as has to have the right to connect.
        address: Given<String> [.like(r#""10.0.0.1:5432""#)];
        /// Its share of the traffic, beside the others' weights; 0: nothing new.
        weight: Option<Given<u32>> [.default("1").numbers(0, 1000)];
        /// It gets traffic only while no server that is no backup is up, not passed over, and not full.
        backup: Option<Given<bool>> [.default("false")];
        /// Limit on open connections and UDP flows to it.
        max_connections: Option<Given<u32>> [.without("none").like("100").numbers(1, MOST)];
    }
}

table! {
    /// When a server that fails connections is passed over, and for how long. If all are, all are tried.
    "[upstream.NAME.eject]" EjectSettings {
        /// After so many failures in a row; 0: never.
        failures: Option<Given<u32>> [.default("1").numbers(0, 1000)];
        /// For so long at first, and twice as long each further time; half as long again for each such time that it
        /// was up in between.
        time: Option<Given<Duration>> [.default(r#""1s""#).times(TIMES)];
        /// At most so long.
        max_time: Option<Given<Duration>> [.default(r#""60s""#).times(TIMES)];
    }
}

table! {
    /// Active checks of each server. A server that is down gets nothing new.
    "[upstream.NAME.health]" HealthSettings {
        /// What is done: `"tcp"` connects, and sends and expects something if that is given; `"http"` asks for a
        /// path; `"udp"` sends a datagram; `"exec"` runs a program.
        check: Option<Given<CheckKind>> [.default(r#""tcp""#)];
        /// Time from one check of a server to the next.
        interval: Option<Given<Duration>> [.default(r#""2s""#).times((Duration::from_millis(10), TIMES.1))];
        /// Limit on one check; at most the interval.
        timeout: Option<Given<Duration>> [.default(r#""1s""#).times(TIMES)];
        /// Checks in a row that have to go well before a server that is down is up.
        rise: Option<Given<u32>> [.default("2").numbers(1, 1000)];
        /// Checks in a row that have to fail before a server that is up is down.
        fall: Option<Given<u32>> [.default("3").numbers(1, 1000)];
        /// The port that is checked.
        port: Option<Given<u16>> [.without("the server's own").like("8080").numbers(1, 65535)];
        /// tcp and udp: what is sent.
        send: Option<Given<Bytes>> [.without("nothing").like(r#""PING\r\n""#)];
        /// tcp and udp: what has to be somewhere in the answer. Without it, of UDP only ICMP errors tell.
        expect: Option<Given<Bytes>> [.without("nothing").like(r#""+PONG""#)];
        /// http: what is asked for, by `GET`.
        path: Option<Given<String>> [.default(r#""/""#).like(r#""/healthz""#)];
        /// http: the `Host` header.
        host: Option<Given<String>> [.without("the server's address").like(r#""app.example.com""#)];
        /// http: what the answer's status has to be, one or from-to.
        status: Option<Given<String>> [.default(r#""200-399""#)];
        /// exec: the program, by its absolute path, and its first arguments; the server's address and port come
        /// after them. It has to end with 0 within the timeout; what it has started is killed with it, but for what
        /// has left its process group (setsid(1)), which it must not do.
        command: Option<Given<Vec<Given<String>>>> [.like(r#"["/usr/bin/check", "arg"]"#)];
    }
}
