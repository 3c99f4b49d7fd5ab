//! A small name server whose answers change, and who asks it: `/etc/resolv.conf` and `/etc/hosts` of a test's own.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::servers::Udp;

/// Where a test's name server is.
pub const SERVER: &str = "127.0.0.1:53";

/// What it answers to everything.
#[derive(Clone, Debug)]
pub enum Zone {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// That the name is another one's, `alias.test`, which has these.
    Alias(Vec<IpAddr>, u32),
    /// That there is no such name.
    NoSuchName,
    /// That it cannot tell.
    Fails,
    /// Nothing.
    Silent,
}

/// These addresses, for a second.
pub fn addresses(addresses: &[&str]) -> Zone {
    Zone::Addresses(addresses.iter().map(|text| text.parse().expect("an address")).collect(), 1)
}

/// The name server.
pub struct Dns {
    zone: Arc<Mutex<Zone>>,
    server: Udp,
}

impl Dns {
    /// Starts it.
    #[track_caller]
    pub fn start(zone: Zone) -> Self {
        let zone = Arc::new(Mutex::new(zone));
        let now = Arc::clone(&zone);
        let server = Udp::start(SERVER, move |question, _| answer(question, &now.lock().expect("lock")));
        Self { zone, server }
    }

    /// Answers so from now on.
    pub fn set(&self, zone: Zone) {
        *self.zone.lock().expect("lock") = zone;
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.server.seen().datagrams
    }
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
/// In a message: the name that was asked for.
const ASKED: [u8; 2] = [0xc0, 12];

fn answer(question: &[u8], zone: &Zone) -> Vec<Vec<u8>> {
    // One question, of the name from byte 12 to its first empty label, then type and class.
    let Some(length) = question.get(12..).and_then(|name| name.iter().position(|byte| *byte == 0)) else {
        return Vec::new();
    };
    let end = 12 + length + 5;
    let Some(kind) = question.get(end - 4..end).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])) else {
        return Vec::new();
    };
    let (code, records) = match zone {
        Zone::Silent => return Vec::new(),
        Zone::NoSuchName => (3, Vec::new()),
        Zone::Fails => (2, Vec::new()),
        Zone::Addresses(addresses, lifetime) => (0, records(&ASKED, kind, addresses, *lifetime)),
        Zone::Alias(addresses, lifetime) => {
            let alias = b"\x05alias\x04test\x00";
            let mut all = vec![record(&ASKED, CNAME, *lifetime, alias)];
            all.extend(records(alias, kind, addresses, *lifetime));
            (0, all)
        }
    };
    // An answer, with recursion.
    let mut message =
        [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]].concat();
    message.extend(&question[12..end]);
    message.extend(records.concat());
    vec![message]
}

fn records(name: &[u8], kind: u16, addresses: &[IpAddr], lifetime: u32) -> Vec<Vec<u8>> {
    let of_kind = addresses.iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(ip), A) => Some(ip.octets().to_vec()),
        (IpAddr::V6(ip), AAAA) => Some(ip.octets().to_vec()),
        _ => None,
    });
    of_kind.map(|octets| record(name, kind, lifetime, &octets)).collect()
}

fn record(name: &[u8], kind: u16, lifetime: u32, data: &[u8]) -> Vec<u8> {
    let (kind, class, length) = (kind.to_be_bytes(), 1u16.to_be_bytes(), (data.len() as u16).to_be_bytes());
    [name, &kind, &class, &lifetime.to_be_bytes(), &length, data].concat()
}

/// Files of this thread's own in the place of `/etc/resolv.conf` and `/etc/hosts`, for it and for all that it starts
/// from now on.
pub struct Files(TempDir);

impl Files {
    /// Names are asked for at [`SERVER`], once, for a second at most.
    #[track_caller]
    pub fn isolate() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        let no_path = None::<&Path>;
        mount(no_path, "/", no_path, MsFlags::MS_REC | MsFlags::MS_PRIVATE, no_path).expect("make / private");
        let files = Self(directory);
        files.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        files.write("hosts", "127.0.0.1 localhost\n");
        for name in ["resolv.conf", "hosts"] {
            let (from, to) = (files.0.path().join(name), Path::new("/etc").join(name));
            mount(Some(&from), &to, no_path, MsFlags::MS_BIND, no_path).expect("a file of one's own");
        }
        files
    }

    /// Changes one of them.
    #[track_caller]
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("write");
    }
}
