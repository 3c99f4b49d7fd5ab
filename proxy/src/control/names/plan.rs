//! Which server slots an upstream's names need, and which no more.

use std::{collections::HashSet, net::SocketAddr};

use crate::table::Origin;

/// A server that is there.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// Its slot.
    pub slot: usize,
    /// Where it is.
    pub address: SocketAddr,
    /// Where it comes from.
    pub origin: Origin,
}

/// A name of the upstream's, and the addresses that it has.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What its servers come from.
    pub origin: Origin,
    /// Where they are.
    pub addresses: Vec<SocketAddr>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Servers that get a slot.
    pub place: Vec<(SocketAddr, Origin)>,
    /// Slots whose servers are no more.
    pub retire: Vec<usize>,
}

/// Compares. An address that is there already, for whatever reason, needs no second slot; one that no name has any
/// more is let go of if it came from a name.
pub fn compare(present: &[Present], wanted: &[Wanted]) -> Plan {
    let mut there: HashSet<SocketAddr> = present.iter().map(|server| server.address).collect();
    let all: HashSet<SocketAddr> = wanted.iter().flat_map(|name| &name.addresses).copied().collect();
    let is_named = |origin| wanted.iter().any(|name| name.origin == origin);
    let is_gone = |server: &&Present| is_named(server.origin) && !all.contains(&server.address);
    let retire = present.iter().filter(is_gone).map(|server| server.slot).collect();
    let mut place = Vec::new();
    for name in wanted {
        for address in name.addresses.iter().filter(|address| there.insert(**address)) {
            place.push((*address, name.origin));
        }
    }
    Plan { place, retire }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn present(slot: usize, address: &str, origin: Origin) -> Present {
        Present { slot, address: at(address), origin }
    }

    fn wanted(number: u32, addresses: &[&str]) -> Wanted {
        Wanted {
            origin: Origin::Settings(number),
            addresses: addresses.iter().map(|text| at(text)).collect(),
        }
    }

    #[test]
    fn what_is_new_is_placed_and_what_is_gone_retired() {
        let name = Origin::Settings(1);
        let there = [present(4, "10.0.0.1:1", name), present(5, "10.0.0.2:1", name)];
        let plan = compare(&there, &[wanted(1, &["10.0.0.2:1", "10.0.0.3:1"])]);
        assert_eq!(plan, Plan { place: vec![(at("10.0.0.3:1"), name)], retire: vec![4] });
        assert_eq!(compare(&there, &[wanted(1, &["10.0.0.1:1", "10.0.0.2:1"])]), Plan::default());
    }

    #[test]
    fn servers_that_come_from_elsewhere_are_left_alone() {
        let there = [
            present(4, "10.0.0.1:1", Origin::Settings(0)),
            present(5, "10.0.0.2:1", Origin::Added),
            present(6, "10.0.0.3:1", Origin::Settings(2)),
        ];
        let plan = compare(&there, &[wanted(1, &["10.0.0.1:1", "10.0.0.2:1"])]);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn an_address_of_two_names_has_one_slot_until_neither_has_it() {
        let (one, both) = (wanted(1, &["10.0.0.1:1"]), wanted(2, &["10.0.0.1:1"]));
        let plan = compare(&[], &[one, both.clone()]);
        assert_eq!(plan.place, [(at("10.0.0.1:1"), Origin::Settings(1))]);
        let there = [present(4, "10.0.0.1:1", Origin::Settings(1))];
        assert_eq!(compare(&there, &[wanted(1, &[]), both]), Plan::default());
        assert_eq!(compare(&there, &[wanted(1, &[]), wanted(2, &[])]).retire, [4]);
    }
}
