//! As `corrupt_table`, for UDP: a dying pool writes over one flow's record or tag, and only that flow may
//! be lost; or over cells of the index, and none is. Everything else goes on, and nothing is left open.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;

use fastrand::Rng;
use nix::sys::signal::Signal;
use proxy::sys::Fd;
use proxy::table::{Kind, State};
use proxy_tests::clients::{Outcome, Udp, connect, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::status::Status;
use proxy_tests::table::FlowTable;
use proxy_tests::takeover::{descriptors, wait_taken_over};
use proxy_tests::wait::{until, until_true};
use proxy_tests::{PRIMARY, STANDBY};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const FLOWS: usize = 12;
/// The flow that is spoilt, with others before and after it.
const VICTIM: usize = 5;

/// A client, what its server sees of it, and the number of the flow's socket in the proxy.
struct Flow {
    client: Udp,
    seen: String,
    number: Fd,
}

struct Scene {
    proxy: Proxy,
    table: FlowTable,
    _servers: (servers::Tcp, servers::Udp),
    connections: Vec<TcpStream>,
    /// Clients stay, so that a flow is told by its client's address.
    past: RefCell<Vec<Flow>>,
    /// Descriptors without flows.
    open: usize,
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        isolate();
        let servers = (servers::Tcp::echo(SERVER), servers::Udp::naming(SERVER, "A"));
        let builder = Proxy::builder().listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080");
        let builder = builder.upstream(SERVER).flag("--workers", "2").flag("--failback-after", "never");
        let builder = builder.flag("--lease", "400ms").flag("--fence-after", "10s");
        let proxy = builder.flag("--udp-idle", "5s").start();
        let table = FlowTable::of(&proxy, [2, 2, 1]);
        let connections: Vec<_> = (0..3).map(|_| connect(at(LISTEN))).collect();
        carry(&connections);
        let open = descriptors(&proxy);
        Self { proxy, table, _servers: servers, connections, past: RefCell::default(), open }
    }

    #[track_caller]
    fn begin(&self) -> Flow {
        let client = udp(at(LISTEN));
        let seen = ask(&client, "begin");
        let address = client.0.local_addr().expect("address");
        let is_its = |fd: &Fd| self.table.record(*fd).udp_client() == address;
        let number = until("it is in the table", || self.flows().into_iter().find(is_its));
        Flow { client, seen, number }
    }

    /// The numbers of the flows that are open.
    fn flows(&self) -> Vec<Fd> {
        let is_open = |fd: &Fd| self.table.state(*fd) == State::Established;
        self.table.all(Kind::UdpFlow).into_iter().filter(is_open).collect()
    }

    /// Spoils something while the pool that serves is stopped, and kills it. Answers which flows have
    /// another port than before, after all have been answered.
    #[track_caller]
    fn play(&self, what: &str, flows: &[Flow], spoil: impl FnOnce(&FlowTable, &[Flow])) -> Vec<usize> {
        let before = self.proxy.until_status("whole", Status::whole);
        let seat = before.serving.clone().expect("somebody serves");
        let heir = if seat == PRIMARY { STANDBY } else { PRIMARY };
        signal(before.pid(&seat), Signal::SIGSTOP);
        let owner = self.table.tag(flows[VICTIM].number).get().epoch;
        assert_eq!(u64::from(owner), before.pool(&seat).epoch, "{what}: the victim is the dying pool's");
        spoil(&self.table, flows);
        signal(before.pid(&seat), Signal::SIGKILL);
        wait_taken_over(&self.proxy, &seat, &before);
        assert_eq!(self.proxy.pid(heir), before.pid(heir), "{what}: the heir lives on");
        carry(&self.connections);
        let is_moved = |index: &usize| ask(&flows[*index].client, what) != flows[*index].seen;
        let moved: Vec<_> = (0..flows.len()).filter(is_moved).collect();
        until_true(&format!("{what}: no other descriptor is open"), || {
            descriptors(&self.proxy) - self.flows().len() == self.open
        });
        println!("{what}: another port for {moved:?}, {} lost so far", self.lost());
        moved
    }

    /// The same with one victim, which alone may be lost.
    #[track_caller]
    fn play_one(&self, what: &str, spoil: impl FnOnce(&FlowTable, Fd)) {
        let flows: Vec<_> = (0..FLOWS).map(|_| self.begin()).collect();
        let moved = self.play(what, &flows, |table, flows| spoil(table, flows[VICTIM].number));
        assert!(moved.is_empty() || moved == [VICTIM], "{what}: lost {moved:?}");
        self.past.borrow_mut().extend(flows);
        // One whose tag was nobody's may be counted in a later play.
        let most = self.past.borrow().len() / FLOWS;
        assert!(self.lost() <= most as f64, "{what}: {} lost in {most} plays", self.lost());
    }

    fn lost(&self) -> f64 {
        self.proxy.metrics().sum("proxy_lost_flows_total", &[])
    }

    /// All flows end for being idle, and nothing is left of them.
    #[track_caller]
    fn finish(&self) {
        let gauges = ["proxy_udp_flows", "proxy_pool_udp_flows"];
        until_true("no flow is left", || {
            let metrics = self.proxy.metrics();
            gauges.iter().all(|name| metrics.has(name) && metrics.sum(name, &[]) == 0.0)
        });
        until_true("the descriptors are those of the beginning", || descriptors(&self.proxy) == self.open);
        carry(&self.connections);
    }
}

