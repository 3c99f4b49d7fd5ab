//! What is handed over of the flow table, while the workers stand still.

use crate::{
    handover::flows::{Descriptors, Image},
    sys::Fd,
    table::{Direction, Holder, Kind, Part, Record, State, Table},
};

/// All flows, and their descriptors.
pub fn export(table: &Table) -> (Vec<Image>, Vec<Fd>) {
    let (mut images, mut fds) = (Vec::new(), Descriptors::default());
    for (number, cell) in table.tags().iter().enumerate() {
        let fd = Fd::from_raw(number as i32);
        let (Some(tag), Some(record)) = (table.tag(fd).map(|_| cell.get()), table.record(fd)) else {
            continue;
        };
        if record.state() == State::Free {
            continue;
        }
        match tag.kind {
            Kind::Client => {
                forget_others(table, fd, record);
                images.push(Image::of_tcp(record, fd, &mut fds));
            }
            Kind::UdpFlow => images.push(Image::of_udp(record, fd, &mut fds)),
            _ => {}
        }
    }
    (images, fds.0)
}

/// What a record names and is not its own (a wild write) is not handed over with it.
fn forget_others(table: &Table, client: Fd, record: &Record) {
    let is_own = |fd: Fd, part: Part, kind: Kind| {
        let is_tagged = table.tag(fd).is_some_and(|cell| cell.get().kind == kind);
        is_tagged && table.record(fd).is_some_and(|own| own.is_owned_by(client, part))
    };
    if record.upstream().is_some_and(|upstream| !is_own(upstream, Part::Upstream, Kind::Upstream)) {
        record.set_upstream(None);
    }
    for direction in Direction::BOTH {
        if let Holder::Pipe(pipe) = record.holder(direction)
            && !is_own(pipe, Part::Pipe(direction), Kind::Pipe)
        {
            record.set_holder(direction, Holder::None);
        }
    }
}
