//! The relay on real sockets.

mod limits;
mod room;
mod shared;
mod world;

use std::{
    io::IoSlice,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::Ordering::Relaxed,
};

use world::{UDP_IDLE, World, deserted, peer, server};

use crate::{
    relay::servers,
    sys::{
        Fd, fd, socket,
        udp::{self, Inbox},
    },
    table::{DrainState, DropReason, Ending, State, Tag},
};

fn dropped(world: &World, reason: DropReason) -> u64 {
    world.counters().datagrams_dropped[reason as usize].get()
}

fn dropped_at_all(world: &World) -> u64 {
    world.counters().datagrams_dropped.iter().map(|counter| counter.get()).sum()
}

/// Sends `bytes` in segments by a connected socket.
fn send_segments(socket: &UdpSocket, bytes: &[u8], segment: u16) {
    udp::send(Fd::from_raw(socket.as_raw_fd()), &[IoSlice::new(bytes)], segment, None).unwrap();
}

/// Bytes that tell where they are.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

#[test]
fn datagrams_go_both_ways_and_are_counted() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    let flow = world.exchange(&client, &server, b"one", b"first");
    assert_eq!(world.exchange(&client, &server, b"", b""), flow, "empty ones too, by the same flow");
    let largest = pattern(65_507, 1);
    assert_eq!(world.exchange(&client, &server, &largest, &largest), flow);
    let counters = world.counters();
    assert_eq!((counters.accepted.get(), counters.open.get()), (1, 1));
    assert_eq!((counters.datagrams_received.get(), counters.datagrams_sent.get()), (3, 3));
    assert_eq!((counters.received_bytes.get(), counters.sent_bytes.get()), (65_510, 65_512));
    assert_eq!(dropped_at_all(&world), 0);
    let to_server = world.lane.server(0);
    assert_eq!((to_server.connections.get(), to_server.open.get()), (1, 1));
    assert_eq!(world.lane.block().udp_flows.get(), 1);
}

#[test]
fn clients_have_flows_of_their_own() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let (first, second) = (world.client_of("127.0.0.1"), world.client_of("127.0.0.1"));
    let flow = world.exchange(&first, &server, b"a", b"A");
    assert_ne!(world.exchange(&second, &server, b"b", b"B"), flow);
    assert_eq!(world.flows().len(), 2);
}

#[test]
fn replies_come_from_the_address_that_was_asked() {
    let (server, address) = server();
    let mut world = World::new("0.0.0.0:0", &[address]);
    let (first, second) = (world.client_of("127.0.0.2"), world.client_of("127.0.0.3"));
    world.exchange(&first, &server, b"a", b"A");
    world.exchange(&second, &server, b"b", b"B");
    // One client socket, asking two addresses, has two flows.
    let roaming = peer("127.0.0.1:0");
    for ip in ["127.0.0.4", "127.0.0.5"] {
        let asked: SocketAddr = (ip.parse::<std::net::IpAddr>().unwrap(), world.address.port()).into();
        roaming.send_to(b"c", asked).unwrap();
        let (_, flow) = world.receive(&server);
        server.send_to(b"C", flow).unwrap();
        assert_eq!(world.receive(&roaming).1, asked);
    }
    assert_eq!(world.flows().len(), 4);
}

#[test]
fn a_dual_stack_listener_serves_both_families() {
    let (server, address) = server();
    let mut world = World::new("[::]:0", &[address]);
    for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
        let client = world.client_of(ip);
        world.exchange(&client, &server, b"a", b"A");
    }
    assert_eq!(dropped_at_all(&world), 0);
}

#[test]
fn ipv6_reaches_an_ipv6_server() {
    let server = peer("[::1]:0");
    let mut world = World::new("[::1]:0", &[server.local_addr().unwrap()]);
    let client = world.client_of("::1");
    world.exchange(&client, &server, b"a", b"A");
    world.exchange(&client, &server, &pattern(65_527, 3), b"A");
}

