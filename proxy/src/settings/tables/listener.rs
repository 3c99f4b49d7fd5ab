//! `[[listener]]`.

use std::time::Duration;

use ipnet::IpNet;

use super::super::{
    ConfigError, Given,
    read::{At, Field, Fields, Section, Value},
    table::{Kind, Setting, Table, table},
    values::{Bandwidth, Frequency, Patience},
};
use super::{KEEPALIVE, MOST, TIMES};

/// Of what has its default in `[defaults]`.
const THEIRS: &str = "as in [defaults]";

table! {
    /// What to listen on, and whom to let in. As many of these as you like, each with a name of its own.
    "[[listener]]" ListenerSettings {
        /// Its name in metrics, status and logs: letters, digits, or any of `-` `_` `.`, at most 64.
        name: Given<String> [.like(r#""database""#)];
        /// Addresses: `tcp://IP:PORT` or `udp://IP:PORT`, or `IP:FROM-TO` for all ports of a range. `0.0.0.0` is
        /// every IPv4 address of the machine, `[::]` every address. `unix:///PATH` is a unix socket of connections:
        /// everybody may connect who may look into its directory. At most 1,024 of all listeners.
        bind: Given<Vec<Given<String>>> [.like(r#"["tcp://0.0.0.0:5432"]"#)];
        /// The name of the upstream that the traffic goes to.
        upstream: Given<String> [.like(r#""postgres""#)];
        /// Clients that are let in. If a network here and one of `deny` both hold a client, the narrower counts.
        allow: Option<Given<Vec<Given<IpNet>>>> [.without("everybody").like(r#"["10.0.0.0/8"]"#)];
        /// Clients that are turned away.
        deny: Option<Given<Vec<Given<IpNet>>>> [.without("nobody").like(r#"["10.9.0.0/16"]"#)];
        /// Clients begin with a PROXY header (version 1 or 2), which says whom the connection is from.
        accept_proxy: Option<AcceptProxy> [.without("none is looked for").like(r#"{ from = ["10.0.0.1"] }"#)];
        /// Limit on open connections and UDP flows, of all its addresses together.
        max_connections: Option<Given<u32>> [.without("none").like("1000").numbers(1, MOST)];
        /// Limit on open connections and UDP flows of one client: an IPv4 address, or an IPv6 network of 64 bits.
        max_connections_per_source: Option<Given<u32>> [.without("none").like("10").numbers(1, MOST)];
        /// Limit on new connections and UDP flows, of all its addresses together.
        max_connection_rate: Option<Given<Frequency>> [.without("none").like(r#""100/s""#)];
        /// How many of them may come at once, after a rest.
        max_connection_burst: Option<Given<u32>>
            [.without("as many as come in a second at that rate, at least 1").like("200").numbers(1, MOST)];
        /// Limit on each direction of each TCP connection. (UDP flows have none.)
        bandwidth: Option<Given<Bandwidth>> [.without("none").like(r#""10MiB/s""#).numbers(1024, 1 << 40)];
        /// End a connection or UDP flow that is this old, whatever it does.
        max_lifetime: Option<Given<Patience>> [.without(THEIRS).like(r#""24h""#).times(TIMES)];
        /// Close a TCP connection on which nothing came or went for this long.
        idle_timeout: Option<Given<Patience>> [.without(THEIRS).like(r#""1h""#).times(TIMES)];
        /// Reset a TCP connection of which one side has ended, and on which nothing came or went for this long.
        half_close_timeout: Option<Given<Patience>> [.without(THEIRS).like(r#""5m""#).times(TIMES)];
        /// Forget a UDP flow on which nothing came or went for this long.
        udp_idle: Option<Given<Duration>> [.without(THEIRS).like(r#""60s""#).times(TIMES)];
        /// Datagrams from the server that each datagram of a UDP client asks for, such as 1 for DNS; with the last
        /// of them the flow ends.
        udp_responses: Option<Given<u32>> [.without("any number").like("1").numbers(1, MOST)];
        /// Idle time before TCP keepalive asks whether the client is still there; in whole seconds.
        keepalive: Option<Given<Duration>> [.without(THEIRS).like(r#""60s""#).times(KEEPALIVE)];
        /// Reset a TCP connection whose client has not acknowledged what was sent for this long.
        user_timeout: Option<Given<Patience>> [.without(THEIRS).like(r#""30s""#).times(TIMES)];
        /// Whether its connections and UDP flows are told of in the access log, if there is one.
        access_log: Option<Given<bool>> [.default("true")];
        /// How long a connection may take to say, by its TLS ClientHello, which server it is for; then its
        /// upstream is that of the listener. It is looked at once a second, and may be late by that.
        sni_timeout: Option<Given<Duration>> [.without(THEIRS).like(r#""5s""#).times(TIMES)];
        /// Other upstreams, by the server name of the TLS ClientHello that a TCP connection begins with.
        sni: Vec<SniSettings>;
    }
}

impl ListenerSettings {
    /// Whether there are addresses for streams (TCP and others), and for datagrams.
    pub fn traffic(&self) -> (bool, bool) {
        let mut are_udp = self.bind.value.iter().map(|url| url.value.starts_with("udp://"));
        (are_udp.clone().any(|is_udp| !is_udp), are_udp.any(|is_udp| is_udp))
    }
}

table! {
    /// From whom a PROXY header is accepted.
    "[listener.accept_proxy]" AcceptProxy {
        /// Proxies before this one, which begin each connection, or datagram, with a header; that has to be there.
        /// What other clients send is not looked at.
        from: Given<Vec<Given<IpNet>>> [.like(r#"["10.0.0.1"]"#)];
        /// How long the header may take; then the connection is reset. It is looked at once a second, and may be late by
        /// that.
        timeout: Option<Given<Duration>> [.default(r#""5s""#).times(TIMES)];
    }
}

table! {
    /// Where TLS connections for some servers go. TLS is looked at, not ended.
    "[[listener.sni]]" SniSettings {
        /// Server names; `*.example.com` is all names below `example.com`. The longest one that fits counts.
        server_names: Given<Vec<Given<String>>> [.like(r#"["db.example.com", "*.example.org"]"#)];
        /// The name of the upstream that they go to.
        upstream: Given<String> [.like(r#""other""#)];
    }
}
