//! The flow table of a running proxy, read and overwritten from outside, as a wild write would.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use proxy::config::SPARE_SLOTS;
use proxy::sys::Fd;
use proxy::table::{Dimensions, Kind, Record, State, Table, TagCell};

use crate::process;
use crate::proxy::Proxy;

/// It, mapped.
pub struct FlowTable {
    /// Typed, by the proxy's own means.
    pub table: Table,
    file: File,
}

impl FlowTable {
    /// The table of a proxy with so many workers, listeners and servers of its one upstream.
    #[track_caller]
    pub fn of(proxy: &Proxy, [workers, listeners, servers]: [usize; 3]) -> Self {
        let supervisor = proxy.supervisor();
        let memory = numbers(supervisor).into_iter().find(|(_, link)| link.contains("memfd:proxy-flows"));
        let (number, _) = memory.expect("the supervisor has a flow table");
        let path = format!("/proc/{supervisor}/fd/{number}");
        let file = File::options().read(true).write(true).open(path).expect("open the flow table");
        let descriptors = process::descriptor_limit(supervisor);
        let servers = servers + SPARE_SLOTS;
        let dimensions =
            Dimensions { descriptors, workers, listeners, upstreams: 1, servers, counts_sources: false };
        let fd = Fd::keep(file.try_clone().expect("clone"));
        Self { table: Table::open(fd, dimensions).expect("map the flow table"), file }
    }

    /// The numbers of all clients' descriptors.
    pub fn clients(&self) -> Vec<Fd> {
        self.all(Kind::Client)
    }

    /// The numbers that are tagged so.
    pub fn all(&self, kind: Kind) -> Vec<Fd> {
        let tagged = (0..).zip(self.table.tags()).filter(|(_, tag)| tag.get().kind == kind);
        tagged.map(|(number, _)| Fd::from_raw(number)).collect()
    }

    /// A record.
    #[track_caller]
    pub fn record(&self, fd: Fd) -> &'static Record {
        self.table.record(fd).expect("a number in range")
    }

    /// A tag.
    #[track_caller]
    pub fn tag(&self, fd: Fd) -> &'static TagCell {
        self.table.tag(fd).expect("a number in range")
    }

    /// The state of the flow at a number.
    #[track_caller]
    pub fn state(&self, fd: Fd) -> State {
        self.record(fd).state()
    }

    /// Overwrites a whole record.
    #[track_caller]
    pub fn write_record(&self, fd: Fd, bytes: &[u8; 64]) {
        self.file.write_all_at(bytes, self.table.record_offset(fd) as u64).expect("write");
    }

    /// Overwrites 32 bits of a record, from so many bytes on.
    #[track_caller]
    pub fn write_word(&self, fd: Fd, offset: usize, word: u32) {
        let at = self.table.record_offset(fd) + offset;
        self.file.write_all_at(&word.to_ne_bytes(), at as u64).expect("write");
    }

    /// Overwrites what a worker was told by its epoll sets.
    #[track_caller]
    pub fn write_events(&self, seat: u32, worker: u32, mut byte: impl FnMut() -> u8) {
        let range = self.table.events_range(seat, worker);
        let bytes: Vec<u8> = range.clone().map(|_| byte()).collect();
        self.file.write_all_at(&bytes, range.start as u64).expect("write");
    }

    /// The cells of the index of UDP flows.
    pub fn cells(&self) -> Vec<u64> {
        let mut bytes = vec![0; self.index_bytes()];
        self.file.read_exact_at(&mut bytes, self.index_offset()).expect("read");
        bytes.chunks_exact(8).map(|cell| u64::from_ne_bytes(cell.try_into().expect("8 bytes"))).collect()
    }

    /// Overwrites them with what is made of each.
    pub fn write_cells(&self, spoil: impl FnMut(u64) -> u64) {
        let bytes: Vec<u8> = self.cells().into_iter().map(spoil).flat_map(u64::to_ne_bytes).collect();
        self.file.write_all_at(&bytes, self.index_offset()).expect("write");
    }

    /// The cells are twice as many as descriptors, rounded up to a power of two.
    fn index_bytes(&self) -> usize {
        (2 * self.table.dimensions().descriptors).next_power_of_two() * size_of::<u64>()
    }

    /// The index is the last part of the table.
    fn index_offset(&self) -> u64 {
        self.file.metadata().expect("size").len() - self.index_bytes() as u64
    }

    /// Overwrites a tag.
    #[track_caller]
    pub fn write_tag(&self, fd: Fd, word: u32) {
        self.file.write_all_at(&word.to_ne_bytes(), self.table.tag_offset(fd) as u64).expect("write");
    }
}

/// The descriptors of a process and what they name.
pub fn numbers(pid: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let number = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, link.to_string_lossy().into_owned()))
    };
    entries.filter_map(|entry| number(entry.ok()?)).collect()
}
