//! Listening sockets in the service manager's keeping (systemd's descriptor store, sd_notify(3)). Whatever
//! becomes of the processes, what comes meanwhile waits in them for the next start, which has them back.

use crate::{
    config::{Config, Listener},
    sys::{
        Fd, credentials, fd,
        listening::{self, Listening},
        rights,
        socket::Protocol,
        udp,
    },
};

use super::{Supervisor, listen, notify, setup::Setup};

/// What the service manager gave at the start.
#[derive(Default)]
pub struct Stored(Vec<(Fd, Listening)>);

/// Something that the service manager is to do.
pub enum Errand {
    /// Keep these too.
    Store { name: String, sockets: Vec<Fd> },
    /// Forget what has this name.
    Forget { name: String },
}

impl Stored {
    /// Takes what the environment tells of, which is asked only here. What is of no use is closed, and the
    /// manager forgets it at once: some of it may be in the way of what is bound next.
    pub fn from_environment(config: &Config) -> Self {
        let given: Vec<_> = match sd_notify::listen_fds_with_names() {
            Ok(given) => given.map(|(number, name)| (Fd::from_raw(number), name)).collect(),
            Err(error) => {
                tracing::warn!(%error, "LISTEN_FDS is not understood: sockets of the service manager are not used");
                Vec::new()
            }
        };
        let (mut used, mut unused) = (Vec::new(), Vec::new());
        for (socket, name) in given {
            match take(config, socket) {
                Ok(seen) => used.push((socket, seen)),
                Err(why) => {
                    tracing::warn!(name, "a socket of the service manager is not used: {why}");
                    fd::close(socket);
                    unused.push(name);
                }
            }
        }
        unused.dedup();
        unused.into_iter().for_each(|name| notify::tell_at_once(&Errand::Forget { name }.message()));
        if !used.is_empty() {
            tracing::info!(sockets = used.len(), "listening sockets are back from the service manager");
        }
        Self(used)
    }

    /// Whether it gave none that is of use.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of a listener.
    pub fn sockets(&self, listener: &Listener) -> Vec<Fd> {
        self.0.iter().filter(|(_, seen)| is_of(listener, seen)).map(|(socket, _)| *socket).collect()
    }
}

/// Makes a given socket ready for use.
fn take(config: &Config, socket: Fd) -> Result<Listening, String> {
    let seen = listening::look(socket).map_err(|error| format!("it does not listen ({error})"))?;
    judge(config, &seen, credentials::user())?;
    let prepared = listening::never_wait(socket).and_then(|()| match seen.protocol {
        Protocol::Tcp => Ok(()),
        Protocol::Udp => udp::prepare_listener(socket),
    });
    prepared.map_err(|error| error.to_string()).map(|()| seen)
}

/// Whether a socket can be used by this `user`, or why not.
fn judge(config: &Config, seen: &Listening, user: u32) -> Result<(), String> {
    let Listening { protocol, address, .. } = seen;
    let what = format!("{protocol:?} {address}").to_lowercase();
    if !config.listeners.iter().any(|listener| is_of(listener, seen)) {
        return Err(format!("no listener of the settings is at {what}"));
    }
    if !seen.is_shared {
        return Err(format!("{what} is bound without SO_REUSEPORT; a .socket unit needs ReusePort=yes"));
    }
    if seen.user != user {
        // The kernel lets only sockets of one user share a port (inet_rcv_saddr_equal and its callers).
        return Err(format!("{what} was bound by user {}, and this is user {user}", seen.user));
    }
    Ok(())
}

fn is_of(listener: &Listener, seen: &Listening) -> bool {
    let at = listener.address;
    (at.protocol, at.address) == (seen.protocol, seen.address)
        && (seen.address.is_ipv4() || listener.v6_only == seen.v6_only)
}

