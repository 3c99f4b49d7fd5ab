//! Server slots: what is known of each upstream server. An upstream has a range of them; names that are
//! looked up anew, and orders, fill and free them while the pools run.
//!
//! What a server is, is written by one process at a time: the supervisor until it serves, control from then on.
//! What the pools find out about it ([`ServerState`]) is written by all of them.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use zerocopy::{FromZeros, KnownLayout};

use super::{Counted, Counter, Visit, octets};

/// Whether a slot is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Presence {
    /// No server.
    Vacant = 0,
    /// A server of its upstream.
    Present = 1,
    /// It was one: what is open goes on, nothing new goes there.
    Retired = 2,
}

/// Where a server comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The server of this number of its upstream's settings.
    Settings(u32),
    /// Somebody has added it while the proxy ran.
    Added,
}

/// What an administrator wants of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Wanted {
    /// It takes its share.
    Ready = 0,
    /// Nothing new; what is open goes on.
    Drain = 1,
}

/// What active checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Health {
    /// It is not checked, or not yet: taken for up.
    Unknown = 0,
    /// Up.
    Up = 1,
    /// Down: nothing new goes there.
    Down = 2,
}

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Where it is.
    pub address: SocketAddr,
    /// Where it comes from.
    pub origin: Origin,
    /// Its share, compared with its upstream's other servers; 0: none.
    pub weight: u32,
    /// Takes traffic only while no other server of its upstream can.
    pub is_backup: bool,
    /// Limit on open connections; 0: none.
    pub max_connections: u32,
}

/// One slot.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct ServerCell {
    /// Odd while the identity is being written.
    version: AtomicU32,
    presence: AtomicU32,
    origin: AtomicU32,
    ip: [AtomicU32; 4],
    port: AtomicU32,
    scope: AtomicU32,
    weight: AtomicU32,
    is_backup: AtomicU32,
    max_connections: AtomicU32,
    wanted: AtomicU32,
    health: AtomicU32,
    /// 1 if the weight is an administrator's, not the settings'.
    is_reweighed: AtomicU32,
    /// Since when it is up again, milliseconds of the monotonic clock, wrapping; 0: for ever. For its slow start.
    warming_since_ms: AtomicU32,
    /// When health or presence last changed, milliseconds of the monotonic clock.
    changed_ms: AtomicU64,
    /// What the pools find out.
    pub state: ServerState,
}

const ADDED: u32 = u32::MAX;

impl ServerCell {
    /// Whether it is in use.
    pub fn presence(&self) -> Presence {
        match self.presence.load(Acquire) {
            1 => Presence::Present,
            2 => Presence::Retired,
            _ => Presence::Vacant,
        }
    }

    /// Sets it.
    pub fn set_presence(&self, presence: Presence) {
        self.presence.store(presence as u32, Release);
    }

    /// What it is; `None` if it is vacant, or just being written.
    pub fn identity(&self) -> Option<Identity> {
        let version = self.version.load(Acquire);
        if version % 2 == 1 || self.presence() == Presence::Vacant {
            return None;
        }
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(&self.ip) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        let (port, scope) = (self.port.load(Relaxed) as u16, self.scope.load(Relaxed));
        let address = match Ipv6Addr::from(octets).to_canonical() {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
        };
        let origin = match self.origin.load(Relaxed) {
            ADDED => Origin::Added,
            number => Origin::Settings(number),
        };
        let identity = Identity {
            address,
            origin,
            weight: self.weight.load(Relaxed),
            is_backup: self.is_backup.load(Relaxed) != 0,
            max_connections: self.max_connections.load(Relaxed),
        };
        fence(Acquire);
        (self.version.load(Relaxed) == version).then_some(identity)
    }

