//! Orders on upstreams, over a flow table of their own.

use super::*;
use crate::{
    cli::{Cli, Verb},
    config::{ADDRESSES_OF_A_NAME, Config},
    control::{Context, SteeringView},
    sys::Fd,
    table::{Dimensions, HandoverKind, Health, Table},
};
use proxy_common::lease::Liveness;

struct NoSteering;

impl SteeringView for NoSteering {
    fn liveness(&self) -> Liveness {
        Liveness::EMPTY
    }

    fn verdicts(&self) -> Result<Vec<u64>, String> {
        Ok(Vec::new())
    }
}

/// Two servers of the one upstream, `default`.
fn context() -> Context<'static> {
    let words = "proxy run -l tcp://127.0.0.1:8080 -u 10.0.0.1:1 -u db.example:2 --workers 1 --user root";
    let cli = <Cli as clap::Parser>::try_parse_from(words.split(' ')).unwrap();
    let Verb::Run(args) = cli.verb else { panic!("run is run") };
    let config = Config::from_args(&args).unwrap();
    let servers = config.slots();
    let dimensions = Dimensions { descriptors: 100, servers, ..Dimensions::SMALL };
    let (_, table) = Table::create(dimensions).unwrap();
    slots::seed(&config, &table);
    for address in ["10.0.0.2:2", "10.0.0.3:2"] {
        let identity = config.upstreams[0].servers[1].identity(address.parse().unwrap(), Origin::Settings(1));
        slots::place(&config, &table, 0, identity, Presence::Present).unwrap();
    }
    let none = Fd::from_raw(0);
    Context {
        config,
        table,
        steering: &NoSteering,
        control_socket: none,
        metrics: None,
        orders: none,
        orders_peer: none,
        notices: none,
        notices_peer: none,
        access_log: None,
        listening: Vec::new(),
        unneeded: Vec::new(),
        last_kept: none,
    }
}

fn add_wish(address: &str, weight: Option<u32>) -> Wish {
    Wish::Add { address: address.into(), weight, backup: false }
}

fn states(view: &View<'_>) -> Vec<(String, String)> {
    let list = list(view, None).unwrap();
    list.upstreams[0].servers.iter().map(|server| (server.name.clone(), server.state.clone())).collect()
}

#[test]
fn a_server_is_drained_by_whatever_it_is_called() {
    let context = context();
    let view = View::new(&context);
    let state = |name: &str| states(&view).into_iter().find(|(known, _)| known == name).unwrap().1;
    for called in ["10.0.0.2:2", "db.example:2/10.0.0.2:2"] {
        let server = called.to_owned();
        let done = perform(&view, None, &Wish::Drain { server: server.clone() }).unwrap();
        assert_eq!(done, "db.example:2/10.0.0.2:2: nothing new; 0 open connections and flows go on");
        assert_eq!(state("db.example:2/10.0.0.2:2"), "draining");
        assert_eq!(state("db.example:2/10.0.0.3:2"), "up");
        perform(&view, Some("default"), &Wish::Ready { server }).unwrap();
        assert_eq!(state("db.example:2/10.0.0.2:2"), "up");
    }
    perform(&view, None, &Wish::Drain { server: "db.example:2".into() }).unwrap();
    assert_eq!(state("db.example:2/10.0.0.3:2"), "draining", "all of its name");
    assert_eq!(state("10.0.0.1:1"), "up");
}

#[test]
fn a_weight_is_given_and_taken_back() {
    let context = context();
    let view = View::new(&context);
    let server = || "10.0.0.1:1".to_owned();
    let weight = || {
        let servers = list(&view, Some("default")).unwrap().upstreams.remove(0).servers;
        (servers[0].weight, servers[0].reweighed)
    };
    perform(&view, None, &Wish::Weight { server: server(), weight: Some(7) }).unwrap();
    assert_eq!(weight(), (7, true));
    perform(&view, None, &Wish::Weight { server: server(), weight: None }).unwrap();
    assert_eq!(weight(), (1, false));
    let error = perform(&view, None, &Wish::Weight { server: server(), weight: Some(1001) }).unwrap_err();
    assert!(error.contains("0 to 1000"), "{error}");
}

