//! A dying pool writes where it should not. Whatever it wrote to one record, one tag or its own block,
//! one flow is lost at most, and by a reset that is counted, never by wrong bytes or an end that is
//! none; the other flows go on, their heir lives, and nothing is left open.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;

use fastrand::Rng;
use nix::sys::signal::Signal;
use proxy::sys::Fd;
use proxy::table::{Direction, Holder, Kind, State, flag};
use proxy_tests::clients::{Udp, connect, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::status::Status;
use proxy_tests::table::{FlowTable, numbers};
use proxy_tests::wait::{until, until_true};
use proxy_tests::{PRIMARY, STANDBY, pattern};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const PAIRS: usize = 20;
/// Bytes that are written at a time to fill a connection.
const STEP: usize = 64 << 10;
/// Steps between two looks.
const STEPS: usize = 4;

/// Both ends of a connection, and the number of its client descriptor in the proxy.
struct Pair {
    ends: [TcpStream; 2],
    number: Fd,
    /// Bytes that wait to be read by the second end.
    behind: usize,
}

struct Scene {
    proxy: Proxy,
    table: FlowTable,
    accepted: mpsc::Receiver<TcpStream>,
    _servers: (servers::Tcp, servers::Udp),
    own: Vec<(i32, String)>,
    open: usize,
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        isolate();
        let (tcp, accepted) = servers::Tcp::handing_over(SERVER);
        let datagrams = servers::Udp::naming(SERVER, "A");
        let builder = Proxy::builder().listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080");
        let builder = builder.upstream(SERVER).flag("--workers", "2").flag("--failback-after", "never");
        // A lease is also how long registrations wait to be moved.
        let proxy = builder.flag("--lease", "400ms").flag("--fence-after", "10s").start();
        let table = FlowTable::of(&proxy, [2, 2, 1]);
        let own: Vec<Fd> = table.all(Kind::Supervisor);
        let all = numbers(proxy.supervisor());
        let own = all.iter().filter(|(number, _)| own.contains(&Fd::from_raw(*number))).cloned().collect();
        let open = count(&proxy);
        Self { proxy, table, accepted, _servers: (tcp, datagrams), own, open }
    }

    #[track_caller]
    fn pair(&self) -> Pair {
        let before = self.table.clients();
        let client = connect(at(LISTEN));
        let server = self.accepted.recv_timeout(PATIENCE).expect("the proxy connects to the server");
        let mut ends = [client, server];
        carry(&mut ends, b"once").expect("a new connection carries");
        let is_new = |fd: &Fd| !before.contains(fd) && self.table.state(*fd) == State::Established;
        let number = until("it is in the table", || self.table.clients().into_iter().find(is_new));
        Pair { ends, number, behind: 0 }
    }

    /// Connections that carry something, all of the pool that serves, and what was there before. A pool that the
    /// machine does not let run for a lease has new connections go to the other one: they are made again then.
    #[track_caller]
    fn pairs(&self) -> (Status, Vec<Pair>) {
        until("all connections are of the pool that serves", || {
            let before = self.proxy.until_status("whole", |s| s.whole() && s.serving.is_some());
            let pairs: Vec<Pair> = (0..PAIRS).map(|_| self.pair()).collect();
            let epoch = before.pool(before.serving.as_ref()?).epoch;
            if pairs.iter().all(|pair| self.epoch(pair.number) == epoch) {
                return Some((before, pairs));
            }
            drop(pairs);
            self.assert_closed("of two pools");
            None
        })
    }

    /// The same, two of them with bytes in flight, and flows.
    #[track_caller]
    fn busy(&self) -> (Status, Vec<Pair>, Vec<Udp>) {
        let (before, mut pairs) = self.pairs();
        for pair in &mut pairs[..2] {
            pair.behind = self.fill(pair);
        }
        let flows: Vec<Udp> = (0..3).map(|_| udp(at(LISTEN))).collect();
        assert!(flows.iter().all(|flow| flow.ask("hello", PATIENCE).answered()));
        (before, pairs, flows)
    }

    /// Of the pool that has the flow at this number.
    fn epoch(&self, number: Fd) -> u64 {
        self.table.tag(number).get().epoch.into()
    }

    /// Writes until the server's window is full, and the rest of the last step is in a pipe.
    #[track_caller]
    fn fill(&self, pair: &mut Pair) -> usize {
        let (mut sent, mut still) = (0, 0);
        until_true("bytes stand still in a pipe", || {
            if self.table.record(pair.number).holder(Direction::Up) != Holder::None {
                still += 1;
            } else {
                for _ in 0..STEPS {
                    pair.ends[0].write_all(pattern::from(sent, STEP)).expect("write");
                    sent += STEP;
                }
                still = 0;
            }
            still >= 10
        });
        sent
    }

    /// Spoils something while the pool that serves is stopped, kills it, and sees who survived: all
    /// but the victim, who may have.
    #[track_caller]
    fn play(&self, what: &str, spoil: impl Fn(&Self, &[Pair])) {
        self.play_on(VICTIM, what, spoil);
    }

    #[track_caller]
    fn play_on(&self, victim: usize, what: &str, spoil: impl Fn(&Self, &[Pair])) {
        let (before, mut pairs, flows) = self.busy();
        let seat = before.serving.clone().expect("somebody serves");
        let heir = if seat == PRIMARY { STANDBY } else { PRIMARY };
        let lost_before = self.lost();
        signal(before.pid(&seat), Signal::SIGSTOP);
        let owner = self.epoch(pairs[victim].number);
        assert_eq!(owner, before.pool(&seat).epoch, "{what}: the victim is the dying pool's");
        spoil(self, &pairs);
        signal(before.pid(&seat), Signal::SIGKILL);
        let after = self.proxy.until_status("taken over", |s| {
            s.whole() && s.takeovers > before.takeovers && s.pool(&seat).epoch > before.pool(&seat).epoch
        });
        assert_eq!(after.pid(heir), before.pid(heir), "{what}: the heir lives on");
        let mut dead = Vec::new();
        for (index, pair) in pairs.iter_mut().enumerate() {
            if let Err(error) = check(pair) {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}: {index}: {error}");
                dead.push(index);
            }
        }
        assert!(dead.is_empty() || dead == [victim], "{what}: lost {dead:?}");
        let answered = flows.iter().filter(|flow| flow.ask("again", PATIENCE).answered()).count();
        assert_eq!(answered, flows.len(), "{what}: flows answered");
        if !dead.is_empty() {
            until_true("the loss is counted", || self.lost() > lost_before);
        }
        println!("{what}: lost {dead:?}, {:?}", after.recent_takeovers[0].lost);
        drop((pairs, flows));
        self.assert_nothing_left(what);
    }

    fn lost(&self) -> f64 {
        let metrics = self.proxy.metrics();
        // What the record says of a reset under way is believed.
        let ending = [("protocol", "tcp"), ("state", "closing")];
        metrics.sum("proxy_lost_flows_total", &[]) + metrics.sum("proxy_adopted_flows_total", &ending)
    }

    #[track_caller]
    fn assert_unharmed_gauges(&self) {
        assert_eq!(self.lost(), 0.0, "nothing was lost");
        until_true("the gauges are at 0", || {
            self.proxy.metrics().sum("proxy_listener_connections", &[]) == 0.0
        });
    }

    #[track_caller]
    fn assert_closed(&self, what: &str) {
        until_true(&format!("{what}: no connection is open"), || {
            let own: Vec<_> = self.own.iter().map(|own| Fd::from_raw(own.0)).collect();
            let is_left = |kind| self.table.all(kind).iter().any(|fd| !own.contains(fd));
            !is_left(Kind::Client) && !is_left(Kind::Upstream)
        });
    }

    #[track_caller]
    fn assert_nothing_left(&self, what: &str) {
        self.assert_closed(what);
        // Three flows stay for their idle timeout.
        let is_open = |fd: &Fd| self.table.state(*fd) == State::Established;
        let flows = || self.table.all(Kind::UdpFlow).into_iter().filter(is_open).count();
        until_true(&format!("{what}: descriptors are back"), || count(&self.proxy) - flows() == self.open);
        let now = numbers(self.proxy.supervisor());
        assert!(self.own.iter().all(|own| now.contains(own)), "{what}: the supervisor lost a descriptor");
    }
}

