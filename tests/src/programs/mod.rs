//! Programs of Debian as children of a test, with a directory of their own and nothing else.

pub mod postgres;
pub mod ssh;

use std::env;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::at;
use crate::process::{Guard, wait_for};
use crate::sys;
use crate::wait::until_true;

/// How long a server may take to end when it is told to.
const ENDS: Duration = Duration::from_secs(5);

/// A program, to be run in this directory as a user that is not root, which is what PostgreSQL and sshd
/// want. In a user namespace: outside of it the user is still root, who may read what was fetched to a
/// directory that is closed to others.
#[track_caller]
pub fn program(name: &str, directory: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-user=65534", "--map-group=65534", "--"]).arg(find(name));
    command.current_dir(directory).env("HOME", directory).stdin(Stdio::null());
    if let Some(fetched) = env::var_os("PROXY_TEST_LIBRARIES").filter(|path| !path.is_empty()) {
        command.env("LD_LIBRARY_PATH", fetched);
    }
    sys::die_with_thread(&mut command);
    command
}

/// Where the program is: in the PATH, or where Debian puts servers and PostgreSQL. `cargo xtask test` puts
/// all of that in the PATH, and what it has fetched.
#[track_caller]
pub fn find(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = postgres().chain(env::split_paths(&path)).chain(["/usr/sbin".into()]);
    let found = directories.map(|directory| directory.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no {name}: run the tests by cargo xtask test, which fetches it"))
}

fn postgres() -> impl Iterator<Item = PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions.filter_map(|version| Some(version.ok()?.path().join("bin")))
}

/// Runs a program to its end. Answers what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("start a program");
    let (said, complaint) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}, {complaint}", output.status);
    String::from_utf8(said).expect("text")
}

/// The two words of an address, as programs want them.
pub fn host_and_port(address: &str) -> (&str, &str) {
    address.rsplit_once(':').expect("an address")
}

/// A server, ended when it is dropped; a failing test prints its log.
pub struct Server {
    child: Guard,
    log: PathBuf,
}

impl Server {
    /// Starts it, and waits until it accepts connections at this address. It logs to a file in the directory.
    #[track_caller]
    pub fn start(command: &mut Command, directory: &Path, address: &str) -> Self {
        let log = directory.join("server.log");
        let file = File::create(&log).expect("create a log");
        command.stdout(file.try_clone().expect("clone")).stderr(file);
        let mut server = Self { child: Guard(command.spawn().expect("start a server")), log };
        until_true("the server listens", || {
            let end = server.child.0.try_wait().expect("wait");
            assert!(end.is_none(), "{command:?}: {end:?}");
            TcpStream::connect(at(address)).is_ok()
        });
        server
    }

    /// Its process: what starts it becomes it.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // All of them end at once by it, with the processes that they have made.
        let _ = kill(Pid::from_raw(self.child.pid()), Signal::SIGQUIT);
        wait_for(&mut self.child.0, ENDS);
        if thread::panicking() {
            eprintln!("--- log of the server:\n{}---", self.log());
        }
    }
}
