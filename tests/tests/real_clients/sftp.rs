//! Downloads by sftp in one session.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use proxy_tests::net::isolate;
use proxy_tests::process::Guard;
use proxy_tests::programs::{find, host_and_port, program, ssh};
use proxy_tests::wait::until;
use proxy_tests::{pattern, process};

use crate::course::Course;
use crate::{DEATHS, LISTEN, SERVER, start_proxy};

/// Bytes.
const STRIDE: u64 = 8 << 20;
/// Bytes of the file, which is downloaded again and again.
const SIZE: u64 = 64 << 20;
/// Kbit/s: a file takes 1.3 s.
const RATE: &str = "400000";

#[test]
fn transfer_goes_on() {
    for death in DEATHS {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().to_owned();
        let mut file = File::create(path.join("file")).expect("create");
        pattern::write(&mut file, SIZE as usize).expect("write");
        let server = ssh::start(&path, SERVER);
        let proxy = start_proxy("tcp");
        Course::new(STRIDE).run(&proxy, "tcp", death, move |course| transfer(course, &path));
        assert_eq!(server.log().matches("Accepted publickey").count(), 1, "one session");
    }
}

fn start_client(directory: &Path) -> Guard {
    let (host, port) = host_and_port(LISTEN);
    let mut sftp = program("sftp", directory);
    sftp.arg("-S").arg(find("ssh")).args(["-b", "-", "-l", RATE, "-P", port]);
    ssh::client_options(&mut sftp);
    sftp.arg(format!("nobody@{host}")).stdin(Stdio::piped()).stdout(Stdio::null());
    Guard(sftp.spawn().expect("start sftp"))
}

fn transfer(course: &Course, directory: &Path) {
    let mut sftp = start_client(directory);
    let mut to = sftp.0.stdin.take().expect("piped");
    let mut copies = Vec::new();
    while course.goes_on() {
        let copy = directory.join(format!("copy-{}", copies.len()));
        writeln!(to, "get {}/file {}", directory.display(), copy.display()).expect("write");
        let mut seen = 0;
        while seen < SIZE {
            let size = || fs::metadata(&copy).map_or(0, |file| file.len());
            let now = until("the copy grows", || Some(size()).filter(|size| *size > seen));
            course.advance(now - seen);
            seen = now;
        }
        copies.push(copy);
    }
    drop(to);
    let end = process::wait_for(&mut sftp.0, proxy_tests::wait::DEADLINE);
    assert!(end.expect("sftp ends").success());
    let verify = |copy| pattern::verify(&mut File::open(copy).expect("open")).expect("read") as u64;
    assert!(copies.iter().map(verify).all(|size| size == SIZE));
}
