//! What a supervisor has from the one before it, and which of it its settings still name.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::IpNet;
use proxy_common::abi::DEFAULT_MAX_LISTENERS;

use crate::{
    config::{
        Config, ListenAddress, Listener, Place, ServerSettings, Upstream,
        rules::{AcceptProxy, ListenerRules, ProxyVersion, SniRoutes, UpstreamRules},
    },
    handover::{
        line::Line,
        offer::{Offer, Offered, OfferedListener, OfferedServer},
    },
    slots,
    sys::{Fd, listener, socket::Protocol},
    table::{Identity, Origin, Presence, ServerCell, Table},
};

use super::control_socket::ControlSocket;

/// Another supervisor's offer, which may still come to nothing.
pub struct Inherited {
    /// What it told.
    pub offer: Offer,
    /// The descriptors that came with it.
    pub fds: Offered<Fd>,
}

impl Inherited {
    /// Receives the offer.
    ///
    /// # Errors
    /// It does not come, or is not understood.
    pub fn receive(line: Line) -> Result<Self> {
        let (document, fds) = line.receive_document().context("the running proxy makes no offer")?;
        let offer = Offer::decode(&document).map_err(|why| anyhow!(why))?;
        let fds = offer.descriptors(&fds).map_err(|why| anyhow!(why))?;
        Ok(Self { offer, fds })
    }

    /// Adds to the settings what they do not name any more and what may still be open.
    ///
    /// # Errors
    /// They cannot be taken over to: what would have to be said anew, or is too much.
    pub fn retire(&self, config: &mut Config) -> Result<()> {
        if config.control != self.offer.control {
            let (old, new) = (self.offer.control.display(), config.control.display());
            bail!(
                "the control socket cannot be moved from {old} to {new} while the proxy runs; leave it there, or restart"
            );
        }
        self.retire_servers(config);
        let rules: Vec<_> = self.offer.rules.iter().map(|rules| self.own_rules(config, rules)).collect();
        for offered in &self.offer.listeners {
            let is_done = offered.sockets == 0 && offered.open == 0;
            if self.listener(config, offered).is_none() && !is_done {
                // Its sockets are closed a moment after this one serves: too late for the other's.
                if let Some(new) =
                    config.listeners.iter().find(|new| !new.is_retired && overlaps(new, offered))
                {
                    bail!(
                        "{} overlaps with {}, which the running proxy listens at and the settings have no more: remove that, \
                         reload, and then add this one",
                        new.address,
                        address(offered)
                    );
                }
                let rules = offered.rules.and_then(|number| rules.get(number).cloned());
                config.listeners.push(retired(config, offered, rules));
            }
        }
        config.group_listeners();
        let (count, most) = (config.listeners.len(), DEFAULT_MAX_LISTENERS as usize);
        if count > most {
            bail!(
                "{count} listeners are too many, with those that the settings name no more and that are still served \
                 for a moment; at most {most} are possible: remove some, reload, then add the others"
            );
        }
        Ok(())
    }

    /// An upstream that is gone whole stays, as it was, for what has come in for it.
    fn retire_servers(&self, config: &mut Config) {
        // What waits in the queue of a listener, or for a place at a server, has none yet.
        let listeners = self.offer.listeners.iter();
        let in_use = listeners.filter(|listener| listener.sockets > 0 || listener.open > 0);
        let served: HashSet<&str> = in_use.flat_map(|listener| self.offer.upstreams_of(listener)).collect();
        let known: HashSet<String> = config.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
        // Where there are others, what waits has no need of it.
        let is_needed = |upstream: &str| served.contains(upstream) && !known.contains(upstream);
        let is_done = |offered: &&OfferedServer| {
            offered.is_retired && offered.open == 0 && !is_needed(&offered.upstream)
        };
        for offered in self.offer.servers.iter().filter(|offered| !is_done(offered)) {
            let upstream = config.upstreams.iter_mut().find(|upstream| upstream.name == offered.upstream);
            if upstream.as_ref().is_some_and(|upstream| has_place(upstream, offered)) {
                continue;
            }
            let server = retired_server(offered);
            match upstream {
                Some(upstream) => upstream.servers.push(server),
                None => config.upstreams.push(Upstream {
                    name: offered.upstream.clone(),
                    servers: vec![server],
                    slots: 0..0,
                    rules: self.upstream_rules(offered),
                    is_retired: true,
                }),
            }
        }
        config.lay_out_slots();
    }