#[test]
fn runs_stay_runs_and_byte_exact() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    // As often as it takes until answers are joined.
    let [flow, ..] = [(); 8].map(|()| world.exchange(&client, &server, b"hello", b"hello"));
    // Both ends join on receipt as well, so that they see whether one send came or many.
    let mut ends = [&client, &server].map(|end| Fd::from_raw(end.as_raw_fd()));
    ends.iter_mut().for_each(|end| udp::join_received(*end, true).unwrap());
    let bytes = pattern(40 * 1200 + 77, 2);
    server.connect(flow).unwrap();
    let mut inbox = Inbox::new();
    for (from, to) in [(&client, ends[1]), (&server, ends[0])] {
        send_segments(from, &bytes, 1200);
        let count = world.until(|_| inbox.receive(to).ok());
        assert_eq!((count, inbox.messages()[0].segment), (1, 1200));
        assert!(inbox.bytes(0) == bytes, "bytes differ");
    }
    assert_eq!(world.counters().datagrams_received.get(), 8 + 41);
    assert_eq!(world.counters().datagrams_sent.get(), 8 + 41);
}

#[test]
fn answers_are_joined_once_there_were_some() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]).with_other();
    let client = world.client_of("127.0.0.1");
    let flow = world.exchange(&client, &server, b"a", b"A");
    let fd = world.flows()[0];
    let is_joined = || socket::get_int(fd, libc::SOL_UDP, libc::UDP_GRO).unwrap() == 1;
    for _ in 1..7 {
        world.exchange(&client, &server, b"a", b"A");
    }
    assert!(!is_joined());
    // Whoever reads them counts on.
    world.move_to_other();
    world.is_stopped = true;
    world.live.set(0, false);
    assert_eq!(world.exchange(&client, &server, b"b", b"B"), flow);
    assert!(is_joined());
    // Whoever has counted that far died before it could; its heir does.
    udp::join_received(fd, false).unwrap();
    let (lane, udp) = world.other.as_mut().unwrap();
    assert!(udp.adopt(lane, fd) && is_joined());
}

#[test]
fn single_datagrams_of_a_batch_are_joined() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    udp::join_received(Fd::from_raw(server.as_raw_fd()), true).unwrap();
    for number in 0..10 {
        client.send(&pattern(100, number)).unwrap();
    }
    let mut inbox = Inbox::new();
    let count = world.until(|_| inbox.receive(Fd::from_raw(server.as_raw_fd())).ok());
    assert_eq!((count, inbox.messages()[0].segment, inbox.messages()[0].len), (1, 100, 1000));
    let expected: Vec<u8> = (0..10).flat_map(|number| pattern(100, number)).collect();
    assert_eq!(inbox.bytes(0), expected);
}

#[test]
fn mixed_sizes_of_mixed_flows_keep_their_order() {
    const CLIENTS: usize = 3;
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| world.client_of("127.0.0.1")).collect();
    let sizes = [10, 10, 0, 300, 10, 10, 7, 10, 0, 0, 9000, 9000, 9000, 1];
    let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(number, size)| pattern(*size, number)).collect();
    for datagram in &sent {
        clients.iter().for_each(|client| {
            client.send(datagram).unwrap();
        });
    }
    let mut flows: Vec<(SocketAddr, Vec<Vec<u8>>)> = Vec::new();
    for _ in 0..CLIENTS * sizes.len() {
        let (bytes, from) = world.receive(&server);
        server.send_to(&bytes, from).unwrap();
        match flows.iter_mut().find(|(flow, _)| *flow == from) {
            Some((_, got)) => got.push(bytes),
            None => flows.push((from, vec![bytes])),
        }
    }
    assert_eq!(flows.len(), CLIENTS);
    assert!(flows.iter().all(|(_, got)| *got == sent), "bytes or order differ on the way up");
    for client in &clients {
        let got: Vec<Vec<u8>> = sizes.iter().map(|_| world.receive(client).0).collect();
        assert!(got == sent, "bytes or order differ on the way down");
    }
}