/// Descriptors of the shared table that are no pipes, which pools keep in stock.
fn count(proxy: &Proxy) -> usize {
    numbers(proxy.supervisor()).iter().filter(|(_, link)| !link.starts_with("pipe:")).count()
}

/// The connection that is spoilt: idle, with idle ones before and after it.
const VICTIM: usize = 10;

fn carry(ends: &mut [TcpStream; 2], text: &[u8; 4]) -> Result<()> {
    let mut buffer = [0; 4];
    for [from, to] in [[0, 1], [1, 0]] {
        ends[from].write_all(text)?;
        ends[to].read_exact(&mut buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => std::io::Error::other("an end that is none"),
            _ => error,
        })?;
        assert_eq!(&buffer, text, "wrong bytes");
    }
    Ok(())
}

/// Sends on where bytes are in flight, reads all of them, and then carries something both ways.
fn check(pair: &mut Pair) -> Result<()> {
    if pair.behind > 0 {
        pair.ends[0].write_all(pattern::from(pair.behind, STEP))?;
        pair.behind += STEP;
    }
    let mut position = 0;
    let mut buffer = [0; 64 << 10];
    while position < pair.behind {
        let most = buffer.len().min(pair.behind - position);
        let count = pair.ends[1].read(&mut buffer[..most])?;
        assert!(count > 0, "an end that is none");
        assert_eq!(&buffer[..count], pattern::from(position, count), "wrong bytes");
        position += count;
    }
    let text = (pair.number.raw() as u32).to_ne_bytes();
    carry(&mut pair.ends, &text)
}

