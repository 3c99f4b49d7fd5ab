//! The machine: kernel, rights, limits.

use std::{fs, fs::File, time::Duration};

use super::Finding;
use crate::{
    config::{Config, own_listener},
    limits::{Limits, MAX_DESCRIPTORS},
    steering::{self, Steering},
    sys::{Fd, fd, listener::is_local, process, socket::Protocol, transparent},
};

/// Fewer than this, and a small burst of connections exhausts them.
const FEW_DESCRIPTORS: usize = 1024;

/// Connections that may wait in one listening socket, asked of listen(2).
const BACKLOG: u64 = 4096;

/// Bytes of datagrams that wait for a lease of 100 ms at 30,000 datagrams a second of 1200 bytes.
const RECEIVE_BUFFER: u64 = 4 << 20;

/// The kernel's version.
pub fn kernel() -> Finding {
    match steering::check_kernel() {
        Ok(()) => Finding::ok(format!("kernel {}", process::kernel_release())),
        Err(error) => Finding::fail_by("kernel", error),
    }
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
        Ok((_, hard)) => judge_descriptors(config, hard.min(MAX_DESCRIPTORS) as usize),
        Err(error) => Finding::fail_by("descriptor limit", error),
    }
}

fn judge_descriptors(config: &Config, limit: usize) -> Finding {
    const REMEDY: &str = "raise it (ulimit -Hn, systemd: LimitNOFILE=, container: --ulimit nofile=)";
    let what = format!("descriptor limit {limit}");
    let limits = match Limits::divide(config, limit) {
        Ok(limits) => limits,
        Err(error) => return Finding::fail_by("descriptor limit", error),
    };
    let room = limits.descriptors / 2;
    match config.max_connections {
        Some(wanted) if wanted > room => {
            let problem = format!("room for {room} connections, fewer than max-connections {wanted}");
            Finding::warn(what, problem, REMEDY)
        }
        _ if limit < FEW_DESCRIPTORS => Finding::warn(what, format!("room for {room} connections"), REMEDY),
        _ => Finding::ok(format!("{what}, room for {room} connections")),
    }
}

/// Rights: loads the kernel program, and lets go of it again.
pub fn steering(config: &Config) -> Finding {
    match Steering::load(config.listeners.len() as u32, config.workers, 0) {
        Ok(_) => Finding::ok("rights to load the kernel program"),
        Err(error) => Finding::fail_by("kernel program", error),
    }
}

/// Rights to connect from clients' addresses, if some upstream wants that.
pub fn transparent(config: &Config) -> Option<Finding> {
    const WHAT: &str = "rights to connect from clients' addresses";
    const REMEDY: &str = "start it as root, or grant CAP_NET_RAW (systemd: AmbientCapabilities= and \
                          CapabilityBoundingSet=), or leave out transparent";
    let upstream = config.upstreams.iter().find(|upstream| upstream.rules.transparent)?;
    if transparent::is_allowed() {
        return Some(Finding::ok(WHAT));
    }
    let problem = format!("missing, and upstream {} has transparent = true", upstream.name);
    Some(Finding::fail(WHAT, problem, REMEDY))
}

/// Servers at addresses of this machine that our own wildcard listeners take.
pub fn own_listeners(config: &Config) -> Vec<Finding> {
    let servers = (0..).zip(&config.upstreams).flat_map(|(number, upstream)| {
        let there = upstream.servers.iter().filter(|server| !server.is_retired);
        there.map(move |server| (number, upstream, server))
    });
    let own = servers.filter_map(|(number, upstream, server)| {
        let address = server.place.slot_address()?;
        let listener = own_listener(address, number, &config.listeners, is_local)?;
        let what = format!("upstream {}: server {}", upstream.name, server.given);
        let problem = format!("is our own listener {}: traffic would go round for ever", listener.address);
        Some(Finding::fail(what, problem, "give the address of the service"))
    });
    own.collect()
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
    fn settings_of_this_machine_are_read() {
        assert_eq!(judge_setting("net.core.somaxconn", 1, "x").level, Level::Ok);
        assert_eq!(judge_setting("net.core.somaxconn", u64::MAX, "x").level, Level::Warn);
        assert_eq!(judge_setting("net.core.no_such", 1, "x").level, Level::Warn);
    }
}