    /// The rules of the upstream of an offered server.
    fn upstream_rules(&self, offered: &OfferedServer) -> Arc<UpstreamRules> {
        let number = self.offer.upstreams.iter().position(|name| *name == offered.upstream);
        let told = number.and_then(|number| self.offer.upstream_rules.get(number));
        told.cloned().unwrap_or_else(|| {
            let send_proxy = ProxyVersion::of_number(offered.send_proxy);
            Arc::new(UpstreamRules { send_proxy, ..UpstreamRules::default() })
        })
    }

    /// Offered rules, with the numbers that upstreams have in the settings.
    fn own_rules(&self, config: &Config, rules: &Arc<ListenerRules>) -> Arc<ListenerRules> {
        let Some(SniRoutes { routes, timeout }) = &rules.sni else { return Arc::clone(rules) };
        let own = |(name, number): &(String, u32)| Some((name.clone(), self.upstream(config, *number)?));
        let routes = routes.iter().filter_map(own).collect();
        let sni = Some(SniRoutes { routes, timeout: *timeout });
        Arc::new(ListenerRules { sni, ..ListenerRules::clone(rules) })
    }

    /// The number that an offered upstream has in the settings; `None` if they have it no more.
    pub fn upstream(&self, config: &Config, offered: u32) -> Option<u32> {
        let name = self.offer.upstreams.get(offered as usize)?;
        config.upstreams.iter().position(|upstream| upstream.name == *name).map(|number| number as u32)
    }

    /// Goes on with what was known of servers, and with those that were not in the settings to begin with. To be
    /// done again with news of the same servers is harmless.
    pub fn place_servers(&self, config: &Config, table: &Table, servers: &[OfferedServer]) {
        for offered in servers {
            let Some(number) = upstream_number(config, offered) else { continue };
            let found = slots::find(config, table, number, offered.address);
            // It takes nothing new, and the settings have no more to do with it.
            let is_over = offered.is_retired && offered.open == 0;
            if is_over && found.is_none() {
                continue;
            }
            let placed = found.or_else(|| place(config, table, number, offered));
            match placed.and_then(|slot| table.servers().get(slot)) {
                Some(cell) => {
                    offered.settle(cell, settings_weight(&config.upstreams[number], cell));
                    if is_settled_at_run_time(&config.upstreams[number], cell) {
                        let presence =
                            [Presence::Present, Presence::Retired][usize::from(offered.is_retired)];
                        cell.set_presence(presence);
                    }
                }
                None => tracing::warn!(server = offered.name, upstream = offered.upstream, "no room for it"),
            }
        }
    }

    /// The number that an offered listener has in the settings.
    pub fn listener(&self, config: &Config, offered: &OfferedListener) -> Option<u32> {
        let is_it = |listener: &Listener| is_same(listener, offered);
        config.listeners.iter().position(is_it).map(|number| number as u32)
    }

    /// The slot that an offered server has.
    pub fn server(config: &Config, table: &Table, offered: &OfferedServer) -> Option<u32> {
        let slot = slots::find(config, table, upstream_number(config, offered)?, offered.address);
        slot.map(|slot| slot as u32)
    }

    /// The listening sockets of a listener of the settings; none if it is new.
    pub fn sockets(&self, listener: &Listener) -> Vec<Fd> {
        let offered = self.offer.listeners.iter().zip(&self.fds.sockets);
        let own = offered.filter(|(offered, _)| is_same(listener, offered));
        let sockets = own.flat_map(|(_, sockets)| sockets.iter().copied());
        // What does not listen any more, for whatever reason, is none.
        let is_udp = listener.address.protocol == Protocol::Udp;
        sockets.filter(|socket| is_udp || listener::is_listening(*socket)).collect()
    }

