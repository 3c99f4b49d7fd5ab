//! Writing what another supervisor hands over into the own flow table, as the flows of a pool that is no more.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering::Relaxed,
};

use anyhow::{Result, anyhow, bail};

use super::{inherit::Inherited, setup::Setup};
use crate::{
    handover::{
        flows::{Image, descriptor},
        offer::OfferedServer,
    },
    sys::{Fd, socket, time},
    table::{Direction, Ending, Holder, Kind, Part, Record, State, Tag, mark},
};

/// What it takes.
pub struct Import<'a> {
    /// The own setup.
    pub setup: &'a Setup,
    /// The offer.
    pub inherited: &'a Inherited,
    /// The servers as they are now.
    pub news: &'a [OfferedServer],
    /// Descriptors that came with the flows.
    pub fds: &'a [Fd],
    /// The epoch that the flows get, which no pool has.
    pub epoch: u32,
}

impl Import<'_> {
    /// Writes all. Answers how many TCP connections and UDP flows there are.
    ///
    /// # Errors
    /// Something is missing, or there is no room: then it would be lost.
    pub fn all(&self, images: &[Image]) -> Result<(u64, u64)> {
        let config = self.setup.config;
        let listeners = self.inherited.offer.listeners.iter();
        let listeners: Vec<_> = listeners.map(|offered| self.inherited.listener(config, offered)).collect();
        let servers = self.servers();
        let (mut tcp, mut udp) = (0, 0);
        for (index, image) in images.iter().enumerate() {
            let known = |own: Option<u32>, number: u32, what| {
                own.ok_or_else(|| anyhow!("a flow of {what} {number}, which was not offered, is handed over"))
            };
            let listener = listeners.get(image.listener as usize).copied().flatten();
            let listener = known(listener, image.listener, "listener")?;
            let server = |server: u32| known(servers.get(&server).copied(), server, "server");
            let server = image.server().map(server).transpose()?;
            // As far as possible to the worker of the same number.
            let workers = config.workers;
            let worker = if image.worker < workers { image.worker } else { index as u32 % workers };
            self.one(image, worker, listener, server)?;
            if image.is_udp() { udp += 1 } else { tcp += 1 }
        }
        Ok((tcp, udp))
    }

    /// The own slots of the servers, by the number that flows name them by. They have changed since the offer,
    /// perhaps.
    fn servers(&self) -> HashMap<u32, u32> {
        let (config, table) = (self.setup.config, &self.setup.table);
        let servers = if self.news.is_empty() { &self.inherited.offer.servers[..] } else { self.news };
        self.inherited.place_servers(config, table, servers);
        let number = |(place, offered): (u32, &OfferedServer)| {
            Some((offered.slot.unwrap_or(place), Inherited::server(config, table, offered)?))
        };
        (0..).zip(servers).filter_map(number).collect()
    }

    /// How far ahead the rates of new connections are, by listener.
    pub fn rates(&self, rates: &BTreeMap<String, u64>) {
        for listener in &self.setup.config.listeners {
            if let Some(due_ns) = rates.get(&listener.name) {
                self.setup.table.rate(listener.group).store(*due_ns, Relaxed);
            }
        }
    }

    fn one(&self, image: &Image, worker: u32, listener: u32, server: Option<u32>) -> Result<()> {
        let socket = self
            .descriptor(image.socket)?
            .ok_or_else(|| anyhow!("a flow without a socket is handed over"))?;
        let record = self.record(socket)?;
        let Some(state) = image.state() else { bail!("a flow in state {} is handed over", image.state) };
        record.begin(state, worker, listener, image.active_ms);
        record.set_lap(image.lap(time::monotonic_ms()));
        record.set_server(server);
        record.set_takeovers(image.takeovers.min(u8::MAX.into()) as u8);
        Ending::of_code(image.ending as u8).into_iter().for_each(|ending| record.set_ending(ending));
        record.mark(mark::LOGGED, image.is_logged != 0);
        if image.is_udp() {
            let (client, local) = image.addresses();
            record.set_udp(client, local);
            record.set(image.flags());
            self.setup.table.udp_facts(socket).into_iter().for_each(|facts| image.enter_udp_facts(facts));
            image.told().iter().for_each(|told| self.setup.table.set_told(socket, told));
            return self.tag(socket, Kind::UdpFlow);
        }
        record.set(image.flags());
        if let Some(upstream) = record.route() {
            record.set_route(self.inherited.upstream(self.setup.config, upstream));
        }
        image.told().iter().for_each(|told| self.setup.table.set_told(socket, told));
        let (client, _) = image.addresses();
        let is_told = !client.ip().is_unspecified();
        record.set_client(if is_told { client } else { socket::peer_address(socket).unwrap_or(client) });
        record.set_opened(image.opened_ms);
        if let Some(upstream) = self.descriptor(image.upstream)? {
            image.enter_facts(self.own(socket, upstream, Part::Upstream)?.facts());
            record.set_upstream(Some(upstream));
            self.tag(upstream, Kind::Upstream)?;
        }
        for (direction, place) in Direction::BOTH.into_iter().zip(image.pipes) {
            if let Some(pipe) = self.descriptor(place)? {
                self.own(socket, pipe, Part::Pipe(direction))?;
                record.set_holder(direction, Holder::Pipe(pipe));
                self.tag(pipe, Kind::Pipe)?;
            }
        }
        self.tag(socket, Kind::Client)
    }

    fn descriptor(&self, place: u32) -> Result<Option<Fd>> {
        descriptor(self.fds, place).map_err(|why| anyhow!(why))
    }

    fn own(&self, client: Fd, part: Fd, what: Part) -> Result<&'static Record> {
        let record = self.record(part)?;
        record.set_state(State::Free);
        record.set_owner(client, what);
        Ok(record)
    }

    fn record(&self, fd: Fd) -> Result<&'static Record> {
        self.setup.table.record(fd).ok_or_else(|| anyhow!("there is no room for descriptor {}", fd.raw()))
    }

    fn tag(&self, fd: Fd, kind: Kind) -> Result<()> {
        let cell = self
            .setup
            .table
            .tag(fd)
            .ok_or_else(|| anyhow!("there is no room for descriptor {}", fd.raw()))?;
        cell.set(Tag::new(kind, self.epoch));
        Ok(())
    }
}
