//! Making room for new flows.

use std::net::UdpSocket;

use super::{
    super::room::Room,
    dropped,
    world::{World, server},
};
use crate::{
    config::rules::{ListenerRules, Rate},
    limits::Limits,
    sys::{Fd, udp::BATCH},
    table::{DropReason, Ending, Kind, State, Tag, flag},
};

/// A world with room for so many flows.
fn world(flows: usize) -> (World, UdpSocket) {
    let (server, address) = server();
    (World::with("127.0.0.1:0", &[address], flows, 4096), server)
}

fn evicted(world: &World) -> u64 {
    world.counters().of_expiry(Ending::Evicted).unwrap().get()
}

fn flow_of(world: &World, client: &UdpSocket) -> Option<Fd> {
    let address = client.local_addr().unwrap();
    world.flows().into_iter().find(|fd| world.record(*fd).udp_client() == address)
}

/// Sends what no room is there for.
fn is_dropped(world: &mut World, client: &UdpSocket) {
    let before = dropped(world, DropReason::Limit);
    client.send(b"too many").unwrap();
    world.until(|world| (dropped(world, DropReason::Limit) == before + 1).then_some(()));
    assert_eq!(flow_of(world, client), None);
}

#[test]
fn the_longest_silent_question_makes_room() {
    let (mut world, server) = world(3);
    let clients: Vec<UdpSocket> = (0..5).map(|_| world.client_of("127.0.0.1")).collect();
    let first = world.exchange(&clients[0], &server, b"q", b"A");
    world.now_ms += 100;
    world.exchange(&clients[1], &server, b"q", b"A");
    world.now_ms += 100;
    // The second is the longest silent one, by what comes for the first.
    server.send_to(b"more", first).unwrap();
    assert_eq!(world.receive(&clients[0]).0, b"more");
    world.now_ms += 100;
    world.exchange(&clients[2], &server, b"q", b"A");
    world.now_ms += 700;
    is_dropped(&mut world, &clients[3]);
    world.now_ms += 200;
    world.exchange(&clients[3], &server, b"q", b"A");
    assert_eq!((flow_of(&world, &clients[1]), evicted(&world)), (None, 1));
    world.exchange(&clients[4], &server, b"q", b"A");
    assert_eq!((flow_of(&world, &clients[0]), evicted(&world)), (None, 2));
    assert!(flow_of(&world, &clients[2]).is_some());
    assert_eq!((world.flows().len(), world.lane.block().udp_flows.get(), world.lane.open_to(0)), (3, 3, 3));
    is_dropped(&mut world, &clients[0]);
}

/// It was found to be a question, and has been more since.
#[test]
fn what_was_found_is_looked_at_again() {
    let (mut world, server) = world(2);
    let clients: Vec<UdpSocket> = (0..4).map(|_| world.client_of("127.0.0.1")).collect();
    for client in &clients[..2] {
        world.exchange(client, &server, b"q", b"A");
        world.now_ms += 1000;
    }
    world.exchange(&clients[2], &server, b"q", b"A");
    assert_eq!((flow_of(&world, &clients[0]), evicted(&world)), (None, 1));
    let talk = world.exchange(&clients[1], &server, b"a", b"A");
    world.now_ms += 30_000;
    world.exchange(&clients[3], &server, b"q", b"A");
    assert_eq!((flow_of(&world, &clients[2]), evicted(&world)), (None, 2), "the question goes first");
    assert_eq!(world.exchange(&clients[1], &server, b"a", b"A"), talk);
}

/// Two questions, and two answers: but the second was asked after the first answer.
#[test]
fn who_goes_on_after_an_answer_is_no_question() {
    let (mut world, server) = world(1);
    let (client, new) = (world.client_of("127.0.0.1"), world.client_of("127.0.0.1"));
    let registered = [(); 2].map(|()| world.exchange(&client, &server, b"register", b"ok"));
    world.now_ms += 29_999;
    is_dropped(&mut world, &new);
    server.send_to(b"call", registered[0]).unwrap();
    assert_eq!(world.receive(&client).0, b"call");
}

