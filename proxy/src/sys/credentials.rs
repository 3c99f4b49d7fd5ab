//! Giving up rights.

use std::{ffi::CString, io};

use super::check;

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name it was given by.
    pub name: String,
    /// User number.
    pub uid: u32,
    /// Primary group number.
    pub gid: u32,
}

/// Whether this process has root's user number.
pub fn is_root() -> bool {
    user() == 0
}

/// This process's user number.
pub fn user() -> u32 {
    // SAFETY: geteuid always succeeds and touches no memory.
    unsafe { libc::geteuid() }
}

/// Looks a user up by name (passwd database); `None` if there is none.
pub fn find_user(name: &str) -> Option<User> {
    let c_name = CString::new(name).ok()?;
    // SAFETY: `c_name` is a C string. The entry lives in static memory until the next call, and
    // is copied from at once; only the single-threaded start calls this.
    unsafe {
        let entry = libc::getpwnam(c_name.as_ptr());
        let entry = entry.as_ref()?;
        Some(User { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid })
    }
}

/// A capability that may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// To connect from any address (`IP_TRANSPARENT`, ip(7)), among other things.
    NetRaw = 13,
}

/// `_LINUX_CAPABILITY_VERSION_3`, and 0: the calling thread.
const CAPABILITIES: [u32; 2] = [0x2008_0522, 0];

/// Becomes `user` for good: no supplementary groups, and no way back through a set-user-id file. Of its capabilities
/// none has effect any more, and they are to be given up next ([`keep_only`]). Must be called before threads are
/// made, for these calls change one thread only.
///
/// # Errors
/// The process is not root.
pub fn become_user(user: &User) -> io::Result<()> {
    // SAFETY: raw calls with integers; the empty group list is never read.
    unsafe {
        // Without it the kernel clears the permitted ones, too, when the last root id goes (capabilities(7)).
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) as i32)?;
        check(libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) as i32)?;
        check(libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) as i32)?;
    }
    Ok(())
}

/// Gives up every capability for good but those of `kept` that it has, the inheritable and ambient ones too
/// (capabilities(7): an ambient capability goes with the inheritable one). Changes one thread only, as
/// [`become_user`].
///
/// # Errors
/// None since Linux 2.6.26: giving up is always allowed.
pub fn keep_only(kept: &[Capability]) -> io::Result<()> {
    let mask = kept.iter().fold(0, |mask, capability| mask | 1u32 << *capability as u32);
    let kept = permitted()? & mask;
    // Effective, permitted, inheritable; of capabilities below 32, and the same of those above.
    let data = [kept, kept, 0, 0, 0, 0];
    // SAFETY: capset(2) reads both arrays, which are as long as this version says.
    check(unsafe { libc::syscall(libc::SYS_capset, CAPABILITIES.as_ptr(), data.as_ptr()) } as i32).map(drop)
}

/// Whether this process may use a capability.
pub fn has(capability: Capability) -> bool {
    permitted().is_ok_and(|permitted| permitted >> capability as u32 & 1 == 1)
}

/// The permitted capabilities below 32, a bit each.
fn permitted() -> io::Result<u32> {
    let mut data = [0u32; 6];
    // SAFETY: capget(2) reads the first array and writes the second, which is as long as this version says.
    check(unsafe { libc::syscall(libc::SYS_capget, CAPABILITIES.as_ptr(), data.as_mut_ptr()) } as i32)?;
    Ok(data[1])
}

/// Forbids this process and its children to gain rights by exec (PR_SET_NO_NEW_PRIVS).
///
/// # Errors
/// None since Linux 3.5.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}
