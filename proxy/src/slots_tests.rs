use super::*;
use crate::{
    cli::{Cli, Verb},
    table::Dimensions,
};

fn world(servers: &[&str]) -> (Config, Table) {
    let mut words = "proxy run -l tcp://127.0.0.1:1 --user root --workers 1".to_owned();
    servers.iter().for_each(|server| words += &format!(" -u {server}"));
    let cli = <Cli as clap::Parser>::try_parse_from(words.split_whitespace()).unwrap();
    let Verb::Run(args) = cli.verb else { panic!("run is run") };
    let config = Config::from_args(&args).unwrap();
    let (upstreams, servers) = (config.upstreams.len(), config.slots());
    let dimensions = Dimensions { descriptors: 8, upstreams, servers, ..Dimensions::SMALL };
    let (_, table) = Table::create(dimensions).unwrap();
    seed(&config, &table);
    (config, table)
}

fn added(address: SocketAddr) -> Identity {
    Identity { address, origin: Origin::Added, weight: 1, is_backup: false, max_connections: 0 }
}

fn names(config: &Config, table: &Table) -> Vec<String> {
    all(config, table).map(|slot| slot.name()).collect()
}

fn add(config: &Config, table: &Table, address: &str) -> Option<usize> {
    place(config, table, 0, added(address.parse().unwrap()), Presence::Present)
}

#[test]
fn servers_have_slots_and_names_by_their_origin() {
    let (config, table) = world(&["127.0.0.1:3", "db.example:5", "127.0.0.1:4"]);
    assert_eq!(names(&config, &table), ["127.0.0.1:3", "127.0.0.1:4"]);
    let address = "192.0.2.1:5".parse().unwrap();
    let identity = config.upstreams[0].servers[1].identity(address, Origin::Settings(1));
    place(&config, &table, 0, identity, Presence::Present);
    add(&config, &table, "[::1]:6");
    assert_eq!(names(&config, &table), ["127.0.0.1:3", "127.0.0.1:4", "db.example:5/192.0.2.1:5", "[::1]:6"]);
    assert_eq!(find(&config, &table, 0, address), Some(2));
    assert!(all(&config, &table).all(|slot| slot.cell.takes_new()));
}

#[test]
fn who_comes_back_has_its_slot_and_counters_again() {
    let (config, table) = world(&["127.0.0.1:3"]);
    let slot = add(&config, &table, "127.0.0.1:9").unwrap();
    table.server_counters(1, 0)[slot].connections.add(5);
    retire(&table.servers()[slot]);
    assert!(!table.servers()[slot].takes_new());
    assert_eq!(add(&config, &table, "127.0.0.1:9"), Some(slot));
    assert!(table.servers()[slot].takes_new());
    assert_eq!(table.counters_of_server(slot).map(|counters| counters.connections.get()).sum::<u64>(), 5);
}

#[test]
fn a_retired_slot_is_used_again_when_nothing_is_open_and_there_is_no_other_room() {
    let (config, table) = world(&["127.0.0.1:3"]);
    let room = config.upstreams[0].slots.len();
    let slots: Vec<_> =
        (1..room).map(|port| add(&config, &table, &format!("127.0.0.1:{}", 100 + port)).unwrap()).collect();
    assert_eq!(add(&config, &table, "127.0.0.1:9"), None);
    let (busy, idle) = (slots[2], slots[5]);
    for slot in [busy, idle] {
        table.server_counters(0, 0)[slot].connections.add(7);
        table.inherited_servers()[slot].connections.add(100);
        retire(&table.servers()[slot]);
    }
    table.server_counters(0, 0)[busy].open.up();
    assert_eq!(add(&config, &table, "127.0.0.1:9"), Some(idle));
    let connections = |slot| {
        table.counters_of_server(slot).map(|counters| counters.connections.get()).fold(0, u64::wrapping_add)
    };
    assert_eq!((connections(idle), connections(busy)), (0, 107));
    table.server_counters(0, 0)[idle].connections.add(1);
    assert_eq!(connections(idle), 1);
    assert_eq!(add(&config, &table, "127.0.0.1:10"), None, "the busy one goes on");
}

#[test]
fn what_waits_for_an_upstream_that_is_gone_gets_a_server() {
    let (mut config, _) = world(&["127.0.0.1:3"]);
    let seeded = |config: &Config| {
        let (upstreams, servers) = (config.upstreams.len(), config.slots());
        let dimensions = Dimensions { descriptors: 8, upstreams, servers, ..Dimensions::SMALL };
        let (_, table) = Table::create(dimensions).unwrap();
        seed(config, &table);
        let slot = all(config, &table).next().unwrap();
        (slot.cell.takes_new(), slot.is_retired())
    };
    config.upstreams[0].servers[0].is_retired = true;
    assert_eq!(seeded(&config), (false, true));
    config.upstreams[0].is_retired = true;
    assert_eq!(seeded(&config), (true, true));
}