    /// Writes what it is from now on, and forgets what was known of the server before.
    pub fn fill(&self, identity: Identity, presence: Presence) {
        let version = self.version.load(Relaxed) | 1;
        self.version.store(version, Relaxed);
        fence(Release);
        self.set_identity(identity);
        for word in [&self.wanted, &self.health, &self.is_reweighed, &self.warming_since_ms] {
            word.store(0, Relaxed);
        }
        for word in [&self.state.failures, &self.state.ejections] {
            word.store(0, Relaxed);
        }
        self.set_presence(presence);
        self.version.store(version.wrapping_add(1), Release);
    }

    fn set_identity(&self, Identity { address, origin, weight, is_backup, max_connections }: Identity) {
        for (bytes, word) in octets(address.ip()).as_chunks::<4>().0.iter().zip(&self.ip) {
            word.store(u32::from_ne_bytes(*bytes), Relaxed);
        }
        self.port.store(address.port().into(), Relaxed);
        let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        self.scope.store(scope, Relaxed);
        let origin = match origin {
            Origin::Settings(number) => number,
            Origin::Added => ADDED,
        };
        self.origin.store(origin, Relaxed);
        self.weight.store(weight, Relaxed);
        self.is_backup.store(is_backup.into(), Relaxed);
        self.max_connections.store(max_connections, Relaxed);
    }

    /// Its share; 0: nothing new.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Gives it another weight than the settings do.
    pub fn reweigh(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
        self.is_reweighed.store(1, Relaxed);
    }

    /// Gives it the weight that it has without an administrator's doing.
    pub fn weigh(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
        self.is_reweighed.store(0, Relaxed);
    }

    /// Whether an administrator did so.
    pub fn is_reweighed(&self) -> bool {
        self.is_reweighed.load(Relaxed) != 0
    }

    /// Limit on open connections; 0: none.
    pub fn max_connections(&self) -> u32 {
        self.max_connections.load(Relaxed)
    }

    /// Whether it takes traffic only while no other server can.
    pub fn is_backup(&self) -> bool {
        self.is_backup.load(Relaxed) != 0
    }

    /// What an administrator wants of it.
    pub fn wanted(&self) -> Wanted {
        if self.wanted.load(Relaxed) == 0 { Wanted::Ready } else { Wanted::Drain }
    }

    /// Sets it.
    pub fn set_wanted(&self, wanted: Wanted) {
        self.wanted.store(wanted as u32, Relaxed);
    }

    /// What active checks say.
    pub fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    /// Sets it.
    pub fn set_health(&self, health: Health, now_ms: u64) {
        self.health.store(health as u32, Relaxed);
        self.changed_ms.store(now_ms, Relaxed);
    }

    /// When its health last changed, milliseconds of the monotonic clock; 0: never.
    pub fn changed_ms(&self) -> u64 {
        self.changed_ms.load(Relaxed)
    }

    /// Since when its slow start goes on, milliseconds, wrapping; `None`: there is none.
    pub fn warming_since_ms(&self) -> Option<u32> {
        Some(self.warming_since_ms.load(Relaxed)).filter(|since| *since != 0)
    }

    /// Begins a slow start, or (`None`) ends it.
    pub fn set_warming(&self, since_ms: Option<u32>) {
        self.warming_since_ms.store(since_ms.map_or(0, |since| since.max(1)), Relaxed);
    }

    /// Whether new connections may go there, as far as settings, checks and administrators are concerned.
    pub fn takes_new(&self) -> bool {
        self.presence() == Presence::Present
            && self.wanted() == Wanted::Ready
            && self.health() != Health::Down
            && self.weight() > 0
    }
}

/// What all pools know of one upstream server. Several writers; a lost race costs a moment's
/// wrong choice of server and nothing else.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct ServerState {
    /// Ejected until then, milliseconds of the monotonic clock, wrapping, unless it has answered since; see `ejections`.
    pub passed_over_until_ms: AtomicU32,
    /// Failures in a row; 0: the last attempt went well.
    pub failures: AtomicU32,
    /// The number of the last ejection in a row, counted from 1; 0: there was none.
    pub ejections: AtomicU32,
}

