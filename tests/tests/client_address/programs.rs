//! Other programs that speak the protocol: HAProxy in front and behind, nginx behind, dnsdist in front and behind.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use proxy_tests::net::{at, isolate};
use proxy_tests::process::Guard;
use proxy_tests::programs::{host_and_port, program, run};
use proxy_tests::wait::until_true;

use super::{ACCEPTS, LISTEN, REJECTED, SERVER, proxy};

/// Where the program in front of the proxy listens.
const FRONT: &str = "127.0.0.1:8079";
/// The client.
const CLIENT: &str = "127.0.0.5";

/// Starts a server, and waits until it listens.
#[track_caller]
fn start(mut command: Command, address: &str) -> Guard {
    let mut child = Guard(command.stdout(Stdio::null()).spawn().expect("start a server"));
    until_true("the server listens", || {
        assert!(child.0.try_wait().expect("wait").is_none(), "{command:?} has ended");
        TcpStream::connect(at(address)).is_ok()
    });
    child
}

#[track_caller]
fn haproxy(directory: &Path, name: &str, settings: &str, address: &str) -> Guard {
    let timeouts = "defaults\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n";
    fs::write(directory.join(name), format!("{timeouts}{settings}")).expect("write settings");
    let mut haproxy = program("haproxy", directory);
    haproxy.args(["-db", "-f", name]);
    start(haproxy, address)
}

#[track_caller]
fn nginx(directory: &Path) -> Guard {
    let settings = format!(
        "daemon off; master_process off; pid pid; error_log stderr;
         events {{}}
         http {{
             access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;
             server {{
                 listen {SERVER} proxy_protocol;
                 return 200 '$proxy_protocol_addr $proxy_protocol_server_addr:$proxy_protocol_server_port';
             }}
         }}"
    );
    fs::write(directory.join("nginx.conf"), settings).expect("write settings");
    let mut nginx = program("nginx", directory);
    nginx.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(directory);
    start(nginx, SERVER)
}

/// HAProxy tells the proxy, the proxy tells HAProxy or nginx, in both versions; they answer whom they were told of.
#[test]
fn haproxy_and_nginx_know_the_client() {
    for version in ["v1", "v2"] {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let directory = directory.path();
        let option = if version == "v1" { "send-proxy" } else { "send-proxy-v2" };
        let front = format!("listen front\n mode tcp\n bind {FRONT}\n server proxy {LISTEN} {option}\n");
        let _front = haproxy(directory, "front.cfg", &front, FRONT);
        let proxy = proxy(ACCEPTS, &format!(r#"send_proxy = "{version}""#)).start();
        let ask = || {
            let mut curl = program("curl", directory);
            curl.args(["--silent", "--show-error", "--fail", "--interface", CLIENT]);
            run(curl.arg(format!("http://{FRONT}/")))
        };
        let back = format!(
            "frontend back\n mode http\n bind {SERVER} accept-proxy\n http-request return status 200 \
             content-type text/plain lf-string \"%[src] %[dst]:%[dst_port]\"\n"
        );
        let server = haproxy(directory, "back.cfg", &back, SERVER);
        assert_eq!(ask(), format!("{CLIENT} {FRONT}"));
        drop(server);
        let _server = nginx(directory);
        until_true("nginx answers", || ask() == format!("{CLIENT} {FRONT}"));
        assert_eq!(proxy.metrics().sum(REJECTED, &[("reason", "header_invalid")]), 0.0);
    }
}

/// dnsdist tells the proxy, and the proxy tells dnsdist, which answers by whom it was told of.
#[test]
fn dnsdist_knows_the_client() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let directory = directory.path();
    let dnsdist = |name: &str, settings: &str, address: &str| {
        let acl = "setACL({'0.0.0.0/0'})\nsetSecurityPollSuffix('')\n";
        fs::write(directory.join(name), format!("{acl}setLocal('{address}')\n{settings}")).expect("write");
        let mut dnsdist = program("dnsdist", directory);
        dnsdist.args(["--supervised", "--disable-syslog", "-C", name]).stdin(Stdio::null());
        start(dnsdist, address)
    };
    let back = format!(
        "setProxyProtocolACL({{'127.0.0.0/8'}})
         clients = newNMG()
         clients:addMask('{CLIENT}/32')
         addAction(NetmaskGroupRule(clients), SpoofAction('192.0.2.55'))
         addAction(AllRule(), SpoofAction('192.0.2.66'))"
    );
    let _back = dnsdist("back.conf", &back, SERVER);
    let proxy = proxy(ACCEPTS, r#"send_proxy = "v2""#).start();
    let front = format!("newServer({{address='{LISTEN}', useProxyProtocol=true}}):setUp()");
    let _front = dnsdist("front.conf", &front, FRONT);
    let (host, port) = host_and_port(FRONT);
    let ask = |from: &str| {
        let mut dig = program("dig", directory);
        dig.args(["-b", from, "-p", port, &format!("@{host}"), "+short", "+time=5", "+tries=2"]);
        run(dig.args(["example.test", "A"]))
    };
    assert_eq!(ask(CLIENT), "192.0.2.55\n");
    assert_eq!(ask("127.0.0.6"), "192.0.2.66\n");
    assert!(proxy.metrics().sum("proxy_udp_flows_total", &[]) >= 1.0);
    // What sends no header is not answered.
    let bare = UdpSocket::bind("127.0.0.1:0").expect("bind");
    bare.send_to(b"a query without a header", LISTEN).expect("send");
    proxy.until_metric("proxy_udp_datagrams_dropped_total", &[("reason", "header")], 1.0);
}
