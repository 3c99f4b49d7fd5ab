//! Steering: loads the kernel program, tells it the sockets, and lends out its maps. The only user
//! of aya. The policy is `proxy_common::steer`, the program `proxy-ebpf`.

mod error;
mod liveness;
mod log;
mod time_namespace;

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, ReusePortSockArray},
    programs::{ProgramError, SkReuseport},
    util::nr_cpus,
};
use proxy_common::{abi, lease::MAX_WORKERS, slot};

pub use self::{
    error::{SteeringError, check_kernel},
    liveness::LivenessMap,
    log::SteeringLog,
};
use crate::sys::{bpf_map, fd};

/// The kernel program, made and proven by `cargo xtask build-ebpf [--check]`.
static OBJECT: &[u8] = include_bytes_aligned!("../../../proxy-ebpf/prebuilt/steer.bpf.o");

/// The loaded program and its maps. The sockets' groups keep the program after this is gone.
pub struct Steering {
    bpf: Ebpf,
    liveness: LivenessMap,
    /// Workers in each pool.
    workers: u32,
    /// Number of verdict counters.
    counters: u32,
}

impl Steering {
    /// Loads the program with maps for `listeners` (1 to 1024) of `workers` (1 to 64) in each pool, and for
    /// `surplus` more sockets that are known and never chosen. No pool is live yet.
    ///
    /// # Errors
    /// The kernel or the process's rights do not allow it, or this is a shifted time namespace.
    pub fn load(listeners: u32, workers: u32, surplus: u32) -> Result<Self, SteeringError> {
        check_size(listeners, workers)?;
        error::check_kernel()?;
        time_namespace::check()?;

        // One row more than listeners: packets to sockets that are none of ours.
        let counters = slot::verdict_index(listeners + 1, 0, 0);
        let mut bpf = loader()?
            .map_max_entries(abi::SOCKETS, slot::count(listeners, workers))
            .map_max_entries(abi::LISTENERS, slot::count(listeners, workers) + surplus)
            .map_max_entries(abi::LAST, listeners)
            .map_max_entries(abi::VERDICTS, counters)
            .override_global(abi::WORKER_COUNT, &workers, true)
            .override_global(abi::LISTENER_COUNT, &listeners, true)
            .load(OBJECT)
            .map_err(SteeringError::of_object)?;
        load_program(&mut bpf).map_err(SteeringError::of_program)?;

        let liveness = map_liveness(&bpf)?;
        liveness.set_workers(workers);
        Ok(Self { bpf, liveness, workers, counters })
    }

    /// The liveness bits and leases, to be kept by whoever writes them.
    pub fn liveness(&self) -> LivenessMap {
        self.liveness
    }

    /// Makes a listening socket known to the program: new traffic of its reuseport group counts as
    /// the listener's, and this socket is the one of the seat's worker. To be done for all sockets
    /// of a group before [`Self::attach`]: the program drops what arrives at unknown ones.
    ///
    /// # Errors
    /// The socket is not bound with `SO_REUSEPORT`, not listening (TCP), or already placed.
    pub fn place(
        &mut self,
        socket: BorrowedFd<'_>,
        listener: u32,
        seat: u32,
        worker: u32,
    ) -> Result<(), SteeringError> {
        let index = slot::index(listener, seat, worker, self.workers);
        let set = self.sockets()?.set(index, &socket, 0);
        set.map_err(|error| SteeringError::of_place(listener, seat, worker, error))?;
        self.note(socket, listener)
    }

    /// Makes a socket of a listener's reuseport group known that is in no slot: the kernel may ask the
    /// program by any socket of the group.
    ///
    /// # Errors
    /// There are more than the program was loaded for.
    pub fn note(&mut self, socket: BorrowedFd<'_>, listener: u32) -> Result<(), SteeringError> {
        let cookie = cookie(socket)?;
        let noted = self.listeners()?.insert(cookie, listener, 0);
        noted.map_err(|error| SteeringError::of_map(format!("note a socket of listener {listener}"), error))
    }

    /// Forgets a socket that [`Self::place`] made known, before it is closed. (The kernel takes a
    /// closed socket out of its slot, but its cookie stays.) One that is not known is no error.
    ///
    /// # Errors
    /// The maps cannot be changed.
    pub fn remove(
        &mut self,
        socket: BorrowedFd<'_>,
        listener: u32,
        seat: u32,
        worker: u32,
    ) -> Result<(), SteeringError> {
        let index = slot::index(listener, seat, worker, self.workers);
        let cookie = cookie(socket)?;
        let what = || format!("remove the socket of listener {listener}, seat {seat}, worker {worker}");
        let forgotten = [self.listeners()?.remove(&cookie), self.sockets()?.clear_index(&index)];
        let errors = forgotten.into_iter().filter_map(Result::err).filter(|error| !is_absence(error));
        errors.map(|error| SteeringError::of_map(what(), error)).next().map_or(Ok(()), Err)
    }

