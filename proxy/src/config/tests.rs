use std::time::Duration;

use clap::CommandFactory as _;

use super::*;
use crate::cli::{Cli, Verb};

fn config(words: &[&str]) -> Result<Config, String> {
    let cli = <Cli as clap::Parser>::try_parse_from(["proxy", "run", "--user", "root"].iter().chain(words));
    let Verb::Run(args) = cli.map_err(|error| error.to_string())?.verb else { panic!("run is run") };
    Config::from_args(&args).map_err(|error| error.to_string())
}

/// Listens on these and passes on to a documentation address.
fn listening(urls: &[&str]) -> Result<Config, String> {
    let mut words = vec!["--upstream", "192.0.2.1:1"];
    words.extend(urls.iter().flat_map(|url| ["--listen", url]));
    config(&words)
}

fn with(flags: &[&str]) -> Result<Config, String> {
    config(&[&["-l", "tcp://0.0.0.0:1", "-u", "192.0.2.1:1"], flags].concat())
}

#[test]
fn listeners_are_checked() {
    for (url, why) in [
        ("127.0.0.1:80", "no tcp:// or udp://"),
        ("sctp://127.0.0.1:80", "neither tcp nor udp"),
        ("tcp://localhost", "is no IP:PORT"),
        ("tcp://127.0.0.1:0", "port 0"),
        ("tcp://[::ffff:127.0.0.1]:1", "write it as IPv4"),
    ] {
        let error = listening(&[url]).unwrap_err();
        assert!(error.starts_with(&format!("--listen {url}: ")) && error.contains(why), "{error}");
    }
    assert!(listening(&["tcp://[::1]:1", "tcp://[::1]:1"]).unwrap_err().contains("given twice"));
}

#[test]
fn a_wildcard_and_one_of_its_addresses_exclude_each_other() {
    for urls in [["tcp://127.0.0.1:1", "tcp://0.0.0.0:1"], ["udp://[::]:1", "udp://[::1]:1"]] {
        let error = listening(&urls).unwrap_err();
        assert!(error.contains(urls[0]) && error.contains("leave one"), "{error}");
    }
    let fine = ["tcp://0.0.0.0:1", "udp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://[::1]:1"];
    assert_eq!(listening(&fine).unwrap().listeners.len(), 4);
}

#[test]
fn a_proxy_is_not_its_own_upstream() {
    for (server, is_us) in [
        ("127.0.0.1:1", true),
        ("0.0.0.0:1", true),
        ("[::1]:1", false),
        ("[::1]:2", true),
        ("127.0.0.1:2", true),
        ("10.0.0.1:1", false),
        ("unix:///run/a", true),
        ("unix:///run/b", false),
    ] {
        let result =
            config(&["-l", "tcp://0.0.0.0:1", "-l", "tcp://[::]:2", "-l", "unix:///run/a", "-u", server]);
        assert_eq!(result.is_err(), is_us, "{server}: {result:?}");
    }
    // An IPv4 listener at the port has IPv4 for itself; what is reached by UDP does not come back by TCP.
    assert!(config(&["-l", "tcp://192.0.2.1:2", "-l", "tcp://[::]:2", "-u", "127.0.0.1:2"]).is_ok());
    assert!(config(&["-l", "udp://0.0.0.0:2", "-u", "127.0.0.1:2"]).is_err());
}

#[test]
fn a_wildcard_takes_what_the_machine_has() {
    let config = config(&["-l", "tcp://0.0.0.0:1", "-l", "udp://[::1]:2", "-u", "192.0.2.1:1"]).unwrap();
    let own = |server: &str, upstream| {
        let is_local = |server: SocketAddr| server.ip().to_string() == "10.0.0.1";
        own_listener(server.parse().unwrap(), upstream, &config.listeners, is_local).is_some()
    };
    assert!(own("10.0.0.1:1", 0) && own("[::1]:2", 0));
    assert!(!own("10.0.0.1:2", 0) && !own("10.0.0.2:1", 0));
    assert!(!own("10.0.0.1:1", 1), "nobody leads there");
}

#[test]
fn a_v6_wildcard_leaves_ipv4_to_a_listener_that_has_it() {
    let config = listening(&["tcp://[::]:1", "tcp://0.0.0.0:1", "udp://[::]:1"]).unwrap();
    let v6_only: Vec<bool> = config.listeners.iter().map(|listener| listener.v6_only).collect();
    assert_eq!((v6_only[0], v6_only[2]), (true, false));
}

