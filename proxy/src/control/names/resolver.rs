//! Asking: `/etc/hosts` first, then the name servers of `/etc/resolv.conf`. Both files are read anew when they have
//! changed.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use futures_util::future::join;
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, Record, RecordType},
    },
};

use super::course::{Answer, Answers};

/// The files that say how.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Longest time for a look-up, whatever resolv.conf(5) says of timeouts and attempts.
const LIMIT: Duration = Duration::from_secs(10);

/// What tells one state of a file from another: inode, size, time of the last change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The resolver.
pub struct Resolver {
    stamps: [Stamp; FILES.len()],
    hosts: Hosts,
    servers: Result<TokioResolver, String>,
}

impl Resolver {
    /// As the system says now.
    pub fn of_system() -> Self {
        let stamps = FILES.map(stamp);
        Self { stamps, hosts: Hosts::from_system().unwrap_or_default(), servers: servers() }
    }

    /// Reads the files again if they are others now.
    pub fn refresh(&mut self) {
        if self.stamps != FILES.map(stamp) {
            tracing::info!("names are looked up as {} and {} say now", FILES[0], FILES[1]);
            *self = Self::of_system();
        }
    }

    /// Looks a name up. What is in `/etc/hosts` is all that there is to it, as for getaddrinfo(3).
    pub fn look_up(&self, host: &str) -> impl Future<Output = Answers> + use<> {
        let name = Name::from_utf8(host).map_err(|error| error.to_string());
        let hosts = name
            .as_ref()
            .ok()
            .map(|name| [RecordType::A, RecordType::AAAA].map(|kind| self.in_hosts(name, kind)));
        let in_hosts = hosts.filter(|answers| answers.iter().any(|answer| *answer != Answer::Nothing));
        let asked = name.and_then(|name| Ok((name, self.servers.clone()?)));
        async move {
            match (in_hosts, asked) {
                (Some(answers), _) => answers,
                (None, Ok((name, servers))) => {
                    let (v4, v6) =
                        join(ask(&servers, &name, RecordType::A), ask(&servers, &name, RecordType::AAAA))
                            .await;
                    [v4, v6]
                }
                (None, Err(why)) => [Answer::Failed(why.clone()), Answer::Failed(why)],
            }
        }
    }

    fn in_hosts(&self, name: &Name, kind: RecordType) -> Answer {
        let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        found.map_or(Answer::Nothing, |lookup| answer(lookup.answers()))
    }
}

fn stamp(path: &str) -> Stamp {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

/// The name servers. Without the file it is the one of this machine (resolv.conf(5)).
fn servers() -> Result<TokioResolver, String> {
    let local = || {
        let servers = vec![NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| local());
    let options = builder.options_mut();
    // Their time is kept here, and so is what they say.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|error| format!("no name server can be asked: {error}"))
}

async fn ask(servers: &TokioResolver, name: &Name, kind: RecordType) -> Answer {
    match tokio::time::timeout(LIMIT, servers.lookup(name.clone(), kind)).await {
        Err(_) => Answer::Failed(format!("no answer within {} s", LIMIT.as_secs())),
        Ok(Err(error)) => failure(&error),
        Ok(Ok(lookup)) => answer(lookup.answers()),
    }
}

fn failure(error: &NetError) -> Answer {
    if error.is_no_records_found() { Answer::Nothing } else { Answer::Failed(error.to_string()) }
}

/// The addresses, for as long as the shortest-lived of the records that lead to them.
fn answer(records: &[Record]) -> Answer {
    let addresses: Vec<IpAddr> =
        records.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_canonical()).collect();
    let lifetime = records.iter().map(|record| record.ttl).min().unwrap_or(0);
    match addresses.is_empty() {
        true => Answer::Nothing,
        false => Answer::Addresses(addresses, Duration::from_secs(lifetime.into())),
    }
}