#[test]
fn a_route_without_segments_gets_them_one_by_one() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    let flow = world.exchange(&client, &server, b"a", b"A");
    // Without checksums the kernel does no segments (udp_send_skb), which is how a test can refuse them.
    socket::set_int(world.lane.socket(0).unwrap(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    server.connect(flow).unwrap();
    let bytes = pattern(5 * 100 + 20, 4);
    send_segments(&server, &bytes, 100);
    for expected in bytes.chunks(100) {
        assert_eq!(world.receive(&client).0, expected);
    }
    assert_eq!((world.counters().datagrams_sent.get(), dropped_at_all(&world)), (7, 0));
}

#[test]
fn what_cannot_be_sent_is_dropped_and_the_flow_goes_on() {
    let (server, address) = server();
    let mut world = World::new("[::1]:0", &[address]);
    let client = world.client_of("::1");
    let flow = world.exchange(&client, &server, b"a", b"A");
    // More than fits into an IPv4 datagram.
    client.send(&pattern(65_527, 5)).unwrap();
    world.until(|world| (dropped(world, DropReason::Unsendable) == 1).then_some(()));
    assert_eq!(world.exchange(&client, &server, b"b", b"B"), flow);
}

#[test]
fn idle_flows_end_and_leave_nothing() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    let first = world.exchange(&client, &server, b"a", b"A");
    let flow = world.flows()[0];
    let limit = UDP_IDLE.as_millis() as u32;
    world.now_ms += limit - 1;
    assert!(!world.udp.expire_one(&world.lane, flow, world.now_ms));
    // A reply alone keeps it, too.
    server.send_to(b"late", first).unwrap();
    assert_eq!(world.receive(&client).0, b"late");
    world.now_ms += limit - 1;
    assert!(!world.udp.expire_one(&world.lane, flow, world.now_ms));
    assert!(world.udp.expire_one(&world.lane, flow, world.now_ms + 1));
    assert!(!world.udp.expire_one(&world.lane, flow, world.now_ms + 1), "it is gone already");
    assert_eq!((world.flows().len(), world.record(flow).state()), (0, State::Free));
    assert!(UdpSocket::bind(first).is_ok(), "its socket is closed, the port is free");
    let counters = world.counters();
    assert_eq!((counters.open.get(), counters.of_expiry(Ending::Idle).unwrap().get()), (0, 1));
    assert_eq!((world.lane.block().udp_flows.get(), world.lane.open_to(0)), (0, 0));
    assert_ne!(world.exchange(&client, &server, b"b", b"B"), first, "a new flow");
}

#[test]
fn the_limit_on_flows_holds() {
    let (server, address) = server();
    let mut world = World::with("127.0.0.1:0", &[address], 2, 4096);
    let clients: Vec<UdpSocket> = (0..3).map(|_| world.client_of("127.0.0.1")).collect();
    for client in &clients[..2] {
        world.exchange(client, &server, b"a", b"A");
    }
    clients[2].send(b"too many").unwrap();
    world.until(|world| (dropped(world, DropReason::Limit) == 1).then_some(()));
    assert_eq!(world.flows().len(), 2);
    world.exchange(&clients[0], &server, b"b", b"B");
    let idle = world.now_ms + UDP_IDLE.as_millis() as u32;
    assert!(world.udp.expire_one(&world.lane, world.flows()[0], idle));
    world.exchange(&clients[2], &server, b"c", b"C");
}

#[test]
fn out_of_descriptors_is_counted_and_closes_what_was_opened() {
    let (_server, address) = server();
    // The table has room for no descriptor that the test process could still open.
    let mut world = World::with("127.0.0.1:0", &[address], 100, 3);
    let client = world.client_of("127.0.0.1");
    client.send(b"a").unwrap();
    world.until(|world| (dropped(world, DropReason::Descriptors) == 1).then_some(()));
    assert_eq!(world.lane.block().udp_flows.get(), 0);
}

