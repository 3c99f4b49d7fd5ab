//! OpenSSH's server and its clients.

use std::path::Path;
use std::process::Command;

use super::{Server, host_and_port, program, run};

/// A server for one key, which is made in the directory: the host's is the client's too.
#[track_caller]
pub fn start(directory: &Path, address: &str) -> Server {
    run(program("ssh-keygen", directory).args(["-q", "-t", "ed25519", "-N", "", "-f", "key"]));
    let (host, port) = host_and_port(address);
    let key = directory.join("key").display().to_string();
    let mut sshd = program("sshd", directory);
    sshd.args(["-D", "-e", "-f", "/dev/null", "-p", port]);
    options(&mut sshd, &[("ListenAddress", host), ("HostKey", &key), ("PidFile", "none")]);
    options(&mut sshd, &[("AuthorizedKeysFile", &format!("{key}.pub")), ("StrictModes", "no")]);
    options(&mut sshd, &[("Subsystem", "sftp internal-sftp"), ("UsePAM", "no")]);
    Server::start(&mut sshd, directory, address)
}

/// What ssh and sftp need to be let in.
pub fn client_options(client: &mut Command) {
    client.args(["-q", "-F", "/dev/null", "-i", "key"]);
    options(client, &[("StrictHostKeyChecking", "no"), ("UserKnownHostsFile", "/dev/null")]);
}

fn options(command: &mut Command, options: &[(&str, &str)]) {
    for (name, value) in options {
        command.arg("-o").arg(format!("{name}={value}"));
    }
}
