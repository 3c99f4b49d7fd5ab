//! Micro-benchmarks of what is computed for each connection or datagram: `cargo bench --package proxy --bench hot`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use proxy::relay::balance::{Candidate, pick};
use proxy::sys::Fd;
use proxy::table::{Dimensions, Entry, Found, Sources, Table};
use proxy_common::lease::{Liveness, SeatLiveness};
use proxy_common::steer::choose;

/// Entries of the flow index while it is measured, half of what there is room for.
const FLOWS: i32 = 10_000;

/// As the kernel program does it: all live, half of the workers late, the whole first seat late.
fn steering(criterion: &mut Criterion) {
    const NOW: u64 = 1_000;
    let seat = |late: usize| {
        let mut seat = SeatLiveness { live: 1, deadlines: [NOW + 1; _] };
        seat.deadlines[..late].fill(NOW - 1);
        seat
    };
    let mut group = criterion.benchmark_group("steer::choose");
    for workers in [2, 8, 64] {
        for (name, late) in [("preferred", 0), ("worker_expired", workers / 2), ("lease_expired", workers)] {
            let liveness = Liveness { first: 0, workers: workers as u32, seats: [seat(late), seat(0)] };
            group.bench_function(BenchmarkId::new(name, workers), |bencher| {
                let mut hash = 1_u32;
                bencher.iter(|| {
                    hash = hash.wrapping_mul(0x9e37_79b1);
                    choose(black_box(&liveness), black_box(NOW), hash, 0)
                });
            });
        }
    }
}

fn balancing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balance::pick");
    for servers in [2, 16] {
        let candidates: Vec<_> = (0..servers).map(|server| Candidate { server, weight: 1000 }).collect();
        let (open, key) = (|server| black_box(server) as u64, |server| Some(black_box(server) as u64));
        let mut credits = vec![pick::FRESH; servers];
        let mut random = fastrand::Rng::with_seed(1);
        let id = |name| BenchmarkId::new(name, servers);
        group.bench_function(id("random_two"), |bencher| {
            bencher.iter(|| pick::random_two(&candidates, open, random.u64(..)));
        });
        group.bench_function(id("least_connections"), |bencher| {
            bencher.iter(|| pick::least_connections(&candidates, open, random.u64(..)));
        });
        group.bench_function(id("round_robin"), |bencher| {
            bencher.iter(|| pick::round_robin(&candidates, &mut credits, random.u64(..)));
        });
        group.bench_function(id("source_hash"), |bencher| {
            bencher.iter(|| pick::source_hash(&candidates, key, random.u64(..)));
        });
    }
}

/// A look-up is what a datagram of an open flow costs beside the relaying.
fn flow_index(criterion: &mut Criterion) {
    let dimensions = Dimensions {
        descriptors: 2 * FLOWS as usize,
        workers: 1,
        listeners: 1,
        upstreams: 1,
        servers: 1,
        counts_sources: false,
    };
    let (_memory, table) = Table::create(dimensions).expect("a flow table");
    let index = table.index();
    let entry = |fd| Entry { fd: Fd::from_raw(fd), generation: 1 };
    // As long as the key of a flow of which no PROXY header has told.
    let hash = |fd: i32| index.hash(&[fd.to_le_bytes().as_slice(), &[0; 38]].concat());
    for fd in 0..FLOWS {
        index.enter(
            hash(fd),
            entry(fd),
            |other| if other == entry(fd) { Found::Wanted } else { Found::Other },
        );
    }
    let is_there = |fd: &i32| index.find(hash(*fd), |other| other == entry(*fd)).is_some();
    assert_eq!((0..FLOWS).filter(is_there).count(), FLOWS as usize, "flows that are found");
    let mut group = criterion.benchmark_group("table::Index");
    group.bench_function("hash", |bencher| bencher.iter(|| index.hash(black_box(&[7; 42]))));
    let mut random = fastrand::Rng::with_seed(1);
    group.bench_function("hash and find", |bencher| {
        bencher.iter(|| {
            let fd = random.i32(..FLOWS);
            index.find(hash(fd), |other| other == entry(fd))
        });
    });
}

/// What a limit by client costs a connection: counted up and down, and looked at.
fn sources(criterion: &mut Criterion) {
    let workers = 2;
    let cells: Vec<_> = (0..workers * Sources::CELLS).map(|_| Default::default()).collect();
    let sources = Sources::new(cells.leak());
    let mut group = criterion.benchmark_group("table::Sources");
    let mut random = fastrand::Rng::with_seed(1);
    group.bench_function("key", |bencher| {
        bencher.iter(|| Sources::key(0, IpAddr::from(Ipv4Addr::from_bits(random.u32(..)))));
    });
    group.bench_function("up, count, down", |bencher| {
        bencher.iter(|| {
            let hash = random.u64(..);
            sources.up(0, hash);
            let count = sources.count(hash);
            sources.down(0, hash);
            count
        });
    });
}

criterion_group!(hot, steering, balancing, flow_index, sources);
criterion_main!(hot);
