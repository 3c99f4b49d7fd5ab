//! Ports: whether they are free, and if not, who has them.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use super::{Finding, place};
use crate::{
    config::{Config, ListenAddress, Listener},
    procfs,
    sys::{
        listener::{self, ListenOptions},
        socket::Protocol,
    },
};

/// All addresses that `run` would bind.
pub fn all(config: &Config) -> Vec<Finding> {
    let listeners = config.listeners.iter().map(|listener| {
        let ListenAddress { protocol, address, path } = listener.address;
        let what = format!("listener {}: {}", listener.name, listener.address);
        if let Some(path) = path {
            return place::listener(what, path);
        }
        judge(what, protocol, address, probe(listener))
    });
    // The metrics address is bound by std, with the options that it sets.
    let metrics = config.metrics.iter().map(|address| {
        judge(format!("metrics {address}"), Protocol::Tcp, *address, TcpListener::bind(address).map(drop))
    });
    listeners.chain(metrics).collect()
}

fn probe(listener: &Listener) -> io::Result<()> {
    let ListenAddress { protocol, address, .. } = listener.address;
    let options = ListenOptions {
        v6_only: listener.v6_only,
        backlog: 1,
        receive_buffer: 0,
        flow: listener.rules.flow_options(address),
    };
    listener::probe_port(protocol, address, options)
}

fn judge(what: String, protocol: Protocol, address: SocketAddr, result: io::Result<()>) -> Finding {
    match result {
        Ok(()) => Finding::ok(what),
        Err(error) => Finding::fail_by(what, explain(protocol, address, &error)),
    }
}

/// What an error of binding means, and what to do.
pub fn explain(protocol: Protocol, address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let holder =
                port_holder(protocol, address).unwrap_or_else(|| "a process that cannot be seen".into());
            format!("the port is taken by {holder}; stop that, or take another port")
        }
        ErrorKind::AddrNotAvailable => {
            "no such address on this machine; see `ip address`, or take 0.0.0.0 or [::]".into()
        }
        ErrorKind::PermissionDenied => format!(
            "no right to port {}; run as root, grant CAP_NET_BIND_SERVICE, or take a port from 1024 on",
            address.port()
        ),
        _ => format!("{error}; take another address"),
    }
}

/// Who has a port, such as `nginx (pid 12)`, or the user if the process may not be seen; `None` if
/// nobody is found.
pub fn port_holder(protocol: Protocol, address: SocketAddr) -> Option<String> {
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let tables = [format!("/proc/net/{name}"), format!("/proc/net/{name}6")];
    let lines = tables.iter().filter_map(|path| fs::read_to_string(path).ok());
    let socket =
        lines.flat_map(|table| parse_table(&table)).find(|socket| socket.blocks(protocol, address))?;
    Some(process_of(socket.inode).unwrap_or_else(|| format!("a process of user {}", socket.uid)))
}

/// A socket, as a line of `/proc/net/tcp` and its like has it.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    state: u8,
    uid: u32,
    inode: u64,
}

/// `TCP_LISTEN` of include/net/tcp_states.h.
const LISTEN: u8 = 10;

impl Socket {
    fn blocks(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let bound = protocol == Protocol::Udp || self.state == LISTEN;
        bound && self.local.port() == address.port() && overlap(self.local.ip(), address.ip())
    }
}

/// Whether two bound addresses may conflict. (An IPv6 wildcard may or may not take IPv4.)
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || one.is_unspecified() || other.is_unspecified()
}

fn parse_table(table: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    Some(Socket {
        local: SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?),
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Addresses are written as words of 32 bits in the machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |part: usize| u32::from_str_radix(hex.get(part * 8..part * 8 + 8)?, 16).ok();
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into()),
        32 => {
            let mut octets = [0; 16];
            for (part, bytes) in octets.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *bytes = word(part)?.to_ne_bytes();
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The process that has a socket open: the first, if several do.
fn process_of(inode: u64) -> Option<String> {
    let target = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = pids.into_iter().find(|pid: &i32| has_open(*pid, &target))?;
    Some(format!("{} (pid {pid})", procfs::name(pid).unwrap_or_default()))
}

fn has_open(pid: i32, target: &str) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut links = links.into_iter().flatten().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| link.as_os_str() == target)
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use std::net::UdpSocket;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n   \
            1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0:0 00:0 0 33 0 9 2\n\
            garbage\n";
        let expected = [
            Socket { local: "127.0.0.1:8080".parse().unwrap(), state: LISTEN, uid: 1000, inode: 4711 },
            Socket { local: "[::1]:53".parse().unwrap(), state: 7, uid: 33, inode: 9 },
        ];
        assert_eq!(parse_table(table), expected);
    }

    #[test]
    fn wildcards_overlap_with_everything() {
        let overlaps = |one: &str, other: &str| overlap(one.parse().unwrap(), other.parse().unwrap());
        assert!(overlaps("127.0.0.1", "127.0.0.1") && overlaps("0.0.0.0", "10.0.0.1"));
        assert!(overlaps("::", "10.0.0.1") && overlaps("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!overlaps("127.0.0.1", "127.0.0.2") && !overlaps("::1", "127.0.0.1"));
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let me = format!("(pid {})", std::process::id());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let finding = judge("listen".into(), Protocol::Tcp, address, Err(ErrorKind::AddrInUse.into()));
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.problem.contains(&me), "{finding}");

        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let address = udp.local_addr().unwrap();
        assert!(port_holder(Protocol::Udp, address).is_some_and(|holder| holder.contains(&me)));
        drop(udp);
        // A process that another test forks holds a copy until it execs.
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while port_holder(Protocol::Udp, address).is_some() && std::time::Instant::now() < limit {}
        assert_eq!(port_holder(Protocol::Udp, address), None);
    }

    #[test]
    fn other_errors_have_other_remedies() {
        let told = |kind: ErrorKind| explain(Protocol::Tcp, "10.0.0.1:80".parse().unwrap(), &kind.into());
        assert!(told(ErrorKind::AddrNotAvailable).contains("no such address"));
        assert!(told(ErrorKind::PermissionDenied).contains("CAP_NET_BIND_SERVICE"));
    }
}