#[test]
fn garbage_in_a_record() {
    let scene = Scene::set();
    scene.play("nothing", |_, _| {});
    scene.play("zeroes", |scene, pairs| scene.table.write_record(pairs[VICTIM].number, &[0; 64]));
    scene.play("ones", |scene, pairs| scene.table.write_record(pairs[VICTIM].number, &[0xff; 64]));
    for round in 0..5 {
        scene.play(&format!("random bytes, seed {round}"), |scene, pairs| {
            let mut rng = Rng::with_seed(round);
            let bytes = std::array::from_fn(|_| rng.u8(..));
            scene.table.write_record(pairs[VICTIM].number, &bytes);
        });
    }
}

#[test]
fn a_record_in_another_state() {
    let scene = Scene::set();
    for state in [0, 1, 2, 4, 77, u32::MAX] {
        scene.play(&format!("state {state}"), |scene, pairs| {
            scene.table.write_word(pairs[VICTIM].number, 0, state);
        });
    }
    for flag in [flag::of(flag::SHUT, Direction::Up), 3 * flag::SHUT, 3 * flag::MORE, flag::RESET, u32::MAX] {
        scene.play(&format!("flags {flag:x}"), |scene, pairs| {
            scene.table.write_word(pairs[VICTIM].number, 8, flag);
        });
    }
}

/// What the record says of the other end is asked of the kernel, also where closing is all that seems to be left.
#[test]
fn half_an_end_is_no_whole_one() {
    let scene = Scene::set();
    let Pair { mut ends, number, .. } = scene.pair();
    ends[0].shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(servers::read_all(&mut ends[1]).expect("an end"), b"");
    let before = scene.proxy.until_status("whole", Status::whole);
    let mine = before.pools.iter().find(|pool| pool.epoch == scene.epoch(number)).expect("it is some pool's");
    let pool = mine.pid.expect("it lives");
    signal(pool, Signal::SIGSTOP);
    scene.table.record(number).set(3 * flag::SHUT);
    scene.table.record(number).set_state(State::Closing);
    signal(pool, Signal::SIGKILL);
    let error = servers::read_all(&mut ends[0]).expect_err("the server has not ended");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    until_true("the loss is counted", || {
        scene.proxy.metrics().sum("proxy_lost_flows_total", &[("reason", "corrupt")]) == 1.0
    });
    scene.assert_nothing_left("half an end");
}

#[test]
fn a_record_that_names_what_is_anothers() {
    let scene = Scene::set();
    let listening = scene.own.iter().rev().find(|(_, link)| link.starts_with("socket:")).expect("a socket").0;
    let numbers = [-2, 0, 1, listening, 1 << 20, i32::MAX];
    for number in numbers {
        scene.play(&format!("upstream {number}"), |scene, pairs| {
            scene.table.record(pairs[VICTIM].number).set_upstream(Some(Fd::from_raw(number)));
        });
        scene.play(&format!("pipe {number}"), |scene, pairs| {
            let pipe = Holder::Pipe(Fd::from_raw(number & 0x0fff_ffff));
            scene.table.record(pairs[VICTIM].number).set_holder(Direction::Down, pipe);
        });
    }
    for is_before in [true, false] {
        scene.play(&format!("another's upstream, before {is_before}"), |scene, pairs| {
            let victim = scene.table.record(pairs[VICTIM].number);
            let is_near =
                |pair: &&Pair| (pair.number < pairs[VICTIM].number) == is_before && pair.behind == 0;
            // Of the same worker, which comes to one of them first.
            let mut others = pairs.iter().filter(is_near).map(|pair| scene.table.record(pair.number));
            let other =
                others.find(|other| other.worker() == victim.worker() && !std::ptr::eq(*other, victim));
            victim.set_upstream(other.expect("one of the same worker").upstream());
        });
    }
    for direction in Direction::BOTH {
        scene.play(&format!("a pipe that is full, {direction:?}"), |scene, pairs| {
            let pipe = scene.table.record(pairs[0].number).holder(Direction::Up);
            assert_ne!(pipe, Holder::None);
            scene.table.record(pairs[VICTIM].number).set_holder(direction, pipe);
        });
    }
    scene.play("worker 1, or 0", |scene, pairs| {
        let record = scene.table.record(pairs[VICTIM].number);
        let other = 1 - record.worker();
        scene.table.write_word(pairs[VICTIM].number, 12, record.listener() << 16 | other);
    });
    for word in [77, 0x00ff_0000, 0xffff_ffff] {
        scene.play(&format!("worker and listener {word:x}"), |scene, pairs| {
            scene.table.write_word(pairs[VICTIM].number, 12, word);
        });
    }
    scene.play("server 999", |scene, pairs| {
        scene.table.record(pairs[VICTIM].number).set_server(Some(999));
    });
}

