//! A Redis client that pipelines.

use std::io::{BufRead, BufReader, Write};

use proxy_tests::clients::connect;
use proxy_tests::net::{at, isolate};
use proxy_tests::programs::{Server, host_and_port, program};

use crate::course::Course;
use crate::{DEATHS, LISTEN, SERVER, start_proxy};

/// Commands.
const STRIDE: u64 = 100_000;
/// Commands sent at once. One batch more is sent before the replies to one are read.
const BATCH: u64 = 5000;

#[test]
fn pipeline_goes_on() {
    for death in DEATHS {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut redis = program("redis-server", directory.path());
        let (host, port) = host_and_port(SERVER);
        redis.args(["--bind", host, "--port", port, "--save", "", "--daemonize", "no"]);
        let _server = Server::start(&mut redis, directory.path(), SERVER);
        let proxy = start_proxy("tcp");
        Course::new(STRIDE).run(&proxy, "tcp", death, pipeline);
    }
}

/// Counts: a command that is lost, doubled or out of order shows in a reply.
fn pipeline(course: &Course) {
    let mut to = connect(at(LISTEN));
    let mut from = BufReader::new(to.try_clone().expect("clone"));
    let mut reply = || {
        let mut line = String::new();
        from.read_line(&mut line).expect("a reply");
        line
    };
    to.write_all(b"CLIENT ID\r\n").expect("write");
    let id = reply();
    let batch = "INCR counter\r\n".repeat(BATCH as usize);
    let mut replies = |first| {
        for count in first + 1..=first + BATCH {
            assert_eq!(reply(), format!(":{count}\r\n"));
        }
    };
    to.write_all(batch.as_bytes()).expect("write");
    while course.goes_on() {
        to.write_all(batch.as_bytes()).expect("write");
        replies(course.done());
        course.advance(BATCH);
    }
    replies(course.done());
    to.write_all(b"CLIENT ID\r\n").expect("write");
    assert_eq!(reply(), id, "the server has seen one connection");
}
