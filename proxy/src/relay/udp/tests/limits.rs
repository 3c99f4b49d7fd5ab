//! What a listener's rules say of flows.

use std::{net::UdpSocket, time::Duration};

use super::{
    send_segments,
    world::{World, server},
};
use crate::{config::rules::ListenerRules, table::Ending};

fn expired(world: &World, reason: Ending) -> u64 {
    world.counters().of_expiry(reason).unwrap().get()
}

/// Lets the server answer a flow with so many datagrams in one batch, as the kernel gathers them (UDP_GRO).
fn answer_at_once(world: &mut World, server: &UdpSocket, flow: std::net::SocketAddr, count: usize) {
    server.connect(flow).unwrap();
    send_segments(server, &vec![b'x'; 100 * count], 100);
    let sent = world.counters().datagrams_sent.get() + count as u64;
    world.until(|world| (world.counters().datagrams_sent.get() == sent).then_some(()));
}

#[test]
fn a_flow_ends_with_its_last_answer() {
    let (server, address) = server();
    let rules = ListenerRules { udp_responses: Some(2), ..ListenerRules::default() };
    let mut world = World::with_rules(&[address], rules);
    let client = world.client_of("127.0.0.1");
    let flow = world.exchange(&client, &server, b"a", b"1");
    assert_eq!(world.flows().len(), 1, "one more is awaited");
    server.send_to(b"2", flow).unwrap();
    assert_eq!(world.receive(&client).0, b"2");
    assert_eq!((world.flows().len(), expired(&world, Ending::Responses)), (0, 1));
    // Each datagram of the client asks for as many.
    for _ in 0..2 {
        client.send(b"b").unwrap();
    }
    let (_, next) = world.receive(&server);
    world.receive(&server);
    assert_ne!(next, flow);
    answer_at_once(&mut world, &server, next, 3);
    assert_eq!(world.flows().len(), 1);
    answer_at_once(&mut world, &server, next, 1);
    assert_eq!((world.flows().len(), expired(&world, Ending::Responses)), (0, 2));
}

#[test]
fn answers_that_come_at_once_count_each() {
    let (server, address) = server();
    let rules = ListenerRules { udp_responses: Some(3), ..ListenerRules::default() };
    let mut world = World::with_rules(&[address], rules);
    let client = world.client_of("127.0.0.1");
    client.send(b"a").unwrap();
    let (_, flow) = world.receive(&server);
    answer_at_once(&mut world, &server, flow, 3);
    assert_eq!((world.flows().len(), expired(&world, Ending::Responses)), (0, 1));
    // What comes once it has ended is nobody's.
    assert_eq!(world.counters().open.get(), 0);
}

/// Another worker that reads the answers of a flow whose owner is silent counts with it; its owner ends it.
#[test]
fn answers_that_another_worker_reads_count_too() {
    let (server, address) = server();
    let rules = ListenerRules { udp_responses: Some(1), ..ListenerRules::default() };
    let mut world = World::with_rules(&[address], rules).with_other();
    let client = world.client_of("127.0.0.1");
    client.send(b"a").unwrap();
    let (_, flow) = world.receive(&server);
    world.move_to_other();
    world.is_stopped = true;
    world.live.set(0, false);
    // Of two answers that are awaited now, and which the other worker reads.
    client.send(b"b").unwrap();
    world.receive(&server);
    for (reply, is_over) in [(b"1", false), (b"2", true)] {
        server.send_to(reply, flow).unwrap();
        assert_eq!(world.receive(&client).0, reply);
        assert_eq!(world.record(world.flows()[0]).has(crate::table::flag::FAILED), is_over);
    }
    world.is_stopped = false;
    let (now_ms, fd) = (world.now_ms, world.flows()[0]);
    assert!(world.udp.expire_one(&world.lane, fd, now_ms));
    assert_eq!(world.flows().len(), 0);
}

#[test]
fn a_flow_has_a_longest_life() {
    let (server, address) = server();
    let rules = ListenerRules { max_lifetime: Some(Duration::from_secs(10)), ..ListenerRules::default() };
    let mut world = World::with_rules(&[address], rules);
    let client = world.client_of("127.0.0.1");
    let first = world.exchange(&client, &server, b"a", b"A");
    world.now_ms += 9_999;
    assert_eq!(world.exchange(&client, &server, b"b", b"B"), first);
    let (fd, now_ms) = (world.flows()[0], world.now_ms);
    assert!(!world.udp.expire_one(&world.lane, fd, now_ms));
    assert!(world.udp.expire_one(&world.lane, fd, now_ms + 1));
    assert_eq!(expired(&world, Ending::Lifetime), 1);
    assert_ne!(world.exchange(&client, &server, b"c", b"C"), first);
}