/// Another worker has seen it; whoever wants room needs not wait for its silence, or for the walk.
#[test]
fn what_is_to_end_anyway_makes_room_first() {
    let (mut world, server) = world(2);
    let clients: Vec<UdpSocket> = (0..3).map(|_| world.client_of("127.0.0.1")).collect();
    world.exchange(&clients[0], &server, b"q", b"A");
    world.now_ms += 1000;
    world.exchange(&clients[1], &server, b"q", b"A");
    let failed = flow_of(&world, &clients[1]).unwrap();
    world.record(failed).set_shared(flag::FAILED);
    world.exchange(&clients[2], &server, b"q", b"A");
    assert_eq!((flow_of(&world, &clients[1]), evicted(&world)), (None, 0), "not as if it had been of use");
    assert!(flow_of(&world, &clients[0]).is_some());
}

/// A new client's datagram comes before that of the one whose flow would make room.
#[test]
fn who_sends_in_the_same_batch_is_in_use() {
    let (mut world, server) = world(1);
    world.close_other_seat();
    let (old, new) = (world.client_of("127.0.0.1"), world.client_of("127.0.0.1"));
    let seen = world.exchange(&old, &server, b"a", b"A");
    world.now_ms += 1000;
    new.send(b"new").unwrap();
    old.send(b"b").unwrap();
    let (lane, now_ms) = (world.lane, world.now_ms);
    world.udp.on_listener(&lane, lane.sockets[0], 0, now_ms);
    assert_eq!(world.receive(&server), (b"b".to_vec(), seen));
    assert_eq!((dropped(&world, DropReason::Limit), evicted(&world)), (1, 0));
}

#[test]
fn what_finds_no_room_uses_up_nothing_of_the_rate() {
    let (server, address) = server();
    let rate = Some(Rate { per_second: 1e-6, burst: 2 });
    let rules = ListenerRules { max_connection_rate: rate, ..ListenerRules::default() };
    let mut world = World::with_rules(&[address], rules);
    world.lane.limits.flows = 1;
    let clients: Vec<UdpSocket> = (0..3).map(|_| world.client_of("127.0.0.1")).collect();
    world.exchange(&clients[0], &server, b"q", b"A");
    is_dropped(&mut world, &clients[1]);
    world.now_ms += 1000;
    world.exchange(&clients[1], &server, b"q", b"A");
    world.now_ms += 1000;
    clients[2].send(b"q").unwrap();
    world.until(|world| (dropped(world, DropReason::Rate) == 1).then_some(()));
}

/// As if a flow were at this number that a worker of the first pool has, and that is to end.
fn plant(world: &World, number: i32, worker: u32) -> Fd {
    let fd = Fd::from_raw(number);
    world.record(fd).begin(State::Established, worker, 0, world.now_ms);
    world.record(fd).set_shared(flag::FAILED);
    world.lane.table.tag(fd).unwrap().set(Tag::new(Kind::UdpFlow, world.lane.epoch));
    fd
}

/// What is found by each of so many looks, and the planted flows are gone.
fn found(world: &World, looks: u32, planted: &[Fd]) -> Vec<Option<Fd>> {
    let mut room = Room::default();
    let now_ms = world.now_ms;
    let next = |ms| room.next(&world.lane, now_ms + ms).map(|(fd, _)| fd);
    let found = (0..looks).map(next).collect();
    planted.iter().for_each(|fd| world.lane.table.tag(*fd).unwrap().set(Tag::FREE));
    found
}

#[test]
fn the_hand_comes_to_all_numbers() {
    let (_server, address) = server();
    let world = World::with("127.0.0.1:0", &[address], 1, 100_000);
    let far = plant(&world, 90_000, 0);
    assert_eq!(found(&world, 7, &[far]), [None, None, Some(far), None, None, Some(far), None]);
}

