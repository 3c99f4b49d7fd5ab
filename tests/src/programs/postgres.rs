//! PostgreSQL and its client.

use std::path::Path;
use std::process::Command;

use super::{Server, host_and_port, program, run};
use crate::wait::until_true;

/// A server with a cluster of its own in the directory.
#[track_caller]
pub fn start(directory: &Path, address: &str) -> Server {
    let flags = ["--pgdata=data", "--auth=trust", "--username=postgres", "--no-sync"];
    run(program("initdb", directory).args(flags));
    let (host, port) = host_and_port(address);
    let sockets = directory.to_str().expect("text");
    let mut postgres = program("postgres", directory);
    postgres.args(["-D", "data", "-h", host, "-p", port, "-k", sockets, "-c", "fsync=off"]);
    let server = Server::start(&mut postgres, directory, address);
    // It listens before it takes sessions.
    until_true("PostgreSQL is ready", || server.log().contains("ready to accept connections"));
    server
}

/// A client that prints bare values, one a line.
pub fn psql(directory: &Path, address: &str) -> Command {
    let (host, port) = host_and_port(address);
    let mut psql = program("psql", directory);
    psql.args(["-h", host, "-p", port, "-U", "postgres", "-d", "postgres"]);
    psql.args(["--quiet", "--no-align", "--tuples-only", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]);
    psql
}
