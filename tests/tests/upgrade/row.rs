//! Many upgrades in a row, under new connections and verified streams.

use std::thread;
use std::time::{Duration, Instant};

use proxy_tests::clients::{Crowd, ask_tcp};
use proxy_tests::gap::numbers::Spread;
use proxy_tests::handover::{Handover, descriptors, upgrade};
use proxy_tests::net::at;
use proxy_tests::traffic::Traffic;

use crate::{LISTEN, Scene};

const UPGRADES: usize = 20;
const STREAMS: usize = 64;
/// New connections.
const PER_SECOND: u32 = 1000;
/// Of a stream between two rounds.
const PAUSE: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn twenty_upgrades() {
    let scene = Scene::start();
    let streams = Traffic::paced(at(LISTEN), STREAMS, PAUSE);
    let began = Instant::now();
    let crowd = Crowd::start(32, move |number| {
        let due = Duration::from_secs(1) / PER_SECOND * number as u32;
        thread::sleep(due.saturating_sub(began.elapsed()));
        ask_tcp(at(LISTEN), "hello", TIMEOUT)
    });
    let mut open = Vec::new();
    let all: Vec<Handover> = (0..UPGRADES)
        .map(|_| {
            crowd.wait_answered(200);
            let done = upgrade(&scene.proxy);
            streams.wait_rounds(1);
            open.push(descriptors(&scene.proxy));
            done
        })
        .collect();
    let (seconds, tally) = (began.elapsed().as_secs_f64(), crowd.finish());
    streams.finish();
    let spread = |of: fn(&Handover) -> Duration| Spread::of(all.iter().map(of).collect());
    println!(
        "{UPGRADES} upgrades, {STREAMS} streams, {:.0} new connections/s",
        tally.answered as f64 / seconds
    );
    println!("gap            {}", spread(|h| h.gap));
    println!("order obeyed   {}", spread(|h| h.took));
    println!("old ones seen  {}", spread(|h| h.gone));
    println!("slowest connection {:?}, descriptors {open:?}", tally.slowest);
    assert_eq!(tally.failed(), 0, "{tally:?}");
    let told = scene.proxy.status().upgrade;
    assert_eq!((told.done, told.failed), (UPGRADES as u64 + 1, 0), "with the first reload");
    // The numbers are for reading; a machine that runs other tests is slow.
    assert!(all.iter().all(|h| h.gap < TIMEOUT && !h.gap.is_zero()), "{all:?}");
    scene.finish();
}