#[test]
fn a_look_reads_so_many_records_whosesoever_they_are() {
    let (_server, address) = server();
    let world = World::with("127.0.0.1:0", &[address], 1, 4096);
    let mut planted: Vec<Fd> = (1000..2000).map(|number| plant(&world, number, 1)).collect();
    let own = plant(&world, 2000, 0);
    planted.push(own);
    assert_eq!(found(&world, 3, &planted), [None, Some(own), None]);
}

#[test]
fn what_talks_makes_room_last_and_only_after_half_of_its_time() {
    let (mut world, server) = world(2);
    let clients: Vec<UdpSocket> = (0..4).map(|_| world.client_of("127.0.0.1")).collect();
    let talk = [(); 3].map(|()| world.exchange(&clients[0], &server, b"a", b"A"));
    assert_eq!(talk, [talk[0]; 3]);
    clients[1].send(b"nobody answers").unwrap();
    world.receive(&server);
    world.now_ms += 4_999;
    is_dropped(&mut world, &clients[2]);
    world.now_ms += 1;
    world.exchange(&clients[2], &server, b"b", b"B");
    assert_eq!((flow_of(&world, &clients[1]), evicted(&world)), (None, 1));
    world.now_ms += 24_999;
    world.exchange(&clients[1], &server, b"c", b"C");
    assert_eq!((flow_of(&world, &clients[2]), evicted(&world)), (None, 2));
    world.now_ms += 1;
    world.exchange(&clients[3], &server, b"d", b"D");
    assert_eq!((flow_of(&world, &clients[0]), evicted(&world)), (None, 3), "after half a minute");
}

#[test]
fn an_answer_that_waits_is_not_lost() {
    let (mut world, server) = world(1);
    let (old, new) = (world.client_of("127.0.0.1"), world.client_of("127.0.0.1"));
    let seen = world.exchange(&old, &server, b"a", b"A");
    world.now_ms += 10_000;
    server.send_to(b"late", seen).unwrap();
    new.send(b"b").unwrap();
    let (lane, now_ms) = (world.lane, world.now_ms);
    // The kernel gives a client one of the two sockets, by its hash.
    lane.sockets.iter().for_each(|socket| world.udp.on_listener(&lane, *socket, 0, now_ms));
    assert_eq!((dropped(&world, DropReason::Limit), evicted(&world)), (1, 0));
    assert_eq!(world.receive(&old).0, b"late");
}

/// A worker has only its own flows to end: where hardly any is left, those of others are ended by the others.
#[test]
fn questions_end_where_hardly_any_room_is_left() {
    const NONE: [usize; 0] = [];
    let (mut world, server) = world(32);
    let clients: Vec<UdpSocket> = (0..32).map(|_| world.client_of("127.0.0.1")).collect();
    for client in &clients[..30] {
        world.exchange(client, &server, b"a", b"A");
    }
    world.exchange(&clients[0], &server, b"talk", b"A");
    world.now_ms += 30_000;
    let flows: Vec<Fd> = clients[..30].iter().filter_map(|client| flow_of(&world, client)).collect();
    let now_ms = world.now_ms;
    let ended = |world: &mut World| -> Vec<usize> {
        world.udp.tick(&world.lane);
        (0..30).filter(|flow| world.udp.expire_one(&world.lane, flows[*flow], now_ms)).collect()
    };
    assert_eq!(ended(&mut world), NONE, "a sixteenth is left");
    world.lane.block().connections.set(4096);
    assert_eq!(ended(&mut world), NONE, "connections alone");
    world.lane.block().connections.set(0);
    world.exchange(&clients[30], &server, b"a", b"A");
    world.exchange(&clients[31], &server, b"a", b"A");
    assert_eq!(ended(&mut world), [1, 2], "what talks stays");
    assert_eq!((world.flows().len(), evicted(&world)), (30, 2));
    world.lane.limits.flows = 31;
    assert_eq!(ended(&mut world), [3]);
    // A limit that the descriptors never come to is not what there is room by.
    world.lane.limits = Limits { flows: 1_000_000, descriptors: 32, ..world.lane.limits };
    assert_eq!(ended(&mut world), NONE);
}

