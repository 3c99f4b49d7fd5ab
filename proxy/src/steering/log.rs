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

    /// Reads on where the reader of another process has stopped. A copy of that one's value, as a clone
    /// has it, cannot: it remembers where that was at the time of the clone.
    pub(super) fn resume(program: u32, logger: L) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_from_id_with_logger(program, logger).map(Self)
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
