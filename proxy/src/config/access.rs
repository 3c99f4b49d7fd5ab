//! Who may come in: networks that are allowed and denied. Pure.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use serde::{Deserialize, Serialize};

/// Networks that are let in or turned away; of two that hold a client, the narrower one decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Networks", try_from = "Networks")]
pub struct Access {
    v4: PrefixMap<Ipv4Net, bool>,
    v6: PrefixMap<Ipv6Net, bool>,
    /// Whom no network holds is turned away: some were named that are let in.
    is_closed: bool,
}

/// The same as lists.
#[derive(Serialize, Deserialize)]
struct Networks {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl From<Access> for Networks {
    fn from(access: Access) -> Self {
        let v4 = access.v4.iter().map(|(network, is_allowed)| (IpNet::V4(network), *is_allowed));
        let v6 = access.v6.iter().map(|(network, is_allowed)| (IpNet::V6(network), *is_allowed));
        let (allow, deny): (Vec<_>, Vec<_>) = v4.chain(v6).partition(|(_, is_allowed)| *is_allowed);
        let networks = |list: Vec<(IpNet, bool)>| list.into_iter().map(|(network, _)| network).collect();
        Self { allow: networks(allow), deny: networks(deny) }
    }
}

impl TryFrom<Networks> for Access {
    type Error = String;

    fn try_from(networks: Networks) -> Result<Self, String> {
        Self::new(&networks.allow, &networks.deny)
            .map_err(|network| format!("{network} is allowed and denied"))
    }
}

impl Access {
    /// Lets in `allow`, or all if that is empty, and turns away `deny`.
    ///
    /// # Errors
    /// A network that is in both.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Result<Self, IpNet> {
        let mut access = Self { is_closed: !allow.is_empty(), ..Self::default() };
        for (networks, is_allowed) in [(allow, true), (deny, false)] {
            for network in networks {
                if access.insert(*network, is_allowed).is_some_and(|before| before != is_allowed) {
                    return Err(*network);
                }
            }
        }
        Ok(access)
    }

    /// Whether a client is let in. An IPv4 address in IPv6 form counts as IPv4.
    pub fn allows(&self, client: IpAddr) -> bool {
        let decided = match client.to_canonical() {
            IpAddr::V4(ip) => self.v4.get_lpm(&ip.into()).map(|(_, is_allowed)| *is_allowed),
            IpAddr::V6(ip) => self.v6.get_lpm(&ip.into()).map(|(_, is_allowed)| *is_allowed),
        };
        decided.unwrap_or(!self.is_closed)
    }

    /// Answers what was said of the same network before.
    fn insert(&mut self, network: IpNet, is_allowed: bool) -> Option<bool> {
        match network.trunc() {
            IpNet::V4(network) => self.v4.insert(network, is_allowed),
            IpNet::V6(network) => self.v6.insert(network, is_allowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn access(allow: &[&str], deny: &[&str]) -> Result<Access, IpNet> {
        let all = |networks: &[&str]| networks.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        Access::new(&all(allow), &all(deny))
    }

    fn allowed<'a>(access: &Access, clients: &[&'a str]) -> Vec<&'a str> {
        clients.iter().copied().filter(|client| access.allows(client.parse().unwrap())).collect()
    }

    #[test]
    fn without_a_network_everybody_comes_in() {
        assert!(access(&[], &[]).unwrap().allows("192.0.2.1".parse().unwrap()));
        let denying = access(&[], &["10.0.0.0/8"]).unwrap();
        assert_eq!(
            allowed(&denying, &["10.1.1.1", "192.0.2.1", "2001:db8::1"]),
            ["192.0.2.1", "2001:db8::1"]
        );
    }

    #[test]
    fn the_narrower_network_decides() {
        let access = access(&["10.0.0.0/8", "10.1.2.3/32", "::/0"], &["10.1.0.0/16", "fd00::/8"]).unwrap();
        let clients = ["10.2.0.1", "10.1.0.1", "10.1.2.3", "192.0.2.1", "2001:db8::1", "fd00::1"];
        assert_eq!(allowed(&access, &clients), ["10.2.0.1", "10.1.2.3", "2001:db8::1"]);
    }

    #[test]
    fn mapped_addresses_and_host_bits_make_no_difference() {
        let access = access(&[], &["10.1.2.3/8"]).unwrap();
        assert!(!access.allows("::ffff:10.200.0.1".parse().unwrap()));
    }

    #[test]
    fn a_network_cannot_be_both() {
        assert_eq!(access(&["10.0.0.0/8"], &["10.0.0.1/8"]).unwrap_err().to_string(), "10.0.0.1/8");
        assert!(access(&["10.0.0.0/8", "10.0.0.0/8"], &["10.0.0.0/9"]).is_ok());
    }

    #[test]
    fn it_is_handed_over_whole() {
        let lists: [(&[&str], &[&str]); 3] =
            [(&[], &[]), (&["10.0.0.0/8", "fd00::/8"], &["10.1.0.0/16"]), (&[], &["::/0"])];
        for (allow, deny) in lists {
            let access = access(allow, deny).unwrap();
            let text = serde_json::to_string(&access).unwrap();
            assert_eq!(serde_json::from_str::<Access>(&text).unwrap(), access, "{text}");
        }
        let both = r#"{"allow": ["10.0.0.0/8"], "deny": ["10.0.0.0/8"]}"#;
        assert!(serde_json::from_str::<Access>(both).unwrap_err().to_string().contains("allowed and denied"));
    }

    proptest! {
        /// As if all networks were looked through.
        #[test]
        fn the_trie_finds_what_a_walk_finds(
            networks in prop::collection::vec((any::<u32>(), 0u8..=32, any::<bool>()), 0..40),
            client in any::<u32>(),
        ) {
            let net = |bits: u32, len| IpNet::new(IpAddr::V4((bits & 0x0f0f_0f0f).into()), len).unwrap().trunc();
            let all: Vec<_> = networks.into_iter().map(|(bits, len, is_allowed)| (net(bits, len), is_allowed)).collect();
            let of = |wanted| all.iter().filter(|(_, is)| *is == wanted).map(|(net, _)| *net).collect::<Vec<_>>();
            let client = IpAddr::V4((client & 0x0f0f_0f0f).into());
            if let Ok(access) = Access::new(&of(true), &of(false)) {
                let narrowest = all.iter().filter(|(net, _)| net.contains(&client)).max_by_key(|(net, _)| net.prefix_len());
                let expected = narrowest.map_or(of(true).is_empty(), |(_, is_allowed)| *is_allowed);
                prop_assert_eq!(access.allows(client), expected);
            }
        }
    }
}
