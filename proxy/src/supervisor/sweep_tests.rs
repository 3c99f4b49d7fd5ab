use std::net::UdpSocket;

use super::*;
use crate::table::{Dimensions, Using};

const EPOCH: u32 = 7;

/// A flow of a dead pool, in this state.
fn left(table: &Table, state: State) -> Fd {
    let fd = Fd::keep(UdpSocket::bind("127.0.0.1:0").unwrap());
    table.record(fd).unwrap().begin(state, 0, 0, 0);
    table.record(fd).unwrap().set_udp(([127, 0, 0, 1], 1).into(), [127, 0, 0, 1].into());
    table.tag(fd).unwrap().set(Tag::new(Kind::UdpFlow, EPOCH));
    fd
}

#[test]
fn flows_in_use_are_closed_later_and_counted_once() {
    let dimensions = Dimensions {
        descriptors: 4096,
        workers: 1,
        listeners: 1,
        upstreams: 1,
        servers: 1,
        counts_sources: false,
    };
    let (_, table) = Table::create(dimensions).unwrap();
    let (lost, used, ended) =
        (left(&table, State::Established), left(&table, State::Established), left(&table, State::Free));
    let using = Using::declare(&table.worker(1, 0).using, used);
    assert_eq!(cut(&table, EPOCH), Swept { connections: 0, flows: 2, in_use: 1 });
    assert!(fd::kind(used).is_some(), "somebody is sending by it");
    assert_eq!(table.record(used).unwrap().state(), State::Free, "and nobody begins to");
    assert_eq!([lost, ended].map(|fd| table.tag(fd).unwrap().get()), [Tag::FREE; 2]);
    drop(using);
    assert_eq!(cut(&table, EPOCH), Swept::default());
    assert_eq!(table.tag(used).unwrap().get(), Tag::FREE);
}

#[test]
fn a_dead_worker_uses_nothing() {
    let dimensions = Dimensions {
        descriptors: 64,
        workers: 2,
        listeners: 1,
        upstreams: 1,
        servers: 1,
        counts_sources: false,
    };
    let (_, table) = Table::create(dimensions).unwrap();
    let fd = Fd::from_raw(5);
    std::mem::forget(Using::declare(&table.worker(1, 1).using, fd));
    clear_workers(&table, 0);
    assert!(table.is_used(fd), "of the other seat");
    clear_workers(&table, 1);
    assert!(!table.is_used(fd));
}

#[test]
fn what_a_dead_worker_had_open_counts_no_more() {
    let dimensions = Dimensions {
        descriptors: 64,
        workers: 2,
        listeners: 1,
        upstreams: 1,
        servers: 1,
        counts_sources: true,
    };
    let (_, table) = Table::create(dimensions).unwrap();
    for (seat, worker) in [(0, 1), (1, 0), (1, 1)] {
        table.sources().up(table.lane(seat, worker), 5);
        table.listener_counters(seat, worker)[0].open_in_group.up();
    }
    clear_workers(&table, 1);
    assert_eq!((table.sources().count(5), table.open_in_group(0)), (1, 1));
}
