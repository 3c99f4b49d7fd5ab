//! The machine: kernel, rights, limits.

use std::{fs, fs::File, time::Duration};

use super::Finding;
use crate::{
    config::Config,
    steering::Steering,
    sys::{Fd, fd, process, socket::Protocol},
};
use proxy_common::{lease::SEATS, slot};

/// `sk_reuseport/migrate` programs came with this one.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

/// Descriptors that an idle connection holds: client and upstream.
const PER_CONNECTION: u64 = 2;

/// Descriptors of the supervisor itself: standard ones, maps, control's, signals, and room.
const OWN: u64 = 64;

/// Fewer than this, and a small burst of connections exhausts them.
const FEW_DESCRIPTORS: u64 = 1024;

/// Connections that may wait in one listening socket, asked of listen(2).
const BACKLOG: u64 = 4096;

/// Bytes of datagrams that wait for a lease of 100 ms at 30,000 datagrams a second of 1200 bytes.
const RECEIVE_BUFFER: u64 = 4 << 20;

/// The kernel's version.
pub fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge_kernel(release.trim())
}

fn judge_kernel(release: &str) -> Finding {
    let what = format!("kernel {release}");
    let (major, minor) = OLDEST_KERNEL;
    match parse_release(release) {
        Some(version) if version >= OLDEST_KERNEL => Finding::ok(what),
        Some(_) => Finding::fail(
            what,
            format!("steering needs Linux {major}.{minor} or later"),
            "boot a newer kernel",
        ),
        None => Finding::warn(what, "its version is not understood", format!("{major}.{minor} is needed")),
    }
}

/// Major and minor number of a release such as `6.1.0-28-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Who pools will be; that the user exists was checked with the settings.
pub fn user(config: &Config) -> Finding {
    match &config.user {
        Some(user) => Finding::ok(format!("pools and control run as {} (uid {})", user.name, user.uid)),
        None => Finding::ok("pools and control run as the user who starts the proxy, which is not root"),
    }
}

/// The limit of open descriptors, and what it allows.
pub fn descriptors(config: &Config) -> Finding {
    match fd::limit() {
        Ok((_, hard)) => judge_descriptors(hard, own_descriptors(config), config.max_connections),
        Err(error) => Finding::fail_by("descriptor limit", error),
    }
}

fn own_descriptors(config: &Config) -> u64 {
    let sockets = slot::count(config.listeners.len() as u32, config.workers);
    // An epoll set and a bell each.
    let workers = SEATS as u32 * config.workers * 2;
    OWN + u64::from(sockets + workers)
}

fn judge_descriptors(limit: u64, own: u64, wanted: Option<usize>) -> Finding {
    const REMEDY: &str = "raise it (ulimit -Hn, systemd: LimitNOFILE=, container: --ulimit nofile=)";
    let connections = limit.saturating_sub(own) / PER_CONNECTION;
    let what = format!("descriptor limit {limit}");
    if connections == 0 {
        return Finding::fail(what, format!("the proxy itself needs {own}"), REMEDY);
    }
    let room = format!("room for {connections} idle connections or UDP flows");
    match wanted {
        Some(wanted) if wanted as u64 > connections => {
            Finding::warn(what, format!("{room}, fewer than --max-connections {wanted}"), REMEDY)
        }
        _ if limit < FEW_DESCRIPTORS => Finding::warn(what, room, REMEDY),
        _ => Finding::ok(format!("{what}, {room}")),
    }
}

/// Rights: loads the kernel program, and lets go of it again.
pub fn steering(config: &Config) -> Finding {
    match Steering::load(config.listeners.len() as u32, config.workers) {
        Ok(_) => Finding::ok("rights to load the kernel program"),
        Err(error) => Finding::fail_by("kernel program", error),
    }
}

/// Cloning: a descriptor that a clone opens must outlive it in the table that it shares with us.
pub fn clone() -> Finding {
    const WHAT: &str = "processes that share one descriptor table";
    const REMEDY: &str =
        "allow clone3 or clone with CLONE_FILES and CLONE_PIDFD (seccomp profile, process limit)";
    match clone_leaves_a_descriptor() {
        Ok(true) => Finding::ok(WHAT),
        Ok(false) => Finding::fail(WHAT, "the descriptor of a clone did not outlive it", REMEDY),
        Err(error) => Finding::fail(WHAT, error, REMEDY),
    }
}

fn clone_leaves_a_descriptor() -> std::io::Result<bool> {
    let before = fd::open_numbers()?;
    let child = process::clone_sharing_files(|| File::open("/dev/null").map(Fd::keep).is_err().into())?;
    if !process::is_dead(child, Duration::from_secs(5)) {
        process::kill(child)?;
    }
    process::reap(child);
    let left: Vec<Fd> = fd::open_numbers()?.into_iter().filter(|number| !before.contains(number)).collect();
    left.iter().for_each(|number| fd::close(*number));
    Ok(left.len() == 1)
}

/// How much may wait in the listening sockets.
pub fn queues(config: &Config) -> Vec<Finding> {
    let has = |protocol| config.listeners.iter().any(|listener| listener.address.protocol == protocol);
    let mut findings = Vec::new();
    if has(Protocol::Tcp) {
        findings.push(judge_setting("net.core.somaxconn", BACKLOG, "connections may wait to be accepted"));
    }
    // Root may pass by the limit of receive buffers (SO_RCVBUFFORCE).
    if has(Protocol::Udp) && config.user.is_none() {
        findings.push(judge_setting("net.core.rmem_max", RECEIVE_BUFFER, "bytes of datagrams may wait"));
    }
    findings
}

fn judge_setting(name: &str, wanted: u64, what_for: &str) -> Finding {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let value = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match value {
        None => Finding::warn(name, "it cannot be read", format!("see that it is at least {wanted}")),
        Some(value) if value < wanted => {
            let problem = format!("no more {what_for} in one socket");
            Finding::warn(format!("{name} {value}"), problem, format!("sysctl -w {name}={wanted}"))
        }
        Some(value) => Finding::ok(format!("{name} {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_release("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(parse_release("5.14"), Some((5, 14)));
        assert_eq!(parse_release("6"), None);
        assert_eq!(parse_release(""), None);
    }

    #[test]
    fn an_old_kernel_is_named_and_refused() {
        let finding = judge_kernel("5.10.0-33-amd64");
        assert_eq!(finding.level, Level::Fail);
        assert!(
            finding.to_string().contains("kernel 5.10.0-33-amd64: steering needs Linux 5.14"),
            "{finding}"
        );
        assert_eq!(judge_kernel("5.14.0-1").level, Level::Ok);
        assert_eq!(judge_kernel("plan9").level, Level::Warn);
    }

    #[test]
    fn descriptors_are_reckoned() {
        assert_eq!(judge_descriptors(60, 70, None).level, Level::Fail);
        assert_eq!(judge_descriptors(1000, 100, None).level, Level::Warn);
        let finding = judge_descriptors(4096, 96, Some(2000));
        assert_eq!(
            finding,
            Finding::ok("descriptor limit 4096, room for 2000 idle connections or UDP flows")
        );
        assert_eq!(judge_descriptors(4096, 96, Some(2001)).level, Level::Warn);
    }

    #[test]
    fn settings_of_this_machine_are_read() {
        assert_eq!(judge_setting("net.core.somaxconn", 1, "x").level, Level::Ok);
        assert_eq!(judge_setting("net.core.somaxconn", u64::MAX, "x").level, Level::Warn);
        assert_eq!(judge_setting("net.core.no_such", 1, "x").level, Level::Warn);
    }
}