    /// The control socket, if the settings leave it where it is.
    pub fn control_socket(&self, config: &Config) -> Option<ControlSocket> {
        let is_same = config.control == self.offer.control;
        is_same.then(|| ControlSocket::inherit(&config.control, self.fds.control))
    }

    /// The metrics listener, likewise.
    pub fn metrics(&self, config: &Config) -> Option<Fd> {
        self.fds.metrics.filter(|_| config.metrics == self.offer.metrics)
    }
}

/// The weight that the settings give a server, if they have it.
fn settings_weight(upstream: &Upstream, cell: &ServerCell) -> Option<u32> {
    match cell.identity()?.origin {
        Origin::Settings(number) => Some(upstream.servers.get(number as usize)?.weight),
        Origin::Added => None,
    }
}

fn upstream_number(config: &Config, offered: &OfferedServer) -> Option<usize> {
    config.upstreams.iter().position(|upstream| upstream.name == offered.upstream)
}

/// Whether it is not the settings that say that a server is there, but an order, or its name: since the offer it may
/// have come or gone.
fn is_settled_at_run_time(upstream: &Upstream, cell: &ServerCell) -> bool {
    match cell.identity().map(|identity| identity.origin) {
        Some(Origin::Added) => true,
        Some(Origin::Settings(number)) => {
            let settings = upstream.servers.get(number as usize);
            settings.is_some_and(|settings| matches!(settings.place, Place::Name { .. }))
        }
        None => false,
    }
}

/// The settings of the upstream that an offered server goes on by.
fn origin(upstream: &Upstream, offered: &OfferedServer) -> Option<Origin> {
    let is_it = |server: &ServerSettings| match &server.place {
        Place::Address(_) | Place::Unix(_) => server.place.slot_address() == Some(offered.address),
        Place::Name { .. } => offered.given.as_ref() == Some(&server.given),
    };
    let of_settings = upstream.servers.iter().position(is_it).map(|number| Origin::Settings(number as u32));
    of_settings.or(offered.is_added.then_some(Origin::Added))
}

/// Whether it needs no settings of its own to go on.
fn has_place(upstream: &Upstream, offered: &OfferedServer) -> bool {
    origin(upstream, offered).is_some()
}

/// Gives an offered server a slot. One that came up between the offer and the flows, and that the settings do not
/// have, is a retired one.
fn place(config: &Config, table: &Table, number: usize, offered: &OfferedServer) -> Option<usize> {
    let upstream = config.upstreams.get(number)?;
    let origin = origin(upstream, offered);
    let identity = match origin {
        Some(Origin::Settings(server)) => {
            upstream.servers.get(server as usize)?.identity(offered.address, Origin::Settings(server))
        }
        _ => Identity {
            address: offered.address,
            origin: Origin::Added,
            weight: offered.weight,
            is_backup: offered.is_backup,
            max_connections: offered.max_connections,
        },
    };
    let is_gone = origin.is_none() || offered.is_retired;
    let presence = if is_gone { Presence::Retired } else { Presence::Present };
    slots::place(config, table, number, identity, presence)
}

fn is_same(listener: &Listener, offered: &OfferedListener) -> bool {
    listener.address == address(offered) && listener.v6_only == offered.v6_only
}

/// Whether the kernel would not know which of two sockets is meant.
fn overlaps(new: &Listener, offered: &OfferedListener) -> bool {
    let (one, other) = (new.address, address(offered));
    let (a, b) = (one.address.ip(), other.address.ip());
    let is_same_place = one.protocol == other.protocol && one.address.port() == other.address.port();
    let is_dual = |ip: IpAddr, v6_only: bool| ip.is_ipv6() && ip.is_unspecified() && !v6_only;
    is_same_place
        && match a.is_ipv4() == b.is_ipv4() {
            true => a == b || a.is_unspecified() || b.is_unspecified(),
            false => is_dual(a, new.v6_only) || is_dual(b, offered.v6_only),
        }
}

