//! A successor whose pools die or stop between any two steps of taking over. Before the decision the old ones go
//! on; after it, it is an ordinary takeover.

use std::thread;

use proxy_tests::builder::binary;
use proxy_tests::faulty;
use proxy_tests::handover::{Before, order, upgrade_to};

use crate::{Scene, proxy};

/// The environment variable that arms fault points in a successor (`proxy/src/fault.rs`).
const NEXT: &str = "PROXY_FAULT_NEXT";
/// Scenes at a time.
const AT_ONCE: usize = 3;

/// What is armed, and whether the upgrade is done all the same, if that is not chance.
const CASES: &[(&str, Option<bool>)] = &[
    ("primary:import.done:1", Some(false)),
    ("standby:import.done:1", Some(false)),
    ("primary:import.done:1:stop", Some(false)),
    ("primary:claim.begun:1", Some(false)),
    ("primary:claim.begun:1:stop", Some(false)),
    ("primary:claim.walked:1", Some(false)),
    ("primary:claim.walked:2", Some(false)),
    ("primary:claim.walked:1:stop", Some(false)),
    ("primary:claim.done:1", None),
    ("primary:claim.done:2", None),
    ("primary:claim.granted:1", Some(true)),
    ("primary:claim.granted:2", Some(true)),
    ("primary:claim.granted:1:stop", Some(true)),
];

#[test]
fn a_successor_dies_at_each_step() {
    // Built before it is needed by several.
    faulty::binary();
    for cases in CASES.chunks(AT_ONCE) {
        let begin = |(fault, is_done): &'static (&str, Option<bool>)| thread::spawn(|| one(fault, *is_done));
        let threads: Vec<_> = cases.iter().map(begin).collect();
        let failed = threads.into_iter().map(thread::JoinHandle::join).filter(Result::is_err).count();
        assert_eq!(failed, 0, "see above: some of {cases:?}");
    }
}

#[test]
fn no_point_of_a_handover_is_left_out() {
    for point in faulty::OF_A_HANDOVER {
        assert!(CASES.iter().any(|(fault, _)| fault.contains(&format!(":{point}:"))), "no case for {point}");
    }
}

#[track_caller]
fn one(fault: &str, is_done: Option<bool>) {
    let builder = proxy().binary(&faulty::binary()).env(NEXT, fault);
    // A stopped pool is fenced after the decision.
    let scene = Scene::fresh(builder.flag("--lease", "500ms").flag("--fence-after", "1s"));
    let before = Before::of(&scene.proxy);
    let said = order(&scene.proxy, &["upgrade"]);
    let after = before.assert_ended(&scene.proxy);
    before.assert_counted_on(&scene.proxy);
    println!("{fault}: {} {:?}", after.upgrade.state, after.upgrade.error);
    let name = fault.split(':').nth(1).expect("a point");
    assert!(scene.proxy.log().contains(&format!("at {name}")), "{fault} was not reached: {said:?}");
    let ended = after.upgrade.state == "done";
    assert_eq!(ended, is_done.unwrap_or(ended), "{fault}: {said:?}");
    scene.goes_on();
    // This build, for the other one would be struck again.
    upgrade_to(&scene.proxy, &binary());
    scene.goes_on();
    scene.end();
}
