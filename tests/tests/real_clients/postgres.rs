//! A PostgreSQL session in the middle of a transaction.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use proxy_tests::net::isolate;
use proxy_tests::process::Guard;
use proxy_tests::programs::{postgres, run};

use crate::course::Course;
use crate::{DEATHS, LISTEN, SERVER, start_proxy};

/// Rows, each inserted by a statement of its own.
const STRIDE: u64 = 300;

#[test]
fn transaction_goes_on() {
    for death in DEATHS {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().to_owned();
        let _server = postgres::start(&path, SERVER);
        let proxy = start_proxy("tcp");
        Course::new(STRIDE).run(&proxy, "tcp", death, move |course| session(course, &path));
    }
}

/// One transaction, from the first row to the last; then another session looks at what it did.
fn session(course: &Course, directory: &Path) {
    let mut command = postgres::psql(directory, LISTEN);
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
    assert_eq!(run(postgres::psql(directory, SERVER).arg(question)), format!("{rows}|{sum}|{sum}\n"));
}
