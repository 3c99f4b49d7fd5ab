//! System calls without a safe wrapper in nix or socket2, each behind a small safe function.

use std::ffi::CStr;
use std::io::{Error, Result};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

fn checked(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Brings the loopback interface of this thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = interface_request(c"lo");
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: `request` is an initialised ifreq that outlives the call, as SIOCSIFFLAGS wants.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    checked(result.into()).map(drop)
}

fn interface_request(name: &CStr) -> libc::ifreq {
    // SAFETY: an ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = from.cast_signed();
    }
    request
}

/// Gives the loopback interface of this thread's network namespace one more IPv6 address.
pub fn loopback_address(address: Ipv6Addr) -> Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    let request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
        ifr6_prefixlen: 128,
        ifr6_ifindex: nix::net::if_::if_nametoindex("lo")?.cast_signed(),
    };
    // SAFETY: `request` is an initialised in6_ifreq that outlives the call, as SIOCSIFADDR wants
    // of an IPv6 socket.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &request) };
    checked(result.into()).map(drop)
}

/// A descriptor of the process, which no later process of the same number can be mistaken for.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A copy of a descriptor of another process, by its number there (pidfd_getfd(2)).
pub fn descriptor_of(pid: i32, number: RawFd) -> Result<OwnedFd> {
    let process = pidfd_open(pid)?;
    // SAFETY: no pointers.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the process of a pidfd.
pub fn pidfd_kill(pidfd: &OwnedFd, signal: Signal) -> Result<()> {
    let (fd, signal) = (pidfd.as_raw_fd(), signal as libc::c_int);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; it means what kill(2) sends.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    checked(result).map(drop)
}

/// Sends a signal to one thread of a process.
pub fn tgkill(pid: i32, tid: i32, signal: Signal) -> Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal as libc::c_int) }).map(drop)
}

/// Makes the command's process die with the thread that starts it, should a test run be killed.
pub fn die_with_thread(command: &mut Command) {
    let set = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec the closure makes one system call, and neither allocates nor
    // takes a lock.
    unsafe { command.pre_exec(set) };
}

/// Gives the command's process copies of descriptors, by the numbers from 3 up, as a service manager does.
pub fn give(command: &mut Command, descriptors: &[OwnedFd]) {
    // Above all numbers that they get, so that none is overwritten before it is copied.
    let above = 3 + descriptors.len() as RawFd;
    let copy = |fd: &OwnedFd| -> OwnedFd {
        // SAFETY: no pointers.
        let number = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) };
        let number = checked(number.into()).expect("copy a descriptor") as RawFd;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    let copies: Vec<OwnedFd> = descriptors.iter().map(copy).collect();
    let place = move || {
        for (number, fd) in (3..).zip(&copies) {
            // SAFETY: no pointers. The new number is not close-on-exec.
            checked(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(place) };
}
