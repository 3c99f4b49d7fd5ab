//! Addresses of sockets, as the kernel takes and gives them.

use std::{
    io,
    mem::{MaybeUninit, offset_of},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

/// Longest path of a unix socket, bytes (`sun_path`, with a zero behind it).
pub const MAX_PATH: usize = 107;

/// A raw address as the kernel takes and gives it.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage, and both concrete types fit into it.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                // SAFETY: sockaddr_storage is large enough and aligned for every sockaddr.
                let raw = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                // SAFETY: as above.
                let raw = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len: len as libc::socklen_t }
    }
}

impl RawAddress {
    /// That of a unix socket.
    ///
    /// # Errors
    /// `InvalidInput`: it is longer than [`MAX_PATH`], or has a zero in it.
    pub fn of_path(path: &Path) -> io::Result<Self> {
        let path = path.as_os_str().as_bytes();
        if path.is_empty() || path.len() > MAX_PATH || path.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut raw = Self::empty();
        // SAFETY: sockaddr_storage is large enough and aligned for every sockaddr.
        let address = unsafe { &mut *(&raw mut raw.storage).cast::<libc::sockaddr_un>() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (char, byte) in address.sun_path.iter_mut().zip(path) {
            *char = *byte as libc::c_char;
        }
        raw.len = (offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1) as libc::socklen_t;
        Ok(raw)
    }

    /// The path, if it is a unix socket's; empty if that has none.
    pub fn path(&self) -> Option<&[u8]> {
        if i32::from(self.storage.ss_family) != libc::AF_UNIX {
            return None;
        }
        let start = offset_of!(libc::sockaddr_un, sun_path);
        // SAFETY: the storage is plain bytes, all of them initialized, and this many long.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const self.storage).cast::<u8>(), size_of_val(&self.storage))
        };
        let path = bytes.get(start..(self.len as usize).min(bytes.len())).unwrap_or_default();
        path.split(|byte| *byte == 0).next()
    }

    /// An empty one for the kernel to fill.
    pub fn empty() -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage.
        let storage = unsafe { MaybeUninit::zeroed().assume_init() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// Pointer and length for a call that reads the address.
    pub(crate) fn as_raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.storage).cast(), self.len)
    }

    /// Pointer and length pointer for a call that writes the address.
    pub(crate) fn as_raw_mut(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }

    /// The address, if it is an internet one.
    pub fn decode(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which type the storage holds.
                let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}
