//! What all processes of the proxy use together.

use std::sync::atomic::Ordering::Relaxed;

use proxy_common::lease::SEATS;

use crate::{procfs, table::Table};

/// The processes there are: supervisor, twin, control and pools.
pub fn processes(table: &Table) -> Vec<i32> {
    let block = table.supervisor();
    let pools = (0..SEATS as u32).map(|seat| table.seat(seat).child.pid());
    let all = [block.pid.get(), block.twin.pid(), block.control.pid()].into_iter().chain(pools);
    all.filter(|pid| *pid > 0).collect()
}

/// Processor time of all, the dead and those that handed over too, clock ticks. The time of a process
/// that has died is found again among its parent's children's, but not at the same moment: what was
/// answered once is never taken back.
pub fn ticks(table: &Table) -> u64 {
    let block = table.supervisor();
    let living: u64 =
        processes(table).into_iter().filter_map(procfs::process).map(|process| process.ticks).sum();
    let dead = procfs::process(block.pid.get()).map_or(0, |process| process.children_ticks);
    let now = block.ticks_inherited.get() + living + dead;
    now.max(block.ticks_shown.fetch_max(now, Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Dimensions;

    #[test]
    fn the_time_of_who_is_gone_is_not_taken_back() {
        let dimensions = Dimensions { descriptors: 8, ..Dimensions::SMALL };
        let (_, table) = Table::create(dimensions).unwrap();
        table.supervisor().ticks_inherited.add(1000);
        assert_eq!((processes(&table), ticks(&table)), (vec![], 1000));
        let child =
            crate::sys::process::Child { pid: std::process::id() as i32, pidfd: crate::sys::Fd::from_raw(0) };
        table.supervisor().control.set(child);
        assert_eq!(processes(&table), [child.pid]);
        while ticks(&table) == 1000 {}
        let shown = ticks(&table);
        table.supervisor().control.clear();
        assert!(ticks(&table) >= shown);
    }
}
