//! A control group that gives its processes little processor time: by version 2 of the interface
//! where its `cpu` controller can be had, else by version 1 (cgroups(7)).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const ROOT: &str = "/sys/fs/cgroup";

/// A group. Dropping it moves its processes back to the root.
pub struct Throttle {
    root: PathBuf,
    group: PathBuf,
}

impl Throttle {
    /// Gives all processes together `quota_us` microseconds of a processor in each `period_us`.
    #[track_caller]
    pub fn new(quota_us: u32, period_us: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (root, is_v2) = root();
        let name = format!("proxy-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        let group = root.join(name);
        fs::create_dir(&group).unwrap_or_else(|error| panic!("make {}: {error}", group.display()));
        let throttle = Self { root, group };
        if is_v2 {
            throttle.set("cpu.max", &format!("{quota_us} {period_us}"));
        } else {
            throttle.set("cpu.cfs_period_us", &period_us.to_string());
            throttle.set("cpu.cfs_quota_us", &quota_us.to_string());
        }
        throttle
    }

    #[track_caller]
    fn set(&self, file: &str, value: &str) {
        let path = self.group.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{} <- {value}: {error}", path.display()));
    }

    /// Moves a process, with all of its threads, into the group. Its later children are in it too.
    #[track_caller]
    pub fn add(&self, pid: i32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    /// Periods in which the group wanted more than it was given.
    #[track_caller]
    pub fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.group.join("cpu.stat")).expect("cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.trim().parse().ok()).expect("nr_throttled")
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            // Fails for those that have ended meanwhile.
            let _ = fs::write(self.root.join("cgroup.procs"), pid);
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("cannot remove {}: {error}", self.group.display());
        }
    }
}

/// The group that new ones are made in, and whether it is of version 2.
#[track_caller]
fn root() -> (PathBuf, bool) {
    let (two, one) = (Path::new(ROOT), Path::new(ROOT).join("cpu"));
    if has_cpu(two) {
        return (two.to_owned(), true);
    }
    if one.join("cpu.cfs_quota_us").exists() {
        return (one, false);
    }
    let control = two.join("cgroup.subtree_control");
    let opened = File::options().write(true).open(&control);
    let error = opened.and_then(|mut file| file.write_all(b"+cpu")).err();
    assert!(
        has_cpu(two),
        "no processor time can be withheld ({error:?}): as root, mount cgroup2 at {ROOT} and write +cpu to {}, or \
         mount the cpu controller of version 1 at {}",
        control.display(),
        one.display(),
    );
    (two.to_owned(), true)
}

/// Whether groups in this one, of version 2, have the `cpu` controller.
fn has_cpu(group: &Path) -> bool {
    let delegated = fs::read_to_string(group.join("cgroup.subtree_control"));
    delegated.is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "cpu"))
}