fn address(offered: &OfferedListener) -> ListenAddress {
    let protocol = if offered.is_udp { Protocol::Udp } else { Protocol::Tcp };
    match &offered.path {
        // For the life of the process, as the settings are.
        Some(path) => ListenAddress::unix(Box::leak(path.clone().into_boxed_path())),
        None => ListenAddress::internet(protocol, offered.address),
    }
}

/// A server that the settings have no more. What waits for its upstream may still come to it, if that is gone too.
fn retired_server(offered: &OfferedServer) -> ServerSettings {
    ServerSettings {
        // A version without slots does not tell it.
        weight: offered.slot.map_or(1, |_| offered.weight),
        is_backup: offered.is_backup,
        max_connections: Some(offered.max_connections).filter(|most| *most > 0),
        is_retired: true,
        ..ServerSettings::at(offered.name.clone(), offered.address)
    }
}

/// A connection that has no server yet still gets one, if there is such an upstream. What comes yet is treated by the
/// same rules as before.
fn retired(config: &Config, offered: &OfferedListener, rules: Option<Arc<ListenerRules>>) -> Listener {
    let upstream = config.upstreams.iter().position(|upstream| upstream.name == offered.upstream);
    Listener {
        name: offered.name.clone(),
        address: address(offered),
        upstream: upstream.map_or(u32::MAX, |number| number as u32),
        group: 0,
        v6_only: offered.v6_only,
        rules: rules.unwrap_or_else(|| untold_rules(config, offered)),
        is_retired: true,
    }
}

/// Those of a listener of a version that does not tell them, but for who begins with a PROXY header.
fn untold_rules(config: &Config, offered: &OfferedListener) -> Arc<ListenerRules> {
    let from: Vec<IpNet> = offered.accepts_proxy.iter().filter_map(|network| network.parse().ok()).collect();
    if from.is_empty() {
        return Arc::clone(&config.listener_defaults);
    }
    let accept_proxy = Some(AcceptProxy { from, timeout: AcceptProxy::TIMEOUT });
    Arc::new(ListenerRules { accept_proxy, ..ListenerRules::clone(&config.listener_defaults) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_and_their_addresses_overlap() {
        let cases = [
            ("tcp://0.0.0.0:1", "127.0.0.1:1", false, true),
            ("tcp://127.0.0.1:1", "0.0.0.0:1", false, true),
            ("tcp://127.0.0.1:1", "127.0.0.2:1", false, false),
            ("tcp://127.0.0.1:1", "127.0.0.1:2", false, false),
            ("udp://127.0.0.1:1", "127.0.0.1:1", false, false),
            ("tcp://0.0.0.0:1", "[::]:1", false, true),
            ("tcp://0.0.0.0:1", "[::]:1", true, false),
            ("tcp://[::]:1", "[::]:1", true, true),
        ];
        for (new, old, v6_only, expected) in cases {
            let (scheme, new_address) = new.split_once("://").unwrap();
            let protocol = if scheme == "udp" { Protocol::Udp } else { Protocol::Tcp };
            let address = ListenAddress::internet(protocol, new_address.parse().unwrap());
            let new = Listener {
                name: "a".into(),
                address,
                upstream: 0,
                group: 0,
                v6_only: false,
                rules: Default::default(),
                is_retired: false,
            };
            let offered = OfferedListener {
                name: "b".into(),
                is_udp: false,
                address: old.parse().unwrap(),
                upstream: "u".into(),
                path: None,
                v6_only,
                sockets: 4,
                open: 0,
                rules: None,
                accepts_proxy: Vec::new(),
            };
            assert_eq!(overlaps(&new, &offered), expected, "{address} {old}");
        }
    }
}
