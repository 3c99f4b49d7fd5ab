//! A PostgreSQL session in the middle of a transaction.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use proxy_tests::net::isolate;
use proxy_tests::process::Guard;

use crate::course::Course;
use crate::programs::{Server, program, run};
use crate::{DEATHS, LISTEN, SERVER, host_and_port, start_proxy};

/// Rows, each inserted by a statement of its own.
const STRIDE: u64 = 300;

#[test]
fn transaction_goes_on() {
    for death in DEATHS {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().to_owned();
        let _server = start_server(&path);
        let proxy = start_proxy("tcp");
        Course::new(STRIDE).run(&proxy, "tcp", death, move |course| session(course, &path));
    }
}

fn start_server(directory: &Path) -> Server {
    let flags = ["--pgdata=data", "--auth=trust", "--username=postgres", "--no-sync"];
    run(program("initdb", directory).args(flags));
    let (host, port) = host_and_port(SERVER);
    let sockets = directory.to_str().expect("text");
    let mut postgres = program("postgres", directory);
    postgres.args(["-D", "data", "-h", host, "-p", port, "-k", sockets, "-c", "fsync=off"]);
    Server::start(&mut postgres, directory)
}

fn psql(directory: &Path, address: &str) -> Command {
    let (host, port) = host_and_port(address);
    let mut psql = program("psql", directory);
    psql.args(["-h", host, "-p", port, "-U", "postgres", "-d", "postgres"]);
    psql.args(["--quiet", "--no-align", "--tuples-only", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]);
    psql
}

/// One transaction, from the first row to the last; then another session looks at what it did.
fn session(course: &Course, directory: &Path) {
    let mut command = psql(directory, LISTEN);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start psql");
    let mut psql = Guard(child);
    let mut to = psql.0.stdin.take().expect("piped");
    let mut answers = BufReader::new(psql.0.stdout.take().expect("piped")).lines();
    writeln!(to, "create table t (n int, filling text); begin;").expect("write");
    let mut session = None;
    while course.goes_on() {
        let row = course.done();
        writeln!(to, "insert into t values ({row}, repeat('x', {row})) returning n;").expect("write");
        writeln!(to, "select pg_backend_pid(), txid_current();").expect("write");
        let mut answer = || answers.next().expect("an answer").expect("read");
        assert_eq!(answer(), row.to_string());
        let (before, now) = (session.clone(), answer());
        assert_eq!(session.get_or_insert(now.clone()), &now, "the same backend and transaction: {before:?}");
        course.advance(1);
    }
    writeln!(to, "commit;").expect("write");
    drop(to);
    assert!(psql.0.wait().expect("wait").success());
    assert!(answers.next().is_none(), "no answer without a question");
    let rows = course.done();
    let sum = rows * (rows - 1) / 2;
    let question = "--command=select count(*), sum(n), sum(length(filling)) from t";
    assert_eq!(run(self::psql(directory, SERVER).arg(question)), format!("{rows}|{sum}|{sum}\n"));
}
