//! What is handed over of the flow table, while the workers stand still. Nothing is written to it: they may have
//! to go on.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use crate::{
    config::{Config, Listener},
    handover::flows::{Descriptors, Image, Parts},
    relay::udp,
    sys::{Fd, socket},
    table::{Direction, Holder, Kind, Part, Record, State, Table, mark},
};

/// All flows, and their descriptors.
pub fn export(table: &Table) -> (Vec<Image>, Vec<Fd>) {
    let (mut images, mut fds, mut others) = (Vec::new(), Descriptors::default(), Vec::new());
    for (number, cell) in table.tags().iter().enumerate() {
        let fd = Fd::from_raw(number as i32);
        let Some(record) = table.record(fd).filter(|record| record.state() != State::Free) else { continue };
        match cell.get().kind {
            Kind::Client => images.push(connection(table, fd, record, &mut fds)),
            // The one of two with the same client that gets its datagrams has to come first, for that is
            // the one that will.
            Kind::UdpFlow if udp::is_indexed(table, fd, record) => {
                images.extend(flow(table, fd, record, &mut fds));
            }
            Kind::UdpFlow => others.push((fd, record)),
            _ => {}
        }
    }
    images.extend(others.into_iter().filter_map(|(fd, record)| flow(table, fd, record, &mut fds)));
    (images, fds.0)
}

/// How far ahead the rates of new connections are, by listener.
pub fn rates(config: &Config, table: &Table) -> BTreeMap<String, u64> {
    let named = |listener: &Listener| (listener.name.clone(), table.rate(listener.group).load(Relaxed));
    config.listeners.iter().map(named).filter(|(_, due_ns)| *due_ns > 0).collect()
}

fn connection(table: &Table, client: Fd, record: &Record, fds: &mut Descriptors) -> Image {
    let parts = parts(table, client, record);
    if let Some(upstream) = parts.upstream.filter(|_| !record.is_marked(mark::PROMPT)) {
        // An older version believes that it was done when the socket was made. A unix socket refuses.
        let _ = socket::send_at_once(upstream);
    }
    Image::of_tcp(record, table.facts(client, record), &parts, fds)
}

fn flow(table: &Table, fd: Fd, record: &Record, fds: &mut Descriptors) -> Option<Image> {
    Some(Image::of_udp(record, table.udp_facts(fd)?, table.told(fd), fd, fds))
}

/// What a record names and is not its own (a wild write) is not handed over with it.
fn parts(table: &Table, client: Fd, record: &Record) -> Parts {
    let is_own = |fd: &Fd, part: Part, kind: Kind| {
        let is_tagged = table.tag(*fd).is_some_and(|cell| cell.get().kind == kind);
        is_tagged && table.record(*fd).is_some_and(|own| own.is_owned_by(client, part))
    };
    let pipe = |direction| match record.holder(direction) {
        Holder::Pipe(pipe) => Some(pipe).filter(|pipe| is_own(pipe, Part::Pipe(direction), Kind::Pipe)),
        // Nothing is handed over while a buffer holds something.
        Holder::None | Holder::Buffer(_) => None,
    };
    let upstream = record.upstream().filter(|upstream| is_own(upstream, Part::Upstream, Kind::Upstream));
    Parts { client, upstream, pipes: Direction::BOTH.map(pipe), told: table.told(client) }
}
