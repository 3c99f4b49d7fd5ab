//! Upgrades between the previous commit's build and this one, both ways: they agree on what they hand over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use proxy_tests::builder::{binary, built};
use proxy_tests::handover::{fails, upgrade_to};

use crate::{Scene, proxy};

/// The previous commit's binary: `cargo xtask test` has built it, and says so by a variable, which is empty where
/// that commit is not known.
#[track_caller]
fn previous() -> Option<PathBuf> {
    let own = || built("proxy").ancestors().nth(2).expect("target").join("previous/proxy");
    let path = env::var_os("PROXY_PREVIOUS").map_or_else(own, PathBuf::from);
    if path.as_os_str().is_empty() {
        return None;
    }
    assert!(path.is_file(), "no {}: run the tests by cargo xtask test, which builds it", path.display());
    Some(path)
}

fn can_upgrade(binary: &Path) -> bool {
    let help = Command::new(binary).args(["upgrade", "--help"]).output().expect("start it");
    help.status.success()
}

#[test]
fn from_the_previous_commit_and_back() {
    let Some(previous) = previous() else {
        return println!("not done: the previous commit is not here");
    };
    if !can_upgrade(&previous) {
        println!("not done: the previous commit knows no upgrades; this one is to refuse it");
        let scene = Scene::start();
        fails(&scene.proxy, &["upgrade", "--binary", previous.to_str().expect("text")], &[]);
        scene.goes_on();
        return scene.finish();
    }
    let this = binary();
    let scene = Scene::of(proxy().binary(&previous));
    assert_runs(&scene, &previous);
    for next in [&this, &previous, &this, &previous] {
        upgrade_to(&scene.proxy, next);
        scene.goes_on();
        assert_runs(&scene, next);
    }
    scene.finish();
}

#[track_caller]
fn assert_runs(scene: &Scene, binary: &Path) {
    let supervisor = scene.proxy.status().supervisor.pid;
    let runs = fs::read_link(format!("/proc/{supervisor}/exe")).expect("read the link");
    assert_eq!(runs, fs::canonicalize(binary).expect("a path"));
}
