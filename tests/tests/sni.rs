//! Upstreams by the server name of a TLS ClientHello, which is looked at and not taken.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use nix::sys::signal::Signal;
use proxy_tests::clients::connect;
use proxy_tests::handover::reload;
use proxy_tests::net::{at, isolate};
use proxy_tests::programs::{Server, host_and_port, program};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use proxy_tests::status::Status;
use proxy_tests::takeover::{assert_adopted, take_over};
use proxy_tests::{PRIMARY, STANDBY};

const LISTEN: &str = "127.0.0.1:8080";
const OWN: &str = "127.0.0.1:9001";
const EXACT: &str = "127.0.0.1:9002";
const SUFFIX: &str = "127.0.0.1:9003";
const SERVERS: [(&str, &str); 3] = [("own", OWN), ("exact", EXACT), ("suffix", SUFFIX)];

/// A proxy before three upstreams: `exact` for a.example, `suffix` for what is below b.example, `own` for all else.
#[track_caller]
fn proxy(directory: &Path, upstreams: &[(&str, &str)], sni_timeout: &str) -> Proxy {
    let file = directory.join("proxy.toml");
    write_settings(&file, upstreams, sni_timeout);
    let builder = Proxy::builder().flag("--config", file.to_str().expect("text")).flag("--workers", "2");
    builder.flag("--failback-after", "never").flag("--fence-after", "400ms").start()
}

#[track_caller]
fn write_settings(file: &Path, upstreams: &[(&str, &str)], sni_timeout: &str) {
    let mut settings = format!(
        "[[listener]]\nname = \"tls\"\nbind = [\"tcp://{LISTEN}\"]\nupstream = \"own\"\n\
         sni_timeout = \"{sni_timeout}\"\n\
         [[listener.sni]]\nserver_names = [\"a.example\"]\nupstream = \"exact\"\n\
         [[listener.sni]]\nserver_names = [\"*.b.example\"]\nupstream = \"suffix\"\n"
    );
    for (name, address) in upstreams {
        settings += &format!("[[upstream.{name}.server]]\naddress = \"{address}\"\n");
    }
    fs::write(file, settings).expect("write settings");
}

/// Servers that say who they are, and then send back whatever comes.
fn naming_servers() -> Vec<servers::Tcp> {
    let server = |(name, address): (&'static str, &str)| {
        servers::Tcp::start(address, move |mut stream| {
            stream.write_all(format!("{name:8}").as_bytes())?;
            let mut to = stream.try_clone()?;
            std::io::copy(&mut stream, &mut to).map(drop)
        })
    };
    SERVERS.map(server).into_iter().collect()
}

/// A length of `width` bytes, and what it is of.
fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let len = (bytes.len() as u32).to_be_bytes();
    [&len[4 - width..], bytes].concat()
}

/// A ClientHello for this name, in two records, behind an extension so long that it takes several segments.
fn hello(name: &str) -> Vec<u8> {
    let padding = [&[0, 21][..], &vector(2, &[0; 3000])].concat();
    let names = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
    let extensions = [padding, [&[0, 0][..], &vector(2, &names)].concat()].concat();
    let fixed = [&[3, 3][..], &[7; 32], &vector(1, &[9; 32]), &vector(2, &[0x13, 1]), &vector(1, &[0])];
    let message = [&[1][..], &vector(3, &[fixed.concat(), vector(2, &extensions)].concat())].concat();
    message.chunks(1800).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
}