#[test]
fn servers_are_added_and_removed_and_come_back() {
    let context = context();
    let view = View::new(&context);
    for _ in 0..3 {
        let done = perform(&view, None, &add_wish("10.0.0.9:9", Some(5))).unwrap();
        assert!(done.contains("added to upstream default"), "{done}");
        assert!(states(&view).contains(&("10.0.0.9:9".into(), "up".into())));
        let twice = perform(&view, None, &add_wish("10.0.0.9:9", None)).unwrap_err();
        assert!(twice.contains("already"), "{twice}");
        perform(&view, None, &Wish::Remove { server: "10.0.0.9:9".into() }).unwrap();
        assert!(states(&view).contains(&("10.0.0.9:9".into(), "retired".into())));
        let gone = perform(&view, None, &Wish::Remove { server: "10.0.0.9:9".into() }).unwrap_err();
        assert!(gone.contains("retired"), "{gone}");
    }
}

#[test]
fn what_cannot_be_is_told_with_what_to_do() {
    let context = context();
    let view = View::new(&context);
    let remove = |server: &str| perform(&view, None, &Wish::Remove { server: server.into() }).unwrap_err();
    assert!(remove("10.0.0.1:1").contains("take it out there and reload"));
    assert!(remove("10.0.0.1:2").contains("the nearest is 10.0.0.1:1"));
    for (address, why) in [
        ("db.example:1", "is no address"),
        ("10.0.0.9:0", "is no address"),
        ("127.0.0.1:8080", "our own listener tcp://127.0.0.1:8080"),
        ("10.0.0.1:1", "already"),
    ] {
        let error = perform(&view, None, &add_wish(address, None)).unwrap_err();
        assert!(error.contains(why), "{address}: {error}");
    }
    let error = list(&view, Some("defalt")).unwrap_err();
    assert_eq!(error, "there is no upstream defalt; the nearest is default");
    let handover = &view.table.supervisor().handover;
    handover.begin(HandoverKind::Reload);
    handover.set_state(HandoverState::Moving);
    assert!(perform(&view, None, &add_wish("10.0.0.9:9", None)).unwrap_err().contains("try again"));
}

/// Those that are removed and busy among them. The addresses of a name have their room whatever is added.
#[test]
fn there_is_room_for_so_many() {
    let context = context();
    let view = View::new(&context);
    let add = |address: &str| perform(&view, None, &add_wish(address, None));
    for number in 0..SPARE_SLOTS {
        add(&format!("10.0.1.{number}:1")).unwrap();
    }
    let error = add("10.0.2.1:1").unwrap_err();
    assert!(error.contains("16 servers were added"), "{error}");
    let remove = |server: &str| perform(&view, None, &Wish::Remove { server: server.into() }).unwrap();
    let busy = slots::find(view.config, &view.table, 0, "10.0.1.3:1".parse().unwrap()).unwrap();
    view.table.server_counters(0, 0)[busy].open.up();
    remove("10.0.1.3:1");
    assert!(add("10.0.2.1:1").is_err());
    add("10.0.1.3:1").unwrap();
    remove("10.0.1.4:1");
    add("10.0.2.1:1").unwrap();
    assert_eq!(view.table.servers()[0].health(), Health::Unknown);
    for number in 2..ADDRESSES_OF_A_NAME {
        let address = format!("10.0.3.{number}:2").parse().unwrap();
        let identity = view.config.upstreams[0].servers[1].identity(address, Origin::Settings(1));
        assert!(slots::place(view.config, &view.table, 0, identity, Presence::Present).is_some(), "{number}");
    }
}
