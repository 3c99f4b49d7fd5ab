use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    os::unix::fs::OpenOptionsExt as _,
    thread,
};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(50);

fn target(address: SocketAddr) -> Target {
    Target { upstream: "db".into(), server: "one".into(), reach: Reach::Ip(address) }
}

/// A server that sends this to each client, once it has read something if it is to.
fn server(answer: &'static [u8], reads: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if reads {
                let _ = stream.read(&mut [0; 1024]);
            }
            let _ = stream.write_all(answer);
        }
    });
    address
}

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn error(result: Result<(), Failure>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_stream_is_connected_to_asked_and_understood() {
    let tcp = |send: &str, expect: &str| Check::Tcp { send: send.into(), expect: expect.into() };
    let pong = target(server(b"+PONG\r\n", true));
    assert_eq!(check(&tcp("", ""), &pong, LIMIT).await, Ok(()));
    assert_eq!(check(&tcp("PING\r\n", "+PONG"), &pong, LIMIT).await, Ok(()));
    let other = error(check(&tcp("PING\r\n", "+READY"), &pong, LIMIT).await);
    assert!(other.contains("lacks what is expected") && other.contains(r"+PONG\r\n"), "{other}");
    let refused = error(check(&tcp("", ""), &target(nobody()), LIMIT).await);
    assert!(refused.contains("cannot connect to 127.0.0.1:") && refused.contains("refused"), "{refused}");
    let silent = target(server(b"x", true));
    assert_eq!(check(&tcp("", "never"), &silent, SHORT).await, Err(Failure::Timeout(SHORT)));
}

#[tokio::test]
async fn a_unix_socket_is_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let reach = Reach::Unix(path.clone());
    let target = Target { upstream: "db".into(), server: "one".into(), reach };
    let tcp = Check::Tcp { send: Vec::new(), expect: b"hello".into() };
    assert!(error(check(&tcp, &target, LIMIT).await).contains("cannot connect to /"));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"hello");
        }
    });
    assert_eq!(check(&tcp, &target, LIMIT).await, Ok(()));
    let is_told = script(r#"test "$1 $2" = "$PROXY_ADDRESS 0" && test -S "$1""#);
    assert_eq!(check(&is_told, &target, LIMIT).await, Ok(()));
}

#[tokio::test]
async fn a_status_is_one_of_those() {
    let http = |status| Check::Http { path: "/health".into(), host: None, status };
    let well = target(server(b"HTTP/1.1 204 No Content\r\n\r\n", true));
    assert_eq!(check(&http((200, 299)), &well, LIMIT).await, Ok(()));
    let other = error(check(&http((200, 200)), &well, LIMIT).await);
    assert!(other.contains("204 No Content") && other.contains("from 200 to 200"), "{other}");
    let garbage = target(server(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", false));
    assert!(error(check(&http((200, 299)), &garbage, LIMIT).await).contains("by HTTP"));
}

#[tokio::test]
async fn a_datagram_is_answered_or_refused() {
    let udp = |expect: &str| Check::Udp { send: b"ping".into(), expect: expect.into() };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let pong = target(socket.local_addr().unwrap());
    thread::spawn(move || {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(b"pong", peer);
        }
    });
    assert_eq!(check(&udp("pong"), &pong, LIMIT).await, Ok(()));
    assert_eq!(check(&udp(""), &pong, LIMIT).await, Ok(()));
    assert!(error(check(&udp("ready"), &pong, LIMIT).await).contains("pong"));
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for expect in ["", "pong"] {
        assert!(error(check(&udp(expect), &target(closed), LIMIT).await).contains("refused"));
    }
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = target(silent.local_addr().unwrap());
    assert_eq!(check(&udp(""), &silent, SHORT).await, Ok(()), "nobody complains");
}

fn script(text: &str) -> Check {
    Check::Exec { command: ["/bin/sh", "-c", text, "check"].map(str::to_owned).into() }
}

#[tokio::test]
async fn a_program_has_to_exit_with_0() {
    let address = target("[::1]:53".parse().unwrap());
    let all =
        r#"test "$* $PROXY_UPSTREAM $PROXY_SERVER $PROXY_ADDRESS $PROXY_PORT" = "::1 53 db one ::1 53""#;
    assert_eq!(check(&script(all), &address, LIMIT).await, Ok(()));
    assert_eq!(check(&script(r#"test -z "$CARGO_MANIFEST_DIR""#), &address, LIMIT).await, Ok(()));
    let said = error(check(&script("echo first; echo 'last line' >&2; exit 3"), &address, LIMIT).await);
    assert!(said.contains("exit status: 3: last line"), "{said}");
    let missing = Check::Exec { command: vec!["/nonexistent".into()] };
    assert!(error(check(&missing, &address, LIMIT).await).contains("cannot start /nonexistent"));
    let chatty = script("while :; do echo 'and so on and so on and so on and so on'; done");
    assert!(error(check(&chatty, &address, LIMIT).await).contains("too much"));
}

/// And what it has started ends with it.
#[tokio::test]
async fn a_program_that_hangs_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    let fifo = path.to_str().unwrap();
    // Whoever holds an end of the fifo is alive.
    let hanging = script(&format!("mkfifo {fifo}; sleep 100 <> {fifo} & sleep 101"));
    let (limit, address) = (Duration::from_millis(300), target("127.0.0.1:1".parse().unwrap()));
    assert_eq!(check(&hanging, &address, limit).await, Err(Failure::Timeout(limit)));
    let mut end = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    while end.read(&mut [0]).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