#[test]
fn each_worker_ends_its_share_of_what_is_lacking() {
    let (mut world, server) = world(64);
    let clients: Vec<UdpSocket> = (0..32).map(|_| world.client_of("127.0.0.1")).collect();
    clients.iter().for_each(|client| _ = world.exchange(client, &server, b"a", b"A"));
    world.now_ms += 30_000;
    let (flows, now_ms) = (world.flows(), world.now_ms);
    let ended_beside = |world: &mut World, others| {
        world.lane.table.worker(1, 0).udp_flows.set(others);
        world.udp.tick(&world.lane);
        flows.iter().filter(|flow| world.udp.expire_one(&world.lane, **flow, now_ms)).count()
    };
    assert_eq!(ended_beside(&mut world, 28), 0, "a sixteenth is left");
    assert_eq!(ended_beside(&mut world, 32), 2, "half of four");
    assert_eq!(ended_beside(&mut world, 33), 2, "nearly half of three");
}

#[test]
fn what_is_left_is_counted_once_for_several_and_for_each_at_the_end() {
    let (_server, address) = server();
    let world = World::with("127.0.0.1:0", &[address], 1000, 4096);
    let mut room = Room::default();
    let mut has_place = |others, now_ms| {
        world.lane.table.worker(1, 0).udp_flows.set(others);
        room.has_place(&world.lane, now_ms)
    };
    assert!(has_place(0, 1));
    assert_eq!((1..100).take_while(|_| has_place(1000, 1)).count(), BATCH - 1);
    assert!(has_place(990, 1) && !has_place(1000, 1), "where little is left, each is counted");
    assert!(has_place(0, 2) && has_place(1000, 2) && !has_place(1000, 3), "what was left before is old");
}

/// A heir goes on with all of it: the reason of an end that its predecessor was in, and what may be ended.
#[test]
fn a_heir_makes_room_with_what_it_was_left() {
    let (server, address) = server();
    let mut world = World::with("127.0.0.1:0", &[address], 2, 4096).with_other();
    let clients: Vec<UdpSocket> = (0..3).map(|_| world.client_of("127.0.0.1")).collect();
    for client in &clients[..2] {
        world.exchange(client, &server, b"a", b"A");
    }
    let begun = flow_of(&world, &clients[0]).unwrap();
    world.record(begun).set_ending(Ending::Evicted);
    world.move_to_other();
    world.is_stopped = true;
    let (flows, now_ms) = (world.flows(), world.now_ms + 1000);
    world.now_ms = now_ms;
    world.lane.block().udp_flows.set(0);
    let (lane, udp) = world.other.as_mut().unwrap();
    flows.iter().for_each(|fd| assert!(udp.adopt(lane, *fd)));
    assert!(udp.expire_one(lane, begun, now_ms));
    let lane = *lane;
    world.exchange(&clients[2], &server, b"a", b"A");
    let third = world.client_of("127.0.0.1");
    world.exchange(&third, &server, b"a", b"A");
    assert_eq!(lane.listener(0).of_expiry(Ending::Evicted).unwrap().get(), 2);
    assert_eq!((flow_of(&world, &clients[1]), world.flows().len()), (None, 2));
}

#[test]
fn flows_of_others_are_left_alone() {
    let (server, address) = server();
    let mut world = World::with("127.0.0.1:0", &[address], 1, 4096).with_other();
    let (old, new) = (world.client_of("127.0.0.1"), world.client_of("127.0.0.1"));
    let seen = world.exchange(&old, &server, b"a", b"A");
    world.move_to_other();
    world.now_ms += 30_000;
    new.send(b"b").unwrap();
    let lane = world.other.as_ref().unwrap().0;
    let refused = move || lane.listener(0).datagrams_dropped[DropReason::Limit as usize].get();
    world.until(|_| (refused() == 1).then_some(()));
    assert_eq!(world.exchange(&old, &server, b"c", b"C"), seen);
}