    /// Forgets a socket that [`Self::note`] made known. One that is not known is no error.
    ///
    /// # Errors
    /// The maps cannot be changed.
    pub fn forget(&mut self, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        match self.listeners()?.remove(&cookie(socket)?) {
            Err(error) if !is_absence(&error) => {
                Err(SteeringError::of_map("forget a listening socket".to_owned(), error))
            }
            _ => Ok(()),
        }
    }

    /// Lets the program steer the socket's whole reuseport group, from the next packet on. It
    /// replaces a program that steers the group already.
    ///
    /// # Errors
    /// The socket is not bound with `SO_REUSEPORT`.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        self.program()?
            .attach(socket)
            .map_err(|error| SteeringError::bpf("attach the kernel program to a socket", &error))
    }

    /// Takes whatever program off the socket's whole reuseport group: the kernel spreads new traffic over all
    /// of its sockets then. That there is none is no error.
    ///
    /// # Errors
    /// Not a socket.
    pub fn detach(socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        let detached = bpf_map::detach_reuseport(socket);
        detached.map_err(|error| SteeringError::Io {
            what: "take the kernel program off a socket".to_owned(),
            error,
        })
    }

    /// The verdicts so far, summed over processors, by [`slot::verdict_index`]. The row after the
    /// last listener is for sockets that were not placed.
    ///
    /// # Errors
    /// The map cannot be read: its descriptor is closed.
    pub fn verdicts(&self) -> Result<Vec<u64>, SteeringError> {
        let map = map(&self.bpf, abi::VERDICTS)?;
        let counts = PerCpuArray::<_, u64>::try_from(map).map_err(|error| unusable(abi::VERDICTS, error))?;
        let sum = |index| counts.get(&index, 0).map(|by_processor| by_processor.iter().sum());
        let sums = (0..self.counters).map(sum).collect::<Result<_, _>>();
        sums.map_err(|error| SteeringError::of_map("read the verdict counters", error))
    }

    /// Goes on counting from `verdicts`, by [`slot::verdict_index`]; 0 for those that are missing. To be
    /// done before [`Self::attach`]: what the program counts at the same time is lost.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_verdicts(&mut self, verdicts: &[u64]) -> Result<(), SteeringError> {
        let refused = |error| SteeringError::of_map("set the verdict counters", error);
        let of_processors =
            |error| SteeringError::Io { what: "count the processors that there can be".to_owned(), error };
        let processors = nr_cpus().map_err(|(_, error)| of_processors(error))?;
        let map = map_mut(&mut self.bpf, abi::VERDICTS)?;
        let mut counts =
            PerCpuArray::<_, u64>::try_from(map).map_err(|error| unusable(abi::VERDICTS, error))?;
        for (index, &verdict) in (0..self.counters).zip(verdicts).filter(|(_, verdict)| **verdict > 0) {
            let mut by_processor = vec![0; processors];
            by_processor[..1].fill(verdict);
            let values = PerCpuValues::try_from(by_processor).map_err(of_processors)?;
            counts.set(index, values, 0).map_err(refused)?;
        }
        Ok(())
    }

    /// The seat that new traffic of the listener went to last.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn last(&self, listener: u32) -> Result<u32, SteeringError> {
        let map = map(&self.bpf, abi::LAST)?;
        let last = Array::<_, u32>::try_from(map).map_err(|error| unusable(abi::LAST, error))?;
        let mark = last.get(&listener, 0);
        let mark = mark
            .map_err(|error| SteeringError::of_map(format!("read where listener {listener} went"), error))?;
        Ok(mark & !abi::LAST_FAIL_OPEN)
    }

    /// Takes the program's log; its lines will go to `logger`.
    ///
    /// # Errors
    /// It was taken before.
    pub fn logger<L: ::log::Log>(&mut self, logger: L) -> Result<SteeringLog<L>, SteeringError> {
        SteeringLog::take(&mut self.bpf, logger)
            .map_err(|error| SteeringError::bpf("open the kernel program's log", &error))
    }

    /// Goes on with the program's log, in a process cloned from one that took it and is dead.
    ///
    /// # Errors
    /// Finding a loaded program's maps takes `CAP_SYS_ADMIN` (bpf(2)), which loading it did not.
    pub fn resume_log<L: ::log::Log>(&self, logger: L) -> Result<SteeringLog<L>, SteeringError> {
        let program = self.program()?.info().map_err(SteeringError::of_program)?.id();
        SteeringLog::resume(program, logger)
            .map_err(|error| SteeringError::bpf("find the kernel program's log", &error))
    }

    /// The descriptors that this value needs: maps and program. A child that keeps the value may
    /// close all others. (A [`LivenessMap`] needs none, a [`SteeringLog`] has one of its own.)
    ///
    /// # Errors
    /// None that is known; the program is loaded.
    pub fn descriptors(&self) -> Result<Vec<RawFd>, SteeringError> {
        let program = self.program()?.fd().map_err(SteeringError::of_program)?.as_fd().as_raw_fd();
        let maps = self.bpf.maps().filter_map(|(_, map)| data(map)).map(|map| map.fd().as_fd().as_raw_fd());
        Ok(maps.chain([program]).collect())
    }

    fn sockets(&mut self) -> Result<ReusePortSockArray<&mut MapData>, SteeringError> {
        map_mut(&mut self.bpf, abi::SOCKETS)?.try_into().map_err(|error| unusable(abi::SOCKETS, error))
    }

    fn listeners(&mut self) -> Result<HashMap<&mut MapData, u64, u32>, SteeringError> {
        map_mut(&mut self.bpf, abi::LISTENERS)?.try_into().map_err(|error| unusable(abi::LISTENERS, error))
    }

    fn program(&self) -> Result<&SkReuseport, SteeringError> {
        let program = self.bpf.program(abi::PROGRAM).ok_or(ProgramError::NotLoaded);
        program.and_then(TryInto::try_into).map_err(SteeringError::of_program)
    }
}

