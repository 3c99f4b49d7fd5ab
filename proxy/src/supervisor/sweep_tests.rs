use std::{io::Write as _, net::UdpSocket};

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
    let dimensions = Dimensions { descriptors: 4096, ..Dimensions::SMALL };
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
    let dimensions = Dimensions { workers: 2, ..Dimensions::SMALL };
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
    let dimensions = Dimensions { workers: 2, counts_sources: true, ..Dimensions::SMALL };
    let (_, table) = Table::create(dimensions).unwrap();
    for (seat, worker) in [(0, 1), (1, 0), (1, 1)] {
        table.sources().up(table.lane(seat, worker), 5);
        table.listener_counters(seat, worker)[0].open_in_group.up();
    }
    clear_workers(&table, 1);
    assert_eq!((table.sources().count(5), table.open_in_group(0)), (1, 1));
}

/// One that was accepted at a unix socket and died before it was recorded is known, even if all was sent and its
/// peer is gone; one that was used is not.
#[test]
fn what_was_accepted_at_a_unix_socket_and_never_used_is_the_listeners() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let (url, other) = (format!("unix://{}", path.display()), format!("unix://{}.other", path.display()));
    let words = ["proxy", "run", "--user", "root", "-l", &other, "-l", &url, "-u", "192.0.2.1:1"];
    let crate::cli::Verb::Run(args) = <crate::cli::Cli as clap::Parser>::parse_from(words).verb else {
        panic!("run is run")
    };
    let config = Config::from_args(&args).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let accepted = Fd::keep(listener.accept().unwrap().0);
    assert_eq!(listener_of(&config, accepted), Some(1));
    drop(client);
    assert_eq!(listener_of(&config, accepted), Some(1));
    unix::prepare(accepted).unwrap();
    assert_eq!(listener_of(&config, accepted), None);
    assert_eq!(listener_of(&config, Fd::keep(listener)), None);
}

#[test]
fn places_at_servers_stay_taken_until_all_is_adopted() {
    let dimensions = Dimensions { workers: 2, servers: 2, ..Dimensions::SMALL };
    let (_, table) = Table::create(dimensions).unwrap();
    table.servers()[1].set_presence(Presence::Retired);
    (0..3).for_each(|_| table.server_counters(0, 1)[1].open.up());
    table.server_counters(1, 0)[1].open.up();
    for _ in 0..2 {
        clear_workers(&table, 0);
        assert_eq!((table.open_to(0), table.open_to(1)), (0, 4));
        assert_eq!(table.server_counters(0, 1)[1].open.get(), 0);
    }
    forget_places(&table);
    assert_eq!(table.open_to(1), 1);
    clear_workers(&table, 1);
    assert_eq!(table.open_to(1), 1);
}

/// The steps of a move, and a supervisor that dies after each.
#[test]
fn places_are_moved_once_whoever_dies_in_the_middle() {
    let dimensions = Dimensions {
        descriptors: 64,
        workers: 2,
        listeners: 1,
        upstreams: 1,
        servers: 2,
        counts_sources: false,
    };
    for died_after in 0..4 {
        let (_, table) = Table::create(dimensions).unwrap();
        table.servers().iter().for_each(|cell| cell.set_presence(Presence::Retired));
        let (kept, moving) = (table.inherited_servers(), &table.supervisor().moving_places);
        let left = |worker: u32, server: usize| &table.server_counters(0, worker)[server].open;
        for (worker, server, count) in [(0, 1, 2), (1, 0, 4), (1, 1, 8)] {
            left(worker, server).set(count);
        }
        kept[1].open.set(1);
        // The first gauge is moved; of the second one these steps are done.
        let first = moving.begin(table.lane(0, 0), 1, || 3);
        kept[1].open.set(first);
        left(0, 1).set(0);
        if died_after > 0 {
            moving.begin(table.lane(0, 1), 0, || 4);
        }
        if died_after > 1 {
            kept[0].open.set(4);
        }
        if died_after > 2 {
            left(1, 0).set(0);
        }
        clear_workers(&table, 0);
        assert_eq!([kept[0].open.get(), kept[1].open.get()], [4, 11], "died after {died_after}");
        assert_eq!((table.open_to(0), table.open_to(1)), (4, 11));
        // The next death of the same pool's is another one.
        left(1, 0).set(1);
        clear_workers(&table, 0);
        assert_eq!(table.open_to(0), 5);
    }
}

/// A pool that died in closing a client's socket has freed its record and forgotten its tag. Others that look the
/// same were just accepted at a number of which that was true before.
#[test]
fn what_was_being_closed_is_not_taken_for_what_was_just_accepted() {
    let (_, table) = Table::create(Dimensions { descriptors: 4096, ..Dimensions::SMALL }).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = |said: &[u8]| {
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(said).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        (client, Fd::keep(listener.accept().unwrap().0))
    };
    let (_said, socket) = ended(b"all");
    let (_silent, fresh) = ended(b"");
    for fd in [socket, fresh] {
        let record = table.record(fd).unwrap();
        record.begin(State::Established, 0, 0, 0);
        record.set(flag::SHUT | flag::of(flag::SHUT, crate::table::Direction::Down));
        while socket::state(fd).unwrap() != socket::CLOSE_WAIT {}
    }
    let is_over = |fd| evidence::is_over(table.record(fd).unwrap(), fd);
    assert!(!is_over(socket) && is_over(fresh), "the one has something unread");
    socket::discard(socket, 3).unwrap();
    assert!(is_over(socket) && !was_being_closed(&table, socket), "its record is not free");
    [socket, fresh].iter().for_each(|fd| table.record(*fd).unwrap().set_state(State::Free));
    assert_eq!([socket, fresh].map(|fd| was_being_closed(&table, fd)), [true, false]);
    table.record(socket).unwrap().clear(flag::SHUT);
    assert!(!is_over(socket) && !was_being_closed(&table, socket), "only one side has ended");
}
