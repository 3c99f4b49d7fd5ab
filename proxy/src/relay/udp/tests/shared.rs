//! Flows that more than one worker has to do with.

use std::sync::Barrier;

use super::*;
use crate::{
    relay::{
        Lane,
        token::Token,
        udp::{
            flows::{self, Flows},
            key::Key,
        },
    },
    sys::epoll,
    table::{Ending, Kind, Using},
};

/// A flow of the first worker's, whose client's datagrams go to the second one; its descriptor, the
/// address that the server sees, and both ends.
fn moved(listen: &str) -> (World, Fd, SocketAddr, UdpSocket, UdpSocket) {
    let (server, address) = server();
    let mut world = World::new(listen, &[address]).with_other();
    let client = world.client_of("127.0.0.2");
    let seen = world.exchange(&client, &server, b"a", b"A");
    let flow = world.flows()[0];
    world.move_to_other();
    (world, flow, seen, client, server)
}

fn foreign(world: &World) -> u64 {
    world.other.as_ref().unwrap().0.listener(0).foreign_datagrams.get()
}

/// Datagrams that each worker has sent to clients.
fn sent(world: &World) -> [u64; 2] {
    [0, 1].map(|seat| world.lane.table.listener_counters(seat, 0)[0].datagrams_sent.get())
}

fn is_open(fd: Fd) -> bool {
    fd::kind(fd).is_some()
}

#[test]
fn any_worker_sends_on_a_flow_and_its_owner_reads_the_answers() {
    let (mut world, flow, seen, client, server) = moved("0.0.0.0:0");
    for _ in 0..3 {
        assert_eq!(world.exchange(&client, &server, b"b", b"B"), seen, "the same port");
    }
    assert_eq!((foreign(&world), world.flows()), (3, vec![flow]));
    assert_eq!(sent(&world), [4, 0]);
    let other = &world.other.as_ref().unwrap().0;
    assert_eq!((other.block().udp_flows.get(), other.listener(0).open.get()), (0, 0), "it owns none");
    assert_eq!(other.listener(0).datagrams_received.get(), 3);
}

#[test]
fn a_silent_owners_answers_are_read_by_who_sends() {
    let (mut world, _, seen, client, server) = moved("0.0.0.0:0");
    world.is_stopped = true;
    world.live.set(0, false);
    assert_eq!(world.exchange(&client, &server, b"b", b"B"), seen);
    server.send_to(b"one more", seen).unwrap();
    assert_eq!(world.receive(&client).0, b"one more");
    assert_eq!((sent(&world), foreign(&world)), ([1, 2], 1));
    // It wakes up, and reads them itself.
    world.is_stopped = false;
    world.live.set(0, true);
    server.send_to(b"again", seen).unwrap();
    assert_eq!(world.receive(&client).0, b"again");
    assert_eq!(world.exchange(&client, &server, b"c", b"C"), seen);
    assert_eq!(sent(&world), [3, 2]);
}

#[test]
fn nobody_listens_to_a_flow_that_another_one_reads() {
    let (mut world, _, seen, client, server) = moved("127.0.0.2:0");
    world.live.set(0, false);
    world.is_stopped = true;
    world.exchange(&client, &server, b"b", b"B");
    world.live.set(0, true);
    server.send_to(b"for the owner", seen).unwrap();
    // Level-triggered: were it registered still, each turn would tell of it.
    let events = &world.lane.table.events(1, 0)[0];
    let set = world.other.as_ref().unwrap().0.set;
    world.until(|_| (events.wait(set, 1).unwrap() == 0).then_some(()));
    world.is_stopped = false;
    assert_eq!(world.receive(&client).0, b"for the owner");
    assert_eq!(sent(&world), [2, 1]);
}

