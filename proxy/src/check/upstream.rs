//! Whether upstream servers can be reached now. Only a warning: they may come up later.

use std::{net::TcpStream, thread, time::Duration};

use super::Finding;
use crate::{
    config::{Config, Server},
    sys::socket::Protocol,
};

/// Limit on one attempt.
const LIMIT: Duration = Duration::from_secs(1);

/// Attempts at once.
const AT_ONCE: usize = 64;

/// All servers that a listener reaches by TCP. (UDP does not tell.)
pub fn all(config: &Config) -> Vec<Finding> {
    let is_by_tcp = |upstream: usize| {
        let mut of_it = config.listeners.iter().filter(|listener| listener.upstream as usize == upstream);
        of_it.any(|listener| listener.address.protocol == Protocol::Tcp)
    };
    let by_tcp = config.upstreams.iter().enumerate().filter(|(number, _)| is_by_tcp(*number));
    let servers: Vec<&Server> =
        by_tcp.flat_map(|(_, upstream)| &config.servers[upstream.servers.clone()]).collect();
    servers.chunks(AT_ONCE).flat_map(some).collect()
}

/// Upstreams that no listener's traffic goes to.
pub fn unused(config: &Config) -> Vec<Finding> {
    let is_used =
        |number: usize| config.listeners.iter().any(|listener| listener.upstream as usize == number);
    let unused = config.upstreams.iter().enumerate().filter(|(number, _)| !is_used(*number));
    unused
        .map(|(_, upstream)| {
            let what = format!("upstream {}", upstream.name);
            Finding::warn(
                what,
                "no listener's traffic goes there",
                "name it in a [[listener]], or leave it out",
            )
        })
        .collect()
}

fn some(servers: &[&Server]) -> Vec<Finding> {
    thread::scope(|scope| {
        let attempts: Vec<_> = servers.iter().map(|server| scope.spawn(|| one(server))).collect();
        attempts.into_iter().filter_map(|attempt| attempt.join().ok()).collect()
    })
}

fn one(server: &Server) -> Finding {
    let what = format!("upstream {}: server {}", server.upstream, server.name);
    match TcpStream::connect_timeout(&server.address, LIMIT) {
        Ok(_) => Finding::ok(what),
        Err(error) => Finding::warn(
            what,
            format!("cannot be reached by TCP now ({error})"),
            "start it, or correct its address",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use std::net::TcpListener;

    #[test]
    fn a_server_is_there_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server { name: "there".into(), address, upstream: "default".into(), is_retired: false };
        assert_eq!(one(&server).level, Level::Ok);
        drop(listener);
        assert_eq!(one(&server).level, Level::Warn);
    }
}
