//! A new binary that is no good: the old one goes on, says why, and a good one may come later.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use proxy_tests::builder::binary;
use proxy_tests::handover::{self, Before, begin_order, fails, order, upgrade, upgrade_to};
use proxy_tests::process::Process;
use proxy_tests::status::Status;
use proxy_tests::takeover::take_over;
use proxy_tests::wait::{until, until_true};
use proxy_tests::{PRIMARY, handover::one_generation};
use tempfile::TempDir;

use crate::{Scene, carried::assert_end_is_passed_on, pids};

/// A directory of binaries.
struct Binaries(TempDir);

impl Binaries {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    /// A file of this mode.
    #[track_caller]
    fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set the mode");
        path
    }

    /// One that is bad in the way that the name says (tests/src/bin/bad_successor.rs).
    #[track_caller]
    fn bad(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::copy(env!("CARGO_BIN_EXE_bad_successor"), &path).expect("copy");
        path
    }

    /// The binary under test, in a file of this mode.
    #[track_caller]
    fn copy(&self, name: &str, mode: u32) -> PathBuf {
        self.file(name, &fs::read(binary()).expect("read the binary"), mode)
    }
}

impl Binaries {
    /// The binary under test, which names a loader that is not there.
    #[track_caller]
    fn without_loader(&self, name: &str) -> PathBuf {
        let mut content = fs::read(binary()).expect("read the binary");
        let is_loader = |bytes: &[u8]| bytes.starts_with(b"/lib") && bytes.ends_with(b"/ld-");
        let place = [10, 8].iter().find_map(|len| content.windows(*len).position(is_loader));
        content[place.expect("a loader") + 1..][..3].copy_from_slice(b"nil");
        self.file(name, &content, 0o755)
    }
}

/// The words of an upgrade to this binary.
fn to(path: &Path) -> [&str; 3] {
    ["upgrade", "--binary", path.to_str().expect("text")]
}

#[test]
fn files_that_cannot_be_started() {
    let (scene, binaries) = (Scene::start(), Binaries::new());
    let path = binaries.0.path();
    // The client sees what is no file, and orders nothing.
    order(&scene.proxy, &to(&path.join("nowhere"))).says(1, &["nowhere", "no such file"]);
    order(&scene.proxy, &to(path)).says(1, &["no file"]);
    assert_eq!(scene.proxy.status().upgrade.failed, 0);
    let busy = binaries.copy("busy", 0o755);
    let _writer = fs::File::options().append(true).open(&busy).expect("open for writing");
    let cases: &[(PathBuf, &[&str])] = &[
        (binaries.copy("plain", 0o644), &["plain", "not executable"]),
        (binaries.copy("anybodys", 0o757), &["anybodys", "others than its owner can write"]),
        (binaries.file("garbage", b"\x7fELF\x02\x01\x01garbage", 0o755), &["is no proxy"]),
        (binaries.file("empty", b"", 0o755), &["is no proxy"]),
        (binaries.file("script", b"#!/bin/sh\nexit 1\n", 0o755), &["is no proxy"]),
        (PathBuf::from("/bin/true"), &["is no proxy"]),
        // What the kernel refuses: its loader is not there, or it is still being written.
        (binaries.without_loader("no-loader"), &["no-loader", "No such file"]),
        (busy, &["busy", "Text file busy"]),
    ];
    assert_each_fails(&scene, cases);
    upgrade(&scene.proxy);
    scene.goes_on();
    upgrade_to(&scene.proxy, &binaries.copy("good", 0o755));
    scene.goes_on();
    assert_eq!(scene.proxy.status().upgrade.failed, cases.len() as u64, "the successor knows");
    scene.finish();
}

