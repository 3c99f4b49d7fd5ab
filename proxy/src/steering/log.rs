//! The kernel program's log: one line for each change of where new traffic goes.

use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;

/// Reads the kernel program's log. Its descriptor is readable (poll, epoll) when lines wait.
pub struct SteeringLog(EbpfLogger<&'static dyn Log>);

impl SteeringLog {
    pub(super) fn take(bpf: &mut Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init(bpf).map(Self)
    }

    /// Hands the waiting lines to the logger of the `log` crate that was set when this was made.
    /// Does not block.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for SteeringLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
