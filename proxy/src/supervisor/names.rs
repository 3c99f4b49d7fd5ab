//! The first look-up of upstream servers that are given by name. One that cannot be looked up is no reason not
//! to start: it is down.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::{
    config::{Config, Place},
    slots,
    table::{Origin, Presence, Table},
};

/// Gives those that have no address yet their slots.
pub fn look_up(config: &Config, table: &Table) {
    for (number, upstream) in config.upstreams.iter().enumerate() {
        for (origin, server) in (0..).zip(&upstream.servers) {
            let Place::Name { host, port } = &server.place else { continue };
            let origin = Origin::Settings(origin);
            if slots::of_upstream(config, table, number).any(|slot| slot.identity.origin == origin) {
                continue;
            }
            let mut addresses: Vec<SocketAddr> = match (host.as_str(), *port).to_socket_addrs() {
                Ok(addresses) => addresses.collect(),
                Err(error) => {
                    tracing::warn!(upstream = upstream.name, server = server.given, %error, "name cannot be looked up");
                    continue;
                }
            };
            addresses.sort();
            addresses.dedup();
            for address in addresses {
                let placed =
                    slots::place(config, table, number, server.identity(address, origin), Presence::Present);
                if placed.is_none() {
                    tracing::warn!(upstream = upstream.name, %address, "no room for one more server");
                }
            }
        }
    }
}