#[test]
fn servers_are_checked() {
    for (server, why) in [
        ("tcp://10.0.0.1:1", "has a scheme"),
        ("10.0.0.1", "has no port"),
        ("10.0.0.1:0", "has no port"),
        ("10.0.0.300:1", "neither an IP address nor"),
        ("a..b:1", "neither"),
        ("a b:1", "neither"),
        ("::1:1", "neither"),
        ("unix://run/app.sock", "no absolute path"),
        (&format!("unix:///{}", "x".repeat(107)), "more than 107 bytes"),
    ] {
        let error = config(&["-l", "tcp://0.0.0.0:1", "-u", server]).unwrap_err();
        assert!(error.starts_with(&format!("--upstream {server}: ")) && error.contains(why), "{error}");
    }
    let twice = config(&["-l", "tcp://0.0.0.0:1", "-u", "[::1]:5", "-u", "[0::1]:5"]).unwrap_err();
    assert!(twice.contains("--upstream [0::1]:5: given twice"), "{twice}");
}

#[test]
fn servers_may_be_at_unix_sockets() {
    let servers = ["-u", "unix:///run/a.sock", "-u", "unix:///run/b.sock", "-u", "10.0.0.1:1"];
    let config = config(&[&["-l", "tcp://0.0.0.0:1"][..], &servers].concat()).unwrap();
    let addresses: Vec<_> =
        config.upstreams[0].servers.iter().map(|server| server.place.slot_address().unwrap()).collect();
    // A contract with other versions.
    assert_eq!(addresses[0].to_string(), "[100::b861:55:91d3:856e]:0");
    assert_ne!(addresses[0], addresses[1]);
    assert_eq!(addresses[2].to_string(), "10.0.0.1:1");
    let datagrams = super::tests::config(&["-l", "udp://0.0.0.0:1", "-u", "unix:///run/a.sock"]).unwrap_err();
    assert!(
        datagrams.contains("--upstream unix:///run/a.sock: a unix socket takes no datagrams"),
        "{datagrams}"
    );
    let twice = super::tests::config(&["-l", "tcp://0.0.0.0:1", "-u", "unix:///a", "-u", "unix:///a"]);
    assert!(twice.unwrap_err().contains("given twice"));
}

#[test]
fn flags_are_one_upstream() {
    let config = with(&["-l", "udp://[::]:2", "-u", "192.0.2.1:2"]).unwrap();
    let names: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.upstream)).collect();
    assert_eq!(names, [("default", 0), ("default", 0)]);
    assert_eq!((config.upstreams.len(), config.upstreams[0].name.as_str()), (1, "default"));
    assert_eq!(config.upstream_of(1).unwrap().1.servers.len(), 2);
    assert!(config.upstream_of(2).is_none());
}

#[test]
fn a_fence_is_slower_than_a_lease() {
    let error = with(&["--fence-after", "150ms"]).unwrap_err();
    assert!(
        error.starts_with("--fence-after 150ms: ") && error.contains("twice the lease, 200ms"),
        "{error}"
    );
    let default = |lease| with(&["--lease", lease]).unwrap().fence_after.as_millis();
    assert_eq!(["5ms", "400ms", "500ms", "10s"].map(default), [800, 800, 1000, 20_000]);
    let Config { lease, fence_after, .. } = with(&[]).unwrap();
    assert!(lease + fence_after < Duration::from_secs(1), "many clients wait no longer");
    assert!(with(&["--lease", "1ms"]).unwrap_err().contains("5ms to 1m"));
}

#[test]
fn defaults_are_those_that_help_names() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let default = |arg: &clap::Arg| {
        let help = arg.get_help()?.to_string();
        let value = help.split_once("[default: ")?.1.strip_suffix(']')?.to_owned();
        let is_value = !value.contains(' ') && value != "none" && arg.get_id() != "user";
        is_value.then_some([format!("--{}", arg.get_long()?), value])
    };
    let flags: Vec<String> = run.get_arguments().filter_map(default).flatten().collect();
    assert_eq!(flags.len(), 2 * 9, "{flags:?}");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(format!("{:?}", with(&flags)), format!("{:?}", with(&[])));
}