/// What is known of one upstream.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct UpstreamCell {
    /// Slots that were ever in use: those before this one. Written like the slots.
    used: AtomicU32,
    /// 1 if its names have been looked up once, or it has none.
    is_looked_up: AtomicU32,
    /// Look-ups of its names, by [`LookupResult`].
    pub lookups: [Counter; LookupResult::ALL.len()],
    /// Addresses of its names that became no servers, by [`RefusedAddress`].
    pub refused: [Counter; RefusedAddress::ALL.len()],
}

/// What a look-up of a name came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// Addresses.
    Answered,
    /// There is no such name, or it has no address.
    Empty,
    /// No answer.
    Failed,
}

impl LookupResult {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Answered, "answered"), (Self::Empty, "empty"), (Self::Failed, "failed")];
}

/// Why an address of a name is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedAddress {
    /// It leads back to this proxy.
    OwnListener,
    /// There are too many.
    Room,
}

impl RefusedAddress {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 2] = [(Self::OwnListener, "own_listener"), (Self::Room, "room")];
}

impl Counted for UpstreamCell {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { used: _, is_looked_up: _, lookups, refused } = self;
        for ((_, result), count) in LookupResult::ALL.iter().zip(lookups) {
            visit(&["lookups", result], count);
        }
        for ((_, reason), count) in RefusedAddress::ALL.iter().zip(refused) {
            visit(&["addresses_refused", reason], count);
        }
    }
}

impl UpstreamCell {
    /// How many of its first slots may be in use.
    pub fn used(&self) -> usize {
        self.used.load(Acquire) as usize
    }

    /// Whether its names have been looked up once since this flow table was made. Until then it may have no server
    /// and get some at any moment.
    pub fn is_looked_up(&self) -> bool {
        self.is_looked_up.load(Acquire) != 0
    }

    /// They have.
    pub fn set_looked_up(&self) {
        self.is_looked_up.store(1, Release);
    }

    /// Sets it, after the slot was filled.
    pub fn set_used(&self, used: usize) {
        self.used.store(used as u32, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(address: &str, origin: Origin) -> Identity {
        Identity { address: address.parse().unwrap(), origin, weight: 3, is_backup: true, max_connections: 7 }
    }

    #[test]
    fn a_slot_is_what_it_was_filled_with_and_forgets_the_last_one() {
        let cell = ServerCell::new_zeroed();
        assert_eq!((cell.identity(), cell.takes_new()), (None, false));
        for (address, origin) in [("10.1.2.3:53", Origin::Settings(4)), ("[fe80::1%7]:9", Origin::Added)] {
            let identity = identity(address, origin);
            cell.fill(identity, Presence::Present);
            assert_eq!((cell.identity(), cell.takes_new()), (Some(identity), true));
            assert!(!cell.is_reweighed());
            cell.reweigh(0);
            cell.set_wanted(Wanted::Drain);
            cell.set_health(Health::Down, 5);
            cell.set_warming(Some(0));
            assert_eq!((cell.warming_since_ms(), cell.is_reweighed()), (Some(1), true));
        }
    }

    #[test]
    fn nothing_new_goes_to_what_is_down_drained_weightless_or_gone() {
        let cell = ServerCell::new_zeroed();
        let steps: [fn(&ServerCell); 4] = [
            |cell| cell.set_health(Health::Down, 1),
            |cell| cell.set_wanted(Wanted::Drain),
            |cell| cell.reweigh(0),
            |cell| cell.set_presence(Presence::Retired),
        ];
        for step in steps {
            cell.fill(identity("10.1.2.3:53", Origin::Added), Presence::Present);
            assert!(cell.takes_new());
            step(&cell);
            assert!(!cell.takes_new());
        }
        assert!(cell.identity().is_some(), "a retired one is known");
    }
}
