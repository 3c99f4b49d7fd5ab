use super::*;
use crate::{
    cli::{Cli, Verb},
    table::{Dimensions, TakeoverStage},
};

fn config(listeners: &[&str], servers: &[&str], workers: usize) -> Config {
    let mut words = format!("proxy run --workers {workers} --user root");
    listeners.iter().for_each(|listener| words += &format!(" -l {listener}"));
    servers.iter().for_each(|server| words += &format!(" -u {server}"));
    let cli = <Cli as clap::Parser>::try_parse_from(words.split_whitespace()).unwrap();
    let Verb::Run(args) = cli.verb else { panic!("run is run") };
    Config::from_args(&args).unwrap()
}

fn table(config: &Config) -> Table {
    let (listeners, upstreams, servers) = (config.listeners.len(), config.upstreams.len(), config.slots());
    let workers = config.workers as usize;
    let table = Table::create(Dimensions {
        descriptors: 8,
        workers,
        listeners,
        upstreams,
        servers,
        ..Dimensions::SMALL
    })
    .unwrap()
    .1;
    slots::seed(config, &table);
    table
}

fn verdicts(config: &Config) -> Vec<u64> {
    (1..).take(verdict_index(config.listeners.len() as u32 + 1, 0, 0) as usize).collect()
}

/// Adds another number to each counter that a table has, but for what was inherited.
fn count(table: &Table) {
    let mut next = 0;
    let mut more = |of: &dyn Counted| {
        of.each_counter(&mut |_, counter| {
            next += 1;
            counter.add(next);
        });
    };
    more(table.supervisor());
    for seat in 0..SEATS as u32 {
        more(table.seat(seat));
        for number in 0..table.dimensions().workers as u32 {
            more(&table.worker(seat, number).counters);
            table.listener_counters(seat, number).iter().for_each(|of| more(of));
            table.server_counters(seat, number).iter().take(SERVERS.len()).for_each(|of| more(of));
        }
    }
}

/// As a successor reads it.
fn sent(ledger: &Ledger) -> Ledger {
    serde_json::from_str(&serde_json::to_string(ledger).unwrap()).unwrap()
}

/// The sum of everything, but for verdicts.
fn total(ledger: &Ledger) -> u64 {
    let workers = ledger.workers.iter().flatten();
    let by_label = ledger.listeners.values().chain(ledger.servers.values());
    let all = workers.chain(by_label).chain(&ledger.seats).chain([&ledger.supervisor, &ledger.rest]);
    all.flat_map(Counts::values).sum::<u64>() + ledger.ticks
}

const LISTENERS: [&str; 2] = ["tcp://127.0.0.1:1", "udp://[::1]:2"];
const SERVERS: [&str; 2] = ["127.0.0.1:3", "127.0.0.1:4"];

/// Counters and verdicts in one.
fn written(table: &Table, config: &Config, verdicts: &[u64]) -> Ledger {
    let Ledger { verdicts, .. } = Ledger::of_verdicts(config, verdicts);
    Ledger { verdicts, ..Ledger::export(table, config) }
}

#[test]
fn what_a_successor_writes_down_is_what_it_read() {
    let config = config(&LISTENERS, &SERVERS, 2);
    let old = table(&config);
    count(&old);
    old.supervisor().ticks_inherited.add(500);
    let written = written(&old, &config, &verdicts(&config));
    assert_eq!((written.ticks, written.listeners.len(), written.workers[1].len()), (500, 2, 2));
    let new = table(&config);
    sent(&written).import(&new, &config);
    assert_eq!(self::written(&new, &config, &written.verdicts(&config)), written);
    // Of eight numbers a seat the program uses as many as there are reasons.
    let used = |index: &u64| (index - 1) % 8 < Reason::ALL.len() as u64;
    let kept: Vec<u64> = verdicts(&config).into_iter().map(|count| count * u64::from(used(&count))).collect();
    assert_eq!(written.verdicts(&config), kept);
}

#[test]
fn many_generations_are_summed() {
    let config = config(&LISTENERS, &SERVERS, 3);
    let mut ledger = Ledger::default();
    let mut one = 0;
    for generation in 1..=5 {
        let table = table(&config);
        sent(&ledger).import(&table, &config);
        count(&table);
        ledger = Ledger::export(&table, &config);
        one = if generation == 1 { total(&ledger) } else { one };
        assert_eq!(total(&ledger), one * generation);
    }
}

