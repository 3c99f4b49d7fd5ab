//! How many connections, flows and pipes there may be: what the settings say, within what the
//! process's descriptor limit allows. Pure.

use proxy_common::{lease::SEATS, slot};

use crate::config::Config;

/// Pipes that a worker starts with.
pub const PIPE_STOCK: usize = 32;
/// Pipes of all workers, at most: each may hold a megabyte of somebody's unread bytes.
const MAX_PIPES: usize = 1024;
/// Descriptors that are made use of, however many the process may have: container engines are fond of
/// a limit of a billion, and tags and records of so many are walked and swept. Linux's own
/// default for the highest limit (`fs.nr_open`).
pub const MAX_DESCRIPTORS: u64 = 1 << 20;
/// Descriptors that are neither flows nor pipes nor a worker's: standard ones, maps, signals, room.
const FIXED: usize = 64;
/// An epoll set and a bell.
const PER_WORKER: usize = 2;
/// Fewer descriptors for flows than this are of no use.
const MIN_FOR_FLOWS: usize = 64;
/// UDP flows unless the settings say otherwise, at most: each takes one of the about 28,000 local
/// ports that Linux gives out by default (`net.ipv4.ip_local_port_range`).
const DEFAULT_MAX_FLOWS: usize = 20_000;

/// Limits on flows, of both pools together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open TCP connections.
    pub connections: usize,
    /// UDP flows.
    pub flows: usize,
    /// Descriptors for flows: a connection takes two, a UDP flow one.
    pub descriptors: usize,
    /// Pipes that one worker may have.
    pub pipes_per_worker: usize,
}

/// The descriptor limit is too low.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the descriptor limit of {has} is too low: with {workers} workers and so many listeners ({listeners}), {needs} are \
     needed; raise it (ulimit -Hn, systemd: LimitNOFILE=, container: --ulimit nofile=) or give fewer --workers"
)]
pub struct TooFewDescriptors {
    has: usize,
    needs: usize,
    workers: u32,
    listeners: usize,
}

impl Limits {
    /// Divides `descriptors`, the process's limit, up. Unless the settings say otherwise, connections may have all that
    /// are for flows, and UDP flows half of them: who comes first is served, and neither is kept for the other.
    ///
    /// # Errors
    /// They do not suffice for these settings.
    pub fn divide(config: &Config, descriptors: usize) -> Result<Self, TooFewDescriptors> {
        let lanes = SEATS * config.workers as usize;
        let pipes_per_worker = (MAX_PIPES.min(descriptors / 16) / lanes).clamp(PIPE_STOCK / 2, MAX_PIPES);
        let sockets = slot::count(config.listeners.len() as u32, config.workers) as usize;
        let own = FIXED + sockets + lanes * (PER_WORKER + pipes_per_worker);
        let for_flows = descriptors.saturating_sub(own);
        if for_flows < MIN_FOR_FLOWS {
            return Err(TooFewDescriptors {
                has: descriptors,
                needs: own + MIN_FOR_FLOWS,
                workers: config.workers,
                listeners: config.listeners.len(),
            });
        }
        Ok(Self {
            connections: config.max_connections.unwrap_or(for_flows / 2),
            flows: config.max_flows.unwrap_or(DEFAULT_MAX_FLOWS.min(for_flows / 2)),
            descriptors: for_flows,
            pipes_per_worker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    fn config(more: &[&str]) -> Config {
        let few = ["proxy", "run", "-l", "tcp://127.0.0.1:1", "-u", "127.0.0.1:2", "--workers", "2"];
        let cli = Cli::try_parse_from(few.iter().chain(more)).unwrap();
        let crate::cli::Verb::Run(args) = cli.verb else { unreachable!() };
        Config::from_args(&args).unwrap()
    }

    #[test]
    fn descriptors_are_divided() {
        let limits = Limits::divide(&config(&[]), 20_000).unwrap();
        assert_eq!(limits.pipes_per_worker, 256);
        assert!(limits.connections > 9000 && limits.connections * 2 <= limits.descriptors, "{limits:?}");
        let own = 20_000 - limits.descriptors;
        assert_eq!(own, 64 + 4 + 4 * (2 + 256));
        assert_eq!(limits.flows, limits.descriptors / 2);
    }

    #[test]
    fn flows_have_half_of_the_descriptors_within_the_local_ports() {
        let flows = |descriptors| Limits::divide(&config(&[]), descriptors).unwrap().flows;
        assert_eq!((flows(1 << 16), flows(1 << 20)), (20_000, 20_000));
        assert!(flows(20_000) > 8_000, "a burst of one-shot questions");
    }

    #[test]
    fn settings_come_first_and_too_few_are_refused() {
        let limits =
            Limits::divide(&config(&["--max-connections", "7", "--max-flows", "9"]), 20_000).unwrap();
        assert_eq!((limits.connections, limits.flows), (7, 9));
        let error = Limits::divide(&config(&[]), 128).unwrap_err().to_string();
        assert!(error.contains("limit of 128 is too low") && error.contains("LimitNOFILE"), "{error}");
    }
}