#[test]
fn a_refusing_server_is_passed_over() {
    let (server, alive) = server();
    let (_port, refusing) = deserted();
    let mut world = World::new("127.0.0.1:0", &[refusing, alive]);
    let clients: Vec<UdpSocket> = (0..8).map(|_| world.client_of("127.0.0.1")).collect();
    for client in &clients {
        client.send(b"a").unwrap();
        // At once, or by the datagram after the one that was refused.
        let refused = dropped(&world, DropReason::Upstream);
        let arrived = world.until(|world| match server.recv(&mut [0; 16]) {
            Ok(_) => Some(true),
            Err(_) => (dropped(world, DropReason::Upstream) > refused).then_some(false),
        });
        if !arrived {
            client.send(b"b").unwrap();
            assert_eq!(world.receive(&server).0, b"b");
        }
    }
    assert_eq!(world.lane.server(0).ejections.get(), 1);
    let refused = world.lane.server(0);
    assert_eq!((refused.failures[0].get(), refused.connections.get(), refused.open.get()), (1, 1, 0));
    assert_eq!(dropped(&world, DropReason::Upstream), 1);
}

#[test]
fn a_server_that_answers_again_is_up() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let state = &world.lane.table.servers()[0].state;
    servers::note_failure(&world.lane, 0, world.now_ms);
    assert_eq!(state.failures.load(Relaxed), 1);
    let client = world.client_of("127.0.0.1");
    world.exchange(&client, &server, b"the only one is asked anyway", b"A");
    assert_eq!(state.failures.load(Relaxed), 0);
}

#[test]
fn a_closed_gate_leaves_datagrams_waiting() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    let closed = crate::table::closed_gate(crate::sys::time::monotonic_ms() + 60_000);
    world.lane.table.supervisor().gate.store(closed, std::sync::atomic::Ordering::SeqCst);
    client.send(b"a").unwrap();
    (0..10).for_each(|_| world.turn());
    assert_eq!((world.counters().datagrams_received.get(), world.flows().len()), (0, 0));
    world.lane.table.supervisor().gate.store(0, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(world.receive(&server).0, b"a");
}

#[test]
fn draining_keeps_old_flows_and_begins_none() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let (old, new) = (world.client_of("127.0.0.1"), world.client_of("127.0.0.1"));
    world.exchange(&old, &server, b"a", b"A");
    world.lane.table.supervisor().set_drain(DrainState::Draining);
    new.send(b"a").unwrap();
    world.until(|world| (dropped(world, DropReason::Upstream) == 1).then_some(()));
    world.exchange(&old, &server, b"b", b"B");
    assert_eq!(world.flows().len(), 1);
}

#[test]
fn events_of_a_flow_that_is_gone_do_nothing() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    let client = world.client_of("127.0.0.1");
    let flow = world.exchange(&client, &server, b"a", b"A");
    let fd = world.flows()[0];
    let generation = world.record(fd).generation();
    server.send_to(b"waits", flow).unwrap();
    world.udp.on_flow(&world.lane, fd, generation.wrapping_sub(1), world.now_ms);
    world.udp.on_flow(&world.lane, Fd::from_raw(0x0fff_ffff), generation, world.now_ms);
    assert_eq!(world.counters().datagrams_sent.get(), 1);
    world.lane.table.tag(fd).unwrap().set(Tag::FREE);
    world.udp.on_flow(&world.lane, fd, generation, world.now_ms);
    assert_eq!(world.counters().datagrams_sent.get(), 1, "it is not ours any more");
    fd::close(fd);
}

#[test]
fn the_other_seats_queue_belongs_to_the_same_flows() {
    let (server, address) = server();
    let mut world = World::new("127.0.0.1:0", &[address]);
    // Without a steering program the kernel spreads clients over both seats' sockets by hash.
    let clients: Vec<UdpSocket> = (0..16).map(|_| world.client_of("127.0.0.1")).collect();
    let flows: Vec<SocketAddr> =
        clients.iter().map(|client| world.exchange(client, &server, b"a", b"A")).collect();
    // A client's queue moves when the group changes; by either queue it has the same flow.
    world.close_other_seat();
    for (client, flow) in clients.iter().zip(flows) {
        assert_eq!(world.exchange(client, &server, b"b", b"B"), flow);
    }
    assert_eq!(world.flows().len(), 16);
}