/// The bytes that a pipe held are gone with it: a reset, for what came later would follow a gap.
#[test]
fn a_forgotten_pipe() {
    let scene = Scene::set();
    scene.play_on(0, "a pipe that is forgotten", |scene, pairs| {
        let record = scene.table.record(pairs[0].number);
        assert_ne!(record.holder(Direction::Up), Holder::None);
        record.set_holder(Direction::Up, Holder::None);
        // With its flags it would be audited before anything else.
        record.clear(u32::MAX);
    });
    assert!(scene.lost() > 0.0, "it cannot be carried on");
}

#[test]
fn a_tag_that_is_wrong() {
    let scene = Scene::set();
    let epoch_of = |scene: &Scene, fd: Fd| scene.table.tag(fd).get().epoch << 8;
    for name in ["client", "upstream"] {
        let part = |scene: &Scene, pairs: &[Pair]| match pairs[VICTIM].number {
            client if name == "client" => client,
            client => scene.table.record(client).upstream().expect("an upstream connection"),
        };
        for kind in 1..6 {
            scene.play(&format!("{name} tagged as kind {kind}"), |scene, pairs| {
                let fd = part(scene, pairs);
                let epoch = if kind == 1 { 0 } else { epoch_of(scene, fd) };
                scene.table.write_tag(fd, epoch | kind);
            });
        }
        for word in [0, u32::MAX, 0xdead_beef, 0x40] {
            scene.play(&format!("{name} tagged {word:x}"), |scene, pairs| {
                scene.table.write_tag(part(scene, pairs), word);
            });
        }
    }
}

/// A tag makes a dead pool's flow of what is the supervisor's: a listening socket, an epoll set.
#[test]
fn a_tag_on_what_is_the_supervisors() {
    let scene = Scene::set();
    for kind in 2..6 {
        scene.play(&format!("all of the supervisor's tagged as kind {kind}"), |scene, pairs| {
            let epoch = scene.table.tag(pairs[0].number).get().epoch;
            for (number, link) in numbers(scene.proxy.supervisor()) {
                let is_later = link.starts_with("anon_inode:");
                if is_later || scene.own.iter().any(|own| own.0 == number) {
                    scene.table.write_tag(Fd::from_raw(number), epoch << 8 | kind);
                }
            }
        });
    }
}

/// What a worker writes about itself, and what it was left: nothing of that is a flow's, and none is lost.
#[test]
fn garbage_in_a_workers_block() {
    let scene = Scene::set();
    let seat_of = |scene: &Scene, pairs: &[Pair]| {
        let epoch = scene.table.tag(pairs[0].number).get().epoch;
        (0..2).find(|seat| scene.table.table.seat(*seat).epoch.load(Relaxed) == epoch).expect("a seat")
    };
    let listening = scene.own.iter().rev().find(|(_, link)| link.starts_with("socket:")).expect("a socket").0;
    scene.play("gauges, gifts, window", |scene, pairs| {
        for block in scene.table.table.workers(seat_of(scene, pairs)) {
            block.opening.store(1, Relaxed);
            block.pipe_gifts.iter().for_each(|gift| gift.set(listening));
            [&block.connections, &block.pipes_wanted].into_iter().for_each(|gauge| gauge.set(u64::MAX));
        }
    });
    for seed in 0..3 {
        scene.play("events", |scene, pairs| {
            let mut rng = Rng::with_seed(seed);
            (0..2).for_each(|worker| scene.table.write_events(seat_of(scene, pairs), worker, || rng.u8(..)));
        });
    }
    for set in [0, listening, i32::MAX, -1] {
        scene.play(&format!("estates with set {set}"), |scene, pairs| {
            let (table, seat) = (&scene.table.table, seat_of(scene, pairs));
            let heir = table.seat(1 - seat).epoch.load(Relaxed);
            for (block, other) in table.workers(seat).iter().zip(table.workers(1 - seat)) {
                let heirs = [(heir, other.epoll.fd()), (heir, Fd::from_raw(set)), (77, other.bell.fd())];
                for ((epoch, set), of) in heirs.into_iter().zip([seat, 1 - seat, u32::MAX]) {
                    assert!(block.estates.iter().any(|cell| cell.leave(epoch, of, set, 0)));
                }
            }
        });
    }
    scene.assert_unharmed_gauges();
}