/// Connections carry something both ways.
#[track_caller]
fn carry(connections: &[TcpStream]) {
    let mut buffer = [0; 4];
    for mut connection in connections {
        connection.write_all(b"ping").expect("write");
        connection.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"ping");
    }
}

/// Server and port, from its answer.
#[track_caller]
fn ask(client: &Udp, text: &str) -> String {
    let Outcome::Answered(answer) = client.ask(text, PATIENCE) else { panic!("{text}: no answer") };
    answer.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn garbage_in_a_flows_record() {
    let scene = Scene::set();
    scene.play_one("nothing", |_, _| {});
    assert_eq!(scene.lost(), 0.0);
    scene.play_one("zeroes", |table, victim| table.write_record(victim, &[0; 64]));
    scene.play_one("ones", |table, victim| table.write_record(victim, &[0xff; 64]));
    for seed in 0..2 {
        let mut rng = Rng::with_seed(seed);
        let bytes = std::array::from_fn(|_| rng.u8(..));
        scene.play_one(&format!("random bytes, seed {seed}"), |table, victim| {
            table.write_record(victim, &bytes);
        });
    }
    scene.play_one("the other worker", |table, victim| {
        let record = table.record(victim);
        table.write_word(victim, 12, record.listener() << 16 | (1 - record.worker()));
    });
    for word in [77, 0x00ff_0000, 0xffff_ffff] {
        scene.play_one(&format!("worker and listener {word:x}"), |table, victim| {
            table.write_word(victim, 12, word);
        });
    }
    scene.play_one("server 999", |table, victim| table.record(victim).set_server(Some(999)));
    assert!(scene.lost() >= 2.0, "what makes no sense is lost, and counted");
    scene.finish();
}

#[test]
fn a_flows_tag_that_is_wrong() {
    let scene = Scene::set();
    for kind in [0, 1, 2, 3, 4, 0x40, 0x41] {
        scene.play_one(&format!("tagged as kind {kind:x}"), |table, victim| {
            let epoch = if kind == 1 { 0 } else { table.tag(victim).get().epoch << 8 };
            table.write_tag(victim, epoch | kind);
        });
    }
    for word in [0, u32::MAX, 0xdead_beef] {
        scene.play_one(&format!("tagged {word:x}"), |table, victim| table.write_tag(victim, word));
    }
    scene.finish();
}

/// A cell proves nothing, and the heir enters what it adopts once more. Only who is not adopted, because its
/// own pool lives on, may have to begin again.
#[test]
fn garbage_in_the_index() {
    let scene = Scene::set();
    let play = |what: &str, spoil: &dyn Fn(&FlowTable, &[Flow])| {
        let other = if scene.proxy.status().serves(PRIMARY) { "failover" } else { "failback" };
        let seat = if other == "failover" { STANDBY } else { PRIMARY };
        let survivors: Vec<_> = (0..3).map(|_| scene.begin()).collect();
        scene.proxy.verb(&[other]).says(0, &[]);
        scene.proxy.until_status("traffic has moved", |status| status.serves(seat));
        let mut flows: Vec<_> = (0..FLOWS).map(|_| scene.begin()).collect();
        flows.extend(survivors);
        for flow in &flows {
            let cells =
                scene.table.cells().into_iter().filter(|cell| cell & !HASH == name(&scene, flow)).count();
            assert_eq!(cells, 1, "cells that name a flow, {what}");
        }
        let moved = scene.play(what, &flows, |table, flows| spoil(table, flows));
        assert!(moved.iter().all(|index| *index >= FLOWS), "{what}: another port for {moved:?}");
        assert_eq!(scene.lost(), 0.0, "{what}");
        // Once begun again they stay.
        let ports: Vec<_> = flows.iter().map(|flow| ask(&flow.client, "again")).collect();
        let again: Vec<_> = flows.iter().map(|flow| ask(&flow.client, "and again")).collect();
        assert_eq!(ports, again, "{what}");
        scene.past.borrow_mut().extend(flows);
    };
    play("no cell", &|_, _| {});
    play("the victim's cell", &|table, flows| {
        table.write_cells(|cell| if cell & !HASH == name(&scene, &flows[VICTIM]) { 0 } else { cell });
    });
    play("the victim's cell names another flow", &|table, flows| {
        let [victim, other] = [VICTIM, 0].map(|index| name(&scene, &flows[index]));
        table.write_cells(|cell| if cell & !HASH == victim { other | cell & HASH } else { cell });
    });
    play("all zeroes", &|table, _| table.write_cells(|_| 0));
    play("all ones", &|table, _| table.write_cells(|_| u64::MAX));
    for seed in 0..2 {
        play(&format!("all random, seed {seed}"), &|table, _| {
            let mut rng = Rng::with_seed(seed);
            table.write_cells(|_| rng.u64(..));
        });
        play(&format!("random flows of another generation, seed {seed}"), &|table, _| {
            let mut rng = Rng::with_seed(seed);
            let word = |rng: &mut Rng| rng.u64(..) << 32 | 1 << 31 | rng.u64(1..200);
            table.write_cells(|cell| if rng.bool() { word(&mut rng) | cell & HASH } else { cell });
        });
    }
    scene.finish();
}

/// Bits of the key's hash, in a cell.
const HASH: u64 = 0x3ff << 21;

/// What a cell says beside these that names a flow: generation, a bit that it is settled, number plus 1.
fn name(scene: &Scene, flow: &Flow) -> u64 {
    let generation = u64::from(scene.table.record(flow.number).generation());
    generation << 32 | 1 << 31 | (flow.number.raw() as u64 + 1)
}