fn is_absence(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

fn check_size(listeners: u32, workers: u32) -> Result<(), SteeringError> {
    let (max_listeners, max_workers) = (abi::DEFAULT_MAX_LISTENERS, MAX_WORKERS as u32);
    if (1..=max_listeners).contains(&listeners) && (1..=max_workers).contains(&workers) {
        return Ok(());
    }
    Err(SteeringError::Size { listeners, workers, max_listeners, max_workers })
}

/// A loader that has not read the kernel's types. aya 0.14 parses all of them here, before it can be told that the program
/// has no need of them, which took more than a third of the time until a proxy served (aya issue 1172; later versions
/// do when a program has). That they cannot be read is no error to it.
fn loader<'a>() -> Result<EbpfLoader<'a>, SteeringError> {
    fd::while_none_can_be_opened(EbpfLoader::new)
        .map_err(|error| SteeringError::Io { what: "set the descriptor limit again".to_owned(), error })
}

fn load_program(bpf: &mut Ebpf) -> Result<(), ProgramError> {
    let program = bpf.program_mut(abi::PROGRAM).ok_or(ProgramError::NotLoaded)?;
    <&mut SkReuseport>::try_from(program)?.load()
}

fn map_liveness(bpf: &Ebpf) -> Result<LivenessMap, SteeringError> {
    let map =
        data(map(bpf, abi::LIVENESS)?).ok_or_else(|| unusable(abi::LIVENESS, MapError::ElementNotFound))?;
    LivenessMap::map(map.fd().as_fd())
        .map_err(|error| SteeringError::Io { what: format!("map {} into memory", abi::LIVENESS), error })
}

fn map<'a>(bpf: &'a Ebpf, name: &str) -> Result<&'a Map, SteeringError> {
    bpf.map(name).ok_or_else(|| unusable(name, MapError::ElementNotFound))
}

fn map_mut<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map, SteeringError> {
    bpf.map_mut(name).ok_or_else(|| unusable(name, MapError::ElementNotFound))
}

/// The map that the typed views of aya wrap, for the types that the program has.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::PerCpuArray(data) | Map::ReusePortSockArray(data) => {
            Some(data)
        }
        _ => None,
    }
}

fn unusable(name: &str, error: MapError) -> SteeringError {
    SteeringError::of_map(format!("use map {name} of the kernel program"), error)
}

fn cookie(socket: BorrowedFd<'_>) -> Result<u64, SteeringError> {
    bpf_map::socket_cookie(socket)
        .map_err(|error| SteeringError::Io { what: "read a listening socket's cookie".to_owned(), error })
}