/// What the manager is to do so that it keeps the sockets of the listeners of the settings, and no others, the
/// first last. To tell it again is harmless: it keeps a socket once (`service_add_fd_store`, systemd's service.c).
pub fn errands(setup: &Setup) -> Vec<Errand> {
    let listeners = || (0..).zip(&setup.config.listeners);
    let retired = listeners().filter(|(_, listener)| listener.is_retired && listener.address.path.is_none());
    let forget = retired.map(|(_, listener)| Errand::Forget { name: name(listener) });
    let sockets = |number| -> Vec<Fd> {
        let slots = setup.sockets.of_listener(number).filter(|slot| setup.sockets.is_there(*slot));
        slots.map(|slot| setup.sockets.all[slot as usize]).collect()
    };
    // A unix socket without its path is of no use, and that is removed at the end.
    let active = listeners().filter(|(_, listener)| !listener.is_retired && listener.address.path.is_none());
    let store = active.flat_map(|(number, listener)| {
        let sockets = sockets(number);
        let parts = sockets.chunks(rights::MOST_AT_ONCE).map(<[Fd]>::to_vec);
        parts.map(|sockets| Errand::Store { name: name(listener), sockets }).collect::<Vec<_>>()
    });
    // Another listener may have the name of a retired one.
    let mut errands: Vec<Errand> = forget.chain(store).collect();
    errands.reverse();
    errands
}

/// The name of a listener's sockets: at most 62 characters, without a colon (sd_notify(3), `FDNAME=`).
fn name(listener: &Listener) -> String {
    let protocol = match listener.address.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{protocol}-{}", listener.address.address).replace(':', "_")
}

impl Errand {
    /// As it is told.
    pub fn message(&self) -> String {
        match self {
            Self::Store { name, .. } => format!("FDSTORE=1\nFDNAME={name}\n"),
            Self::Forget { name } => format!("FDSTOREREMOVE=1\nFDNAME={name}\n"),
        }
    }

    /// Descriptors that go with it.
    pub fn descriptors(&self) -> &[Fd] {
        match self {
            Self::Store { sockets, .. } => sockets,
            Self::Forget { .. } => &[],
        }
    }
}

impl Supervisor {
    /// What comes after the end waits in the stored sockets, if there are any, until the next start, or until
    /// the manager closes them: the kernel program, which outlives this process with them, would refuse it.
    pub(super) fn leave_to_manager(&mut self) {
        let setup = &mut self.setup;
        if self.notify.is_wanted()
            && let Err(error) = listen::step_aside(setup.config, &mut setup.steering, &setup.sockets)
        {
            tracing::warn!(%error, "new connections are refused until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenAddress;

    fn listener(protocol: Protocol, address: &str, v6_only: bool) -> Listener {
        let address = ListenAddress::internet(protocol, address.parse().unwrap());
        Listener {
            name: "any".into(),
            address,
            upstream: 0,
            group: 0,
            v6_only,
            rules: Default::default(),
            is_retired: false,
        }
    }

    fn seen(protocol: Protocol, address: &str) -> Listening {
        let address = address.parse().unwrap();
        Listening { protocol, address, v6_only: false, is_shared: true, user: 7 }
    }

    #[test]
    fn sockets_are_known_by_address_and_protocol() {
        let wildcard = listener(Protocol::Tcp, "[::]:80", true);
        let v6_only = Listening { v6_only: true, ..seen(Protocol::Tcp, "[::]:80") };
        assert!(is_of(&wildcard, &v6_only));
        assert!(!is_of(&wildcard, &seen(Protocol::Tcp, "[::]:80")));
        let local = listener(Protocol::Udp, "127.0.0.1:53", false);
        assert!(is_of(&local, &seen(Protocol::Udp, "127.0.0.1:53")));
        assert!(!is_of(&local, &seen(Protocol::Tcp, "127.0.0.1:53")));
        assert!(!is_of(&local, &seen(Protocol::Udp, "127.0.0.1:54")));
    }

    #[test]
    fn names_are_short_and_have_no_colon() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        let names = ["127.0.0.1:53", "[::]:53", longest].map(|at| name(&listener(Protocol::Udp, at, false)));
        assert_eq!(names[..2], ["udp-127.0.0.1_53", "udp-[__]_53"]);
        assert!(names[2].len() == 62 && !names[2].contains(':'), "{}", names[2]);
    }
}