#[test]
fn other_workers_lose_nothing() {
    let small = config(&LISTENERS, &SERVERS, 1);
    let large = config(&LISTENERS, &SERVERS, 4);
    let first = table(&large);
    count(&first);
    let of_large = Ledger::export(&first, &large);
    let second = table(&small);
    of_large.import(&second, &small);
    let of_small = Ledger::export(&second, &small);
    assert_eq!((total(&of_small), of_small.workers[0].len()), (total(&of_large), 1));
    for seat in 0..SEATS {
        assert_eq!(of_small.workers[seat][0], of_large.workers[seat][0]);
    }
    let turns = |table: &Table| table.sum_counters(|worker| worker.turns.get());
    assert_eq!(turns(&second), turns(&first));
    let third = table(&large);
    of_small.import(&third, &large);
    assert_eq!((total(&Ledger::export(&third, &large)), turns(&third)), (total(&of_large), turns(&first)));
}

#[test]
fn listeners_and_servers_are_known_by_name_and_what_was_removed_is_left_out() {
    let before = config(&LISTENERS, &SERVERS, 2);
    let old = table(&before);
    count(&old);
    let written = written(&old, &before, &verdicts(&before));
    let after = config(&["udp://127.0.0.1:9", LISTENERS[1]], &[SERVERS[1], "127.0.0.1:7"], 1);
    let new = table(&after);
    written.import(&new, &after);
    let read = self::written(&new, &after, &written.verdicts(&after));
    assert_eq!(read.listeners[LISTENERS[1]], written.listeners[LISTENERS[1]]);
    assert_eq!(
        read.servers[&format!("default/{}", SERVERS[1])],
        written.servers[&format!("default/{}", SERVERS[1])]
    );
    assert!(read.listeners["udp://127.0.0.1:9"].is_empty() && read.servers["default/127.0.0.1:7"].is_empty());
    assert!(read.servers.len() == 2 && read.listeners.len() == 2);
    for kept in [LISTENERS[1], NO_LISTENER] {
        assert_eq!(read.verdicts[kept], written.verdicts[kept]);
    }
    assert_eq!(read.verdicts["udp://127.0.0.1:9"], [Counts::new(), Counts::new()]);
}

#[test]
fn another_versions_ledger_is_read_as_far_as_it_is_known() {
    let config = config(&LISTENERS, &SERVERS, 1);
    let text = r#"{"supervisor":{"takeovers":7,"takeover_duration.adopt.sum_us":9,"moons":3},"planets":[1],
        "listeners":{"tcp://127.0.0.1:1":{"accepted":5,"rejected.limit":6,"rejected.whim":1}},
        "workers":[[{"turns":2},{"audits":4}],[]]}"#;
    let table = table(&config);
    serde_json::from_str::<Ledger>(text).unwrap().import(&table, &config);
    let block = table.supervisor();
    let adopting = &block.takeover_duration[TakeoverStage::Adopt as usize];
    assert_eq!((block.takeovers.get(), adopting.sum_us.get()), (7, 9));
    let inherited = &table.inherited_listeners()[0];
    assert_eq!(
        (inherited.accepted.get(), inherited.rejected[0].get(), inherited.sent_bytes.get()),
        (5, 6, 0)
    );
    assert_eq!((table.inherited_worker(0, 0).turns.get(), table.inherited_rest().audits.get()), (2, 4));
}

#[test]
fn no_two_counters_have_one_name() {
    let config = config(&LISTENERS, &SERVERS, 1);
    let table = table(&config);
    let (listener, server) = (&table.inherited_listeners()[0], &table.inherited_servers()[0]);
    let parts: [&dyn Counted; 5] =
        [table.supervisor(), table.seat(0), table.inherited_rest(), listener, server];
    for part in parts {
        let mut names = std::collections::BTreeSet::new();
        part.each_counter(&mut |name, _| assert!(names.insert(name.join(".")), "{name:?} is there twice"));
        assert!(!names.is_empty());
    }
}
