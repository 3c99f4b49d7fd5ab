//! A download by curl from nginx, every byte checked.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use proxy_tests::net::isolate;
use proxy_tests::pattern;
use proxy_tests::process::Guard;
use proxy_tests::programs::{Server, program};
use proxy_tests::wait::until_true;

use crate::course::{Course, Paced};
use crate::{DEATHS, LISTEN, SERVER, start_proxy};

/// Bytes: more than sockets, the proxy's pipe and curl hold, so that the server is still at it.
const STRIDE: u64 = 24 << 20;
/// As [`Paced`] wants.
const LENGTH: usize = 6 * STRIDE as usize;

#[test]
fn download_goes_on() {
    for death in DEATHS {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().to_owned();
        let mut file = File::create(path.join("file")).expect("create");
        pattern::write(&mut file, LENGTH).expect("write");
        let _server = start_server(&path);
        let proxy = start_proxy("tcp");
        let requests = path.join("requests.log");
        Course::new(STRIDE).run(&proxy, "tcp", death, move |course| download(course, &path));
        let whole = format!("200 {}\n", LENGTH);
        until_true("nginx has sent it in one answer", || {
            fs::read_to_string(&requests).expect("log") == whole
        });
    }
}

/// Every path that nginx would otherwise have below /var.
fn start_server(directory: &Path) -> Server {
    let settings = format!(
        "daemon off; master_process off; pid pid; error_log stderr;
         events {{}}
         http {{
             log_format short '$status $body_bytes_sent'; access_log requests.log short;
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;
             server {{ listen {SERVER}; root .; }}
         }}"
    );
    fs::write(directory.join("nginx.conf"), settings).expect("write settings");
    let mut nginx = program("nginx", directory);
    nginx.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(directory);
    Server::start(&mut nginx, directory, SERVER)
}

fn download(course: &Course, directory: &Path) {
    let mut command = program("curl", directory);
    command.args(["--silent", "--show-error", "--fail"]).arg(format!("http://{LISTEN}/file"));
    let mut curl = Guard(command.stdout(Stdio::piped()).spawn().expect("start curl"));
    let stream = curl.0.stdout.take().expect("piped");
    let size = pattern::verify(&mut Paced { stream, course }).expect("read");
    assert_eq!(size, LENGTH);
    assert!(curl.0.wait().expect("wait").success());
}
