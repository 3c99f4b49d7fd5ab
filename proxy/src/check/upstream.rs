//! Whether upstream servers can be reached now. Only a warning: they may come up later.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    path::Path,
    thread,
    time::Duration,
};

use super::Finding;
use crate::{
    config::{Config, Place, ServerSettings, Upstream},
    sys::{fd::close, socket::Protocol, unix},
};

/// Limit on one attempt.
const LIMIT: Duration = Duration::from_secs(1);

/// Attempts at once.
const AT_ONCE: usize = 64;

/// A server, and its upstream.
type Target<'a> = (&'a Upstream, &'a ServerSettings);

/// All servers that a listener reaches by TCP. (UDP does not tell.)
pub fn all(config: &Config) -> Vec<Finding> {
    let is_by_tcp = |upstream: usize| {
        let mut of_it = config.listeners.iter().filter(|listener| listener.leads_to(upstream as u32));
        of_it.any(|listener| listener.address.protocol == Protocol::Tcp)
    };
    let by_tcp = config.upstreams.iter().enumerate().filter(|(number, _)| is_by_tcp(*number));
    let servers: Vec<Target<'_>> = by_tcp
        .flat_map(|(_, upstream)| upstream.servers.iter().map(move |server| (upstream, server)))
        .collect();
    servers.chunks(AT_ONCE).flat_map(some).collect()
}

fn some(servers: &[Target<'_>]) -> Vec<Finding> {
    thread::scope(|scope| {
        let attempts: Vec<_> = servers.iter().map(|server| scope.spawn(|| one(*server))).collect();
        attempts.into_iter().filter_map(|attempt| attempt.join().ok()).collect()
    })
}

fn one((upstream, server): Target<'_>) -> Finding {
    let what = format!("upstream {}: server {}", upstream.name, server.given);
    let found: io::Result<Vec<SocketAddr>> = match &server.place {
        Place::Unix(path) => return unix(what, path),
        Place::Address(address) => Ok(vec![*address]),
        Place::Name { host, port } => (host.as_str(), *port).to_socket_addrs().map(Iterator::collect),
    };
    let addresses = match found {
        Ok(addresses) => addresses,
        Err(error) => {
            return Finding::warn(
                what,
                format!("cannot be looked up now ({error})"),
                "correct its name, or the resolver's settings",
            );
        }
    };
    let failed = addresses.iter().find_map(|address| {
        let error = TcpStream::connect_timeout(address, LIMIT).err()?;
        Some(format!("{address} cannot be reached by TCP now ({error})"))
    });
    match failed {
        None => Finding::ok(what),
        Some(problem) => Finding::warn(what, problem, "start it, or correct its address"),
    }
}

fn unix(what: String, path: &Path) -> Finding {
    let connected = unix::stream().and_then(|socket| {
        let connected = unix::connect(socket, path);
        close(socket);
        connected
    });
    match connected {
        Ok(()) => Finding::ok(what),
        Err(error) => {
            Finding::warn(what, format!("cannot be reached now ({error})"), "start it, or correct its path")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use std::net::TcpListener;

    #[test]
    fn a_server_is_there_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = ServerSettings::at("there".into(), listener.local_addr().unwrap());
        let upstream = Upstream {
            name: "default".into(),
            servers: vec![server.clone()],
            slots: 0..1,
            rules: Default::default(),
            is_retired: false,
        };
        assert_eq!(one((&upstream, &server)).level, Level::Ok);
        drop(listener);
        assert_eq!(one((&upstream, &server)).level, Level::Warn);
        let place = Place::Name { host: "nowhere.invalid".into(), port: 1 };
        let named = ServerSettings { place, ..server };
        assert_eq!(one((&upstream, &named)).level, Level::Warn);
    }
}