#[test]
fn programs_that_are_no_successors() {
    let (scene, binaries) = (Scene::start(), Binaries::new());
    assert_each_fails(
        &scene,
        &[
            (binaries.bad("ends"), &["before it was ready"]),
            (binaries.bad("fails"), &["before it was ready"]),
            (binaries.bad("crashes"), &["before it was ready"]),
            (binaries.bad("refuses"), &["the moon is wrong"]),
            (binaries.bad("says-taken"), &[]),
            (binaries.bad("says-nonsense"), &[]),
            (binaries.bad("says-nothing-more"), &["before it was ready"]),
            // For this one the workers stand still, until it has waited for too long.
            (binaries.bad("says-ready"), &["it hangs"]),
        ],
    );
    upgrade(&scene.proxy);
    scene.goes_on();
    scene.finish();
}

/// It has had copies of all flows' descriptors, and may have them for a moment longer.
#[test]
fn an_end_waits_for_no_binary_that_hangs() {
    let binaries = Binaries::new();
    let hangs = binaries.bad("says-ready");
    assert_end_is_passed_on(|proxy| fails(proxy, &to(&hangs), &["it hangs"]));
}

#[track_caller]
fn assert_each_fails(scene: &Scene, cases: &[(PathBuf, &[&str])]) {
    for (path, why) in cases {
        fails(&scene.proxy, &to(path), why);
        scene.goes_on();
    }
    assert_eq!(scene.proxy.status().upgrade.failed, cases.len() as u64);
}

/// It says nothing: while it is waited for all goes on, orders too, and in the end it is killed.
#[test]
fn a_binary_that_hangs() {
    let (scene, binaries) = (Scene::start(), Binaries::new());
    let hangs = binaries.bad("hangs");
    let before = Before::of(&scene.proxy);
    let order = begin_order(&scene.proxy, &to(&hangs));
    let candidate = candidate(&scene, &before);
    scene.proxy.until_status("it is told", |s| s.upgrade.state == "preparing");
    handover::order(&scene.proxy, &["reload"]).says(1, &["upgrade"]);
    scene.proxy.verb(&["failover"]).says(0, &[]);
    scene.goes_on();
    scene.proxy.verb(&["failback"]).says(0, &[]);
    scene.goes_on();
    handover::answer(order).says(1, &["ready"]);
    before.assert_failed(&scene.proxy, &["ready"]);
    assert!(!candidate.iter().any(|process| process.is_alive()), "{:?} are left", pids(&candidate));
    scene.goes_on();
    upgrade(&scene.proxy);
    scene.goes_on();
    scene.finish();
}

/// A pool dies while a candidate is waited for: an ordinary takeover, whatever becomes of the upgrade.
#[test]
fn a_pool_dies_while_a_binary_hangs() {
    let (scene, binaries) = (Scene::start(), Binaries::new());
    let hangs = binaries.bad("hangs");
    let before = Before::of(&scene.proxy);
    let order = begin_order(&scene.proxy, &to(&hangs));
    let candidate = candidate(&scene, &before);
    take_over(&scene.proxy, PRIMARY, Signal::SIGKILL);
    scene.goes_on();
    candidate.iter().for_each(|process| process.signal(Signal::SIGKILL));
    handover::answer(order).says(1, &[]);
    until_true("one generation is left", || candidate.iter().all(|process| !process.is_alive()));
    one_generation(&scene.proxy);
    upgrade(&scene.proxy);
    scene.goes_on();
    scene.finish();
}

/// What is to end ends, and takes the candidate with it.
#[test]
fn a_stop_while_a_binary_hangs() {
    let (scene, binaries) = (Scene::start(), Binaries::new());
    let hangs = binaries.bad("hangs");
    let before = Before::of(&scene.proxy);
    let upgrade = begin_order(&scene.proxy, &to(&hangs));
    candidate(&scene, &before);
    order(&scene.proxy, &["stop", "--now"]).says(0, &[]);
    until_true("nothing is left", || scene.proxy.processes().is_empty());
    assert_eq!(scene.proxy.wait_end().code(), Some(0));
    drop(upgrade);
}

/// The new processes, as soon as there are any.
#[track_caller]
fn candidate(scene: &Scene, before: &Before) -> Vec<Process> {
    let found = || Some(before.new_ones(&scene.proxy)).filter(|new| !new.is_empty());
    let candidate = until("there is a candidate", found);
    scene.proxy.until_status("nobody is hurt", Status::protected);
    candidate
}
