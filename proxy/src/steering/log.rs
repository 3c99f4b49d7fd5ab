//! The kernel program's log: one line for each change of where new traffic goes.

use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;

/// Reads the kernel program's log. Its descriptor is readable (poll, epoll) when lines wait.
pub struct SteeringLog<L>(EbpfLogger<L>);

impl<L: Log> SteeringLog<L> {
    pub(super) fn take(bpf: &mut Ebpf, logger: L) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_with_logger(bpf, logger).map(Self)
    }

    /// Hands the waiting lines to the logger. Does not block.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl<L> AsFd for SteeringLog<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