/// Who answers, and with all that was sent.
#[track_caller]
fn answered(client: &mut TcpStream, sent: &[u8]) -> String {
    let mut name = [0; 8];
    client.read_exact(&mut name).expect("a name");
    let mut back = vec![0; sent.len()];
    client.read_exact(&mut back).expect("what was sent");
    assert!(back == sent, "nothing was taken");
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

#[test]
fn names_choose_and_everything_else_is_the_listeners_own() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers = naming_servers();
    let proxy = proxy(directory.path(), &SERVERS, "20s");
    let cases = [
        (hello("a.example"), "exact"),
        (hello("A.Example"), "exact"),
        (hello("x.y.b.example"), "suffix"),
        (hello("b.example"), "own"),
        (hello("c.example"), "own"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "own"),
        (vec![0x16, 3, 1, 0, 0], "own"),
    ];
    for (bytes, upstream) in &cases {
        let mut client = connect(at(LISTEN));
        client.write_all(bytes).expect("write");
        assert_eq!(answered(&mut client, bytes), *upstream);
    }
    // Byte by byte, each in a segment of its own.
    let bytes = hello("a.example");
    let mut client = connect(at(LISTEN));
    for byte in &bytes {
        client.write_all(&[*byte]).expect("write");
    }
    assert_eq!(answered(&mut client, &bytes), "exact");
    // One who ends in the middle of it.
    let mut client = connect(at(LISTEN));
    client.write_all(&bytes[..100]).expect("write");
    client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(answered(&mut client, &bytes[..100]), "own");
    for (upstream, count) in [("exact", 3.0), ("suffix", 1.0), ("own", 5.0)] {
        proxy.until_metric("proxy_upstream_server_connections_total", &[("upstream", upstream)], count);
    }
}

#[test]
fn who_is_late_goes_to_the_listeners_own_upstream() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers = naming_servers();
    let _proxy = proxy(directory.path(), &SERVERS, "100ms");
    let bytes = hello("a.example");
    let (mut silent, mut slow) = (connect(at(LISTEN)), connect(at(LISTEN)));
    slow.write_all(&bytes[..1000]).expect("write");
    assert_eq!(answered(&mut silent, b""), "own");
    assert_eq!(answered(&mut slow, &bytes[..1000]), "own");
    slow.write_all(&bytes[1000..]).expect("write");
    let mut rest = vec![0; bytes.len() - 1000];
    slow.read_exact(&mut rest).expect("the rest");
    assert!(rest == bytes[1000..]);
}

/// A ClientHello that is half there is still looked at by whoever takes the connection over: after a death, a hang
/// and a reload that gives the upstreams other numbers.
#[test]
fn a_takeover_in_the_middle_of_a_hello_loses_nothing() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers = naming_servers();
    let proxy = proxy(directory.path(), &SERVERS, "60s");
    let names = ["a.example", "x.b.example", "c.example"].map(hello);
    let mut clients: Vec<_> =
        names.iter().cycle().take(9).map(|bytes| (connect(at(LISTEN)), bytes)).collect();
    for (client, bytes) in &mut clients {
        client.write_all(&bytes[..700]).expect("write");
    }
    let accepted = |s: &Status| s.pool(PRIMARY).connections + s.pool(STANDBY).connections == 9;
    proxy.until_status("all are accepted", accepted);
    let finish = |clients: Vec<(TcpStream, &Vec<u8>)>| {
        for (mut client, bytes) in clients {
            client.write_all(&bytes[700..]).expect("write");
            let expected = SERVERS[[1, 2, 0][names.iter().position(|name| name == bytes).expect("known")]].0;
            assert_eq!(answered(&mut client, bytes), expected);
        }
    };
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    assert_adopted(&proxy, &[("protocol", "tcp"), ("state", "accepted")], 9.0);
    finish(clients.drain(..3).collect());
    take_over(&proxy, STANDBY, Signal::SIGSTOP);
    finish(clients.drain(..3).collect());
    let mut reversed = SERVERS;
    reversed.reverse();
    write_settings(&directory.path().join("proxy.toml"), &reversed, "60s");
    reload(&proxy);
    finish(clients);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0, "{}", metrics.show("proxy_lost_flows_total"));
}

/// The names of a listener that the settings have no more are still looked for, and their upstreams are there.
#[test]
fn a_hello_that_comes_when_its_listener_is_gone_finds_its_upstream() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers = naming_servers();
    let proxy = proxy(directory.path(), &SERVERS, "60s");
    let hellos = [("a.example", "exact"), ("x.b.example", "suffix"), ("c.example", "own")];
    let mut clients: Vec<_> =
        hellos.iter().map(|(name, upstream)| (connect(at(LISTEN)), hello(name), *upstream)).collect();
    for (client, bytes, _) in &mut clients {
        client.write_all(&bytes[..700]).expect("write");
    }
    let accepted = |s: &Status| s.pool(PRIMARY).connections + s.pool(STANDBY).connections == 3;
    proxy.until_status("all are accepted", accepted);
    let other = format!(
        "[[listener]]\nname = \"other\"\nbind = [\"tcp://127.0.0.1:8081\"]\nupstream = \"another\"\n\
         [[upstream.another.server]]\naddress = \"{OWN}\"\n"
    );
    fs::write(directory.path().join("proxy.toml"), other).expect("write settings");
    // At the second one it is not the settings any more that the upstreams go on by.
    reload(&proxy);
    reload(&proxy);
    for (mut client, bytes, upstream) in clients {
        client.write_all(&bytes[700..]).expect("write");
        assert_eq!(answered(&mut client, &bytes), upstream);
    }
}