#[test]
fn a_dead_owners_flow_goes_on_before_anybody_has_adopted_it() {
    let (mut world, flow, seen, client, server) = moved("0.0.0.0:0");
    world.is_stopped = true;
    world.lane.table.seat(0).epoch.store(7, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(world.exchange(&client, &server, b"b", b"B"), seen);
    let (lane, udp) = world.other.as_mut().unwrap();
    assert!(udp.adopt(lane, flow));
    assert_eq!(lane.block().udp_flows.get(), 1);
    assert!(!udp.adopt(lane, Fd::from_raw(0)));
    assert_eq!(world.exchange(&client, &server, b"c", b"C"), seen);
    assert_eq!((foreign(&world), world.flows()), (1, vec![flow]));
    assert_eq!(sent(&world), [1, 2]);
}

/// It was in use when its owner ended it, or its owner died before it could close it.
#[test]
fn what_had_ended_is_not_taken_over() {
    let (mut world, flow, _, _client, _server) = moved("0.0.0.0:0");
    let tag = world.lane.table.tag(flow).unwrap();
    world.record(flow).set_state(State::Free);
    let (lane, udp) = world.other.as_mut().unwrap();
    assert!(!udp.adopt(lane, flow));
    assert_eq!(tag.get(), Tag::new(Kind::UdpFlow, 1), "left for the sweep");
    assert_eq!(lane.block().udp_flows.get(), 0);
}

#[test]
fn what_is_used_is_closed_later() {
    let (mut world, flow, seen, _client, server) = moved("0.0.0.0:0");
    let other = world.other.as_ref().unwrap().0;
    let using = Using::declare(&other.block().using, flow);
    let late = world.now_ms + UDP_IDLE.as_millis() as u32;
    assert!(world.udp.expire_one(&world.lane, flow, late));
    assert_eq!((world.record(flow).state(), world.lane.block().udp_flows.get()), (State::Free, 0));
    assert!(is_open(flow), "another worker is sending by it");
    // Nobody reads it any more, and nobody is woken up for it again and again.
    server.send_to(b"late", seen).unwrap();
    let events = &world.lane.table.events(0, 0)[0];
    world.until(|world| (events.wait(world.lane.set, 1).unwrap() == 0).then_some(()));
    world.udp.tick(&world.lane);
    assert!(is_open(flow) && !world.udp.expire_one(&world.lane, flow, late));
    drop(using);
    world.udp.tick(&world.lane);
    assert!(!is_open(flow));
    assert_eq!(world.lane.table.tag(flow).unwrap().get(), Tag::FREE);
}

#[test]
fn a_number_that_is_something_else_by_now_is_left_alone() {
    let (mut world, flow, seen, _client, server) = moved("0.0.0.0:0");
    let generation = world.record(flow).generation();
    // As if the flow had ended and this worker had got its number for a connection.
    world.lane.table.tag(flow).unwrap().set(Tag::new(Kind::Upstream, world.lane.epoch));
    world.udp.on_flow(&world.lane, flow, generation, world.now_ms);
    server.send_to(b"an event", seen).unwrap();
    let events = &world.lane.table.events(0, 0)[0];
    assert_eq!(events.wait(world.lane.set, 1000).unwrap(), 1, "its registration is still there");
    assert_eq!(Token::decode(events.get(0).data), Some(Token::UdpFlow { fd: flow, generation }));
    epoll::remove(world.lane.set, flow);
    fd::close(flow);
}

#[test]
fn a_refusal_that_another_worker_sees_ends_the_flow() {
    let ((first, first_address), (second, second_address)) = (server(), server());
    let mut world = World::new("0.0.0.0:0", &[first_address, second_address]).with_other();
    // The other one is passed over for a while.
    servers::note_failure(&world.lane, 1, world.now_ms);
    let client = world.client_of("127.0.0.2");
    world.exchange(&client, &first, b"a", b"A");
    let flow = world.flows()[0];
    world.move_to_other();
    world.is_stopped = true;
    world.live.set(0, false);
    drop(first);
    servers::note_success(&world.lane, 1, world.now_ms);
    client.send(b"refused").unwrap();
    // The refusal is told by an event (the owner is not live) or by the next send.
    let lane = world.other.as_ref().unwrap().0;
    world.until(|_| {
        client.send(b"b").unwrap();
        (lane.server(0).failures[0].get() == 1).then_some(())
    });
    assert!(world.record(flow).has(crate::table::flag::FAILED));
    // What was sent by the flow that failed may be among what comes.
    client.send(b"new").unwrap();
    while world.receive(&second).0 != b"new" {}
    assert_eq!((lane.block().udp_flows.get(), world.flows().len()), (1, 2));
    // Its owner ends it when it comes to it.
    assert!(world.udp.expire_one(&world.lane, flow, world.now_ms));
    assert_eq!((world.lane.block().udp_flows.get(), world.flows().len()), (0, 1));
    assert!(!is_open(flow) || world.flows()[0] == flow);
}

#[test]
fn two_workers_that_begin_one_flow_at_once_have_one() {
    const ROUNDS: u16 = 300;
    let (_server, address) = server();
    let world = World::new("127.0.0.1:0", &[address]).with_other();
    let lanes = [world.lane, world.other.as_ref().unwrap().0];
    let barrier = Barrier::new(lanes.len());
    let chosen = std::thread::scope(|scope| {
        let workers = lanes.map(|lane| {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut own = Flows::default();
                let begin = |port| {
                    let client = SocketAddr::from(([10, 0, 0, 1], port));
                    let key = Key { listener: 0, client, local: [127, 0, 0, 1].into(), told: None };
                    barrier.wait();
                    let key = (&key, flows::hash(&lane.table, &key));
                    let held = flows::find(&lane, key).map_or_else(|| own.begin(&lane, key, 0), Ok);
                    let held = held.map(|held| (held.fd, held.is_own()));
                    barrier.wait();
                    // The one that was closed may have been in use for a moment.
                    own.tick(&lane);
                    barrier.wait();
                    if let Ok((fd, true)) = held {
                        own.end(&lane, fd, Ending::Idle);
                    }
                    held.map(|(fd, _)| fd)
                };
                (1..=ROUNDS).map(begin).collect::<Vec<_>>()
            })
        });
        workers.map(|worker| worker.join().unwrap())
    });
    assert!(chosen[0].iter().all(Result::is_ok) && chosen[0] == chosen[1], "{chosen:?}");
    assert!(world.flows().is_empty(), "all that was opened is closed");
    let begun = |lane: Lane| lane.listener(0).accepted.get();
    assert_eq!(lanes.map(begun).iter().sum::<u64>(), u64::from(ROUNDS));
    assert_eq!(lanes.map(|lane| lane.listener(0).open.get()), [0, 0]);
}