/// What was chosen stays chosen where the server is tried again by an heir or a successor.
#[test]
fn an_upstream_stays_chosen_through_takeovers() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _own = naming_servers().remove(0);
    let hole = servers::BlackHole::start("127.0.0.1:9004");
    let with_hole = [("own", OWN), ("exact", "127.0.0.1:9004"), ("suffix", SUFFIX)];
    let proxy = proxy(directory.path(), &with_hole, "60s");
    let bytes = hello("a.example");
    let mut client = connect(at(LISTEN));
    client.write_all(&bytes).expect("write");
    proxy.until_metric("proxy_upstream_server_connections", &[("upstream", "exact")], 1.0);
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    write_settings(&directory.path().join("proxy.toml"), &[with_hole[2], with_hole[1], with_hole[0]], "60s");
    reload(&proxy);
    proxy.until_metric("proxy_upstream_server_connections", &[("upstream", "exact")], 1.0);
    drop(hole);
    let mut nothing = Vec::new();
    // Its upstream has no other server: it is turned away, and not sent where it does not belong.
    assert!(client.read_to_end(&mut nothing).is_err() && nothing.is_empty(), "{nothing:?}");
}

/// Whatever comes in place of a ClientHello costs its own connection at most.
#[test]
fn hostile_hellos_do_no_harm() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers = naming_servers();
    let proxy = proxy(directory.path(), &SERVERS, "60s");
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..200 {
        let mut bytes = hello("a.example");
        for _ in 0..random.usize(1..8) {
            let place = random.usize(..bytes.len().min(200));
            bytes[place] = random.u8(..);
        }
        bytes.truncate(random.usize(1..bytes.len()));
        let mut client = connect(at(LISTEN));
        client.write_all(&bytes).expect("write");
    }
    // A first record that never ends: 16 KiB of it are enough to know.
    let endless = [&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 40_000]].concat();
    let mut client = connect(at(LISTEN));
    client.write_all(&endless).expect("write");
    assert_eq!(answered(&mut client, &endless), "own");
    let status = proxy.status();
    assert!(status.whole() && status.takeovers == 0);
}

/// OpenSSL on both sides: the certificate tells which server it was.
#[test]
fn openssl_gets_the_certificate_of_the_name_it_asks_for() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers: Vec<_> = SERVERS
        .iter()
        .map(|(name, address)| {
            let place = directory.path().join(name);
            fs::create_dir(&place).expect("make a directory");
            let mut request = program("openssl", &place);
            request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
            request.args([
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
            ]);
            assert!(request.output().expect("run openssl").status.success());
            let mut server = program("openssl", &place);
            server.args([
                "s_server", "-accept", address, "-key", "key.pem", "-cert", "cert.pem", "-quiet", "-www",
            ]);
            Server::start(&mut server, &place, address)
        })
        .collect();
    let _proxy = proxy(directory.path(), &SERVERS, "20s");
    for (name, certificate) in [("a.example", "exact"), ("www.b.example", "suffix"), ("c.example", "own")] {
        let mut client = program("openssl", directory.path());
        let (host, port) = host_and_port(LISTEN);
        client.args(["s_client", "-connect", &format!("{host}:{port}"), "-servername", name, "-brief"]);
        client.stdin(std::process::Stdio::null());
        let output = client.output().expect("run openssl");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let is_it = text.lines().any(|line| line.contains("CN") && line.trim_end().ends_with(certificate));
        assert!(is_it, "{name}: {text}");
    }
}
